"""Logging of events and frames: what is said, and in which thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

import pytest

import muxado
from muxado import ErrorCode

from ..helpers.crew import GUARD
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
    """Keeps what it is told and by which thread, and does something each time."""

    def __init__(self, action: Callable[[], object]) -> None:
        super().__init__()
        self.action = action
        self.lines: list[str] = []
        self.threads: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.threads.add(threading.current_thread().name)
        self.action()
        self.lines.append(record.getMessage())


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
    peer = raw(client=False, accept_backlog=1, heartbeat_interval=0.02)
    name = peer.session._engine.core.name
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
    until(lambda: any("is over" in line for line in told.lines))
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
    until(lambda: any("GOAWAY" in line and "bye" in line for line in told.lines))
    name = peer.session._engine.core.name
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


def test_a_level_of_another_logger_asks_for_no_frames(listen: Listen, sessions: Sessions) -> None:
    """Or a handler that sends what it is told over a stream would make frames without end."""
    told = listen(logging.getLogger())
    pair = sessions.socketpair()
    opened, accepted = streams(pair)
    opened.sendall(b"x")
    assert accepted.recv(1) == b"x"
    for session in pair:
        session.close()
    until(lambda: sum("is over" in line for line in told.lines) == 2)
    assert not any("DATA" in line for line in told.lines)


def test_no_thread_of_a_session_calls_a_handler(listen: Listen, sessions: Sessions) -> None:
    """A handler may wait for a stream of the session that it is told of."""
    answered: list[bytes] = []

    def use() -> None:
        if pair and not answered:
            answered.append(b"")
            opened, accepted = streams((pair[0], pair[1]))
            opened.sendall(b"from a handler")
            answered[0] = accepted.recv(100)

    pair: list[muxado.Session] = []
    told = listen(EVENTS, use)
    pair += sessions.socketpair(heartbeat_interval=None)
    pair[0].go_away()
    pair[1].go_away()
    until(lambda: len(told.lines) >= 3)
    assert told.threads == {"muxado-log"}


def test_where_nobody_listens_nothing_is_made(sessions: Sessions) -> None:
    client, _ = sessions.socketpair()
    core = client._engine.core
    assert core.log is None
    assert "data" not in vars(core.protocol.codec), "each frame would be told of"
