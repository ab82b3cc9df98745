"""Sessions that end while others are at it: both ends at once, and a thousand busy streams."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from typing import Any

import pytest

import muxado
from muxado import ErrorCode
from muxado.transport import Buffer

from ..helpers.crew import GUARD, Crew
from ..helpers.gates import Gate, before
from ..helpers.support import (
    GOAWAY,
    Connector,
    Sessions,
    callers_waiting,
    streams,
    threads_of,
    until,
    waiting,
)


def ended_well(*sessions: muxado.Session) -> None:
    """They are over for no bad reason, and left nothing."""
    for session in sessions:
        end = session.wait(GUARD)
        assert (end.code, end.error) == (ErrorCode.NO_ERROR, None)
        until(lambda: not threads_of(session))  # noqa: B023
        assert callers_waiting(session) == 0


@pytest.mark.parametrize("attempt", range(5))
def test_both_ends_close_at_once(connector: Connector, crew: Crew, attempt: int) -> None:
    pair = connector()
    ends = [streams(pair) for _ in range(3)]
    both = threading.Barrier(2)

    def close(session: muxado.Session) -> None:
        both.wait(GUARD)
        session.close()

    for near, far in ends[:attempt]:  # none, one, several have something under way
        near.sendall(b"last words")
        far.sendall(b"last words")
    closing = [crew.start(close, session) for session in pair]
    for task in closing:
        task.result()
    ended_well(*pair)


def test_both_have_ended_before_either_says_so(
    connector: Connector, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their GOAWAYs cross, and each reads the other's when it has sent its own."""
    pair = connector()
    streams(pair)
    both = threading.Barrier(2)

    def hold(buffers: Sequence[Buffer]) -> None:
        if b"".join(buffers)[3] >> 4 == GOAWAY:
            both.wait(GUARD)

    for session in pair:
        before(monkeypatch, session._engine.transport, "send", hold)
    closing = [crew.start(session.close) for session in pair]
    for task in closing:
        task.result()
    ended_well(*pair)


def test_both_wait_for_the_last_stream(connector: Connector, crew: Crew) -> None:
    """GOAWAYs cross while streams are under way; these go on to their end."""
    pair = connector()
    near, far = streams(pair)
    draining = [crew.start(session.drain) for session in pair]
    for session in pair:
        waiting(session, 1)
    near.sendall(b"question")
    assert far.recv(8) == b"question"
    far.sendall(b"answer")
    assert near.recv(6) == b"answer"
    near.close()
    far.close()
    assert [task.result() for task in draining] == [True, True]
    for task in [crew.start(session.close) for session in pair]:
        task.result()
    ended_well(*pair)


@pytest.mark.parametrize("end", ["both", "one"])
def test_closing_under_a_thousand_busy_streams(sessions: Sessions, crew: Crew, end: str) -> None:
    """On each side half of them send and half receive, a thread each; all of them are told."""
    count = 1000
    pair = sessions.tcp(accept_backlog=count, linger=0.2)
    opened = [pair[0].open() for _ in range(count)]
    for stream in opened:
        stream.sendall(b"!")
    pair[1].settimeout(GUARD)
    accepted = [pair[1].accept()[0] for _ in range(count)]
    accepted.sort(key=lambda stream: stream.id)
    busy = threading.Barrier(2 * count + 1)
    payload = bytes(5000)

    def send(stream: muxado.Stream) -> Any:
        with stream:
            stream.settimeout(None)
            busy.wait(GUARD)
            try:
                while True:
                    stream.sendall(payload)
            except OSError as error:
                return type(error)

    def receive(stream: muxado.Stream) -> Any:
        with stream:
            stream.settimeout(None)
            busy.wait(GUARD)
            try:
                while stream.recv(2000):
                    pass
                return None
            except OSError as error:
                return type(error)

    tasks = []
    for number, (near, far) in enumerate(zip(opened, accepted, strict=True)):
        for stream, sends in ((near, number % 2), (far, not number % 2)):
            tasks.append(crew.start(send if sends else receive, stream))
    del near, far, stream
    busy.wait(GUARD)
    moved = pair[0].stats().bytes_sent + 1_000_000
    until(lambda: pair[0].stats().bytes_sent > moved)
    closing = [crew.start(pair[0].close)]
    if end == "both":
        closing.append(crew.start(pair[1].close))
    outcomes = {task.result() for task in tasks}
    for task in closing:
        task.result()
    assert outcomes <= {muxado.SessionClosed, muxado.RemoteGoneAway, None}
    assert muxado.SessionClosed in outcomes
    for session in pair:
        session.wait(GUARD)
        until(lambda: not threads_of(session))  # noqa: B023
        assert callers_waiting(session) == 0


def test_a_writer_is_told_that_both_directions_are_shut(connector: Connector) -> None:
    """Nobody will read what it sends, though the stream was not closed."""
    near, far = streams(connector())
    far.settimeout(GUARD)
    near.shutdown(socket.SHUT_RDWR)
    assert far.recv(1) == b""
    sent = 0
    with pytest.raises(ConnectionError) as caught:
        while sent < 10_000_000:
            sent += far.send(bytes(1000))
    assert isinstance(caught.value, muxado.StreamReset)
    assert caught.value.code == ErrorCode.STREAM_CLOSED
    assert sent < 2_000_000


class Halt:
    """Stands in for a descriptor: whoever brings it up to date stands at the gate."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def sync(self) -> None:
        self._gate.stop()

    def abandon(self) -> None:
        """It has nothing to give up."""


def test_what_close_waits_for_is_given_up(sessions: Sessions, crew: Crew) -> None:
    """A stream is reset before its SYN has left, and then nothing is left to be written."""
    client, _ = sessions.socketpair(linger=10 * GUARD, heartbeat_interval=None)
    core = client._engine.core
    with Gate() as gate:
        halt: Any = Halt(gate)
        core.stale.append(halt)
        core.writer_waiter.wake()
        gate.reached()  # the writer thread, before it looks at what there is to write
        opened = client.open()
        closing = crew.start(client.close)
        waiting(client, 1)
        opened.reset()
    closing.result()
    ended_well(client)
