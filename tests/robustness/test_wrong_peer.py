"""Peers that speak something else: the session ends at once and says what they look like."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable

import pytest

import muxado
from muxado import ErrorCode, ProtocolError

from ..helpers import version1
from ..helpers.crew import GUARD, Crew, Task
from ..helpers.support import (
    DATA,
    FIN,
    GOAWAY,
    SYN,
    RawPeer,
    Sessions,
    frame,
    sock_of,
    waiting,
    word,
)

Raw = Callable[..., RawPeer]


def client_hello() -> bytes:
    """The first flight of a TLS client."""
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


METHODS = ["GET", "POST", "HEAD", "PUT", "OPTIONS", "DELETE", "PATCH", "CONNECT", "TRACE"]

#: What another kind of program sends first, and what the error must call it.
OTHERS: dict[str, tuple[bytes, str]] = {
    **{m: (f"{m} / HTTP/1.1\r\nHost: x\r\n\r\n".encode(), "an HTTP request") for m in METHODS},
    "HTTP 2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "an HTTP request"),
    "HTTP response": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "an HTTP response"),
    "TLS": (client_hello(), "a TLS handshake"),
    "TLS alert": (bytes.fromhex("15 0303 0002 0228"), "a TLS alert"),
}

#: What a peer of the other version may send first, by the version of the session that hears it.
OTHER_VERSION: dict[int, dict[str, bytes]] = {
    2: {
        "heartbeat": version1.syn(3, priority=version1.URGENT, kind=version1.HEARTBEAT),
        "heartbeat of a server": version1.syn(2, priority=version1.URGENT, kind=version1.HEARTBEAT),
        "stream": version1.syn(3) + version1.data(3, b"hello"),
        "stream with priority": version1.syn(3, priority=5),
        "stream with type": version1.syn(3, kind=5),
        "stream with fin": version1.syn(3, fin=True),
        # It answers so when it was spoken to in version 2.
        "goaway": version1.goaway(0, 1, b"a frame of type 18"),
        "goaway of the original": version1.goaway(0, 2, length=16 + 21),
    },
    1: {
        "stream": frame(DATA, SYN, 3),
        "stream with data": frame(DATA, SYN, 3, b"hello"),
        "stream with much data": frame(DATA, SYN | FIN, 3, bytes(0x010305)),
        "typed stream": frame(DATA, SYN, 2, word(5)),
        "heartbeat": frame(DATA, 0, 0x7FFFFFFF),
        "heartbeat stream": frame(DATA, SYN, 3, word(0xFFFFFFFF)),
        "goaway": frame(GOAWAY, 0, 0, word(0) + word(1) + b"this looks like a version 1 peer"),
    },
}

versions = pytest.mark.parametrize("version", [1, 2])
ends = pytest.mark.parametrize("client", [False, True], ids=["server", "client"])


def ended(session: muxado.Session, looks_like: str) -> ProtocolError:
    """The error with which ``session`` ends."""
    end = session.wait(GUARD)
    assert end.code == ErrorCode.PROTOCOL_ERROR
    assert isinstance(end.error, ProtocolError)
    assert f"looks like {looks_like}" in str(end.error)
    return end.error


@versions
@ends
@pytest.mark.parametrize("name", OTHERS)
def test_another_protocol(raw: Raw, version: int, client: bool, name: str) -> None:
    said, looks_like = OTHERS[name]
    peer = raw(version=version, client=client)
    peer.send(said)
    error = ended(peer.session, looks_like)
    assert f"version={version}" in str(error), "what would have been right"


@pytest.mark.parametrize(
    ("version", "name"),
    [(version, name) for version in OTHER_VERSION for name in OTHER_VERSION[version]],
)
def test_another_version(raw: Raw, version: int, name: str) -> None:
    peer = raw(version=version, client="server" in name or "goaway" in name)
    peer.send(OTHER_VERSION[version][name])
    ended(peer.session, f"a version {3 - version} peer")


@versions
def test_a_byte_at_a_time(raw: Raw, version: int) -> None:
    for said, looks_like in (
        OTHERS["GET"],
        OTHERS["TLS"],
        (OTHER_VERSION[version]["stream"], f"a version {3 - version} peer"),
    ):
        peer = raw(version=version)
        try:
            for byte in said:
                peer.send(bytes([byte]))
        except ConnectionError:
            pass  # it did not listen to the end
        ended(peer.session, looks_like)


@versions
def test_too_little_to_tell(raw: Raw, version: int) -> None:
    peer = raw(version=version)
    peer.send(b"GE")
    peer.sock.shutdown(socket.SHUT_WR)
    assert peer.session.wait(GUARD).code == ErrorCode.PEER_EOF


@versions
def test_it_is_the_first_bytes_that_tell(raw: Raw, version: int) -> None:
    """Later on a body may be anything."""
    peer = raw(version=version)
    if version == 1:
        peer.send(version1.syn(3), version1.data(3, b"GET / HTTP/1.1\r\n", fin=True))
    else:
        peer.send(frame(DATA, SYN | FIN, 3, b"GET / HTTP/1.1\r\n"))
    with peer.session.accept()[0] as stream:
        assert stream.recv(100) == b"GET / HTTP/1.1\r\n"
        assert stream.recv(100) == b""


@versions
def test_every_waiter_is_told(raw: Raw, crew: Crew, version: int) -> None:
    peer = raw(version=version, client=True, window=1000)
    session = peer.session
    streams = [session.open() for _ in range(2)]
    tasks: list[Task[object]] = [
        crew.start(session.accept),
        crew.start(streams[0].recv, 1),
        crew.start(streams[1].sendall, bytes(2000)),
    ]
    over = crew.start(session.wait)
    waiting(session, 4)
    peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    for task in tasks:
        with pytest.raises(ProtocolError, match="looks like an HTTP response") as caught:
            task.result()
        assert caught.value.__cause__ is over.result().error
        assert not caught.value.retryable
    for stream in streams:
        with pytest.raises(ProtocolError, match="looks like an HTTP response"):
            stream.send(b"x")
        stream.close()
    with pytest.raises(ProtocolError, match="looks like an HTTP response"):
        session.open()


@pytest.mark.parametrize("first", [1, 2])
def test_both_ends_are_ours(sessions: Sessions, first: int) -> None:
    """Each end says what the other is: who speaks first learns it from the GOAWAY."""
    near, far = socket.socketpair()
    speaker = muxado.client(near, version=first)
    listener = muxado.server(far, version=3 - first)
    sessions.keep(speaker, listener)
    with speaker.open() as stream:
        stream.sendall(b"hello")
        ended(listener, f"a version {first} peer")
        ended(speaker, f"a version {3 - first} peer")


@versions
def test_a_tls_client_at_a_listener_without_tls(version: int, crew: Crew) -> None:
    with muxado.listen(("127.0.0.1", 0), version=version) as listener:
        listener.settimeout(GUARD)

        def connect() -> None:
            sock = socket.create_connection(listener.getsockname(), GUARD)
            with sock, pytest.raises(OSError):
                ssl.create_default_context().wrap_socket(sock, server_hostname="localhost")

        connecting = crew.start(connect)
        session, _ = listener.accept()
        ended(session, "a TLS handshake")
        connecting.result()
        session.close()
    assert sock_of(session).fileno() == -1
