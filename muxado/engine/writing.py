"""The write seat: who writes to the connection, and in which order.

Whoever has bytes to send and finds the write seat free takes it, with a batch of frames, and
writes them itself. Leaving, it writes what has come meanwhile as long as that needs no waiting;
then it wakes whose turn it is, or the writer thread where something is left that no caller waits
for. Reading never waits for any of that: what the read side has to send is *pending*, and goes with
the next batch, at once if nobody writes and the connection takes it, or by the writer thread.
"""

from __future__ import annotations

import errno
import functools
import threading
import time
from threading import get_ident
from typing import TYPE_CHECKING

from muxado.engine.core import Core
from muxado.engine.outbox import Buffer, Outbox, rest_of
from muxado.engine.waiting import WaitQueue
from muxado.errors import ErrorCode, os_error
from muxado.protocol import StreamState

if TYPE_CHECKING:
    from muxado.transport import Transport

__all__ = ["OUTBOX_FULL", "Turn", "WriteSeat"]

#: While the outbox holds so many bytes, only non-blocking sends may add frames to it: other callers
#: wait, and control frames stay with the protocol, which bounds them.
OUTBOX_FULL = 65536
#: What non-blocking sends may leave in the outbox; and while priorities compete.
_ROOM, _ROOM_CONTENDED = 262144, 16384
#: Bytes of one frame: at first; at most, on a connection that takes whole batches at once; and
#: while streams of different priority compete, since what the connection has been given goes before
#: anything of a higher priority that comes later: on 10 Mbit/s 8 KiB take 7 ms.
_FRAME, _FRAME_MOST, _FRAME_CONTENDED = 65536, 262144, 8192
#: Bytes of a body that are joined to the header if nothing else is in the batch.
_SHORT = 4096
#: Batches in a row that one who leaves writes of what has come meanwhile.
_ROUNDS = 16


class Turn:
    """Bytes of a caller that wait to be sent, in its own memory until they go out."""

    __slots__ = ("data", "held", "sent", "stream", "thread")

    def __init__(self, stream: StreamState, data: bytes | memoryview, held: int) -> None:
        self.stream = stream
        self.data = data if isinstance(data, memoryview) else memoryview(data)
        self.sent = 0
        self.thread = get_ident()
        #: The thread that gives back the seat if an exception ends this: not that of a signal's
        #: handler which has interrupted a write, then it is 0.
        self.held = held


class WriteSeat:
    """Who writes to the connection. The core's lock guards all attributes but the last ones."""

    def __init__(self, core: Core, transport: Transport) -> None:
        self._core = core
        self.transport = transport
        core.flush, core.at_end = self.flush, self._at_end_locked
        #: Frames that go before all that is framed from now on.
        self.outbox = Outbox(core.protocol.codec.frame_size)
        #: When a write failed, and how (seconds, monotonic).
        self.broken: tuple[float, OSError] | None = None
        #: While the connection takes no more: since when, who waits there, with how many bytes.
        self.jam: tuple[float, str, int] | None = None
        #: The writer thread sleeps until it is woken.
        self.parked = False
        # For the one who sits:
        self.sent = 0  # bytes written
        self.jam_time = 0.0  # seconds waited for the connection to take more
        self._frame = _FRAME  # bytes of one frame
        self._batch: list[Buffer] = []  # what is being written
        self._cut = 0  # bytes of it that end a frame begun before
        self._done = 0  # bytes of it that are written
        self._mid_write = False  # more of it may be written than counted
        self._stuck = False  # the connection has not taken the last batch whole

    # Taking the seat.

    def load_locked(self, opening: bool = False) -> bool:
        """Take the seat, with a batch of what goes before all that is framed from now on.

        ``opening``: SYNs do not wait any longer for their streams' first bytes. False if nothing
        may be added to the batch, because the connection has so much to take first.
        """
        core, protocol, pending = self._core, self._core.protocol, self._core.protocol.pending
        core.writer = get_ident()
        self._batch = []
        self._cut = self._done = 0
        unsent = self.outbox.size
        if unsent:
            beats = protocol.heartbeats() if protocol.heartbeat_due else b""
            frames, self._cut = self.outbox.take(beats)
            self._batch.append(frames)
        if unsent >= OUTBOX_FULL and self._stuck:
            return False
        if opening or pending.flush_now or pending.ending or pending.grants:
            self._batch.append(protocol.control_frames(opening))
        return unsent < OUTBOX_FULL

    def add_locked(self, stream: StreamState, data: bytes | memoryview) -> None:
        """Add a frame of ``data`` to the batch."""
        header = self._core.protocol.data_header(stream, len(data))
        if self._batch or len(data) > _SHORT:
            self._batch += (header, data)
        else:
            self._batch.append(header + data)
        stream.wrote = True

    def add_by_schedule_locked(self, turn: Turn) -> None:
        """Add to the batch what goes next, ``turn`` of the one who sits first.

        What is sent for others is copied: a caller may give up and use its memory again.
        """
        protocol = self._core.protocol
        schedule, contended = protocol.schedule, protocol.contended
        frame = min(_FRAME_CONTENDED if contended else self._frame, protocol.codec.max_data)
        left = frame if contended else 2 * self._frame
        while schedule.waiting and left > 0:
            stream = schedule.pop()
            other: Turn = stream.write
            count = min(len(other.data) - other.sent, stream.send.left, frame)
            part = other.data[other.sent : other.sent + count]
            self.add_locked(stream, part if other is turn else bytes(part))
            other.sent += count
            left -= count
            if other.sent < len(other.data) and stream.send.left > 0:
                schedule.add(stream, stream.priority)
            elif other is not turn:
                stream.writers.wake_all()

    def frame_most(self) -> int:
        """Bytes of a frame that is written when nothing else waits to be sent."""
        protocol = self._core.protocol
        most = _FRAME_CONTENDED if protocol.contended else _FRAME_MOST
        return min(most, protocol.codec.max_data)

    def has_room(self) -> bool:
        """Whether a non-blocking send may leave its bytes in the outbox."""
        return self.outbox.size < (_ROOM_CONTENDED if self._core.protocol.contended else _ROOM)

    def has_work(self) -> bool:
        """Whether something must go at once that no caller waits to send."""
        core = self._core
        return bool(self.outbox.size or core.protocol.pending.flush_now or self.transport.pending)

    def flush(self) -> None:
        """Send what must go at once, if that needs no waiting; else leave it to who writes next."""
        if not self._core.writer and self.has_work():  # whoever sits looks again before it leaves
            self._core.guarded(get_ident(), self.give_back_locked, self._flush)

    def _flush(self) -> None:
        core = self._core
        with core.lock:
            if core.dirty or core.struck:
                core.recover_locked()
            core.dirty = True
            sits = not core.writer and core.end is None and self.broken is None
            if sits:
                self.load_locked()
            core.dirty = False
        if sits:
            self.write_batch(0.0)

    # In the seat.

    def write_batch(self, deadline: float | None) -> bool:
        """Write the batch, and what has come meanwhile, and leave the seat.

        What the connection does not take by ``deadline`` (seconds, monotonic) goes next time,
        before all else. False if there is no next time: the connection broke, or the session
        ended, before it had taken the batch.
        """
        core = self._core
        pending = core.protocol.pending
        taken = self._transmit(deadline)
        rounds, again = 0, True
        while again:
            with core.lock:
                if core.dirty or core.struck:
                    core.recover_locked()
                core.dirty = True
                again = bool(self.outbox.size or pending.flush_now) and self._may_go_on(rounds)
                if again:
                    rounds += 1
                    self.load_locked()
                else:
                    core.writer = 0
                    self.pass_on_locked()
                core.dirty = False
            if again:
                self._transmit(0.0)
        if core.stale:
            core.sync_pollers()  # what else there is to settle, whoever leaves has looked at
        return taken

    def _may_go_on(self, rounds: int) -> bool:
        """Whether one who leaves may write once more without having to wait."""
        ended = self._core.end is not None or self.broken is not None
        return rounds < _ROUNDS and not self._stuck and not ended

    def _transmit(self, deadline: float | None) -> bool:
        """Write the batch; false if some of it was not written and never will be."""
        transport, batch = self.transport, self._batch
        contended = self._core.protocol.contended
        if transport.short is not contended:
            transport.keep_short(contended)
        buffers: list[Buffer] = batch
        total = len(batch[0]) if len(batch) == 1 else sum(map(len, batch))
        waited = False
        while True:
            transport.written.clear()
            self._mid_write = True
            try:
                sent = transport.send(buffers)
            except (OSError, ValueError) as error:
                if not transport.has_raised(error):
                    raise
                self._mid_write = False
                failure = error if isinstance(error, OSError) else os_error(errno.EBADF)
                self._core.section(functools.partial(self._break_locked, failure))
                return False
            self._done += sent
            self.sent += sent
            self._mid_write = False
            if self._done == total and not transport.pending:
                break
            buffers = rest_of(buffers, sent)
            if not self._await_room(total - self._done, deadline):
                self._core.section(self._put_back_locked)
                return self._core.end is None
            waited = True
        self._batch, self._stuck = [], False
        # What the connection takes at once may be larger next time.
        if waited:
            self._frame = _FRAME
        elif total > self._frame // 2 and self._frame < _FRAME_MOST:
            self._frame *= 2
        return True

    def _await_room(self, left: int, deadline: float | None) -> bool:
        """Wait until the connection takes more; false when the rest is to be put back.

        That is past ``deadline``, at the end of the session, and for a heartbeat, which may go
        before the frames that are not begun.
        """
        core = self._core
        now = time.monotonic()
        seconds = None if deadline is None else deadline - now
        with core.lock:
            if core.dirty or core.struck:
                core.recover_locked()
            core.dirty = True
            waits = core.end is None and (seconds is None or seconds > 0)
            if waits:
                self.jam = (now, threading.current_thread().name, left)
            core.dirty = False
        if not waits:
            return False
        self.transport.wait_writable(seconds)
        with core.lock:
            if core.dirty or core.struck:
                core.recover_locked()
            core.dirty = True
            self.jam = None
            goes_on = core.end is None and not core.protocol.heartbeat_due
            core.dirty = False
        self.jam_time += time.monotonic() - now
        return goes_on

    def _put_back_locked(self) -> None:
        """The connection has not taken the batch: the rest goes next time, before all else."""
        self.outbox.put_back(self._batch, self._cut, self._done)
        self._batch, self._stuck = [], True

    def _break_locked(self, error: OSError) -> None:
        """A write failed. How the connection ended is for the read side to find out, since what
        the peer said before, a GOAWAY with its reason above all, can still be read.
        """
        core = self._core
        self._batch = []
        if self.broken is None:
            self.broken = (time.monotonic(), error)
            if core.log is not None:
                core.log.event("writing failed: %s", error)
        core.wake_everybody_locked()

    def pass_on_locked(self) -> None:
        """If the seat is free: wake whoever has something to do with it."""
        core, protocol = self._core, self._core.protocol
        if core.writer:
            return
        if core.polled_for_room and self.has_room():
            core.offer_room_locked()
        pending = protocol.pending
        if self.broken is not None or core.end is not None:
            core.writer_waiter.wake()
        elif protocol.schedule.waiting:
            protocol.schedule.first().writers.wake_all()  # it takes along what is left
        elif self.outbox.size or pending.flush_now or self.transport.pending:
            core.writer_waiter.wake()
        elif pending.opening or pending.ending:
            if self.parked or core.closing:
                core.writer_waiter.wake()  # they must not wait for ever for a frame to go with
        elif core.flushers:
            core.flushers.wake_all()

    def give_back_locked(self, thread: int) -> None:
        """An exception has ended a call of ``thread``: give back the seat, if it has it."""
        core = self._core
        if not thread or core.writer != thread:
            return
        if self._mid_write and self.transport.exact:
            sent = sum(self.transport.written)
            self._done += sent
            self.sent += sent
            self._mid_write = False
        if self._mid_write:
            # How much was written is not known, so nothing can follow it.
            error = RuntimeError("an exception struck while a batch was written")
            core.end_locked(ErrorCode.INTERNAL_ERROR, error, b"")
            self.broken = self.broken or (time.monotonic(), os_error(errno.EPROTO))
            self._mid_write = False
        elif self._batch:
            self._put_back_locked()
        self.jam = None
        core.writer = 0
        self.pass_on_locked()

    # The end.

    def until_flushed(self) -> WaitQueue | None:
        """What to wait for until nothing is left that is to be sent and could be; see
        ``ReadSeat.wait``.
        """
        core, protocol = self._core, self._core.protocol
        left = (
            core.writer
            or self.outbox.size
            or self.transport.pending
            or core.notes
            or core.orphans
            or protocol.schedule.waiting
            or protocol.pending
        )
        return core.flushers if left and core.end is None else None

    def _at_end_locked(self) -> None:
        """The session is over: is it known now how much the connection has taken?"""
        core = self._core
        if (
            self.jam is not None
            or (core.silent and not core.writer)
            or (self.broken is not None and self.transport.exact)
        ):
            core.last_byte = self.sent
        if self.jam is not None:
            self.transport.shutdown()  # a connection that is full takes no GOAWAY either
