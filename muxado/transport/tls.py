"""TLS. Two threads never run inside the TLS state at once: that breaks an ``SSLSocket``.

So both kinds of transport here have one lock, which the reader and the writer take in turn. It is
never held while a thread waits.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from typing import cast

from muxado.transport.base import Buffer, SocketTransport, Transport

__all__ = ["HANDSHAKE_TIMEOUT", "Locked", "Secure", "wrap_tls"]

#: Seconds for a TLS handshake where nobody has said how long it may take.
HANDSHAKE_TIMEOUT = 10.0

#: Bytes of plaintext that are encrypted at a time, and of ciphertext that are read at a time.
_PART = 65536
#: Bytes of plaintext in one TLS record: pieces that fit one are joined.
_RECORD = 16384


class Encrypted(SocketTransport):
    """What both kinds share: the lock, and an end that is known before the reader is told."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        # Reentrant, because a finalizer or a handler of a signal may run in a thread that has it.
        self._lock = threading.RLock()
        #: The next read has nothing more to return than the end, or this error.
        self._ended = False
        self._failure: ssl.SSLError | None = None
        #: That is so already, but the last read returned bytes. The socket may have nothing more
        #: to say, so it must not be waited for.
        self._end_is_next = False

    def spin(self) -> bool:
        return self._end_is_next or super().spin()

    def wait_readable(self, seconds: float | None) -> None:
        if not self._end_is_next:
            super().wait_readable(seconds)


class Secure(Encrypted):
    """TLS by an ``SSLObject`` over two buffers in memory.

    The lock is never held while the descriptor is read or written.
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
        self._ciphertext = memoryview(bytearray(_PART))  # what the reader has just read
        #: The reader has to decrypt before it reads more. The handshake may have read ahead.
        self._left = True
        self._unsent = memoryview(b"")  # the writer's: ciphertext that the socket did not take

    @property
    def sock(self) -> socket.socket:
        """The socket below, for a selector to watch during the handshake."""
        return self._sock

    @property
    def pending(self) -> bool:  # type: ignore[override]
        return bool(self._unsent) or bool(self._outgoing.pending)

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
                count = self._sock.recv_into(self._ciphertext)
            except (BlockingIOError, InterruptedError):
                return "r"
            if not count:
                raise ConnectionResetError(
                    errno.ECONNRESET, "the peer closed the connection during the TLS handshake"
                )
            self._incoming.write(self._ciphertext[:count])

    def handshake(self, deadline: float | None) -> None:
        """Do the whole handshake; ``TimeoutError`` when it is not done by ``deadline``."""
        while want := self.step():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(errno.ETIMEDOUT, "the TLS handshake timed out")
            (self.wait_readable if want == "r" else self.wait_writable)(left)

    def recv_into(self, view: memoryview) -> int | None:
        self._end_is_next = False
        if self._failure is not None:
            raise self._failure
        count: int | None = None
        while True:
            if not self._left:
                if self._ended:
                    return 0
                try:
                    count = self._sock.recv_into(self._ciphertext)
                except (BlockingIOError, InterruptedError):
                    return None
            with self._lock:
                if count:
                    self.heard = True
                    self._incoming.write(self._ciphertext[:count])
                elif count == 0:
                    self._ended = True
                    self._incoming.write_eof()
                done = self._decrypt_locked(view)
            if done:
                self._end_is_next = self._ended or self._failure is not None
                return done

    def _decrypt_locked(self, view: memoryview) -> int:
        """Fill ``view`` as far as the records that have come allow; returns the count."""
        done, room = 0, len(view)
        self._left = False
        try:
            while done < room:
                # OpenSSL takes from the buffer no more than the record under way. To ask it in
                # vain costs more than all the rest, because of the exception it raises.
                if not self._incoming.pending and not self._tls.pending():
                    return done
                count = cast("int", self._tls.read(room - done, view[done:]))
                if not count:
                    self._ended = True  # close_notify
                    return done
                done += count
            self._left = True
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            # A peer that ends without close_notify has ended all the same: whether it meant to,
            # the frames tell.
            self._ended = True
        except ssl.SSLError as error:
            if not done:
                raise
            self._failure = error  # the records before the broken one are good
        return done

    def send(self, buffers: Sequence[Buffer]) -> int:
        taken = 0
        if not self._flush():
            return 0
        total = sum(map(len, buffers))
        if len(buffers) > 1 and total <= _RECORD:
            buffers = (b"".join(buffers),)
        for buffer in buffers:
            view = memoryview(buffer)
            for start in range(0, len(view), _PART):
                part = view[start : start + _PART]
                with self._lock:
                    self._tls.write(part)
                    taken += len(part)
                    full = taken == total or self._outgoing.pending >= _PART
                    if full:
                        self._unsent = memoryview(self._outgoing.read())
                if full and not self._flush():
                    return taken
        return taken

    def _flush(self) -> bool:
        """Write ciphertext while the socket takes it; true when none is left."""
        while True:
            if not self._unsent:
                if not self._outgoing.pending:
                    return True
                with self._lock:
                    self._unsent = memoryview(self._outgoing.read())
            try:
                self._unsent = self._unsent[self._sock.send(self._unsent) :]
            except (BlockingIOError, InterruptedError):
                return False

    def finish(self) -> None:
        with self._lock, contextlib.suppress(ssl.SSLError, ValueError):
            self._tls.unwrap()  # makes our close_notify; the peer's is not waited for
        with contextlib.suppress(OSError):
            self._flush()
        super().finish()


class Locked(Encrypted):
    """An ``SSLSocket`` whose handshake is done.

    Its TLS state cannot be moved to buffers in memory, so the socket is used as it is,
    non-blocking, one call at a time.
    """

    def __init__(self, sock: ssl.SSLSocket) -> None:
        super().__init__(sock)
        self._tls = sock  # each call under _lock
        #: The writer's: what it has begun to send. OpenSSL wants the same bytes again.
        self._unsent: bytes | None = None

    @property
    def pending(self) -> bool:  # type: ignore[override]
        return self._unsent is not None

    def recv_into(self, view: memoryview) -> int | None:
        self._end_is_next = False
        if self._failure is not None:
            raise self._failure
        if self._ended:
            return 0
        done = 0
        try:
            with self._lock:
                while done < len(view):
                    count = self._tls.recv_into(view[done:])
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
        self._end_is_next = done > 0 and (self._ended or self._failure is not None)
        return done

    def send(self, buffers: Sequence[Buffer]) -> int:
        # A part counts as taken once it is begun, because it has to be repeated until it is sent.
        taken = 0
        if not self._flush():
            return 0
        data = b"".join(buffers)
        for start in range(0, len(data), _RECORD):
            self._unsent = data[start : start + _RECORD]
            taken += len(self._unsent)
            if not self._flush():
                break
        return taken

    def _flush(self) -> bool:
        while self._unsent is not None:
            try:
                with self._lock:
                    count = self._tls.send(self._unsent)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return False
            self._unsent = self._unsent[count:] or None
        return True

    def finish(self) -> None:
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._tls.unwrap()


def wrap_tls(sock: ssl.SSLSocket) -> Transport:
    """The transport for an ``SSLSocket``; its handshake is done here unless it is done already."""
    if sock.version() is not None:
        return Locked(sock)
    context, hostname, server_side = sock.context, sock.server_hostname, sock.server_side
    timeout = sock.gettimeout()
    if timeout == 0:
        # It is non-blocking because its owner polls it, not because nothing may take any time.
        timeout = HANDSHAKE_TIMEOUT
    deadline = None if timeout is None else time.monotonic() + timeout
    raw = socket.socket(fileno=sock.detach())
    try:
        secure = Secure(
            raw,
            context,
            server_side=bool(server_side),
            server_hostname=None if hostname is None else str(hostname),
        )
    except BaseException:
        raw.close()
        raise
    try:
        secure.handshake(deadline)
    except BaseException:
        secure.close()
        raise
    return secure
