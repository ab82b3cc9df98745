"""What an operation may cost, counted and not timed: a change that adds a step fails here.

The costs are those of both ends together, in one process, over many operations, so that an
interleaving which takes a step more once in a while does not matter. A bound that fails after a
change to the engine is no accident: either the change is wrong, or the cost is worth it and the
bound is to be raised knowingly.
"""

from __future__ import annotations

import pytest

import muxado
from benchmarks.parts import WARM_UP, Connection, Kind
from benchmarks.work import KINDS
from muxado.engine import writer

from ..helpers.crew import GUARD, Crew
from ..helpers.meter import Frames, Meter
from ..helpers.support import DATA, Sessions, callers_waiting, frame, tcp_pair, until

MIB = 2**20


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> Meter:
    return Meter(monkeypatch)


class Costs:
    """Runs a kind of the benchmarks' work over a pair of counted sessions."""

    def __init__(self, meter: Meter, sessions: Sessions, crew: Crew) -> None:
        self._meter = meter
        self._sessions = sessions
        self._crew = crew

    def __call__(
        self,
        name: str,
        amount: int,
        *,
        operations: int | None = None,
        streams: int = 1,
        workers: int = 0,
    ) -> dict[str, float]:
        """The costs of each of ``operations``, as a rule one for each unit of ``amount``."""
        kind = KINDS[name]
        client, server = self._meter.sessions(*tcp_pair())
        self._sessions.keep(client, server)
        for _ in range(workers or 1):
            self._crew.start(self._serve, server, kind, workers)
        kind.client(client.open, max(streams, amount // 10), streams)
        self._meter.reset()
        kind.client(client.open, amount, streams)
        costs = self._meter.per(operations or amount)
        client.close()
        server.wait(GUARD)  # the last handlers have heard of the last ends
        return costs

    def _serve(self, server: muxado.Session, kind: Kind, workers: int) -> None:
        def handle(connection: Connection) -> None:
            kind.handler(connection)
            connection.close()

        for stream in server:
            if workers:
                handle(stream)
            else:
                self._crew.start(handle, stream)


@pytest.fixture
def costs(meter: Meter, sessions: Sessions, crew: Crew, monkeypatch: pytest.MonkeyPatch) -> Costs:
    # Which FIN has waited for too long must not depend on how busy the machine is.
    monkeypatch.setattr(writer, "_DELAY", 0.1)
    return Costs(meter, sessions, crew)


@pytest.mark.parametrize(
    ("name", "amount", "options", "least", "bounds"),
    [
        pytest.param(
            "rtt",
            2_000,
            {"operations": 2_000 + WARM_UP},
            1.9,  # one frame each way
            # Each end: one frame, one write; wait, and read. Nobody is woken.
            {
                "frames": 2.05,
                "send": 2.05,
                "system calls": 6.3,
                "wake-up": 0.1,
                "turn of the lock": 8.2,
            },
            id="round trip",
        ),
        pytest.param(
            "open",
            400,
            {},
            3.9,  # with SYN, the echo, and two with FIN, which go with those of the next stream
            {"frames": 4.1, "send": 2.5, "system calls": 8.5, "wake-up": 1.6},
            id="open, a thread for each",
        ),
        pytest.param(
            "open",
            800,
            {"streams": 8},
            3.9,
            {"frames": 4.1, "send": 2.5, "system calls": 7, "wake-up": 3.2},
            id="open, 8 callers, a thread for each",
        ),
        pytest.param(
            "open",
            400,
            {"workers": 4},
            3.9,
            # The worker that has come to a stream's end has another one read meanwhile.
            {"frames": 4.1, "send": 2.5, "system calls": 8, "wake-up": 2.5},
            id="open, waiting workers",
        ),
        pytest.param(
            "open",
            800,
            {"streams": 8, "workers": 16},
            3.9,
            {"frames": 4.1, "send": 2.5, "system calls": 5, "wake-up": 3.5},
            id="open, 8 callers, waiting workers",
        ),
        pytest.param(
            "bulk",
            48 * MIB,
            {"operations": 48},
            1,
            # Of a MiB: frames of 128 KiB, window updates, and reads of what is there.
            {"frames": 16, "send": 16, "system calls": 50, "wake-up": 0.5},
            id="bulk, a MiB",
        ),
        pytest.param(
            "bulk",
            48 * MIB,
            {"operations": 48, "streams": 8},
            1,
            # A sender hears of the end of its MiB, a reader of a whole frame.
            {"frames": 30, "send": 24, "system calls": 90, "wake-up": 25},
            id="bulk, 8 at once, a MiB",
        ),
        pytest.param(
            "messages",
            20_000,
            {},
            0.9,
            {
                "frames": 1.02,
                "send": 1.02,
                "system calls": 2,
                "wake-up": 0.1,
                "turn of the lock": 2.8,  # two to send; the receiver's depend on who runs when
            },
            id="small messages, one way",
        ),
    ],
)
def test_what_an_operation_costs(
    costs: Costs,
    name: str,
    amount: int,
    options: dict[str, int],
    least: float,
    bounds: dict[str, float],
) -> None:
    # Who is awake when something comes is the system's choice, so a run may be an unlucky one.
    for _ in range(3):
        spent = costs(name, amount, **options)
        assert spent["frames"] >= least, "the counting is wrong"
        over = {what: spent[what] for what, bound in bounds.items() if spent[what] > bound}
        if not over:
            break
    assert not over, f"more than {bounds}; in all {spent}"


def test_wake_ups_are_counted(meter: Meter, sessions: Sessions, crew: Crew) -> None:
    """A thread that sleeps while another reads for it is woken by that one."""
    client, server = meter.sessions(*tcp_pair())
    sessions.keep(client, server)
    with client.open() as first, client.open() as second:
        first.sendall(b"1")
        second.sendall(b"2")
        accepted = [server.accept()[0] for _ in range(2)]
        waits = [crew.start(each.recv, 1) for each in (first, second)]
        until(lambda: callers_waiting(client) == 2)
        meter.reset()
        for stream in accepted:
            stream.sendall(b"x")
        assert [wait.result() for wait in waits] == [b"x", b"x"]
        assert meter.per(1)["wake-up"] >= 1
        for stream in accepted:
            stream.close()


def test_frames_are_counted_in_whatever_pieces_they_come() -> None:
    data = b"".join(frame(DATA, 0, 3, bytes(size)) for size in (0, 1, 7, 300))
    for step in (1, 2, 5, len(data)):
        frames = Frames()
        for at in range(0, len(data), step):
            frames.feed(memoryview(data)[at : at + step])
        assert frames.count == 4
