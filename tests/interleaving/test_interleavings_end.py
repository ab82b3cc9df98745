"""Interleavings at the end: of a session, of a stream, of a fork's child, of a time-out."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import muxado
from muxado import ErrorCode

from ..helpers.crew import GUARD, Crew, Task
from ..helpers.gates import Gate, Once, after, polls
from ..helpers.support import (
    DATA,
    RST,
    SYN,
    RawPeer,
    Sessions,
    frame,
    small_send_buffer,
    streams,
    threads_of,
    until,
    waiting,
)
from ..session.test_process import run


class Interrupted(Exception):
    """Raised by a signal's handler, as KeyboardInterrupt is."""


@pytest.fixture
def interrupt() -> Iterator[Callable[[], None]]:
    """A function that makes the main thread raise ``Interrupted``."""
    main = threading.main_thread().ident
    assert main is not None

    def handler(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, handler)
    yield lambda: signal.pthread_kill(main, signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


def ended(sending: Task[None]) -> None:
    """A send that the session's end cut short: its last bytes may count as sent, or not."""
    with contextlib.suppress(muxado.SessionClosed):
        sending.result()


def test_the_final_goaway_stands_in_no_frame(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session ends between a write that took half a frame and the writer's next look.

    The connection has room again by then. What follows must be the rest of the frame, or nothing.
    """
    peer = raw(client=True, linger=0.0)
    engine = peer.session._engine
    small_send_buffer(peer.session)
    with Gate() as gate, peer.session.open() as stream:
        peer.expect(DATA, stream.id)  # its SYN
        until(lambda: not engine.core.writer)  # so that the bytes go in one frame
        taken = 0
        send = engine.transport.send

        def count(buffers: Any) -> int:
            nonlocal taken
            size = send(buffers)
            taken += size
            gate.stop_large(buffers)
            return size

        monkeypatch.setattr(engine.transport, "send", count)
        sending = crew.start(stream.sendall, b"\xaa" * 100_000)
        gate.reached()
        got = peer.sock.recv(taken, socket.MSG_WAITALL)
        closing = crew.start(peer.session.close)
        until(lambda: peer.session.closed)
        gate.open()
        while part := peer.sock.recv(65536):
            got += part
        whole = frame(DATA, 0, stream.id, b"\xaa" * 100_000)
        assert got == whole[: len(got)]
        closing.result()
        ended(sending)


def test_an_interrupted_write(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception arrives between a write that took half a frame and the note of how much.

    The transport has counted it, so the other half goes next, and the session lives on.
    """
    peer = raw(client=True)
    engine = peer.session._engine
    small_send_buffer(peer.session)
    with peer.session.open() as stream:
        peer.expect(DATA, stream.id)  # its SYN

        def strike() -> None:
            raise Interrupted

        after(monkeypatch, engine.transport, "send", Once(strike))
        with pytest.raises(Interrupted):
            stream.sendall(b"\xaa" * 100_000)
        more = crew.start(stream.sendall, b"more")
        got = b""
        while len(got) < 100_004:
            got += peer.expect(DATA, stream.id).body
        assert got == b"\xaa" * 100_000 + b"more"
        more.result()


def test_an_interrupted_close(
    raw: Callable[..., RawPeer], crew: Crew, interrupt: Callable[[], None]
) -> None:
    """An exception arrives while close() waits for the flush: the session ends all the same."""
    peer = raw(client=True, linger=GUARD)
    small_send_buffer(peer.session)
    with peer.session.open() as stream:
        sending = crew.start(stream.sendall, bytes(100_000))
        waiting(peer.session, 1)

        def strike() -> None:
            until(lambda: peer.session._engine.core.flushers)
            interrupt()

        crew.start(strike)
        with pytest.raises(Interrupted):
            peer.session.close()
        assert peer.session.closed
        ended(sending)
        until(lambda: not threads_of(peer.session))


def test_a_descriptor_after_an_interrupted_send(
    raw: Callable[..., RawPeer], crew: Crew, interrupt: Callable[[], None]
) -> None:
    """The descriptor is brought up while a sendall waits for its turn, which then is given up.

    The connection is full, so nothing that goes on it could bring the descriptor up again.
    """
    peer = raw(client=True)
    small_send_buffer(peer.session)
    with peer.session.open() as stream, peer.session.open() as other:
        assert polls(stream, select.POLLOUT)
        jam = crew.start(other.sendall, bytes(100_000))
        waiting(peer.session, 1)

        def strike() -> None:
            waiting(peer.session, 2)
            peer.send(frame(DATA, 0, stream.id, b"news"))
            until(lambda: not polls(stream, select.POLLOUT))
            interrupt()

        crew.start(strike)
        with pytest.raises(Interrupted):
            stream.sendall(b"x")
        assert polls(stream, select.POLLOUT)
        assert stream.recv(4) == b"news"
        peer.session.kill()
        ended(jam)


def test_close_waits_until_the_peer_has_acknowledged_the_goaway(
    raw: Callable[..., RawPeer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer's kernel is slow to take the GOAWAY, and nothing comes from it meanwhile."""
    peer = raw(client=True)
    looks = iter([3, 2, 1, 0])
    monkeypatch.setattr(peer.session._engine.transport, "unacknowledged", lambda: next(looks))
    peer.session.close()
    assert next(looks, None) is None, "the connection was closed too early"


def test_a_child_closes_its_copy_of_a_listener() -> None:
    """A forking server's child closes what it inherited: the parent's listener does not notice.

    Neither its thread, which was woken and never came to rest, nor its socket's file.
    """
    done = run(
        """
        import os, select, tempfile, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
        import muxado
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "socket")
            with muxado.listen(path) as listener:
                child = os.fork()
                if not child:
                    listener.close()
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == 0
                assert not listener._acceptor.closed
                client = muxado.dial(path)
                server, _ = listener.accept()
                client.close(); server.close()
        """
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_child_uses_its_copy_of_a_stream() -> None:
    """A fork while another thread brings a descriptor up: the child may read what was there.

    It neither waits for that thread, which is not there, nor takes the byte that makes the
    parent's descriptor readable.
    """
    done = run(
        """
        import os, select, signal, socket, threading, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
        import muxado
        near, far = socket.socketpair()
        with muxado.client(near) as client, muxado.server(far) as server:
            with client.open() as stream:
                stream.sendall(b"x")
                accepted, _ = server.accept()
                descriptor = accepted.fileno()
                assert select.select([descriptor], [], [], 20)[0]
                readiness = accepted._readiness
                inside, forked = threading.Event(), threading.Event()
                def stop():
                    inside.set()
                    assert forked.wait(20)
                    return True
                readable, readiness._is_readable = readiness._is_readable, stop
                syncing = threading.Thread(target=readiness.sync)
                syncing.start()
                assert inside.wait(20)
                child = os.fork()
                if not child:
                    signal.alarm(10)
                    readiness._is_readable = readable
                    assert accepted.recv(1) == b"x"
                    accepted.close()
                    server.close()
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == 0
                readiness._is_readable = readable
                forked.set()
                syncing.join()
                assert select.select([descriptor], [], [], 0)[0]
                assert accepted.recv(1) == b"x"
                accepted.close()
        """
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_stream_is_closed_in_the_middle_of_a_frame(raw: Callable[..., RawPeer]) -> None:
    """Half of a frame was read when its stream is closed, and then the other half comes.

    Without a reset the peer would believe that its last frame was read.
    """
    peer = raw()
    whole = frame(DATA, 0, 3, bytes(100))
    peer.send(frame(DATA, SYN, 3), whole[:58])
    stream, _ = peer.session.accept()
    assert len(stream.recv(50, socket.MSG_WAITALL)) == 50
    stream.close()
    assert peer.expect(RST, 3).word == ErrorCode.STREAM_CANCELLED
    peer.send(whole[58:], frame(DATA, SYN, 5, b"next"))
    following, _ = peer.session.accept()
    with following:
        assert following.recv(4) == b"next"


def test_a_time_out_longer_than_poll_takes(sessions: Sessions, crew: Crew) -> None:
    """Two callers wait for a month: one in the read seat, in poll, and one beside it."""
    pair = sessions.socketpair()
    ends = [streams(pair) for _ in range(2)]
    other, _ = streams(pair)
    engine = pair[1]._engine
    for _, far in ends:
        far.settimeout(3e6)
    reading = [crew.start(far.recv, 100) for _, far in ends]
    waiting(pair[1], 2)
    other.sendall(b"x")  # whatever comes makes the reader thread leave the seat to one of them
    until(lambda: engine.core.leader not in (None, engine.core.reader_waiter))
    for near, _ in ends:
        near.sendall(b"at last")
    assert [task.result() for task in reading] == [b"at last"] * 2


@pytest.mark.parametrize("call", ["send", "sendall", "recv_into"])
def test_a_failed_call_gives_the_buffer_back(raw: Callable[..., RawPeer], call: str) -> None:
    """Its exception is kept, and with it the frames that had to do with the buffer."""
    peer = raw(client=True, window=4096)
    with peer.session.open() as stream:
        stream.sendall(bytes(4096))
        stream.settimeout(0.001)
        buffer = bytearray(8)
        with pytest.raises(TimeoutError) as caught:
            getattr(stream, call)(buffer)
        buffer.clear()  # BufferError while anybody still holds it
        assert caught.value is not None
