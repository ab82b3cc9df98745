"""What callers take from the read side: bytes of a stream, and the peer's new streams."""

from __future__ import annotations

import errno

from muxado.engine.core import Core, os_error, sync
from muxado.engine.reading import ReadSeat, Straight
from muxado.engine.waiting import WaitQueue
from muxado.errors import ErrorCode
from muxado.protocol import StreamState

__all__ = ["Receiver"]


class Receiver:
    """``recv()`` and ``accept()``. Deadlines are those of :meth:`ReadSeat.wait`."""

    def __init__(self, core: Core, seat: ReadSeat) -> None:
        self._core = core
        self._seat = seat
        #: A loop in ``serve()`` is to be woken until it has seen the end.
        self.serving = False

    def receive(self, stream: StreamState, size: int, deadline: float | None) -> bytes:
        """Wait for bytes and take up to ``size`` of them; ``b""`` at the end of file."""
        data = b""

        def ready() -> bool:
            nonlocal data
            if stream.buffer.size and not stream.closed:
                data = stream.buffer.take(size)
                self._taken_locked(stream, len(data))
                return True
            return self._is_over_locked(stream)

        queue = stream.readers
        if queue is None:
            queue = self._first_wait(stream)
        if not self._seat.wait(queue, ready, deadline, True, None):
            raise _not_in_time(deadline)
        if stream.poller is not None:
            sync(stream.poller)
        if not data:
            self._raise_failure(stream)
        return data

    def receive_into(self, stream: StreamState, view: memoryview, deadline: float | None) -> int:
        """Wait for bytes and put as many into ``view`` as fit; 0 at the end of file."""
        straight = Straight(stream, view)
        count = 0

        def ready() -> bool:
            nonlocal count
            if straight.count:
                count = straight.count
                return True
            if stream.buffer.size and not stream.closed:
                count = stream.buffer.read_into(view)
                self._taken_locked(stream, count)
                return True
            return self._is_over_locked(stream)

        queue = stream.readers
        if queue is None:
            queue = self._first_wait(stream)
        try:
            if not self._seat.wait(queue, ready, deadline, True, straight):
                raise _not_in_time(deadline)
        finally:
            straight.target.release()
        if stream.poller is not None:
            sync(stream.poller)
        if not count:
            self._raise_failure(stream)
        return count

    def peek(self, stream: StreamState, size: int, deadline: float | None, least: int = 1) -> bytes:
        """Wait for ``least`` bytes and return up to ``size``, which stay."""
        data = b""

        def ready() -> bool:
            nonlocal data
            available, stopped = stream.buffer.size, self._stopped(stream)
            if available and not stream.closed and (available >= least or stopped):
                data = stream.buffer.peek(size)
                return True
            return stopped

        queue = stream.readers
        if queue is None:
            queue = self._first_wait(stream)
        if not self._seat.wait(queue, ready, deadline):
            raise _not_in_time(deadline)
        if not data:
            self._raise_failure(stream)
        return data

    def _first_wait(self, stream: StreamState) -> WaitQueue:
        """The queue of those who read ``stream``, of which the peer is to know from now on."""
        core = self._core
        core.check_entry()

        def queue_locked() -> WaitQueue:
            if stream.readers is None:
                stream.readers = WaitQueue()
            if not stream.opened and core.end is None:
                core.protocol.announce(stream)
            queue: WaitQueue = stream.readers
            return queue

        return core.section(queue_locked)

    def _taken_locked(self, stream: StreamState, count: int) -> None:
        """The application has got ``count`` bytes."""
        core, pending = self._core, self._core.protocol.pending
        core.protocol.consumed(stream, count)
        stream.wrote = False
        if pending.grants and core.leader is not None:
            # Whoever reads may be asleep already; before that, it looks for updates to send.
            pending.flush_now = True

    def _stopped(self, stream: StreamState) -> bool:
        """Whether nothing more will come."""
        return (
            stream.fin_in
            or stream.read_shut
            or stream.closed
            or stream.failure is not None
            or self._core.end is not None
        )

    def _is_over_locked(self, stream: StreamState) -> bool:
        """As :meth:`_stopped`, for a caller who is told so."""
        over = self._stopped(stream)
        if over:
            self._seat.stream_is_over_locked()
        return over

    def _raise_failure(self, stream: StreamState) -> None:
        """Nothing more comes: return at the end of file, else raise what ended it."""
        if stream.closed:
            raise os_error(errno.EBADF)
        if stream.read_shut:
            return
        if stream.failure is not None:
            raise stream.failure.exception()
        if not stream.fin_in and self._core.end is not None:
            raise self._core.session_error(stream)

    def readable(self, stream: StreamState) -> bool:
        """Whether a read would not wait."""
        return self._core.look(lambda: bool(stream.buffer.size) or self._stopped(stream))

    def accept(self, deadline: float | None) -> StreamState:
        """Wait for the next stream that the peer opens."""
        core = self._core
        stream: StreamState | None = None

        def ready() -> bool:
            nonlocal stream
            over = core.end is not None or core.closing
            if not core.closing:
                stream = core.protocol.accept()
            if over and stream is None:
                core.told = True
                core.watchers.wake_all()
            return over or stream is not None

        try:
            done = self._seat.wait(core.acceptors, ready, deadline)
            sync(core.session_poller)
        except BaseException:
            if stream is not None:
                self._give_up(stream)
            raise
        if stream is not None:
            return stream
        if done:
            raise core.session_error()
        raise _not_in_time(deadline)

    def _give_up(self, stream: StreamState) -> None:
        """An exception takes away the one who has just accepted ``stream``."""
        protocol = self._core.protocol

        def give_up_locked() -> None:
            protocol.reset(stream, ErrorCode.STREAM_REFUSED)
            protocol.close(stream)

        self._core.section(give_up_locked)

    def acceptable(self) -> bool:
        """Whether ``accept()`` has something to say: a stream, or once the end."""
        core = self._core

        def question() -> bool:
            over = core.end is not None or core.closing
            return bool(core.protocol.backlog) or (over and (self.serving or not core.told))

        return core.look(question)


def _not_in_time(deadline: float | None) -> OSError:
    return os_error(errno.EAGAIN) if deadline == 0 else TimeoutError("timed out")
