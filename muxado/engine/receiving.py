"""What callers take from the read side: bytes of a stream, and the peer's new streams."""

from __future__ import annotations

import errno

from muxado.engine.core import Core, sync
from muxado.engine.reading import ReadSeat, Straight
from muxado.engine.waiting import WaitQueue
from muxado.errors import ErrorCode, os_error
from muxado.protocol import StreamState

__all__ = ["Receiver"]


class Receiver:
    """``recv()`` and ``accept()``. Deadlines are those of :meth:`ReadSeat.wait`."""

    def __init__(self, core: Core, reading: ReadSeat) -> None:
        self._core = core
        self._reading = reading
        #: A loop in ``serve()`` is to be woken until it has seen the end.
        self.serving = False

    def receive(self, stream: StreamState, size: int, deadline: float | None) -> bytes:
        """Wait for bytes and take up to ``size`` of them; ``b""`` at the end of file."""
        data = b""

        def ready() -> WaitQueue | None:
            nonlocal data
            if stream.buffer.size and not stream.closed:
                data = stream.buffer.take(size)
                self._taken_locked(stream, len(data))
                return None
            return self._queue_locked(stream)

        if not self._reading.wait(ready, deadline):
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

        def ready() -> WaitQueue | None:
            nonlocal count
            if straight.count:
                count = straight.count
                return None
            if stream.buffer.size and not stream.closed:
                count = stream.buffer.read_into(view)
                self._taken_locked(stream, count)
                return None
            return self._queue_locked(stream)

        try:
            if not self._reading.wait(ready, deadline, True, straight):
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

        def ready() -> WaitQueue | None:
            nonlocal data
            queue = self._queue_locked(stream)
            if stream.buffer.size >= (1 if queue is None else least) and not stream.closed:
                data = stream.buffer.peek(size)
                return None
            return queue

        if not self._reading.wait(ready, deadline):
            raise _not_in_time(deadline)
        if not data:
            self._raise_failure(stream)
        return data

    def _queue_locked(self, stream: StreamState) -> WaitQueue | None:
        """Where to wait for more of ``stream``; ``None`` if nothing more will come."""
        core = self._core
        if self._is_over(stream):
            self._reading.stream_is_over_locked()
            stream.wrote = False  # the peer has had its answer, and does not wait for a FIN
            return None
        queue: WaitQueue | None = stream.readers
        if queue is None:
            queue = stream.readers = WaitQueue()
        if not stream.opened:
            core.protocol.announce(stream)  # the peer is not to wait for bytes as this side does
        return queue

    def _is_over(self, stream: StreamState) -> bool:
        """Whether nothing more will come."""
        return (
            stream.fin_in
            or stream.read_shut
            or stream.closed
            or stream.failure is not None
            or self._core.end is not None
        )

    def _taken_locked(self, stream: StreamState, count: int) -> None:
        """The application has got ``count`` bytes."""
        core, pending = self._core, self._core.protocol.pending
        core.protocol.consumed(stream, count)
        stream.wrote = False
        if pending.grants and core.leader is not None:
            # Whoever reads may be asleep already; before that, it looks for updates to send.
            pending.flush_now = True

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
        return self._core.look(lambda: bool(stream.buffer.size) or self._is_over(stream))

    def accept(self, deadline: float | None) -> StreamState:
        """Wait for the next stream that the peer opens."""
        core = self._core
        stream: StreamState | None = None

        def ready() -> WaitQueue | None:
            nonlocal stream
            if core.protocol.backlog and not core.closing:
                stream = core.protocol.accept()
                return None
            if core.end is None and not core.closing:
                return core.acceptors
            core.end_reported = True
            core.watchers.wake_all()
            return None

        try:
            done = self._reading.wait(ready, deadline)
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
            self._core.announce_locked()

        self._core.section(give_up_locked)

    def acceptable(self) -> bool:
        """Whether ``accept()`` has something to say: a stream, or once the end."""
        core = self._core

        def question() -> bool:
            over = core.end is not None or core.closing
            return bool(core.protocol.backlog) or (over and (self.serving or not core.end_reported))

        return core.look(question)


def _not_in_time(deadline: float | None) -> OSError:
    return os_error(errno.EAGAIN) if deadline == 0 else TimeoutError("timed out")
