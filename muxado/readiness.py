"""A descriptor that polls as something that is no descriptor would."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

__all__ = ["Readiness"]


class _End(socket.socket):
    """A socket that is closed without a ``ResourceWarning`` when it is dropped.

    Whoever drops a stream or a session is warned of that, not of what it had inside.
    """

    def __del__(self) -> None:
        self.close()


class Readiness:
    """One end of a socket pair, kept readable and writable as two functions say.

    Readable: a byte lies in it. Not writable: its buffer is stuffed until it is full. Whoever
    changes what the functions look at calls :meth:`sync` afterwards; the last call sees the last
    change, so the descriptor ends up right whatever the order.
    """

    def __init__(self, readable: Callable[[], bool], writable: Callable[[], bool] | None) -> None:
        self._is_readable = readable
        self._is_writable = writable
        self._lock = threading.RLock()  # taken before the session's lock, never after
        self._outer, self._inner = (_End(fileno=end.detach()) for end in socket.socketpair())
        for end in (self._outer, self._inner):
            end.setblocking(False)
        # The least the kernel allows: stuffing it should take few bytes.
        self._outer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        #: Guarded by _lock: what the descriptor says, ``None`` where that is not known.
        self._readable: bool | None = False
        self._stuffed: bool | None = False
        self._open = True  # guarded by _lock

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._outer.fileno()

    def sync(self) -> None:
        """Bring the descriptor up to date. Never blocks for long, and not under other locks."""
        # OSError: a finalizer that ran in the middle has closed it.
        with self._lock, contextlib.suppress(OSError):
            if not self._open:
                return
            readable = self._is_readable()
            stuffed = self._is_writable is not None and not self._is_writable()
            # Unknown meanwhile: an exception of a signal's handler may strike.
            was, self._readable = self._readable, None
            with contextlib.suppress(BlockingIOError):
                if readable and not was:
                    self._inner.send(b"\0")
                elif not readable and was is not False:
                    self._outer.recv(64)
            self._readable = readable
            was, self._stuffed = self._stuffed, None
            with contextlib.suppress(BlockingIOError):
                if stuffed and not was:
                    while True:
                        self._outer.send(b"\0" * 256)
                elif not stuffed and was is not False:
                    while True:
                        self._inner.recv(65536)
            self._stuffed = stuffed

    def forsake(self) -> None:
        """In the child of a fork: the bytes in the pair are the parent's, the lock nobody's."""
        self._lock = threading.RLock()
        self.close()

    def close(self) -> None:
        """Give the descriptors back; so does the garbage collector."""
        with self._lock:
            self._open = False
            self._outer.close()
            self._inner.close()
