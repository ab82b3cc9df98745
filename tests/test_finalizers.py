"""Finalizers that run where the collector strikes: in a thread that is inside a critical section.

Most are those of files: a stream that was closed while it had a file ends with the file.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any

import pytest

import muxado

from .conformance.crew import GUARD, Crew
from .gates import Gate, Once, before
from .support import (
    DATA,
    FIN,
    SYN,
    WNDINC,
    RawPeer,
    Sessions,
    frame,
    streams,
    until,
)

Litter = list[Any]


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Garbage is collected when the test says so."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def half_closed(stream: muxado.Stream) -> Any:
    """A file of ``stream``, which is closed and lives on for it, as in ``http.client``.

    The finalizer of such a file closes the stream for good.
    """
    file = stream.makefile("rb")
    stream.close()
    return file


def accept(session: muxado.Session) -> muxado.Stream:
    session.settimeout(GUARD)
    stream, _ = session.accept()
    stream.settimeout(GUARD)
    return stream


@pytest.mark.parametrize("where", ["session", "tls"])
@pytest.mark.usefixtures("no_collector")
def test_a_file_is_collected_inside_a_lock(
    sessions: Sessions, crew: Crew, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The collector strikes a thread that holds the lock which closing a stream takes."""
    pair = sessions.tls() if where == "tls" else sessions.socketpair()
    near, far = streams(pair)
    engine = pair[0]._engine
    cycle: Litter = [half_closed(pair[0].open())]
    cycle.append(cycle)
    del cycle
    doomed = accept(pair[1])
    inside = []

    def collect() -> None:
        inside.append(engine._inside())
        gc.collect()

    owner, name = (
        (engine.transport._tls, "write")  # type: ignore[attr-defined]
        if where == "tls"
        else (engine.protocol, "data_header")
    )
    before(monkeypatch, owner, name, Once(collect))
    crew.start(near.sendall, b"x").result()
    assert inside == [True]
    assert far.recv(1) == b"x"
    assert doomed.recv(1) == b""
    doomed.close()


def test_files_are_collected_inside_each_others_lock(
    sessions: Sessions, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two sessions, two threads, each inside its session's lock when a file of the other's goes."""
    pairs = [sessions.socketpair() for _ in range(2)]
    ends = [streams(pair) for pair in pairs]
    held = [[half_closed(client.open())] for client, _ in pairs]
    both = threading.Barrier(2)

    def collect(number: int) -> None:
        both.wait(GUARD)
        held[number].clear()

    for number, (client, _) in enumerate(pairs):
        strike = Once(partial(collect, 1 - number))
        before(monkeypatch, client._engine.protocol, "data_header", strike)
    for task in [crew.start(near.sendall, b"x") for near, _ in ends]:
        task.result()
    for client, _ in pairs:
        until(lambda: client.stats().streams == 1)  # noqa: B023


def test_a_file_with_bytes_to_send_is_collected_inside_a_lock(
    sessions: Sessions, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its finalizer would send them, in a thread that may not wait there: the session goes on."""
    pair = sessions.socketpair()
    near, far = streams(pair)
    caught = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: caught.append(args.exc_type))
    stream = pair[0].open()
    held = [stream.makefile("wb")]
    held[0].write(b"late")
    stream.close()
    del stream
    before(monkeypatch, pair[0]._engine.protocol, "data_header", Once(held.clear))
    crew.start(near.sendall, b"x").result()
    assert far.recv(1) == b"x"
    until(lambda: pair[0].stats().streams == 1)
    assert caught in ([], [RuntimeError])  # CPython tells of it since 3.13


def test_a_file_dies_at_every_line(sessions: Sessions, crew: Crew) -> None:
    """A stream's last file goes at each line of the session's that a round trip runs, in turn."""
    pair = sessions.socketpair()
    near, far = streams(pair)
    near.settimeout(GUARD)

    def echo() -> None:
        while data := far.recv(1):
            far.sendall(data)

    def close_all() -> None:
        for stream in pair[1]:
            stream.close()

    crew.start(close_all)
    echoing = crew.start(echo)

    def strike(line: int) -> bool:
        """One round trip; whether it came to ``line`` of its lines."""
        held = [half_closed(pair[0].open())]
        left = line

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal left
            if f"{os.sep}muxado{os.sep}" not in frame.f_code.co_filename:
                return None
            left -= event == "line"
            if not left:
                held.clear()
            return trace

        tracing = sys.gettrace()
        sys.settrace(trace)
        try:
            near.sendall(b"x")
            assert near.recv(1) == b"x"
        finally:
            sys.settrace(tracing)
        if not held:
            return True
        held.clear()
        return False

    def strikes() -> int:
        line = 1
        while strike(line):
            line += 1
        return line

    assert crew.start(strikes).result() > 50
    until(lambda: pair[0].stats().streams == 1)
    near.shutdown(socket.SHUT_WR)
    echoing.result()


@pytest.mark.parametrize("how", ["finalizer", "close"])
def test_a_stream_goes_while_window_updates_are_written(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """It is one of those whose updates are being written, and its end takes it out of them."""
    peer = raw(window=4096)
    engine = peer.session._engine
    peer.send(*[frame(DATA, SYN, number) for number in (3, 5, 7)])
    doomed, other, third = [accept(peer.session) for _ in range(3)]
    with Gate() as gate:
        before(monkeypatch, engine.transport, "send", gate.stop)
        sending = crew.start(third.sendall, b"x")
        gate.reached()
        for stream in (doomed, other):
            peer.send(frame(DATA, 0, stream.id, bytes(3000)))
            assert len(stream.recv(3000, socket.MSG_WAITALL)) == 3000
        if how == "close":
            end = Once(doomed.close)
        else:
            held = [half_closed(doomed)]
            end = Once(held.clear)
        del doomed, stream
        before(monkeypatch, engine.protocol.codec, "window", end)
        gate.open()
        sending.result()
    assert peer.expect(DATA, 7).body == b"x"
    assert [peer.expect(WNDINC, number).word for number in (3, 5)] == [3000, 3000]
    assert peer.expect(DATA, 3).flags == FIN
    other.close()
    third.close()


@pytest.mark.parametrize("where", ["_is_readable", "_is_writable"])
def test_a_descriptor_is_closed_while_it_is_brought_up(
    raw: Callable[..., RawPeer], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """A stream's last file goes in the thread that is just bringing up its descriptor."""
    peer = raw()
    peer.send(frame(DATA, SYN, 3), frame(DATA, SYN, 5))
    stream, other = accept(peer.session), accept(peer.session)
    descriptor = stream.fileno()
    readiness = stream._readiness
    held = [half_closed(stream)]
    before(monkeypatch, readiness, where, Once(held.clear))
    del stream, readiness
    peer.send(frame(DATA, 0, 3, b"news"))
    until(lambda: not held)
    peer.send(frame(DATA, 0, 5, b"and on"))
    assert other.recv(6) == b"and on"
    other.close()
    monkeypatch.undo()

    def closed() -> bool:
        try:
            os.fstat(descriptor)
        except OSError:
            return True
        return False

    until(closed)  # the thread that brought it up may hold it for a moment
