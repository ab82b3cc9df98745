"""Stream: one of many over a session, with the interface of a connected ``socket.socket``."""

from __future__ import annotations

import errno
import operator
import socket
import time
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, BinaryIO

from muxado.arguments import (
    MSG_DONTWAIT,
    MSG_PEEK,
    MSG_WAITALL,
    RECV_FLAGS,
    SEND_FLAGS,
    bytes_of,
    check_flags,
    check_int,
    check_option,
    check_timeout,
    option,
    release,
    writable_bytes_of,
)
from muxado.debug import describe_stream
from muxado.engine import Engine
from muxado.errors import ErrorCode, os_error
from muxado.files import make_file, send_file
from muxado.protocol import MAX_PRIORITY
from muxado.readiness import Readiness

if TYPE_CHECKING:
    from muxado.protocol import StreamState
    from muxado.session import Session

__all__ = ["Stream"]


class Stream:
    """A stream of a :class:`Session`; it does what a connected TCP socket does.

    Time-outs, errors, half-closes, ``makefile`` and flags are those of ``socket.socket``; methods
    that say nothing here are documented there. One thread may read while another writes; two
    readers or two writers take turns, each ``sendall`` whole. What a stream adds: ``id``,
    ``session``, ``stream_type``, ``priority``, :meth:`reset` and :meth:`close_write`.
    """

    def __init__(self, session: Session, engine: Engine, state: StreamState) -> None:
        # Files of makefile() and the garbage collector look at these too; guarded by the caller's
        # own use of the stream, as in socket.socket.
        self._io_refs = 0
        self._closed = False
        self.session = session
        self._engine = engine
        self._state = state
        self._timeout = socket.getdefaulttimeout()
        self._readiness: Readiness | None = None

    # What a stream has beyond a socket.

    @property
    def id(self) -> int:
        """The stream's number on the wire."""
        return self._state.id

    @property
    def stream_type(self) -> int:
        """The type its opener gave it, 0 where the wire carries none."""
        return self._state.stream_type

    @property
    def priority(self) -> int:
        """From 0 to 0x7FFFFFFF; streams with a higher one send first."""
        return self._state.priority

    @priority.setter
    def priority(self, value: int) -> None:
        self._engine.streams.prioritise(self._state, check_int("priority", value, MAX_PRIORITY))

    def reset(self, code: int = ErrorCode.STREAM_CANCELLED) -> None:
        """End both directions at once; the peer's calls raise ``StreamReset`` with ``code``.

        Bytes under way and bytes received but not read are dropped.
        """
        self._engine.streams.reset(self._state, check_int("code", code, 0xFFFFFFFF))

    def close_write(self) -> None:
        """``shutdown(SHUT_WR)``: the peer reads to the end of file."""
        self.shutdown(socket.SHUT_WR)

    # Sending.

    def send(self, data: Any, flags: int = 0, /) -> int:
        if flags:
            check_flags(flags, SEND_FLAGS)
        view = data if type(data) is bytes else bytes_of(data)
        try:
            if self._closed:
                self._check_open()
            if not view:
                self._engine.sender.check_writable(self._state)
                return 0
            timeout = self._timeout
            if timeout == 0 or (flags and flags & MSG_DONTWAIT):
                return self._engine.sender.send_now(self._state, view)
            deadline = None if timeout is None else time.monotonic() + timeout
            return self._engine.sender.send(self._state, view, deadline, False, False)
        finally:
            release(view)

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        if type(data) is bytes and data and self._timeout is None and not (flags or self._closed):
            self._engine.sender.send(self._state, data, None, True, False)
            return
        if flags:
            check_flags(flags, SEND_FLAGS)
        view = data if type(data) is bytes else bytes_of(data)
        try:
            if self._closed:
                self._check_open()
            if not view:
                self._engine.sender.check_writable(self._state)
                return
            timeout = self._timeout
            if timeout == 0 or (flags and flags & MSG_DONTWAIT):
                done = 0
                while done < len(view):
                    with memoryview(view)[done:] as part:
                        done += self._engine.sender.send_now(self._state, part)
                return
            deadline = None if timeout is None else time.monotonic() + timeout
            self._engine.sender.send(self._state, view, deadline, True, False)
        finally:
            release(view)

    def sendmsg(
        self, buffers: Iterable[Any], ancdata: Iterable[Any] = (), flags: int = 0, *_: Any
    ) -> int:
        """As ``socket.sendmsg``, without ancillary data: there is no kernel to give it to."""
        if any(True for _ in ancdata):
            raise os_error(errno.EOPNOTSUPP)
        return self.send(b"".join(buffers), flags)

    def sendfile(self, file: BinaryIO, offset: int = 0, count: int | None = None) -> int:
        """Send a file opened in binary mode; returns the bytes sent, as ``socket.sendfile``."""
        return send_file(self, file, offset, count)

    # Receiving.

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        bufsize = operator.index(bufsize)
        if bufsize < 0:
            raise ValueError("negative buffersize in recv")
        if self._closed:
            self._check_open()
        if flags:
            return self._recv_with_flags(bufsize, flags)
        if not bufsize:
            return b""
        return self._engine.receiver.receive(self._state, bufsize, self._deadline())

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        view = writable_bytes_of(buffer)
        try:
            nbytes = operator.index(nbytes)
            if nbytes < 0:
                raise ValueError("negative buffersize in recv_into")
            if nbytes > len(view):
                raise ValueError("nbytes is greater than the length of the buffer")
            if nbytes:
                view = view[:nbytes]
            self._check_open()
            if flags:
                data = self._recv_with_flags(len(view), flags)
                view[: len(data)] = data
                return len(data)
            if not view:
                return 0
            return self._engine.receiver.receive_into(self._state, view, self._deadline())
        finally:
            view.release()

    def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
        """As on a connected TCP socket: the address is ``None``."""
        return self.recv(bufsize, flags), None

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        return self.recv_into(buffer, nbytes, flags), None

    def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /) -> tuple[Any, ...]:
        """As ``socket.recvmsg`` on a TCP socket: no ancillary data, no address."""
        return self.recv(bufsize, flags), [], 0, None

    def _recv_with_flags(self, bufsize: int, flags: int) -> bytes:
        check_flags(flags, RECV_FLAGS)
        state, receiver = self._state, self._engine.receiver
        deadline = 0.0 if flags & MSG_DONTWAIT else self._deadline()
        if not bufsize:
            return b""
        if flags & MSG_PEEK:
            # A message larger than what the peer has been granted never lies here whole.
            window = state.receive
            least = min(bufsize, window.size - window.read) if flags & MSG_WAITALL else 1
            try:
                return receiver.peek(state, bufsize, deadline, least)
            except (TimeoutError, BlockingIOError):
                if least == 1:
                    raise
            return receiver.peek(state, bufsize, 0.0)
        if not flags & MSG_WAITALL:
            return receiver.receive(state, bufsize, deadline)
        # A whole message may be larger than the window, so it is taken as it comes.
        parts: list[bytes] = []
        left = bufsize
        while left:
            try:
                part = receiver.receive(state, left, deadline)
            except OSError:
                if not parts:
                    raise
                break  # what was taken is not lost; the error comes again at the next call
            if not part:
                break
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    # The end.

    def shutdown(self, how: int, /) -> None:
        how = operator.index(how)
        if how not in (socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR):
            raise os_error(errno.EINVAL)
        self._check_open()
        if how != socket.SHUT_WR:
            self._engine.streams.shut_read(self._state)
        if how != socket.SHUT_RD:
            self._engine.streams.end(self._state)

    def close(self) -> None:
        """Close for good, once every file of ``makefile()`` is closed too. Never waits."""
        self._closed = True
        if self._io_refs > 0:
            return
        readiness, self._readiness = self._readiness, None
        if not self._state.closed:
            self._engine.streams.close(self._state)
        # In a signal's handler inside a section, another thread may hold the descriptor's lock and
        # wait for the section's, so the descriptor is closed when it is dropped instead.
        if readiness is not None and not self._engine.core.lock._is_owned():
            readiness.close()

    def _decref_socketios(self) -> None:  # socket.SocketIO calls it when it is closed
        if self._io_refs > 0:
            self._io_refs -= 1
        if self._closed and self._io_refs <= 0 and not self._state.closed:
            # A file's finalizer may call this in a thread that is inside any session.
            self._readiness = None
            self._engine.streams.drop(self._state)

    def _leave(self, data: bytes) -> None:
        """Bytes that a file's finalizer leaves to be sent."""
        if not self._state.closed:
            self._engine.streams.leave(self._state, data)

    def detach(self) -> int:
        """Not supported, but the number of :meth:`fileno` is the caller's from now on.

        For ``ssl.SSLContext.wrap_socket`` adopts it, calls this, and closes it when this fails.
        """
        self._readiness = None
        poller = self._engine.streams.unpin(self._state)
        if poller is not None:
            poller.detach()
        raise os_error(errno.EOPNOTSUPP)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._closed:
            self.close()

    def __del__(self) -> None:
        # Whatever thread holds whatever lock: nothing here may wait. See Core.note().
        try:
            state = self._state
        except AttributeError:  # it was never whole
            return
        if state.closed:
            return
        self._engine.streams.drop(state)
        if not self._closed and self._engine.core.end is None:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    def makefile(
        self,
        mode: str = "r",
        buffering: int | None = None,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        options = {"encoding": encoding, "errors": errors, "newline": newline}
        return make_file(self, mode, buffering, **options)

    # What describes it.

    def fileno(self) -> int:
        """A descriptor that polls readable while :meth:`recv` would not wait; -1 once closed.

        It is made at the first call, and is for polling only: reading it is the stream's own.
        """
        if self._closed and self._io_refs <= 0:
            return -1
        readiness = self._readiness
        if readiness is None:
            engine, state = self._engine, self._state
            receiver, sender = engine.receiver, engine.sender
            made = Readiness(lambda: receiver.readable(state), lambda: sender.writable(state))
            readiness = engine.streams.pin(state, made)
            if readiness is not made or state.closed:  # another thread was first
                made.close()
            if state.closed:
                return -1
            self._readiness = readiness
            readiness.sync()
        return readiness.fileno()

    def settimeout(self, value: float | None, /) -> None:
        seconds = check_timeout(value)
        self._check_open()
        self._timeout = seconds

    def gettimeout(self) -> float | None:
        return self._timeout

    @property
    def timeout(self) -> float | None:
        return self._timeout

    def setblocking(self, flag: bool, /) -> None:
        self._check_open()
        self._timeout = None if flag else 0.0

    def getblocking(self) -> bool:
        return self._timeout != 0

    def getsockname(self) -> Any:
        self._check_open()
        return self.session.getsockname()

    def getpeername(self) -> Any:
        self._check_open()
        return self.session.getpeername()

    def getsockopt(self, level: int, optname: int, buflen: int = 0, /) -> int | bytes:
        self._check_open()
        return option(self, level, optname, buflen, listening=False)

    def setsockopt(self, level: int, optname: int, *value: Any) -> None:
        """Accepted; there is nothing below a stream for an option to change."""
        self._check_open()
        check_option(level, optname, value)

    @property
    def family(self) -> socket.AddressFamily:
        return self.session.family

    @property
    def type(self) -> socket.SocketKind:
        return socket.SOCK_STREAM

    @property
    def proto(self) -> int:
        return self.session.proto

    def get_inheritable(self) -> bool:
        return False

    def __repr__(self) -> str:
        engine, state = self._engine, self._state
        return f"<muxado.Stream {state.id} of {engine.core.name}: {describe_stream(engine, state)}>"

    def __getstate__(self) -> None:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")

    def _check_open(self) -> None:
        if self._closed and self._io_refs <= 0:
            raise os_error(errno.EBADF)

    def _deadline(self) -> float | None:
        timeout = self._timeout
        return time.monotonic() + timeout if timeout else timeout
