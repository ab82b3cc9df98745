"""The read seat: who reads the connection, and the reader thread that watches over it."""

from __future__ import annotations

import errno
import functools
import logging
import threading
import time
from collections.abc import Callable
from threading import get_ident
from typing import Any, TypeVar, cast

from muxado.engine.shared import BRIEF, Poller, bounded, new_waiter, os_error
from muxado.engine.write_seat import WriteSeat
from muxado.errors import Error, ErrorCode
from muxado.protocol import StreamState
from muxado.wire.base import HEADER

__all__ = ["ReadSeat"]

log = logging.getLogger("muxado")

#: Seconds the reader thread stays away from the seat after waking somebody.
_NAP = 0.005
#: Naps that one leader sits through before the reader thread parks.
_LONG = 20
#: A read of so many bytes or more is followed by another without a wait.
_EAGER = 16384

#: Bytes of a frame still to come that are worth a read of their own.
_LONG_REST = 32768

#: Reads behind which an update of a window goes that waits until nothing more comes for now.
_PUT_OFF = 64

#: Seconds until a caller whose memory was full comes back for more, over which another is to read
#: meanwhile: several times what it takes to wake one.
_TARDY = 0.0003

#: Looks at the connection before a leader goes to sleep: 100 to 200 microseconds of them.
_GLANCES = 150
#: Waits in a row through which a leader looks in vain before it goes to sleep at once, and how
#: many waits later it tries again.
_PATIENCE = 8
_RETRY = 64

A = TypeVar("A")
T = TypeVar("T")


class Post:
    """The memory of a caller that waits in ``recv_into``: long frames are read straight into it.

    Guarded by the session's lock, but for what stands behind ``count`` while it is ``busy``.
    """

    __slots__ = ("busy", "count", "recalled", "ripe", "thread", "view")

    def __init__(self, into: memoryview) -> None:
        self.view = into[:]  # which stays when the caller releases its own
        self.thread = get_ident()
        #: So many bytes are there.
        self.count = 0
        #: The one in the read seat reads into it, which takes no time: until then the caller stays.
        self.busy = False
        #: The caller has come for it meanwhile, and is to be woken.
        self.recalled = False
        #: The caller is to have what is there: it is full, or nothing more comes for now.
        self.ripe = False

    def seal(self) -> None:
        """Nothing more goes into it: another reader has what comes next."""
        self.ripe = True
        if not self.busy:
            self.view = self.view[: self.count]

    def retract(self, stream: StreamState) -> None:
        """It is the caller's alone again; nobody may be reading into it."""
        if stream.post is self:
            stream.post = None
        self.view.release()


class Taken:
    """Bytes that a caller has taken from its stream and may not live to return."""

    __slots__ = ("count", "view")

    def __init__(self, memory: Any, count: int) -> None:
        self.view = memoryview(memory)
        self.count = count


class ReadSeat(WriteSeat):
    """Everything that receives."""

    __slots__ = ()

    # Callers.

    def receive(self, stream: StreamState, size: int, deadline: float | None) -> bytes:
        """Wait for bytes and take up to ``size`` of them; ``b""`` at the end of file.

        ``deadline`` as in :meth:`read`, to which all is left but the waits of every day.
        """
        # Budget of the commonest case, a caller that waits for a reply and finds the read seat
        # free: two turns of the lock, one poll, one read, no other thread.
        if self._lock._is_owned() or self._guarded:
            self._check_reentry()
        protocol = self.protocol
        me = get_ident()
        waiter: threading.Lock | None = None
        readers: Any = None
        yielded = late = done = False
        #: What was taken; and who sits.
        had: list[Any] = [None]
        try:
            while True:
                seated = False
                with self._lock:
                    woken = waiter is not None
                    if waiter is not None:
                        self._dismiss_locked(waiter, readers)
                        waiter = None
                    if stream.buffered:
                        if stream.post is None and not stream.closed:
                            self._pick_locked(stream, size, had)
                            done = True
                    elif stream.fin_in:
                        done = self._ended_locked(stream)
                    elif not (
                        late
                        or deadline == 0
                        or self._stopped(stream)
                        or stream.post is not None
                        or not stream.opened
                        or protocol.urgent
                        or self._pins
                        or not self._inline
                        or self._writing == me
                    ):
                        free = self._reading is None
                        if free or self._reading_thread != me:  # else below a signal's handler
                            answered = stream.wrote
                            stream.returns = answered and stream.acceptor == me
                            readers = stream.readers
                            if readers is None:
                                readers = stream.readers = []
                            seated = free and not yielded
                            if seated and not woken:  # who was woken to sit does so
                                if answered and self._brevity >= BRIEF:
                                    seated = not self._defers_locked(stream)
                                if seated and protocol.codec.data_left >= _LONG_REST:
                                    seated = not self._hand_over_locked()
                            if seated:
                                self._leading = stream
                                self._sittings += 1
                                self._reading_thread = me  # first, as in _sit_locked()
                                self._reading = had
                            else:
                                waiter = self._spare.pop() if self._spare else new_waiter()
                                self._willing[waiter] = me  # first: see _put_right()
                                readers.append(waiter)
                                waiter.acquire(False)
                    if (woken or waiter is not None) and self._reading is None:
                        self._pass_seat_locked()
                if seated:
                    # Not a closure, which would make every use of what it names slower.
                    come = functools.partial(self._come_locked, stream, size, had)
                    yielded = not self._lead(come, deadline, False)
                    if had[0] is not None:
                        done = True
                        break
                elif waiter is not None:
                    if self._late:
                        with self._lock:
                            self._wake_late_locked()
                    if deadline is None:
                        waiter.acquire()
                    else:
                        left = max(0.0, deadline - time.monotonic())
                        late = not waiter.acquire(True, bounded(left))
                    yielded = False
                else:
                    break
            if done:
                poller = stream.poller  # which another thread may take away
                if poller is not None:
                    poller.sync()
                if protocol.urgent:
                    self.push()
        except BaseException:
            try:
                self._give_up_reading(had, stream, None, had, waiter)
            except BaseException:
                self._give_up_reading(had, stream, None, had, waiter)
            raise
        if done:
            return had[0] or b""
        return self.read(stream, stream.peek, size, b"", deadline, yielded=yielded)

    def _come_locked(self, stream: StreamState, size: int, had: list[Any]) -> bool:
        """Whether one who leads in :meth:`receive` leaves: with bytes, or to see what is wrong."""
        if stream.buffered and stream.post is None and not stream.closed:
            self._pick_locked(stream, size, had)
            return True
        return bool(stream.buffered) or self._stopped(stream)

    def _ended_locked(self, stream: StreamState) -> bool:
        """Whether one who waits for bytes of ``stream`` is at the end of file, and learns of it."""
        if stream.closed or stream.failure is not None or stream.post is not None:
            return False
        if stream.wrote and not stream.local:
            self._brevity += 1
        return True

    def _pick_locked(self, stream: StreamState, size: int, had: list[Any]) -> None:
        """Take up to ``size`` of the bytes that are there: ``had[0]``."""
        # Else somebody in the seat may be this very thread, below a signal's handler.
        lazy = self._reading is None or self._reading is had
        chunks = stream.chunks
        first = chunks[0] if len(chunks) == 1 else None
        if type(first) is not bytes or stream.skip or (count := len(first)) > size:
            had[0] = self._take_locked(stream, stream.peek, size, None, had, lazy=lazy)
            return
        window = stream.receive
        # With no call and no branch, where an exception from outside could strike.
        had[0] = first
        del chunks[0]
        stream.buffered -= count
        window.read += count
        self._have_taken_locked(stream, lazy=lazy)

    def _have_taken_locked(self, stream: StreamState, *, lazy: bool) -> None:
        """Bytes were taken from ``stream``, and counted; ``lazy`` as in :meth:`_take_locked`."""
        window = stream.receive
        if window.read >= window.due:
            self.protocol.consumed(stream, 0, lazy and self._reads_on_locked())
        if stream.wrote:
            stream.wrote = False
            if not stream.local:
                self._brevity = 0

    def read(
        self,
        stream: StreamState,
        copy: Callable[[A], T],
        what: A,
        nothing: T,
        deadline: float | None,
        *,
        least: int = 1,
        into: memoryview | None = None,
        keep: bool = False,
        yielded: bool = False,
    ) -> T:
        """Wait for ``least`` bytes and return ``copy(what)``, called under the lock.

        What is copied is taken from the stream, unless it is to be kept there. At the end of file
        that is what there is, and ``nothing`` where that is none. With ``into``, into which
        ``copy`` copies, long frames may be read past it, and their count is what is returned.
        ``deadline`` is in seconds on the monotonic clock, ``None`` for never, 0 for not to wait
        at all (``BlockingIOError``); past it ``TimeoutError``. ``yielded``: the caller has just
        left the read seat to another.
        """
        # Budget of the common case, a caller that waits for a reply and finds the read seat
        # free: two turns of the lock, one poll, one read, no other thread.
        if self._lock._is_owned() or self._guarded:
            self._check_reentry()
        protocol = self.protocol
        taken: list[T] = []
        post: Post | None = None
        #: For an exception: where what was taken is, and how many bytes.
        had: list[Any] = [None]

        def attempt() -> bool:
            if post is not None:
                if post.busy:
                    post.recalled = True
                    return False
                if post.count:
                    if not (post.ripe or stream.buffered or self._stopped(stream)):
                        return False
                    taken.append(cast("T", self._filled_locked(stream, post)))
                    return True
            before = stream.buffered
            if before and not stream.closed and (before >= least or self._stopped(stream)):
                other: Post | None = stream.post
                if other is not None:
                    if other is post:
                        stream.post = None  # first: nobody may read over what is taken into it
                    elif other.count:
                        other.seal()
                        self._wake_all_locked(stream.readers)
                if keep:
                    result = copy(what)
                else:
                    result = self._take_locked(stream, copy, what, into, had, lazy=not below)
                taken.append(result)
            elif not (stream.fin_in or self._stopped(stream)):
                return False
            elif answered and not stream.local:
                self._brevity += 1
            if post is not None:
                post.retract(stream)
            return True

        me = get_ident()
        waiter: threading.Lock | None = None
        seated = defers = timed_out = below = done = False
        answered = stream.wrote
        try:
            with self._lock:
                # In a handler the thread that is asleep in the seat does not look before it sleeps.
                below = self._reading_thread == me and self._reading is not None
                if stream.buffered or self._stopped(stream):
                    done = attempt()
                if not done:
                    stream.returns = answered and stream.acceptor == me
                    if not stream.opened:
                        protocol.announce(stream)
                    if stream.readers is None:
                        stream.readers = []
                    if deadline != 0 and self._inline and self._writing != me:
                        # Else a handler's thread, which must not wait: see _sits_below().
                        if into is not None and stream.post is None:
                            post = stream.post = Post(into)
                            if self._left is not None and self._left[0] == me:
                                self._tardy = time.monotonic() - self._left[1] > _TARDY
                                self._left = None
                        if (
                            self._reading is None
                            and not self._pins
                            and not protocol.urgent
                            and not yielded
                        ):
                            if (
                                self._brevity >= BRIEF and answered and self._defers_locked(stream)
                            ) or (
                                protocol.codec.data_left >= _LONG_REST and self._hand_over_locked()
                            ):
                                defers = True
                            else:
                                seated = True
                                self._leading = stream
                                self._sittings += 1
                                self._reading_thread = me  # first, as in _sit_locked()
                                self._reading = taken
                        if defers or not (
                            self._reading is None or seated or below or protocol.urgent
                        ):
                            # As _wait() would with its first look, which this one was.
                            waiter = self._spare.pop() if self._spare else new_waiter()
                            self._willing[waiter] = me  # first: see _put_right()
                            stream.readers.append(waiter)
                            waiter.acquire(False)
                            if defers:
                                self._pass_seat_locked()
            if seated:
                done = self._lead(attempt, deadline, post is not None)
            if not done and deadline != 0:
                if protocol.urgent and waiter is None:
                    self.push()
                assert stream.readers is not None
                done = self._wait(
                    stream.readers,
                    attempt,
                    deadline,
                    reads=True,
                    posted=post is not None,
                    yielded=seated or yielded,
                    waiter=waiter,
                )
                if not done and post is not None:
                    free = self._recall(stream, post, cast("list[Any]", taken))
                    self._wait(stream.readers, free, None)
                    done = bool(taken)
                timed_out = not done
            poller = stream.poller  # which another thread may take away
            if poller is not None:
                poller.sync()
            if protocol.urgent:
                self.push()
        except BaseException:
            try:
                self._give_up_reading(taken, stream, post, had, waiter)
            except BaseException:
                self._give_up_reading(taken, stream, post, had, waiter)
            raise
        if taken:
            return taken[0]
        if not done:
            raise TimeoutError("timed out") if timed_out else os_error(errno.EAGAIN)
        if not stream.fin_in or stream.closed or stream.failure is not None:
            with self._lock:
                self._raise_failure_locked(stream)
        return nothing

    def read_at_once(
        self,
        stream: StreamState,
        copy: Callable[[A], T],
        what: A,
        nothing: T,
        deadline: float | None,
        *,
        into: memoryview | None = None,
    ) -> T:
        """As :meth:`read`, and quicker where there is something already."""
        if self._lock._is_owned() or self._guarded:
            self._check_reentry()
        had: list[Any] = [None]
        try:
            with self._lock:
                ready = stream.buffered and not stream.closed and stream.post is None
                if ready:
                    below = self._reading_thread == get_ident() and self._reading is not None
                    result = self._take_locked(stream, copy, what, into, had, lazy=not below)
            if ready:
                poller = stream.poller  # which another thread may take away
                if poller is not None:
                    poller.sync()
                if self.protocol.urgent:
                    self.push()
        except BaseException:
            try:
                self._give_up_reading(None, stream, None, had)
            except BaseException:
                self._give_up_reading(None, stream, None, had)
            raise
        if ready:
            return result
        return self.read(stream, copy, what, nothing, deadline, into=into)

    def _take_locked(
        self,
        stream: StreamState,
        copy: Callable[[A], T],
        what: A,
        into: memoryview | None,
        had: list[Any],
        *,
        lazy: bool,
    ) -> T:
        """``copy(what)``, taken from ``stream``; ``had`` is told of it.

        ``lazy``: the one in the read seat looks at what is owed before it sleeps, if it is there.
        """
        result: Any = copy(what)
        holds = (result, len(result)) if into is None else (into, result)
        count = holds[1]
        if count == stream.buffered:
            gone, skip = len(stream.chunks), 0
        else:
            gone, skip = stream.ahead(count)
        window = stream.receive
        # With no call and no branch, where an exception from outside could strike.
        del stream.chunks[:gone]
        stream.skip = skip
        stream.buffered -= count
        window.read += count
        had[0] = holds
        self._have_taken_locked(stream, lazy=lazy)
        return result  # type: ignore[no-any-return]

    def _filled_locked(self, stream: StreamState, post: Post) -> int:
        """The caller has its memory back: how many bytes are in it."""
        if stream.buffered and not stream.closed and post.count < len(post.view):
            self._fill_locked(stream, post, lazy=self._reads_on_locked())
        if stream.post is post:
            stream.post = None  # but its view stays: an exception may yet take the caller away
        if stream.wrote:
            stream.wrote = False
            if not stream.local:
                self._brevity = 0
        return post.count

    def _fill_locked(self, stream: StreamState, post: Post, *, lazy: bool) -> None:
        """Move what lies with ``stream`` behind what is in ``post``, all that fits or nothing."""
        count = stream.copy_into(post.view[post.count :])
        gone, skip = stream.ahead(count)
        # With no call in between, behind which an exception from outside could strike.
        del stream.chunks[:gone]
        stream.skip = skip
        stream.buffered -= count
        stream.receive.read += count
        post.count += count
        self.protocol.consumed(stream, 0, lazy=lazy)

    def _reads_on_locked(self) -> bool:
        """Whether somebody looks at what is in the protocol's ``grants`` before long: we do, in the
        read seat; or it is free, which the reader thread does not leave it for long.
        """
        mine = self._reading is None or self._reading_thread == get_ident()
        return mine and self._inline and not self._pins

    def _recall(self, stream: StreamState, post: Post, taken: list[Any]) -> Callable[[], bool]:
        """What a caller waits for whose time is over: that nobody reads into its memory."""

        def free() -> bool:
            if post.busy:
                post.recalled = True
                return False
            if post.count:
                taken.append(self._filled_locked(stream, post))
            else:
                post.retract(stream)
            return True

        return free

    def _give_up_reading(
        self,
        seat: object,
        stream: StreamState,
        post: Post | None,
        had: list[Any],
        waiter: threading.Lock | None = None,
    ) -> None:
        """An exception takes the caller away, and what it had of ``stream`` is not its own."""
        self._give_up(seat, waiter, stream.readers or [])
        if post is not None:
            self._take_back(stream, post)
        if had[0] is not None:
            if isinstance(had[0], tuple):
                had[0] = Taken(*had[0])
            elif isinstance(had[0], bytes):
                had[0] = Taken(had[0], len(had[0]))
            self._take_back(stream, had[0])

    def _take_back(self, stream: StreamState, post: Post | Taken) -> None:
        """An exception takes the caller away: what is in its memory is for who reads next."""

        def free() -> bool:
            if stream.post is post:
                stream.post = None
            if isinstance(post, Post) and post.busy:
                post.recalled = True
                return False
            self.protocol.give_back(stream, post)
            self._wake_readers_locked(stream)  # another may have looked in vain meanwhile
            post.view.release()
            return True

        with self._lock:
            done = free()
        if not done:
            assert stream.readers is not None
            self._wait(stream.readers, free, None)
        poller = stream.poller
        if poller is not None:
            poller.sync()

    def _defers_locked(self, stream: StreamState) -> bool:
        """Whether a caller that has answered leaves the seat to the one who accepts.

        Where streams are short, what comes next for this one is its end, in the same read as the
        next stream as often as not. If the acceptor reads that, the stream is served without a
        hand-over. One that does not come back to accept is not waited for: see the reader thread.
        """
        if stream.local or stream.acceptor == get_ident():
            return False
        if self._acceptors:
            self._wake_locked(self._acceptors[0])
        return True

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

    def accept(self, deadline: float | None) -> StreamState:
        """The next stream of the peer; ``deadline`` as in :meth:`read`."""
        if self._lock._is_owned() or self._guarded:
            self._check_reentry()
        #: The stream, once it is taken.
        had: list[Any] = [None]
        done = False
        try:
            if self.protocol.backlog or deadline == 0 or self._closing or self.death is not None:
                with self._lock:
                    done = self._accepts_locked(had)
            if not done and deadline != 0:
                done = self._wait(
                    self._acceptors, lambda: self._accepts_locked(had), deadline, reads=True
                )
            if done:
                poller = self.session_poller
                if poller is not None:
                    poller.sync()
        except BaseException:
            try:
                self._give_up_accepting(had[0])
            except BaseException:
                self._give_up_accepting(had[0])
            raise
        stream: StreamState | None = had[0]
        if stream is not None:
            return stream  # with no call any more, behind which an exception could strike
        if done:
            with self._lock:
                error = self.session_error_locked()
            raise error
        raise TimeoutError("timed out") if deadline != 0 else os_error(errno.EAGAIN)

    def _accepts_locked(self, had: list[Any]) -> bool:
        """Whether ``accept()`` has something to say: ``had[0]``, or that no stream comes."""
        backlog = self.protocol.backlog
        if backlog and not self._closing:
            # Known before it is taken, for an exception may strike in between.
            had[0] = next(iter(backlog.values()))
            self.protocol.accept(get_ident())
            self._held_back = self._held_back and bool(backlog)
            return True
        if self.death is not None or self._closing:
            self._told = True
            self._wake_all_locked(self._watchers)
            return True
        return False

    def _give_up_accepting(self, stream: StreamState | None) -> None:
        """An exception takes away one that was woken for a stream, or has it."""
        if stream is not None:
            with self._lock:
                self.protocol.unaccept(stream, get_ident())
        self._give_up(None, None, [])  # another may wait for it

    def acceptable(self) -> bool:
        """Whether ``accept()`` has something to say: a stream, or once the end."""
        with self._lock:
            over = self.death is not None or self._closing
            if over:
                return self.serving or not self._told
            return bool(self.protocol.backlog)

    # In the seat.

    def _lead(
        self,
        ready: Callable[[], bool],
        deadline: float | None,
        posted: bool,
    ) -> bool:
        """Read for everybody until ``ready()``, asked under the lock, is true.

        The seat is ours, and free on return; false if ``ready`` was never true. The caller frees
        it when an exception comes out of here.
        """
        transport, codec = self.transport, self.protocol.codec
        while True:
            if not self._eager:
                left = None if deadline is None else deadline - time.monotonic()
                if left is None or left > 0:
                    self._await_bytes(left)
            aims = codec.data_left or self._header_next
            # No name for where it goes: it must not outlive the read.
            count = self._receive(self._aim() if aims else self._read_buffer)
            with self._lock:
                if self._aimed is None or not self._taken_locked(count):
                    pollers = self._dispatch_locked(count)
                else:
                    pollers = self._announce_locked(self._reading)
                if self._held is not None and not self._eager:
                    self._tell_held_locked()
                done = ready()
                if self._late and not done:
                    self._wake_late_locked()
                if self.protocol.grants:
                    self._put_off += 1
                    if self._put_off >= _PUT_OFF:
                        self._grant_locked()
                handed = codec.data_left >= _LONG_REST and self._hand_over_locked()
                leave = (
                    done
                    or handed
                    or self._woke
                    or (self._fed and not posted)
                    or self._pins > 0
                    or (deadline is not None and time.monotonic() >= deadline)
                )
                self._fed = False
                if leave:
                    self._woke = False
                    if self._held is not None:
                        self._tell_held_locked()
                    if done and self._reading in self._acceptors:
                        # It has its stream, and is not one to be woken for the next.
                        self._acceptors.remove(self._reading)
                    self._reading = None
                    self._pass_seat_locked()
                    if posted and done and self._willing:
                        if self._tardy and not handed:
                            self._wake_locked(next(iter(self._willing)))
                        self._left = (get_ident(), time.monotonic())
            if pollers is not None or self.protocol.urgent or transport.pending:
                self._follow_up(pollers)
            if self.notes is not None:
                self.notes.say()
            if leave:
                return done

    def _hand_over_locked(self) -> bool:
        """Whether another is to lead from here on: the one whose memory a long frame goes into.

        It takes one wake-up to hand the seat over, and one to say that the memory is full. But who
        has the seat can come back for the rest of the frame, and nobody competes for the
        interpreter meanwhile.
        """
        stream = self.protocol.under_way
        post: Post | None = None if stream is None else stream.post
        if stream is None or post is None or post.thread == get_ident():
            return False
        if post.ripe and self._tardy:
            return False  # it is about to return with what it has, and may not be back soon
        for waiter in stream.readers or ():
            if self._willing.get(waiter) == post.thread:
                self._wake_locked(waiter)
                return True
        return False

    def _aim(self) -> memoryview:
        """Where the next read goes: the rest of a long frame into the memory of the stream's
        reader, past the parser, which saves two copies of every byte.
        """
        protocol = self.protocol
        left = protocol.codec.data_left  # which only who sits in the seat moves
        if not left:
            # Behind one long frame comes another, as a rule: only its header is wanted here, where
            # it did not come with the end of the one before.
            header, self._header_next = self._header_next, False
            return self._read_buffer[:HEADER] if header else self._read_buffer
        if left < _LONG_REST and self._held is None:
            return self._read_buffer
        self._header_next = False
        with self._lock:
            stream = protocol.under_way
            post: Post | None = None if stream is None else stream.post
            if stream is None or post is None or post.ripe:
                return self._read_buffer
            if stream.buffered:
                self._fill_locked(stream, post, lazy=True)
            into = post.view[post.count : post.count + left]
            if stream.buffered or not into:
                self._held = stream
                self._tell_held_locked()
                return self._read_buffer
            post.busy = True
            self._aimed = (stream, post)
            self._header_next = len(into) == left
        return into

    def _taken_locked(self, count: int | None) -> bool:
        """A read past the parser is over; whether it brought anything."""
        assert self._aimed is not None
        (stream, post), self._aimed = self._aimed, None
        left = self.protocol.codec.data_left
        post.busy = False
        if post.recalled:
            self._held = stream
        if count is None or count <= 0:
            if post.recalled:
                self._tell_held_locked()
            return False
        self._woke = False
        self._received += count
        self._heard = True
        behind = count - left  # so much of the next header came along
        if behind > 0:
            count = left
            self._header_next = False
        mine = False
        try:
            mine = self.protocol.taken(stream, count)
        except Error as error:  # the stream has ended, and the peer has drawn too many answers
            self._die_locked(error.code, error, b"")
        if mine:
            post.count += count
            if stream.post is not post:  # an exception took its caller away
                self.protocol.give_back(stream, post)
        self._held = stream
        full = post.count == len(post.view) or not self.protocol.codec.data_left
        if full or not mine or post.recalled:
            self._tell_held_locked()
        if behind > 0 and self.death is None:
            self._feed_locked(self._behind[:behind])
        self._receiving = False
        return True

    def _await_bytes(self, left: float | None) -> None:
        """Wait until there is something to read: awake for a moment, where that has paid lately.

        To wake a sleeping thread takes an interrupt of another processor and costs more than a
        whole round trip between two processes that are awake.
        """
        if self._patience > 0:
            if self.transport.glance(_GLANCES):
                self._patience = _PATIENCE
                return
            self._patience -= 1
            if not self._patience:
                self._patience = -_RETRY
        else:
            self._patience += 1
            if not self._patience:
                self._patience = 1
        if self._late or self.protocol.grants:
            with self._lock:
                self._wake_late_locked()
                self._grant_locked()
            if self.protocol.urgent:
                self.push()
        self.transport.wait_readable(left)

    def _grant_locked(self) -> None:
        """No update of a window waits any longer."""
        self._put_off = 0
        if self.protocol.grants:
            self.protocol.urgent = True

    def _receive(self, into: memoryview) -> int | None:
        """One read; ``None`` for nothing yet, -1 for a connection that failed."""
        self._receiving = True
        try:
            if self._aimed is not None and self._header_next:  # wanted in the same breath
                count = self.transport.recv_both(into, self._behind)
            else:
                count = self.transport.recv_into(into)
        except (BlockingIOError, InterruptedError):
            count = None
        except (OSError, ValueError) as error:
            self._eager = False
            with self._lock:
                self._connection_failed_locked(error)
            return -1
        self._eager = count is not None and (count >= _EAGER or count >= len(into))
        return count

    def _dispatch_locked(self, count: int | None) -> list[Poller] | None:
        """Give what was read to its streams and wake whom it concerns."""
        self._woke = False
        if self.death is not None or count is None or count < 0:
            self._receiving = False
            return None
        protocol = self.protocol
        self._received += count
        self._heard = True
        if count == 0:
            self._receiving = False
            self._connection_ended_locked()
            return None
        self._feed_locked(self._read_buffer[:count])
        self._receiving = False
        if protocol.beat_answered:
            protocol.beat_answered = False
            self.latency = time.monotonic() - self._asked
            self._beats[1] += 1
            protocol.windows.saw(self.latency)
        if self.notes is not None:
            self._note_news_locked()
        if self._scheduled and not self._inline:
            # An update of a window has put somebody there who may not know yet that it was used up.
            self._wake_locked(self._writer_waiter)
        if protocol.changed or protocol.arrived or self._drainers:
            return self._announce_locked(self._reading)
        return None

    def _feed_locked(self, data: memoryview) -> None:
        try:
            self.protocol.feed(data)
        except Error as error:
            if self.protocol.goaway is not None:
                # What stands behind a GOAWAY is often cut or miscounted by the peers' own
                # fault; the GOAWAY has told how it ends.
                self._connection_ended_locked()
            else:
                self._die_locked(error.code, error, b"")

    def _note_news_locked(self) -> None:
        """What the peer has just sent, as far as it concerns the session, is to be logged."""
        notes, protocol = self.notes, self.protocol
        assert notes is not None
        news = (self._beats[1], protocol.refused, protocol.goaway)
        before, self._news = self._news, news
        if news[0] != before[0]:
            notes.event("heartbeat answered after %.6f s", self.latency)
        if news[1] != before[1]:
            notes.event("%d streams of the peer's refused", news[1] - before[1])
        if news[2] != before[2] and protocol.goaway is not None:
            last, code, debug = protocol.goaway
            name = ErrorCode.of(code).name
            notes.event("the peer is going away: %s, last stream %d, %r", name, last, debug)

    # The reader thread.

    def _read_loop(self) -> None:
        """The reader thread: watches over the read seat, then the connection's end."""
        me = self._reader_waiter
        used, naps, nudged = 0, 0, False
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
                    self._wake_late_locked(last=True)
                    pinned = bool(self._pins) or not self._inline
                    free = self._reading is None
                    unused = used == self._sittings
                    used = self._sittings
                    # One who was woken to sit and did not (an exception may have met it on the
                    # way) is not waited for any longer.
                    sit = free and (pinned or (unused and (nudged or not self._willing)))
                    nudged = False
                    if sit:
                        self._sit_locked(me)
                    elif pinned:
                        self.transport.wake()  # the one who leads leaves, and wakes us
                        self._reader_parked, pause = True, None
                    elif free:
                        naps = 0
                        if unused:
                            self._wake_locked(next(iter(self._willing)))
                            nudged = True
                    elif unused:
                        naps += 1
                        if naps >= _LONG:
                            self._reader_parked, pause = True, None
                    else:
                        naps = 0
                if sit:
                    self._sit()
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
                if self.protocol.grants:
                    with self._lock:
                        self._grant_locked()
                    self.push()
                self.transport.wait_readable(None)
            count = self._receive(self._read_buffer)
            with self._lock:
                pollers = self._dispatch_locked(count)
                self._tell_held_locked()
                self._wake_late_locked(last=True)
                leave = self.death is not None or (bool(self._willing) and not self._pins)
                self._woke = self._fed = False
                if leave:
                    self._reading = None
            self._follow_up(pollers)
            if self.notes is not None:
                self.notes.say()
            if leave:
                return

    # What stands above: see the package.

    def _bury(self) -> None:
        raise NotImplementedError
