"""Streams and sessions that are dropped without close(), at any moment of the session's threads.

Their finalizers may not wait, and what they ask for may not get lost.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest

import muxado
from muxado import ErrorCode

from ..helpers.crew import GUARD, Crew
from ..helpers.gates import Once, Plain, before
from ..helpers.support import (
    DATA,
    FIN,
    GOAWAY,
    SYN,
    RawPeer,
    Sessions,
    frame,
    streams,
    threads_of,
    until,
    waiting,
)

Litter = list[Any]


def drop(held: Litter) -> None:
    """Let go of streams and sessions that were never closed."""
    with pytest.warns(ResourceWarning, match="unclosed"):
        held.clear()


def accept(session: muxado.Session) -> muxado.Stream:
    session.settimeout(GUARD)
    stream, _ = session.accept()
    stream.settimeout(GUARD)
    return stream


def test_a_dropped_stream_is_ended(sessions: Sessions) -> None:
    """The last thing done was a read, and nothing more is written that its FIN could ride with."""
    client, server = sessions.socketpair()
    with client.open() as near:
        near.settimeout(GUARD)
        near.sendall(b"x")
        held = [accept(server)]
        assert held[0].recv(1) == b"x"
        drop(held)
        assert near.recv(1) == b""


def test_drain_waits_for_a_stream_that_is_dropped(sessions: Sessions, crew: Crew) -> None:
    """The last stream goes by its finalizer, and nothing comes from the peer afterwards."""
    client, server = sessions.socketpair()
    with client.open() as near:
        near.sendall(b"x")
        held = [accept(server)]
        draining = crew.start(server.drain)
        waiting(server, 1)
        drop(held)
        assert draining.result() is True


def test_a_stream_is_dropped_after_the_writer_thread_has_looked(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is dropped between that thread's look at what was dropped and its sleep."""
    client, server = sessions.socketpair()
    with client.open() as near:
        near.settimeout(GUARD)
        near.sendall(b"x")
        held = [accept(server)]
        assert held[0].recv(1) == b"x"
        engine = server._engine
        until(lambda: engine._writer_parked)
        before(monkeypatch, engine, "_heartbeat_locked", Once(lambda: drop(held)))
        engine._rouse()  # for nothing: after this one look it sleeps again
        assert near.recv(1) == b""


def test_a_stream_is_dropped_while_the_writer_thread_is_woken(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between somebody's look whether the writer thread sleeps and the wake-up that follows."""

    class Waiter:
        def __init__(self, waiter: Any) -> None:
            self.acquire, self.release = waiter.acquire, waiter.release
            self._waiter = waiter

        def locked(self) -> bool:
            locked: bool = self._waiter.locked()
            if locked:
                meanwhile()
            return locked

    client, server = sessions.socketpair()
    with client.open() as near:
        near.settimeout(GUARD)
        near.sendall(b"x")
        held = [accept(server)]
        assert held[0].recv(1) == b"x"
        engine = server._engine
        meanwhile = Once(lambda: drop(held))
        until(lambda: engine._writer_parked)
        monkeypatch.setattr(engine, "_writer_waiter", Waiter(engine._writer_waiter))
        server.open().close()
        assert not held
        assert near.recv(1) == b""


def test_a_stream_is_dropped_between_dispatch_and_its_descriptor(
    raw: Callable[..., RawPeer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader thread has taken down which descriptors to bring up, and its stream goes."""
    peer = raw()
    peer.send(frame(DATA, SYN, 3), frame(DATA, SYN, 5))
    held, other = [accept(peer.session)], accept(peer.session)
    held[0].fileno()
    engine = peer.session._engine
    before(monkeypatch, engine, "_follow_up", Once(lambda: drop(held)))
    peer.send(frame(DATA, 0, 3, b"news"))
    until(lambda: not held)
    until(lambda: peer.session.stats().streams == 1)
    peer.send(frame(DATA, 0, 5, b"and on"))
    assert other.recv(6) == b"and on"
    assert engine._pins == 0
    other.close()


def test_close_flushes_for_what_was_dropped(
    raw: Callable[..., RawPeer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session is closed before the writer thread has seen that a stream was dropped."""
    peer = raw()
    peer.send(frame(DATA, SYN, 3))
    held = [accept(peer.session)]
    monkeypatch.setattr(peer.session._engine, "_rouse", lambda: None)
    drop(held)
    peer.session.close()
    assert peer.expect(DATA, 3).flags == FIN
    peer.expect(GOAWAY, 0)


def test_a_session_is_dropped_with_a_descriptor() -> None:
    """Its threads bring up the descriptor for the last time when nobody holds it any more."""
    near, far = socket.socketpair()
    held: Litter = [muxado.server(near)]
    descriptor = held[0].fileno()
    threads = threads_of(held[0])
    drop(held)
    for thread in threads:
        thread.join(GUARD)
        assert not thread.is_alive()
    del threads
    far.settimeout(GUARD)
    assert far.recv(8)[3] >> 4 == 3, "a GOAWAY"
    far.close()
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_dropped_over_a_connection_that_nothing_wakes(sessions: Sessions) -> None:
    """A stream, then the session, while its reader thread is blocked in the user's object."""
    near, far = socket.socketpair()
    client: Litter = [muxado.client(Plain(near))]
    server = muxado.server(far)
    sessions.keep(server)
    held = [client[0].open()]
    held[0].sendall(b"x")
    with accept(server) as stream:
        assert stream.recv(1) == b"x"
        drop(held)
        assert stream.recv(1) == b""
    threads = threads_of(client[0])
    drop(client)
    assert server.wait(GUARD).code == ErrorCode.NO_ERROR
    for thread in threads:
        thread.join(GUARD)
        assert not thread.is_alive()


def test_the_warning_is_an_error(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    """With -W error the warning ends the finalizer: by then the rest of it must be done."""
    client, server = sessions.socketpair()
    caught = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: caught.append(args.exc_type))
    held: Litter = [client.open()]
    held[0].sendall(b"x")
    with accept(server) as stream, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert stream.recv(1) == b"x"
        held.clear()
        assert stream.recv(1) == b""
    near, far = socket.socketpair()
    held.append(muxado.client(near))
    threads = threads_of(held[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        held.clear()
    for thread in threads:
        thread.join(GUARD)
        assert not thread.is_alive()
    assert caught == [ResourceWarning] * 2
    far.close()


@pytest.mark.parametrize("end", ["this", "the peer's"])
def test_close_does_not_wait_for_bytes_that_nothing_can_send(
    sessions: Sessions, crew: Crew, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """They were left by a file's finalizer, and the stream takes no more."""
    pair = sessions.socketpair(linger=10 * GUARD, heartbeat_interval=None)
    near, far = streams(pair)
    if end == "this":
        near.shutdown(socket.SHUT_WR)
    else:
        far.reset()
        with pytest.raises(muxado.StreamReset):
            near.recv(1)
    files = [near.makefile("wb")]
    files[0].write(b"lost")
    engine = pair[0]._engine
    writer, wake = engine._writer_waiter, engine._wake_locked
    until(lambda: engine._writer_parked)
    # The writer thread looks only once somebody waits for it, if it does not happen to nap.
    monkeypatch.setattr(engine, "_rouse", lambda: None)
    monkeypatch.setattr(engine, "_wake_locked", lambda who: None if who is writer else wake(who))
    files.clear()
    closing = crew.start(pair[0].close)
    until(lambda: engine.blocked() or engine.death is not None)
    monkeypatch.undo()
    with engine._lock:
        wake(writer)
    closing.result()


@pytest.mark.parametrize("left", [b"", b"bytes"])
def test_a_stream_is_dropped_while_its_reader_reads_for_everybody(
    sessions: Sessions, crew: Crew, left: bytes
) -> None:
    pair = sessions.socketpair(heartbeat_interval=None)
    near, far = streams(pair)
    engine = pair[0]._engine
    file = near.makefile("wb")
    while True:
        reading = crew.start(near.recv, 1)
        waiting(pair[0], 1)
        if isinstance(engine._reading, list):
            break
        far.sendall(b"x")  # the reader thread, which sits, sees that there is a caller, and goes
        assert reading.result() == b"x"
    file.write(left)
    near.close()
    del file
    with pytest.raises(OSError, match="Bad file descriptor"):
        reading.result()
    far.close()
