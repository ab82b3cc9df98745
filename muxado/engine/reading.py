"""The read seat: the one wait loop, and who reads the connection.

Whoever waits for something that the peer brings waits in :meth:`ReadSeat.wait`. If nobody sits in
the read seat, it takes it and *leads*: it waits for bytes, reads once for everybody, and leaves.
The others sleep until the leader, or whoever else changes what they wait for, wakes them. A caller
that leads needs no other thread to be woken for it, which in Python costs several times as much as
the read itself. Whoever is done waiting and finds the seat free wakes the oldest *follower*, one
that could lead; and the reader thread watches over all that, see ``watchdog.py``.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING

from muxado.engine.core import REENTERED, Core
from muxado.engine.keepalive import Keepalive
from muxado.engine.waiting import Waiter, WaitQueue
from muxado.errors import Error, ErrorCode
from muxado.protocol import StreamState
from muxado.wire import HEADER

if TYPE_CHECKING:
    from muxado.transport import Transport

__all__ = ["ReadSeat", "Straight"]

#: Bytes read at a time: what stays in a processor's own cache until it is copied again. With four
#: times as much a bulk transfer takes a fifth longer.
READ = 65536
#: A read of so many bytes or more is followed by another without a wait.
EAGER = 16384
#: Bytes of a frame still to come that are worth a read straight into their reader's buffer.
LONG = 32768


class Straight:
    """A buffer of a caller's, which waits to have bytes of ``stream`` read into it."""

    __slots__ = ("count", "stream", "target", "view")

    def __init__(self, stream: StreamState, view: memoryview) -> None:
        self.stream = stream
        self.view = view
        #: The part of it that the read under way goes to.
        self.target = view[:0]
        #: Bytes that were read into it.
        self.count = 0


class ReadSeat:
    """Who reads the connection. The core's lock guards all attributes but the last ones."""

    def __init__(self, core: Core, transport: Transport, keepalive: Keepalive) -> None:
        self._core = core
        self.transport = transport
        self._keepalive = keepalive
        #: Waiters that nobody uses.
        self._spare: list[Waiter] = []
        #: How often a caller has left the seat.
        self.sittings = 0
        #: Descriptors of ``fileno()`` in use. Pollers wait where none of our callers does, so the
        #: reader thread keeps the seat for them.
        self.pins = 0
        #: The reader thread sleeps until it is woken.
        self.parked = False
        #: Bytes received.
        self.received = 0
        #: Whoever sits waits without having seen anything come for a while. Then a FIN, which may
        #: wait for a frame to go with while there is traffic, goes at once. Not guarded.
        self.asleep = False
        # For the one who sits:
        self._buffer = memoryview(bytearray(READ))
        #: Read before waiting: after a large read there is usually more, and at first a TLS
        #: handshake may have read what came after it.
        self._eager = True
        #: Bytes may have been read that the protocol has not seen.
        self.mid_read = False
        #: The last read went straight into its reader's buffer, as the next one probably will.
        self._in_bulk = False
        #: Whether an acceptor is woken to lead: not in the midst of requests and answers.
        self._wakes_acceptors = True

    # Waiting.

    def wait(
        self,
        ready: Callable[[], WaitQueue | None],
        deadline: float | None,
        reads: bool = True,
        straight: Straight | None = None,
    ) -> bool:
        """Wait until ``ready()``, asked under the lock, says so; false past ``deadline``.

        ``ready`` returns ``None`` to say so, as it must once the session is over, and may take
        what was waited for; else the queue in which those find the caller who change it. It does
        not raise. ``deadline``: seconds on the monotonic clock, ``None`` for never, 0 for one
        look. ``reads``: the caller may lead. Raises ``RuntimeError`` in a signal's handler that
        waits for what it has interrupted.
        """
        core = self._core
        if core.lock._is_owned():
            raise RuntimeError(REENTERED)
        try:
            waiter = self._spare.pop()
        except IndexError:
            waiter = Waiter()
        done = core.guarded(
            waiter, self._give_back_locked, self._wait, waiter, ready, deadline, reads, straight
        )
        self._spare.append(waiter)
        if done is None:
            raise RuntimeError(REENTERED)
        return done

    def _wait(
        self,
        waiter: Waiter,
        ready: Callable[[], WaitQueue | None],
        deadline: float | None,
        reads: bool,
        straight: Straight | None,
    ) -> bool | None:
        """The loop of :meth:`wait`; ``None`` for a handler that waits for its own thread.

        In a function of its own, because CPython from 3.13 on lets an exception that strikes at
        the end of a loop pass by the handlers of the function that the loop is in.
        """
        core, pending = self._core, self._core.protocol.pending
        count, leads = None, False
        while True:
            with core.lock:
                if core.dirty or core.struck:
                    core.recover_locked()
                core.dirty = True
                if leads:
                    waiter.yields = self._dispatch_locked(count, waiter, straight)
                    self._leave_locked(waiter)
                queue = ready()
                done: bool | None = queue is None
                over = done or (deadline is not None and time.monotonic() >= deadline)
                if queue is not None and not over and waiter.queue is None:
                    if core.sits():
                        over, done = True, None
                    else:
                        waiter.thread = get_ident()
                        queue.append(waiter)
                        waiter.queue = queue
                if not over:
                    leads = self._enlist_locked(waiter, reads)
                elif waiter.queue is not None:
                    self._dismiss_locked(waiter)
                core.dirty = False
            if core.stale or pending.flush_now or self.transport.pending:
                core.settle()
            if over:
                return done
            if leads:
                count = self._read(deadline, straight)
            else:
                waiter.sleep(deadline)

    def _enlist_locked(self, waiter: Waiter, reads: bool) -> bool:
        """Have ``waiter`` found by those who wake it; true if it is to lead now."""
        core = self._core
        if core.protocol.pending.grants:
            core.protocol.pending.flush_now = True  # no update of a window waits while readers do
        if reads and core.leader is None and not self.pins and not waiter.yields:
            core.followers.pop(waiter, None)
            core.leader = waiter
            waiter.connection = self.transport
            return True
        waiter.prepare()
        if not reads:
            core.waiting[waiter] = None
            return False
        core.followers[waiter] = None
        if core.leader is None and self.parked:
            core.reader_waiter.wake()
        return False

    def _dismiss_locked(self, waiter: Waiter) -> None:
        """Its wait is over; somebody else is to read while its caller does something else."""
        core, queue = self._core, waiter.queue
        assert queue is not None
        waiter.queue = None  # first: a dismissal that is cut short is not gone through again
        queue.remove(waiter)
        waiter.yields = False
        core.followers.pop(waiter, None)
        core.waiting.pop(waiter, None)
        if core.leader is None and (core.followers or self.parked):
            self._hand_over_locked()

    def _hand_over_locked(self) -> None:
        """Wake the oldest follower, to lead; and the reader thread, if it is parked.

        An acceptor is left asleep if the last bytes came before their leader went to sleep: that
        is a loop of requests and answers, whose caller is back before an acceptor would be there,
        unless its stream is over.
        """
        if self.parked:
            self._core.reader_waiter.wake()  # to see whether the follower comes, if there is one
        for waiter in self._core.followers:
            if self._wakes_acceptors or waiter.queue is not self._core.acceptors:
                waiter.wake()
                return

    def stream_is_over_locked(self) -> None:
        """The caller that reads a stream to its end, or closes it, is not back for more of it."""
        self._wakes_acceptors = True
        if self._core.leader is None and self._core.followers:
            self._hand_over_locked()

    def _give_back_locked(self, waiter: Waiter) -> None:
        """An exception has ended the wait of ``waiter``: give back what it holds."""
        core = self._core
        if core.leader is waiter:
            if self.mid_read:
                error = RuntimeError("an exception struck between a read and its parsing")
                core.end_locked(ErrorCode.INTERNAL_ERROR, error, b"")
                self.mid_read = False
            self._leave_locked(waiter)
        if waiter.queue is not None:
            self._dismiss_locked(waiter)

    # In the seat.

    def _read(self, deadline: float | None, straight: Straight | None = None) -> int | None:
        """Wait for bytes, unless woken, and read once: the count, for :meth:`_dispatch_locked`.

        ``None`` for nothing yet, or for a connection that failed.
        """
        transport = self.transport
        if not self._eager:
            soon = transport.spin()
            self._wakes_acceptors = not soon
            if not soon:
                # Without the lock, which is seldom needed: whoever adds a FIN looks at `asleep`
                # after that, so that one of the two sends it.
                self.asleep = True
                if self._core.protocol.pending.ending:
                    self._core.section(self._send_fins_locked)
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                transport.wait_readable(left)
        into = self._buffer if straight is None else self._target(straight)
        count: int | None = None
        self.mid_read = True
        try:
            count = transport.recv_into(into)
        except (BlockingIOError, InterruptedError):
            pass
        except (OSError, ValueError) as error:
            if not transport.has_raised(error):
                raise
            self._core.section(functools.partial(self._core.connection_failed_locked, error))
        self._eager = count is not None and (count >= EAGER or count == len(into))
        return count

    def _send_fins_locked(self) -> None:
        """There is no traffic: what might have gone with another frame is sent now."""
        if self._core.protocol.pending.ending:
            self._core.protocol.pending.flush_now = True

    def _leave_locked(self, waiter: Waiter) -> None:
        """The seat is free."""
        self.asleep = False
        waiter.connection = None
        self._core.leader = None
        self.sittings += 1
        if self.pins or self._core.end is not None:
            self._core.reader_waiter.wake()

    def pin_locked(self) -> None:
        """A descriptor is polled: the reader thread reads from now on, whoever leads leaves."""
        self.pins += 1
        self._core.reader_waiter.wake()
        if self._core.leader is not None:
            self._core.leader.wake()

    def unpin_locked(self) -> None:
        """A descriptor is polled no longer. Callers may lead again once none is."""
        self.pins -= 1
        if not self.pins and self._core.leader is None:
            self._hand_over_locked()

    def read_once(self) -> None:
        """For the reader thread: what a leader does, but for leaving the seat."""
        core, pending = self._core, self._core.protocol.pending
        if pending.grants:
            pending.flush_now = True
            core.flush()
        count = self._read(None)
        with core.lock:
            if core.dirty or core.struck:
                core.recover_locked()
            core.dirty = True
            self._dispatch_locked(count, core.reader_waiter, None)
            core.dirty = False
        core.settle()

    def _target(self, straight: Straight) -> memoryview:
        """Where the next read of this leader goes.

        The rest of a long frame of its own stream goes straight into its buffer, past the parser,
        which saves two copies of every byte. Only who sits in the seat adds to what was received,
        so what is asked here without the lock cannot change before the read.
        """
        protocol, stream = self._core.protocol, straight.stream
        left = protocol.codec.data_left
        if left < LONG or stream.buffer.size or protocol.under_way is not stream:
            straight.target = straight.view[:0]
            # Behind a long frame no more than the next header, so that what follows it need not be
            # copied either.
            return self._buffer[:HEADER] if self._in_bulk and not left else self._buffer
        straight.target = straight.view[:left]
        return straight.target

    def _dispatch_locked(
        self, count: int | None, leader: Waiter, straight: Straight | None
    ) -> bool:
        """Give what was read to its streams and wake whom it concerns.

        True when another reader was woken that will be back for more.
        """
        core, protocol = self._core, self._core.protocol
        self.mid_read = self.asleep = False
        if count is None or core.end is not None:
            return False
        self.received += count
        self._keepalive.heard = True
        if not count:
            core.connection_ended_locked()
            return False
        try:
            if straight is None or not straight.target:
                self._in_bulk = self._in_bulk and count == HEADER
                protocol.feed(self._buffer[:count])
            elif protocol.read_directly(straight.stream, count):
                straight.count = count
                self._in_bulk = True
        except Error as error:
            if protocol.goaway is not None:
                # What follows a GOAWAY is often cut or miscounted through the peers' own fault,
                # and the GOAWAY has told how the session ends.
                core.connection_ended_locked()
            else:
                core.end_locked(error.code, error, b"")
        if protocol.beat_answered:
            protocol.beat_answered = False
            protocol.windows.saw(self._keepalive.answered(time.monotonic()))
        if core.log is not None:
            core.log.news(protocol, self._keepalive)
        if protocol.changed or protocol.arrived or core.drainers:
            return core.announce_locked(leader)
        return False
