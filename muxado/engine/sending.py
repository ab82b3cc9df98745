"""How a caller's bytes are sent: at once, left to the one who writes, or when it is their turn.

A caller whose bytes fit the window of its stream and that finds the write seat free frames and
writes them itself. If the seat is taken, a small message is framed into the outbox and counts as
sent; a larger one waits in the schedule, and whoever sits sends for others too, by priority.
"""

from __future__ import annotations

import errno
import time
from threading import get_ident

from muxado.engine.core import REENTERED, Core, os_error, sync
from muxado.engine.reading import ReadSeat
from muxado.engine.waiting import WaitQueue
from muxado.engine.writing import OUTBOX_FULL, Turn, WriteSeat
from muxado.protocol import StreamState

__all__ = ["Sender"]

Data = bytes | memoryview

#: Bytes of a message that may be left to the one who sits.
_SMALL = 4096


class Sender:
    """``send()`` and ``sendall()``. Deadlines are those of :meth:`ReadSeat.wait`."""

    def __init__(self, core: Core, reading: ReadSeat, seat: WriteSeat) -> None:
        self._core = core
        self._reading = reading
        self._seat = seat
        #: Guarded by the core's lock: how often a caller has waited for window.
        self.stalls = 0

    def send(
        self, stream: StreamState, data: Data, deadline: float | None, whole: bool, orphan: bool
    ) -> int:
        """Send ``data``, all of it or (not ``whole``) as much as goes in one turn.

        Returns how many bytes were sent, which may not be on their way yet, as with a socket's
        buffer. Raises ``TimeoutError`` past ``deadline``. ``orphan``: a dropped file has left
        them, for which those wait who send on that stream later.
        """
        core, seat, protocol = self._core, self._seat, self._core.protocol
        if core.lock._is_owned():
            raise RuntimeError(REENTERED)
        if (core.notes or core.orphans) and not orphan:
            self._await_orphans(stream, deadline)
        size, me = len(data), get_ident()
        error: OSError | None = None
        sits = left = False
        nested = core.writer == me
        try:
            with core.lock:
                core.enter()
                if core.end is not None or stream.failure is not None or stream.fin_out:
                    error = self._refusal(stream)
                elif (
                    stream.write is None
                    and size <= stream.send.left
                    and seat.outbox.size < OUTBOX_FULL
                    and seat.broken is None
                ):
                    if not core.writer:
                        if not protocol.schedule and (size <= _SMALL or size <= seat.frame_most()):
                            sits = True
                            seat.load_locked()
                            seat.add_locked(stream, data)
                    elif size <= _SMALL and seat.jam is None and not protocol.contended:
                        left = True
                        seat.outbox.append(protocol.data_header(stream, size), data)
                        stream.wrote = True
                core.dirty = False
            lost = sits and not seat.write_batch(deadline)
        except BaseException:
            try:
                seat.recover(nested=nested)
            except BaseException:
                core.lost = me
                try:
                    core.writer_waiter.ring()
                except RuntimeError:
                    pass  # the writer thread is awake
                raise
            raise
        if error is not None:
            raise error
        if left or (sits and not lost):
            if stream.poller is not None:
                sync(stream.poller)
            return size
        turn = Turn(data if isinstance(data, memoryview) else memoryview(data))
        return self._send_in_turns(stream, turn, deadline, whole, lost)

    def _await_orphans(self, stream: StreamState, deadline: float | None) -> None:
        """What a dropped file has left on this stream goes first."""
        core = self._core

        def ready() -> bool:
            return core.end is not None or (not core.notes and stream not in core.orphans)

        if not self._reading.wait(core.flushers, ready, deadline, reads=False):
            raise TimeoutError("timed out")

    def _send_in_turns(
        self, stream: StreamState, turn: Turn, deadline: float | None, whole: bool, lost: bool
    ) -> int:
        """As :meth:`send`, where it has to wait: for window, or for others to have written.

        ``lost``: the connection broke, or the session ended, as the bytes were written; how it
        ended is to be told.
        """
        core, seat = self._core, self._seat
        nested = core.writer == turn.thread
        try:
            error = self._take_turns(stream, turn, deadline, whole, lost)
        except BaseException:
            try:
                seat.recover(nested=nested)
                core.section(lambda: self._retire_locked(stream, turn))
            except BaseException:
                core.lost = turn.thread
                try:
                    core.writer_waiter.ring()
                except RuntimeError:
                    pass  # the writer thread is awake
                raise
            raise
        if error is not None:
            raise error
        return turn.sent

    def _take_turns(
        self, stream: StreamState, turn: Turn, deadline: float | None, whole: bool, lost: bool
    ) -> Exception | None:
        """The loop of :meth:`_send_in_turns`; returns the error that ends it, if one does."""
        core, seat = self._core, self._seat
        tried = blocked = False
        queue = self._queue(stream)

        def ready() -> bool:
            return self._may_go_on(stream, turn, whole, blocked)

        while True:
            error: Exception | None = None
            sits = False
            with core.lock:
                core.enter()
                # What is done is settled before anything that has failed since is looked at.
                over = not lost and (turn.sent == len(turn.data) or (turn.sent and not whole))
                if not over:
                    late = tried and deadline is not None and time.monotonic() >= deadline
                    error = self._obstacle(stream, turn, late)
                    if error is None and seat.broken is None:
                        sits = self._take_turn_locked(stream, turn)
                if over or error is not None:
                    self._retire_locked(stream, turn)
                blocked = stream.send.left <= 0
                core.dirty = False
            tried = True
            if over or error is not None:
                core.settle()
                return error
            if sits:
                lost = not seat.write_batch(deadline)
            elif seat.broken is not None:
                # Why the connection broke, the read side knows; or the writer thread, soon.
                self._reading.wait(core.watchers, core.ended, deadline)
            else:
                self._reading.wait(queue, ready, deadline, reads=blocked)

    def _queue(self, stream: StreamState) -> WaitQueue:
        def queue_locked() -> WaitQueue:
            if stream.writers is None:
                stream.writers = WaitQueue()
            queue: WaitQueue = stream.writers
            return queue

        return self._core.section(queue_locked)

    def _obstacle(self, stream: StreamState, turn: Turn, late: bool) -> Exception | None:
        """The exception to raise instead of waiting for one's turn, if there is one."""
        error = self._refusal(stream)
        if error is not None:
            return error
        if late:
            return TimeoutError("timed out")
        other = stream.write
        if other is not None and other is not turn and other.thread == turn.thread:
            return RuntimeError(REENTERED)  # the other goes on when this handler of a signal ends
        return None

    def _take_turn_locked(self, stream: StreamState, turn: Turn) -> bool:
        """Stand in the schedule, and then look whether the seat is free and this stream is next.

        If so, the seat is taken, with the next bytes of this stream and of others.
        """
        core, seat, schedule = self._core, self._seat, self._core.protocol.schedule
        if stream.write is None:
            stream.write = turn
            stream.wrote = True
        if stream.write is not turn:
            return False
        if stream.send.left <= 0:
            self.stalls += 1
            return False
        schedule.add(stream, stream.priority)
        if core.writer or schedule.first() is not stream:
            return False
        if seat.load_locked():
            seat.add_by_schedule_locked(turn)
        return True

    def _may_go_on(self, stream: StreamState, turn: Turn, whole: bool, blocked: bool) -> bool:
        """Whether one who waits in :meth:`_send_in_turns` has something to do.

        ``blocked``: it waits as one without window does, who may lead; a change is to be seen.
        """
        core = self._core
        if turn.sent == len(turn.data) or (turn.sent and not whole):
            return True
        if core.end is not None or stream.failure is not None or stream.fin_out:
            return True
        if self._seat.broken is not None or stream.write is None:
            return True
        if stream.write is not turn:
            return False
        if (stream.send.left <= 0) is not blocked:
            return True
        return not blocked and not core.writer and core.protocol.schedule.first() is stream

    def _retire_locked(self, stream: StreamState, turn: Turn) -> None:
        """End the turn, whether or not all of it was sent, and let other senders go on."""
        core = self._core
        if stream.write is turn:
            stream.write = None
            core.protocol.schedule.discard(stream)
        if stream.writers:
            stream.writers.wake_all()
        self._seat.pass_on_locked()
        if stream.poller is not None:
            core.stale.append(stream.poller)

    def send_now(self, stream: StreamState, data: bytes | memoryview) -> int:
        """Send what can be sent without waiting; ``BlockingIOError`` if that is nothing."""
        core, seat, protocol = self._core, self._seat, self._core.protocol
        core.check_entry()

        def leave_locked() -> int | OSError:
            error = self._refusal(stream)
            size = min(len(data), stream.send.left, seat.frame_most())
            busy = stream.write is not None or stream in core.orphans or bool(core.notes)
            if error is None and size > 0 and not busy and seat.has_room():
                seat.outbox.append(protocol.data_header(stream, size), data[:size])
                stream.wrote = True
                protocol.pending.flush_now = True
            elif error is None:
                error = os_error(errno.EAGAIN)
                seat.poll_for_room_locked(stream)
            return size if error is None else error

        result = core.section(leave_locked)
        sync(stream.poller)
        if isinstance(result, OSError):
            raise result
        return result

    def check_writable(self, stream: StreamState) -> None:
        """Raise what a send would raise."""
        self._core.check_entry()
        error = self._core.section(lambda: self._refusal(stream))
        if error is not None:
            raise error

    def writable(self, stream: StreamState) -> bool:
        """Whether a non-blocking send would do anything but raise ``BlockingIOError``."""
        core, seat = self._core, self._seat

        def question() -> bool:
            if core.end is not None or stream.failure is not None or stream.fin_out:
                return True
            room = stream.write is None and seat.has_room()
            if not room:
                seat.poll_for_room_locked(stream)
            return room and stream.send.left > 0

        return core.look(question)

    def _refusal(self, stream: StreamState) -> OSError | None:
        """A new exception for a send that is not possible; ``None`` if it is."""
        if stream.failure is not None:
            return stream.failure.exception()
        if self._core.end is not None:
            return self._core.session_error(stream)
        if stream.fin_out:
            return os_error(errno.EBADF if stream.closed else errno.EPIPE)
        return None
