"""The engine: who reads the connection, who writes it, who waits, and who is woken.

The connection has a *read seat* and a *write seat*. Whoever sits in one uses the connection
alone in that direction. A caller that must wait for bytes sits down and reads them itself, and
a caller with bytes to send writes them itself, because in Python waking another thread costs
more than the system call it would save. Two daemon threads see to what no caller is there for.

**One lock per session**, ``_lock``, guards every attribute marked so here and all of the
``Protocol``. It is never held while the connection is read, written or waited for.

**Waiting.** A waiter is a ``threading.Lock`` that its owner acquires to sleep and others release
to wake it, under ``_lock``, so a release is never lost and never doubled. Waits run in
:meth:`Engine._wait`; the commonest, those of ``recv()`` without flags, in :meth:`Engine.receive`,
and the seat that :meth:`Engine.read` finds free it takes at once. Every predicate includes the
session's death.

**Leading.** The one in the read seat reads without the lock, dispatches under it, wakes those
whose wait may be over, and leaves when its own is. It also leaves when it has woken somebody who
reads: that one will be back for more, and then needs nobody to hand it over. A caller that leaves
the seat wakes nobody, because it too is likely to be back; one that closes its stream is not, and
wakes one of those who could sit. Another thread whose doing ends a leader's wait (close, shutdown,
reset) wakes it through the transport.

Before it sleeps a leader looks at the connection for 100 to 200 microseconds, giving the processor
away between two looks: two processes that are awake exchange a message in a fraction of the time
that it takes to wake one. It stops doing so while that does not pay.

A caller that has answered a short stream of the peer's does not sit down, so that the one who
accepts reads the next stream itself. One that had accepted it too, as a worker of a pool does, is
left the next stream that comes with the end of its own.

**Reading straight.** One who waits in ``recv_into`` *posts* its memory on its stream. Where a long
frame begins whose stream has such memory, the leader hands the seat over to its owner, which reads
the rest into it, past the parser, and finds the seat free when it comes back for more. The frame's
end is read together with the next header, which tells to whom the seat goes from there. Where
another sits by then, that one reads into it, and wakes its owner when the frame or the memory is at
its end, or before it waits for more. Because it reads there without the lock, it says so under the
lock before, and the owner, whatever ends its wait (its deadline, the session's death, an
exception), stays until that read is over; reads never block, so that takes no time. What is in the
memory then is what the owner returns, or, where an exception takes it away, goes back to the
stream. A leader that has posted memory itself stays in the seat when it wakes such an owner, until
its own memory is filled. Then it leaves the seat to itself, if such callers were soon back for more
lately, and else wakes another.

**The reader thread** watches over the seat. While callers use it, it naps for ``_NAP`` seconds.
When it finds the seat free, and unused since its last look, it wakes one of those who could sit, or
sits itself where there are none. No lost promotion can defeat that timer. When one leader has sat
through ``_LONG`` naps the thread parks, and the leader wakes it when it leaves. So neither an idle
session nor a caller that waits for an hour polls. While a descriptor of ``fileno()`` is in use the
thread keeps the seat, because pollers wait where no caller of ours does.

**Writing.** The one in the write seat takes a batch under the lock, writes it without, and goes
on until its own bytes are out. Bytes of others are copied into the batch, unless nobody can change
them, and count as sent, so that a sender's time-out never waits for somebody else's write. Without
window of its own it goes on for the others as long as it need not wait for the connection. A sender
sleeps until all its bytes are sent, by whomever, or it is its turn to write: that is the one whose
stream goes next when the seat gets free, and when window comes while it is free. Whoever is chosen
so and gives up instead passes the turn on. A small message that meets another
in the seat is left to it, framed, behind ``_unsent``, as if the connection had taken it, even where
others wait for their turn. That comes all the same: who only sends what is left does so once, then
frees the seat for the one chosen, and the writer thread naps before it takes it back. A batch
that the connection does not take in time is kept in ``_unsent`` and goes first: a frame once begun
is finished, or the session dies. What the read side owes is written by whoever dispatched it if
the seat is free and the connection takes it at once, and is left to the writer thread otherwise:
reading never waits for writing.

A SYN waits for its stream's first bytes to ride with and a FIN for any frame, until the writer
thread sees it for the second time. Where the peer may wait for the FIN it goes at once, unless
frames to ride with have proved to come at once too.

Nothing that is made may overtake what was made before it, but for heartbeats: these go in front
of all that waits, though never into a frame that the connection has cut.

**What is dropped** without a word leaves a note, and no more, since a finalizer may run inside of
anything; the writer thread reads it. See ``dropped.py``.

**Death** is set once, with its first cause, under the lock; every waiter is woken; then the
writer thread sends GOAWAY if the connection still takes it, and the reader thread closes the
connection when nobody uses it any more.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import threading
import time
import weakref
from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar, cast

from muxado.engine.clock import GRACE
from muxado.engine.describe import describe, describe_stream
from muxado.engine.dropped import Dropped
from muxado.engine.shared import NOBODY, Descriptor, Poller, os_error
from muxado.errors import Error, ErrorCode, SessionClosed
from muxado.protocol import SessionEnd, StreamState

if TYPE_CHECKING:
    from muxado.config import Config
    from muxado.transport import Transport

__all__ = ["Engine", "describe", "describe_stream", "os_error"]

#: Seconds that close() waits for the session's threads beyond `linger`.
_JOIN = 2.0
#: Seconds at the interpreter's exit for the last words of all sessions.
_EXIT = 0.5
#: Reads that take from a connection what nobody is going to read, before it is closed.
_SWEEPS = 64

P = TypeVar("P", bound=Poller)

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


class Engine(Dropped):
    """The threads and seats of one session. ``Session`` and ``Stream`` are its faces."""

    def __init__(self, transport: Transport, config: Config, *, client: bool) -> None:
        super().__init__(transport, config, client=client)
        self._reader = threading.Thread(
            target=self._read_loop, name=f"muxado-reader-{self.name}", daemon=True
        )
        self._writer = threading.Thread(
            target=self._write_loop, name=f"muxado-writer-{self.name}", daemon=True
        )
        self._threads = [self._writer, self._reader]
        if not self._inline:
            name = f"muxado-keeper-{self.name}"
            self._threads.append(threading.Thread(target=self._keep_loop, name=name, daemon=True))

    def start(self) -> None:
        """Start the threads; if that fails, nothing of the session is left."""
        self._asked = time.monotonic()
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:
            self._silent = True
            self._die(ErrorCode.INTERNAL_ERROR, None, b"")
            self.transport.shutdown()  # a thread that did start may be reading
            self.transport.close()
            raise
        _engines.add(self)
        if self.notes is not None:
            config, peer = self.config, self.transport.getpeername()
            typed = ", typed," if config.typed else ""
            with self._lock:
                text = "a session of version %d%s with %s"
                self.notes.event(text, config.version, typed, peer or "a peer without an address")
            self.notes.say()

    # What streams ask for.

    def open(self, priority: int, stream_type: int, fin: bool) -> StreamState:
        """A new stream; its SYN rides with its first bytes or follows within a moment."""
        protocol = self.protocol
        stream = None
        try:
            with self._lock:
                if self.death is not None or self._closing:
                    error = self.session_error_locked(retryable=True)
                else:
                    number = protocol.next_id
                    try:
                        stream = protocol.open(priority, stream_type, fin)
                    except BaseException:
                        stream = protocol.streams.get(number)
                        raise
                    self._give_ride_locked()
        except BaseException:
            if stream is not None:  # an exception from outside: nobody will have it
                try:
                    self.drop(stream)
                except BaseException:
                    self.drop(stream)
            raise
        if stream is None:
            raise error
        return stream

    def end(self, stream: StreamState) -> None:
        """SHUT_WR: FIN goes at once; a send that waits in another thread fails."""
        self._check_may_shut(stream)
        try:
            if self._bequeathed:
                self.collect()
            with self._lock:
                if stream in self._wills:
                    self._wills[stream].ends = True
                elif self.death is None:
                    self.protocol.end(stream, urgent=True)
                self._wake_all_locked(stream.writers)
            self.push()
        except BaseException:
            try:
                self._give_up(None, None, [])
            except BaseException:
                self._give_up(None, None, [])
            raise

    def hush(self, stream: StreamState) -> None:
        """SHUT_RD: reads return the end of file from now on."""
        self._check_may_shut(stream)
        try:
            with self._lock:
                self.protocol.hush(stream)
                self._wake_readers_locked(stream)
                poller = stream.poller
            self._follow_up(None if poller is None else [poller])
        except BaseException:
            try:
                self._give_up(None, None, [])
            except BaseException:
                self._give_up(None, None, [])
            raise

    def _check_may_shut(self, stream: StreamState) -> None:
        if stream.closed:
            raise os_error(errno.EBADF)
        if stream.failure is not None or self.death is not None:
            raise os_error(errno.ENOTCONN)

    def close_stream(self, stream: StreamState) -> None:
        """The application lets go of it."""
        if (self._lock._is_owned() or self._guarded) and self._inside():
            self.drop(stream)
            return
        protocol = self.protocol
        try:
            if self._bequeathed:
                self.collect()
            with self._lock:
                if self._wills and stream in self._wills:
                    self._drop_locked(stream)
                    return
                if stream.write is not None:
                    protocol.schedule.discard(stream)
                    stream.write = None
                if self.death is None:
                    lazy = (
                        stream.wrote
                        and (
                            stream.fin_in
                            or (stream.acceptor == get_ident() and bool(protocol.backlog))
                        )
                        and self._may_ride_locked()
                    )
                    protocol.close(stream, lazy)
                    if protocol.ending and not protocol.urgent:
                        self._give_ride_locked()
                stream.closed = True
                if stream.poller is not None:
                    self._unpin_locked(stream)
                if self._starved:
                    self._starved.pop(stream, None)
                if stream.readers or self._leading is stream:
                    self._wake_readers_locked(stream)
                if stream.writers:
                    self._wake_all_locked(stream.writers)
                pollers = None
                if protocol.changed or protocol.arrived or self._drainers:
                    pollers = self._announce_locked()
                if self._reading is None and self._willing:
                    self._replace_locked(stream)
            if pollers is not None or protocol.urgent or self.transport.pending:
                self._follow_up(pollers)
        except BaseException:
            try:
                self._give_up_stream(stream)
            except BaseException:
                self._give_up_stream(stream)
            raise

    def _give_up_stream(self, stream: StreamState) -> None:
        """An exception from outside: it is closed all the same."""
        self.drop(stream)
        self._give_up(None, None, [])

    def reset(self, stream: StreamState, code: int) -> None:
        """RST: both directions end at once."""
        try:
            with self._lock:
                if self.death is None:
                    self.protocol.reset(stream, code)
                    self._wake_readers_locked(stream)
                pollers = self._announce_locked()
            self._follow_up(pollers)
        except BaseException:
            try:
                self._reset_again(stream, code)
            except BaseException:
                self._reset_again(stream, code)
            raise

    def _reset_again(self, stream: StreamState, code: int) -> None:
        """An exception may have cut it short."""
        with self._lock:
            self.protocol.reset(stream, code)
        self._give_up(None, None, [])

    def prioritise(self, stream: StreamState, priority: int) -> None:
        """Give ``stream`` another place among those that have something to send."""
        try:
            with self._lock:
                self.protocol.prioritise(stream, priority)
        except BaseException:  # from outside, in the midst of it
            try:
                self._prioritise_again(stream, priority)
            except BaseException:
                self._prioritise_again(stream, priority)
            raise

    def _prioritise_again(self, stream: StreamState, priority: int) -> None:
        with self._lock:
            self.protocol.prioritise(stream, priority)
        self._give_up(None, None, [])

    def pin(self, stream: StreamState | None, poller: P) -> P:
        """A descriptor is polled for ``stream`` (or the session): keep reading for it.

        Returns the poller that stands: the one that was there before, if any.
        """
        with self._lock:
            before = self.session_poller if stream is None else stream.poller
            if before is not None:
                return cast("P", before)
            if stream is not None and stream.closed:
                return poller
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

    # The end.

    def go_away(self, code: int, debug: bytes) -> None:
        """GOAWAY; new streams of the peer are refused, those under way go on."""
        with self._lock:
            if self.death is not None or self._closing:
                return
            self.protocol.go_away(code, debug, final=False)
            if self.notes is not None:
                self.notes.event("going away: %s", ErrorCode.of(code).name)
        self.push()
        if self.notes is not None:
            self.notes.say()

    def drain(self, deadline: float | None) -> bool:
        """Wait until no stream is left; false past ``deadline``."""
        protocol = self.protocol
        done = self._wait(self._drainers, lambda: not protocol.alive or self._dead(), deadline)
        with self._lock:
            if protocol.alive and self.death is not None and self.death.error is not None:
                raise self.session_error_locked()  # they ended, but not as they should
        return done

    def wait(self, deadline: float | None) -> SessionEnd:
        """Wait for the end of the session."""
        if not self._wait(self._watchers, self._dead, deadline):
            raise TimeoutError("timed out")
        assert self.death is not None
        return self.death

    def close(self) -> None:
        """Flush what was written, say GOAWAY, close the connection."""
        if self._inside() or self._sits_below(reading=True):
            self.abandon()
            return
        deadline = time.monotonic() + self.config.linger
        try:
            try:
                with self._lock:
                    self._stop_locked()
                    pollers = self._announce_locked()
                    if self.session_poller is not None:
                        pollers = [*(pollers or ()), self.session_poller]
                self._follow_up(pollers)
                if self.notes is not None:
                    self.notes.say()
                self._wait(self._flushers, self._flushed_for_good_locked, deadline)
            finally:
                self._die(ErrorCode.NO_ERROR, None, b"")
            self._await_end(deadline)
        except BaseException:
            try:
                self.abandon()  # an exception from outside: it is closed all the same
            except BaseException:
                self.abandon()
            raise

    def _flushed_for_good_locked(self) -> bool:
        """The end, once all is flushed: a send comes before, and is flushed, or is told."""
        if self._flushed_locked():
            self._die_locked(ErrorCode.NO_ERROR, None, b"")
        return self.death is not None

    def _stop_locked(self) -> None:
        """Take nothing new: what is left is to be flushed."""
        first, self._closing = not self._closing, True
        if self.death is None:
            if first and self.notes is not None:
                self.notes.event("closing")
            self.protocol.refuse_backlog()
            self.protocol.going_away = True
        self._wake_all_locked(self._acceptors)
        self._wake_locked(self._writer_waiter)

    def kill(self) -> None:
        """Close the connection now."""
        self._silent = True
        if self._inside() or self._sits_below(reading=True):
            self.abandon()
            return
        try:
            with self._lock:
                self._closing = True
                self._die_locked(ErrorCode.SESSION_CLOSED, None, b"")
            if self._inline:
                self.transport.shutdown()
            self._await_end(time.monotonic())
        except BaseException:
            try:
                self.abandon()
            except BaseException:
                self.abandon()
            raise

    def _await_end(self, deadline: float) -> None:
        """Wait, not for ever, until the threads are gone and the descriptor is given back."""
        if threading.current_thread() in self._threads:
            return
        left = max(0.0, deadline - time.monotonic())
        if not self._inline:
            left += GRACE
        self._over.wait(left + _JOIN)
        for thread in self._threads:
            thread.join(_JOIN if self._over.is_set() else 0)

    def _speak_last(self) -> None:
        """The writer thread, after death: GOAWAY, if the connection takes it at once."""
        transport = self.transport
        try:
            while True:
                with self._lock:
                    self._writer_waiter.acquire(False)
                    if not self._writing:
                        self._writing = NOBODY  # and stays so; thread idents are used again
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
            if self.notes is not None:
                self.notes.say()
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
                        self._reading, self._reading_thread = me, NOBODY
                        pollers = self._pollers_locked()
                        break
                me.acquire()  # a leader was woken by the death, and wakes us when it leaves
            for poller in pollers:
                poller.sync()
            if self.notes is not None:
                with self._lock:
                    self.notes.event("the session is over: %s", self.death)
                self.notes.say()
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

        A Unix socket has nothing to acknowledge. Its peer reads the last words, but a reset
        behind them where the end should be, unless nothing lies unread here once the peer can
        send no more.
        """
        transport = self.transport
        deadline = time.monotonic() + self.config.linger
        pause = 0.001
        with contextlib.suppress(OSError, ValueError):
            while transport.unacknowledged() and time.monotonic() < deadline:
                transport.wait_readable(pause)
                pause = min(pause * 2, 0.05)
                with contextlib.suppress(BlockingIOError, InterruptedError):
                    if transport.discard(self._read_buffer) == 0:
                        break
        transport.shutdown()
        with contextlib.suppress(OSError, ValueError):
            for _ in range(_SWEEPS):
                if transport.discard(self._read_buffer) == 0:
                    break

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
            waiting = len(self._waiters) + len(self._willing)
            return waiting + int(leads and not listed) + int(self._jammed)

    def counters(self) -> dict[str, Any]:
        """What ``Session.stats`` tells."""
        with self._lock:
            protocol = self.protocol
            jam_time = self._jam_time
            if self._jammed and self._jam is not None:
                jam_time += time.monotonic() - self._jam[0]
            return {
                "streams": protocol.in_use,
                "backlog": len(protocol.backlog),
                "opened": protocol.opened,
                "accepted": protocol.accepted,
                "refused": protocol.refused,
                "reset": protocol.broken_off,
                "bytes_received": self._received,
                "bytes_sent": self._sent,
                "frames_received": protocol.codec.frames,
                "frames_sent": protocol.frames_sent,
                "ignored_frames": protocol.ignored_frames,
                "buffered": protocol.buffered,
                "stalled": protocol.stalled,
                "stalls": self._stalls,
                "write_wait": jam_time,
                "heartbeats_sent": self._beats[0],
                "heartbeats_answered": self._beats[1],
                "flood_budget": protocol.budget.left,
            }

    def say_goodbye(self, deadline: float) -> None:
        """At exit: GOAWAY, and nothing after it.

        Nobody is woken: a daemon thread that waits on this session would only die noisily of an
        error that nobody is left to care about. The exit of the process closes the connection.
        """
        if not self._inline:  # only its own thread may write there, for as long as that takes
            with self._lock:
                if self.death is None:
                    self.protocol.go_away(ErrorCode.NO_ERROR, b"", final=True)
            self.push()
        self._wait(self._flushers, self._flushed_locked, deadline)
        with self._lock:
            if self.death is not None or self._writing or not self._inline:
                return
            self._writing = NOBODY  # and stays so
            self.protocol.go_away(ErrorCode.NO_ERROR, b"", final=True)
            words = self._unsent + self.protocol.control_frames(opening=True)
        with contextlib.suppress(OSError, ValueError):
            self.transport.send([words])

    def forget_after_fork(self) -> None:
        """In the child of a fork: this session is the parent's; be dead, and touch nothing."""
        # New ones, since a thread of the parent's may have been inside of the old.
        self._lock, self.notes = threading.RLock(), None
        self._last_words, self._over = threading.Event(), threading.Event()
        self._silent = self._closing = True
        self._waiters, self._willing, self._reading, self._writing = {}, {}, None, 0
        pollers = [stream.poller for stream in self.protocol.streams.values()]
        for poller in [*pollers, self.session_poller]:
            if poller is not None:
                poller.forsake()
        if self.death is None:
            error = SessionClosed("the session belongs to the parent process")
            self.death = SessionEnd(ErrorCode.SESSION_CLOSED, error, b"")
        self._last_words.set()
        self._over.set()
        self.transport.forsake()


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
