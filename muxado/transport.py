"""The connection below a session; the only module that touches the real socket.

Two kinds. A *polled* transport never blocks in a read or a write: it says that it would, and
waits in ``poll``, where the session can wake it and a deadline can end it. A *blocking* one is
any object with ``recv``, ``sendall`` (or ``send``) and ``close``; only the session's own threads
use it, because nothing can end its calls but the object itself.

One thread at a time reads and one at a time writes: the engine's two seats. Reading and writing
may go on at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "Blocking",
    "Buffer",
    "Locked",
    "Plain",
    "Polled",
    "Secure",
    "Transport",
    "close_quietly",
    "wrap",
]

Buffer = bytes | bytearray | memoryview

#: Joining small buffers into one `send` is cheaper than a `sendmsg` of several.
_JOIN = 16384

#: `sendmsg` takes at most IOV_MAX buffers, 1024 on Linux and 16 as the least POSIX allows.
_IOV_MAX = 512 if sys.platform == "linux" else 16

#: Bytes of TLS plaintext encrypted at a time, and the size of a read of ciphertext.
_TLS_PART = 65536
#: Bytes of plaintext in one record: what is shorter and comes in pieces is worth being joined.
_TLS_RECORD = 16384

_sched_yield: Callable[[], None] = getattr(os, "sched_yield", lambda: None)
#: Bytes that a blocking transport is given to write at a time.
_BLOCKING_PART = 65536

_POLLIN = int(getattr(select, "POLLIN", 1))

#: Milliseconds; `poll` takes no more than fits an int.
_FOREVER = 2**31 - 1

#: tcp(7): a socket counts as writable while fewer bytes than half of it are unsent, and takes
#: none while as many are. Bytes under way, sent and not acknowledged, do not count.
_NOTSENT_LOWAT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)
_SHORT = 8192
#: Where there is no such option all bytes count, those under way too.
_SHORT_BUFFER = 65536

#: Linux: bytes the peer's kernel has not acknowledged yet (tcp(7), SIOCOUTQ).
_SIOCOUTQ = 0x5411 if sys.platform == "linux" and fcntl is not None else None


class _Readable(Protocol):
    def recv(self, bufsize: int, /) -> bytes: ...

    def close(self) -> None: ...


class Transport:
    """What the engine asks of a connection."""

    #: Whether a caller's thread may read and write, with a deadline.
    polled: bool
    #: The socket's, where there is one.
    family = 0
    proto = 0
    #: Set when bytes came, even if they were not enough to return any; for the user to clear.
    heard = False
    #: Whether a :meth:`send` that raises has written nothing.
    exact = False
    #: Bytes taken by :meth:`send` that are still to be written: call ``send(())``.
    pending = False
    #: What :meth:`keep_short` last said; the writer's.
    short = False
    #: Whether it has locks that a thread may be inside of; see :meth:`inside`.
    locks = False

    def recv_into(self, into: memoryview) -> int | None:
        """Read into ``into``; returns the count, 0 at the end.

        ``None`` or ``BlockingIOError`` when there is nothing yet.
        """
        raise NotImplementedError

    def recv_both(self, into: memoryview, behind: memoryview) -> int | None:
        """As :meth:`recv_into`, and what is there beyond ``into`` goes into ``behind``.

        Where that takes one call; else it stays for the next read.
        """
        return self.recv_into(into)

    def send(self, buffers: Sequence[Buffer]) -> int:
        """Write what fits now; returns the count, which may be 0."""
        raise NotImplementedError

    def keep_short(self, short: bool) -> None:
        """Take no more than goes out soon, so that what is urgent finds little before it."""
        self.short = short

    def wait_readable(self, seconds: float | None) -> None:
        """Return when a read may succeed, after :meth:`wake`, or when the time is over."""
        raise NotImplementedError

    def glance(self, times: int) -> bool:
        """Look so many times whether :meth:`wait_readable` would return; true once it would.

        A thread that goes to sleep costs its waker an interrupt of another processor and itself
        the way back, several times what is between two such looks.
        """
        return False

    def wait_writable(self, seconds: float | None) -> None:
        """Return when a write may succeed, after :meth:`shutdown`, or when the time is over."""
        raise NotImplementedError

    def readable(self) -> bool:
        """Whether bytes, or the end, wait to be read: asked from any thread, never waits."""
        return False

    def wake(self) -> None:
        """Make :meth:`wait_readable` return, in whichever thread it is or will be next."""

    def inside(self) -> bool:
        """Whether this thread is inside one of its :attr:`locks`: in a finalizer, that is."""
        return False

    def finish(self) -> None:
        """Say that nothing more will be written."""

    def discard(self, into: memoryview) -> int:
        """Read and drop what the connection holds, below any TLS; 0 at its end."""
        return 0

    def unacknowledged(self) -> int:
        """Bytes written that the peer's machine has not taken yet, 0 where that is unknown."""
        return 0

    def shutdown(self) -> None:
        """End both directions and wake whoever waits; the descriptor stays."""

    def close(self) -> None:
        """Give the connection back."""

    def forsake(self) -> None:
        """Give up this process's copy of the connection without a word to the peer."""

    def getsockname(self) -> Any:
        return None

    def getpeername(self) -> Any:
        return None


class Polled(Transport):
    """A socket in non-blocking mode, with a second descriptor to wake its reader."""

    polled = True

    def __init__(self, sock: socket.socket) -> None:
        # First, so that where descriptors run out `sock` is still as it was.
        self._waker, self._wakee = socket.socketpair()
        try:
            sock.settimeout(0)
        except BaseException:
            self._waker.close()
            self._wakee.close()
            raise
        self._sock = sock
        self.family, self.proto = int(sock.family), sock.proto
        if self.family in (socket.AF_INET, socket.AF_INET6):
            # Every write is a whole batch of frames; holding one back gains nothing.
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._names = (_name(sock.getsockname), _name(sock.getpeername))
        self._waker.setblocking(False)
        self._wakee.setblocking(False)
        fd = sock.fileno()
        # One for each seat, since a poll object is for one thread at a time.
        self._poll_read = _poll([fd, self._wakee.fileno()], [])
        self._poll_write = _poll([], [fd])
        self._only_readable = [(fd, _POLLIN)]
        self._buffer = 0  # the writer's: the size of SO_SNDBUF before it was made small

    def wait_readable(self, seconds: float | None) -> None:
        ready = self._poll_read(None if seconds is None else _milliseconds(seconds))
        if ready != self._only_readable:
            with contextlib.suppress(BlockingIOError):
                self._wakee.recv(64)

    def glance(self, times: int) -> bool:
        poll = self._poll_read
        for _ in range(times):
            ready = poll(0)
            if ready:
                if ready != self._only_readable:
                    with contextlib.suppress(BlockingIOError):
                        self._wakee.recv(64)
                return True
            _sched_yield()  # the peer may need this very processor
        return False

    def wait_writable(self, seconds: float | None) -> None:
        self._poll_write(None if seconds is None else _milliseconds(seconds))

    def keep_short(self, short: bool) -> None:
        self.short = short
        if self.family not in (socket.AF_INET, socket.AF_INET6):
            return  # what a Unix socket has taken, the peer can read
        with contextlib.suppress(OSError):
            if _NOTSENT_LOWAT is not None:
                # 0 is the system's own, which is no limit as a rule.
                value = _SHORT if short else 0
                self._sock.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, value)
            elif short:
                self._buffer = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SHORT_BUFFER)
            else:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._buffer)

    def readable(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return bool(_poll([self._sock.fileno()], [])(0))
        return False

    def wake(self) -> None:
        # BlockingIOError: wake-ups enough are under way. OSError: nobody can wait any more.
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def discard(self, into: memoryview) -> int:
        return socket.socket.recv_into(self._sock, into)

    def unacknowledged(self) -> int:
        if _SIOCOUTQ is None or self.family not in (socket.AF_INET, socket.AF_INET6):
            return 0
        try:
            return int.from_bytes(
                fcntl.ioctl(self._sock.fileno(), _SIOCOUTQ, b"\0" * 4), sys.byteorder
            )
        except OSError:
            return 0

    def shutdown(self) -> None:
        # Closing a descriptor does not wake a thread that waits on it; this does.
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self.wake()

    def close(self) -> None:
        for each in (self._sock, self._waker, self._wakee):
            close_quietly(each)

    def forsake(self) -> None:
        self.close()

    def getsockname(self) -> Any:
        return self._names[0]

    def getpeername(self) -> Any:
        return self._names[1]


class Plain(Polled):
    """A stream socket as it is."""

    exact = True

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        # Asked for each frame, and found faster here than in the class.
        self.pending = self.short = False
        self.recv_into = sock.recv_into  # type: ignore[method-assign,assignment]
        #: None where the system has no such call, or the socket its own way of reading.
        self._recvmsg_into = (
            getattr(sock, "recvmsg_into", None)
            if type(sock).recv_into is socket.socket.recv_into
            else None
        )

    def recv_both(self, into: memoryview, behind: memoryview) -> int | None:
        if self._recvmsg_into is None:
            return self.recv_into(into)
        count: int = self._recvmsg_into((into, behind))[0]
        return count

    def send(self, buffers: Sequence[Buffer]) -> int:
        try:
            if len(buffers) == 1:
                return self._sock.send(buffers[0])
            if len(buffers) == 2 and len(buffers[1]) < _JOIN:
                return self._sock.send(b"".join(buffers))
            return self._sock.sendmsg(buffers[:_IOV_MAX])
        except (BlockingIOError, InterruptedError):
            return 0


class Encrypted(Polled):
    """What both kinds of TLS share: a lock, and an end that is known before it is told."""

    locks = True

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._lock = threading.RLock()
        self._ended = False  # the reader's
        self._failure: ssl.SSLError | None = None  # the reader's: behind what it has returned
        #: The reader's: one of both stands behind what was returned, and the socket may be silent.
        self._untold = False

    def inside(self) -> bool:
        return self._lock._is_owned()  # type: ignore[attr-defined,no-any-return]

    def wait_readable(self, seconds: float | None) -> None:
        if not self._untold:
            super().wait_readable(seconds)

    def glance(self, times: int) -> bool:
        return self._untold or super().glance(times)


class Secure(Encrypted):
    """TLS, by an ``SSLObject`` over memory BIOs.

    Reading and writing share the TLS state behind one short lock, which is never held while
    the descriptor is read or written: two threads inside one ``SSLSocket`` break it.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str | None = None,
    ) -> None:
        super().__init__(sock)
        self._incoming = ssl.MemoryBIO()  # guarded by _lock
        self._outgoing = ssl.MemoryBIO()  # guarded by _lock
        self._tls = context.wrap_bio(  # guarded by _lock
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=server_hostname,
        )
        self._cipher = memoryview(bytearray(_TLS_PART))  # the reader's
        #: The reader's: something may be left that was read before, by the handshake at first.
        self._left = True
        self._tail = memoryview(b"")  # the writer's: ciphertext the socket did not take

    @property
    def sock(self) -> socket.socket:
        """The socket below, for a selector to watch during the handshake."""
        return self._sock

    @property
    def pending(self) -> bool:  # type: ignore[override]
        return bool(self._tail) or bool(self._outgoing.pending)

    def step(self) -> str:
        """Go on with the handshake: ``""`` when done, else what it waits for, ``r`` or ``w``."""
        while True:
            try:
                self._tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self.send(())  # the alert that tells the peer why
                raise
            self.send(())
            if self.pending:
                return "w"
            if done:
                return ""
            try:
                count = self._sock.recv_into(self._cipher)
            except (BlockingIOError, InterruptedError):
                return "r"
            if not count:
                raise ConnectionResetError(
                    errno.ECONNRESET, "the peer closed the connection during the TLS handshake"
                )
            self._incoming.write(self._cipher[:count])

    def handshake(self, deadline: float | None) -> None:
        """Do the whole handshake; ``TimeoutError`` when it is not done by ``deadline``."""
        while want := self.step():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(errno.ETIMEDOUT, "the TLS handshake timed out")
            (self.wait_readable if want == "r" else self.wait_writable)(left)

    def recv_into(self, into: memoryview) -> int | None:
        self._untold = False
        if self._failure is not None:
            raise self._failure
        done, room, count = 0, len(into), -1
        while True:
            if not self._left:
                if self._ended:
                    return 0
                try:
                    count = self._sock.recv_into(self._cipher)
                except (BlockingIOError, InterruptedError):
                    return None
            with self._lock:
                if count > 0:
                    self.heard = True
                    self._incoming.write(self._cipher[:count])
                elif not count:
                    self._ended = True
                    self._incoming.write_eof()
                self._left = False
                try:
                    # A read returns one record at most. Not `while done < room`: CPython 3.13
                    # lets an exception that strikes as that goes back pass by what guards it.
                    while True:
                        if done >= room:
                            self._left = True
                            break
                        # OpenSSL takes from the BIO no more than the record under way. To ask it
                        # in vain costs more than all the rest, for the error that it raises.
                        if not self._incoming.pending and not self._tls.pending():
                            break
                        part = self._tls.read(room - done, into[done:])
                        if not part:
                            self._ended = True  # close_notify, which may stand behind something
                            break
                        done += cast("int", part)  # a count, where a buffer was given
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLEOFError:
                    # A peer that ends without close_notify: as much an end of the connection
                    # as any. Whether it was meant to end the frames tell.
                    return done
                except ssl.SSLZeroReturnError:
                    self._ended = True
                except ssl.SSLError as error:
                    if not done:
                        raise
                    self._failure = error  # the records before the broken one are good
            if done:
                self._untold = self._ended or self._failure is not None
                return done

    def send(self, buffers: Sequence[Buffer]) -> int:
        taken = 0
        if not self._flush():
            return 0
        total = sum(map(len, buffers))
        if len(buffers) > 1 and total <= _TLS_RECORD:
            buffers = (b"".join(buffers),)
        for buffer in buffers:
            view = memoryview(buffer)
            for start in range(0, len(view), _TLS_PART):
                part = view[start : start + _TLS_PART]
                with self._lock:
                    self._tls.write(part)
                    taken += len(part)
                    full = taken == total or self._outgoing.pending >= _TLS_PART
                    if full:
                        self._tail = memoryview(self._outgoing.read())
                if full and not self._flush():
                    return taken
        return taken

    def _flush(self) -> bool:
        """Write ciphertext while the socket takes it; true when none is left."""
        while True:
            if not self._tail:
                if not self._outgoing.pending:
                    return True
                with self._lock:
                    self._tail = memoryview(self._outgoing.read())
            try:
                self._tail = self._tail[self._sock.send(self._tail) :]
            except (BlockingIOError, InterruptedError):
                return False

    def finish(self) -> None:
        with self._lock, contextlib.suppress(ssl.SSLError, ValueError):
            self._tls.unwrap()  # queues close_notify; the peer's own is not waited for
        with contextlib.suppress(OSError):
            self._flush()
        super().finish()


class Locked(Encrypted):
    """An ``SSLSocket`` whose handshake is done.

    Its TLS state cannot be moved to memory BIOs, so it is used as it is, non-blocking, one call
    at a time.
    """

    def __init__(self, sock: ssl.SSLSocket) -> None:
        super().__init__(sock)
        self._tls = sock  # each call under _lock
        self._retry: bytes | None = None  # the writer's: OpenSSL wants the same bytes again

    @property
    def pending(self) -> bool:  # type: ignore[override]
        return self._retry is not None

    def recv_into(self, into: memoryview) -> int | None:
        self._untold = False
        if self._failure is not None:
            raise self._failure
        if self._ended:
            return 0
        with self._lock:
            done = 0
            try:
                while True:  # not `while done < len(into)`: see Secure.recv_into()
                    if done >= len(into):
                        break
                    count = self._tls.recv_into(into[done:])
                    if not count:
                        self._ended = True
                        break
                    done += count
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return done or None
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                self._ended = True
            except ssl.SSLError as error:
                if not done:
                    raise
                self._failure = error  # the records before the broken one are good
        self._untold = done > 0 and (self._ended or self._failure is not None)
        return done

    def send(self, buffers: Sequence[Buffer]) -> int:
        # What was begun is kept and goes first, because OpenSSL wants a write that it cut off
        # to be repeated with the same bytes; so a part counts as taken once it is begun.
        taken = 0
        if not self._flush():
            return 0
        data = b"".join(buffers)
        for start in range(0, len(data), 16384):
            self._retry = data[start : start + 16384]
            taken += len(self._retry)
            if not self._flush():
                break
        return taken

    def _flush(self) -> bool:
        while self._retry is not None:
            with self._lock:
                try:
                    count = self._tls.send(self._retry)
                except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    return False
            self._retry = self._retry[count:] or None
        return True

    def finish(self) -> None:
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._tls.unwrap()


class Blocking(Transport):
    """Any object with ``recv``, ``sendall`` (or ``send``) and ``close``."""

    polled = False

    def __init__(self, obj: _Readable) -> None:
        for name in ("recv", "close"):
            if not callable(getattr(obj, name, None)):
                raise TypeError(f"a transport needs {name}(); {type(obj).__name__} has none")
        send = getattr(obj, "sendall", None) or getattr(obj, "send", None)
        if not callable(send):
            raise TypeError(f"a transport needs sendall() or send(); {type(obj).__name__} has none")
        self._obj = obj
        self._send = send
        self._whole = callable(getattr(obj, "sendall", None))

    def recv_into(self, into: memoryview) -> int | None:
        data = self._obj.recv(len(into))
        into[: len(data)] = data
        return len(data)

    def send(self, buffers: Sequence[Buffer]) -> int:
        # In parts, so that a heartbeat need not stand behind a whole batch.
        parts: list[Buffer] = []
        room = _BLOCKING_PART
        for buffer in buffers:
            parts.append(memoryview(buffer)[:room])
            room -= len(buffer)
            if room <= 0:
                break
        data = b"".join(parts)
        if not data:
            return 0
        count = self._send(data)
        return len(data) if self._whole else int(count)

    def wait_readable(self, seconds: float | None) -> None:
        """Reading itself waits."""

    def wait_writable(self, seconds: float | None) -> None:
        """Writing itself waits."""

    def shutdown(self) -> None:
        shutdown = getattr(self._obj, "shutdown", None)
        if callable(shutdown):
            with contextlib.suppress(OSError, TypeError):
                shutdown(socket.SHUT_RDWR)
        # Without one, close() is all there is to end a call that blocks.
        close_quietly(self._obj)

    def close(self) -> None:
        close_quietly(self._obj)

    def getsockname(self) -> Any:
        return _name(getattr(self._obj, "getsockname", None))

    def getpeername(self) -> Any:
        return _name(getattr(self._obj, "getpeername", None))


def _milliseconds(seconds: float) -> int:
    # Rounded up, so that a deadline less than a millisecond away is not waited for in a busy loop.
    return min(int(seconds * 1000) + 1, _FOREVER)


def _poll(reads: list[int], writes: list[int]) -> Callable[[int | None], list[tuple[int, int]]]:
    """The ``poll`` method of a poll object for these descriptors, or what does the same."""
    if hasattr(select, "poll"):
        poll = select.poll()
        for fd in reads:
            poll.register(fd, _POLLIN)
        for fd in writes:
            poll.register(fd, select.POLLOUT)
        return poll.poll

    def by_select(milliseconds: int | None) -> list[tuple[int, int]]:
        seconds = None if milliseconds is None else milliseconds / 1000
        readable, writable, _ = select.select(reads, writes, [], seconds)
        return [(fd, _POLLIN) for fd in [*readable, *writable]]

    return by_select


def wrap(sock: Any) -> Transport:
    """The transport for what the user gave; ``TypeError`` when it cannot be one."""
    if isinstance(sock, Transport):
        return sock
    if isinstance(sock, ssl.SSLSocket):
        if sock.type != socket.SOCK_STREAM:
            raise TypeError("a session needs a stream socket")
        if sock.version() is not None:
            return Locked(sock)
        context, timeout = sock.context, sock.gettimeout()
        server_side, hostname = sock.server_side, sock.server_hostname
        raw = socket.socket(fileno=sock.detach())
        try:
            secure = Secure(
                raw,
                context,
                server_side=bool(server_side),
                server_hostname=None if hostname is None else str(hostname),
            )
            secure.handshake(None if timeout is None else time.monotonic() + timeout)
        except BaseException:
            raw.close()
            raise
        return secure
    if isinstance(sock, socket.socket):
        if sock.type != socket.SOCK_STREAM:
            raise TypeError("a session needs a stream socket")
        return Plain(sock)
    return Blocking(sock)


def close_quietly(obj: _Readable | socket.socket) -> None:
    """Close; an object that is in no state to be closed is as good as closed."""
    with contextlib.suppress(OSError, ValueError):
        obj.close()


def _name(call: Any) -> Any:
    """The result of ``getsockname`` or ``getpeername``, where there is one."""
    try:
        return call() if callable(call) else None
    except OSError:
        return None
