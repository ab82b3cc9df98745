"""What both seats of a session stand on: its state, how to wait, how to wake, how it dies."""

from __future__ import annotations

import collections
import errno
import itertools
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any, cast
from typing import Protocol as Interface

from muxado import wire
from muxado.engine.notes import Notes, frames
from muxado.errors import Error, ErrorCode, RemoteGoneAway, SessionClosed
from muxado.protocol import Protocol, SessionEnd, StreamState
from muxado.wire.base import HEADER

if TYPE_CHECKING:
    from muxado.config import Config
    from muxado.engine.dropped import Will
    from muxado.transport import Transport

__all__ = [
    "BRIEF",
    "NOBODY",
    "REENTERED",
    "RIDES",
    "Descriptor",
    "Poller",
    "Shared",
    "bounded",
    "new_waiter",
    "os_error",
]

#: Bytes read at a time.
READ = 262144
#: Bytes of one frame at most, where the version of the wire allows as many: among streams of one
#: priority, and of one alone. Where priorities differ they are shorter, and on a fast connection
#: they may be longer; see the write seat.
_FRAME_SHARED = 65536
_FRAME_ALONE = 131072
#: See WriteSeat._may_ride_locked().
RIDES = 8
#: Streams in a row of which nothing but the end came behind this side's answer, before the next
#: is expected to go the same way.
BRIEF = 8

#: What is said to those who would otherwise wait for ever.
REENTERED = "a signal handler or a finalizer uses a session that its own thread is inside of"

#: The thread in a seat that is taken for good.
NOBODY = -1

_numbers = itertools.count(1)


class Poller(Interface):
    """Something that keeps a descriptor readable while a wait would be over."""

    def sync(self) -> None:
        """Bring the descriptor up to date; called without the session's lock."""

    def forsake(self) -> None:
        """In the child of a fork: give up this process's copy, whoever held its lock."""


class Descriptor(Poller, Interface):
    """A poller with a descriptor of its own."""

    def fileno(self) -> int:
        """The descriptor."""

    def close(self) -> None:
        """Give it back."""


class Shared:
    """The state of a session, and what all its waits and wake-ups go through."""

    # CPython finds attributes quickly in slots, or in a dictionary of up to 30.
    __slots__ = (
        "_abandoned",
        "_acceptors",
        "_aimed",
        "_asked",
        "_beats",
        "_begun",
        "_behind",
        "_bequeathed",
        "_brevity",
        "_broken",
        "_closes_by",
        "_closing",
        "_cut",
        "_drainers",
        "_dropped",
        "_eager",
        "_fed",
        "_fin_rides",
        "_fin_sent",
        "_flushers",
        "_frame_alone",
        "_frame_shared",
        "_guarded",
        "_header_next",
        "_heard",
        "_held",
        "_held_back",
        "_inline",
        "_jam",
        "_jam_time",
        "_jammed",
        "_keeper_waiter",
        "_last_byte",
        "_last_words",
        "_late",
        "_late_returns",
        "_leading",
        "_left",
        "_lock",
        "_look_due",
        "_midway",
        "_news",
        "_over",
        "_paced",
        "_patience",
        "_pins",
        "_put_off",
        "_read_buffer",
        "_reader_parked",
        "_reader_waiter",
        "_reading",
        "_reading_thread",
        "_received",
        "_receiving",
        "_rides",
        "_rides_due",
        "_scheduled",
        "_senders",
        "_sent",
        "_silent",
        "_sittings",
        "_spare",
        "_stalls",
        "_starved",
        "_stuck",
        "_tardy",
        "_told",
        "_turn",
        "_unsent",
        "_waiters",
        "_waits_since",
        "_watchers",
        "_willing",
        "_wills",
        "_woke",
        "_writer_parked",
        "_writer_waiter",
        "_writing",
        "config",
        "death",
        "latency",
        "name",
        "notes",
        "protocol",
        "serving",
        "session_poller",
        "transport",
    )

    def __init__(self, transport: Transport, config: Config, *, client: bool) -> None:
        self.transport = transport
        self.config = config
        self.name = f"{'client' if client else 'server'}-{next(_numbers)}"
        # Reentrant only so that a signal handler or a finalizer which meets its own thread inside
        # does not lock it up: see _inside().
        self._lock: Any = threading.RLock()
        #: Where anybody listens, what is to be logged; to be added to with _lock held.
        self.notes = Notes(self.name, self._lock) if Notes.wanted() else None
        #: There are other locks that a thread may be inside of.
        self._guarded = transport.locks or self.notes is not None
        # guarded by _lock
        self.protocol = Protocol(config, client=client, clock=time.monotonic)
        if self.notes is not None and frames.isEnabledFor(logging.DEBUG):
            wire.watch(self.protocol.codec, self.notes.frame)
        #: Bytes of one frame while other streams have something to send, and while none has.
        self._frame_shared = min(_FRAME_SHARED, self.protocol.codec.max_data)
        self._frame_alone = min(_FRAME_ALONE, self.protocol.codec.max_data)
        self._scheduled = self.protocol.schedule.waiting  # guarded by _lock
        #: Why the session is over, once it is. Set once, under _lock.
        self.death: SessionEnd | None = None
        self._closing = False  # guarded by _lock: close() was called
        #: Guarded by _lock: the session was dropped, or closed where nobody may wait, and the
        #: writer thread ends it once it is flushed, or then (seconds, monotonic).
        self._closes_by: float | None = None
        self._silent = False  # guarded by _lock: no last words
        self._told = False  # guarded by _lock: accept() has reported the end
        #: A loop in serve() is to be woken again and again until it looks at why.
        self.serving = False
        #: Callers may read and write; else only the two threads do.
        self._inline = transport.polled
        #: What finalizers leave, see dropped.py; append and popleft only.
        self._dropped: collections.deque[tuple[StreamState, bytes | None]] = collections.deque()
        self._bequeathed = False  # set without the lock: there are bytes among that
        self._wills: dict[StreamState, Will] = {}  # guarded by _lock: see dropped.py
        self._abandoned = False  # set once, without the lock: see abandon()

        # Waiting; all guarded by _lock.
        #: Everybody who waits, and in which thread: those who could take the read seat, and all
        #: others.
        self._willing: dict[threading.Lock, int] = {}
        self._waiters: dict[threading.Lock, int] = {}
        self._spare: list[threading.Lock] = []  # waiters to use again
        self._acceptors: list[threading.Lock] = []  # who waits for the backlog
        self._watchers: list[threading.Lock] = []  # who waits for the end
        self._flushers: list[threading.Lock] = []  # who waits until all is sent
        self._drainers: list[threading.Lock] = []  # who waits for the last stream to go

        # The read seat.
        self._reading: object | None = None  # guarded by _lock: who sits, None if free
        self._reading_thread = 0  # guarded by _lock: and in which thread, if anybody
        self._leading: StreamState | None = None  # guarded by _lock: whose read() sat down last
        self._sittings = 0  # guarded by _lock: how often a caller sat down
        self._woke = False  # guarded by _lock: the last dispatch woke somebody who reads
        self._late: list[threading.Lock] = []  # guarded by _lock: see _wake_late_locked()
        self._pins = 0  # guarded by _lock: descriptors of fileno() in use
        self._reader_waiter = new_waiter()
        self._reader_parked = False  # guarded by _lock
        self._read_buffer = memoryview(bytearray(READ))  # the seat's
        #: The seat's: read before waiting. More is likely there after a large read, and at first,
        #: since a TLS handshake may have read what came behind it.
        self._eager = True
        self._header_next = False  # the seat's: see _aim()
        self._behind = memoryview(bytearray(HEADER))  # the seat's: what came behind a long frame
        #: Guarded by _lock: whose memory the seat is reading into, a stream and its ``Post``; and
        #: whose memory has bytes that its reader has not been told of, as more are coming.
        self._aimed: tuple[StreamState, Any] | None = None
        self._held: StreamState | None = None
        #: Guarded by _lock: whose memory was full, so that it left the seat to others, and when
        #: (seconds, monotonic); and whether the last such took its time until it came back.
        self._left: tuple[int, float] | None = None
        self._tardy = False
        #: Guarded by _lock: somebody was woken whose memory was read into.
        self._fed = False
        self._put_off = 0  # guarded by _lock: reads while an update of a window was put off
        self._patience = 1  # the seat's: see _await_bytes()
        self._brevity = 0  # guarded by _lock: short streams in a row, see _defers_locked()
        #: Guarded by _lock: how many of those will accept the next stream, and whether streams are
        #: left to such; see _returning_locked().
        self._late_returns = 0
        self._held_back = False

        # The write seat.
        self._writing = 0  # guarded by _lock: the thread that sits, 0 if it is free
        self._midway = False  # the seat's: frames were taken that are neither written nor put off
        self._jammed = False  # guarded by _lock: and waits for the connection to take more
        #: Of the last time that it did, guarded by _lock: since when, who, with how many bytes.
        self._jam: tuple[float, str, int] | None = None
        self._jam_time = 0.0  # the write seat's: seconds waited so
        self._stalls = 0  # guarded by _lock: how often a sender has waited for window
        #: Guarded by _lock: who waits to have bytes sent, and the ``Write`` that they are in.
        self._senders: dict[threading.Lock, Any] = {}
        self._turn = 0  # the seat's: bytes of one frame on a fast connection, see _pace()
        #: The seat's, of the connection's pace: since when (seconds, monotonic), how many bytes
        #: since then, and how many a second before.
        self._paced: tuple[float, int, float] = (0.0, 0, 0.0)
        self._unsent = bytearray()  # guarded by _lock: framed, goes before all but heartbeats
        self._cut = 0  # guarded by _lock: so many bytes of that end a frame that was begun
        self._stuck = False  # the seat's: the connection has not taken the last batch
        self._begun = 0  # the seat's: the same of the batch under way
        self._starved: dict[StreamState, None] = {}  # guarded by _lock: see write_now()
        # See WriteSeat._may_ride_locked(); guarded by _lock.
        self._fin_sent = 0.0  # when a FIN went by itself, and nothing was written since
        self._fin_rides = False  # one waits that would have gone by itself
        self._rides = 0  # how often in a row a frame for it to ride with came soon
        self._rides_due = RIDES  # and how often that must have been
        self._broken: tuple[float, OSError] | None = None  # guarded by _lock: a write failed
        self._writer_waiter = new_waiter()
        self._writer_parked = False  # guarded by _lock
        self._last_words = threading.Event()  # the writer thread is through
        self._keeper_waiter = new_waiter()  # see clock.py

        self.session_poller: Poller | None = None  # guarded by _lock
        #: The last heartbeat's round trip in seconds.
        self.latency: float | None = None
        #: The seat's: bytes may have been read that have not been parsed.
        self._receiving = False
        self._look_due = 0.0  # guarded by _lock: when the heartbeat's clock must look again
        self._heard = False  # guarded by _lock: bytes came since the clock last looked
        self._asked = 0.0  # guarded by _lock: when the last heartbeat was asked for
        self._waits_since: float | None = None  # guarded by _lock: and nothing was heard since
        self._beats = [0, 0]  # guarded by _lock: heartbeats asked for, and answered
        self._received = 0  # guarded by _lock: bytes
        self._sent = 0  # the write seat's: bytes
        #: Bytes that the connection has taken, once that is known to be all of them for ever.
        self._last_byte: int | None = None  # guarded by _lock
        self._news: tuple[int, int, object] = (0, 0, None)  # guarded by _lock: logged so far
        self._over = threading.Event()  # the connection is closed

    # Waiting and waking.

    def _wait(
        self,
        crowd: list[threading.Lock],
        ready: Callable[[], bool],
        deadline: float | None,
        *,
        reads: bool = False,
        sends: Any = None,
        posted: bool = False,
        yielded: bool = False,
        waiter: threading.Lock | None = None,
    ) -> bool:
        """Wait until ``ready()``, asked under the lock, is true; false past ``deadline``.

        ``ready`` must be true once the session is dead, and is not asked again once it was; so
        it may do what the caller waits to do. The waiter stands in ``crowd`` for
        those who know what it waits for. ``reads``: what it waits for comes from the peer, so
        it may take the read seat. ``sends``: the ``Write`` that is to be sent, by whoever has the
        write seat, which the waiter takes when it is woken and nobody has it. ``posted``: its
        memory may be read into. ``waiter`` stands in ``crowd`` already, since ``ready()`` was last
        found not to be true.
        """
        reads = reads and self._inline
        led = False
        listed = waiter is not None
        if self._lock._is_owned() or self._guarded:
            self._check_reentry()
        me = get_ident()
        if (self._writing == me or self._reading_thread == me) and self._sits_below(
            reading=reads or crowd is self._watchers or crowd is self._drainers
        ):
            raise RuntimeError(REENTERED)
        try:
            while True:
                leads = False
                if not listed:
                    with self._lock:
                        done = led or ready()
                        if done or (deadline is not None and time.monotonic() >= deadline):
                            if waiter is not None:
                                self._dismiss_locked(waiter, crowd)
                                if self._reading is None:
                                    self._pass_seat_locked()
                            return done
                        if waiter is None:
                            waiter = self._spare.pop() if self._spare else new_waiter()
                            self._waiters[waiter] = me
                            crowd.append(waiter)
                            if sends is not None:
                                self._senders[waiter] = sends
                                sends.waiter = waiter
                        waiter.acquire(False)  # a wake-up from before this look is spent
                        if reads:
                            if self._reading is None and not self._pins and not yielded:
                                leads = True
                                self._waiters[waiter] = me
                                self._willing.pop(waiter, None)
                                self._sit_locked(waiter)
                                self._sittings += 1
                            else:
                                self._willing[waiter] = me
                                self._waiters.pop(waiter, None)
                                if self._reading is None:
                                    self._pass_seat_locked()
                listed = False
                if leads:
                    led = self._lead(ready, deadline, posted)
                    yielded = True
                else:
                    if self._late:
                        with self._lock:
                            self._wake_late_locked()
                    assert waiter is not None
                    if deadline is None:
                        waiter.acquire()
                    else:
                        waiter.acquire(True, bounded(max(0.0, deadline - time.monotonic())))
                    yielded = False
        except BaseException:
            try:
                self._give_up(waiter, waiter, crowd)
            except BaseException:
                self._give_up(waiter, waiter, crowd)
            raise

    def _sit_locked(self, who: object) -> None:
        """Take the read seat."""
        # In this order, for one who asks without the lock whether it sits itself.
        self._reading_thread = get_ident()
        self._reading = who

    def _dismiss_locked(self, waiter: threading.Lock, crowd: list[threading.Lock]) -> None:
        """Nobody waits with ``waiter`` any more."""
        if self._senders:
            write = self._senders.pop(waiter, None)
            if write is not None:
                write.waiter = None
        if waiter in crowd:
            crowd.remove(waiter)
        listed = self._willing.pop(waiter, 0) or self._waiters.pop(waiter, 0)
        if listed:  # else an exception struck below
            waiter.acquire(False)
            self._spare.append(waiter)

    # Exceptions of signals' handlers. They strike where a function begins, where a loop goes back
    # and behind every call, so in any caller's code and in any of its `finally` clauses. What a
    # caller does while others depend on it stands therefore, from before it takes a seat until it
    # has left it, in a `try` whose `except` gives back what is the caller's by the session's
    # state, not by what the caller remembers. Nobody raises in there to say something. One more
    # exception may strike there, where what gives back begins as well: so that stands in a `try`
    # of its own, and is done again, all of it, by the state that it finds.

    def _give_up(
        self, seat: object, waiter: threading.Lock | None, crowd: list[threading.Lock]
    ) -> None:
        """An exception takes away one who may sit in the read seat as ``seat``, or wait."""
        self._put_right(seat, waiter, crowd, writing=False)

    def _drop_pen(self) -> None:
        """An exception takes away one who may be writing."""
        self._put_right(None, None, [], writing=True)

    def _put_right(
        self,
        seat: object,
        waiter: threading.Lock | None,
        crowd: list[threading.Lock],
        *,
        writing: bool,
    ) -> None:
        """Free what an interrupted caller had, then have everybody look again.

        Any wake-up may have got lost that it owed, and any descriptor may be out of date.
        """
        if self._lock._is_owned() or (self.notes is not None and self.notes.saying()):
            return  # a handler or finalizer inside the lock: nothing was its own
        error = sys.exc_info()[1]
        with self._lock:
            if writing and self._writing == get_ident():
                self._jammed = False
                if self._midway:
                    # How much was written is not known, so nothing can follow it.
                    self._die_locked(ErrorCode.INTERNAL_ERROR, error, b"")
                    self._broken = (time.monotonic(), os_error(errno.EPROTO))
                    self._midway = False
                self._writing = 0
            # Another may wait with that waiter by now, and sit.
            me = get_ident()
            if seat is not None and self._reading is seat and self._reading_thread == me:
                if self._receiving:
                    # Bytes were read that no one will parse: the rest makes no sense.
                    self._die_locked(ErrorCode.INTERNAL_ERROR, error, b"")
                    self._receiving = False
                if self._aimed is not None:
                    self._aimed[1].busy = False
                    self._aimed = None
                self._tell_held_locked()
                self._reading = None  # last: until then all this is done again
            if waiter is not None and me in (self._willing.get(waiter), self._waiters.get(waiter)):
                self._dismiss_locked(waiter, crowd)
            self._wake_everybody_locked()
            pollers = self._pollers_locked()
        for poller in pollers:
            poller.sync()

    def _pollers_locked(self) -> list[Poller]:
        """Every descriptor that is in use."""
        states = self.protocol.streams.values()
        pollers = [stream.poller for stream in states if stream.poller is not None]
        if self.session_poller is not None:
            pollers.append(self.session_poller)
        return pollers

    def _sits_below(self, *, reading: bool) -> bool:
        """Whether this very thread has a seat: we are in a handler of a signal that came there.

        What it would wait for may be in that seat's gift.
        """
        me = get_ident()
        if self._writing == me:
            return True
        return reading and self._reading is not None and self._reading_thread == me

    def _inside(self) -> bool:
        """Whether this very thread is in a critical section: we are in a handler or finalizer."""
        return (
            self._lock._is_owned()
            or (self.transport.locks and self.transport.inside())
            or (self.notes is not None and self.notes.saying())
        )

    def _check_reentry(self) -> None:
        if self._inside():
            raise RuntimeError(REENTERED)

    def _wake_locked(self, waiter: threading.Lock) -> None:
        """Wake ``waiter`` from its sleep, or from the connection if it leads."""
        if waiter is self._reading:
            self.transport.wake()
        elif waiter.locked():
            try:
                waiter.release()
            except RuntimeError:
                pass  # drop() was first

    def _wake_all_locked(self, crowd: list[threading.Lock] | None) -> None:
        if crowd:
            for waiter in crowd:
                self._wake_locked(waiter)

    def _wake_readers_locked(self, stream: StreamState) -> None:
        """Have those who wait to read ``stream`` look again, wherever they wait."""
        self._wake_all_locked(stream.readers)
        if self._leading is stream and isinstance(self._reading, list):  # a read() sits, and whose
            self.transport.wake()

    def _pass_seat_locked(self) -> None:
        """The rule: while somebody waits, a free read seat is watched over."""
        if self._reading is None and (self._pins or self._reader_parked or self.death is not None):
            self._wake_locked(self._reader_waiter)

    def _wake_acceptors_locked(self, count: int, but: object = None) -> None:
        """See that so many acceptors are awake, ``but`` among them if it is one.

        Always the last ones, whose memory is warm. Those who were woken before and have not run
        yet count, so that for each stream in the backlog one is on its way.
        """
        if count > 0 and self._acceptors:
            count -= but in self._acceptors
            for waiter in reversed(self._acceptors):
                if count <= 0:
                    break
                if waiter is not but:
                    count -= 1
                    self._woke = True
                    self._wake_locked(waiter)

    def _returning_locked(self, leader: object) -> int:
        """How many have just learned that their stream is finished, and had accepted it themselves.

        They come back for the next stream, as workers of a pool do, and to wake others for that
        would take longer. Those who do not come are not waited for beyond the reader thread's next
        look.
        """
        stream = self._leading  # the leader's, unless it waits for something else by now
        leads = (
            leader is not None
            and stream is not None
            and stream.returns
            and stream.fin_in
            and not stream.closed
            and stream.acceptor == get_ident()
            and leader not in self._acceptors
        )
        return self._late_returns + leads

    def _wake_late_locked(self, *, last: bool = False) -> None:
        """Wake those for whom nothing came but the end of file.

        A leader whose own wait is over has something to do, a new stream to serve as often as
        not, and one who has answered and only learns that it is finished would compete with it
        for the interpreter.
        So these are woken when a caller next goes to sleep, or by the reader thread's next look;
        at once when the leader has nothing to do. ``last``: nobody looks later, so acceptors are
        woken too for whatever has not been taken; see :meth:`_returning_locked`.
        """
        for waiter in self._late:
            self._wake_locked(waiter)
        self._late.clear()
        self._late_returns = 0
        if last and self._held_back:
            self._held_back = False
            self._wake_acceptors_locked(len(self.protocol.backlog))

    def _tell_held_locked(self) -> None:
        """Nothing more comes just now: its reader has what there is."""
        stream, self._held = self._held, None
        if stream is None:
            return
        if stream.post is not None:
            stream.post.ripe = True
        for waiter in stream.readers or ():
            if waiter is not self._reading:  # who looks for itself
                self._fed = True
                self._wake_locked(waiter)

    def _replace_locked(self, stream: StreamState) -> None:
        """A caller is done with its stream, and may have been the one to sit next: wake another.

        Not where whoever accepts will sit: if it is that one who closes, or streams are short.
        """
        if not stream.local and (stream.acceptor == get_ident() or self._brevity >= BRIEF):
            return
        if self._reading is None and self._willing and not self._pins:
            self._wake_locked(next(iter(self._willing)))

    def _announce_locked(self, but: object = None) -> list[Poller] | None:
        """Wake those whom the protocol's changes concern; returns the pollers to bring up.

        Not ``but``: the one who dispatches looks for itself.
        """
        protocol = self.protocol
        pollers: list[Poller] | None = None
        if protocol.changed:
            for stream in protocol.changed:
                readers, post = stream.readers, stream.post
                if (
                    post is not None
                    and self._eager
                    and but is not None
                    and protocol.under_way is stream
                ):
                    self._held = stream  # until the rest is there
                elif readers:
                    # It has answered, and then waited for nothing but this.
                    late = (
                        stream.fin_in
                        and stream.wrote
                        and not stream.local
                        and not stream.buffered
                        and but is not None
                    )
                    for waiter in readers:
                        if waiter is but:
                            continue
                        if late:
                            self._late.append(waiter)
                            self._late_returns += stream.returns
                            continue
                        if post is not None:
                            self._fed = True  # whoever leads reads into its memory when it is back
                        elif not stream.fin_in and stream.failure is None:
                            self._woke = True  # it will wait again
                        self._wake_locked(waiter)
                if stream.failure is not None:
                    for waiter in stream.writers or ():
                        if waiter is not but:
                            self._wake_locked(waiter)
                if stream.poller is not None:
                    pollers = pollers or []
                    pollers.append(stream.poller)
            protocol.changed.clear()
            if self._scheduled and not self._writing and self._inline:
                # Window has come. One who may go on is enough: it sends for the others too.
                mine = None if isinstance(but, list) else self._senders.get(cast(Any, but))
                if mine is None or mine.stream not in self._scheduled:
                    self._pass_pen_locked()
        if protocol.arrived:
            protocol.arrived = False
            count = len(protocol.backlog)
            returning = self._returning_locked(but)
            if returning:
                count -= returning
                self._held_back = True
                if self._reader_parked:
                    self._wake_locked(self._reader_waiter)
            self._wake_acceptors_locked(count, but)
            if self.session_poller is not None:
                pollers = pollers or []
                pollers.append(self.session_poller)
        if self._drainers and not protocol.alive:
            self._wake_all_locked(self._drainers)
        return pollers

    def _follow_up(self, pollers: list[Poller] | None) -> None:
        """What a change leaves to be done without the lock."""
        if pollers:
            for poller in pollers:
                poller.sync()
        if self.protocol.urgent or self.transport.pending:
            self.push()

    # The end.

    def _dead(self) -> bool:
        return self.death is not None

    def session_error_locked(
        self, stream: StreamState | None = None, *, retryable: bool = False
    ) -> Error:
        """A fresh exception that says the session is over, with the first cause chained."""
        kind: type[Error] = SessionClosed
        code: int | None = None
        text = "the session is closed"
        error = None if self.death is None else self.death.error
        if isinstance(error, SessionClosed):
            kind, text, code = type(error), str(error.strerror), error.code
        elif error is not None:
            assert self.death is not None
            text, code = f"the session ended: {error}", self.death.code
        elif not self._closing and self.death is not None:
            text = "the peer ended the session"
        if stream is not None and self.protocol.unseen(stream, self._last_byte):
            retryable = True
        result = kind(text, code=code, retryable=retryable)
        result.__cause__ = error
        return result

    def _connection_ended_locked(self) -> None:
        """The connection's end of file."""
        if self.protocol.goaway is None:
            where = " in the middle of a frame" if self.protocol.codec.mid_frame else ""
            text = f"the peer closed the connection{where} without a GOAWAY"
            cause = ConnectionResetError(errno.ECONNRESET, text)
            self._die_locked(ErrorCode.PEER_EOF, cause, b"")
            return
        _, number, debug = self.protocol.goaway
        code = ErrorCode.of(number)
        text = f"the peer ended the session: {code.name}"
        text += f" ({debug.decode('utf-8', 'replace')})" if debug else ""
        error = RemoteGoneAway(text, code=code) if code else None
        self._die_locked(code, error, debug)

    def _connection_failed_locked(self, error: OSError | ValueError) -> None:
        """A read failed."""
        if self.protocol.goaway is not None:
            self._connection_ended_locked()
        else:
            cause = error if isinstance(error, OSError) else os_error(errno.EBADF)
            self._die_locked(ErrorCode.PEER_EOF, cause, b"")

    def _die(self, code: ErrorCode, error: BaseException | None, debug: bytes) -> None:
        with self._lock:
            self._die_locked(code, error, debug)

    def _die_locked(self, code: ErrorCode, error: BaseException | None, debug: bytes) -> None:
        """The session is over. The first cause stands; everybody is woken."""
        if self.death is not None:
            return
        self.death = SessionEnd(code, error, debug)
        self.protocol.give_up_opening()
        if (
            self._jammed
            or (self._silent and not self._writing)
            or (self._broken is not None and self.transport.exact)
        ):
            self._last_byte = self._sent
        if self._jammed and self._inline:
            self.transport.shutdown()  # a connection that is full takes no last words either
        self._wake_everybody_locked()

    def _wake_everybody_locked(self) -> None:
        for waiter in (*self._willing, *self._waiters):
            self._wake_locked(waiter)
        if self._reading is not None:
            self.transport.wake()
        self._wake_locked(self._reader_waiter)
        self._wake_locked(self._writer_waiter)
        self._wake_locked(self._keeper_waiter)

    # What stands above: see read_seat.py and write_seat.py.

    def _lead(self, ready: Callable[[], bool], deadline: float | None, posted: bool) -> bool:
        raise NotImplementedError

    def _pass_pen_locked(self) -> None:
        raise NotImplementedError

    def push(self, *, always: bool = False) -> None:
        raise NotImplementedError


def os_error(number: int) -> OSError:
    """The ``OSError`` subclass for an errno, with the system's text."""
    return OSError(number, os.strerror(number))


def new_waiter() -> threading.Lock:
    waiter = threading.Lock()
    waiter.acquire()
    return waiter


def bounded(seconds: float | None) -> float:
    """A time-out as ``Lock.acquire`` takes it."""
    return -1 if seconds is None else min(seconds, threading.TIMEOUT_MAX)
