"""Who reads the connection: how long a leader looks before it sleeps, and who goes first.

And what may wait to be written, for a frame to ride with.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

import muxado
from muxado.engine import read_seat, write_seat
from muxado.engine.shared import BRIEF, RIDES

from ..helpers.crew import GUARD, Crew, Task
from ..helpers.support import RawPeer, frame, until, waiting

DATA, FIN, SYN = 1, 0x1, 0x2


def test_a_leader_that_looks_in_vain_stops_looking(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = raw()
    peer.send(frame(DATA, SYN, 3))
    stream, _ = peer.session.accept()
    looks: list[int] = []
    monkeypatch.setattr(peer.session._engine.transport, "glance", looks.append)
    with stream:
        for _ in range(200):
            reading = crew.start(stream.recv, 1)
            waiting(peer.session, 1)
            peer.send(frame(DATA, 0, 3, b"x"))
            assert reading.result() == b"x"
    assert 1 <= len(looks) < 20


def test_a_leader_that_finds_something_goes_on_looking(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_seat, "_NAP", GUARD)  # or the reader thread may sit down
    peer = raw()
    transport = peer.session._engine.transport
    looks: list[int] = []

    def glance(times: int) -> bool:
        looks.append(times)
        transport.wait_readable(None)
        return True

    monkeypatch.setattr(transport, "glance", glance)
    peer.send(frame(DATA, SYN, 3))
    stream, _ = peer.session.accept()
    with stream:
        reading = crew.start(stream.recv, 1)
        waiting(peer.session, 1)
        peer.send(
            frame(DATA, 0, 3, b"w")
        )  # the reader thread sees that there is a caller, and goes
        assert reading.result() == b"w"
        for _ in range(200):
            peer.send(frame(DATA, 0, 3, b"x"))
            assert stream.recv(1) == b"x"
            until(lambda: peer.session._engine._reading is None)
            reading = crew.start(stream.recv, 1)
            waiting(peer.session, 1)
            peer.send(frame(DATA, 0, 3, b"y"))
            assert reading.result() == b"y"
    assert len(looks) >= 200


def answer(stream: muxado.Stream) -> bytes:
    """What a short handler does; returns what came behind its answer."""
    with stream:
        stream.sendall(stream.recv(100))
        return stream.recv(100)


def short_streams(peer: RawPeer, crew: Crew) -> int:
    """Have the session see that streams end behind the answer; returns the next id."""
    engine = peer.session._engine
    for stream_id in range(3, 3 + 2 * 40, 2):
        peer.send(frame(DATA, SYN, stream_id, b"ask"))
        stream, _ = peer.session.accept()
        answering = crew.start(answer, stream)
        assert peer.expect(DATA, stream_id).body == b"ask"
        peer.send(frame(DATA, FIN, stream_id))
        assert answering.result() == b""
        peer.expect(DATA, stream_id)  # its own FIN
        if engine._brevity >= 8:
            return stream_id + 2
    raise AssertionError("it never learns")


def accepting(peer: RawPeer, crew: Crew) -> Task[muxado.Stream]:
    return crew.start(lambda: peer.session.accept()[0])


def test_one_that_has_answered_leaves_the_seat_to_the_acceptor(
    raw: Callable[..., RawPeer], crew: Crew
) -> None:
    peer = raw()
    engine = peer.session._engine
    stream_id = short_streams(peer, crew)
    peer.send(frame(DATA, SYN, stream_id, b"ask"))
    stream, _ = peer.session.accept()
    second = accepting(peer, crew)
    until(lambda: engine._acceptors)
    answering = crew.start(answer, stream)
    assert peer.expect(DATA, stream_id).body == b"ask"
    until(lambda: engine._reading in engine._acceptors)
    waiting(peer.session, 2)
    # The end of the one and the next one, in one read: the acceptor has it first.
    peer.send(frame(DATA, FIN, stream_id) + frame(DATA, SYN, stream_id + 2))
    second.result().close()
    assert answering.result() == b""


@pytest.mark.parametrize("more", [b"more", b""])
def test_an_acceptor_that_never_comes_back_keeps_nobody_waiting(
    raw: Callable[..., RawPeer], crew: Crew, more: bytes
) -> None:
    peer = raw()
    stream_id = short_streams(peer, crew)
    peer.send(frame(DATA, SYN, stream_id, b"ask"))
    accepted, _ = peer.session.accept()
    answering = crew.start(answer, accepted)
    assert peer.expect(DATA, stream_id).body == b"ask"
    peer.send(frame(DATA, 0 if more else FIN, stream_id, more))
    assert answering.result() == more


def test_as_many_acceptors_are_woken_as_streams_come(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = raw(heartbeat_interval=None)
    engine = peer.session._engine
    accepts = [accepting(peer, crew) for _ in range(8)]
    waiting(peer.session, 8)
    woken: set[object] = set()
    wake = engine._wake_locked

    def noted(waiter: threading.Lock) -> None:
        # Not by the reader thread, which wakes another where those that were woken take their time.
        caller = sys._getframe(1).f_code.co_name
        if waiter in engine._acceptors and caller == "_wake_acceptors_locked":
            woken.add(waiter)
        wake(waiter)

    monkeypatch.setattr(engine, "_wake_locked", noted)
    peer.send(frame(DATA, SYN, 3) + frame(DATA, SYN, 5) + frame(DATA, SYN, 7))
    until(lambda: peer.session.stats().accepted == 3)
    # Two beside the one that reads, and one to read after that.
    assert len(woken) <= 3
    for number in range(9, 9 + 2 * 5, 2):
        peer.send(frame(DATA, SYN, number))
    for each in accepts:
        each.result().close()


class Worker:
    """One of a pool: accepts, answers, reads to the end, closes, and comes back, or does not."""

    def __init__(self, session: muxado.Session) -> None:
        self._session = session
        self.served: list[int] = []
        self.ended = threading.Semaphore(0)  # counts the ends it has read
        self.go_on = threading.Semaphore(0)  # and how often it may go on then

    def __call__(self) -> None:
        for stream in self._session:
            with stream:
                self.served.append(stream.id)
                stream.sendall(stream.recv(100))
                assert stream.recv(100) == b""
                self.ended.release()
                assert self.go_on.acquire(timeout=GUARD)


def pool_of_two(peer: RawPeer, crew: Crew) -> tuple[list[Worker], list[Task[None]]]:
    """Two workers that wait for streams."""
    workers = [Worker(peer.session), Worker(peer.session)]
    serving = [crew.start(each) for each in workers]
    waiting(peer.session, 2)
    return workers, serving


def ask(peer: RawPeer, stream_id: int, *, end: int = 0) -> None:
    """Ask on a new stream; in the same breath, end the other whose answer has come."""
    before = frame(DATA, FIN, end) if end else b""
    peer.send(before + frame(DATA, SYN, stream_id, b"ask"))
    while (got := peer.read()) != (DATA, 0, stream_id, b"ask"):
        assert got is not None


def test_a_worker_takes_the_next_stream_that_came_with_the_end_of_its_own(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_seat, "_NAP", GUARD)  # nobody is woken by the clock
    peer = raw(heartbeat_interval=None)
    engine = peer.session._engine
    busy, idle = Worker(peer.session), Worker(peer.session)
    serving = [crew.start(idle)]
    waiting(peer.session, 1)
    serving.append(crew.start(busy))
    waiting(peer.session, 2)
    ask(peer, 3)
    first = busy if busy.served else idle
    other = idle if first is busy else busy
    until(lambda: engine._leading is not None and engine._reading is not None)
    wanted: list[int] = []  # acceptors who were to be woken
    monkeypatch.setattr(
        engine, "_wake_acceptors_locked", lambda count, but=None: wanted.append(count)
    )
    for stream_id in range(5, 41, 2):
        first.go_on.release()
        ask(peer, stream_id, end=stream_id - 2)
        assert first.ended.acquire(timeout=GUARD)
    monkeypatch.undo()
    assert first.served == list(range(3, 41, 2))
    assert not other.served
    assert wanted == [0] * len(first.served[1:])
    peer.send(frame(DATA, FIN, 39))
    assert first.ended.acquire(timeout=GUARD)
    first.go_on.release(2)
    peer.session.close()
    for each in serving:
        each.result()


def test_a_worker_that_does_not_come_back_leaves_the_next_stream_to_another(
    raw: Callable[..., RawPeer], crew: Crew
) -> None:
    peer = raw()
    workers, serving = pool_of_two(peer, crew)
    ask(peer, 3)
    first, other = sorted(workers, key=lambda each: not each.served)
    ask(peer, 5, end=3)  # the answer is what shows it: nobody may go on yet
    assert (first.served, other.served) == ([3], [5])
    peer.send(frame(DATA, FIN, 5))
    for each in workers:
        assert each.ended.acquire(timeout=GUARD)
        each.go_on.release(2)
    peer.session.close()
    for served in serving:
        served.result()


def test_the_clock_wakes_another_for_a_worker_that_does_not_come_back(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And that although somebody else reads by then."""
    monkeypatch.setattr(read_seat, "_NAP", GUARD)
    peer = raw(heartbeat_interval=None)
    engine = peer.session._engine
    workers, serving = pool_of_two(peer, crew)
    ask(peer, 3)
    first, other = sorted(workers, key=lambda each: not each.served)
    waiting(peer.session, 2)
    peer.send(frame(DATA, FIN, 3) + frame(DATA, SYN, 5, b"ask"))
    assert first.ended.acquire(timeout=GUARD)
    with peer.session.open() as stream:
        reading = crew.start(stream.recv, 1)
        waiting(peer.session, 2)
        assert not other.served
        with engine._lock:
            engine._wake_locked(engine._reader_waiter)
        finish(peer, first, other)
        peer.send(frame(DATA, FIN, stream.id))
        assert reading.result() == b""
    peer.session.close()
    for each in serving:
        each.result()


def test_nor_does_anybody_rely_on_a_clock_that_has_stopped(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops beside one who reads for long, and who stays there when others hear of their end."""
    monkeypatch.setattr(read_seat, "_NAP", 10 * GUARD)
    peer = raw(heartbeat_interval=None)
    engine = peer.session._engine
    workers, serving = pool_of_two(peer, crew)
    with peer.session.open() as stream:
        reading = crew.start(stream.recv, 1)
        waiting(peer.session, 3)
        ask(peer, 3)
        first, other = sorted(workers, key=lambda each: not each.served)
        until(lambda: engine._leading is not stream._state and engine._reading is not None)
        waiting(peer.session, 3)
        peer.send(frame(DATA, 0, stream.id, b"x"))  # the first, who reads this, leaves the seat
        assert reading.result() == b"x"
        waiting(peer.session, 2)
        reading = crew.start(stream.recv, 1)
        waiting(peer.session, 3)
        assert engine._leading is stream._state
        with engine._lock:
            engine._reader_parked = True
        peer.send(frame(DATA, FIN, 3) + frame(DATA, SYN, 5, b"ask"))
        assert first.ended.acquire(timeout=GUARD)
        finish(peer, first, other)
        peer.send(frame(DATA, FIN, stream.id))
        assert reading.result() == b""
    peer.session.close()
    for each in serving:
        each.result()


def finish(peer: RawPeer, first: Worker, other: Worker) -> None:
    """Stream 5 has been left to the first, who does not come: see the other serve it."""
    while peer.read() != (DATA, 0, 5, b"ask"):
        pass
    assert (first.served, other.served) == ([3], [5])
    peer.send(frame(DATA, FIN, 5))
    assert other.ended.acquire(timeout=GUARD)
    for each in (first, other):
        each.go_on.release(2)


def test_who_is_woken_to_read_reads(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it would have left that to one who accepts, had it found the seat free before."""
    monkeypatch.setattr(read_seat, "_NAP", GUARD)  # nobody is woken by the clock
    peer = raw(heartbeat_interval=None)
    engine = peer.session._engine
    peer.send(frame(DATA, SYN, 3, b"ask"))
    stream, _ = peer.session.accept()
    assert stream.recv(3) == b"ask"

    def answer() -> bytes:
        stream.sendall(b"ask")
        return stream.recv(1)

    with stream, peer.session.open() as other:
        reading = crew.start(other.recv, 1)
        waiting(peer.session, 1)
        answering = crew.start(answer)
        waiting(peer.session, 2)
        with engine._lock:
            engine._brevity = BRIEF
        peer.send(frame(DATA, 0, other.id, b"x"))
        assert reading.result() == b"x"
        until(lambda: engine._reading is None)
        other.close()  # and the only one who waits is woken
        until(lambda: engine._reading is not None)
        peer.send(frame(DATA, FIN, 3))
        assert answering.result() == b""


class Answered:
    """Streams that the peer has ended behind the answer, and that the application is to close."""

    def __init__(self, peer: RawPeer) -> None:
        self._peer = peer
        self._next = 3
        self.ends: list[int] = []  # those that had been closed, before the answer

    def __call__(self) -> muxado.Stream:
        peer = self._peer
        stream_id, self._next = self._next, self._next + 2
        peer.send(frame(DATA, SYN, stream_id, b"ask"))
        stream, _ = peer.session.accept()
        stream.sendall(stream.recv(100))
        self.ends = []
        while (got := peer.read()) != (DATA, 0, stream_id, b"ask"):
            assert got is not None
            assert (got.type, got.flags) == (DATA, FIN)
            self.ends.append(got.stream_id)
        peer.send(frame(DATA, FIN, stream_id))
        assert stream.recv(1) == b""
        return stream


def test_an_end_waits_for_a_ride_where_writes_follow_soon(
    raw: Callable[..., RawPeer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_seat, "_SOON", GUARD)
    monkeypatch.setattr(write_seat, "_RIDE", GUARD)  # nor does the writer thread send it
    peer = raw(heartbeat_interval=None)
    engine = peer.session._engine
    answered = Answered(peer)
    for _ in range(RIDES):
        with answered() as stream:
            pass
        assert not engine.protocol.ending, "it went by itself"
    answered().close()
    assert list(engine.protocol.ending), "it waits"
    before = stream.id + 2
    with answered():
        assert answered.ends == [before]
    assert engine._rides == RIDES + 1


def test_an_end_that_found_no_ride_lets_fewer_wait(raw: Callable[..., RawPeer]) -> None:
    peer = raw()
    engine = peer.session._engine
    stream = Answered(peer)()
    engine._rides = engine._rides_due
    stream.close()
    assert peer.expect(DATA, stream.id) == (DATA, FIN, stream.id, b"")
    assert (engine._rides, engine._rides_due) == (0, 2 * RIDES)


def test_no_end_waits_where_writes_do_not_follow_soon(
    raw: Callable[..., RawPeer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_seat, "_SOON", -1)
    peer = raw()
    answered = Answered(peer)
    for _ in range(3 * RIDES):
        answered().close()
        assert not peer.session._engine.protocol.ending
    assert peer.session._engine._rides == 0


def test_the_end_of_one_that_is_followed_by_another_rides_with_its_answer(
    raw: Callable[..., RawPeer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_seat, "_RIDE", GUARD)
    peer = raw(heartbeat_interval=None)
    engine = peer.session._engine
    engine._rides = engine._rides_due
    peer.send(frame(DATA, SYN, 3, b"ask") + frame(DATA, SYN, 5, b"ask"))
    for stream_id in (3, 5):
        stream, _ = peer.session.accept()
        with stream:
            stream.sendall(stream.recv(100))
        if stream_id == 3:
            assert engine.protocol.ending, "it waits for the next answer"
    assert not engine.protocol.ending, "nobody waits for this thread: it went by itself"
    assert [peer.read() for _ in range(4)] == [
        (DATA, 0, 3, b"ask"),
        (DATA, FIN, 3, b""),
        (DATA, 0, 5, b"ask"),
        (DATA, FIN, 5, b""),
    ]


def test_an_exception_takes_away_the_acceptor_that_was_woken(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another is woken in its place, also where the reader thread has the seat for good."""
    peer = raw(heartbeat_interval=None)
    engine = peer.session._engine
    peer.send(frame(DATA, SYN, 3))
    polled, _ = peer.session.accept()
    polled.fileno()
    other = accepting(peer, crew)
    waiting(peer.session, 1)
    wait = engine._wait

    def interrupted(*args: Any, **options: Any) -> bool:
        wait(*args, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "_wait", interrupted)
    unlucky = accepting(peer, crew)
    waiting(peer.session, 2)
    monkeypatch.undo()
    peer.send(frame(DATA, SYN, 5))
    with pytest.raises(KeyboardInterrupt):
        unlucky.result()
    other.result().close()
    polled.close()
