"""How a session with the original muxado for Go ends, and what each end is told."""

from __future__ import annotations

import socket
from typing import Any

import pytest

import muxado
from muxado import ErrorCode

from ..helpers.crew import GUARD, Crew, Task
from ..helpers.support import until, waiting
from .go_peer import CANCEL, INTERNAL_ERROR, KINDS, NO_ERROR, REFUSED_STREAM, Event, Go
from .streams import WINDOW, Linker, close, echo

pytestmark = pytest.mark.timeout(120)  # the first of them builds the Go program

#: What Go calls the end of a connection: TLS without and with close_notify, and TCP with bytes
#: that nobody read.
ENDS = ("EOF", "unexpected EOF", "connection reset by peer")


def round_trip(stream: muxado.Stream, data: bytes = b"spam") -> None:
    stream.sendall(data)
    assert stream.recv(len(data), socket.MSG_WAITALL) == data


def assert_cut_off(end: Event, debug: str = "") -> None:
    """Go says that its connection has ended, under it."""
    assert (end["code"], end["debug"]) == (INTERNAL_ERROR, debug)
    assert end["error"].endswith(ENDS)


def test_we_close(link: Linker) -> None:
    session, go = link("open", 1, 4, 1, 0, "wait", "open", 1, 4, 2, 0)
    with session.open() as ours, session.accept()[0]:
        round_trip(ours)
        go.go_on()
        until(lambda: session.stats().backlog == 1)
        session.close()
    assert session.wait() == (ErrorCode.NO_ERROR, None, b"")
    assert_cut_off(go.event("end"))
    assert go.event("served")["error"] == "Session closed"
    errors = {stream["type"]: stream["error"] for stream in go.events("stream", 2)}
    # The second was never accepted.
    assert errors == {1: "Session closed", 2: "Stream reset by peer with error 6"}


def test_we_kill(link: Linker) -> None:
    session, go = link()
    with session.open() as stream:
        round_trip(stream)
        session.kill()
        with pytest.raises(muxado.SessionClosed):
            stream.recv(1)
    assert session.wait() == (ErrorCode.SESSION_CLOSED, None, b"")
    assert_cut_off(go.event("end"))
    assert go.event("served")["error"] == "Session closed"


def test_go_closes(link: Linker, crew: Crew) -> None:
    session, go = link("wait", "close")
    with session.open() as stream:
        round_trip(stream)
        calls: list[Task[Any]] = [crew.start(stream.recv, 1), crew.start(session.accept)]
        waiting(session, len(calls))
        go.go_on()
        for call in calls:
            with pytest.raises(muxado.SessionClosed):
                call.result()
        assert session.wait() == (ErrorCode.NO_ERROR, None, b"")
        with pytest.raises(muxado.SessionClosed):
            stream.send(b"spam")
    with pytest.raises(muxado.SessionClosed):
        session.open()
    end = go.event("end")
    assert (end["code"], end["error"], end["debug"]) == (NO_ERROR, "Session Close()", "")


def test_go_kills(link: Linker) -> None:
    session, go = link("wait", "kill")
    with session.open() as stream:
        round_trip(stream)
        go.go_on()
        with pytest.raises(muxado.SessionClosed):
            stream.recv(1)
    end = session.wait()
    assert end.code == ErrorCode.PEER_EOF
    assert isinstance(end.error, ConnectionResetError)
    assert go.event("end")["code"] == INTERNAL_ERROR


def test_we_go_away(link: Linker) -> None:
    session, go = link("wait", "open", 1, 4, 0, 0, "close")
    with session.open() as stream:
        round_trip(stream)
        session.go_away(ErrorCode.INTERNAL_ERROR, b"we are moving")
        round_trip(stream)  # what is under way goes on; and Go has read the GOAWAY
        with pytest.raises(muxado.SessionClosed):
            session.open()
        go.go_on()
        refused = go.event("stream")
        assert refused["error"] == "Failed to create stream, remote has gone away."
        assert session.wait() == (ErrorCode.NO_ERROR, None, b"")
    end = go.event("end")  # Go tells the debug bytes of the GOAWAY, and forgets its code
    assert (end["code"], end["error"]) == (NO_ERROR, "Session Close()")
    assert end["debug"] == "we are moving"


def test_we_drain(link: Linker, crew: Crew) -> None:
    session, go = link("open", 1, 4 * WINDOW, 0, 0)
    stream, _ = session.accept()
    session.go_away()
    echoing = crew.start(echo, stream)
    assert session.drain(GUARD)
    assert echoing.result() == 4 * WINDOW
    assert go.event("stream")["intact"]
    close(session)
    assert_cut_off(go.event("end"))


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (NO_ERROR, ErrorCode.NO_ERROR),
        (INTERNAL_ERROR, ErrorCode.INTERNAL_ERROR),
        (5, ErrorCode.FRAME_SIZE_ERROR),
        (REFUSED_STREAM, ErrorCode.STREAM_REFUSED),
        (CANCEL, ErrorCode.STREAM_CANCELLED),
        (99, ErrorCode.ERROR_UNKNOWN),
    ],
)
def test_go_goes_away(go: Go, number: int, code: ErrorCode) -> None:
    session, peer = go.connect(KINDS[0], "wait", "goaway", number, "bye", "wait", "close")
    with session.open() as stream:
        round_trip(stream)
        peer.go_on()
        until(lambda: session._engine.core.protocol.goaway is not None)
        with pytest.raises(muxado.RemoteGoneAway) as caught:
            session.open()
        assert caught.value.retryable
        peer.go_on()
        end = session.wait()
    # Its debug bytes are announced and never sent.
    assert (end.code, end.debug) == (code, b"")
    assert isinstance(end.error, muxado.RemoteGoneAway) if code else end.error is None
    theirs = peer.event("end")
    assert (theirs["code"], theirs["error"]) == (NO_ERROR, "Session Close()")
