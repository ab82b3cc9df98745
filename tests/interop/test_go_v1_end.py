"""How a session with the original muxado for Go ends, and what each end is told."""

from __future__ import annotations

import socket

import pytest

import muxado
from muxado import ErrorCode

from ..conformance.crew import Crew
from ..support import waiting
from .go_peer import INTERNAL_ERROR, KINDS, NO_ERROR, Event, Go
from .streams import Linker, echo, exchange

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
    """Every call of Go's that waits is told, and so is who was never accepted."""
    session, go = link("open", 1, 4, 0, 0, "wait", "open", 1, 4, 0, 0)
    with session.open() as ours, session.accept()[0] as theirs:
        round_trip(ours)
        assert theirs.recv(4, socket.MSG_PEEK | socket.MSG_WAITALL)
        go.go_on()
        assert go.stepped("open") == ""
        session.fileno()
    assert True


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
        calls = [crew.start(stream.recv, 1), crew.start(session.accept)]
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
