"""Streams and sessions that are dropped without close(), at any moment of the session's threads.

Their finalizers may not wait, and what they ask for may not get lost.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import muxado
from muxado import ErrorCode
from muxado.engine.core import Core
from muxado.engine.keepalive import Keepalive

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
    """It is dropped in that thread itself, inside of a section, behind its look at what was."""
    client, server = sessions.socketpair()
    with client.open() as near:
        near.settimeout(GUARD)
        near.sendall(b"x")
        held = [accept(server)]
        assert held[0].recv(1) == b"x"
        engine = server._engine
        dropping = Once(lambda: drop(held))

        def look(keepalive: Keepalive, now: float) -> None:
            if keepalive is engine.keepalive:
                dropping()

        until(lambda: engine.writing.parked)
        before(monkeypatch, Keepalive, "look", look)
        engine.core.writer_waiter.wake()  # for nothing: after this one look it sleeps again
        assert near.recv(1) == b""
        assert not held


def test_a_stream_is_dropped_between_dispatch_and_its_descriptor(
    raw: Callable[..., RawPeer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader thread has taken down which descriptors to bring up, and its stream goes."""
    peer = raw()
    peer.send(frame(DATA, SYN, 3), frame(DATA, SYN, 5))
    held, other = [accept(peer.session)], accept(peer.session)
    held[0].fileno()
    engine = peer.session._engine
    dropping = Once(lambda: drop(held))

    def settle(core: Core) -> None:
        if core is engine.core and core.stale:
            dropping()

    before(monkeypatch, Core, "settle", settle)
    peer.send(frame(DATA, 0, 3, b"news"))
    until(lambda: not held)
    until(lambda: peer.session.stats().streams == 1)
    peer.send(frame(DATA, 0, 5, b"and on"))
    assert other.recv(6) == b"and on"
    assert engine.reading.pins == 0
    other.close()


def test_close_flushes_for_what_was_dropped(raw: Callable[..., RawPeer]) -> None:
    """The session is closed before the writer thread has seen that a stream was dropped."""
    peer = raw()
    peer.send(frame(DATA, SYN, 3))
    held = [accept(peer.session)]
    drop(held)
    peer.session.close()
    assert peer.expect(DATA, 3).flags == FIN
    peer.expect(GOAWAY, 0)


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What is given back meanwhile is given back without the garbage collector."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("end", ["none", "this side's", "the peer's"])
def test_a_dropped_stream_gives_its_descriptors_back(sessions: Sessions, end: str) -> None:
    """At once, whether its session lives or has ended."""
    client, server = sessions.socketpair()
    with client.open() as near:
        near.sendall(b"x")
        held = [accept(server)]
        descriptor = held[0].fileno()
        if end == "this side's":
            server.close()
        elif end == "the peer's":
            client.close()
            server.wait(GUARD)
            until(lambda: not threads_of(server))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            held.clear()
        until(lambda: not is_open(descriptor))


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("end", ["none", "this side's", "the peer's"])
def test_a_dropped_session_gives_its_descriptors_back(end: str) -> None:
    """Its threads bring up the descriptor for the last time when nobody holds it any more."""
    near, far = socket.socketpair()
    held: Litter = [muxado.server(near)]
    descriptor = held[0].fileno()
    far.settimeout(GUARD)
    if end == "this side's":
        held[0].close()
    elif end == "the peer's":
        far.shutdown(socket.SHUT_WR)
        held[0].wait(GUARD)
        threads = threads_of(held[0])
        until(lambda: not any(thread.is_alive() for thread in threads))
        del threads
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        held.clear()
    assert far.recv(8)[3] >> 4 == GOAWAY
    far.close()
    until(lambda: not is_open(descriptor))


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
    sessions: Sessions, crew: Crew, end: str
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
    files.clear()
    closing = crew.start(pair[0].close)
    closing.result()
    far.close()


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
        if engine.core.leader not in (None, engine.core.reader_waiter):
            break
        far.sendall(b"x")  # the reader thread, which sits, sees that there is a caller, and goes
        assert reading.result() == b"x"
    file.write(left)
    near.close()
    del file
    with pytest.raises(OSError, match="Bad file descriptor"):
        reading.result()
    far.close()
