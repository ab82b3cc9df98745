"""Any object with ``recv``, ``sendall`` (or ``send``) and ``close`` as a transport.

Calls of such an object block, and nothing but the object itself can end them. So two threads make
them: one copies what the object receives into a pair of sockets, the other what the engine writes
out of it. The engine sees the pair's other end, which is a socket like any other.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import itertools
import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from muxado.transport.base import Buffer, SocketTransport, name_of

__all__ = ["Adapted"]

log = logging.getLogger("muxado")

#: Bytes that the object is asked for, and given, at a time.
_PART = 65536
#: The send buffer of the pair while streams of different priority compete.
_SHORT_BUFFER = 8192
#: Seconds for threads to end whose object has been closed, before they are left to themselves.
_GRACE = 0.1

_numbers = itertools.count(1)


class Adapted(SocketTransport):
    """The engine's end of the pair."""

    #: What the pair did not take, the object never sees.
    exact = True

    def __init__(self, obj: Any) -> None:
        _check(obj)
        near, far = socket.socketpair()
        try:
            super().__init__(near)
        except BaseException:
            near.close()
            far.close()
            raise
        self.family = self.proto = 0
        self._names = (name_of(obj, "getsockname"), name_of(obj, "getpeername"))
        self._written = 0  # the writer's: bytes that the pair has taken
        self._pumps = Pumps(obj, far)
        try:
            self._pumps.start()
        except BaseException:
            super().close()
            self._pumps.join(_GRACE)
            raise

    @property
    def failure(self) -> OSError | None:
        return self._pumps.failure

    def recv_into(self, view: memoryview) -> int | None:
        count = self._sock.recv_into(view)
        if not count and self._pumps.failure is not None:
            raise self._pumps.failure
        return count

    def send(self, buffers: Sequence[Buffer]) -> int:
        try:
            count = super().send(buffers)
        except OSError:
            if self._pumps.failure is not None:
                raise self._pumps.failure from None
            raise
        self._written += count
        return count

    def keep_short(self, short: bool) -> None:
        self.short = short
        with contextlib.suppress(OSError):
            self._limit_buffer(_SHORT_BUFFER if short else 0)

    def unacknowledged(self) -> int:
        pumps = self._pumps
        return self._written - pumps.handed_over if pumps.outward.is_alive() else 0

    def drain(self, deadline: float) -> None:
        # After finish() the thread ends when it has handed over everything, or has failed to.
        self._pumps.outward.join(max(0.0, deadline - time.monotonic()))

    def linger(self, view: memoryview, deadline: float) -> None:
        # What is received from now on is dropped: see Pumps._pump_in().
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RD)
        self.drain(deadline)
        self.shutdown()

    def shutdown(self) -> None:
        self._pumps.stop()
        super().shutdown()

    def close(self) -> None:
        self.shutdown()
        super().close()
        self._pumps.join(_GRACE)

    def abandon(self) -> None:
        # The object is left alone: to close it might tell the peer something.
        super().abandon()
        self._pumps.abandon()


class Pumps:
    """The two threads, and what they share."""

    def __init__(self, obj: Any, sock: socket.socket) -> None:
        self._sock = sock
        self._recv: Callable[[int], Buffer] = obj.recv
        self._send = _sender(obj)
        #: Holds the object until somebody takes it out, who then closes it.
        self._unclosed = [obj]
        #: The first exception that a call of the object raised. Set before the pair ends for it.
        self.failure: OSError | None = None
        #: Bytes that the object has taken.
        self.handed_over = 0
        self._stopped = False
        self._receiving = False  # a call of the object's recv() is under way
        number = next(_numbers)
        self._inward = threading.Thread(
            target=self._pump_in, name=f"muxado-pump-in-{number}", daemon=True
        )
        self.outward = threading.Thread(
            target=self._pump_out, name=f"muxado-pump-out-{number}", daemon=True
        )
        self._running = [self._inward, self.outward]  # the last to leave closes the socket

    def start(self) -> None:
        """Start both threads; where that fails, the object is closed before it was used."""
        # The one that receives comes last: what it receives would be lost.
        threads = [self.outward, self._inward]
        try:
            while threads:
                threads[0].start()
                del threads[0]
        except BaseException:
            self._stopped = True
            _close(self._unclosed.pop())
            for thread in threads:
                self._leave(thread)
            raise

    def stop(self) -> None:
        """Hand over nothing more, and close the object, which is all that ends its calls.

        That is done in another thread: an object may take its time even for that.
        """
        self._stopped = True
        with contextlib.suppress(IndexError):  # it is closed already
            obj = self._unclosed.pop()
            try:
                _thread.start_new_thread(_close, (obj,))
            except RuntimeError:  # no more threads can be had
                _close(obj)

    def join(self, seconds: float) -> None:
        """Wait a little for the threads that have an object which lets them go."""
        deadline = time.monotonic() + seconds
        for thread in (self._inward, self.outward):
            if thread.ident not in (None, threading.get_ident()):
                thread.join(max(0.0, deadline - time.monotonic()))

    def abandon(self) -> None:
        """In the child of a fork, where the threads do not exist."""
        self._stopped = True
        self._unclosed.clear()
        self._sock.close()

    # The threads.

    def _pump_in(self) -> None:
        while not self._stopped:
            # In this order, so that either this thread sees the failure of the other, or the other
            # sees that this one receives: see _fail().
            self._receiving = True
            if self.failure is not None:
                break
            try:
                data = memoryview(self._recv(_PART))
            except TimeoutError as error:
                if error.errno is None:  # the object's own time-out: it was idle
                    continue
                self._fail("recv", error)  # the system's: the connection is broken
                break
            except BaseException as error:
                self._fail("recv", error)
                break
            self._receiving = False
            if not data.nbytes:
                break
            # Nobody reads any more where that fails. What comes then is dropped, because a peer
            # that cannot send may not read either, and it is to have what was written.
            with contextlib.suppress(OSError):
                self._sock.sendall(data)
        self._end(socket.SHUT_WR)
        self._leave(self._inward)

    def _pump_out(self) -> None:
        while not self._stopped:
            try:
                data = self._sock.recv(_PART)
            except OSError:  # the transport was closed
                break
            if not data:
                break
            try:
                self._hand_over(data)
            except BaseException as error:
                self._fail("sendall", error)
                break
            self.handed_over += len(data)
        self._end(socket.SHUT_RD)
        self._leave(self.outward)

    def _hand_over(self, data: bytes) -> None:
        while data and not self._stopped:
            data = data[self._send(data) :]

    def _fail(self, call: str, error: BaseException) -> None:
        """A call of the object has failed, and with it the connection."""
        if self._stopped:
            return  # the object was closed by us
        if self.failure is None:
            self.failure = _os_error(call, error)
        # Who reads is told behind what was received before. A thread that is still copying that
        # must not be cut short: it looks for the failure next.
        if self._receiving:
            self._end(socket.SHUT_WR)

    def _end(self, how: int) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(how)

    def _leave(self, thread: threading.Thread) -> None:
        self._running.remove(thread)
        if not self._running:
            self._sock.close()


def _check(obj: Any) -> None:
    for name in ("recv", "close"):
        if not callable(getattr(obj, name, None)):
            raise TypeError(f"a transport needs {name}(); {type(obj).__name__} has none")
    if not (callable(getattr(obj, "sendall", None)) or callable(getattr(obj, "send", None))):
        raise TypeError(f"a transport needs sendall() or send(); {type(obj).__name__} has none")


def _sender(obj: Any) -> Callable[[bytes], int]:
    """A function that has ``obj`` send some bytes, and returns how many."""
    send_all = getattr(obj, "sendall", None)
    if not callable(send_all):
        return lambda data: int(obj.send(data))

    def send(data: bytes) -> int:
        send_all(data)
        return len(data)

    return send


def _close(obj: Any) -> None:
    """Have ``obj`` end whatever call of it is under way."""
    shutdown = getattr(obj, "shutdown", None)
    if callable(shutdown):
        with contextlib.suppress(Exception):  # it may mean something else, or be over already
            shutdown(socket.SHUT_RDWR)
    try:
        obj.close()
    except (OSError, ValueError):
        pass  # as good as closed
    except Exception:
        log.warning("close() of a transport failed", exc_info=True)


def _os_error(call: str, error: BaseException) -> OSError:
    """``error`` if it is an ``OSError`` that says the connection is broken, else one that does."""
    if isinstance(error, OSError) and not isinstance(error, (BlockingIOError, InterruptedError)):
        return error
    result = ConnectionAbortedError(
        errno.ECONNABORTED, f"{call}() of the transport raised {error!r}"
    )
    result.__cause__ = error
    return result
