"""Faults put into the engine, the transport and the protocol are found, and found again."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from muxado.engine.core import Core
from muxado.engine.reading import ReadSeat
from muxado.engine.sending import Sender
from muxado.engine.waiting import Waiter, WaitQueue
from muxado.engine.writing import Turn
from muxado.protocol import ReceiveBuffer, StreamState

from . import run
from .link import Memory
from .plans import Plan, random_plan
from .run import perform
from .world import World

# A run that fails kills its threads wherever they are, and leaves what they have open.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

PLANS = 1500
"""Among so many plans there must be one that shows the fault; most show within the first ten."""


def failure(plan: Plan) -> str:
    try:
        perform(plan)
    except Exception as error:
        return re.sub(r"(client|server)-\d+", "", str(error))  # sessions are numbered on and on
    return ""


def found(number: Callable[[str], bool]) -> None:
    """One of the plans must fail, and fail in the same way when it is carried out again."""
    for seed in range(PLANS):
        plan = random_plan(seed)
        text = failure(plan)
        if text and number(text):
            again = failure(plan)
            assert again.partition("\n")[0] == text.partition("\n")[0]
            return
    raise AssertionError("no plan shows it")


def test_a_release_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """One wake-up in a run does not arrive; that nobody else makes up for it must show."""

    class Lossy(World):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.lose = 7

    monkeypatch.setattr(run, "World", Lossy)
    found(bool)


def forget(monkeypatch: pytest.MonkeyPatch, concerns: Callable[[WaitQueue], bool]) -> None:
    """Nobody who stands in a queue that ``concerns`` picks is ever woken."""
    wake = Waiter.wake

    def wake_others(waiter: Waiter) -> None:
        if waiter.queue is None or not concerns(waiter.queue):
            wake(waiter)

    monkeypatch.setattr(Waiter, "wake", wake_others)


def queues_of(monkeypatch: pytest.MonkeyPatch, kind: Any, name: str) -> Callable[[Any], bool]:
    """Tells which queues are attributes ``name`` of objects of type ``kind`` made from now on."""
    made: list[Any] = []
    init = kind.__init__

    def remember(self: Any, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        made.append(self)

    monkeypatch.setattr(kind, "__init__", remember)
    return lambda queue: any(getattr(each, name) is queue for each in made)


def test_who_accepts_is_not_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch, queues_of(monkeypatch, Core, "acceptors"))
    found(lambda text: text.startswith("accept of side"))


def test_who_sends_is_not_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch, queues_of(monkeypatch, StreamState, "writers"))
    found(lambda text: text.startswith("send of side"))


def test_who_reads_is_not_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch, queues_of(monkeypatch, StreamState, "readers"))
    found(lambda text: text.startswith("recv of side"))


def test_the_seat_is_not_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader thread makes up for it, and is found to have had something to make up for."""
    monkeypatch.setattr(ReadSeat, "_hand_over_locked", lambda _: None)
    found(lambda text: text.startswith("a reader had to be rescued"))


def test_who_leads_is_not_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Memory, "wake", lambda _: None)
    found(lambda text: "wait" in text.partition("\n")[0])


def test_a_byte_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    drop = ReceiveBuffer._drop

    def lose(buffer: ReceiveBuffer, count: int) -> None:
        drop(buffer, count + (10 < count < buffer.size))

    monkeypatch.setattr(ReceiveBuffer, "_drop", lose)
    found(lambda text: "other bytes than were sent" in text)


def test_a_turn_is_not_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A send that gives up leaves its bytes in the schedule."""
    retire = Sender._retire_locked

    def leave(sender: Sender, turn: Turn) -> None:
        if turn.sent:
            retire(sender, turn)
        else:
            turn.thread = 0

    monkeypatch.setattr(Sender, "_retire_locked", leave)
    found(bool)
