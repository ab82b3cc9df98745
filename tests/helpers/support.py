"""What the tests of whole sessions share."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import muxado

from .certificate import Certificate
from .crew import GUARD, Crew

Pair = tuple[muxado.Session, muxado.Session]
Connector = Callable[..., Pair]

RST, DATA, WNDINC, GOAWAY = range(4)
FIN, SYN = 1, 2
TYPES = {0: "RST", 1: "DATA", 2: "WNDINC", 3: "GOAWAY"}


class Frame(NamedTuple):
    """A frame of version 2, as it was on the wire."""

    type: int
    flags: int
    stream_id: int
    body: bytes

    @property
    def word(self) -> int:
        """The first four bytes of the body."""
        return int.from_bytes(self.body[:4], "big")


def frame(kind: int, flags: int, stream_id: int, body: bytes = b"") -> bytes:
    """A frame's bytes, written out by hand."""
    head = len(body) << 8 | kind << 4 | flags
    return head.to_bytes(4, "big") + stream_id.to_bytes(4, "big") + body


def word(number: int) -> bytes:
    return number.to_bytes(4, "big")


class RawPeer:
    """A session's other end, driven frame by frame."""

    def __init__(self, sock: socket.socket, session: muxado.Session) -> None:
        self.sock = sock
        self.session = session
        self.sock.settimeout(GUARD)

    def send(self, *frames: bytes) -> None:
        self.sock.sendall(b"".join(frames))

    def read(self) -> Frame | None:
        """The next frame, ``None`` at the end of the connection."""
        head = self._exactly(8)
        if len(head) < 8:
            return None
        body = self._exactly(int.from_bytes(head[:3], "big"))
        stream_id = int.from_bytes(head[4:], "big")
        return Frame(head[3] >> 4, head[3] & 15, stream_id, body)

    def expect(self, kind: int, stream_id: int) -> Frame:
        """The next frame, which must be of that type and stream."""
        got = self.read()
        assert got is not None, "the connection ended"
        assert (got.type, got.stream_id) == (kind, stream_id), got
        return got

    def rest(self) -> list[Frame]:
        """Every frame up to the end of the connection."""
        frames = []
        while (got := self.read()) is not None:
            frames.append(got)
        return frames

    def goaway(self) -> Frame:
        """Read to the end, where a GOAWAY must be the last word."""
        last = self.rest()[-1]
        assert last.type == GOAWAY, last
        return last

    def _exactly(self, size: int) -> bytes:
        parts = b""
        while len(parts) < size:
            try:
                part = self.sock.recv(size - len(parts))
            except ConnectionResetError:
                break
            if not part:
                break
            parts += part
        return parts


class Sessions:
    """Makes pairs of sessions over connections of every kind, and ends them."""

    def __init__(self, crew: Crew, certificate: Callable[[], Certificate]) -> None:
        self._crew = crew
        self._certificate = certificate
        self._made: list[muxado.Session] = []
        self._directories: list[tempfile.TemporaryDirectory[str]] = []

    def keep(self, *sessions: muxado.Session) -> None:
        """End these too."""
        self._made += sessions

    def socketpair(self, *, buffers: int | None = None, **options: Any) -> Pair:
        near, far = socket.socketpair()
        return self._over(near, far, buffers, options)

    def tcp(self, *, buffers: int | None = None, **options: Any) -> Pair:
        near, far = tcp_pair(buffers)
        return self._over(near, far, buffers, options)

    def _over(
        self, near: socket.socket, far: socket.socket, buffers: int | None, options: dict[str, Any]
    ) -> Pair:
        if buffers is not None:
            for sock in (near, far):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
        pair = muxado.client(near, **options), muxado.server(far, **options)
        self.keep(*pair)
        return pair

    def unix(self, **options: Any) -> Pair:
        directory = tempfile.TemporaryDirectory()
        self._directories.append(directory)
        path = os.path.join(directory.name, "socket")
        with muxado.listen(path, **options) as listener:
            listener.settimeout(GUARD)
            client = muxado.dial(path, timeout=GUARD, **options)
            self.keep(client)
            server, _ = listener.accept()
        self.keep(server)
        return client, server

    def tls(self, **options: Any) -> Pair:
        certificate = self._certificate()
        context = certificate.server_context()
        with muxado.listen_tls(("127.0.0.1", 0), context, **options) as listener:
            listener.settimeout(GUARD)
            client = muxado.dial_tls(
                listener.getsockname(),
                certificate.client_context(),
                server_hostname="localhost",
                timeout=GUARD,
                **options,
            )
            self.keep(client)
            server, _ = listener.accept()
        self.keep(server)
        return client, server

    def end(self) -> None:
        while _to_close:
            _to_close.pop().close()
        for session in self._made:
            session.kill()
        for directory in self._directories:
            directory.cleanup()


def tcp_pair(buffers: int | None = None) -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        if buffers is not None:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
            # Segments of loopback's 64 KiB and so small a window make TCP wait for its timers.
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        near = socket.create_connection(listening.getsockname())
        far, _ = listening.accept()
    return near, far


#: What streams() made; the fixture that ends the sessions closes it.
_to_close: list[muxado.Stream] = []


def streams(pair: Pair, **options: Any) -> tuple[muxado.Stream, muxado.Stream]:
    """A stream from the first session to the second: its two ends."""
    opened = pair[0].open(**options)
    pair[1].settimeout(GUARD)
    accepted, _ = pair[1].accept()
    _to_close.extend((opened, accepted))
    return opened, accepted


def read_all(stream: muxado.Stream) -> bytes:
    """Everything up to the end of file."""
    return b"".join(iter(lambda: stream.recv(65536), b""))


def sock_of(session: muxado.Session) -> socket.socket:
    """The socket below ``session``."""
    sock: socket.socket = session._engine.transport._sock  # type: ignore[attr-defined]
    return sock


def small_send_buffer(session: muxado.Session) -> None:
    """Let the connection take as little as the kernel allows."""
    sock_of(session).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


def threads_of(session: muxado.Session) -> list[threading.Thread]:
    """The session's own threads that live."""
    name = session._engine.core.name
    return [t for t in threading.enumerate() if t.name.endswith(f"-{name}")]


def until(condition: Callable[[], object]) -> None:
    """Wait for something that no event tells of, such as another thread having gone to sleep."""
    deadline = time.monotonic() + GUARD
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.001)


def waiting(session: muxado.Session, count: int) -> None:
    """Wait until ``count`` callers are blocked in calls of ``session``."""
    until(lambda: callers_waiting(session) >= count)


def callers_waiting(session: muxado.Session) -> int:
    """How many callers wait in calls of ``session`` now, its own two threads not counted."""
    engine, core = session._engine, session._engine.core
    leads = core.leader not in (None, core.reader_waiter)
    return len(core.waiting) + len(core.followers) - 2 + leads + (engine.writing.jam is not None)
