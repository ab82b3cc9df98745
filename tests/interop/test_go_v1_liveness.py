"""Heartbeats between our sessions and the original muxado for Go, version 1.

The original asks every 3 seconds, and ends the session when 13 have passed without an answer. It
gives no choice in either.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import muxado
from muxado import ErrorCode

from ..helpers.certificate import Certificate
from ..helpers.crew import GUARD, Crew
from ..helpers.support import until
from .go_peer import INTERNAL_ERROR, KINDS, NO_ERROR, Go
from .streams import WINDOW, close, exchange

pytestmark = pytest.mark.timeout(120)  # the first of them builds the Go program

ROOT = Path(muxado.__file__).parent.parent

#: Dials, sees one answer, and stays.
CHILD = """
import ssl, sys, muxado
address, *ca = sys.argv[1:]
if ca:
    context = ssl.create_default_context(cafile=ca[0])
    session = muxado.dial_tls(address, context, version=1)
else:
    session = muxado.dial(address, version=1)
stream = session.open()
stream.sendall(b"spam")
print(stream.recv(4), flush=True)
sys.stdin.read()
"""


class Children:
    """Our side as processes of their own, for what cannot be done to a thread."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._processes.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "b'spam'\n"
        return child

    def end(self) -> None:
        for child in self._processes:
            child.kill()
            child.communicate()


@pytest.fixture
def children() -> Iterator[Children]:
    children = Children()
    yield children
    children.end()


def end(session: muxado.Session, deadline: float) -> muxado.SessionEnd | None:
    """How the session has ended by ``deadline``, if it has."""
    try:
        return session.wait(max(0, deadline - time.monotonic()))
    except TimeoutError:
        return None


def test_idle_sessions_live(go: Go, children: Children) -> None:
    """15 seconds: four heartbeats of either side, and more than Go goes without an answer."""
    deadline = time.monotonic() + 15
    idle = [go.connect(kind) for kind in KINDS]
    # One that has gone away still answers for the streams under way.
    leaving = [go.connect(kind) for kind in KINDS]
    streams = [session.open() for session, _ in leaving]
    for (session, _), stream in zip(leaving, streams, strict=True):
        stream.sendall(b"spam")
        # Before Go has its own heartbeat it cannot live with a GOAWAY.
        until(lambda session=session: session._engine.core.protocol.heartbeat_streams.streams)  # type: ignore[misc]
        session.go_away()
    # One whose application does not read what has come.
    deaf = [go.connect(kind, "open", 1, 2 * WINDOW, 0, 0) for kind in KINDS]
    # And what Go makes of one that has stopped, while we are waiting.
    stopped = go.start("-listen")
    child = children.start(stopped.event("listening")["address"])
    child.send_signal(signal.SIGSTOP)

    for links in (idle, leaving, deaf):
        assert [end(session, deadline) for session, _ in links] == [None] * len(links)
        for session, _ in links:
            assert session.latency is not None
            assert 0 < session.latency < 3
    for (session, _), stream in zip(leaving, streams, strict=True):
        with stream:
            assert stream.recv(4, socket.MSG_WAITALL) == b"spam"
            stream.sendall(b"eggs")
            assert stream.recv(4, socket.MSG_WAITALL) == b"eggs"
        assert session.drain(GUARD)
    for session, _ in deaf:
        session.accept()[0].close()
    for session, _ in idle + deaf:
        assert exchange(session.open(), b"spam") == b"spam"
    for session, _ in idle + leaving + deaf:
        close(session)
    noticed = stopped.event("end")
    assert (noticed["code"], noticed["error"]) == (NO_ERROR, "Session Close()")


def test_a_go_that_stops_is_noticed(go: Go, crew: Crew) -> None:
    links = [go.connect(kind, heartbeat_interval=0.2, heartbeat_tolerance=1) for kind in KINDS]
    calls = []
    for session, peer in links:
        with session.open() as stream:
            assert exchange(stream, b"spam") == b"spam"
        until(lambda session=session: session.latency is not None)  # type: ignore[misc]
        calls.append(crew.start(session.accept))
        peer.freeze()
    for (session, _), call in zip(links, calls, strict=True):
        end = session.wait(GUARD)
        assert end.code == ErrorCode.SESSION_CLOSED
        assert isinstance(end.error, muxado.HeartbeatTimeout)
        with pytest.raises(muxado.HeartbeatTimeout):
            call.result()


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
def test_our_death_is_noticed(
    go: Go, children: Children, certificate: Certificate, tls: bool
) -> None:
    files = ("-cert", certificate.certfile, "-key", certificate.keyfile) if tls else ()
    peer = go.start("-listen", *files)
    address = peer.event("listening")["address"]
    child = children.start(address, *([str(certificate.certfile)] if tls else []))
    child.kill()
    end = peer.event("end")
    assert end["code"] == INTERNAL_ERROR
    assert end["error"].endswith(("EOF", "connection reset by peer"))
    assert peer.event("served")["error"] == "Session closed"
