"""Session: one connection, many streams, with the interface of a listening socket."""

from __future__ import annotations

import dataclasses
import errno
import functools
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from muxado import transport
from muxado.arguments import check_int, check_option, check_timeout, option
from muxado.config import Config
from muxado.debug import describe
from muxado.engine import Engine
from muxado.errors import ErrorCode, SessionClosed, os_error
from muxado.protocol import MAX_PRIORITY, SessionEnd
from muxado.readiness import Readiness
from muxado.stream import Stream
from muxado.wire.base import MAX_DEBUG

if TYPE_CHECKING:
    import socketserver
    from types import TracebackType

    from muxado.protocol import StreamState

__all__ = ["Session", "SessionStats", "client", "server"]


#: What `open()` need not check.
_DEFAULT = 0


@dataclasses.dataclass(frozen=True)
class SessionStats:
    """Counters of a session since its start, as they were at one moment."""

    streams: int  #: streams in use now, by either side
    backlog: int  #: streams of the peer that wait for ``accept()`` now
    opened: int  #: streams this side has opened
    accepted: int  #: streams handed out by ``accept()``
    refused: int  #: streams of the peer that found no room
    reset: int  #: streams that either end has reset, whoever opened them
    bytes_received: int  #: bytes read from the connection, frames included
    bytes_sent: int  #: bytes written to the connection, frames included
    frames_received: int  #: frames that the peer has sent
    frames_sent: int  #: frames made for the peer; the last of them may still wait to be written
    ignored_frames: int  #: frames without a meaning that were skipped
    buffered: int  #: bytes received and not read, over all streams, now
    stalled: int  #: streams with something to send that the peer grants no window, now
    stalls: int  #: how often a sender has waited for window
    write_wait: float  #: seconds in which the connection took no more bytes while some waited
    heartbeats_sent: int  #: heartbeats asked for
    heartbeats_answered: int  #: and answered
    flood_budget: int  #: useless frames that the peer may still send at once, now
    rescues: int  #: how often the reader thread found somebody waiting and nobody reading


def _stats(engine: Engine) -> SessionStats:
    core, reading, writing, keepalive = (
        engine.core,
        engine.reading,
        engine.writing,
        engine.keepalive,
    )
    protocol, jam = core.protocol, writing.jam
    return core.look(
        lambda: SessionStats(
            # Those closed after the end of the session are still in the table.
            streams=protocol.alive - sum([stream.closed for stream in protocol.streams.values()]),
            backlog=len(protocol.backlog),
            opened=protocol.opened,
            accepted=protocol.accepted,
            refused=protocol.refused,
            reset=protocol.broken_off,
            bytes_received=reading.received,
            bytes_sent=writing.sent,
            frames_received=protocol.codec.frames,
            frames_sent=protocol.pending.frames_sent,
            ignored_frames=protocol.ignored_frames,
            buffered=protocol.buffered,
            stalled=sum([stream.stalled for stream in protocol.streams.values()]),
            stalls=engine.sender.stalls,
            write_wait=writing.jam_time + (0.0 if jam is None else time.monotonic() - jam[0]),
            heartbeats_sent=keepalive.questions,
            heartbeats_answered=keepalive.answers,
            flood_budget=protocol.budget.left,
            rescues=engine.rescues,
        )
    )


class Session:
    """One end of a connection that carries many streams.

    Owns ``sock``: a connected ``socket.socket``, an ``ssl.SSLSocket`` (handshake done or not), or
    anything with ``recv``, ``sendall`` (or ``send``) and ``close``. One end must be the
    ``client``, the other not; both may open and accept streams. Options are the fields of
    :class:`Config`; ``config`` gives them all at once.

    A session does what a listening socket does, so that it can stand in for one: ``accept``,
    ``fileno``, time-outs, iteration. Every method may be called from any thread.
    """

    def __init__(
        self, sock: Any, *, client: bool, config: Config | None = None, **options: Any
    ) -> None:
        config = Config.of(config, options)
        connection = transport.wrap(sock)
        self._timeout = socket.getdefaulttimeout()
        self._closed = False
        self._engine = Engine(connection, config, client=bool(client))
        self._engine.start()

    # Streams.

    def open(
        self, *, priority: int = _DEFAULT, stream_type: int = _DEFAULT, fin: bool = False
    ) -> Stream:
        """Open a stream. Never waits for the peer.

        ``priority`` is from 0 to 0x7FFFFFFF. ``stream_type`` is a number of four bytes, and must
        be 0 unless the session is ``typed``. ``fin``: the stream is born half-closed for writing.
        Raises ``RemoteGoneAway`` after the peer's GOAWAY, ``SessionClosed`` after the end of the
        session, and ``StreamsExhausted`` when its ids are used up.
        """
        if priority is not _DEFAULT or stream_type is not _DEFAULT:
            check_int("priority", priority, MAX_PRIORITY)
            check_int("stream_type", stream_type, 0xFFFFFFFF)
            codec = self._engine.core.protocol.codec
            if stream_type and not codec.carries_types:
                raise ValueError("this session carries no stream types: it is not typed")
            if stream_type >= codec.reserved_types:
                raise ValueError(f"stream types from {codec.reserved_types:#x} up are reserved")
        return self._stream(self._engine.streams.open(priority, stream_type, fin))

    def _stream(self, state: StreamState) -> Stream:
        try:
            return Stream(self, self._engine, state)
        except BaseException:
            self._engine.streams.drop(state)  # the caller will never get it
            raise

    def dial(self, address: Any = None, timeout: Any = None, source_address: Any = None) -> Stream:
        """:meth:`open` with the signature of ``socket.create_connection``, to stand in for it.

        ``timeout`` in seconds is set on the stream; the other arguments are ignored.
        """
        seconds = check_timeout(timeout) if isinstance(timeout, (int, float)) else None
        stream = self.open()
        if seconds is not None:
            stream.settimeout(seconds)
        return stream

    def accept(self) -> tuple[Stream, Any]:
        """Wait for the next stream that the peer opens; returns it and :meth:`getpeername`.

        Raises ``TimeoutError`` past the time-out, ``BlockingIOError`` where it is 0, and
        ``SessionClosed`` after the end of the session, once the streams that arrived before it
        have been handed out.
        """
        timeout = self._timeout
        deadline = time.monotonic() + timeout if timeout else timeout
        address = self.getpeername()  # before: an exception after accept() would lose the stream
        return self._stream(self._engine.receiver.accept(deadline)), address

    def __iter__(self) -> Iterator[Stream]:
        """Yield the peer's streams as they come, until the session ends."""
        while True:
            try:
                stream, _ = self.accept()
            except SessionClosed:
                return
            yield stream

    def serve(self, server: socketserver.BaseServer) -> None:
        """Run a ``socketserver`` server on this session until the session ends.

        ``server`` should be made with ``bind_and_activate=False``; the socket it has is closed
        and this session takes its place. Returns when the session has ended, or when
        ``server.shutdown()`` was called.
        """
        replaced = getattr(server, "socket", None)
        if replaced is not None and replaced is not self:
            replaced.close()
        server.socket = self  # type: ignore[attr-defined]
        if getattr(server, "server_address", None) is None:
            server.server_address = self.getsockname()
        # serve_forever() ends only by shutdown() from another thread. accept() reports the end
        # of the session once, after the last stream; that is the moment.
        served = threading.Event()

        def stop() -> None:
            self._engine.wait_for_reported_end(served.is_set)
            if not served.is_set():
                server.shutdown()

        stopper = threading.Thread(target=stop, name="muxado-serve", daemon=True)
        core, receiver = self._engine.core, self._engine.receiver
        receiver.serving = True
        stopper.start()
        try:
            server.serve_forever()
        finally:
            receiver.serving = False
            served.set()
            core.section(core.watchers.wake_all)
            stopper.join()

    # The end.

    def go_away(self, code: int = ErrorCode.NO_ERROR, debug: bytes = b"") -> None:
        """Tell the peer to open no more streams; those under way go on.

        Streams of the peer that wait for ``accept()`` are still handed out. ``debug``, 4096 bytes
        at most, is for the peer's people.
        """
        if len(debug) > MAX_DEBUG:
            raise ValueError(f"debug of {len(debug)} bytes, not {MAX_DEBUG} or less")
        self._engine.go_away(check_int("code", code, 0xFFFFFFFF), bytes(debug))

    def drain(self, timeout: float | None = None) -> bool:
        """:meth:`go_away`, then wait until no stream is left.

        True when none is; false when ``timeout`` seconds passed first. Raises ``SessionClosed``
        when the session breaks under the streams that are left.
        """
        timeout = check_timeout(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        self.go_away()
        return self._engine.drain(deadline)

    def close(self) -> None:
        """Flush what was written (for up to ``linger`` seconds), say GOAWAY, close the connection.

        Streams that were never accepted are refused. Calls that wait in other threads raise
        ``SessionClosed``. Idempotent, from any thread.
        """
        self._closed = True
        self._engine.close()

    def kill(self) -> None:
        """Close the connection now, without a word to the peer."""
        self._closed = True
        self._engine.kill()

    def wait(self, timeout: float | None = None) -> SessionEnd:
        """Wait until the session is over and return why; ``TimeoutError`` past ``timeout`` s."""
        timeout = check_timeout(timeout)
        return self._engine.wait(None if timeout is None else time.monotonic() + timeout)

    @property
    def closed(self) -> bool:
        """Whether the session is over."""
        return self._engine.core.end is not None

    @property
    def latency(self) -> float | None:
        """The last heartbeat's round trip in seconds, ``None`` before the first."""
        return self._engine.keepalive.latency

    def stats(self) -> SessionStats:
        """The session's counters."""
        return _stats(self._engine)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Whatever thread holds whatever lock: nothing here may wait. See Core.note().
        engine = getattr(self, "_engine", None)
        if engine is None:
            return
        if engine.core.session_poller is not None:
            engine.core.note(functools.partial(engine.streams.unpin, None))
        if not self._closed and engine.core.end is None:
            engine.close_elsewhere()
            text = f"unclosed session {engine.core.name}"  # its repr would take the lock
            warnings.warn(text, ResourceWarning, source=self, stacklevel=2)

    # What makes it a listening socket.

    def listen(self, backlog: int | None = None, /) -> None:
        """Nothing to do: a session always accepts."""

    def bind(self, address: Any, /) -> None:
        """Nothing to do: a session's address is its connection's."""

    def fileno(self) -> int:
        """A descriptor that polls readable while :meth:`accept` has something to say.

        That is a stream, or once the end of the session. -1 once it is closed by this side.
        """
        engine = self._engine
        core = engine.core
        if self._closed and core.end is not None and not self._engine.receiver.serving:
            return -1
        poller = core.session_poller
        if poller is None:
            made = Readiness(engine.receiver.acceptable, None)
            poller = engine.streams.pin(None, made)
            if poller is not made:
                made.close()  # another thread was first
            poller.sync()
        fd: int = poller.fileno()
        return fd

    def detach(self) -> int:
        """Not supported, as :meth:`Stream.detach`: the number of :meth:`fileno` is given up."""
        poller = self._engine.streams.unpin(None)
        if poller is not None:
            poller.detach()
        raise os_error(errno.EOPNOTSUPP)

    def settimeout(self, value: float | None, /) -> None:
        """Seconds that :meth:`accept` waits; ``None`` for ever, 0 not at all."""
        self._timeout = check_timeout(value)

    def gettimeout(self) -> float | None:
        return self._timeout

    @property
    def timeout(self) -> float | None:
        return self._timeout

    def setblocking(self, flag: bool, /) -> None:
        self._timeout = None if flag else 0.0

    def getblocking(self) -> bool:
        return self._timeout != 0

    def getsockname(self) -> Any:
        """The connection's own address; ``("", 0)`` where it has none."""
        return self._engine.transport.getsockname() or ("", 0)

    def getpeername(self) -> Any:
        """The address of the connection's other end; ``("", 0)`` where it has none."""
        return self._engine.transport.getpeername() or ("", 0)

    def getsockopt(self, level: int, optname: int, buflen: int = 0, /) -> int | bytes:
        return option(self, level, optname, buflen, listening=True)

    def setsockopt(self, level: int, optname: int, *value: Any) -> None:
        """Accepted; there is no listening socket for an option to change."""
        check_option(level, optname, value)

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AddressFamily(self._engine.transport.family)

    @property
    def type(self) -> socket.SocketKind:
        return socket.SOCK_STREAM

    @property
    def proto(self) -> int:
        return self._engine.transport.proto

    def shutdown(self, how: int, /) -> None:
        """A listening socket is not connected."""
        raise os_error(errno.ENOTCONN)

    def __repr__(self) -> str:
        # Never blocks and never raises: it may be what tells why a program hangs.
        engine = self._engine
        peer = engine.transport.getpeername()
        text = f" with {peer}" if peer else ""
        return f"<muxado.Session {engine.core.name}{text}: {describe(engine)}>"

    def __getstate__(self) -> None:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")


def client(sock: Any, **options: Any) -> Session:
    """A session over ``sock`` whose other end is a :func:`server`; options as for ``Config``."""
    return Session(sock, client=True, **options)


def server(sock: Any, **options: Any) -> Session:
    """A session over ``sock`` whose other end is a :func:`client`; options as for ``Config``."""
    return Session(sock, client=False, **options)
