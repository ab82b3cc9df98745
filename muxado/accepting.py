"""The thread of a listener: it takes connections and makes a session of each.

It holds nothing of the :class:`.Listener` itself, so that one which is dropped does not go on.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import logging
import os
import selectors
import socket
import ssl
import threading
import time
from typing import Any

from muxado.config import Config
from muxado.engine.waiting import WaitQueue
from muxado.readiness import Readiness
from muxado.session import Session
from muxado.transport import HANDSHAKE_TIMEOUT, Secure

__all__ = ["Acceptor"]

log = logging.getLogger("muxado")

#: TLS handshakes under way at once. One more ends the oldest, which has had the most time.
_MAX_HANDSHAKES = 1024
#: Seconds without accepting after the process has run out of descriptors.
_PAUSE = 0.1
#: What says so.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Acceptor:
    """Accepts connections, and does all TLS handshakes side by side so that nobody delays others.

    Owns the listening socket. Everything is the thread's own unless its comment says otherwise.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext | None, config: Config) -> None:
        self._sock = sock
        self._context = context
        self._config = config
        #: A Unix socket's file that is ours to remove; set by who has made it.
        self.path: str | None = None
        # Reentrant only so that a handler of a signal can be told that its own thread has it.
        self.lock: Any = threading.RLock()
        self.sessions: collections.deque[tuple[Session, Any]] = collections.deque()  # by lock
        self.waiting = WaitQueue()  # guarded by lock: who waits for a session, or for the end
        self.readiness: Readiness | None = None  # guarded by lock
        self.over = False  # guarded by lock: the thread has given everything back
        self.closed = False  # set by whoever closes it, without the lock
        self._handshakes: dict[Secure, tuple[float, Any]] = {}  # deadline, address; oldest first
        self._paused_until = 0.0
        #: A connection that was accepted when there were no descriptors left for its session.
        self._held: tuple[socket.socket, Any] | None = None
        self._waker: socket.socket | None = None
        self.thread = threading.Thread(
            target=self._run, name=f"muxado-listener-{sock.fileno()}", daemon=True
        )
        self._owned = contextlib.ExitStack()
        self._owned.callback(sock.close)
        try:
            self._waker, wakee = socket.socketpair()
            self._owned.callback(self._waker.close)
            self._owned.callback(wakee.close)
            self._selector = selectors.DefaultSelector()
            self._owned.callback(self._selector.close)
            for each in (sock, self._waker, wakee):
                each.setblocking(False)
            for each in (sock, wakee):
                self._selector.register(each, selectors.EVENT_READ)
            self.thread.start()
        except BaseException:
            self.closed = True
            self._owned.close()
            raise

    def stop(self) -> None:
        """Have the thread end and give everything back. Takes no lock, and does not wait."""
        self.closed = True
        if self._waker is not None:
            with contextlib.suppress(OSError):  # it has ended by itself
                self._waker.send(b"\0")

    def abandon(self) -> None:
        """In the child of a fork, which has no such thread: give up this process's copies."""
        self.closed = True
        self._owned.close()
        if self.readiness is not None:
            self.readiness.abandon()

    def acceptable(self) -> bool:
        """Whether a caller of ``accept()`` would not have to wait."""
        with self.lock:
            return bool(self.sessions) or self.closed

    # The thread.

    def _run(self) -> None:
        try:
            while not self.closed:
                self._turn()
        except Exception:
            log.exception("a listener stopped: %s", self._sock)
        finally:
            self._end()

    def _turn(self) -> None:
        """Wait for something to happen, and deal with it."""
        selector, now = self._selector, time.monotonic()
        if self._paused_until <= now and self._sock not in selector.get_map():
            if self._held is None or self._take():
                selector.register(self._sock, selectors.EVENT_READ)
            else:
                self._paused_until = now + _PAUSE
        deadlines = [deadline for deadline, _ in self._handshakes.values()][:1]
        if self._paused_until > now:
            deadlines.append(self._paused_until)
        pause = max(0.0, min(deadlines) - now) if deadlines else None
        for key, _ in selector.select(pause):
            if key.fileobj is self._sock:
                if not self._take():
                    self._paused_until = time.monotonic() + _PAUSE
                    selector.unregister(self._sock)
            elif key.data in self._handshakes:
                self._go_on(key.data)
        now = time.monotonic()
        for secure, (deadline, address) in list(self._handshakes.items()):
            if deadline > now:
                break
            self._give_up(secure)
            log.info("TLS handshake of %s timed out", address)

    def _take(self) -> bool:
        """Accept what waits; false when the process cannot take any more just now.

        Then one may be accepted already. It is held, and those behind it wait in the backlog.
        """
        while not self.closed:
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
                self._welcome(sock, address)
            except Exception as error:
                if isinstance(error, OSError) and error.errno in _EXHAUSTED:
                    self._held = sock, address
                    log.warning("cannot accept just now: %s", error)
                    return False
                sock.close()
                log.warning("no session for %s: %s", address, error)
        return True

    def _welcome(self, sock: socket.socket, address: Any) -> None:
        """Make a session of a connection, or begin its TLS handshake."""
        if self._context is None:
            self._hand_out(sock, address)
            return
        secure = Secure(sock, self._context, server_side=True)
        if len(self._handshakes) >= _MAX_HANDSHAKES:
            oldest = next(iter(self._handshakes))
            log.info("TLS handshake of %s made room", self._handshakes[oldest][1])
            self._give_up(oldest)
        self._selector.register(sock, selectors.EVENT_READ, secure)
        self._handshakes[secure] = (time.monotonic() + HANDSHAKE_TIMEOUT, address)
        self._go_on(secure)

    def _go_on(self, secure: Secure) -> None:
        """Take a handshake as far as it goes now."""
        _, address = self._handshakes[secure]
        try:
            want = secure.step()
        except (OSError, ValueError) as error:
            log.info("TLS handshake of %s failed: %s", address, error)
            self._give_up(secure)
            return
        if want:
            event = selectors.EVENT_READ if want == "r" else selectors.EVENT_WRITE
            self._selector.modify(secure.sock, event, secure)
            return
        del self._handshakes[secure]
        self._selector.unregister(secure.sock)
        try:
            self._hand_out(secure, address)
        except Exception as error:
            secure.close()
            log.warning("no session for %s: %s", address, error)

    def _give_up(self, secure: Secure) -> None:
        del self._handshakes[secure]
        self._selector.unregister(secure.sock)
        secure.close()

    def _hand_out(self, connection: Any, address: Any) -> None:
        session = Session(connection, client=False, config=self._config)
        with self.lock:
            self.sessions.append((session, address))
            self.waiting.wake_all()
            readiness = self.readiness
        if readiness is not None:
            readiness.sync()

    def _end(self) -> None:
        for secure in self._handshakes:
            secure.close()
        if self._held is not None:
            self._held[0].close()
        with self.lock:
            self.closed = True
            self.waiting.wake_all()
            left = list(self.sessions)
            self.sessions.clear()
            readiness = self.readiness
        for session, _ in left:
            session.kill()
        if readiness is not None:
            readiness.close()
        self._owned.close()
        if self.path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        with self.lock:
            self.over = True
            self.waiting.wake_all()
