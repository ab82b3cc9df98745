"""The end of a session wakes every blocked call, and tells each the first cause."""

from __future__ import annotations

import errno
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import muxado
from muxado import ErrorCode
from muxado.transport import Buffer

from ..helpers.crew import GUARD, Crew
from ..helpers.support import (
    DATA,
    FIN,
    GOAWAY,
    RST,
    SYN,
    Connector,
    RawPeer,
    Sessions,
    frame,
    read_all,
    sock_of,
    streams,
    threads_of,
    until,
    waiting,
    word,
)

Call = Callable[[muxado.Session, muxado.Stream], object]

#: Every call that can block, on a session and a stream whose peer says nothing and reads nothing.
BLOCKING: dict[str, Call] = {
    "accept": lambda session, stream: session.accept(),
    "recv": lambda session, stream: stream.recv(1),
    "recv_into": lambda session, stream: stream.recv_into(bytearray(1)),
    "recv-peek": lambda session, stream: stream.recv(1, socket.MSG_PEEK),
    "recv-all": lambda session, stream: stream.recv(9, socket.MSG_WAITALL),
    "makefile": lambda session, stream: stream.makefile("rb").read(1),
    "send": lambda session, stream: [stream.send(bytes(2**20)) for _ in range(9)],
    "sendall": lambda session, stream: stream.sendall(bytes(2**20)),
}


@pytest.mark.parametrize("timeout", [None, GUARD], ids=["blocking", "timeout"])
@pytest.mark.parametrize("end", ["kill", "close", "peer-kill", "peer-close"])
@pytest.mark.parametrize("name", BLOCKING)
def test_every_blocked_call_wakes(
    sessions: Sessions, crew: Crew, name: str, end: str, timeout: float | None
) -> None:
    pair = sessions.tcp(linger=0.1)
    near, far = streams(pair)
    far.settimeout(timeout)
    pair[1].settimeout(timeout)
    task = crew.start(BLOCKING[name], pair[1], far)
    waiting(pair[1], 1)
    session = pair[0] if end.startswith("peer") else pair[1]
    getattr(session, end.removeprefix("peer-"))()
    with pytest.raises(muxado.SessionClosed) as caught:
        task.result()
    if end == "peer-kill":
        assert isinstance(caught.value.__cause__, ConnectionError)
    assert not isinstance(caught.value, TimeoutError)
    near.close()


@pytest.mark.parametrize("end", ["kill", "close", "peer-kill", "peer-close"])
def test_all_of_them_at_once(connector: Connector, crew: Crew, end: str) -> None:
    pair = connector(linger=0.1)
    ends = [streams(pair) for _ in BLOCKING]
    keep = [near for near, _ in ends]
    pair[1].settimeout(None)
    tasks: list[Any] = [
        crew.start(call, pair[1], far)
        for call, (_, far) in zip(BLOCKING.values(), ends, strict=True)
    ]
    tasks.append(crew.start(pair[1].drain))
    waiting(pair[1], len(BLOCKING))
    session = pair[0] if end.startswith("peer") else pair[1]
    getattr(session, end.removeprefix("peer-"))()
    for task in tasks[:-1]:
        with pytest.raises(muxado.SessionClosed):
            task.result()
    if end == "peer-kill":
        with pytest.raises(muxado.SessionClosed):
            tasks[-1].result()
    else:
        assert tasks[-1].result() is True
    for stream in keep:
        stream.close()


@pytest.mark.parametrize("attempt", range(10))
def test_killed_at_any_moment(sessions: Sessions, crew: Crew, attempt: int) -> None:
    """Busy streams in both directions, and a kill that meets each thread wherever it is."""
    pair = sessions.tcp(buffers=4096)

    def busy(stream: muxado.Stream) -> None:
        with stream, pytest.raises(muxado.Error):
            while True:
                stream.sendall(bytes(1000))
                stream.recv(1000, socket.MSG_WAITALL)

    tasks = [crew.start(busy, end) for _ in range(6) for end in streams(pair)]
    near, far = streams(pair)
    near.sendall(bytes(100 * attempt + 1))
    far.recv(100 * attempt + 1, socket.MSG_WAITALL)
    pair[attempt % 2].kill()
    for session in pair:
        session.wait(GUARD)
    for task in tasks:
        task.result()


def test_threads_and_descriptors_go(sessions: Sessions) -> None:
    pair = sessions.tcp()
    assert all(len(threads_of(session)) == 2 for session in pair)
    pair[0].close()
    pair[1].wait(GUARD)
    pair[1].close()
    for session in pair:
        assert not threads_of(session)
        assert sock_of(session).fileno() == -1
        assert session.fileno() == -1


def test_the_first_cause_is_told_to_every_waiter(raw: Callable[..., RawPeer], crew: Crew) -> None:
    peer = raw()
    peer.send(frame(DATA, SYN, 3), frame(DATA, SYN, 5))
    first, second = peer.session.accept()[0], peer.session.accept()[0]
    tasks: list[Any] = [crew.start(stream.recv, 1) for stream in (first, second)]
    tasks.append(crew.start(peer.session.accept))
    waiting(peer.session, 3)
    peer.send(frame(RST, 0, 3, b"abc"))
    causes = set()
    for task in tasks:
        with pytest.raises(muxado.FrameSizeError) as caught:
            task.result()
        assert caught.value.code == ErrorCode.FRAME_SIZE_ERROR
        causes.add(id(caught.value.__cause__))
        assert isinstance(caught.value.__cause__, muxado.FrameSizeError)
        assert not caught.value.retryable
    assert len(causes) == 1
    end = peer.session.wait(GUARD)
    assert end.code == ErrorCode.FRAME_SIZE_ERROR
    with pytest.raises(muxado.SessionClosed):
        peer.session.open()


def test_a_broken_connection_is_no_end_of_file(raw: Callable[..., RawPeer]) -> None:
    """The peer's connection ends without GOAWAY: what arrived is readable, then it is an error."""
    peer = raw()
    peer.send(frame(DATA, SYN, 3, b"last"), frame(DATA, SYN | FIN, 5, b"whole"))
    half, whole = peer.session.accept()[0], peer.session.accept()[0]
    peer.sock.shutdown(socket.SHUT_WR)
    end = peer.session.wait(GUARD)
    assert end.code == ErrorCode.PEER_EOF
    assert isinstance(end.error, ConnectionResetError)
    assert half.recv(100) == b"last"
    for _ in range(2):
        with pytest.raises(muxado.SessionClosed) as caught:
            half.recv(100)
        assert caught.value.__cause__ is end.error
    assert read_all(whole) == b"whole"
    assert peer.goaway().body[4:8] == word(ErrorCode.PEER_EOF)


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_cut_frame(raw: Callable[..., RawPeer], cut: int) -> None:
    peer = raw()
    whole = frame(DATA, SYN, 3, b"data")
    peer.send(frame(DATA, SYN, 5, b"before"), whole[:cut])
    stream, _ = peer.session.accept()
    peer.sock.shutdown(socket.SHUT_WR)
    end = peer.session.wait(GUARD)
    assert end.code == ErrorCode.PEER_EOF
    assert "middle of a frame" in str(end.error)
    assert stream.recv(100) == b"before"
    with pytest.raises(muxado.SessionClosed):
        stream.recv(100)
    assert peer.goaway().body[4:8] == word(ErrorCode.PEER_EOF)


def test_the_peers_goaway_tells_why(raw: Callable[..., RawPeer]) -> None:
    peer = raw(client=True)
    body = word(0) + word(ErrorCode.INTERNAL_ERROR) + b"out of ideas"
    peer.send(frame(GOAWAY, 0, 0, body))
    peer.sock.shutdown(socket.SHUT_WR)
    end = peer.session.wait(GUARD)
    assert (end.code, end.debug) == (ErrorCode.INTERNAL_ERROR, b"out of ideas")
    assert isinstance(end.error, muxado.RemoteGoneAway)
    with pytest.raises(muxado.SessionClosed) as caught:
        peer.session.accept()
    assert caught.value.__cause__ is end.error
    assert "out of ideas" in str(caught.value)


def test_a_good_end_has_no_error(sessions: Sessions) -> None:
    client, server = sessions.tcp()
    client.close()
    for session in (client, server):
        end = session.wait(GUARD)
        assert (end.code, end.error) == (ErrorCode.NO_ERROR, None)
        assert session.closed
    with pytest.raises(muxado.SessionClosed) as caught:
        server.accept()
    assert caught.value.code == ErrorCode.SESSION_CLOSED


def test_a_framing_error_behind_a_goaway_is_just_the_end(raw: Callable[..., RawPeer]) -> None:
    """The Rust peer's GOAWAY understates its length by 8, so what follows makes no sense."""
    peer = raw()
    peer.send(frame(GOAWAY, 0, 0, word(0) + word(0)), frame(RST, 0, 3, b"odd"))
    end = peer.session.wait(GUARD)
    assert (end.code, end.error) == (ErrorCode.NO_ERROR, None)


def test_streams_above_the_goaways_last_id(raw: Callable[..., RawPeer], crew: Crew) -> None:
    peer = raw(client=True)
    taken, lost = peer.session.open(), peer.session.open()
    for stream in (taken, lost):
        stream.sendall(b"request")
        peer.expect(DATA, stream.id)
    reading = crew.start(lost.recv, 1)
    waiting(peer.session, 1)
    peer.send(frame(GOAWAY, 0, 0, word(taken.id) + word(0)))
    with pytest.raises(muxado.RemoteGoneAway) as caught:
        reading.result()
    assert caught.value.retryable
    with pytest.raises(muxado.RemoteGoneAway) as caught:
        peer.session.open()
    assert caught.value.retryable
    peer.send(frame(DATA, FIN, taken.id, b"reply"))
    assert read_all(taken) == b"reply"
    taken.close()
    lost.close()


def test_wait_times_out(sessions: Sessions) -> None:
    client, _ = sessions.tcp()
    with pytest.raises(TimeoutError):
        client.wait(0.01)
    assert not client.closed


def test_a_dead_session_takes_no_stream(sessions: Sessions) -> None:
    client, _ = sessions.tcp()
    stream = client.open()
    client.kill()
    with pytest.raises(muxado.SessionClosed) as caught:
        client.open()
    assert caught.value.retryable, "it was never sent"
    for call in (lambda: stream.recv(1), lambda: stream.send(b"x")):
        with pytest.raises(muxado.SessionClosed):
            call()
    stream.close()


def test_a_poller_learns_of_the_end(sessions: Sessions) -> None:
    pair = sessions.tcp()
    near, far = streams(pair)
    poller = select.poll()
    poller.register(far.fileno(), select.POLLIN)
    poller.register(pair[1].fileno(), select.POLLIN)
    assert poller.poll(0) == []
    pair[0].kill()
    until(lambda: len(poller.poll(10)) == 2)
    with pytest.raises(muxado.SessionClosed):
        far.recv(1)
    near.close()
    far.close()


def test_a_write_that_fails_leaves_the_peers_reason(raw: Callable[..., RawPeer]) -> None:
    """The peer says GOAWAY and is gone: our next write breaks, the reason is still told."""
    peer = raw(client=True)
    stream = peer.session.open()
    body = word(stream.id) + word(ErrorCode.ENHANCE_YOUR_CALM) + b"slow down"
    peer.send(frame(GOAWAY, 0, 0, body))
    peer.sock.close()
    with pytest.raises(muxado.SessionClosed) as caught:
        deadline = time.monotonic() + GUARD
        while time.monotonic() < deadline:
            stream.sendall(bytes(100_000))
    assert isinstance(caught.value.__cause__, muxado.RemoteGoneAway)
    assert peer.session.wait(GUARD).code == ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("rule", ["kept", "broken"])
@pytest.mark.parametrize("attempt", range(5))
def test_bytes_under_way_do_not_reset_a_unix_socket(
    raw: Callable[..., RawPeer], crew: Crew, rule: str, attempt: int
) -> None:
    """The session ends while its peer sends without a pause: GOAWAY, then the end of file."""
    peer = raw(linger=0.1)
    ignored = frame(15, 0, 0, bytes(100)) * 100
    broken = threading.Event()

    def flood() -> None:
        with pytest.raises(BrokenPipeError):
            while True:
                peer.send(ignored)
                if broken.is_set():
                    peer.send(frame(RST, 0, 3, b"odd"))

    flooding = crew.start(flood)
    until(lambda: peer.session.stats().ignored_frames > 1000 * attempt)
    if rule == "broken":
        broken.set()
        peer.session.wait(GUARD)
    else:
        peer.session.close()
    flooding.result()
    received = b"".join(iter(lambda: peer.sock.recv(65536), b""))  # and no ConnectionResetError
    assert received[3] >> 4 == GOAWAY


@pytest.mark.parametrize("call", ["send", "sendall"])
def test_a_write_that_fails_behind_some_of_its_bytes(
    raw: Callable[..., RawPeer], monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Whoever tries again is told so as well: nothing may follow half a frame."""
    peer = raw(heartbeat_interval=None)
    peer.send(frame(DATA, SYN, 3))
    stream, _ = peer.session.accept()
    core, transport = peer.session._engine.core, peer.session._engine.transport
    until(lambda: not core.writer)  # or what is sent would be left to whoever writes
    send = transport.send

    def fail(buffers: Sequence[Buffer]) -> int:
        if sum(map(len, buffers)) == 13:
            return send([b"".join(buffers)[:11]])
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(transport, "send", fail)
    stream.settimeout(0.001)
    with pytest.raises(TimeoutError):
        getattr(stream, call)(b"abcde")
    with pytest.raises(TimeoutError):
        stream.send(b"and on")
    stream.settimeout(GUARD)
    with pytest.raises(muxado.SessionClosed) as caught:
        stream.send(b"and on")
    assert isinstance(caught.value.__cause__, BrokenPipeError)
    assert [got.body for got in peer.rest()] == [b"abc"]
