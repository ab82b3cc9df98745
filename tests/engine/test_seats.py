"""Who is woken to read, and which FIN waits for a frame to go with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import muxado
from muxado.engine import watchdog, writer
from muxado.engine.waiting import Waiter

from ..helpers.crew import GUARD, Crew, Task
from ..helpers.gates import before
from ..helpers.support import DATA, FIN, RST, SYN, RawPeer, frame, until, waiting


def accepting(peer: RawPeer, crew: Crew) -> Task[muxado.Stream]:
    return crew.start(lambda: peer.session.accept()[0])


def test_whoever_is_done_hands_the_seat_over(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reader has its byte and does not come back; the next one leads without the watchdog."""
    peer = raw(heartbeat_interval=None)
    core = peer.session._engine.core
    peer.send(frame(DATA, SYN, 3) + frame(DATA, SYN, 5) + frame(DATA, SYN, 7))
    streams = [peer.session.accept()[0] for _ in range(3)]
    monkeypatch.setattr(watchdog, "_NAP", GUARD)
    reading = {each.id: crew.start(each.recv, 1) for each in streams}
    waiting(peer.session, 3)
    while reading:
        while core.leader in (None, core.reader_waiter):
            # The reader thread leaves the seat to a caller when something comes.
            peer.send(frame(DATA, 0, 0x1001))
        leading = next(s for s in streams if s._state.readers and core.leader in s._state.readers)
        peer.send(frame(DATA, 0, leading.id, b"x"))
        assert reading.pop(leading.id).result() == b"x"
    assert peer.session._engine.rescues == 0
    for stream in streams:
        stream.close()


def test_as_many_acceptors_are_woken_as_streams_come(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = raw(heartbeat_interval=None)
    core = peer.session._engine.core
    accepts = [accepting(peer, crew) for _ in range(8)]
    waiting(peer.session, 8)
    woken: set[Waiter] = set()

    def noted(waiter: Waiter) -> None:
        if waiter in core.acceptors:
            woken.add(waiter)

    with monkeypatch.context() as patch:
        patch.setattr(watchdog, "_NAP", GUARD)
        before(patch, Waiter, "wake", noted)
        peer.send(frame(DATA, SYN, 3) + frame(DATA, SYN, 5) + frame(DATA, SYN, 7))
        until(lambda: peer.session.stats().accepted == 3)
    # And one each time the seat is handed over.
    assert len(woken) <= 6
    for number in range(9, 9 + 2 * 5, 2):
        peer.send(frame(DATA, SYN, number))
    for each in accepts:
        each.result().close()


def test_a_connection_is_not_closed_under_the_caller_that_reads_it(
    raw: Callable[..., RawPeer],
    crew: Crew,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The reader thread fails, by a defect, while a caller leads."""
    peer = raw(heartbeat_interval=None)
    engine = peer.session._engine
    core, owners = engine.core, []
    reading = accepting(peer, crew)
    until(lambda: core.leader in core.acceptors)
    look = watchdog.Watchdog._look_locked

    def fail_once(watching: watchdog.Watchdog) -> Any:
        monkeypatch.setattr(watchdog.Watchdog, "_look_locked", look)
        raise LookupError("a defect")

    before(monkeypatch, engine.transport, "close", lambda: owners.append(core.leader))
    monkeypatch.setattr(watchdog.Watchdog, "_look_locked", fail_once)
    core.reader_waiter.wake()
    with pytest.raises(muxado.SessionClosed):
        reading.result()
    peer.session.close()
    assert owners == [core.reader_waiter], "somebody else may have been reading"
    assert "a thread failed" in caplog.text


def test_an_exception_takes_away_an_acceptor_that_has_its_stream(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer is told that nobody has the stream, and the next acceptor gets the next one."""
    peer = raw(heartbeat_interval=None)
    reading = peer.session._engine.reading
    wait = reading.wait

    def interrupted(*args: Any, **options: Any) -> bool:
        wait(*args, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(reading, "wait", interrupted)
        unlucky = accepting(peer, crew)
        waiting(peer.session, 1)
    peer.send(frame(DATA, SYN, 3))
    with pytest.raises(KeyboardInterrupt):
        unlucky.result()
    assert peer.expect(RST, 3).word == muxado.ErrorCode.STREAM_REFUSED
    other = accepting(peer, crew)
    peer.send(frame(DATA, SYN, 5))
    other.result().close()


def test_a_fin_behind_a_read_waits_for_a_frame_to_go_with(
    raw: Callable[..., RawPeer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_DELAY", GUARD)  # nor does the writer thread send it
    peer = raw(client=True, heartbeat_interval=None)
    before: int | None = None
    for _ in range(5):
        with peer.session.open() as stream:
            stream.sendall(b"ask")
            frames = [peer.read() for _ in range(1 if before is None else 2)]
            asked = (DATA, SYN, stream.id, b"ask")
            assert frames == [asked] if before is None else [(DATA, FIN, before, b""), asked]
            peer.send(frame(DATA, 0, stream.id, b"answer"))
            assert stream.recv(6) == b"answer"
        before = stream.id


@pytest.mark.parametrize("asleep", [True, False])
def test_a_fin_waits_for_no_frame_while_there_is_no_traffic(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch, asleep: bool
) -> None:
    """It goes when whoever reads goes to sleep, or at once where that has happened before."""
    monkeypatch.setattr(writer, "_DELAY", GUARD)
    peer = raw(heartbeat_interval=None)
    reading = peer.session._engine.reading
    peer.send(frame(DATA, SYN, 3, b"ask") + frame(DATA, FIN, 3))
    stream, _ = peer.session.accept()
    assert stream.recv(10) == b"ask"
    assert stream.recv(10) == b""
    if asleep:
        other = accepting(peer, crew)
        until(lambda: reading.asleep)
        stream.close()
    else:
        stream.close()
        other = accepting(peer, crew)
    assert peer.expect(DATA, 3).flags == FIN
    peer.send(frame(DATA, SYN, 5))
    other.result().close()


def test_a_fin_behind_a_write_goes_at_once(
    raw: Callable[..., RawPeer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_DELAY", GUARD)
    peer = raw(client=True, heartbeat_interval=None)
    with peer.session.open() as stream:
        stream.sendall(b"all")
    assert peer.expect(DATA, stream.id).body == b"all"
    assert peer.expect(DATA, stream.id).flags == FIN


def test_a_fin_that_finds_no_such_frame_goes_a_moment_later(raw: Callable[..., RawPeer]) -> None:
    peer = raw(client=True)
    with peer.session.open() as stream:
        stream.sendall(b"ask")
        peer.expect(DATA, stream.id)
        peer.send(frame(DATA, 0, stream.id, b"answer"))
        assert stream.recv(6) == b"answer"
    assert peer.expect(DATA, stream.id).flags == FIN
