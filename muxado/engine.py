"""The engine: who reads the connection, who writes it, who waits, and who is woken.

The connection has a *read seat* and a *write seat*. Whoever sits in one uses the connection
alone in that direction. A caller that must wait for bytes sits down and reads them itself, and
a caller with bytes to send writes them itself, because in Python waking another thread costs
more than the system call it would save. Two daemon threads see to what no caller is there for.

**One lock per session**, ``_lock``, guards every attribute marked so here and all of the
``Protocol``. It is never held while the connection is read, written or waited for.

**Waiting.** A waiter is a ``threading.Lock`` that its owner acquires to sleep and others release
to wake it, under ``_lock``, so a release is never lost and never doubled. Waits run in
:meth:`Engine._wait`; the commonest, a caller that waits for a reply while the read seat is free,
in :meth:`Engine.read`. Every predicate includes the session's death.

**Leading.** The one in the read seat reads without the lock, dispatches under it, wakes those
whose wait may be over, and leaves when its own is. It also leaves when it has woken somebody who
reads: that one will be back for more, and then needs nobody to hand it over. Another thread whose
doing ends a leader's wait (close, shutdown, reset) wakes it through the transport.

**The reader thread** watches over the seat. While callers use it, it naps: ``_NAP`` seconds, or
``_NAP_WATCHED`` while others wait too. When it finds the seat free, and unused since its last
look, it wakes one of those who could sit, or sits itself where there are none. That timer is what
no lost promotion can defeat; a caller that leaves the seat wakes nobody. When one leader has sat
through ``_LONG`` naps the thread parks, and the leader wakes it when it leaves. So neither an idle
session nor a caller that waits for an hour polls. While a descriptor of ``fileno()`` is in use the
thread keeps the seat, because pollers wait where no caller of ours does.

**Writing.** The one in the write seat takes a batch under the lock, writes it without, and goes
on until its own bytes are out. Bytes of others are copied into the batch and count as sent, so
that a sender's time-out never waits for somebody else's write. A batch that the connection does
not take in time is kept in ``_unsent`` and goes first: a frame once begun is finished, or the
session dies. What the read side owes is written by whoever dispatched it if the seat is free and
the connection takes it at once, and is left to the writer thread otherwise: reading never waits
for writing.

**Death** is set once, with its first cause, under the lock; every waiter is woken; then the
writer thread sends GOAWAY if the connection still takes it, and the reader thread closes the
connection when nobody uses it any more.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import errno
import itertools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, cast
from typing import Protocol as Interface

from muxado.errors import Error, ErrorCode, HeartbeatTimeout, RemoteGoneAway, SessionClosed
from muxado.protocol import Protocol, SessionEnd, StreamState

if TYPE_CHECKING:
    from muxado.config import Config
    from muxado.transport import Buffer, Transport

__all__ = ["Engine", "Poller", "os_error"]

log = logging.getLogger("muxado")

#: Seconds the reader thread stays away from the seat after waking somebody.
_NAP = 0.005
#: The same while others wait too, who have nobody else to look after them.
_NAP_WATCHED = 0.001
#: Naps that one leader sits through before the reader thread parks.
_LONG = 20
#: Seconds that a SYN or FIN waits for a frame to ride along with.
_RIDE = 0.001
#: Rides in a row with nothing to take along before the writer thread parks.
_IDLE_RIDES = 8
#: Seconds that the end of the connection is waited for after a write failed.
_BROKEN = 1.0
#: Bytes read at a time; a read of `_EAGER` or more is followed by another without a wait.
_READ = 262144
_EAGER = 16384
#: Bytes of one frame at most, where the version of the wire allows as many.
_FRAME_SHARED = 16384
_FRAME_ALONE = 131072
#: A payload of so many bytes or less is joined to its header; more are left where they are.
_JOIN_UP_TO = 16384
#: Bytes of one batch.
_BATCH = 131072
#: Bytes that non-blocking sends may leave to whoever writes next.
_MAX_UNSENT = 262144
#: Seconds that close() waits for the session's threads beyond `linger`.
_JOIN = 2.0
#: Seconds at the interpreter's exit for the last words of all sessions.
_EXIT = 0.5

T = TypeVar("T")
P = TypeVar("P", bound="Poller")

_numbers = itertools.count(1)
_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


class Poller(Interface):
    """Something that keeps a descriptor readable while a wait would be over."""

    def sync(self) -> None:
        """Bring the descriptor up to date; called without the session's lock."""


class Descriptor(Poller, Interface):
    """A poller with a descriptor of its own."""

    def fileno(self) -> int:
        """The descriptor."""

    def close(self) -> None:
        """Give it back."""


class Write:
    """Bytes that wait to be sent: a caller's own memory until they go out."""

    __slots__ = ("data", "sent")

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.sent = 0


class Engine:
    """The threads and seats of one session. ``Session`` and ``Stream`` are its faces."""

    def __init__(self, transport: Transport, config: Config, *, client: bool) -> None:
        self.transport = transport
        self.config = config
        self.name = f"{'client' if client else 'server'}-{next(_numbers)}"
        # Reentrant only so that a signal handler or a finalizer which meets its own thread inside
        # does not lock it up: see _check_reentry() and close_stream().
        self._lock = threading.RLock()
        self.protocol = Protocol(config, client=client)  # guarded by _lock
        #: Bytes of one frame while other streams have something to send, and while none has.
        self._frame_shared = min(_FRAME_SHARED, self.protocol.codec.max_data)
        self._frame_alone = min(_FRAME_ALONE, self.protocol.codec.max_data)
        self._scheduled = self.protocol.schedule.waiting  # guarded by _lock
        #: Why the session is over, once it is. Set once, under _lock.
        self.death: SessionEnd | None = None
        self._closing = False  # guarded by _lock: close() was called
        self._silent = False  # guarded by _lock: no last words
        self._told = False  # guarded by _lock: accept() has reported the end
        #: A loop in serve() is to be woken again and again until it looks at why.
        self.serving = False
        #: Callers may read and write; else only the two threads do.
        self._inline = transport.polled
        #: States of streams that were dropped without close(); append and popleft only.
        self._dropped: collections.deque[StreamState] = collections.deque()
        self._abandoned = False  # set once, without the lock: the session was dropped

        # Waiting; all guarded by _lock.
        self._waiters: dict[threading.Lock, None] = {}  # everybody who waits
        self._willing: dict[threading.Lock, None] = {}  # those who could take the read seat
        self._spare: list[threading.Lock] = []  # waiters to use again
        self._acceptors: list[threading.Lock] = []  # who waits for the backlog
        self._watchers: list[threading.Lock] = []  # who waits for the end, or a flush
        self._drainers: list[threading.Lock] = []  # who waits for the last stream to go

        # The read seat.
        self._reading: object | None = None  # guarded by _lock: who sits, None if free
        self._leading: StreamState | None = None  # guarded by _lock: whose read() sat down last
        self._sittings = 0  # guarded by _lock: how often a caller sat down
        self._woke = False  # guarded by _lock: the last dispatch woke somebody who reads
        self._pins = 0  # guarded by _lock: descriptors of fileno() in use
        self._reader_waiter = _new_waiter()
        self._reader_parked = False  # guarded by _lock
        self._read_buffer = memoryview(bytearray(_READ))  # the seat's
        #: The seat's: read before waiting. More is likely there after a large read, and at first,
        #: since a TLS handshake may have read what came behind it.
        self._eager = True

        # The write seat.
        self._writing = False  # guarded by _lock: somebody sits
        self._jammed = False  # guarded by _lock: and waits for the connection to take more
        self._senders: dict[threading.Lock, None] = {}  # guarded by _lock: who waits for the seat
        self._unsent = bytearray()  # guarded by _lock: framed, goes before all else
        self._starved: dict[StreamState, None] = {}  # guarded by _lock: see write_now()
        self._broken: tuple[float, OSError] | None = None  # guarded by _lock: a write failed
        self._writer_waiter = _new_waiter()
        self._writer_parked = False  # guarded by _lock
        self._last_words = threading.Event()  # the writer thread is through

        self.session_poller: Poller | None = None  # guarded by _lock
        #: The last heartbeat's round trip in seconds.
        self.latency: float | None = None
        self._heard = False  # guarded by _lock: bytes came since the clock last looked
        self._asked = 0.0  # guarded by _lock: when the last heartbeat was asked for
        self._waits_since: float | None = None  # guarded by _lock: and nothing was heard since
        self._received = 0  # guarded by _lock: bytes
        self._sent = 0  # the write seat's: bytes
        self._over = threading.Event()  # the connection is closed
        self._reader = threading.Thread(
            target=self._read_loop, name=f"muxado-reader-{self.name}", daemon=True
        )
        self._writer = threading.Thread(
            target=self._write_loop, name=f"muxado-writer-{self.name}", daemon=True
        )

    def start(self) -> None:
        """Start the two threads; if that fails, nothing of the session is left."""
        self._asked = time.monotonic()
        try:
            self._writer.start()
            self._reader.start()
        except BaseException:
            self._silent = True
            self._die(ErrorCode.INTERNAL_ERROR, None, b"")
            self.transport.close()
            raise
        _engines.add(self)

    # Waiting and waking.

    def _wait(
        self,
        crowd: list[threading.Lock],
        ready: Callable[[], object],
        deadline: float | None,
        *,
        reads: bool = False,
        sends: bool = False,
        yielded: bool = False,
    ) -> bool:
        """Wait until ``ready()``, asked under the lock, is true; false past ``deadline``.

        ``ready`` must be true once the session is dead, and is not asked again once it was; so
        it may do what the caller waits to do. The waiter stands in ``crowd`` for
        those who know what it waits for. ``reads``: what it waits for comes from the peer, so
        it may take the read seat. ``sends``: it waits for the write seat, and takes it.
        """
        waiter: threading.Lock | None = None
        reads = reads and self._inline
        if self._inside():
            raise RuntimeError("a signal handler would wait for the thread that it interrupted")
        try:
            while True:
                with self._lock:
                    if ready():
                        return True
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        return False
                    if waiter is None:
                        waiter = self._spare.pop() if self._spare else _new_waiter()
                        self._waiters[waiter] = None
                        crowd.append(waiter)
                        if sends:
                            self._senders[waiter] = None
                    waiter.acquire(False)  # a wake-up from before this look is spent
                    leads = False
                    if reads:
                        if self._reading is None and not self._pins and not yielded:
                            leads = True
                            self._willing.pop(waiter, None)
                            self._reading = waiter
                            self._sittings += 1
                        else:
                            self._willing[waiter] = None
                            self._pass_seat_locked()
                if leads:
                    if self._lead(ready, deadline):
                        return True
                    yielded = True
                else:
                    waiter.acquire(True, _bounded(left))
                    yielded = False
        finally:
            if waiter is not None:
                with self._lock:
                    self._waiters.pop(waiter, None)
                    self._willing.pop(waiter, None)
                    if waiter in crowd:
                        crowd.remove(waiter)
                    if self._reading is waiter:
                        self._reading = None
                    waiter.acquire(False)
                    self._spare.append(waiter)
                    self._pass_seat_locked()
                    if sends:
                        self._senders.pop(waiter, None)
                        self._pass_pen_locked()

    def _inside(self) -> bool:
        """Whether this very thread is in a critical section: we are in a handler or finalizer."""
        return self._lock._is_owned() or self.transport.inside()  # type: ignore[attr-defined]

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
        if self._leading is stream and self._reading is not None:
            self.transport.wake()

    def _pass_seat_locked(self) -> None:
        """The rule: while somebody waits, a free read seat is watched over."""
        if self._reading is None and (self._pins or self._reader_parked or self.death is not None):
            self._wake_locked(self._reader_waiter)

    # The read seat.

    def _lead(self, ready: Callable[[], object], deadline: float | None) -> bool:
        """Read for everybody until ``ready()``, asked under the lock, is true.

        The seat is ours, and free on return; false if ``ready`` was never true.
        """
        transport = self.transport
        while True:
            if not self._eager:
                left = None if deadline is None else deadline - time.monotonic()
                if left is None or left > 0:
                    transport.wait_readable(left)
            try:
                count = self._receive()
                with self._lock:
                    pollers = self._dispatch_locked(count)
                    done = bool(ready())
                    leave = (
                        done
                        or self._woke
                        or self._pins > 0
                        or (deadline is not None and time.monotonic() >= deadline)
                    )
                    if leave:
                        self._woke = False
                        self._reading = None
                        self._pass_seat_locked()
            except BaseException as error:
                # Bytes were read that no one will parse: the rest would make no sense.
                self._die(ErrorCode.INTERNAL_ERROR, error, b"")
                raise
            if pollers is not None or self.protocol.urgent or transport.pending:
                self._follow_up(pollers)
            if leave:
                return done

    def _receive(self) -> int | None:
        """One read into the buffer; ``None`` for nothing yet, -1 for a connection that failed."""
        try:
            count = self.transport.recv_into(self._read_buffer)
        except (BlockingIOError, InterruptedError):
            count = None
        except (OSError, ValueError) as error:
            self._eager = False
            with self._lock:
                self._connection_failed_locked(error)
            return -1
        self._eager = count is not None and count >= _EAGER
        return count

    def _dispatch_locked(self, count: int | None) -> list[Poller] | None:
        """Give what was read to its streams and wake whom it concerns."""
        self._woke = False
        if self.death is not None or count is None or count < 0:
            return None
        protocol = self.protocol
        self._received += count
        self._heard = True
        if count == 0:
            self._connection_ended_locked()
            return None
        try:
            protocol.feed(self._read_buffer[:count])
        except Error as error:
            if protocol.goaway is not None:
                # What stands behind a GOAWAY is often cut or miscounted by the peers' own
                # fault; the GOAWAY has told how it ends.
                self._connection_ended_locked()
            else:
                self._die_locked(error.code, error, b"")
        if protocol.beat_answered:
            protocol.beat_answered = False
            self.latency = time.monotonic() - self._asked
        if protocol.changed or protocol.arrived or self._drainers:
            return self._announce_locked(but=self._reading)
        return None

    def _announce_locked(self, but: object = None) -> list[Poller] | None:
        """Wake those whom the protocol's changes concern; returns the pollers to bring up.

        Not ``but``: the one who dispatches looks for itself.
        """
        protocol = self.protocol
        pollers: list[Poller] | None = None
        if protocol.changed:
            for stream in protocol.changed:
                for crowd in (stream.readers, stream.writers):
                    for waiter in crowd or ():
                        if waiter is not but:
                            self._woke = self._woke or waiter in self._willing
                            self._wake_locked(waiter)
                if stream.poller is not None:
                    pollers = pollers or []
                    pollers.append(stream.poller)
            protocol.changed.clear()
        if protocol.arrived:
            protocol.arrived = False
            for waiter in self._acceptors:
                if waiter is not but:
                    self._woke = True
                    self._wake_locked(waiter)
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

    def _collect_locked(self) -> list[Poller] | None:
        """Finish for streams, or the session, that the application dropped without a word."""
        while self._dropped:
            try:
                stream = self._dropped.popleft()
            except IndexError:
                break
            if self.death is None:
                self.protocol.close(stream)
                self.protocol.urgent = True
            stream.closed = True
            self._unpin_locked(stream)
            self._wake_all_locked(stream.readers)
            self._wake_all_locked(stream.writers)
        if self._abandoned:
            self._die_locked(ErrorCode.NO_ERROR, None, b"")
        return self._announce_locked()

    def _read_loop(self) -> None:
        """The reader thread: watches over the read seat, then the connection's end."""
        me = self._reader_waiter
        used, naps = 0, 0
        try:
            while True:
                pause: float | None = _NAP
                with self._lock:
                    if self.death is not None:
                        break
                    me.acquire(False)
                    if self._reader_parked:
                        # A leader that leaves after a long wait will probably be back.
                        self._reader_parked, used, naps = False, -1, 0
                    pinned = bool(self._pins) or not self._inline
                    free = self._reading is None
                    unused = used == self._sittings
                    used = self._sittings
                    sit = free and (pinned or (unused and not self._willing))
                    if sit:
                        self._reading = me
                    elif pinned:
                        self.transport.wake()  # the one who leads leaves, and wakes us
                        self._reader_parked, pause = True, None
                    elif free:
                        naps = 0
                        if unused:
                            self._wake_locked(next(iter(self._willing)))
                        elif self._willing:
                            pause = _NAP_WATCHED
                    elif unused:
                        naps += 1
                        if naps >= _LONG:
                            self._reader_parked, pause = True, None
                    else:
                        naps = 0
                        if self._willing:
                            pause = _NAP_WATCHED
                if sit:
                    self._sit()
                    pause = _NAP_WATCHED
                    with self._lock:
                        used = self._sittings
                        if self._pins or self.death is not None:
                            continue
                me.acquire(True, -1 if pause is None else pause)
        except BaseException as error:
            self._die(ErrorCode.INTERNAL_ERROR, error, b"")
            log.exception("%s: the reader thread failed", self.name)
        finally:
            self._bury()

    def _sit(self) -> None:
        """The reader thread in the read seat, until there is a caller who could sit."""
        while True:
            if self._inline and not self._eager:
                self.transport.wait_readable(None)
            count = self._receive()
            with self._lock:
                pollers = self._dispatch_locked(count)
                leave = self.death is not None or (bool(self._willing) and not self._pins)
                self._woke = False
                if leave:
                    self._reading = None
            self._follow_up(pollers)
            if leave:
                return

    # The write seat.

    def write(
        self, stream: StreamState, data: bytes | memoryview, deadline: float | None, *, whole: bool
    ) -> int:
        """Send ``data``, all of it or (not ``whole``) as much as goes in one turn.

        Returns how many bytes were sent. Raises ``TimeoutError`` past ``deadline`` (seconds on
        the monotonic clock), which for ``whole`` may leave some sent.
        """
        # Budget of the common case, a small message: two turns of the lock, one system call,
        # no other thread.
        size = len(data)
        protocol = self.protocol
        seated = framed = False
        try:
            with self._lock:
                if (
                    not self._writing
                    and not self._unsent
                    and not self._scheduled
                    and stream.write is None
                    and 0 < size <= stream.send.left
                    and size <= self._frame_alone
                    and self._inline
                    and stream.failure is None
                    and not stream.fin_out
                    and self.death is None
                    and self._broken is None
                ):
                    seated = self._writing = True
                    head = b""
                    if protocol.urgent or protocol.ending:
                        head = protocol.control_frames(opening=False)
                    head += protocol.data_header(stream, size)
                    stream.wrote = True
            if seated:
                frame: list[Buffer] = [head + data] if size <= _JOIN_UP_TO else [head, data]
                framed = True
                if self._transmit(frame, len(head) + size, deadline):
                    return size
                with self._lock:
                    if self._broken is None:
                        self._check_writable_locked(stream)
                        return size  # put off: the writer thread has it
        except BaseException as error:
            if seated and not framed:
                self._die(ErrorCode.INTERNAL_ERROR, error, b"")
            raise
        finally:
            if seated:
                self._leave_pen()
                if stream.poller is not None:
                    stream.poller.sync()
        return self._write_slowly(stream, memoryview(data), deadline, whole=whole)

    def _write_slowly(
        self, stream: StreamState, data: memoryview, deadline: float | None, *, whole: bool
    ) -> int:
        write = Write(data)
        size = len(data)
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

        def window() -> bool:  # or another's turn has come, or somebody else sent
            return over() or stream.write is not write or stream.send.left > 0

        def turn() -> bool:
            if over() or stream.write is None or self._broken is not None:
                return True
            if stream.write is not write:
                return False
            return stream not in protocol.schedule or (self._inline and not self._writing)

        try:
            while True:
                seated = False
                with self._lock:
                    late = deadline is not None and time.monotonic() >= deadline
                    if over() or late:
                        # From here on nobody sends more of it: what is reported is what went.
                        self._withdraw_locked(stream, write)
                        if write.sent == size or (write.sent and not whole):
                            return write.sent
                        self._check_writable_locked(stream)
                        raise TimeoutError("timed out")
                    broken = self._broken is not None
                    if stream.write is None:
                        stream.write = write
                        stream.wrote = True
                    mine = stream.write is write
                    blocked = mine and stream.send.left <= 0
                    if mine and not blocked and not broken:
                        protocol.schedule.add(stream, stream.priority)
                        if not self._inline:
                            self._wake_locked(self._writer_waiter)
                        elif not self._writing:
                            seated = self._writing = True
                if seated:
                    self._pump(stream, write, deadline, whole=whole)
                elif broken:
                    self._wait(self._watchers, self._dead, deadline, reads=True)
                elif blocked:
                    self._wait(crowd, window, deadline, reads=True)
                else:
                    self._wait(crowd, turn, deadline, sends=mine)
        finally:
            with self._lock:
                self._withdraw_locked(stream, write)
                self._wake_all_locked(crowd)
            if stream.poller is not None:
                stream.poller.sync()

    def _withdraw_locked(self, stream: StreamState, write: Write) -> None:
        if stream.write is write:
            stream.write = None
            self.protocol.schedule.discard(stream)

    def write_now(self, stream: StreamState, data: memoryview) -> int:
        """Send what can be sent without waiting; ``BlockingIOError`` if that is nothing."""
        with self._lock:
            self._check_writable_locked(stream)
            size = min(len(data), stream.send.left, self._frame_alone)
            if size <= 0 or stream.write is not None or len(self._unsent) >= _MAX_UNSENT:
                size = 0
                self._starved[stream] = None
            else:
                # Framed and queued at once: whoever writes next takes it along.
                self._unsent += self.protocol.data_header(stream, size)
                self._unsent += data[:size]
                stream.wrote = True
            poller = stream.poller
        if size:
            self.push(always=True)
        if poller is not None:
            poller.sync()
        if not size:
            raise os_error(errno.EAGAIN)
        return size

    def writable(self, stream: StreamState) -> bool:
        """Whether a non-blocking send would be told something other than to wait."""
        with self._lock:
            if self.death is not None or stream.failure is not None or stream.fin_out:
                return True
            room = stream.write is None and len(self._unsent) < _MAX_UNSENT
            if not room:
                self._starved[stream] = None
            return room and stream.send.left > 0

    def push(self, *, always: bool = False) -> None:
        """Send what is owed if that needs no waiting; else leave it to who writes next."""
        with self._lock:
            if self._writing or self.death is not None or not (always or self._owed_locked()):
                return  # whoever sits looks again before it leaves
            if not self._inline:
                self._wake_locked(self._writer_waiter)
                return
            self._writing = True
        self._pump(None, None, 0.0, whole=True)

    def _owed_locked(self) -> bool:
        """Something must go at once that no caller waits to send."""
        return bool(self._unsent or self.protocol.urgent or self.transport.pending)

    def _pump(
        self,
        stream: StreamState | None,
        write: Write | None,
        deadline: float | None,
        *,
        whole: bool,
    ) -> None:
        """In the write seat: send batches until ``write`` is out; the seat is free on return.

        Without ``write``, until nothing is left that can be sent.
        """
        try:
            while True:
                with self._lock:
                    if self.death is not None:
                        return
                    if (
                        stream is not None
                        and write is not None
                        and (stream not in self.protocol.schedule or (write.sent > 0 and not whole))
                    ):
                        return
                    buffers = self._batch_locked(write)
                if not buffers and not self.transport.pending:
                    return
                if not self._transmit(buffers, sum(map(len, buffers)), deadline):
                    return
        finally:
            self._leave_pen()

    def _batch_locked(self, write: Write | None) -> list[Buffer]:
        """The best next frames, what was left over first. They count as sent.

        Without ``write`` only what no caller waits to send: callers send their data themselves.
        """
        protocol = self.protocol
        schedule = protocol.schedule
        try:
            buffers: list[Buffer] = []
            size = 0
            if self._unsent:
                buffers.append(self._unsent)
                self._unsent = bytearray()
            if protocol.urgent or protocol.owing():
                control = protocol.control_frames(opening=write is None)
                if control:
                    buffers.append(control)
            data = write is not None or not self._inline
            while data and schedule and size < _BATCH:
                limit = self._frame_shared if len(schedule) > 1 else self._frame_alone
                stream = schedule.pop()
                waiting: Write = stream.write
                start = waiting.sent
                count = min(limit, len(waiting.data) - start, stream.send.left)
                buffers.append(protocol.data_header(stream, count))
                part = waiting.data[start : start + count]
                # A caller that stops waiting has its memory back, so another's is copied.
                buffers.append(part if waiting is write else bytes(part))
                size += count
                waiting.sent = start + count
                if waiting.sent < len(waiting.data) and stream.send.left > 0:
                    schedule.add(stream, stream.priority)
                    continue
                if waiting.sent == len(waiting.data):
                    stream.write = None
                self._wake_all_locked(stream.writers)
            return buffers
        except BaseException as error:
            self._die_locked(ErrorCode.INTERNAL_ERROR, error, b"")
            raise

    def _transmit(self, buffers: list[Buffer], size: int, deadline: float | None) -> bool:
        """Write ``buffers``; false if the rest was put off (past ``deadline``) or lost (death)."""
        transport = self.transport
        waiting = False
        try:
            while True:
                sent = transport.send(buffers)
                size -= sent
                self._sent += sent
                if not size and not transport.pending:
                    return True
                if sent:
                    _advance(buffers, sent)
                left = None if deadline is None else deadline - time.monotonic()
                with self._lock:
                    if self.death is not None or (left is not None and left <= 0):
                        # Even then: the last words must not stand in the middle of a frame.
                        self._put_off_locked(buffers)
                        return False
                    self._jammed = True
                waiting = True
                transport.wait_writable(left)
                waiting = False
                with self._lock:
                    self._jammed = False
        except (OSError, ValueError) as error:
            # How the connection ended is for the read side to find out: what the peer said
            # before, a GOAWAY with its reason above all, can still be read. The session lives
            # until the read side sees the end too, or for _BROKEN seconds.
            with self._lock:
                self._jammed = False
                if self._broken is None:
                    failure = error if isinstance(error, OSError) else os_error(errno.EBADF)
                    self._broken = (time.monotonic(), failure)
                for waiter in self._senders:
                    self._wake_locked(waiter)
                self._wake_locked(self._writer_waiter)
            return False
        except BaseException as error:
            with self._lock:
                self._jammed = False
                if waiting:  # nothing was being written: all is as it was
                    self._put_off_locked(buffers)
                else:
                    self._die_locked(ErrorCode.INTERNAL_ERROR, error, b"")
            raise

    def _put_off_locked(self, buffers: list[Buffer]) -> None:
        """Keep what the connection has not taken; it goes before anything else."""
        self._unsent[:0] = b"".join(buffers)

    def _leave_pen(self) -> None:
        protocol = self.protocol
        with self._lock:
            self._writing = self._jammed = False
            if not (
                self._unsent
                or self._scheduled
                or protocol.urgent
                or protocol.ending
                or protocol.opening
                or self._watchers
                or self._starved
                or self.death is not None
                or self.transport.pending
            ):
                return  # nothing to pass on, as a rule
            self._pass_pen_locked()
            starved = None
            if self._starved and len(self._unsent) < _MAX_UNSENT:
                starved = [stream.poller for stream in self._starved if stream.poller is not None]
                self._starved.clear()
        if starved:
            for poller in starved:
                poller.sync()

    def _pass_pen_locked(self) -> None:
        """The rule for the write seat: free, with something to send, somebody is woken."""
        if self._writing:
            return
        protocol = self.protocol
        if self.death is not None:
            self._wake_locked(self._writer_waiter)
        elif protocol.schedule and self._senders:
            self._wake_locked(next(iter(self._senders)))
        elif self._owed_locked() or (protocol.schedule and not self._inline):
            self._wake_locked(self._writer_waiter)
        elif protocol.opening or protocol.ending:
            self._give_ride_locked()
        elif self._watchers:
            self._wake_all_locked(self._watchers)

    def _give_ride_locked(self) -> None:
        """A SYN or FIN may wait for a frame to ride with: see that it does not wait for ever."""
        if self._writer_parked or self._closing:
            self._wake_locked(self._writer_waiter)

    def _flushed_locked(self) -> bool:
        """Nothing is left that was to be sent and could be."""
        return self.death is not None or not (
            self._writing
            or self._unsent
            or self.transport.pending
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

    def _write_loop(self) -> None:
        """The writer thread: what no caller is there to write, the heartbeat, the last words."""
        me = self._writer_waiter
        riding, idle = False, 0
        try:
            while True:
                seated = silent = False
                pause: float | None = None
                pollers: list[Poller] | None = None
                with self._lock:
                    me.acquire(False)
                    if self._dropped or self._abandoned:
                        pollers = self._collect_locked()
                    if self.death is not None:
                        break
                    self._writer_parked = False
                    protocol = self.protocol
                    beat = self._heartbeat_locked()
                    lazy = bool(protocol.opening or protocol.ending)
                    now = (
                        self._owed_locked()
                        or bool(protocol.schedule and not self._inline)
                        or (lazy and (riding or self._closing))
                    )
                    if beat is not None and beat <= 0:
                        silent = True
                    elif self._broken is not None:
                        pause = self._broken[0] + _BROKEN - time.monotonic()
                        if pause <= 0:
                            self._die_locked(ErrorCode.PEER_EOF, self._broken[1], b"")
                            break
                    elif now and not self._writing:
                        seated = self._writing = True
                    elif lazy:
                        pause, riding, idle = _RIDE, True, 0
                    elif riding and idle < _IDLE_RIDES:
                        # More opens or closes are likely: they find us awake.
                        pause, idle = _RIDE, idle + 1
                    else:
                        riding, idle = False, 0
                        self._writer_parked = True
                    if beat is not None:
                        pause = beat if pause is None else min(pause, beat)
                for poller in pollers or ():
                    poller.sync()
                if silent:
                    self._judge_silence()
                elif seated:
                    # However long the connection takes no more, the clock goes on.
                    deadline = None if beat is None else time.monotonic() + beat
                    self._pump(None, None, deadline, whole=True)
                else:
                    me.acquire(True, _bounded(pause))
        except BaseException as error:
            self._die(ErrorCode.INTERNAL_ERROR, error, b"")
            log.exception("%s: the writer thread failed", self.name)
        finally:
            self._speak_last()

    def _heartbeat_locked(self) -> float | None:
        """Ask for a sign of life when it is time; returns seconds until this must run again.

        ``None``: never. 0 or less: the peer has been silent for too long.
        """
        interval, tolerance = self.config.heartbeat_interval, self.config.heartbeat_tolerance
        if interval is None:
            return None
        now = time.monotonic()
        if self._heard:  # any byte is life
            self._heard = False
            self._waits_since = None
        if now >= self._asked + interval and self.protocol.beat():
            self._asked = now
            if self._waits_since is None:
                self._waits_since = now
        left = max(self._asked + interval - now, 0.001)
        if self._waits_since is not None:
            left = min(left, self._waits_since + tolerance - now)
        return left

    def _judge_silence(self) -> None:
        """The tolerance is over: end the session, unless it is us who have not listened."""
        if self.transport.readable():
            # Bytes wait to be read; this process was stopped, or is too busy.
            self._writer_waiter.acquire(True, _NAP)
            with self._lock:
                self._waits_since = time.monotonic()
            return
        seconds = self.config.heartbeat_tolerance
        text = f"the peer has been silent for {seconds} seconds after a heartbeat"
        self._die(ErrorCode.SESSION_CLOSED, HeartbeatTimeout(text), b"")

    # What streams ask for.

    def open(self, *, priority: int, stream_type: int, fin: bool) -> StreamState:
        """A new stream; its SYN rides with its first bytes or follows within a moment."""
        with self._lock:
            if self.death is not None or self._closing:
                raise self.session_error_locked(retryable=True)
            stream = self.protocol.open(priority=priority, stream_type=stream_type, fin=fin)
            self._give_ride_locked()
        return stream

    def accept(self, deadline: float | None) -> StreamState:
        """The next stream of the peer; ``deadline`` as in :meth:`read`."""
        protocol = self.protocol

        def ready() -> bool:
            return bool(protocol.backlog) or self.death is not None or self._closing

        while True:
            with self._lock:
                stream = None if self._closing else protocol.accept()
                if stream is None and (self.death is not None or self._closing):
                    self._told = True
                    self._wake_all_locked(self._watchers)
                    error = self.session_error_locked()
                else:
                    error = None
                poller = self.session_poller
            if stream is not None or error is not None:
                if poller is not None:
                    poller.sync()
                if stream is not None:
                    return stream
                assert error is not None
                raise error
            if deadline == 0:
                raise os_error(errno.EAGAIN)
            if not self._wait(self._acceptors, ready, deadline, reads=True):
                raise TimeoutError("timed out")

    def acceptable(self) -> bool:
        """Whether ``accept()`` has something to say: a stream, or once the end."""
        with self._lock:
            over = self.death is not None or self._closing
            if over:
                return self.serving or not self._told
            return bool(self.protocol.backlog)

    def read(
        self,
        stream: StreamState,
        take: Callable[[], T],
        nothing: T,
        deadline: float | None,
        *,
        least: int = 1,
    ) -> T:
        """Wait for ``least`` bytes and return ``take()``, called under the lock.

        At the end of file that is what there is, and ``nothing`` where that is none.
        ``deadline`` is in seconds on the monotonic clock, ``None`` for never, 0 for not to wait
        at all (``BlockingIOError``); past it ``TimeoutError``.
        """
        # Budget of the common case, a caller that waits for a reply and finds the read seat
        # free: two turns of the lock, one poll, one read, no other thread.
        protocol = self.protocol
        taken: list[T] = []

        def attempt() -> bool:
            before = stream.buffered
            if before and not stream.closed and (before >= least or self._stopped(stream)):
                taken.append(take())
                stream.wrote = False
                if stream.buffered != before:
                    protocol.consumed(stream, before - stream.buffered)
                return True
            return self._stopped(stream)

        seated = False
        try:
            with self._lock:
                done = attempt()
                if not done:
                    if not stream.opened:
                        protocol.announce(stream)
                    if stream.readers is None:
                        stream.readers = []
                    if (
                        self._reading is None
                        and deadline != 0
                        and self._inline
                        and not self._pins
                        and not protocol.urgent
                    ):
                        seated = True
                        self._reading, self._leading = taken, stream
                        self._sittings += 1
            if seated:
                done = self._lead(attempt, deadline)
        finally:
            if seated and self._reading is taken:  # an exception came in between
                with self._lock:
                    self._reading = None
                    self._pass_seat_locked()
        if not done:
            if protocol.urgent:
                self.push()
            if deadline == 0:
                raise os_error(errno.EAGAIN)
            assert stream.readers is not None
            if not self._wait(stream.readers, attempt, deadline, reads=True, yielded=seated):
                raise TimeoutError("timed out")
        if stream.poller is not None:
            stream.poller.sync()
        if protocol.urgent:
            self.push()
        if taken:
            return taken[0]
        with self._lock:
            self._raise_failure_locked(stream)
        return nothing

    def _stopped(self, stream: StreamState) -> bool:
        """Nothing more will come; asked under the lock."""
        return (
            stream.fin_in
            or stream.deaf
            or stream.closed
            or stream.failure is not None
            or self.death is not None
        )

    def _raise_failure_locked(self, stream: StreamState) -> None:
        """Nothing more comes: return at the end of file, else raise what ended it."""
        if stream.closed:
            raise os_error(errno.EBADF)
        if stream.failure is not None:
            raise stream.failure.exception()
        if not stream.fin_in and not stream.deaf and self.death is not None:
            raise self.session_error_locked(stream)

    def readable(self, stream: StreamState) -> bool:
        """Whether a read would not wait."""
        with self._lock:
            return bool(stream.buffered) or self._stopped(stream)

    def end(self, stream: StreamState) -> None:
        """SHUT_WR: FIN goes at once; a send that waits in another thread fails."""
        with self._lock:
            if self._may_shut_locked(stream):
                self.protocol.end(stream, urgent=True)
                self._wake_all_locked(stream.writers)
        self.push()

    def hush(self, stream: StreamState) -> None:
        """SHUT_RD: reads return the end of file from now on."""
        with self._lock:
            if self._may_shut_locked(stream):
                self.protocol.hush(stream)
                self._wake_readers_locked(stream)
            poller = stream.poller
        self._follow_up(None if poller is None else [poller])

    def _may_shut_locked(self, stream: StreamState) -> bool:
        if stream.closed:
            raise os_error(errno.EBADF)
        if stream.failure is not None or self.death is not None:
            raise os_error(errno.ENOTCONN)
        return True

    def close_stream(self, stream: StreamState) -> None:
        """The application lets go of it."""
        if self._inside():
            self.drop(stream)
            return
        with self._lock:
            stream.write, write = None, stream.write
            if write is not None:
                self.protocol.schedule.discard(stream)
            if self.death is None:
                self.protocol.close(stream)
                if self.protocol.ending:
                    self._give_ride_locked()
            stream.closed = True
            self._unpin_locked(stream)
            self._starved.pop(stream, None)
            self._wake_readers_locked(stream)
            self._wake_all_locked(stream.writers)
            pollers = self._announce_locked()
        self._follow_up(pollers)

    def reset(self, stream: StreamState, code: int) -> None:
        """RST: both directions end at once."""
        with self._lock:
            if self.death is None:
                self.protocol.reset(stream, code)
                self._wake_readers_locked(stream)
            pollers = self._announce_locked()
        self._follow_up(pollers)

    def prioritise(self, stream: StreamState, priority: int) -> None:
        """Give ``stream`` another place among those that have something to send."""
        with self._lock:
            stream.priority = priority
            if stream in self.protocol.schedule:
                self.protocol.schedule.add(stream, priority)

    def drop(self, stream: StreamState) -> None:
        """A finalizer's close: takes no lock, waits for nothing, does no I/O."""
        self._dropped.append(stream)
        self._rouse()

    def abandon(self) -> None:
        """A finalizer's close of the session."""
        self._abandoned = True
        self._rouse()

    def _rouse(self) -> None:
        """Wake the writer thread, without the lock that others wake it under."""
        try:
            self._writer_waiter.release()
        except RuntimeError:
            pass  # it is awake, and looks before it sleeps

    def pin(self, stream: StreamState | None, poller: P) -> P:
        """A descriptor is polled for ``stream`` (or the session): keep reading for it.

        Returns the poller that stands: the one that was there before, if any.
        """
        with self._lock:
            before = self.session_poller if stream is None else stream.poller
            if before is not None:
                return cast("P", before)
            self._pins += 1
            if stream is None:
                self.session_poller = poller
            else:
                stream.poller = poller
                if not stream.opened and self.death is None:
                    self.protocol.announce(stream)
            self._wake_locked(self._reader_waiter)
            if self._reading not in (None, self._reader_waiter):
                self.transport.wake()
        self.push()
        return poller

    def _unpin_locked(self, stream: StreamState | None) -> None:
        if stream is None:
            self._pins -= self.session_poller is not None
            self.session_poller = None
        else:
            self._pins -= stream.poller is not None
            stream.poller = None

    def check_writable(self, stream: StreamState) -> None:
        """Raise what a send would raise."""
        with self._lock:
            self._check_writable_locked(stream)

    # The end.

    def go_away(self, code: int, debug: bytes) -> None:
        """GOAWAY; new streams of the peer are refused, those under way go on."""
        with self._lock:
            if self.death is not None or self._closing:
                return
            self.protocol.go_away(code, debug, final=False)
        self.push()

    def drain(self, deadline: float | None) -> bool:
        """Wait until no stream is left; false past ``deadline``."""
        return self._wait(self._drainers, lambda: not self.protocol.alive or self._dead(), deadline)

    def wait(self, deadline: float | None) -> SessionEnd:
        """Wait for the end of the session."""
        if not self._wait(self._watchers, self._dead, deadline):
            raise TimeoutError("timed out")
        assert self.death is not None
        return self.death

    def _dead(self) -> bool:
        return self.death is not None

    def close(self) -> None:
        """Flush what was written, say GOAWAY, close the connection."""
        if self._inside():
            self.abandon()
            return
        deadline = time.monotonic() + self.config.linger
        with self._lock:
            first = not self._closing
            self._closing = True
            if first and self.death is None:
                self.protocol.refuse_backlog()
                self.protocol.going_away = True
                self._wake_all_locked(self._acceptors)
                self._wake_locked(self._writer_waiter)
            pollers = self._announce_locked()
            if self.session_poller is not None:
                pollers = [*(pollers or ()), self.session_poller]
        self._follow_up(pollers)
        try:
            if first:
                self._wait(self._watchers, self._flushed_locked, deadline)
        finally:
            if first:
                self._die(ErrorCode.NO_ERROR, None, b"")
        self._await_end(deadline)

    def kill(self) -> None:
        """Close the connection now."""
        self._silent = True
        if self._inside():
            self.abandon()
            return
        with self._lock:
            self._closing = True
            self._die_locked(ErrorCode.SESSION_CLOSED, None, b"")
        self.transport.shutdown()
        self._await_end(time.monotonic())

    def _await_end(self, deadline: float) -> None:
        """Wait, not for ever, until the threads are gone and the descriptor is given back."""
        if threading.current_thread() in (self._reader, self._writer):
            return
        left = max(0.0, deadline - time.monotonic())
        if not self._inline and not self._over.wait(left + _BROKEN):
            self.transport.shutdown()  # one of the threads is blocked in the user's object
        self._over.wait(left + _JOIN)
        for thread in (self._writer, self._reader):
            thread.join(_JOIN if self._over.is_set() else 0)

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
        # A stream whose SYN never left is unknown to the peer.
        unseen = retryable or (stream is not None and not stream.opened)
        result = kind(text, code=code, retryable=unseen)
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
        if self._jammed:
            self.transport.shutdown()  # a connection that is full takes no last words either
        for waiter in self._waiters:
            self._wake_locked(waiter)
        if self._reading is not None:
            self.transport.wake()
        self._wake_locked(self._reader_waiter)
        self._wake_locked(self._writer_waiter)

    def _speak_last(self) -> None:
        """The writer thread, after death: GOAWAY, if the connection takes it at once."""
        transport = self.transport
        try:
            while True:
                with self._lock:
                    self._writer_waiter.acquire(False)
                    if not self._writing:
                        self._writing = True
                        break
                # Whoever writes sees the death before it waits again, or shutdown() has ended
                # its wait; leaving, it wakes us.
                self._writer_waiter.acquire()
            with self._lock:
                assert self.death is not None
                code, error, _ = self.death
                words = bytearray()
                if not self._silent and self._broken is None:
                    self.protocol.go_away(code, _debug_bytes(error), final=True)
                    control = self.protocol.control_frames(opening=False)
                    words = self._unsent + control
            if words:
                transport.send([words])
            if not self._silent:
                transport.finish()
        except (OSError, ValueError):
            pass  # the connection went first
        finally:
            self._last_words.set()
            if self._silent or not self._inline:
                transport.shutdown()

    def _bury(self) -> None:
        """The reader thread, after death: let the last words arrive, then close."""
        transport = self.transport
        me = self._reader_waiter
        try:
            while True:
                with self._lock:
                    me.acquire(False)
                    if self._reading in (None, me):
                        self._reading = me
                        pollers = [
                            stream.poller
                            for stream in self.protocol.streams.values()
                            if stream.poller is not None
                        ]
                        if self.session_poller is not None:
                            pollers.append(self.session_poller)
                        break
                me.acquire()  # a leader was woken by the death, and wakes us when it leaves
            for poller in pollers:
                poller.sync()
            log.debug("%s: the session is over: %s", self.name, self.death)
            self._last_words.wait(None if self._inline else self.config.linger)
            if self._inline and not self._silent:
                self._see_off()
        finally:
            transport.shutdown()
            transport.close()
            self._over.set()

    def _see_off(self) -> None:
        """Closing with bytes unread makes the kernel reset the connection, and the peer's kernel
        may then drop our last words: read on until they are acknowledged, or ``linger`` is over.
        """
        transport = self.transport
        deadline = time.monotonic() + self.config.linger
        pause = 0.001
        with contextlib.suppress(OSError, ValueError):
            while transport.unacknowledged() and time.monotonic() < deadline:
                transport.wait_readable(pause)
                if transport.recv_into(self._read_buffer) == 0:
                    break
                pause = min(pause * 2, 0.05)

    def await_told(self, stop: Callable[[], bool]) -> None:
        """Wait until ``accept()`` has reported the end of the session, or ``stop()``."""
        self._wait(self._watchers, lambda: self._told or stop(), None)

    def nudge_watchers(self) -> None:
        """Have those who wait for something of their own look again."""
        with self._lock:
            self._wake_all_locked(self._watchers)

    def session_fileno(self, make: Callable[..., Descriptor]) -> int:
        """The descriptor that polls for ``accept()``."""
        with self._lock:
            poller = cast("Descriptor | None", self.session_poller)
        if poller is None:
            made = make(self.acceptable, None)
            poller = self.pin(None, made)
            if poller is not made:  # another thread was first
                made.close()
            poller.sync()
        return poller.fileno()

    def blocked(self) -> int:
        """How many callers wait in calls of this session now."""
        with self._lock:
            leads = self._reading is not None and self._reading is not self._reader_waiter
            listed = leads and any(waiter is self._reading for waiter in self._waiters)
            return len(self._waiters) + int(leads and not listed) + int(self._jammed)

    def counters(self) -> dict[str, int]:
        """What ``Session.stats`` tells."""
        with self._lock:
            protocol = self.protocol
            return {
                "streams": protocol.alive,
                "backlog": len(protocol.backlog),
                "opened": protocol.opened,
                "accepted": protocol.accepted,
                "bytes_received": self._received,
                "bytes_sent": self._sent,
                "ignored_frames": protocol.ignored_frames,
            }

    def say_goodbye(self, deadline: float) -> None:
        """At exit: GOAWAY, and nothing after it.

        Nobody is woken: a daemon thread that waits on this session would only die noisily of an
        error that nobody is left to care about. The exit of the process closes the connection.
        """
        self._wait(self._watchers, self._flushed_locked, deadline)
        with self._lock:
            if self.death is not None or self._writing:
                return
            self._writing = True  # and stays so
            self.protocol.go_away(ErrorCode.NO_ERROR, b"", final=True)
            words = self._unsent + self.protocol.control_frames(opening=True)
        with contextlib.suppress(OSError, ValueError):
            self.transport.send([words])

    def forget_after_fork(self) -> None:
        """In the child of a fork: this session is the parent's; be dead, and touch nothing."""
        self._lock = threading.RLock()
        self._silent = self._closing = True
        self._waiters, self._willing, self._reading = {}, {}, None
        if self.death is None:
            error = SessionClosed("the session belongs to the parent process")
            self.death = SessionEnd(ErrorCode.SESSION_CLOSED, error, b"")
        self._last_words.set()
        self._over.set()
        self.transport.forsake()


def os_error(number: int) -> OSError:
    """The ``OSError`` subclass for an errno, with the system's text."""
    return OSError(number, os.strerror(number))


def _new_waiter() -> threading.Lock:
    waiter = threading.Lock()
    waiter.acquire()
    return waiter


def _bounded(seconds: float | None) -> float:
    """A time-out as ``Lock.acquire`` takes it."""
    return -1 if seconds is None else min(seconds, threading.TIMEOUT_MAX)


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


def _debug_bytes(error: BaseException | None) -> bytes:
    """What to tell the peer's developer about our reason."""
    if error is None:
        return b""
    text = error.strerror if isinstance(error, Error) else str(error)
    return str(text).encode()[:256]


def _forget_after_fork() -> None:
    for engine in list(_engines):
        engine.forget_after_fork()


def _end_all() -> None:
    """At the interpreter's exit, when only daemon threads are left: tell every peer, briefly."""
    deadline = time.monotonic() + _EXIT
    for engine in list(_engines):
        engine.say_goodbye(deadline)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
atexit.register(_end_all)
