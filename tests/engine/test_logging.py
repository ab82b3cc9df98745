"""Logging of events and frames: what is said, and that it is said without the session's lock."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

import pytest

import muxado
from muxado import ErrorCode
from muxado.engine.notes import Notes

from ..helpers.crew import GUARD, Crew
from ..helpers.support import (
    DATA,
    FIN,
    GOAWAY,
    RST,
    SYN,
    WNDINC,
    RawPeer,
    Sessions,
    frame,
    streams,
    until,
    word,
)

Raw = Callable[..., RawPeer]

EVENTS, FRAMES = logging.getLogger("muxado"), logging.getLogger("muxado.frames")


class Listening(logging.Handler):
    """Keeps what it is told, and does something each time."""

    def __init__(self, action: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.action = action
        self.lines: list[str] = []
        self.errors: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        try:
            self.action()
        except Exception as error:
            self.errors.append(error)


@pytest.fixture
def listen() -> Iterator[Callable[..., Listening]]:
    """Attach a handler to one of the loggers, at DEBUG, for the test."""
    attached: list[tuple[logging.Logger, logging.Handler, int]] = []

    def attach(logger: logging.Logger, action: Callable[[], object] = lambda: None) -> Listening:
        handler = Listening(action)
        attached.append((logger, handler, logger.level))
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        return handler

    yield attach
    for logger, handler, level in reversed(attached):
        logger.removeHandler(handler)
        logger.setLevel(level)


Listen = Callable[..., Listening]


def test_events(listen: Listen, raw: Raw) -> None:
    told = listen(EVENTS)
    FRAMES.setLevel(logging.INFO)
    try:
        peer = raw(client=False, accept_backlog=1, heartbeat_interval=0.02)
    finally:
        FRAMES.setLevel(logging.NOTSET)
    name = peer.session._engine.name
    probe = peer.expect(DATA, 0x7FFFFFFE)
    peer.send(frame(RST, 0, probe.stream_id, word(ErrorCode.STREAM_CLOSED)))
    until(lambda: peer.session.latency is not None)
    peer.send(frame(DATA, SYN, 3), frame(DATA, SYN, 5), frame(DATA, SYN, 7))
    until(lambda: peer.session.stats().refused == 2)
    peer.session.go_away(ErrorCode.NO_ERROR, b"")
    peer.send(frame(GOAWAY, 0, 0, word(0) + word(ErrorCode.INTERNAL_ERROR) + b"oops"))
    peer.sock.close()
    peer.session.wait(GUARD)
    peer.session.close()
    lines = [line.removeprefix(f"{name}: ") for line in told.lines]
    assert all(line.startswith(f"{name}: ") for line in told.lines)
    assert lines[0].startswith("a session of version 2 with ")
    assert any(line.startswith("heartbeat answered after 0.") for line in lines)
    assert "going away: NO_ERROR" in lines
    assert "the peer is going away: INTERNAL_ERROR, last stream 0, b'oops'" in lines
    refused = [line for line in lines if line.endswith("of the peer's refused")]
    assert sum(int(line.split()[0]) for line in refused) == 2
    assert lines[-1].startswith("the session is over: SessionEnd(code=<ErrorCode.INTERNAL_ERROR")
    assert len(lines) < 40


def test_frames(listen: Listen, raw: Raw) -> None:
    told = listen(FRAMES)
    peer = raw(client=True, heartbeat_interval=None)
    with peer.session.open() as stream:
        stream.sendall(b"hello")
        stream.sendall(b"!")
        peer.expect(DATA, 3)
        peer.expect(DATA, 3)
        peer.send(
            frame(WNDINC, 0, 3, word(9)),
            frame(DATA, FIN, 3),
            frame(DATA, SYN, 2, b"x"),
            frame(RST, 0, 2, word(6)),
            frame(9, 0, 0),
            frame(DATA, 0, 99),
        )
        assert stream.recv(9) == b""
        assert peer.expect(RST, 99).word == ErrorCode.STREAM_CLOSED
    peer.session.go_away(ErrorCode.ENHANCE_YOUR_CALM, b"enough")
    peer.send(frame(GOAWAY, 0, 0, word(3) + word(0) + b"bye"))
    peer.sock.close()
    peer.session.wait(GUARD)
    name = peer.session._engine.name
    assert [line.removeprefix(f"{name}: ") for line in told.lines[:2]] == [
        "sent SYN stream=3 length=5",
        "sent DATA stream=3 length=1",
    ]
    received = [line for line in told.lines if "received" in line]
    assert [line.removeprefix(f"{name}: received ") for line in received[:8]] == [
        "WNDINC stream=3 increment=9",
        "DATA stream=3 length=0 fin",
        "SYN stream=2",
        "DATA stream=2 length=1",
        "RST stream=2 code=STREAM_CANCELLED",
        "a frame of type 9, which is skipped",
        "DATA stream=99 length=0",
        "GOAWAY last=3 code=NO_ERROR debug=b'bye'",
    ]
    sent = [line.removeprefix(f"{name}: sent ") for line in told.lines if "sent" in line]
    assert sorted(sent[2:5]) == [
        "DATA stream=3 length=0 fin",
        "GOAWAY last=0 code=ENHANCE_YOUR_CALM debug=b'enough'",
        "RST stream=99 code=STREAM_CLOSED",
    ]


@pytest.mark.parametrize("version", [1, 2])
def test_what_one_sends_the_other_receives(
    listen: Listen, sessions: Sessions, version: int
) -> None:
    told = listen(FRAMES)
    client, server = sessions.socketpair(version=version, heartbeat_interval=None)
    near, far = streams((client, server), priority=7)
    for _ in range(20):
        near.sendall(b"ping")
        assert far.recv(4) == b"ping"
        far.sendall(bytes(50_000))
        assert len(near.recv(50_000, 0x100)) == 50_000  # MSG_WAITALL
    near.close()
    assert far.recv(1) == b""
    far.close()
    client.close()
    server.wait(GUARD)
    mine, theirs = client._engine.name, server._engine.name

    def data(name: str, what: str) -> list[str]:
        return [
            line.split(f"{what} ")[1]
            for line in told.lines
            if line.startswith(f"{name}: {what} DATA") and "length=0" not in line
        ]

    assert data(theirs, "sent") == data(mine, "received")
    if version == 1:
        assert data(mine, "sent") == data(theirs, "received")
        assert f"{theirs}: received SYN stream=3 priority=7" in told.lines


def uses() -> dict[str, Callable[[muxado.Session, muxado.Stream], object]]:
    return {
        "stats": lambda session, stream: session.stats(),
        "repr": lambda session, stream: (repr(session), repr(stream)),
        "open": lambda session, stream: session.open().close(),
        "send": lambda session, stream: stream.sendall(b"log"),
        "close": lambda session, stream: session.close(),
    }


@pytest.mark.parametrize("name", uses())
def test_a_handler_that_uses_the_session(
    listen: Listen, sessions: Sessions, crew: Crew, name: str
) -> None:
    """It is not called under the lock; where it cannot be let in, it is told so, and not hung."""
    pair: list[tuple[muxado.Session, muxado.Stream]] = []
    busy = threading.local()

    def act() -> None:
        # Another session may be used, but then one waits for the other and for this handler's lock.
        mine = pair and told.lines[-1].startswith(f"{pair[0][0]._engine.name}:")
        if mine and not getattr(busy, "already", False):
            busy.already = True
            try:
                assert not any(session._engine._lock._is_owned() for session, _ in pair)
                uses()[name](*pair[0])
            finally:
                busy.already = False

    told = listen(FRAMES, act)
    client, server = sessions.socketpair()
    near, far = streams((client, server))
    pair.append((client, near))
    reading = crew.start(far.recv, 3)
    for call in (lambda: near.sendall(b"abc"), reading.result):
        try:
            call()
        except muxado.SessionClosed:
            assert name == "close"
    for error in told.errors:
        assert isinstance(error, RuntimeError), error
        assert "inside of" in str(error)
    if name in ("stats", "repr"):
        assert not told.errors
    pair.clear()
    server.kill()
    near.close()
    far.close()


def test_another_thread_has_the_lock_while_a_handler_takes_its_time(
    listen: Listen, sessions: Sessions, crew: Crew
) -> None:
    entered, leave = threading.Event(), threading.Event()

    def act() -> None:
        if threading.current_thread() is not threading.main_thread():
            entered.set()
            leave.wait(GUARD)

    client, server = sessions.socketpair(heartbeat_interval=None)
    near, far = streams((client, server))
    listen(FRAMES, act)
    watched = sessions.socketpair(heartbeat_interval=None)

    def open_one() -> None:
        with watched[0].open() as stream:
            stream.sendall(b"x")

    opening = crew.start(open_one)
    assert entered.wait(GUARD)
    repr(watched[0])
    with watched[0]._engine._lock:
        pass  # free
    leave.set()
    opening.result()
    near.close()
    far.close()


def test_a_filter_that_fails(listen: Listen, sessions: Sessions) -> None:
    def fail(record: logging.LogRecord) -> bool:
        raise ZeroDivisionError

    listen(FRAMES)
    FRAMES.addFilter(fail)
    try:
        near, far = streams(sessions.socketpair())
        near.sendall(b"abc")
        assert far.recv(3) == b"abc"
        near.close()
        far.close()
    finally:
        FRAMES.removeFilter(fail)


def test_off_it_is_nothing(sessions: Sessions) -> None:
    """Nothing is noted, and no frame makes a detour."""
    assert not Notes.wanted()
    client, _ = sessions.socketpair()
    engine = client._engine
    assert engine.notes is None
    assert engine.protocol.codec.handler is engine.protocol
    assert "data" not in vars(engine.protocol.codec)


def test_events_alone_leave_the_frames_alone(listen: Listen, sessions: Sessions) -> None:
    listen(EVENTS)
    FRAMES.setLevel(logging.INFO)
    try:
        client, _ = sessions.socketpair()
    finally:
        FRAMES.setLevel(logging.NOTSET)
    assert client._engine.notes is not None
    assert client._engine.protocol.codec.handler is client._engine.protocol
