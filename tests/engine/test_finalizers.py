"""Finalizers that run where the collector strikes: in a thread that is inside a critical section.

Most are those of files: a stream that was closed while it had a file ends with the file.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any

import pytest

import muxado
from muxado.engine.core import Core
from muxado.engine.waiting import WaitQueue
from muxado.engine.writing import Turn

from ..helpers.crew import GUARD, Crew
from ..helpers.gates import Gate, Once, Plain, after, before, polls
from ..helpers.support import (
    DATA,
    FIN,
    SYN,
    WNDINC,
    RawPeer,
    Sessions,
    frame,
    read_all,
    streams,
    until,
    waiting,
)

Litter = list[Any]


def held_here(engine: Any, where: str) -> bool:
    """Whether this thread has the session's lock, or its connection's."""
    lock = engine.transport._lock if where == "tls" else engine.core.lock
    owned: bool = lock._is_owned()
    return owned


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
        inside.append(held_here(engine, where))
        gc.collect()

    owner, name = (
        (engine.transport._tls, "write")  # type: ignore[attr-defined]
        if where == "tls"
        else (engine.core.protocol, "data_header")
    )
    before(monkeypatch, owner, name, Once(collect))
    crew.start(near.sendall, b"x").result()
    assert far.recv(1) == b"x"  # which another thread may have written
    assert inside == [True]
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
        before(monkeypatch, client._engine.core.protocol, "data_header", strike)
    for task in [crew.start(near.sendall, b"x") for near, _ in ends]:
        task.result()
    for client, _ in pairs:
        until(lambda: client.stats().streams == 1)  # noqa: B023


def unflushed(stream: muxado.Stream, mode: str = "wb", text: str = "late") -> Any:
    """A file of ``stream``, which is closed and lives on for it, with bytes in its buffer.

    The finalizer of such a file sends them, and then closes the stream for good.
    """
    file = stream.makefile(mode) if "b" in mode else stream.makefile(mode, encoding="ascii")
    file.write(text.encode() if "b" in mode else text)
    stream.close()
    return file


@pytest.mark.parametrize("mode", ["wb", "rwb", "w", "rw"])
@pytest.mark.parametrize("where", ["session", "other", "tls", "descriptor", "listener"])
def test_a_file_with_bytes_to_send_is_collected_inside_a_lock(
    sessions: Sessions, crew: Crew, monkeypatch: pytest.MonkeyPatch, where: str, mode: str
) -> None:
    """Its finalizer may not wait there, nor be refused: the peer gets them."""
    pair = sessions.tls() if where == "tls" else sessions.socketpair()
    other = sessions.socketpair() if where == "other" else pair
    near, far = streams(other)
    caught = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: caught.append(args.exc_type))
    held = [unflushed(pair[0].open(), mode)]
    strike = Once(held.clear)
    engine = other[0]._engine
    if where == "listener":
        with muxado.listen(("127.0.0.1", 0)) as listening:
            waiting_there = listening._acceptor.waiting

            def strike_there(queue: WaitQueue) -> None:
                if queue is waiting_there:
                    strike()

            before(monkeypatch, WaitQueue, "wake_all", strike_there)
            sessions.keep(muxado.dial(listening.getsockname()))
            listening.settimeout(GUARD)
            sessions.keep(listening.accept()[0])
    elif where == "descriptor":
        near.fileno()
        before(monkeypatch, near._readiness, "_is_readable", strike)
    else:
        owner = engine.transport._tls if where == "tls" else engine.core.protocol  # type: ignore[attr-defined]
        before(monkeypatch, owner, "write" if where == "tls" else "data_header", strike)
    crew.start(near.sendall, b"x").result()
    assert far.recv(1) == b"x"
    assert not held
    with accept(pair[1]) as doomed:
        assert read_all(doomed) == b"late"
    until(lambda: pair[0].stats().streams == (pair is other))
    assert caught == []


def test_files_with_bytes_are_collected_inside_each_others_lock(
    sessions: Sessions, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two sessions, two threads, and no window left for what either's file would send."""
    pairs = [sessions.socketpair(window=1000, max_window=1000) for _ in range(2)]
    ends = [streams(pair) for pair in pairs]
    full = [streams(pair) for pair in pairs]
    held = []
    for near, _ in full:
        near.sendall(b"-" * 990)
        held.append([unflushed(near, text="late" * 10)])
    del near
    both = threading.Barrier(2)

    def collect(number: int) -> None:
        both.wait(GUARD)
        held[number].clear()
        both.wait(GUARD)

    for number, (client, _) in enumerate(pairs):
        strike = Once(partial(collect, 1 - number))
        before(monkeypatch, client._engine.core.protocol, "data_header", strike)
    for task in [crew.start(near.sendall, b"x") for near, _ in ends]:
        task.result()
    for (client, _), (_, far) in zip(pairs, full, strict=True):
        far.settimeout(GUARD)
        assert read_all(far) == b"-" * 990 + b"late" * 10
        far.close()
        until(lambda: client.stats().streams == 1)  # noqa: B023


class TestWhatAFileLeaves:
    """Bytes of a file that was dropped before it was flushed."""

    @pytest.mark.parametrize("then", ["sendall", "close"])
    def test_they_go_first_though_their_note_is_being_carried_out(
        self, sessions: Sessions, monkeypatch: pytest.MonkeyPatch, then: str
    ) -> None:
        """The writer thread has begun with the note and has not put the bytes in their place."""
        pair = sessions.socketpair()
        near, far = streams(pair)
        far.settimeout(GUARD)
        near.sendall(b"0123456")
        engine = pair[0]._engine
        with Gate() as gate:
            before(monkeypatch, engine.streams, "_in_order", gate.stop)
            file = near.makefile("wb")
            file.write(b"first")
            del file
            gate.reached()
            # The look that tells the call to wait opens the gate; a call that does not wait opens
            # it when it has returned, which is too late.
            if then == "sendall":
                before(monkeypatch, engine.reading, "wait", lambda *_: gate.open())
                near.sendall(b"second")
            else:
                after(monkeypatch, engine.writing, "until_flushed", gate.open)
                pair[0].close()
        expected = b"0123456first" + (b"second" if then == "sendall" else b"")
        assert far.recv(len(expected), socket.MSG_WAITALL) == expected

    @pytest.mark.parametrize("window", [4096, 10], ids=["window", "no-window"])
    @pytest.mark.parametrize("then", ["sendall", "send-now", "shutdown", "close", "file"])
    def test_they_go_before_what_is_done_next(
        self,
        sessions: Sessions,
        crew: Crew,
        monkeypatch: pytest.MonkeyPatch,
        then: str,
        window: int,
    ) -> None:
        """Though the writer thread has not looked since."""
        pair = sessions.socketpair(window=window, max_window=window)
        near, far = streams(pair)
        far.settimeout(GUARD)
        near.sendall(b"0123456")
        reading = crew.start(read_all, far) if window == 4096 else None
        file = near.makefile("wb")
        file.write(b"first")
        core = pair[0]._engine.core
        with monkeypatch.context() as busy:
            busy.setattr(Core, "carry_out_notes", lambda _: None)  # the writer thread has no time
            del file
        if then == "sendall":
            doing = crew.start(near.sendall, b"second")
        elif then == "send-now":
            doing = crew.start(self.send_now, near, b"second")
        elif then == "file":
            near.makefile("wb").write(b"second")
            doing = crew.start(near.close)
        else:
            doing = crew.start(near.shutdown, socket.SHUT_WR)
        if then == "close":
            doing.result()
            doing = crew.start(near.close)
        core.writer_waiter.wake()
        if reading is None:
            reading = crew.start(read_all, far)
        doing.result()
        near.close()
        second = b"" if then in ("shutdown", "close") else b"second"
        assert reading.result() == b"0123456first" + second
        far.close()
        until(lambda: pair[0].stats().streams == 0)

    @staticmethod
    def send_now(stream: muxado.Stream, data: bytes) -> None:
        stream.setblocking(False)
        while data:
            try:
                data = data[stream.send(data) :]
            except BlockingIOError:
                select.select([], [stream], [], GUARD)

    def test_they_wait_for_another_threads_write(self, sessions: Sessions, crew: Crew) -> None:
        pair = sessions.socketpair(window=1000, max_window=1000)
        near, far = streams(pair)
        far.settimeout(GUARD)
        held = [near.makefile("wb")]
        held[0].write(b"late")
        sending = crew.start(near.sendall, b"-" * 5000)
        waiting(pair[0], 1)
        held.clear()
        assert far.recv(5004, socket.MSG_WAITALL) == b"-" * 5000 + b"late"
        sending.result()
        until(lambda: "dropped file" not in repr(near))

    def test_a_descriptor_says_that_others_must_wait_for_them(
        self, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Or a program that polls would try over and over."""
        pair = sessions.socketpair(heartbeat_interval=None)
        near, far = streams(pair)
        far.settimeout(GUARD)
        near.setblocking(False)
        assert polls(near, select.POLLOUT)
        with Gate() as gate:
            before(monkeypatch, pair[0]._engine.sender, "send", gate.stop)
            held = [near.makefile("wb")]
            held[0].write(b"late")
            held.clear()
            gate.reached()
            with pytest.raises(BlockingIOError):
                near.send(b"x")
            assert not polls(near, select.POLLOUT)
        until(lambda: polls(near, select.POLLOUT))
        assert near.send(b"x") == 1
        assert far.recv(5, socket.MSG_WAITALL) == b"latex"

    @pytest.mark.parametrize("closed", [True, False])
    def test_close_flushes_them(
        self, sessions: Sessions, crew: Crew, monkeypatch: pytest.MonkeyPatch, closed: bool
    ) -> None:
        """The session's: it waits for window, as it does for the connection."""
        options = {"window": 1000, "max_window": 1000, "heartbeat_interval": None, "linger": 1000}
        pair = sessions.socketpair(**options)
        near, far = streams(pair)
        engine = pair[0]._engine
        near.sendall(b"-" * 1000)
        held = [near.makefile("wb")]
        held[0].write(b"late")
        if closed:
            near.close()
        held.clear()
        until(lambda: "dropped file" in repr(near))
        closing = crew.start(pair[0].close)
        waiting(pair[0], 1)
        until(lambda: engine.writing.parked)
        far.settimeout(GUARD)
        assert far.recv(1004, socket.MSG_WAITALL) == b"-" * 1000 + b"late"
        closing.result()

    @pytest.mark.parametrize("blocking", [True, False])
    def test_nothing_overtakes_them_when_the_send_before_is_over(
        self, sessions: Sessions, blocking: bool
    ) -> None:
        """It is their turn, and the writer thread does not know yet when another sends."""
        pair = sessions.socketpair(window=1000, max_window=1000, heartbeat_interval=None)
        near, far = streams(pair)
        engine, state = pair[0]._engine, near._state
        near.sendall(b"-" * 1000)
        with engine.core.lock:
            state.write = Turn(state, b"before", 0)
        held = [near.makefile("wb")]
        held[0].write(b"late")
        held.clear()
        until(lambda: state in engine.core.orphans)
        with engine.core.lock:
            state.write = None
        far.settimeout(GUARD)
        assert far.recv(1000, socket.MSG_WAITALL) == b"-" * 1000
        until(lambda: state.send.left)
        near.setblocking(blocking)
        sent = False
        while not sent:
            with contextlib.suppress(BlockingIOError):
                near.sendall(b"behind")
                sent = True
        assert far.recv(10, socket.MSG_WAITALL) == b"latebehind"

    @pytest.mark.parametrize("end", ["reset", "peer-reset", "kill"])
    def test_they_end_with_the_stream(self, sessions: Sessions, crew: Crew, end: str) -> None:
        """There is no window for them, and there never will be."""
        pair = sessions.socketpair(window=1000, max_window=1000)
        near, far = streams(pair)
        near.sendall(b"-" * 1000)
        held = [near.makefile("wb")]
        held[0].write(b"late")
        held.clear()
        until(lambda: "dropped file" in repr(near))
        if end == "kill":
            pair[0].kill()
        else:
            (near if end == "reset" else far).reset()
            until(lambda: pair[0].stats().streams == 0)
        until(lambda: not pair[0]._engine.core.orphans)
        assert crew.start(pair[0].close).result() is None

    def test_over_a_connection_that_only_blocks(self, sessions: Sessions) -> None:
        near, far = socket.socketpair()
        client = muxado.client(Plain(near), window=10)
        server = muxado.server(far, window=10)
        sessions.keep(client, server)
        held = [unflushed(client.open(), text="late" * 100)]
        held.clear()
        with accept(server) as stream:
            assert read_all(stream) == b"late" * 100
        until(lambda: client.stats().streams == 0)


@pytest.mark.parametrize("what", ["unflushed", "file", "stream", "session"])
def test_no_finalizer_takes_a_lock(sessions: Sessions, crew: Crew, what: str) -> None:
    """Another thread is inside of all that there are, while it runs."""
    pair = sessions.tls()
    near, far = streams(pair)
    near.fileno()
    engine, readiness = pair[0]._engine, near._readiness
    assert readiness is not None
    locks: list[Any] = [
        readiness._lock,
        engine.core.lock,
        engine.transport._lock,  # type: ignore[attr-defined]
    ]
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with contextlib.ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            inside.set()
            assert leave.wait(GUARD)

    held: Litter = []
    if what == "session":
        end = socket.socketpair()
        session = muxado.client(end[0])
        locks.append(session._engine.core.lock)
        held.append(session)
        sessions.keep(muxado.server(end[1]))
        del session
    else:
        stream = pair[0].open()
        stream.fileno()
        locks.append(stream._readiness._lock)  # type: ignore[union-attr]
        if what == "stream":
            held.append(stream)
        else:
            held.append((unflushed if what == "unflushed" else half_closed)(stream))
        del stream
    holding = crew.start(hold)
    assert inside.wait(GUARD)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            crew.start(held.clear).result()
    finally:
        leave.set()
    holding.result()
    near.sendall(b"and on")
    assert far.recv(6) == b"and on"


@pytest.mark.parametrize("make", [half_closed, unflushed])
def test_a_file_dies_at_every_line(
    sessions: Sessions, crew: Crew, make: Callable[..., Any]
) -> None:
    """A stream's last file goes at each line of the session's that a round trip runs, in turn."""
    pair = sessions.socketpair()
    near, far = streams(pair)
    near.settimeout(GUARD)

    def echo() -> None:
        while data := far.recv(1):
            far.sendall(data)

    arrived: list[bytes] = []

    def take_all() -> None:
        for stream in pair[1]:
            with stream:
                stream.settimeout(GUARD)
                arrived.append(read_all(stream))

    crew.start(take_all)
    echoing = crew.start(echo)

    def strike(line: int) -> bool:
        """One round trip; whether it came to ``line`` of its lines."""
        held = [make(pair[0].open())]
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

    count = crew.start(strikes).result()
    assert count > 50
    until(lambda: pair[0].stats().streams == 1)
    until(lambda: len(arrived) == count)
    assert set(arrived) == {b"late" if make is unflushed else b""}
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
        before(monkeypatch, engine.core.protocol.codec, "window", end)
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
