"""What the engine asks of a connection, and what all transports over a socket share."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any
from typing import Protocol as Interface

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "Buffer",
    "SocketTransport",
    "Transport",
    "close_quietly",
    "name_of",
]

Buffer = bytes | bytearray | memoryview

#: Joining small buffers into one `send` is cheaper than a `sendmsg` of several.
_JOIN = 16384
#: `sendmsg` takes at most IOV_MAX buffers: 1024 on Linux, and POSIX allows as few as 16.
_IOV_MAX = 512 if sys.platform == "linux" else 16

#: Seconds that `spin` looks at the socket, and how many times before it looks at the clock.
_SPIN = 0.0002
_LOOKS = 4
#: After so many spins in a row that saw nothing come, so many waits go to sleep at once.
_PATIENCE = 8
_RETRY = 64

#: Absent on Windows, where the other end gets the processor only when the scheduler says so.
_sched_yield: Callable[[], None] = getattr(os, "sched_yield", lambda: None)

_POLLIN = int(getattr(select, "POLLIN", 1))
#: Milliseconds: the longest wait that `poll` accepts.
_LONGEST = 2**31 - 1

#: tcp(7): a socket counts as writable while fewer bytes than half of this are unsent, and takes no
#: more at twice as many. Bytes that were sent and are not yet acknowledged do not count.
_NOTSENT_LOWAT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)
_SHORT = 8192
#: Where there is no such option the whole send buffer is made small. It also holds the bytes that
#: are not yet acknowledged, so it has to be larger.
_SHORT_BUFFER = 65536

#: Linux: how many bytes the peer's kernel has not acknowledged yet (tcp(7)).
_SIOCOUTQ = 0x5411 if sys.platform == "linux" and fcntl is not None else None

#: Seconds between two looks at what is unacknowledged: at first, and at most.
_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.05
#: Reads at most that empty a Unix socket before it is closed.
_SWEEPS = 64


class _Closable(Interface):
    def close(self) -> object: ...


class Transport:
    """What the engine asks of a connection. Nothing here blocks but the two ``wait`` methods."""

    #: The socket's, where there is one.
    family = 0
    proto = 0
    #: Bytes came, even if too few for :meth:`recv_into` to return any. The caller clears it.
    heard = False
    #: A :meth:`send` that raises has written what it has added to :attr:`written`, no more.
    exact = False
    #: Where :meth:`send` adds the count of what it has written; the caller clears it before.
    written: list[int]
    #: :meth:`send` has taken bytes that are still to be written: call ``send(())``.
    pending = False
    #: What :meth:`keep_short` last said.
    short = False

    @property
    def failure(self) -> OSError | None:
        """What an object has raised that serves as the connection, which ended with it."""
        return None

    def has_raised(self, error: OSError | ValueError) -> bool:
        """Whether the connection has raised ``error``, and not the handler of a signal.

        Programs raise ``TimeoutError`` in handlers of SIGALRM. The system's errors have a number;
        those of an object that serves as the connection may have none.
        """
        return not isinstance(error, OSError) or error.errno is not None or error is self.failure

    def recv_into(self, view: memoryview) -> int | None:
        """Read into ``view`` and return the count, 0 at the end of the connection.

        Returns ``None`` or raises ``BlockingIOError`` when nothing has come yet.
        """
        raise NotImplementedError

    def send(self, buffers: Sequence[Buffer]) -> int:
        """Write what the connection takes now; returns the count, which may be 0."""
        raise NotImplementedError

    def keep_short(self, short: bool) -> None:
        """Take little in advance, so that bytes of a higher priority have few to wait for."""
        self.short = short

    def spin(self) -> bool:
        """Look for a moment, awake, whether a read may succeed; true once it may.

        False tells the caller to sleep in :meth:`wait_readable`. To wake a sleeping thread takes
        an interrupt of another processor, which costs several times what two processes that are
        awake need for a whole round trip. Where it has not paid lately, this returns at once.
        """
        return False

    def wait_readable(self, seconds: float | None) -> None:
        """Return when a read may succeed, after :meth:`wake`, or when the time is over."""
        raise NotImplementedError

    def wait_writable(self, seconds: float | None) -> None:
        """Return when a write may succeed, after :meth:`shutdown`, or when the time is over."""
        raise NotImplementedError

    def readable(self) -> bool:
        """Whether bytes, or the end, wait to be read. Any thread may ask."""
        return False

    def wake(self) -> None:
        """End :meth:`wait_readable`, in whichever thread it is or comes next."""

    def finish(self) -> None:
        """Say that nothing more will be written. What was written still goes out."""

    def drain(self, deadline: float) -> None:
        """After :meth:`finish`: wait until what was written has left this process.

        ``deadline`` is on the monotonic clock. Returns at once for sockets, because the system
        goes on sending whatever becomes of the process.
        """

    def linger(self, view: memoryview, deadline: float) -> None:
        """After :meth:`finish`: wait until the peer has what was written, then end both directions.

        ``deadline`` is on the monotonic clock. What is received meanwhile is read into ``view``
        and dropped.
        """

    def discard(self, view: memoryview) -> int:
        """Read and drop what the connection holds, below any TLS; 0 at its end."""
        return 0

    def unacknowledged(self) -> int:
        """How many bytes were written that the other side has not taken yet, 0 where unknown."""
        return 0

    def shutdown(self) -> None:
        """End both directions and whatever waits for them. The descriptor stays open."""

    def close(self) -> None:
        """Give the connection back."""

    def abandon(self) -> None:
        """In the child of a fork: give up this process's copy without a word to the peer."""

    def getsockname(self) -> Any:
        return None

    def getpeername(self) -> Any:
        return None


class SocketTransport(Transport):
    """A non-blocking socket, with a second descriptor to wake whoever waits to read.

    How to read and to write is added by :class:`.Plain` and its like.
    """

    def __init__(self, sock: socket.socket) -> None:
        # First, so that `sock` is untouched where descriptors have run out.
        self._waker, self._wakee = socket.socketpair()
        try:
            sock.settimeout(0)
        except OSError:
            self._waker.close()
            self._wakee.close()
            raise
        self._sock = sock
        self._waker.setblocking(False)
        self._wakee.setblocking(False)
        self.family, self.proto = int(sock.family), sock.proto
        self._is_tcp = self.family in (socket.AF_INET, socket.AF_INET6)
        if self._is_tcp:
            # Every write is a whole batch of frames, so holding back the rest gains nothing.
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Asked once, because a socket that was closed has no names.
        self._names = (name_of(sock, "getsockname"), name_of(sock, "getpeername"))
        fd = sock.fileno()
        # One for each seat, because only one thread at a time may use a poll object.
        self._poll_read = _poll([fd, self._wakee.fileno()], [])
        self._poll_write = _poll([], [fd])
        self._only_readable = [(fd, _POLLIN)]
        self.written = []
        self._buffer_size = 0  # what SO_SNDBUF was set to before keep_short() changed it
        self._vain_spins = 0
        self._spins_to_skip = 0

    # The reader.

    def spin(self) -> bool:
        if self._spins_to_skip:
            self._spins_to_skip -= 1
            return False
        poll, end, over = self._poll_read, time.monotonic() + _SPIN, False
        while not over:
            for _ in range(_LOOKS):
                if ready := poll(0):
                    self._take_wakeups(ready)
                    self._vain_spins = 0
                    return True
                _sched_yield()  # the peer may need this very processor
            # By the clock, because where others want the processor, a single look may take 5 ms.
            over = time.monotonic() >= end
        self._vain_spins += 1
        if self._vain_spins >= _PATIENCE:
            self._spins_to_skip = _RETRY
        return False

    def wait_readable(self, seconds: float | None) -> None:
        self._take_wakeups(self._poll_read(_milliseconds(seconds)))

    def _take_wakeups(self, ready: list[tuple[int, int]]) -> None:
        if ready != self._only_readable:
            with contextlib.suppress(BlockingIOError):
                self._wakee.recv(64)

    def readable(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return bool(_poll([self._sock.fileno()], [])(0))
        return False

    def wake(self) -> None:
        # BlockingIOError: enough wake-ups are under way. Other errors: nobody can wait any more.
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    # The writer.

    def wait_writable(self, seconds: float | None) -> None:
        self._poll_write(_milliseconds(seconds))

    def keep_short(self, short: bool) -> None:
        self.short = short
        if not self._is_tcp:
            return  # the peer can read at once what a Unix socket has taken
        with contextlib.suppress(OSError):
            if _NOTSENT_LOWAT is not None:
                # 0 stands for the system's own value, which as a rule is no limit.
                value = _SHORT if short else 0
                self._sock.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, value)
            else:
                self._limit_buffer(_SHORT_BUFFER if short else 0)

    def _limit_buffer(self, size: int) -> None:
        """Make the socket's send buffer so small; 0 to have it as it was."""
        if not self._buffer_size:
            reported = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
            # Linux doubles what is set, and reports that (socket(7)).
            self._buffer_size = reported // 2 if sys.platform == "linux" else reported
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size or self._buffer_size)

    # The end.

    def send(self, buffers: Sequence[Buffer]) -> int:
        # The count goes into `written` by one function in C, because a handler of a signal may
        # raise as soon as a function in C returns.
        written = self.written
        try:
            if len(buffers) == 1:
                written.extend(map(self._sock.send, buffers))
            elif sum(map(len, buffers)) < _JOIN:
                written.extend(map(self._sock.send, (b"".join(buffers),)))
            else:
                written.extend(map(self._sock.sendmsg, (buffers[:_IOV_MAX],)))
        except (BlockingIOError, InterruptedError):
            return 0
        return written[-1]

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def linger(self, view: memoryview, deadline: float) -> None:
        # To close a TCP socket with unread bytes resets the connection, and the peer's kernel may
        # then drop what it has not read yet. So read on until all of ours is acknowledged.
        # A Unix socket has nothing to be acknowledged: its peer reads what we wrote, but finds a
        # reset behind it instead of the end, unless everything is read here once no more can come.
        pause = _FIRST_PAUSE
        with contextlib.suppress(OSError, ValueError):
            while self.unacknowledged() and time.monotonic() < deadline:
                SocketTransport.wait_readable(self, pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                with contextlib.suppress(BlockingIOError, InterruptedError):
                    if self.discard(view) == 0:
                        break
        SocketTransport.shutdown(self)
        with contextlib.suppress(OSError, ValueError):
            for _ in range(_SWEEPS):
                if self.discard(view) == 0:
                    break

    def discard(self, view: memoryview) -> int:
        return socket.socket.recv_into(self._sock, view)

    def unacknowledged(self) -> int:
        if _SIOCOUTQ is None or not self._is_tcp:
            return 0
        try:
            count = fcntl.ioctl(self._sock.fileno(), _SIOCOUTQ, b"\0" * 4)
        except (OSError, ValueError):
            return 0
        return int.from_bytes(count, sys.byteorder)

    def shutdown(self) -> None:
        # Closing a descriptor does not wake a thread that waits on it; this does.
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self.wake()

    def close(self) -> None:
        for each in (self._sock, self._waker, self._wakee):
            close_quietly(each)

    def abandon(self) -> None:
        SocketTransport.close(self)

    def getsockname(self) -> Any:
        return self._names[0]

    def getpeername(self) -> Any:
        return self._names[1]


def close_quietly(obj: _Closable) -> None:
    """Close ``obj``; one that is in no state to be closed is as good as closed."""
    with contextlib.suppress(OSError, ValueError):
        obj.close()


def name_of(obj: Any, method: str) -> Any:
    """What ``getsockname`` or ``getpeername`` of ``obj`` returns, ``None`` where there is none."""
    try:
        call = getattr(obj, method, None)
        return call() if callable(call) else None
    except Exception:
        return None  # whatever the object is, it works without


def _milliseconds(seconds: float | None) -> int | None:
    if seconds is None:
        return None
    # Rounded up: else a wait of less than a millisecond would become a busy loop.
    return min(int(seconds * 1000) + 1, _LONGEST)


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
