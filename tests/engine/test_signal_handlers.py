"""Handlers of signals that use the session whose call they interrupt."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

import muxado
from muxado import ErrorCode
from muxado.engine import Engine
from muxado.engine.shared import REENTERED

from ..helpers.crew import GUARD, Crew
from ..helpers.gates import Once, after, before, polls
from ..helpers.support import Sessions, read_all, streams, threads_of, until, waiting

#: What a handler may do to the session and stream whose call it interrupts, or to another stream.
ACTIONS: dict[str, Callable[[muxado.Session, muxado.Stream, muxado.Stream], object]] = {
    "stats": lambda session, stream, other: session.stats(),
    "open": lambda session, stream, other: session.open().close(),
    "close-other": lambda session, stream, other: other.close(),
    "accept": lambda session, stream, other: session.accept(),
    "recv": lambda session, stream, other: other.recv(1),
    "recv-into": lambda session, stream, other: other.recv_into(bytearray(1)),
    "send": lambda session, stream, other: other.send(b"x"),
    "sendall": lambda session, stream, other: other.sendall(b"x"),
    "send-now": lambda session, stream, other: other.send(b"x", socket.MSG_DONTWAIT),
    "drain": lambda session, stream, other: session.drain(),
    "close": lambda session, stream, other: session.close(),
    "kill": lambda session, stream, other: session.kill(),
}


@contextlib.contextmanager
def nobody_reads(engine: Engine) -> Iterator[None]:
    """As if the read seat were free, for a call that must not take it."""
    with engine._lock:
        reading, engine._reading = engine._reading, None
    try:
        yield
    finally:
        with engine._lock:
            engine._reading = reading


WAITING = ["accept", "recv", "recv-into"]


@pytest.mark.parametrize(
    ("name", "free"), [(name, False) for name in ACTIONS] + [(name, True) for name in WAITING]
)
def test_a_handler_inside_the_lock(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch, name: str, free: bool
) -> None:
    """A signal arrives in the main thread while that holds the session's lock.

    What would wait is refused, the end of the session comes a moment later, the rest is done.
    """
    pair = sessions.socketpair(heartbeat_interval=None)
    near, far = streams(pair)
    other, far_other = streams(pair)
    engine = pair[0]._engine
    outcome: list[object] = []

    def handler(*_: object) -> None:
        assert engine._inside()
        try:
            with nobody_reads(engine) if free else contextlib.nullcontext():
                outcome.append(ACTIONS[name](pair[0], near, other))
        except RuntimeError as error:
            outcome.append(error)

    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        strike = Once(lambda: signal.raise_signal(signal.SIGUSR1))
        after(monkeypatch, engine.protocol, "data_header", strike)
        near.sendall(b"x")
    except muxado.SessionClosed:
        assert name in ("close", "kill")
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert len(outcome) == 1
    if name in ("close", "kill"):
        assert pair[0].wait(GUARD).code == ErrorCode.NO_ERROR
        end = pair[1].wait(GUARD)
        assert end.code == (ErrorCode.NO_ERROR if name == "close" else ErrorCode.PEER_EOF)
        until(lambda: not threads_of(pair[0]))
        return
    refused = name in ("accept", "recv", "recv-into", "drain", "send", "sendall", "send-now")
    assert (str(outcome[0]) == REENTERED) == refused
    assert far.recv(1) == b"x"
    if name == "close-other":
        assert read_all(far_other) == b""
    near.sendall(b"and on")
    assert far.recv(6) == b"and on"


@pytest.mark.parametrize("name", ["accept", "recv", "drain"])
def test_a_handler_in_the_write_seat_waits_for_nobody(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What it would wait for may be the answer to what its own thread is just sending."""
    pair = sessions.socketpair(heartbeat_interval=None)
    near, far = streams(pair)
    other, _ = streams(pair)
    until(lambda: not pair[0]._engine._writing)  # or the writer thread would take it along
    outcome: list[object] = []

    def handler(*_: object) -> None:
        with nobody_reads(pair[0]._engine), pytest.raises(RuntimeError) as caught:
            ACTIONS[name](pair[0], near, other)
        outcome.append(str(caught.value))

    strike = Once(lambda: signal.raise_signal(signal.SIGUSR1))

    def strike_here(*_: object) -> None:
        if threading.current_thread() is threading.main_thread():  # not while the writer sends
            strike()

    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        before(monkeypatch, pair[0]._engine.transport, "send", strike_here)
        near.sendall(b"x")
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert outcome == [REENTERED]
    assert far.recv(1) == b"x"


@pytest.mark.parametrize("where", ["_is_readable", "_is_writable"])
def test_a_handler_closes_a_stream_whose_descriptor_is_brought_up(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """A signal arrives in a recv that has its bytes and is just bringing up the descriptor."""
    near, far = streams(sessions.socketpair())
    near.sendall(b"news")
    descriptor = far.fileno()
    until(lambda: polls(far, select.POLLIN))
    before(monkeypatch, far._readiness, where, Once(far.close))
    assert far.recv(4) == b"news"
    assert far.fileno() == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    assert read_all(near) == b""


@pytest.mark.parametrize("end", ["close", "kill"])
@pytest.mark.parametrize("call", ["accept", "recv", "sendall"])
def test_a_handler_ends_the_session_whose_call_it_interrupts(
    sessions: Sessions, crew: Crew, call: str, end: str
) -> None:
    """The main thread is blocked, perhaps in a seat that nobody else gets before it goes on."""
    pair = sessions.tcp(buffers=4096, linger=5.0)
    near, far = streams(pair)
    calls: dict[str, Callable[[], object]] = {
        "accept": pair[0].accept,
        "recv": lambda: near.recv(1),
        "sendall": lambda: near.sendall(bytes(2**20)),
    }
    handled: list[None] = []

    def handler(*_: object) -> None:
        handled.append(None)
        getattr(pair[0], end)()

    def strike() -> None:
        waiting(pair[0], 1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        if call == "sendall":  # close() flushes what it can
            with contextlib.suppress(OSError):
                while far.recv(65536):
                    pass

    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        striking = crew.start(strike)
        with contextlib.suppress(muxado.SessionClosed):
            calls[call]()
            assert (call, end) == ("sendall", "close")
    finally:
        signal.signal(signal.SIGUSR1, previous)
    striking.result()
    assert handled == [None]
    assert pair[0].wait(GUARD).error is None
    until(lambda: not threads_of(pair[0]))


def test_a_handler_takes_no_stream_that_its_own_thread_is_just_taking(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = sessions.socketpair()
    opened = [pair[1].open() for _ in range(2)]
    for stream, data in zip(opened, (b"1", b"2"), strict=True):
        stream.sendall(data)
    engine = pair[0]._engine
    until(lambda: len(engine.protocol.backlog) == 2)
    outcome: list[str] = []

    def handler(*_: object) -> None:
        with pytest.raises(RuntimeError) as caught:
            pair[0].accept()
        outcome.append(str(caught.value))

    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        strike = Once(lambda: signal.raise_signal(signal.SIGUSR1))
        before(monkeypatch, engine.protocol, "accept", strike)
        accepted = [pair[0].accept()[0] for _ in range(2)]
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert outcome == [REENTERED]
    assert [stream.recv(1) for stream in accepted] == [b"1", b"2"]
    for stream in [*opened, *accepted]:
        stream.close()


def test_a_handler_in_the_read_seat_is_told_of_the_end(sessions: Sessions) -> None:
    """It has not to wait for that."""
    session = sessions.socketpair()[0]
    session.kill()
    until(lambda: not threads_of(session))
    engine = session._engine
    with engine._lock:
        engine._sit_locked([])
    try:
        with pytest.raises(muxado.SessionClosed):
            session.accept()
    finally:
        engine._reading = None
