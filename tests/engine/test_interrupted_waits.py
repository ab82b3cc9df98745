"""Handlers of signals that interrupt a call which waits, and what others wait for meanwhile."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import muxado
from muxado.engine import receiving
from muxado.engine.core import REENTERED
from muxado.engine.outbox import Outbox

from ..helpers.crew import GUARD, Crew
from ..helpers.gates import Gate, Once, after, before
from ..helpers.support import (
    DATA,
    SYN,
    WNDINC,
    RawPeer,
    Sessions,
    frame,
    small_send_buffer,
    streams,
    until,
    waiting,
    word,
)


class Struck(BaseException):
    """What a handler raises."""


@pytest.fixture
def interrupt() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Has a handler of a signal run a function in the main thread, from any thread."""
    actions: list[Callable[[], object]] = []
    main = threading.main_thread().ident
    assert main is not None
    previous = signal.signal(signal.SIGUSR1, lambda *_: actions.pop()())

    def run(action: Callable[[], object]) -> None:
        actions.append(action)
        signal.pthread_kill(main, signal.SIGUSR1)

    yield run
    signal.signal(signal.SIGUSR1, previous)


Interrupt = Callable[[Callable[[], object]], None]


def strike() -> None:
    raise Struck


def main_only(action: Callable[[], object]) -> Callable[..., None]:
    """Calls ``action`` the first time that the main thread calls this."""
    once = Once(action)

    def call(*_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            once()

    return call


def test_frames_that_may_be_half_changed_are_not_sent(
    raw: Callable[..., RawPeer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write is put back as its time is over, and an exception strikes behind that."""
    peer = raw(client=True, heartbeat_interval=None)
    engine = peer.session._engine
    stream = peer.session.open()
    peer.expect(DATA, stream.id)  # its SYN
    until(lambda: not engine.core.writer)
    send = engine.transport.send
    room = [1000]

    def send_some(buffers: Any) -> int:
        data = b"".join(buffers)[: room.pop()] if room else b""
        return send([data]) if data else 0

    def strike_when_there_is_room() -> None:
        monkeypatch.setattr(engine.transport, "send", send)
        raise Struck

    monkeypatch.setattr(engine.transport, "send", send_some)
    after(monkeypatch, Outbox, "put_back", main_only(strike_when_there_is_room))
    stream.settimeout(0.01)
    with pytest.raises(Struck):
        stream.sendall(b"x" * 2000)
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while part := peer.sock.recv(65536):
            got += part
    whole = frame(DATA, 0, stream.id, b"x" * 2000)
    assert got == whole[: len(got)]
    assert peer.session.wait(GUARD).code is muxado.ErrorCode.INTERNAL_ERROR
    stream.close()


def test_kill_waits_for_no_writer(
    raw: Callable[..., RawPeer], crew: Crew, interrupt: Interrupt
) -> None:
    """A handler kills the session whose thread waits for the connection to take more."""
    peer = raw(client=True, heartbeat_interval=None)
    near = peer.session
    small_send_buffer(near)
    leads, sends = near.open(), near.open()
    core = near._engine.core
    sends.setblocking(False)

    def it_leads() -> bool:
        if core.leader is core.reader_waiter:  # it was faster, and leaves when something comes
            peer.send(frame(WNDINC, 0, leads.id, word(1)))
        return core.leader in (leads._state.readers or ())

    def fill_and_kill() -> None:
        until(it_leads)
        with contextlib.suppress(BlockingIOError):
            while True:
                sends.send(bytes(50_000))
        until(lambda: near._engine.writing.jam is not None)
        interrupt(near.kill)

    filling = crew.start(fill_and_kill)
    with pytest.raises(muxado.SessionClosed):
        leads.recv(1)
    filling.result()
    for each in (leads, sends):
        each.close()


def test_drain_hears_of_a_stream_that_is_given_up(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception takes away the caller of accept(), when it has its stream."""
    peer = raw(heartbeat_interval=None)
    peer.send(frame(DATA, SYN, 3))
    until(lambda: peer.session.stats().backlog)
    draining = crew.start(peer.session.drain)
    waiting(peer.session, 1)
    monkeypatch.setattr(receiving, "sync", main_only(strike))
    with pytest.raises(Struck):
        peer.session.accept()
    assert draining.result()


def test_a_handler_waits_for_another_reader(
    sessions: Sessions, crew: Crew, interrupt: Interrupt
) -> None:
    """Its own thread is handed the seat meanwhile, and cannot come."""
    pair = sessions.socketpair(heartbeat_interval=None)
    (first, far_first), (second, far_second), (third, far_third) = (streams(pair) for _ in "123")
    core = pair[0]._engine.core
    outcome: list[Any] = []

    def first_leads() -> bool:
        if core.leader is core.reader_waiter:  # it was faster, and leaves when something comes
            pair[1].open().close()
        return core.leader in (first._state.readers or ())

    leading = crew.start(first.recv, 1)
    until(first_leads)

    def wait_for_another() -> None:
        reading = crew.start(third.recv, 1)
        waiting(pair[0], 3)
        far_first.sendall(b"1")
        leading.result()  # it has handed over to the oldest: the thread that this interrupts
        far_third.sendall(b"3")
        outcome.append(reading.result())
        far_second.sendall(b"2")

    def strike() -> None:
        waiting(pair[0], 2)
        interrupt(wait_for_another)

    striking = crew.start(strike)
    assert second.recv(1) == b"2"
    assert outcome == [b"3"]
    striking.result()
    for each in (first, second, third, far_first, far_second, far_third):
        each.close()


@pytest.mark.parametrize("action", ["send", "close"])
def test_a_handler_wants_what_its_own_thread_waits_to_send(
    sessions: Sessions,
    crew: Crew,
    interrupt: Interrupt,
    monkeypatch: pytest.MonkeyPatch,
    action: str,
) -> None:
    """The thread stands in the schedule behind a writer. It goes on when the handler ends."""
    pair = sessions.socketpair(heartbeat_interval=None, linger=GUARD)
    near, far = streams(pair)
    other, far_other = streams(pair)
    jam, far_jam = streams(pair)
    outcome: list[object] = []

    def handle() -> None:
        if action == "close":
            pair[0].close()
            outcome.append("closed")
        else:
            try:
                other.sendall(bytes(100_000))
            except RuntimeError as error:
                outcome.append(str(error))

    with Gate() as gate:
        before(monkeypatch, pair[0]._engine.transport, "send", gate.stop_large)
        first = crew.start(jam.sendall, bytes(50_000))
        gate.reached()

        def strike() -> None:
            until(lambda: near._state.write is not None)
            interrupt(handle)
            until(lambda: outcome)
            gate.open()

        striking = crew.start(strike)
        reading = crew.start(far.recv, 100_000, socket.MSG_WAITALL)
        near.sendall(b"x" * 100_000)
        striking.result()
    first.result()
    assert reading.result() == b"x" * 100_000
    assert outcome == ["closed" if action == "close" else REENTERED]
    for each in (near, other, jam, far, far_other, far_jam):
        each.close()
