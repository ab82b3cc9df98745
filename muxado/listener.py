"""Sessions over new connections: dial one, or listen for them."""

from __future__ import annotations

import collections
import contextlib
import errno
import logging
import operator
import os
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from muxado.config import Config
from muxado.engine import os_error
from muxado.readiness import Readiness
from muxado.session import Session
from muxado.stream import check_timeout
from muxado.transport import Secure

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Listener", "dial", "dial_tls", "listen", "listen_tls"]

log = logging.getLogger("muxado")

#: Seconds a client has for its TLS handshake.
_HANDSHAKE = 10.0
#: TLS handshakes under way at once; one more ends the oldest, which has had the most time.
_MAX_HANDSHAKES = 1024
#: Seconds without accepting after the process has run out of descriptors.
_PAUSE = 0.1
#: What says so.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def dial(address: Any, *, timeout: float | None = None, **options: Any) -> Session:
    """A client session over a new TCP (or Unix) connection.

    ``address`` is ``(host, port)``, ``"host:port"``, or the path of a Unix socket. ``timeout`` is
    for connecting, in seconds; ``options`` are the fields of ``Config``. Raises what
    ``socket.create_connection`` raises.
    """
    config = Config.of(options.pop("config", None), options)
    sock = _connect(address, timeout)
    try:
        return Session(sock, client=True, config=config)
    except BaseException:
        sock.close()
        raise


def dial_tls(
    address: Any,
    context: ssl.SSLContext | None = None,
    *,
    server_hostname: str | None = None,
    timeout: float | None = None,
    **options: Any,
) -> Session:
    """:func:`dial` over TLS.

    Without a ``context``, ``ssl.create_default_context()``: certificate and host name are
    checked. ``server_hostname`` is the host of ``address`` unless given. ``timeout`` covers the
    handshake too. Raises ``ssl.SSLError`` when it fails.
    """
    config = Config.of(options.pop("config", None), options)
    if context is None:
        context = ssl.create_default_context()
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(f"context must be an ssl.SSLContext, not {type(context).__name__}")
    deadline = None if timeout is None else time.monotonic() + timeout
    if server_hostname is None:
        target = _parse(address)
        server_hostname = target[0] if isinstance(target, tuple) else None
    sock = _connect(address, timeout)
    try:
        secure = Secure(sock, context, server_side=False, server_hostname=server_hostname)
        try:
            secure.handshake(deadline)
            return Session(secure, client=True, config=config)
        except BaseException:
            secure.close()
            raise
    except BaseException:
        sock.close()
        raise


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
    so a client that connects and then says nothing delays nobody.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        context: ssl.SSLContext | None = None,
        config: Config | None = None,
        **options: Any,
    ) -> None:
        self._config = Config.of(config, options)
        self._context = context
        self._pid = os.getpid()
        self._sock = sock
        self._name = sock.getsockname()
        self._timeout = sock.gettimeout()
        self._path: str | None = None  # a Unix socket's file, which is ours to remove
        self._held: tuple[socket.socket, Any] | None = None  # see _take()
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._ready: collections.deque[tuple[Session, Any]] = collections.deque()  # by _lock
        self._closed = False  # guarded by _lock
        self._readiness: Readiness | None = None  # guarded by _lock
        self._thread = threading.Thread(
            target=self._run, name=f"muxado-listener-{sock.fileno()}", daemon=True
        )
        with contextlib.ExitStack() as stack:
            stack.callback(self._release)
            self._owned: list[Any] = [sock]
            self._waker, self._wakee = socket.socketpair()
            self._owned += [self._waker, self._wakee]
            self._selector = selectors.DefaultSelector()
            self._owned.append(self._selector)
            for each in (sock, self._wakee):
                each.setblocking(False)
                self._selector.register(each, selectors.EVENT_READ)
            self._thread.start()
            stack.pop_all()

    def accept(self) -> tuple[Session, Any]:
        """The next session and its client's address.

        Raises ``TimeoutError`` past the time-out, ``BlockingIOError`` where it is 0, and
        ``OSError(EBADF)`` once the listener is closed.
        """
        timeout = self._timeout
        with self._lock:
            self._arrived.wait_for(lambda: self._ready or self._closed, timeout)
            if self._closed:
                raise os_error(errno.EBADF)
            if not self._ready:
                if timeout == 0:
                    raise os_error(errno.EAGAIN)
                raise TimeoutError("timed out")
            result = self._ready.popleft()
            readiness = self._readiness
        if readiness is not None:
            readiness.sync()
        return result

    def close(self) -> None:
        """Stop listening. Sessions that nobody accepted are closed; the others live on."""
        with self._lock:
            first, self._closed = not self._closed, True
            self._arrived.notify_all()
            readiness, self._readiness = self._readiness, None
        if os.getpid() != self._pid:  # a fork's copy: the thread is the parent's
            self._release(unlink=False)
            return
        if first:
            with contextlib.suppress(OSError):  # it has ended by itself
                self._waker.send(b"\0")
            if readiness is not None:
                readiness.close()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def getsockname(self) -> Any:
        """The address it listens on."""
        return self._name

    def fileno(self) -> int:
        """A descriptor that polls readable while :meth:`accept` would not wait; -1 once closed."""
        with self._lock:
            if self._closed:
                return -1
            readiness = self._readiness
            if readiness is None:
                readiness = self._readiness = Readiness(self._acceptable, None)
        readiness.sync()
        return readiness.fileno()

    def _acceptable(self) -> bool:
        with self._lock:
            return bool(self._ready) or self._closed

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

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<muxado.Listener {state} on {self._name}>"

    # The thread.

    def _run(self) -> None:
        handshakes: dict[Secure, tuple[float, Any]] = {}  # -> deadline, address; oldest first
        selector = self._selector
        paused_until = 0.0
        try:
            while not self._closed:
                now = time.monotonic()
                if paused_until <= now and self._sock not in selector.get_map():
                    if self._held is None or self._take(selector, handshakes):
                        selector.register(self._sock, selectors.EVENT_READ)
                    else:
                        paused_until = now + _PAUSE
                deadlines = [next(iter(handshakes.values()))[0]] if handshakes else []
                if paused_until > now:
                    deadlines.append(paused_until)
                pause = max(0.0, min(deadlines) - now) if deadlines else None
                for key, _ in selector.select(pause):
                    if key.fileobj is self._sock:
                        if not self._take(selector, handshakes):
                            paused_until = time.monotonic() + _PAUSE
                            selector.unregister(self._sock)
                    elif isinstance(key.data, Secure) and key.data in handshakes:
                        self._go_on(selector, handshakes, key.data)
                now = time.monotonic()
                for secure, (deadline, address) in list(handshakes.items()):
                    if deadline > now:
                        break
                    self._give_up(selector, handshakes, secure)
                    log.info("TLS handshake of %s timed out", address)
        except Exception:
            log.exception("%r stopped", self)
        finally:
            for secure in handshakes:
                secure.close()
            if self._held is not None:
                self._held[0].close()
            with self._lock:
                self._closed = True
                left = list(self._ready)
                self._ready.clear()
                self._arrived.notify_all()
            for session, _ in left:
                session.kill()
            self._release()

    def _take(
        self, selector: selectors.BaseSelector, handshakes: dict[Secure, tuple[float, Any]]
    ) -> bool:
        """Accept what waits; false when the process cannot take any more just now.

        Then one may be accepted already. It is held, and those behind it wait in the backlog.
        """
        while not self._closed:
            try:
                sock, address = self._held or self._sock.accept()
                self._held = None
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return True
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    log.warning("cannot accept just now: %s", error)
                    return False
                raise
            try:
                if self._context is None:
                    self._hand_out(sock, address)
                    continue
                secure = Secure(sock, self._context, server_side=True)
            except Exception as error:
                if isinstance(error, OSError) and error.errno in _EXHAUSTED:
                    self._held = sock, address
                    log.warning("cannot accept just now: %s", error)
                    return False
                sock.close()
                log.warning("no session for %s: %s", address, error)
                continue
            if len(handshakes) >= _MAX_HANDSHAKES:
                oldest = next(iter(handshakes))
                log.info("TLS handshake of %s made room", handshakes[oldest][1])
                self._give_up(selector, handshakes, oldest)
            handshakes[secure] = (time.monotonic() + _HANDSHAKE, address)
            selector.register(sock, selectors.EVENT_READ, secure)
            self._go_on(selector, handshakes, secure)
        return True

    def _go_on(
        self,
        selector: selectors.BaseSelector,
        handshakes: dict[Secure, tuple[float, Any]],
        secure: Secure,
    ) -> None:
        """Take a handshake as far as it goes now."""
        _, address = handshakes[secure]
        try:
            want = secure.step()
        except (OSError, ValueError) as error:
            log.info("TLS handshake of %s failed: %s", address, error)
            self._give_up(selector, handshakes, secure)
            return
        if want:
            event = selectors.EVENT_READ if want == "r" else selectors.EVENT_WRITE
            selector.modify(secure.sock, event, secure)
            return
        del handshakes[secure]
        selector.unregister(secure.sock)
        try:
            self._hand_out(secure, address)
        except Exception as error:
            secure.close()
            log.warning("no session for %s: %s", address, error)

    def _give_up(
        self,
        selector: selectors.BaseSelector,
        handshakes: dict[Secure, tuple[float, Any]],
        secure: Secure,
    ) -> None:
        del handshakes[secure]
        selector.unregister(secure.sock)
        secure.close()

    def _hand_out(self, connection: Any, address: Any) -> None:
        session = Session(connection, client=False, config=self._config)
        with self._lock:
            closed = self._closed
            if not closed:
                self._ready.append((session, address))
                self._arrived.notify()
            readiness = self._readiness
        if closed:
            session.kill()
        elif readiness is not None:
            readiness.sync()

    def _release(self, *, unlink: bool = True) -> None:
        for each in self._owned:
            each.close()
        if unlink and self._path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._path)


def _parse(address: Any) -> tuple[str, int] | str:
    """``(host, port)``, or the path of a Unix socket."""
    if isinstance(address, tuple):
        if len(address) < 2 or not isinstance(address[0], str):
            raise ValueError(f"an address is (host, port), not {address!r}")
        return address[0], operator.index(address[1])
    if isinstance(address, os.PathLike):
        return str(os.fspath(address))
    if not isinstance(address, str):
        raise TypeError(f"an address is (host, port), 'host:port' or a path, not {address!r}")
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in address:
        if int(port) > 65535:
            raise ValueError(f"port {port} is over 65535")
        return host.removeprefix("[").removesuffix("]"), int(port)
    if not address or (colon and "/" not in address):
        raise ValueError(f"an address is 'host:port' or a path, not {address!r}")
    return address


def _connect(address: Any, timeout: float | None) -> socket.socket:
    timeout = check_timeout(timeout)
    target = _parse(address)
    if isinstance(target, tuple):
        return socket.create_connection(target, timeout)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(target)
    except BaseException:
        sock.close()
        raise
    return sock


def _listen(address: Any, context: ssl.SSLContext | None, options: dict[str, Any]) -> Listener:
    config = Config.of(options.pop("config", None), options)
    target = _parse(address)
    path: str | None = None
    if isinstance(target, tuple):
        family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
        sock = socket.create_server(target, family=family, backlog=128)
    else:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.bind(target)
            sock.listen(128)
        except BaseException:
            sock.close()
            raise
        path = target
    listener = Listener(sock, context=context, config=config)
    listener._path = path
    return listener
