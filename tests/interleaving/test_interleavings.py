"""Interleavings of threads that once lost a wake-up or bytes, or sent them twice.

Each test forces one: a thread is stopped at the point in question while another does its part.
"""

from __future__ import annotations

import random
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable

import pytest

import muxado

from ..helpers.certificate import Certificate
from ..helpers.crew import GUARD, Crew, Task
from ..helpers.gates import Gate, HookedLock, Once, after, before, polls
from ..helpers.support import (
    DATA,
    RST,
    SYN,
    WNDINC,
    RawPeer,
    Sessions,
    callers_waiting,
    frame,
    read_all,
    small_send_buffer,
    streams,
    until,
    waiting,
    word,
)


def test_a_second_sender_waits_beside_the_first(
    sessions: Sessions, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second sendall queues while the first writes; then the first waits for window.

    An update of the window must find both. The descriptor keeps the senders from reading, so that
    nothing else wakes them.
    """
    pair = sessions.socketpair()
    near, far = streams(pair)
    near.fileno()
    with Gate() as gate:
        after(monkeypatch, pair[0]._engine.transport, "send", gate.stop_large)
        first = crew.start(near.sendall, bytes(300_000))
        gate.reached()
        second = crew.start(near.sendall, bytes(1000))
        waiting(pair[0], 1)
        gate.open()
        engine = pair[0]._engine
        until(lambda: engine.writing.jam is None and callers_waiting(pair[0]) == 2)
        far.settimeout(GUARD)
        assert len(far.recv(301_000, socket.MSG_WAITALL)) == 301_000
        first.result()
        second.result()


def shake_hands(
    near: socket.socket, certificate: Certificate
) -> tuple[ssl.SSLObject, ssl.MemoryBIO]:
    """The client's side of a TLS handshake; its last message lies in what is returned."""
    near.settimeout(GUARD)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = certificate.client_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_3  # where the client speaks last
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    while True:
        try:
            tls.do_handshake()
            return tls, outgoing
        except ssl.SSLWantReadError:
            near.sendall(outgoing.read())
            incoming.write(near.recv(65536))


@pytest.mark.parametrize("broken", [False, True], ids=["alone", "before a broken one"])
def test_records_that_came_in_one_read(
    certificate: Certificate, sessions: Sessions, crew: Crew, broken: bool
) -> None:
    """The client's last handshake message and its first frame arrive in one read.

    The frame lies in memory when the session begins, and no poll of the descriptor tells of it.
    It is good, whatever comes behind it.
    """
    near, far = socket.socketpair()
    unfinished = certificate.server_context().wrap_socket(
        far, server_side=True, do_handshake_on_connect=False
    )
    making = crew.start(muxado.server, unfinished)
    tls, outgoing = shake_hands(near, certificate)
    tls.write(frame(DATA, SYN, 3, b"hello"))
    if broken:
        outgoing.write(b"\x17\x03\x03\x00\x20" + bytes(32))
    near.sendall(outgoing.read())
    session = making.result()
    sessions.keep(session)
    session.settimeout(GUARD)
    stream, _ = session.accept()
    assert stream.recv(5) == b"hello"
    near.close()
    end = session.wait(GUARD)
    assert isinstance(end.error, ssl.SSLError if broken else ConnectionResetError)
    stream.close()


def test_a_stream_is_closed_while_a_descriptor_is_made_for_it(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread closes it in the middle of fileno(), for which the reader thread would sit."""
    pair = sessions.socketpair()
    near, _ = streams(pair)
    engine = pair[0]._engine
    before(monkeypatch, engine.streams, "pin", lambda *_: near.close())
    assert near.fileno() == -1
    assert engine.reading.pins == 0


def test_a_stream_is_reset_in_the_backlog(raw: Callable[..., RawPeer]) -> None:
    """The session's descriptor reports a stream, and the peer takes it back before accept()."""
    peer = raw()
    peer.session.setblocking(False)
    assert not polls(peer.session, select.POLLIN)
    peer.send(frame(DATA, SYN, 3))
    until(lambda: polls(peer.session, select.POLLIN))
    peer.send(frame(RST, 0, 3, word(6)))
    until(lambda: not polls(peer.session, select.POLLIN))
    with pytest.raises(BlockingIOError):
        peer.session.accept()


def test_a_descriptor_that_another_stream_makes_unwritable(
    raw: Callable[..., RawPeer], crew: Crew
) -> None:
    """One stream's bytes fill what may wait, and another's descriptor is brought up meanwhile.

    It must be brought up again when there is room, although its stream never sent anything.
    """
    peer = raw(client=True, window=2**22, heartbeat_interval=None)
    small_send_buffer(peer.session)
    with peer.session.open() as idle, peer.session.open() as busy:
        assert polls(idle, select.POLLOUT)
        busy.setblocking(False)

        def fill() -> None:
            with pytest.raises(BlockingIOError):
                while True:
                    busy.send(bytes(60_000))

        fill()
        until(lambda: peer.session._engine.writing.jam)  # the writer thread, with all of that
        fill()
        peer.send(frame(DATA, 0, idle.id, b"news"))
        until(lambda: not polls(idle, select.POLLOUT))

        def drain() -> None:
            while peer.sock.recv(65536):
                pass

        draining = crew.start(drain)
        until(lambda: polls(idle, select.POLLOUT))
        assert idle.recv(4) == b"news"
    peer.session.kill()
    draining.result()


@pytest.mark.parametrize("how", ["reset", "late"])
def test_the_one_whose_turn_it_is_gives_up(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A sender is woken to write, and its stream is over, or its time, before it looks.

    Then it is the turn of another, who must be woken.
    """
    peer = raw(client=True, heartbeat_interval=None)
    engine = peer.session._engine
    schedule = engine.core.protocol.schedule
    first, second, third = (peer.session.open() for _ in range(3))
    with Gate() as gate:
        after(monkeypatch, engine.transport, "send", gate.stop_large)
        writing = crew.start(first.sendall, bytes(10_000))
        gate.reached()
        second.settimeout(GUARD)
        chosen = crew.start(second.sendall, bytes(200_000))
        waiting(peer.session, 1)
        queued = crew.start(third.sendall, bytes(200_000))
        waiting(peer.session, 2)
        assert schedule.first() is second._state

        def give_up() -> None:
            if how == "reset":
                engine.core.protocol.reset(second._state, muxado.ErrorCode.STREAM_CANCELLED)
            else:
                real = time.monotonic
                monkeypatch.setattr(time, "monotonic", lambda: real() + 2 * GUARD)

        # With the lock held, in the thread that has written.
        after(monkeypatch, engine.writing, "pass_on_locked", Once(give_up))
        gate.open()
        writing.result()
        with pytest.raises(muxado.StreamReset if how == "reset" else TimeoutError):
            chosen.result()
    monkeypatch.undo()
    got = 0
    while got < 200_000:
        header = peer.read()
        assert header is not None
        got += len(header.body) * (header.stream_id == third.id)
    queued.result()
    for stream in (first, second, third):
        stream.close()


def test_what_send_reports_is_all_that_went(
    sessions: Sessions, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between send()'s look at how much went and its return another thread writes.

    It must not take more of the bytes, which the caller is going to send again.
    """
    pair = sessions.socketpair()
    near, far = streams(pair)
    other, _ = streams(pair)
    engine = pair[0]._engine
    data = random.Random(1).randbytes(400_000)  # more than the window
    reading = crew.start(read_all, far)
    meanwhile = Once(lambda: crew.start(other.sendall, b"x").result())
    sender = threading.current_thread()
    looks = False

    def released() -> None:
        if looks and threading.current_thread() is sender:
            meanwhile()

    def written(*_: object) -> None:  # what comes next is the look
        nonlocal looks
        looks = threading.current_thread() is sender

    monkeypatch.setattr(engine.core, "lock", HookedLock(engine.core.lock, released))
    after(monkeypatch, engine.writing, "write_batch", written)
    count = near.send(data)
    assert 0 < count < len(data)
    near.sendall(data[count:])
    near.shutdown(socket.SHUT_WR)
    assert reading.result() == data


def test_a_send_that_timed_out_sends_nothing_later(
    sessions: Sessions, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the moment when send() finds its time over and its return another thread writes.

    It must not take the bytes, of which the caller is told that none went.
    """
    pair = sessions.socketpair()
    near, far = streams(pair)
    other, _ = streams(pair)
    engine = pair[0]._engine
    sender = threading.current_thread()
    late = False

    def waited(*_: object) -> None:
        nonlocal late
        late = threading.current_thread() is sender

    with Gate() as gate:
        after(monkeypatch, engine.transport, "send", gate.stop_large)
        writing = crew.start(other.sendall, bytes(200_000))
        gate.reached()

        def write_on() -> None:
            gate.open()
            writing.result()

        meanwhile = Once(write_on)

        def released() -> None:
            if late and threading.current_thread() is sender:
                meanwhile()

        monkeypatch.setattr(engine.core, "lock", HookedLock(engine.core.lock, released))
        after(monkeypatch, engine.reading, "wait", waited)
        near.settimeout(0.01)
        with pytest.raises(TimeoutError):
            near.send(bytes(5000))
    near.shutdown(socket.SHUT_WR)
    assert read_all(far) == b""


def test_an_exception_behind_a_wait_takes_nothing_from_who_waits_in_its_place(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A waiter is used again as soon as its wait is over, by a thread that leads here."""
    peer = raw(heartbeat_interval=None)
    engine = peer.session._engine
    core = engine.core
    peer.send(frame(DATA, SYN, 3))
    stream, _ = peer.session.accept()
    readers: list[int] = []
    accepting: list[Task[muxado.Stream]] = []

    def read() -> bytes:
        readers.append(threading.get_ident())
        return stream.recv(1)

    def a_caller_leads() -> bool:
        if core.leader is core.reader_waiter:  # it was faster, and leaves at the next byte
            peer.send(frame(WNDINC, 0, 3, word(1)))
        return core.leader not in (None, core.reader_waiter)

    def released() -> None:
        if threading.get_ident() in readers and core.leader is None and not accepting:
            accepting.append(crew.start(lambda: peer.session.accept()[0]))
            until(a_caller_leads)
            raise KeyboardInterrupt

    reading = crew.start(read)
    until(a_caller_leads)
    monkeypatch.setattr(core, "lock", HookedLock(core.lock, released))
    peer.send(frame(DATA, 0, 3, b"x"))
    with pytest.raises(KeyboardInterrupt):
        reading.result()
    assert core.leader in core.acceptors
    peer.send(frame(DATA, SYN, 5))
    accepting[0].result().close()
    stream.close()
