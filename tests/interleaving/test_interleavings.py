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
from muxado.engine import read_seat

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
    frame,
    read_all,
    small_send_buffer,
    streams,
    until,
    waiting,
    word,
)


def test_a_second_sender_does_not_replace_the_crowd(
    sessions: Sessions, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second sendall queues while the first writes; then the first waits for the window.

    Both must stand where the peer's grant looks for them. The descriptor keeps the senders from
    reading, so that nothing but the grant wakes them.
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
        until(lambda: len(engine._waiters) + len(engine._willing) == 2)  # and not jammed
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


def test_a_descriptor_comes_and_goes_before_the_leader_looks(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader thread asks the leader for the seat; the reason is gone when the leader looks.

    The leader stays, then, and must wake the reader thread when it leaves for its own reasons.
    """
    peer = raw(client=True)
    engine = peer.session._engine
    reader = engine._reader
    asked = threading.Event()

    def wake() -> None:
        if threading.current_thread() is reader:
            asked.set()

    def stop(*_: object) -> None:
        if threading.current_thread() is not reader:
            gate.stop()

    with Gate() as gate, peer.session.open() as stream, peer.session.open() as other:
        monkeypatch.setattr(engine.transport, "glance", lambda times: False)
        after(monkeypatch, engine.transport, "wait_readable", stop)
        after(monkeypatch, engine.transport, "wake", wake)
        reading = crew.start(stream.recv, 1)
        waiting(peer.session, 1)
        # Whatever comes makes the reader thread leave the seat to the one who waits.
        peer.send(frame(WNDINC, 0, other.id, word(1)))
        until(lambda: engine._reading not in (None, engine._reader_waiter))
        other.fileno()
        gate.reached()
        assert asked.wait(GUARD)
        other.close()
        gate.open()
        peer.send(frame(DATA, 0, stream.id, b"x"))
        assert reading.result() == b"x"
        until(lambda: engine._reading is engine._reader_waiter)


def test_a_stream_is_closed_while_a_descriptor_is_made_for_it(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread closes it in the middle of fileno(), for which the reader thread would sit."""
    pair = sessions.socketpair()
    near, _ = streams(pair)
    engine = pair[0]._engine
    before(monkeypatch, engine, "pin", lambda *_: near.close())
    assert near.fileno() == -1
    assert engine._pins == 0


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
        until(lambda: peer.session._engine._jammed)  # the writer thread, with all of that
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


def test_a_send_that_may_not_wait_writes_no_bytes_of_others(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write seat is free, its next holder woken but not there yet: a send that may not wait
    sits down in between, and must leave the other's bytes to the other."""
    peer = raw(client=True)
    engine = peer.session._engine
    with (
        Gate() as pen,
        Gate() as sleep,
        peer.session.open() as first,
        peer.session.open() as second,
        peer.session.open() as third,
    ):
        third.setblocking(False)
        after(monkeypatch, engine.transport, "send", pen.stop_large)
        writing = crew.start(first.sendall, bytes(10_000))
        pen.reached()

        def released() -> None:
            if engine._senders:  # it stands in the line for the seat, and is about to sleep
                sleep.stop()

        with monkeypatch.context() as patch:
            patch.setattr(engine, "_lock", HookedLock(engine._lock, released))
            queued = crew.start(second.sendall, bytes(20_000))
            sleep.reached()
        pen.open()
        writing.result()
        assert third.send(b"y") == 1
        assert second._state.write.sent == 0
        sleep.open()
        queued.result()


@pytest.mark.parametrize("how", ["reset", "late"])
def test_the_one_whose_turn_it_is_gives_up(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """It is woken to write, and its stream is over, or its time, before it looks: another's turn
    has come."""
    peer = raw(client=True)
    engine = peer.session._engine
    first, second, third = (peer.session.open() for _ in range(3))
    with Gate() as pen:
        after(monkeypatch, engine.transport, "send", pen.stop_large)
        writing = crew.start(first.sendall, bytes(10_000))
        pen.reached()
        second.settimeout(GUARD)
        chosen = crew.start(second.sendall, bytes(200_000))
        until(lambda: len(engine._senders) == 1)
        (waiter,) = engine._senders
        queued = crew.start(third.sendall, bytes(200_000))
        until(lambda: len(engine._senders) == 2)

        def woken(who: object) -> None:
            if who is not waiter:
                return
            monkeypatch.undo()
            if how == "reset":
                engine.protocol.reset(second._state, muxado.ErrorCode.STREAM_CANCELLED)
            else:
                real = time.monotonic
                monkeypatch.setattr(time, "monotonic", lambda: real() + 2 * GUARD)

        after(monkeypatch, engine, "_wake_locked", woken)
        pen.open()
        writing.result()
        with pytest.raises(muxado.StreamReset if how == "reset" else TimeoutError):
            chosen.result()
    peer.sock.settimeout(GUARD)
    got = 0
    while got < 200_000:
        header = peer.read()
        assert header is not None
        got += len(header.body) * (header.stream_id == third.id)
    queued.result()
    monkeypatch.undo()
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
    data = random.Random(1).randbytes(200_000)  # more than one frame
    reading = crew.start(read_all, far)
    meanwhile = Once(lambda: crew.start(other.sendall, b"x").result())
    sender = threading.current_thread()
    looks = False

    def released() -> None:
        if looks and threading.current_thread() is sender:
            meanwhile()

    def left() -> None:  # the write seat: what comes next is the look
        nonlocal looks
        looks = threading.current_thread() is sender

    monkeypatch.setattr(engine, "_lock", HookedLock(engine._lock, released))
    after(monkeypatch, engine, "_leave_pen", left)
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

        monkeypatch.setattr(engine, "_lock", HookedLock(engine._lock, released))
        after(monkeypatch, engine, "_wait", waited)
        near.settimeout(0.01)
        with pytest.raises(TimeoutError):
            near.send(bytes(5000))
    near.shutdown(socket.SHUT_WR)
    assert read_all(far) == b""


def test_an_exception_behind_a_wait_takes_nothing_from_who_waits_in_its_place(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one waited with is used again as soon as it has waited, by one who leads here."""
    peer = raw(heartbeat_interval=None)
    engine = peer.session._engine
    peer.send(frame(DATA, SYN, 3))
    stream, _ = peer.session.accept()
    readers: list[int] = []
    accepting: list[Task[muxado.Stream]] = []

    def read() -> bytes:
        readers.append(threading.get_ident())
        return stream.recv(1)

    def leads(waiter: object) -> bool:
        if engine._reading is engine._reader_waiter:  # it was faster, and leaves at the next byte
            peer.send(frame(DATA, 0, 3, b"."))
        return engine._reading is waiter

    def released() -> None:
        if threading.get_ident() in readers and engine._spare and not accepting:
            used = engine._spare[-1]
            accepting.append(crew.start(lambda: peer.session.accept()[0]))
            until(lambda: leads(used))
            raise KeyboardInterrupt

    until(lambda: engine._reading is engine._reader_waiter)
    reading = crew.start(read)
    waiting(peer.session, 1)
    monkeypatch.setattr(engine, "_lock", HookedLock(engine._lock, released))
    peer.send(frame(DATA, 0, 3, b"x"))
    with pytest.raises(KeyboardInterrupt):
        reading.result()
    with engine._lock:
        assert engine._reading in engine._waiters
    peer.send(frame(DATA, SYN, 5))
    accepting[0].result().close()
    stream.close()


def test_an_acceptor_that_has_its_stream_is_not_woken_for_the_next(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has led and is on its way with it, while another leads and the next stream comes."""
    monkeypatch.setattr(read_seat, "_NAP", GUARD)  # the reader thread does not come to the rescue
    peer = raw()
    engine = peer.session._engine
    peer.send(*[frame(DATA, SYN, number) for number in (3, 5, 7)])
    mine, third, fourth = [peer.session.accept()[0] for _ in range(3)]
    accepts = threading.Event()

    def first_acceptor() -> muxado.Stream:
        mine.recv(1)  # behind this one the reader thread is not in the seat
        mine.recv(1)
        accepts.set()
        return peer.session.accept()[0]

    def stop(*_: object) -> None:
        if accepts.is_set():
            gate.stop()

    with Gate() as gate:
        after(monkeypatch, engine, "_lead", stop)
        first = crew.start(first_acceptor)
        waiting(peer.session, 1)
        peer.send(frame(DATA, 0, 3, b"a"))
        until(lambda: isinstance(engine._reading, list))
        reader = crew.start(third.recv, 1)
        until(lambda: len(engine._willing) == 1)
        second = crew.start(peer.session.accept)
        until(lambda: len(engine._willing) == 2)
        peer.send(frame(DATA, 0, 3, b"b"))
        until(lambda: len(engine._acceptors) == 2 and engine._reading is engine._acceptors[-1])
        peer.send(frame(DATA, SYN, 9))
        gate.reached()
        leader = crew.start(fourth.recv, 1)
        until(lambda: isinstance(engine._reading, list))
        peer.send(frame(DATA, SYN, 11))
        last, _ = second.result()
        assert last.id == 11
        gate.open()
        assert first.result().id == 9
        peer.send(frame(DATA, 0, 5, b"c"), frame(DATA, 0, 7, b"d"), frame(DATA, 0, 11, b"e"))
        assert (last.recv(1), reader.result(), leader.result()) == (b"e", b"c", b"d")
