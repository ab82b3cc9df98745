"""The write seat: who sends, in which order, and the writer thread."""

from __future__ import annotations

import errno
import logging
import threading
import time
from threading import get_ident
from typing import TYPE_CHECKING

from muxado.engine.clock import Clock
from muxado.engine.shared import REENTERED, RIDES, Poller, bounded, os_error
from muxado.errors import ErrorCode
from muxado.flow import MAX_TURN
from muxado.protocol import StreamState

if TYPE_CHECKING:
    from muxado.transport import Buffer

__all__ = ["WriteSeat"]

log = logging.getLogger("muxado")

#: Seconds between two looks of the writer thread for a SYN or FIN that has found no frame to ride
#: along with since the last.
_RIDE = 0.002
#: And one that would have gone by itself, if frames to ride with come as soon as this.
_SOON = 0.001
#: How often in a row they must have done so at most, before one waits again; see there.
_MOST_RIDES = 4096
#: Rides in a row with nothing to take along before the writer thread parks.
_IDLE_RIDES = 8
#: Seconds that the end of the connection is waited for after a write failed.
_BROKEN = 1.0
#: A payload of so many bytes or less is joined to its header; more are left where they are.
_JOIN_UP_TO = 16384
#: Bytes of one batch.
_BATCH = 131072
#: On a fast connection a frame has as many bytes as it takes in so many seconds, and MAX_TURN at
#: most: among many streams every frame costs two threads a wake-up.
_TURN = 0.002
#: Seconds over which the connection's pace is measured: longer than it takes to fill the kernel's
#: buffers, or the first look at a slow connection would find it fast.
_PACE = 0.01
#: Bytes that non-blocking sends may leave to whoever writes next.
_MAX_UNSENT = 262144
#: Behind so many bytes callers wait for their turn, and what is owed stays with the protocol, which
#: bounds it, where the connection took no more.
_MAX_BEHIND = 65536
#: Bytes that a caller may leave to the one who is writing, as if the connection had taken them:
#: to wait for a turn would cost a small message more than all the rest of it.
_BEHIND = 4096
#: Batches in a row of what callers have left.
_ROUNDS = 16
#: Bytes of one frame and one batch while streams of different priority compete. What has been
#: handed over stands before all that is more urgent, and on 10 Mbit/s 8 KiB are 7 ms.
_MIXED = 8192
#: And what non-blocking sends may leave then.
_MAX_UNSENT_MIXED = 16384


class Write:
    """Bytes that wait to be sent: a caller's own memory until they go out."""

    __slots__ = ("data", "fixed", "patient", "sent", "stream", "thread", "waiter")

    def __init__(self, stream: StreamState, data: memoryview) -> None:
        self.stream = stream
        self.data = data
        #: Nobody can change them, not even a caller who has stopped waiting.
        self.fixed = type(data.obj) is bytes
        self.sent = 0
        self.thread = get_ident()
        # Guarded by the session's lock:
        #: What its caller sleeps on.
        self.waiter: threading.Lock | None = None
        #: Its caller need not be woken when its window is used up, but when all is sent.
        self.patient = False


class WriteSeat(Clock):
    """Everything that sends."""

    __slots__ = ()

    # Callers.

    def write(
        self, stream: StreamState, data: bytes | memoryview, deadline: float | None, whole: bool
    ) -> int:
        """Send ``data``, all of it or (not ``whole``) as much as goes in one turn.

        Returns how many bytes were sent. Raises ``TimeoutError`` past ``deadline`` (seconds on
        the monotonic clock), which for ``whole`` may leave some sent.
        """
        # Budget of the common case, a small message: two turns of the lock, one system call,
        # no other thread.
        if self._lock._is_owned() or self._guarded:
            self._check_reentry()
        me = get_ident()
        if self._writing == me:
            raise RuntimeError(REENTERED)
        if self._bequeathed:
            self.collect()  # what this thread's finalizers have written goes first
        size = len(data)
        protocol = self.protocol
        seated = left = False
        try:
            with self._lock:
                if (
                    self._wills  # perhaps one of this stream, which goes before
                    or stream.write is not None
                    or not 0 < size <= stream.send.left
                    or not self._inline
                    or stream.failure is not None
                    or stream.fin_out
                    or self.death is not None
                    or self._broken is not None
                ):
                    pass
                elif self._writing or self._unsent or self._scheduled:
                    if (
                        size <= _BEHIND
                        and len(self._unsent) + size < _MAX_BEHIND
                        and self._writing
                        and not self._jammed
                        and not protocol.mixed
                    ):
                        self._leave_locked(stream, data, size)
                        left = True
                elif size <= (_MIXED if protocol.mixed else self._frame_alone):
                    seated = self._midway = True
                    self._writing = me
                    head = b""
                    if self._fin_sent or self._fin_rides:
                        self._ride_came_locked()
                    if protocol.urgent or protocol.ending:
                        head = protocol.control_frames(False)
                    head += protocol.data_header(stream, size)
                    stream.wrote = True
            if seated:
                frame: list[Buffer] = [head + data] if size <= _JOIN_UP_TO else [head, data]
                done = self._transmit(frame, len(head) + size, deadline)
                if done and self._unsent:
                    self._take_along()
                self._leave_pen()
            poller = stream.poller  # which another thread may take away
            if poller is not None and (seated or left):
                poller.sync()
        except BaseException:
            try:
                self._drop_pen()
            except BaseException:
                self._drop_pen()
            raise
        if left:
            return size
        if seated:
            if done:
                return size
            with self._lock:
                if self._broken is None:
                    self._check_writable_locked(stream)
                    return size  # put off: the writer thread has it
            # The connection failed, perhaps behind some of it. Why is for the read side to tell.
            self._wait(self._watchers, self._dead, deadline, reads=True)
            with self._lock:
                self._check_writable_locked(stream)
            if whole:
                raise TimeoutError("timed out")
            return size  # as of bytes that a socket has taken: the next call tells
        view = data if isinstance(data, memoryview) else memoryview(data)
        return self._write_slowly(stream, view, deadline, whole=whole)

    def _leave_locked(self, stream: StreamState, data: bytes | memoryview, size: int) -> None:
        """Frame ``data`` and queue it at once: whoever writes next takes it along."""
        try:
            header = self.protocol.data_header(stream, size)
            self._unsent += header
            self._unsent += data
        except BaseException as error:
            # It may count as sent, and so may the SYN of this and other streams.
            try:
                self._die_locked(ErrorCode.INTERNAL_ERROR, error, b"")
            except BaseException:
                self._die_locked(ErrorCode.INTERNAL_ERROR, error, b"")
            raise
        stream.wrote = True

    def _take_along(self) -> None:
        """Send once what others have left to the one in the seat; more is the writer thread's."""
        with self._lock:
            if self.death is not None:
                return
            buffers = self._batch_locked(None)
        if buffers:
            self._transmit(buffers, sum(map(len, buffers)), 0.0)

    def _write_slowly(
        self, stream: StreamState, data: memoryview, deadline: float | None, *, whole: bool
    ) -> int:
        write = Write(stream, data)
        size = len(data)
        reads = True
        tried = False
        protocol = self.protocol
        with self._lock:
            if stream.writers is None:
                stream.writers = []
            crowd = stream.writers

        def over() -> bool:
            return (
                self.death is not None
                or stream.failure is not None
                or stream.fin_out
                or write.sent == size
                or (write.sent > 0 and not whole)
            )

        def turn() -> bool:
            if over() or stream.write is None or self._broken is not None:
                return True
            if stream.write is not write:
                return False
            if stream not in protocol.schedule:
                return not reads  # without window it waits for that as well
            return self._inline and not self._writing

        try:
            while True:
                seated = False
                with self._lock:
                    # A socket too sends what it can before it looks at the clock.
                    late = tried and deadline is not None and time.monotonic() >= deadline
                    tried = True
                    if stream in self._wills:
                        self._bring_forward_locked(stream)
                    before = stream.write
                    reentered = (
                        before is not None and before is not write and before.thread == write.thread
                    )
                    if over() or late or reentered:
                        # From here on nobody sends more of it: what is reported is what went.
                        self._retire_locked(stream, write)
                        break
                    broken = self._broken is not None
                    mine = before is None or before is write
                    blocked = mine and stream.send.left <= 0
                    if before is None:
                        stream.write = write
                        stream.wrote = True
                        self._stalls += blocked
                    if mine and not blocked and not broken:
                        protocol.schedule.add(stream, stream.priority)
                        if not self._inline:
                            self._wake_locked(self._writer_waiter)
                        elif not self._writing:
                            seated = True
                            self._writing = get_ident()
                if seated:
                    self._pump(stream, write, deadline, whole=whole)
                elif broken:
                    self._wait(self._watchers, self._dead, deadline, reads=True)
                elif not mine:
                    self._wait(crowd, turn, deadline)
                else:
                    # A handler's thread that sits in a seat below waits for its turn, and for
                    # window it must not.
                    reads = blocked or not self._sits_below(reading=True)
                    write.patient = reads and whole
                    self._wait(crowd, turn, deadline, reads=reads, sends=write)
            poller = stream.poller  # which another thread may take away
            if poller is not None:
                poller.sync()
        except BaseException:
            try:
                self._give_up_writing(stream, write)
            except BaseException:
                self._give_up_writing(stream, write)
            raise
        if write.sent == size or (write.sent and not whole):
            return write.sent
        with self._lock:
            self._check_writable_locked(stream)
        if reentered:
            raise RuntimeError(REENTERED)
        raise TimeoutError("timed out")

    def _give_up_writing(self, stream: StreamState, write: Write) -> None:
        """An exception takes the caller away."""
        with self._lock:
            self._retire_locked(stream, write)
        self._drop_pen()

    def _retire_locked(self, stream: StreamState, write: Write) -> None:
        """``write`` is over, whatever came of it: it is another's turn."""
        self._withdraw_locked(stream, write)
        self._wake_all_locked(stream.writers)
        self._pass_pen_locked()

    def _withdraw_locked(self, stream: StreamState, write: Write) -> None:
        if stream.write is write:
            self.protocol.schedule.discard(stream)
            stream.write = None

    def write_now(self, stream: StreamState, data: memoryview) -> int:
        """Send what can be sent without waiting; ``BlockingIOError`` if that is nothing."""
        self._check_reentry()
        size = 0
        if self._bequeathed:
            self.collect()
        try:
            with self._lock:
                self._check_writable_locked(stream)
                frame = _MIXED if self.protocol.mixed else self._frame_alone
                if stream in self._wills:
                    self._bring_forward_locked(stream)
                size = min(len(data), stream.send.left, frame)
                if size <= 0 or stream.write is not None or not self._room_locked():
                    size = 0
                    self._starved[stream] = None
                else:
                    self._leave_locked(stream, data[:size], size)
                poller = stream.poller
            if size:
                self.push(always=True)
            if poller is not None:
                poller.sync()
        except BaseException:
            if size:
                try:
                    self._drop_pen()  # or what was queued might stay
                except BaseException:
                    self._drop_pen()
            raise
        if not size:
            raise os_error(errno.EAGAIN)
        return size

    def check_writable(self, stream: StreamState) -> None:
        """Raise what a send would raise."""
        with self._lock:
            self._check_writable_locked(stream)

    def writable(self, stream: StreamState) -> bool:
        """Whether a non-blocking send would be told something other than to wait."""
        with self._lock:
            if self.death is not None or stream.failure is not None or stream.fin_out:
                return True
            room = stream.write is None and self._room_locked()
            if not room:
                self._starved[stream] = None
            return room and stream.send.left > 0

    def _room_locked(self) -> bool:
        """Whether a non-blocking send may leave its bytes to whoever writes next."""
        return len(self._unsent) < (_MAX_UNSENT_MIXED if self.protocol.mixed else _MAX_UNSENT)

    def push(self, *, always: bool = False) -> None:
        """Send what is owed if that needs no waiting; else leave it to who writes next."""
        # Without the lock, which whoever owes something has just had: one who sits since before
        # looks again before it leaves. So does this thread itself, below a signal's handler.
        if self._writing:
            return
        try:
            with self._lock:
                if self._writing or self.death is not None or not (always or self._owed_locked()):
                    return  # whoever sits looks again before it leaves
                if self._broken is not None:
                    return  # nothing can follow what was lost
                if not self._inline:
                    self._wake_locked(self._writer_waiter)
                    return
                self._writing = get_ident()
            self._pump(None, None, 0.0, whole=True)
        except BaseException:
            try:
                self._drop_pen()
            except BaseException:
                self._drop_pen()
            raise

    def _owed_locked(self) -> bool:
        """Something must go at once that no caller waits to send."""
        return bool(self._unsent or self.protocol.urgent or self.transport.pending)

    def _orphans_locked(self) -> bool:
        """There is data to send that the writer thread must, because no caller may or is there."""
        return bool(self._scheduled and (self._wills or not self._inline))

    def _awaited_locked(self) -> bool:
        """It is a caller's turn, who is woken when the seat is free."""
        return bool(self._inline and self._scheduled and self._senders)

    # In the seat.

    def _pump(
        self,
        stream: StreamState | None,
        write: Write | None,
        deadline: float | None,
        *,
        whole: bool,
    ) -> None:
        """In the write seat: send batches until ``write`` is out; the seat is free on return.

        Without ``write``, until nothing is left that no caller waits to send; others may go on
        leaving something, so a caller whose turn it is comes first, and whoever is in the seat
        has something else to do in the end. The caller frees the seat when an exception comes
        out of here.
        """
        patience = deadline
        rounds = 0
        while True:
            with self._lock:
                if self.death is not None:
                    break
                if write is None and (rounds >= _ROUNDS or (rounds and self._awaited_locked())):
                    break
                rounds += 1
                if stream is not None and write is not None:
                    if stream.write is not write or (write.sent > 0 and not whole):
                        break
                    patience = deadline
                    if stream not in self._scheduled:
                        # It waits for window, and sends for others as long as that takes no time.
                        if not self._scheduled or (
                            deadline is not None and time.monotonic() >= deadline
                        ):
                            break
                        patience = 0.0
                buffers = self._batch_locked(write)
            if not buffers and not self.transport.pending:
                break
            size = sum(map(len, buffers))
            if not self._transmit(buffers, size, patience):
                break
            self._begun = 0
            if write is not None:
                self._pace(size)
        self._leave_pen()

    def _pace(self, size: int) -> None:
        """The connection has taken ``size`` bytes: how long a turn may be from now on.

        Believed is what it has taken twice in a row, and when nothing was there to send that counts
        as slow.
        """
        since, count, before = self._paced
        now = time.monotonic()
        if now - since < _PACE:
            self._paced = (since, count + size, before)
            return
        pace = (count + size) / (now - since)
        self._paced = (now, 0, pace)
        self._turn = min(int(min(pace, before) * _TURN), MAX_TURN, self.protocol.codec.max_data)

    def _batch_locked(self, write: Write | None) -> list[Buffer]:
        """The best next frames, what was left over first. They count as sent.

        Without ``write`` only what no caller waits to send: callers send their data themselves.
        """
        protocol = self.protocol
        schedule, scheduled = protocol.schedule, self._scheduled
        if not (
            self._unsent or scheduled or protocol.urgent or protocol.grants or protocol.owing()
        ):
            return []
        self._midway = True
        try:
            buffers: list[Buffer] = []
            size = 0
            left = len(self._unsent)
            if left:
                if left < _MAX_UNSENT + 2 * MAX_TURN and protocol.pressing:
                    # Before all that waits, but for the end of a frame that was begun.
                    self._unsent[self._cut : self._cut] = protocol.heartbeats()
                buffers.append(self._unsent)
                self._begun, self._cut = self._cut, 0
                self._unsent = bytearray()
                if left >= _MAX_UNSENT:
                    return buffers  # or a connection that takes nothing would collect without end
            if (left < _MAX_BEHIND or not self._stuck) and (
                protocol.urgent or protocol.grants or protocol.owing()
            ):
                if self._fin_rides:
                    self._ride_came_locked()
                control = protocol.control_frames(write is None)
                if control:
                    buffers.append(control)
            data = write is not None or self._orphans_locked()
            most, turn = (_MIXED, 0) if protocol.mixed else (max(_BATCH, self._turn), self._turn)
            while data and scheduled and size < most:
                frame = self._frame_shared if len(scheduled) > 1 else self._frame_alone
                limit = min(most, max(frame, turn))
                stream = schedule.pop()
                waiting: Write = stream.write
                start = waiting.sent
                count = min(limit, len(waiting.data) - start, stream.send.left)
                buffers.append(protocol.data_header(stream, count))
                part = waiting.data[start : start + count]
                # A caller that stops waiting has its memory back, so another's is copied.
                buffers.append(part if waiting is write or waiting.fixed else bytes(part))
                size += count
                waiting.sent = start + count
                if waiting.sent == len(waiting.data):
                    stream.write = None
                elif stream.send.left > 0:
                    schedule.add(stream, stream.priority)
                    continue
                else:
                    self._stalls += 1
                    if waiting.patient or waiting is write:
                        continue
                self._wake_all_locked(stream.writers)
            self._midway = bool(buffers)
            return buffers
        except BaseException as error:
            self._die_locked(ErrorCode.INTERNAL_ERROR, error, b"")
            raise

    def _transmit(self, buffers: list[Buffer], size: int, deadline: float | None) -> bool:
        """Write ``buffers``; false if the rest was put off (past ``deadline``) or lost (death)."""
        transport = self.transport
        sending = False
        batch: list[Buffer] = []  # as it was, once part of it is sent
        done = 0
        try:
            while True:
                if transport.short is not self.protocol.mixed:
                    transport.keep_short(self.protocol.mixed)
                # Even without buffers: what the transport has taken is being written.
                sending = self._midway = True
                sent = transport.send(buffers)
                size -= sent
                self._sent += sent
                if not size and not transport.pending:
                    self._midway = self._stuck = False
                    return True
                if sent:
                    batch = batch or list(buffers)
                    done += sent
                    _advance(buffers, sent)
                sending = False
                left = None if deadline is None else deadline - time.monotonic()
                with self._lock:
                    if self.death is not None or (left is not None and left <= 0):
                        # Even then: the last words must not stand in the middle of a frame.
                        self._put_off_locked(buffers, batch, done)
                        return False
                    since = time.monotonic()
                    self._jammed = True
                    self._jam = (since, threading.current_thread().name, size)
                transport.wait_writable(left)
                with self._lock:
                    self._jammed = False
                    self._jam_time += time.monotonic() - since
                    if self.protocol.pressing:
                        # To be taken up again at once, by whoever takes the seat next, with the
                        # heartbeat before the frames that are not begun.
                        self._put_off_locked(buffers, batch, done)
                        return False
        except BaseException as error:
            with self._lock:
                self._jammed = False
                if not sending and self._midway:  # nothing was being written: all is as it was
                    self._put_off_locked(buffers, batch, done)
                if not sending or not isinstance(error, (OSError, ValueError)):
                    raise  # while sending: how much was written is not known, see _put_right()
                # How the connection ended is for the read side to find out: what the peer said
                # before, a GOAWAY with its reason above all, can still be read. The session
                # lives until the read side sees the end too, or for _BROKEN seconds.
                self._midway = False
                if self._broken is None:
                    failure = error if isinstance(error, OSError) else os_error(errno.EBADF)
                    self._broken = (time.monotonic(), failure)
                    if self.notes is not None:
                        self.notes.event("writing failed: %s", failure)
                for waiter in self._senders:
                    self._wake_locked(waiter)
                self._wake_locked(self._writer_waiter)
            return False

    def _put_off_locked(self, buffers: list[Buffer], batch: list[Buffer], done: int) -> None:
        """Keep what the connection has not taken, and where the frame ends that it cut.

        ``buffers`` are left of ``batch``, of which ``done`` bytes are sent.
        """
        whole = b"".join(batch)
        end = self._begun
        while end < done:
            end += self.protocol.codec.frame_size(whole[end : end + 8])
        self._unsent[:0] = b"".join(buffers)
        self._cut, self._begun = end - done, 0
        self._stuck, self._midway = True, False

    def _leave_pen(self) -> None:
        protocol = self.protocol
        with self._lock:
            self._writing, self._jammed = 0, False
            if not (
                self._unsent
                or self._scheduled
                or protocol.urgent
                or protocol.ending
                or protocol.opening
                or self._flushers
                or self._starved
                or self.death is not None
                or self.transport.pending
                or self.notes is not None
            ):
                return  # nothing to pass on, as a rule
            self._pass_pen_locked()
            starved = self._fed_locked() if self._starved and self._room_locked() else None
        if starved:
            for poller in starved:
                poller.sync()
        if self.notes is not None:
            self.notes.say()

    def _fed_locked(self) -> list[Poller]:
        """The descriptors that are to say that there is room again."""
        # In a function of its own: CPython 3.13 lets an exception that strikes as this goes back
        # pass by what guards it, here the lock's release.
        pollers = [stream.poller for stream in self._starved if stream.poller is not None]
        self._starved.clear()
        return pollers

    # Leaving it.

    def _pass_pen_locked(self) -> None:
        """The rule for the write seat: free, with something to send, somebody is woken."""
        if self._writing:
            return
        protocol = self.protocol
        if self.death is not None:
            self._wake_locked(self._writer_waiter)
        elif self._awaited_locked():
            # One who is not asleep is about to look.
            waiter = protocol.schedule.first().write.waiter
            if waiter is not None:
                self._wake_locked(waiter)
        elif self._owed_locked() or self._orphans_locked():
            self._wake_locked(self._writer_waiter)
        elif protocol.opening or protocol.ending:
            self._give_ride_locked()
        elif self._flushers:
            self._wake_all_locked(self._flushers)

    def _give_ride_locked(self) -> None:
        """A SYN or FIN may wait for a frame to ride with: see that it does not wait for ever."""
        if self._writer_parked or self._closing:
            self._wake_locked(self._writer_waiter)

    def _may_ride_locked(self) -> bool:
        """Whether the FIN of a stream may wait that was answered, and then either ended by the peer
        too, or closed by a thread that has accepted it and finds the next one waiting.

        The peer may have closed, or it may wait for this very FIN; nothing tells which. So it goes
        by itself, at once, until it has happened often enough that another write came soon after
        and would have taken it along for nothing. When one has waited in vain, twice as many such
        writes must come before the next may.
        """
        if self._rides >= self._rides_due:
            self._fin_rides = True
            return True
        self._fin_sent = time.monotonic()
        return False

    def _ride_came_locked(self) -> None:
        """A frame goes out that a FIN could have ridden with, or does ride with."""
        if self._fin_sent:
            came = time.monotonic() - self._fin_sent <= _SOON
            self._fin_sent = 0.0
            self._rides = self._rides + 1 if came else 0
        elif self._fin_rides:
            self._fin_rides = False
            self._rides += 1
            if self._rides >= 2 * _MOST_RIDES:  # that was long ago
                self._rides_due = RIDES

    def _ride_missed_locked(self) -> None:
        """The writer thread has to send one that has waited for a ride."""
        self._fin_rides = False
        self._rides, self._rides_due = 0, min(2 * self._rides_due, _MOST_RIDES)

    def _flushed_locked(self) -> bool:
        """Nothing is left that was to be sent and could be."""
        return self.death is not None or not (
            self._writing
            or self._unsent
            or self.transport.pending
            or self._dropped
            or self._wills
            or self.protocol.schedule
            or self.protocol.owing()
        )

    def _check_writable_locked(self, stream: StreamState) -> None:
        if stream.failure is not None:
            raise stream.failure.exception()
        if self.death is not None:
            raise self.session_error_locked(stream)
        if stream.fin_out:
            raise os_error(errno.EBADF if stream.closed else errno.EPIPE)

    # The writer thread.

    def _write_loop(self) -> None:
        """The writer thread: what no caller is there to write, the heartbeat, the last words."""
        me = self._writer_waiter
        riding, idle = False, 0
        rested = False  # the last nap was not cut short
        sat = False  # just now
        #: The stream whose SYN, and that whose FIN, had waited longest at the last look.
        opening: StreamState | None = None
        ending: StreamState | None = None
        try:
            while True:
                seated = silent = False
                pause: float | None = None
                pollers: list[Poller] | None = None
                with self._lock:
                    me.acquire(False)
                    if self._dropped or self._abandoned or self._wills:
                        pollers = self._collect_locked()
                    if self._closes_by is not None and (
                        self._flushed_locked() or time.monotonic() >= self._closes_by
                    ):
                        self._die_locked(ErrorCode.NO_ERROR, None, b"")
                    if self.death is not None:
                        break
                    woken, self._writer_parked = self._writer_parked, False
                    protocol = self.protocol
                    beat = self._heartbeat_locked() if self._inline else None
                    before = (opening, ending)
                    opening = next(iter(protocol.opening), None)
                    ending = next(iter(protocol.ending), None)
                    lazy = opening is not None or ending is not None
                    # Only what has waited since the last look: the rest may still find a ride.
                    overdue = rested and (
                        (opening is not None and opening is before[0])
                        or (ending is not None and ending is before[1])
                    )
                    if overdue and opening is not None and self._writing:
                        # Whoever writes leaves SYNs to their first bytes, and may write for long.
                        protocol.announce(opening)
                    owed = self._owed_locked()
                    now = owed or self._orphans_locked() or (lazy and (overdue or self._closing))
                    if beat is not None and beat <= 0:
                        silent = True
                    elif self._broken is not None:
                        pause = self._broken[0] + _BROKEN - time.monotonic()
                        if pause <= 0:
                            self._die_locked(ErrorCode.PEER_EOF, self._broken[1], b"")
                            break
                    elif now and sat and not self._writing and self._awaited_locked():
                        # Nobody wakes as soon as we are back, who are awake.
                        pause, riding, idle = _RIDE, True, 0
                    elif now and not self._writing:
                        if self._fin_rides and overdue and not owed:
                            self._ride_missed_locked()
                        seated = True
                        self._writing = get_ident()
                    elif lazy and not self._writing:  # else whoever writes takes it along
                        pause, riding, idle = _RIDE, True, 0
                    elif (lazy or riding or woken) and idle < _IDLE_RIDES:
                        # More opens or closes are likely: they find us awake. Or they would wake
                        # us for each, just to see that a write has taken it along meanwhile.
                        pause, riding, idle = _RIDE, True, idle + 1
                    else:
                        riding, idle = False, 0
                        opening = ending = None
                        self._writer_parked = True
                    if beat is not None:
                        pause = beat if pause is None else min(pause, beat)
                    if self._closes_by is not None:
                        left = max(0.0, self._closes_by - time.monotonic())
                        pause = left if pause is None else min(pause, left)
                sat = seated
                for poller in pollers or ():
                    poller.sync()
                if silent:
                    self._judge_silence()
                elif seated:
                    # However long the connection takes no more, the clock goes on.
                    deadline = None if beat is None else time.monotonic() + beat
                    self._pump(None, None, deadline, whole=True)
                else:
                    rested = not me.acquire(True, bounded(pause))
        except BaseException as error:
            self._die(ErrorCode.INTERNAL_ERROR, error, b"")
            self._drop_pen()
            log.exception("%s: the writer thread failed", self.name)
        finally:
            self._speak_last()

    # What stands above: see the package.

    def _speak_last(self) -> None:
        raise NotImplementedError

    def collect(self) -> None:
        raise NotImplementedError

    def _bring_forward_locked(self, stream: StreamState) -> None:
        raise NotImplementedError


def _advance(buffers: list[Buffer], count: int) -> None:
    """Remove the first ``count`` bytes of ``buffers``."""
    done = 0
    for buffer in buffers:
        if count < len(buffer):
            break
        count -= len(buffer)
        done += 1
    del buffers[:done]
    if count:
        buffers[0] = memoryview(buffers[0])[count:]
