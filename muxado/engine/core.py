"""What a session's one lock guards, how it is kept whole, and how the session ends."""

from __future__ import annotations

import _thread
import collections
import errno
import itertools
import threading
import time
from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar

from muxado.debug import log_for
from muxado.engine.waiting import Waiter, WaitQueue
from muxado.errors import Error, ErrorCode, RemoteGoneAway, SessionClosed, os_error
from muxado.protocol import Protocol, ReceiveBuffer, SessionEnd, StreamState
from muxado.protocol.schedule import Schedule

if TYPE_CHECKING:
    from muxado.config import Config
    from muxado.readiness import Readiness

__all__ = ["REENTERED", "TAKEN", "Core", "sync"]

#: The text of the ``RuntimeError`` for a call that would have to wait for its own thread.
REENTERED = "a signal handler or a finalizer uses a session that its own thread is inside of"

#: In place of a thread's ident: a seat that is taken for good, when the session is over.
TAKEN = -1

_numbers = itertools.count(1)

T = TypeVar("T")


class Core:
    """The state of a session that several threads share, all of it guarded by :attr:`lock`.

    Every critical section has one shape, which a test checks::

        with core.lock:
            if core.dirty or core.struck:
                core.recover_locked()
            core.dirty = True
            ...
            core.dirty = False

    An exception that strikes in between, from a signal's handler or out of a defect, leaves
    ``dirty`` set, and whoever enters next ends the session, because what the section was changing
    may be half changed. So nothing leaves a section early: what is to be raised or returned is
    kept, and raised or returned after it. What a section leaves to be done without the lock is
    done by :meth:`settle`.

    A call that may hold a seat, or stand in a queue, outside of a section goes through
    :meth:`guarded`. If an exception ends it, whoever enters next gives back what it held.
    """

    def __init__(self, config: Config, *, client: bool) -> None:
        self.name = f"{'client' if client else 'server'}-{next(_numbers)}"
        # Reentrant only so that a signal's handler or a finalizer that meets its own thread inside
        # gets an exception instead of waiting for itself.
        self.lock: Any = threading.RLock()
        #: A section has begun and not come to its end.
        self.dirty = False
        #: What calls held that exceptions have ended, and how to give it back. Not guarded.
        self.struck: dict[Any, Callable[[Any], None]] = {}
        self.protocol = Protocol(config, client=client, clock=time.monotonic)
        #: Takes what is logged about this session; ``None`` where nothing is logged.
        self.log = log_for(self.name, self.protocol.codec)

        #: Why the session is over, once it is. Set once.
        self.end: SessionEnd | None = None
        #: ``close()`` was called: nothing new is begun.
        self.closing = False
        #: No GOAWAY is to be sent at the end.
        self.silent = False
        #: ``accept()`` has reported the end.
        self.end_reported = False
        #: How many bytes the connection has taken, once that is known to be all it ever takes.
        self.last_byte: int | None = None

        #: Who sits in the read seat, ``None`` while it is free.
        self.leader: Waiter | None = None
        #: The thread that sits in the write seat, 0 while it is free.
        self.writer = 0
        #: What the session's own threads sleep on.
        self.reader_waiter, self.writer_waiter = Waiter(), Waiter()
        #: Who sleeps and could lead, oldest first; and who else sleeps, or may.
        self.followers: dict[Waiter, None] = {}
        self.waiting: dict[Waiter, None] = {self.reader_waiter: None, self.writer_waiter: None}
        self.acceptors = WaitQueue()  # for a stream of the peer's
        self.watchers = WaitQueue()  # for the end
        self.flushers = WaitQueue()  # until all is sent
        self.drainers = WaitQueue()  # until no stream is left

        #: The descriptor that polls for ``accept()``, once one was asked for.
        self.session_poller: Any = None
        #: Streams whose descriptors say that nothing can be sent now.
        self.polled_for_room: dict[StreamState, None] = {}
        #: Descriptors that may say what is no longer true.
        self.stale: list[Readiness] = []
        #: What finalizers and handlers of signals leave to the writer thread; see :meth:`note`.
        self.notes: collections.deque[Callable[[], None]] = collections.deque()
        self._notes_lock = threading.Lock()  # held by the thread that carries them out
        #: The writer thread has ended. Set before it looks at the notes for the last time.
        self.writer_gone = False
        #: What dropped files have left to be sent, and what is to be done on those streams after.
        self.orphans: dict[StreamState, collections.deque[Callable[[], object]]] = {}
        #: Sends what must go at once, where that needs no waiting; set by the write seat.
        self.flush: Callable[[], object] = _nothing
        #: What the write seat does at the end, with the lock held; set by it.
        self.at_end: Callable[[], object] = _nothing

    # Sections.

    def sits(self) -> bool:
        """Whether this thread sits in a seat: this is a signal's handler that runs there."""
        if self.struck and not self.lock._is_owned():
            self.recover()  # an exception may have left it a seat
        me = get_ident()
        return self.writer == me or (self.leader is not None and self.leader.thread == me)

    def section(self, action: Callable[..., T], *arguments: Any) -> T:
        """Call ``action``, which must not raise, in a section of its own, and settle.

        Raises ``RuntimeError`` where this thread is inside of a section already.
        """
        if self.lock._is_owned():
            raise RuntimeError(REENTERED)
        try:
            with self.lock:
                if self.dirty or self.struck:
                    self.recover_locked()
                self.dirty = True
                result = action(*arguments)
                self.dirty = False
        except BaseException:  # as in guarded()
            try:
                self.lock.release()
            except RuntimeError:
                pass
            try:
                self.writer_waiter.ring()
            except RuntimeError:
                pass
            if action is not _nothing:  # or this would go on where there is no room on the stack
                self.recover()
            raise
        if self.stale or self.protocol.pending.flush_now:
            self.settle()
        return result

    def guarded(
        self, held: Any, give_back: Callable[[Any], None], call: Callable[..., T], *arguments: Any
    ) -> T:
        """Call ``call``; if an exception ends it, whoever enters next calls ``give_back(held)``.

        That is this thread as a rule, but the next signal may strike before it has. So what is to
        be given back is noted, and the session's threads are woken to enter, in a way that cannot
        be cut short: CPython calls the handlers of signals only where a function begins, where a
        loop turns, and behind a call that returns.
        """
        try:
            return call(*arguments)
        except BaseException:
            self.struck[held] = give_back
            # From CPython 3.14 on a handler may raise when `with` has just taken the lock, and
            # nothing releases it then. Mostly it is not held, and an error says so.
            try:
                self.lock.release()
            except RuntimeError:
                pass
            try:
                self.reader_waiter.ring()
            except RuntimeError:
                pass  # that has been done already
            try:
                self.writer_waiter.ring()
            except RuntimeError:
                pass
            self.recover()
            raise

    def recover(self) -> None:
        """Make good what exceptions have left, as whoever enters a section does."""
        self.section(_nothing)

    def look(self, question: Callable[[], T]) -> T:
        """Call ``question``, which only looks, with the lock held."""
        if self.lock._is_owned():
            return question()
        try:
            with self.lock:
                return question()
        except BaseException:
            if self.lock._is_owned():  # see guarded()
                self.lock.release()
            raise

    def settle(self) -> None:
        """Do what a section has left to be done without the lock."""
        self.sync_pollers()
        self.flush()

    def sync_pollers(self) -> None:
        """Bring the descriptors up to date whose streams have changed."""
        while self.stale:
            try:
                poller = self.stale.pop()
            except IndexError:
                break  # another thread has just taken it
            poller.sync()

    def note(self, action: Callable[[], None]) -> None:
        """Have the writer thread call ``action`` a moment later.

        For finalizers and handlers of signals: it takes no lock and waits for nothing.
        """
        self.notes.append(action)
        if not self.writer_gone:
            self.writer_waiter.wake()
            return
        try:
            _thread.start_new_thread(self.carry_out_notes, ())
        except RuntimeError:
            pass  # at the interpreter's exit, or out of threads: it goes with the next

    def carry_out_notes(self) -> None:
        """Do what finalizers and handlers of signals have left to be done.

        A note stays in ``notes`` until it is done: whoever must not overtake it looks there.
        """
        with self._notes_lock:
            while self.notes:
                try:
                    self.notes[0]()
                finally:
                    self.notes.popleft()
        self.section(self._notes_are_done_locked)

    def _notes_are_done_locked(self) -> None:
        """Have those look again who must not overtake what was left."""
        self.flushers.wake_all()
        self.offer_room_locked()

    def offer_room_locked(self) -> None:
        """Have the descriptors brought up to date of the streams that may send again."""
        self.stale.extend(s.poller for s in self.polled_for_room if s.poller is not None)
        self.polled_for_room.clear()

    def recover_locked(self) -> None:
        """Make good what exceptions have left: a section cut short, and what calls held."""
        if self.dirty:
            self.end_poisoned_locked(RuntimeError("an exception struck inside of the session"))
        self.dirty = True  # until this is done, whatever strikes here
        for held in list(self.struck):
            self.struck[held](held)
            del self.struck[held]
        self.wake_everybody_locked()  # one of them may have been woken for what others wait for

    def end_poisoned_locked(self, error: BaseException) -> None:
        """A section was cut short: end the session, and keep nothing that it may have changed."""
        protocol = self.protocol
        for stream in list(protocol.streams.values()):
            stream.buffer = ReceiveBuffer()
            stream.write = None
        protocol.backlog.clear()
        protocol.changed.clear()
        protocol.schedule = Schedule()
        protocol.pending.abandon()
        self.silent = True  # the frames to be sent may be half changed, too
        self.end_locked(ErrorCode.INTERNAL_ERROR, error, b"")

    # Waking.

    def announce_locked(self, leader: Waiter | None = None) -> bool:
        """Wake those whom the protocol's changes concern, but for ``leader``, who looks itself.

        True when a reader was woken that will be back for more: not one that learns of an end.
        """
        protocol = self.protocol
        returning = False
        if protocol.changed:
            for stream in protocol.changed:
                for waiter in stream.readers or ():
                    if waiter is not leader:
                        returning |= not stream.fin_in
                        waiter.wake()
                for waiter in stream.writers or ():
                    if waiter is not leader:
                        waiter.wake()
                if stream.poller is not None:
                    self.stale.append(stream.poller)
            protocol.changed.clear()
        if protocol.arrived:
            protocol.arrived = False
            # The last to come are woken first: what they need is still in the processor's caches.
            for waiter in self.acceptors[: -len(protocol.backlog) - 1 : -1]:
                if waiter is not leader:
                    returning = True
                    waiter.wake()
            if self.session_poller is not None:
                self.stale.append(self.session_poller)
        if self.drainers and not protocol.alive:
            self.drainers.wake_all()
        return returning

    def pollers_locked(self) -> list[Readiness]:
        """Every descriptor that is in use."""
        streams = self.protocol.streams.values()
        pollers: list[Readiness] = [s.poller for s in streams if s.poller is not None]
        if self.session_poller is not None:
            pollers.append(self.session_poller)
        return pollers

    # The end.

    def until_end(self) -> WaitQueue | None:
        """Where to wait until the session is over; see ``ReadSeat.wait``."""
        return None if self.end is not None else self.watchers

    def end_locked(self, code: ErrorCode, error: BaseException | None, debug: bytes) -> None:
        """End the session and wake everybody. If it has ended already, the first cause stands."""
        if self.end is not None:
            return
        self.end = SessionEnd(code, error, debug)
        self.protocol.abandon_opening()
        self.at_end()
        self.wake_everybody_locked()
        if self.log is not None:
            self.log.event("the session is over: %s", self.end)

    def wake_everybody_locked(self) -> None:
        """Wake every thread that waits, and have every descriptor brought up to date."""
        for waiter in [*self.followers, *self.waiting]:
            waiter.wake()
        if self.leader is not None:
            self.leader.wake()
        self.stale.extend(self.pollers_locked())

    def connection_ended_locked(self) -> None:
        """The connection's end of file."""
        if self.protocol.goaway is None:
            where = " in the middle of a frame" if self.protocol.codec.mid_frame else ""
            text = f"the peer closed the connection{where} without a GOAWAY"
            cause = ConnectionResetError(errno.ECONNRESET, text)
            self.end_locked(ErrorCode.PEER_EOF, cause, b"")
            return
        _, number, debug = self.protocol.goaway
        code = ErrorCode.of(number)
        text = f"the peer ended the session: {code.name}"
        text += f" ({debug.decode('utf-8', 'replace')})" if debug else ""
        error = RemoteGoneAway(text, code=code) if code else None
        self.end_locked(code, error, debug)

    def connection_failed_locked(self, error: OSError | ValueError) -> None:
        """A read failed, which after the peer's GOAWAY means no more than an end of file."""
        if self.protocol.goaway is not None:
            self.connection_ended_locked()
        else:
            cause = error if isinstance(error, OSError) else os_error(errno.EBADF)
            self.end_locked(ErrorCode.PEER_EOF, cause, b"")

    def session_error(self, stream: StreamState | None = None, *, retryable: bool = False) -> Error:
        """A new exception that says the session is over, with the first cause chained."""
        kind: type[Error] = SessionClosed
        code: int | None = None
        text = "the session is closed"
        error = None if self.end is None else self.end.error
        if isinstance(error, SessionClosed):
            kind, text, code = type(error), str(error.strerror), error.code
        elif error is not None:
            assert self.end is not None
            text, code = f"the session ended: {error}", self.end.code
        elif not self.closing and self.end is not None:
            text = "the peer ended the session"
        if stream is not None and self.protocol.unseen(stream, self.last_byte):
            retryable = True
        result = kind(text, code=code, retryable=retryable)
        result.__cause__ = error
        return result


def _nothing() -> None:
    """What is done in a section that is only to be entered."""


def sync(poller: Readiness | None) -> None:
    """Bring a descriptor up to date, if there is one, before the call returns that changed it.

    :meth:`Core.settle` does not do for that: another thread may have taken the descriptor from
    those that are stale, and not have come to it yet.
    """
    if poller is not None:
        poller.sync()
