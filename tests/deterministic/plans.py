"""Plans: who does what at both ends of a connection, and who runs when. ``run`` carries one out.

A plan is made of numbers and names only. What a step does depends on what there is when its turn
comes: it picks one of the streams that its side has.
"""

from __future__ import annotations

import dataclasses
import random
from typing import NamedTuple

from .link import Cuts
from .world import Choices, Preemptions, Seeded

__all__ = ["ENDS", "PATIENCE", "STEPS", "Plan", "Step", "random_plan"]

#: Names of steps, the commoner ones more than once.
STEPS = (
    *("open", "open", "open", "open_finished"),
    *("accept", "accept", "accept", "accept"),
    *("send", "send", "sendall", "sendall", "sendall", "sendall"),
    *("recv", "recv", "recv", "recv", "recv_whole", "peek", "poll"),
    *("ask", "ask", "answer", "answer"),
    *("finish", "finish", "close", "close", "shut_read", "reset"),
    *("prefer", "pause", "poll_session", "watch"),
)
#: Names of steps that end a session, or begin to.
ENDS = ("go_away", "drain", "close_session", "kill_session", "break_connection")

#: Seconds; ``None`` waits for ever and 0 not at all.
PATIENCE: tuple[float | None, ...] = (None, None, None, 0.0, 0.002, 0.03)

_CUTS = Cuts(100, 40, 40)


class Step(NamedTuple):
    """One thing that an application does."""

    name: str
    pick: int = 0  #: which of the streams
    size: int = 1  #: bytes, where there are any
    patience: int = 0  #: index into ``PATIENCE``


@dataclasses.dataclass(frozen=True)
class Plan:
    """One run, to its last detail."""

    players: tuple[tuple[int, tuple[Step, ...]], ...]  #: each a side, and its steps in order
    version: int = 2
    window: int = 60
    cuts: Cuts = _CUTS
    first: int = 0  #: the side that closes first in the end
    lines: bool = False
    punctual: bool = False
    preemptions: tuple[tuple[int, int], ...] = ()
    turns: tuple[int, ...] = ()
    seed: tuple[int, int] | None = None  #: instead of these: ``Seeded``

    def choices(self) -> Choices:
        if self.seed is not None:
            return Seeded(*self.seed)
        return Preemptions(self.preemptions, self.turns)


def random_plan(seed: int, *, lines: bool = False) -> Plan:
    """The plan with that number."""
    rng = random.Random(seed)
    window = rng.choice([8, 20, 60, 200])

    def step(names: tuple[str, ...]) -> Step:
        size = rng.choice([rng.randint(1, 8), rng.randint(1, 2 * window)])
        return Step(rng.choice(names), rng.randrange(6), size, rng.randrange(len(PATIENCE)))

    ends = rng.random() < 0.3
    names = STEPS + ENDS if ends else STEPS
    players = [
        (number % 2, tuple(step(names) for _ in range(rng.randint(1, 10))))
        for number in range(rng.randint(2, 6))
    ]
    shares = [1, 7, 50, 1000]
    punctual = rng.random() < 0.5
    cuts = Cuts(
        rng.choice([1, 9, 30, 100, 1000]),
        rng.choice(shares),
        rng.choice(shares),
        rng.choice([0, 0, 20]),
        spins=not punctual and rng.random() < 0.5,
    )
    every = rng.choice([3, 10, 30, 100, 1000])
    return Plan(
        players=tuple(players),
        version=rng.choice([1, 2, 2]),
        window=window,
        cuts=cuts,
        first=rng.randrange(2),
        lines=lines,
        punctual=punctual,
        seed=(seed, every * (20 if lines else 1)),
    )
