"""A descriptor that polls as something that is no descriptor would."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Readiness"]


class _End(socket.socket):
    """A socket that is closed without a ``ResourceWarning`` when it is dropped.

    Whoever drops a stream or a session is warned of that, not of what it had inside. The owner's
    finalizer could not do it, since in a cycle that of the socket may be called first.
    """

    __slots__ = ()

    #: In C, so that no handler of a signal can strike inside, which would lose the descriptor.
    __del__ = socket.SocketType.close


class Readiness:
    """One end of a socket pair, kept readable and writable as two functions say.

    Readable: a byte lies in it. Not writable: its buffer is stuffed until it is full. Whoever
    changes what the functions look at calls :meth:`sync` afterwards; the last call sees the last
    change, so the descriptor ends up right whatever the order.

    The functions should not hold what holds this object: then its descriptors are given back as
    soon as it is dropped.
    """

    def __init__(self, readable: Callable[[], bool], writable: Callable[[], bool] | None) -> None:
        self._is_readable = readable
        self._is_writable = writable
        # Taken before the locks that the functions take, never after. Reentrant, because a
        # finalizer or a handler of a signal may come here in a thread that has it.
        self._lock: Any = threading.RLock()
        self._outer, self._inner = socket.socketpair()
        for end in (self._outer, self._inner):
            # Not made anew of its descriptor, which an exception of a signal's handler could lose.
            end.__class__ = _End
            end.setblocking(False)
        # The least that the kernel allows, so that a few bytes fill it.
        self._outer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        #: What the descriptor says, ``None`` where an exception has left that unknown.
        self._readable: bool | None = False  # guarded by _lock
        self._stuffed: bool | None = False  # guarded by _lock
        self._open = True  # guarded by _lock
        self._stale = False  # somebody has called sync() since the functions were last asked

    def fileno(self) -> int:
        """The descriptor to poll, -1 once it is closed."""
        return self._outer.fileno()

    def inside(self) -> bool:
        """Whether this thread is bringing the descriptor up to date, further up its stack."""
        owned: bool = self._lock._is_owned()
        return owned

    def sync(self) -> None:
        """Bring the descriptor up to date. Never blocks for long, and not under other locks."""
        self._stale = True
        if self.inside():
            return  # the call further up the stack asks the functions again
        try:
            self._sync()
        except BaseException:
            if self.inside():  # CPython 3.14 may raise when `with` has just taken the lock
                self._lock.release()
            raise

    def _sync(self) -> None:
        with self._lock:
            while self._stale and self._open:
                self._stale = False
                with contextlib.suppress(OSError):  # closed further down the stack
                    self._update()

    def _update(self) -> None:
        readable = bool(self._is_readable())
        stuffed = self._is_writable is not None and not self._is_writable()
        was_readable, was_stuffed = self._readable, self._stuffed
        self._readable = self._stuffed = None
        if readable != was_readable:
            with contextlib.suppress(BlockingIOError):
                if readable:
                    self._inner.send(b"\0")
                else:
                    self._outer.recv(64)
        if stuffed != was_stuffed:
            with contextlib.suppress(BlockingIOError):
                while stuffed:
                    self._outer.send(b"\0" * 256)
                while True:
                    self._inner.recv(65536)
        self._readable, self._stuffed = readable, stuffed

    def abandon(self) -> None:
        """In the child of a fork: the bytes in the pair are the parent's, the lock nobody's."""
        self._lock = threading.RLock()
        self.close()

    def detach(self) -> None:
        """Leave the descriptor to whoever has asked for its number; it says nothing any more."""
        with self._lock:
            self._open = False
            self._outer.detach()
            self._inner.close()

    def close(self) -> None:
        """Give the descriptors back, as dropping this object does."""
        with self._lock:
            self._open = False
            self._outer.close()
            self._inner.close()
