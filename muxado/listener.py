"""Listeners: server sessions over the connections that clients make."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from muxado.accepting import Acceptor
from muxado.addresses import bind
from muxado.arguments import check_timeout
from muxado.config import Config
from muxado.engine.waiting import wait_until
from muxado.errors import os_error
from muxado.readiness import Readiness
from muxado.session import Session

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Listener", "listen", "listen_tls"]

#: Seconds that `close()` waits for the thread to give everything back.
_GRACE = 5.0


def listen(address: Any, **options: Any) -> Listener:
    """A :class:`Listener` on a new listening socket; ``address`` as for :func:`dial`."""
    return _listen(address, None, options)


def listen_tls(address: Any, context: ssl.SSLContext, **options: Any) -> Listener:
    """:func:`listen` for TLS clients; ``context`` holds the server's certificate."""
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(f"context must be an ssl.SSLContext, not {type(context).__name__}")
    return _listen(address, context, options)


class Listener:
    """Accepts connections and makes a server session of each.

    ``sock`` is a listening stream socket, which the listener owns. With a ``context`` clients
    must speak TLS. ``options`` are the fields of ``Config`` for the sessions.

    A thread of the listener's own accepts connections and does all TLS handshakes side by side,
    so a client that connects and then says nothing delays nobody. One that is dropped without
    being closed is closed, with a ``ResourceWarning``, as a socket is.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        context: ssl.SSLContext | None = None,
        config: Config | None = None,
        **options: Any,
    ) -> None:
        self._pid = os.getpid()
        self._name = sock.getsockname()
        self._timeout = sock.gettimeout()
        self._acceptor = Acceptor(sock, context, Config.of(config, options))

    def accept(self) -> tuple[Session, Any]:
        """The next session and its client's address.

        Raises ``TimeoutError`` past the time-out, ``BlockingIOError`` where it is 0, and
        ``OSError(EBADF)`` once the listener is closed.
        """
        acceptor, timeout = self._acceptor, self._timeout
        self._check_entry()
        deadline = None if timeout is None else time.monotonic() + timeout
        taken: list[tuple[Session, Any]] = []

        def take() -> bool:
            if acceptor.sessions and not acceptor.closed:
                taken.append(acceptor.sessions.popleft())
            return bool(taken) or acceptor.closed

        if not wait_until(acceptor.lock, acceptor.waiting, take, deadline):
            if timeout == 0:
                raise os_error(errno.EAGAIN)
            raise TimeoutError("timed out")
        if not taken:
            raise os_error(errno.EBADF)
        if acceptor.readiness is not None:
            acceptor.readiness.sync()
        return taken[0]

    def close(self) -> None:
        """Stop listening. Sessions that nobody accepted are closed; the others live on."""
        acceptor = self._acceptor
        if os.getpid() != self._pid:  # a fork's copy: the thread is the parent's
            acceptor.abandon()
            return
        acceptor.stop()
        if self._inside() or threading.current_thread() is acceptor.thread:
            return  # the thread ends once we are gone
        # Not for ever: it may have to wait for what a handler of a signal has interrupted here.
        deadline = time.monotonic() + _GRACE
        if wait_until(acceptor.lock, acceptor.waiting, lambda: acceptor.over, deadline):
            acceptor.thread.join(_GRACE)

    def _inside(self) -> bool:
        """Whether this thread has a lock of the listener's, further up its stack.

        That is so in a handler of a signal, or a finalizer, which must not wait for what needs
        the lock.
        """
        acceptor = self._acceptor
        owned: bool = acceptor.lock._is_owned()
        return owned or (acceptor.readiness is not None and acceptor.readiness.inside())

    def _check_entry(self) -> None:
        if os.getpid() != self._pid:
            raise os_error(errno.EBADF)
        if self._inside():
            raise RuntimeError(
                "a signal handler or a finalizer uses a listener that its own thread is inside of"
            )

    def getsockname(self) -> Any:
        """The address it listens on."""
        return self._name

    def fileno(self) -> int:
        """A descriptor that polls readable while :meth:`accept` would not wait; -1 once closed."""
        acceptor = self._acceptor
        if acceptor.closed:
            return -1
        self._check_entry()
        with acceptor.lock:
            readiness = acceptor.readiness
            if readiness is None and not acceptor.closed:
                readiness = acceptor.readiness = Readiness(acceptor.acceptable, None)
        if readiness is None:
            return -1
        readiness.sync()
        return readiness.fileno()

    def settimeout(self, value: float | None, /) -> None:
        """Seconds that :meth:`accept` waits; ``None`` for ever, 0 not at all."""
        self._timeout = check_timeout(value)

    def gettimeout(self) -> float | None:
        """What :meth:`settimeout` set."""
        return self._timeout

    def __iter__(self) -> Iterator[Session]:
        """Yield sessions until the listener is closed."""
        while True:
            try:
                session, _ = self.accept()
            except TimeoutError:
                raise
            except OSError:
                return
            yield session

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Nothing here may wait: a finalizer runs in any thread, which may hold any lock.
        acceptor = getattr(self, "_acceptor", None)
        if acceptor is None or acceptor.closed:
            return
        if os.getpid() != self._pid:
            acceptor.abandon()
            return
        acceptor.stop()
        warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        state = "closed" if self._acceptor.closed else "open"
        return f"<muxado.Listener {state} on {self._name}>"


def _listen(address: Any, context: ssl.SSLContext | None, options: dict[str, Any]) -> Listener:
    config = Config.of(options.pop("config", None), options)
    sock, path = bind(address)
    try:
        listener = Listener(sock, context=context, config=config)
    except BaseException:
        if path is not None:
            with contextlib.suppress(OSError):
                os.unlink(path)
        raise
    listener._acceptor.path = path
    return listener
