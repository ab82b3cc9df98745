"""How a caller's bytes are sent: at once, left to the one who writes, or when it is their turn.

A caller whose bytes fit the window of its stream and that finds the write seat free frames and
writes them itself. If the seat is taken, a small message is framed into the outbox and counts as
sent; a larger one waits in the schedule, and whoever sits sends for others too, by priority.
"""

from __future__ import annotations

import errno
import time
from threading import get_ident

from muxado.engine.core import REENTERED, Core, sync
from muxado.engine.reading import ReadSeat
from muxado.engine.waiting import WaitQueue
from muxado.engine.writing import OUTBOX_FULL, Turn, WriteSeat
from muxado.errors import os_error
from muxado.protocol import StreamState

__all__ = ["Sender"]

Data = bytes | memoryview

#: Bytes of a message that may be left to the one who sits.
_SMALL = 4096


class Sender:
    """``send()`` and ``sendall()``. Deadlines are those of :meth:`ReadSeat.wait`."""

    def __init__(self, core: Core, reading: ReadSeat, writing: WriteSeat) -> None:
        self._core = core
        self._reading = reading
        self._writing = writing
        # Guarded by the core's lock:
        #: How often a caller has waited for window.
        self.stalls = 0
        #: Whose bytes wait to be sent, by the thread's ident: what a handler of a signal that
        #: interrupts that thread wants to send or to flush cannot wait for them.
        self.turns: dict[int, Turn] = {}

    def send(
        self, stream: StreamState, data: Data, deadline: float | None, whole: bool, orphan: bool
    ) -> int:
        """Send ``data``, all of it or (not ``whole``) as much as goes in one turn.

        Returns how many bytes were sent, which may not be on their way yet, as with a socket's
        buffer. Raises ``TimeoutError`` past ``deadline``. ``orphan``: a dropped file has left
        them, for which those wait who send on that stream later.
        """
        core = self._core
        if core.lock._is_owned():
            raise RuntimeError(REENTERED)
        if (core.notes or core.orphans) and not orphan:
            self._await_orphans(stream, deadline)
        if core.struck:
            core.recover()  # or this thread may seem to sit, though the call that did is over
        me = get_ident()
        # The handler of a signal that has interrupted a write leaves the seat to that.
        held = me if core.writer != me else 0
        done = core.guarded(
            held, self._writing.give_back_locked, self._send_at_once, stream, data, deadline
        )
        if done is True:
            if stream.poller is not None:
                sync(stream.poller)
            return len(data)
        if isinstance(done, OSError):
            raise done
        turn = Turn(stream, data, held)
        error = core.guarded(
            turn, self._give_up_locked, self._take_turns, turn, deadline, whole, done is None
        )
        sync(stream.poller)
        if error is not None:
            raise error
        return turn.sent

    def _send_at_once(
        self, stream: StreamState, data: Data, deadline: float | None
    ) -> bool | OSError | None:
        """Send all of ``data`` without waiting for others, or return false, or the error.

        ``None``: the connection broke, or the session ended, as the bytes were written.
        """
        core, writing, protocol = self._core, self._writing, self._core.protocol
        size, schedule = len(data), protocol.schedule
        done: bool | OSError | None = False
        sits = False
        with core.lock:
            if core.dirty or core.struck:
                core.recover_locked()
            core.dirty = True
            if core.end is not None or stream.failure is not None or stream.fin_out:
                done = self._refusal(stream)
            elif (
                stream.write is None
                and size <= stream.send.left
                and writing.outbox.size < OUTBOX_FULL
                and writing.broken is None
            ):
                if not core.writer:
                    if not schedule.waiting and (size <= _SMALL or size <= writing.frame_most()):
                        sits = True
                        writing.load_locked()
                        writing.add_locked(stream, data)
                elif size <= _SMALL and writing.jam is None and not protocol.contended:
                    done = True
                    writing.outbox.append(protocol.data_header(stream, size), data)
                    stream.wrote = True
            core.dirty = False
        if sits:
            done = writing.write_batch(deadline) or None
        return done

    def _await_orphans(self, stream: StreamState, deadline: float | None) -> None:
        """What a dropped file has left on this stream goes first."""
        core = self._core

        def ready() -> WaitQueue | None:
            over = core.end is not None or (not core.notes and stream not in core.orphans)
            return None if over else core.flushers

        if not self._reading.wait(ready, deadline, reads=False):
            raise TimeoutError("timed out")

    def _take_turns(
        self, turn: Turn, deadline: float | None, whole: bool, lost: bool
    ) -> Exception | None:
        """Send where that has to wait: for window, or for others to have written.

        ``lost``: the connection broke, or the session ended, as the bytes were written; how it
        ended is to be told. Returns the error that ends it, if one does.
        """
        core, writing, stream = self._core, self._writing, turn.stream
        tried = over = sits = stalled = reads = False
        error: Exception | None = None

        def ready() -> WaitQueue | None:
            nonlocal tried, over, sits, stalled, error
            queue: WaitQueue | None = stream.writers
            if queue is None:
                queue = stream.writers = WaitQueue()
            # What is done is settled before anything that has failed since is looked at.
            over = not lost and (turn.sent == len(turn.data) or (turn.sent > 0 and not whole))
            if not over:
                late = tried and deadline is not None and time.monotonic() >= deadline
                error = self._obstacle(turn, late)
                over = error is not None
            if over:
                self._retire_locked(turn)
                return None
            tried = True
            sits = writing.broken is None and self._take_turn_locked(turn)
            blocked = not sits and stream.send.left <= 0
            self.stalls += blocked and not stalled
            stalled = blocked
            return None if sits or writing.broken is not None or blocked is not reads else queue

        while not over:
            # One without window may read meanwhile; one that waits for its turn is soon to write.
            reads = stream.send.left <= 0
            self._reading.wait(ready, deadline, reads)
            if sits:
                lost, sits = not writing.write_batch(deadline), False
            elif writing.broken is not None and not over:
                # Why the connection broke, the read side knows; or the writer thread, soon.
                self._reading.wait(core.until_end, deadline)
        return error

    def _obstacle(self, turn: Turn, late: bool) -> Exception | None:
        """The exception to raise instead of waiting for one's turn, if there is one."""
        error = self._refusal(turn.stream)
        if error is not None:
            return error
        if late:
            return TimeoutError("timed out")
        if self.turns.get(turn.thread, turn) is not turn:
            return RuntimeError(REENTERED)  # the other goes on when this handler of a signal ends
        return None

    def _take_turn_locked(self, turn: Turn) -> bool:
        """Stand in the schedule, and then look whether the seat is free and this stream is next.

        If so, the seat is taken, with the next bytes of this stream and of others.
        """
        core, writing, schedule = self._core, self._writing, self._core.protocol.schedule
        stream = turn.stream
        if stream.write is None:
            stream.write = self.turns[turn.thread] = turn
            stream.wrote = True
        if stream.write is not turn or stream.send.left <= 0:
            return False
        schedule.add(stream, stream.priority)
        if core.writer or schedule.first() is not stream:
            return False
        if writing.load_locked():
            writing.add_by_schedule_locked(turn)
        return True

    def _retire_locked(self, turn: Turn) -> None:
        """End the turn, whether or not all of it was sent, and let other senders go on."""
        core, stream = self._core, turn.stream
        if stream.write is turn:
            stream.write = None
            core.protocol.schedule.discard(stream)
        if self.turns.get(turn.thread) is turn:
            del self.turns[turn.thread]
        if stream.writers:
            stream.writers.wake_all()
        self._writing.pass_on_locked()
        if stream.poller is not None:
            core.stale.append(stream.poller)

    def _give_up_locked(self, turn: Turn) -> None:
        """An exception has ended a send that waited for its turn."""
        self._writing.give_back_locked(turn.held)
        self._retire_locked(turn)

    def send_now(self, stream: StreamState, data: bytes | memoryview) -> int:
        """Send what can be sent without waiting; ``BlockingIOError`` if that is nothing."""
        core, writing, protocol = self._core, self._writing, self._core.protocol

        def leave_locked() -> int | OSError:
            error = self._refusal(stream)
            size = min(len(data), stream.send.left, writing.frame_most())
            if error is None and size > 0 and self._has_room(stream):
                writing.outbox.append(protocol.data_header(stream, size), data[:size])
                stream.wrote = True
                protocol.pending.flush_now = True
            elif error is None:
                error = os_error(errno.EAGAIN)
                core.polled_for_room[stream] = None
            return size if error is None else error

        result = core.section(leave_locked)
        sync(stream.poller)
        if isinstance(result, OSError):
            raise result
        return result

    def check_writable(self, stream: StreamState) -> None:
        """Raise what a send would raise."""
        error = self._core.section(lambda: self._refusal(stream))
        if error is not None:
            raise error

    def writable(self, stream: StreamState) -> bool:
        """Whether a non-blocking send would do anything but raise ``BlockingIOError``."""
        core = self._core

        def question() -> bool:
            if core.end is not None or stream.failure is not None or stream.fin_out:
                return True
            room = self._has_room(stream)
            if not room:
                core.polled_for_room[stream] = None
            return room and stream.send.left > 0

        return core.look(question)

    def _has_room(self, stream: StreamState) -> bool:
        """Whether a non-blocking send overtakes nothing and may leave its bytes in the outbox."""
        core = self._core
        waits = stream.write is not None or core.notes or stream in core.orphans
        return not waits and self._writing.has_room()

    def _refusal(self, stream: StreamState) -> OSError | None:
        """A new exception for a send that is not possible; ``None`` if it is."""
        if stream.failure is not None:
            return stream.failure.exception()
        if self._core.end is not None:
            return self._core.session_error(stream)
        if stream.fin_out:
            return os_error(errno.EBADF if stream.closed else errno.EPIPE)
        return None
