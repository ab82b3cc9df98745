"""The kinds of pipe the tests run over, and every difference between them that is meant to be.

Ends are annotated as `socket.socket` although a stream is not one: the tests hold a stream to
exactly that interface, so the type checker may as well.
"""

from __future__ import annotations

import abc
import enum
import select
import socket
import ssl
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pytest

from ..helpers.certificate import Certificate
from ..helpers.crew import GUARD, Crew

End: TypeAlias = socket.socket

SHORT = 0.02
"""Seconds; a time-out that a test means to see pass."""

SETTLED = 0.05
"""Seconds; longer than the kernel keeps an acknowledgement back that could make room."""

KERNEL_BUFFER = 64 * 1024
"""Bytes asked for at each end of a TCP connection, so that filling one is quick and certain."""

SEGMENT = 4096
"""Bytes of a TCP segment. Those of the loopback device are larger than the buffers here, and the
last of them then waits for a timer, so that a connection that looked full takes more later."""

NO_LINGER = struct.pack("ii", 1, 0)
"""`SO_LINGER` with no time: `close()` then sends RST instead of FIN."""


class Feature(enum.Enum):
    """What some kind lacks. A test that needs it says so and is skipped there with the reason."""

    FLAGS = "flags in recv and send"
    HALF_CLOSE = "shutdown() of one direction"
    POLL = "select(), poll() and epoll say when recv or send would wait"
    THREADS = "two threads using one end at once"
    PLAIN_ERRORS = "EAGAIN and 'timed out' as the socket module has them"
    EXACT_SEND = "a send that failed for want of room has sent nothing"
    STRICT_ARGUMENTS = "recv() wants a size, recv_into() checks its own"
    SIZE_IN_BYTES = "a buffer's size counted in bytes, whatever its items are"
    RECVFROM = "recvfrom"
    SENDMSG = "sendmsg"
    RESET = "a reset told from the end of file"
    RESET_WHEN_UNREAD = "close() with bytes unread resets the connection, wherever they wait"
    RESET_WHEN_HALF_CLOSED = "a reset after the peer's end of file"
    PEEK_WAITALL = "MSG_PEEK that waits for all with MSG_WAITALL"
    TCP_OPTIONS = "options of level IPPROTO_TCP"
    LISTEN = "a listening side of its own"
    CONTIGUOUS_SENDALL = "the bytes of one sendall() stay together when two threads send"
    CLOSE_WAKES = "close() ends another thread's blocked call"


class Source(abc.ABC):
    """Makes the pipes of one test and closes what they stand on."""

    @abc.abstractmethod
    def connect(self) -> tuple[End, End]:
        """Return two new connected ends."""

    @abc.abstractmethod
    def reset(self, end: End, peer: End) -> None:
        """End the pipe abruptly from `end`, so that `peer` sees a reset."""

    def listener(self) -> tuple[Any, Callable[..., End]]:
        """Return something that accepts and a function that connects to it."""
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027  # most kinds stand on nothing
        """Close what is not an end. The ends are closed by whoever asked for them."""


@dataclass(frozen=True)
class Kind:
    """One kind of pipe: how to make it and what it does not have."""

    name: str
    make: Callable[[Crew, Certificate | None], Source]
    lacks: Mapping[Feature, str] = field(default_factory=dict)
    needs_certificate: bool = False

    def needs(self, *features: Feature) -> None:
        """Skip the running test if this kind lacks one of `features`."""
        for feature in features:
            if feature in self.lacks:
                pytest.skip(f"{self.name}: {self.lacks[feature]}")

    @property
    def would_block(self) -> tuple[type[OSError], ...]:
        """What a call raises that would have to wait."""
        if Feature.PLAIN_ERRORS in self.lacks:
            return (ssl.SSLWantReadError, ssl.SSLWantWriteError)
        return (BlockingIOError,)

    @property
    def broken(self) -> tuple[type[OSError], ...]:
        """What a send raises when the peer is gone."""
        if Feature.PLAIN_ERRORS in self.lacks:
            return (ConnectionResetError, BrokenPipeError, ssl.SSLError)
        return (ConnectionResetError, BrokenPipeError)


@dataclass(frozen=True)
class Pipe:
    """Two connected ends. A test may close them; the fixture closes them anyway."""

    kind: Kind
    source: Source
    near: End
    far: End

    def needs(self, *features: Feature) -> None:
        self.kind.needs(*features)

    def reset(self, end: End) -> None:
        """End the pipe abruptly from `end`."""
        self.source.reset(end, self.far if end is self.near else self.near)


def abort_tcp(end: End) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    end.close()


def tcp_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # An accepted socket inherits all this; set after the connection, it would come too late.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
    # Nagle's wait for a delayed acknowledgement would be most of the time the tests take.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def tcp_listener() -> socket.socket:
    listener = tcp_socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


def dial_tcp(address: Any, timeout: float | None = None) -> socket.socket:
    connection = tcp_socket()
    connection.connect(address)
    if timeout is not None:
        connection.settimeout(timeout)
    return connection


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with tcp_listener() as listener:
        near = dial_tcp(listener.getsockname())
        far, _ = listener.accept()
        return near, far


class TcpSource(Source):
    def __init__(self, crew: Crew, certificate: Certificate | None) -> None:
        self.listeners: list[socket.socket] = []

    def connect(self) -> tuple[End, End]:
        return tcp_pair()

    def reset(self, end: End, peer: End) -> None:
        abort_tcp(end)

    def listener(self) -> tuple[Any, Callable[..., End]]:
        listener = tcp_listener()
        self.listeners.append(listener)
        address = listener.getsockname()
        return listener, lambda timeout=None: dial_tcp(address, timeout)

    def close(self) -> None:
        for listener in self.listeners:
            listener.close()


class SocketpairSource(Source):
    def __init__(self, crew: Crew, certificate: Certificate | None) -> None:
        pass

    def connect(self) -> tuple[End, End]:
        return socket.socketpair()

    def reset(self, end: End, peer: End) -> None:
        # A Unix socket knows no SO_LINGER; it resets its peer when it is closed with bytes unread.
        if not select.select([end], [], [], 0)[0]:
            peer.send(b"unread")
        end.close()


class TlsSource(Source):
    def __init__(self, crew: Crew, certificate: Certificate | None) -> None:
        assert certificate is not None
        self.crew = crew
        self.server_context = certificate.server_context()
        # Session tickets that the client never reads would turn its close() into a reset.
        self.server_context.num_tickets = 0
        self.client_context = certificate.client_context()

    def connect(self) -> tuple[End, End]:
        near, far = tcp_pair()
        client = self.client_context.wrap_socket(
            near, server_hostname="localhost", do_handshake_on_connect=False
        )
        server = self.server_context.wrap_socket(
            far, server_side=True, do_handshake_on_connect=False
        )
        greeting = self.crew.start(server.do_handshake)
        client.do_handshake()
        greeting.result()
        return client, server

    def reset(self, end: End, peer: End) -> None:
        abort_tcp(end)


TLS_LACKS = {
    Feature.FLAGS: "SSLSocket refuses flags",
    Feature.HALF_CLOSE: "SSLSocket.shutdown() gives up the TLS layer in both directions",
    Feature.POLL: "bytes already decrypted are invisible to select()",
    Feature.THREADS: "an SSLSocket is not safe for two threads at once",
    Feature.PLAIN_ERRORS: "SSLSocket has its own errors and texts for waiting",
    Feature.EXACT_SEND: "a TLS record may be half sent",
    Feature.STRICT_ARGUMENTS: "SSLSocket clips sizes and has defaults for them",
    Feature.SIZE_IN_BYTES: "SSLSocket.recv_into() counts items in Python 3.10",
    Feature.RECVFROM: "SSLSocket refuses recvfrom",
    Feature.SENDMSG: "SSLSocket has no sendmsg",
    Feature.RESET: "SSLSocket takes a reset for an end of file when reading, in some versions",
    Feature.RESET_WHEN_UNREAD: "bytes already decrypted do not count as unread",
    Feature.LISTEN: "accept() would wait for the handshake, which is not the point here",
}

MIXED = "two threads' bytes may mix inside a socket"
NO_WAKE = "Linux does not wake a thread blocked on a descriptor that is closed"

SOCKET_KINDS = [
    Kind(
        "tcp",
        TcpSource,
        lacks={Feature.CONTIGUOUS_SENDALL: MIXED, Feature.CLOSE_WAKES: NO_WAKE},
    ),
    Kind(
        "socketpair",
        SocketpairSource,
        lacks={
            Feature.CONTIGUOUS_SENDALL: MIXED,
            Feature.CLOSE_WAKES: NO_WAKE,
            Feature.RESET_WHEN_HALF_CLOSED: "resets only with bytes unread, and none can come",
            Feature.PEEK_WAITALL: "MSG_PEEK on a Unix socket waits for the first byte only",
            Feature.TCP_OPTIONS: "not TCP",
            Feature.LISTEN: "made connected",
        },
    ),
    Kind(
        "tls",
        TlsSource,
        lacks={
            Feature.CONTIGUOUS_SENDALL: MIXED,
            Feature.CLOSE_WAKES: NO_WAKE,
            **TLS_LACKS,
        },
        needs_certificate=True,
    ),
]


def fill(end: End) -> int:
    """Send into `end` without waiting until it has no room left, and return the bytes it took.

    A TCP connection makes room again while the kernel moves bytes to the other end, so it is full
    only when it still is a while later. `end` is non-blocking afterwards.
    """
    end.setblocking(False)
    # A Unix socket is its peer's buffer, so for it there is nothing to wait for.
    settled = 0 if type(end) is socket.socket and end.family == socket.AF_UNIX else SETTLED
    chunk = bytes(32 * 1024)
    total = 0
    writable: list[End] = []
    while True:
        before = total
        try:
            while True:
                total += end.send(chunk)
        except BlockingIOError:
            pass
        if total == before:
            assert not writable, "it polled writable and took no byte"
            return total
        writable = select.select([], [end], [], settled)[1]


def read_exactly(end: End, size: int) -> bytes:
    """Read `size` bytes, or less if the end comes first."""
    parts = []
    while size > 0:
        part = end.recv(min(size, 256 * 1024))
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def read_to_end(end: End) -> bytes:
    """Read everything up to the end of file."""
    parts = []
    while part := end.recv(256 * 1024):
        parts.append(part)
    return b"".join(parts)


__all__ = [
    "GUARD",
    "SHORT",
    "SOCKET_KINDS",
    "Crew",
    "End",
    "Feature",
    "Kind",
    "Pipe",
    "Source",
    "fill",
    "read_exactly",
    "read_to_end",
    "tcp_pair",
]
