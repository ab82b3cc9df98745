"""The engine of one session: its parts, its two threads, and how it begins and ends."""

from __future__ import annotations

import _thread
import functools
import logging
import threading
import time
from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING

from muxado.engine import process
from muxado.engine.core import Core
from muxado.engine.keepalive import Keepalive
from muxado.engine.reading import READ, ReadSeat
from muxado.engine.receiving import Receiver
from muxado.engine.sending import Sender
from muxado.engine.streams import Streams
from muxado.engine.waiting import WaitQueue, wait_until
from muxado.engine.watchdog import Watchdog
from muxado.engine.writer import WriterThread
from muxado.engine.writing import WriteSeat
from muxado.errors import ErrorCode
from muxado.protocol import SessionEnd

if TYPE_CHECKING:
    from muxado.config import Config
    from muxado.transport import Transport

__all__ = ["Engine"]

#: Seconds that close() waits for the session's threads beyond `linger`.
_JOIN = 2.0

_log = logging.getLogger("muxado")


class Engine:
    """The threads and seats of one session. ``Session`` and ``Stream`` are its faces."""

    def __init__(self, transport: Transport, config: Config, *, client: bool) -> None:
        self.transport = transport
        self.core = core = Core(config, client=client)
        self.keepalive = Keepalive(
            config.heartbeat_interval, config.heartbeat_tolerance, time.monotonic()
        )
        self.reading = ReadSeat(core, transport, self.keepalive)
        self.receiver = Receiver(core, self.reading)
        self.writing = WriteSeat(core, transport)
        self.sender = Sender(core, self.reading, self.writing)
        self.streams = Streams(core, self.reading, self.writing, self.sender)
        self._watchdog = Watchdog(core, self.reading)
        self._writer = WriterThread(core, self.reading, self.writing, self.keepalive)
        #: Guarded by the core's lock: the writer thread has written its last byte; the connection
        #: is closed.
        self._written = self._over = False
        self._threads = [
            threading.Thread(target=target, name=f"muxado-{name}-{core.name}", daemon=True)
            for name, target in (("writer", self._write), ("reader", self._read))
        ]

    def start(self) -> None:
        """Start the threads; if that fails, nothing of the session is left."""
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:
            self._end(ErrorCode.INTERNAL_ERROR, silent=True)
            self.transport.shutdown()  # a thread that did start may be reading
            self.transport.close()
            raise
        process.register(self)
        core = self.core
        if core.log is not None:
            typed = ", typed," if core.protocol.config.typed else ""
            peer = self.transport.getpeername() or "a peer without an address"
            core.log.event(
                "a session of version %d%s with %s", core.protocol.config.version, typed, peer
            )

    @property
    def rescues(self) -> int:
        """How often the reader thread found somebody waiting and nobody reading."""
        return self._watchdog.rescues

    # The end.

    def go_away(self, code: int, debug: bytes) -> None:
        """GOAWAY; new streams of the peer are refused, those under way go on."""
        core = self.core

        def go_away_locked() -> None:
            if core.end is None and not core.closing:
                core.protocol.go_away(code, debug, final=False)
                if core.log is not None:
                    core.log.event("going away: %s", ErrorCode.of(code).name)

        core.section(go_away_locked)

    def drain(self, deadline: float | None) -> bool:
        """Wait until no stream is left; false past ``deadline``."""
        core = self.core

        def ready() -> WaitQueue | None:
            over = core.end is not None or not core.protocol.alive
            return None if over else core.drainers

        done = self.reading.wait(ready, deadline)
        if core.protocol.alive and core.end is not None and core.end.error is not None:
            raise core.session_error()  # the streams ended, but not as they should
        return done

    def wait(self, deadline: float | None) -> SessionEnd:
        """Wait for the end of the session."""
        core = self.core
        if not self.reading.wait(core.until_end, deadline, reads=False):
            raise TimeoutError("timed out")
        assert core.end is not None
        return core.end

    def wait_for_reported_end(self, stop: Callable[[], bool]) -> None:
        """Wait until ``accept()`` has reported the end of the session, or ``stop()``."""
        core = self.core
        self.reading.wait(
            lambda: None if core.end_reported or stop() else core.watchers, None, reads=False
        )

    def close(self) -> None:
        """Flush what was written, send GOAWAY, close the connection."""
        core = self.core
        if core.lock._is_owned() or core.sits() or get_ident() in self.sender.turns:
            self.close_elsewhere()
            return
        deadline = time.monotonic() + core.protocol.config.linger

        def stop_locked() -> None:
            if core.log is not None and not core.closing and core.end is None:
                core.log.event("closing")
            core.closing, self._writer.close_deadline = True, deadline
            if core.end is None:
                core.protocol.refuse_backlog()
                core.protocol.going_away = True
            core.announce_locked()
            core.acceptors.wake_all()
            core.writer_waiter.wake()
            if core.session_poller is not None:
                core.stale.append(core.session_poller)

        def end_once_flushed() -> WaitQueue | None:
            queue = self.writing.until_flushed()
            if queue is None:  # in the same section, so that nobody begins a frame in between
                core.end_locked(ErrorCode.NO_ERROR, None, b"")
            return queue

        core.section(stop_locked)
        try:
            self.reading.wait(end_once_flushed, deadline, reads=False)
        finally:
            self._end(ErrorCode.NO_ERROR)
        self._await_end(deadline)

    def close_elsewhere(self) -> None:
        """:meth:`close` in a thread of its own, where nothing may be waited for."""
        try:
            _thread.start_new_thread(self.close, ())
        except RuntimeError:  # no thread is to be had: then without waiting for what is unsent
            self.core.note(functools.partial(self._end, ErrorCode.NO_ERROR))

    def kill(self) -> None:
        """Close the connection now."""
        core = self.core
        end = functools.partial(self._end, ErrorCode.SESSION_CLOSED, silent=True)
        if core.lock._is_owned() or core.sits():
            try:
                _thread.start_new_thread(self.kill, ())
            except RuntimeError:  # no thread is to be had: as soon as the writer thread is free
                core.note(end)
            return
        end()
        self.transport.shutdown()
        self._await_end(time.monotonic())

    def _end(self, code: ErrorCode, *, silent: bool = False) -> None:
        core = self.core

        def end_locked() -> None:
            core.closing = True
            core.silent |= silent
            core.end_locked(code, None, b"")

        core.section(end_locked)

    def _await_end(self, deadline: float) -> None:
        """Wait, not for ever, until the threads are gone and the descriptor is given back."""
        if threading.current_thread() in self._threads:
            return
        deadline = max(deadline, time.monotonic()) + _JOIN
        wait_until(self.core.lock, self.core.watchers, lambda: self._over, deadline)
        for thread in self._threads:
            thread.join(_JOIN if self._over else 0)

    def abandon(self) -> None:
        """In the child of a fork: the connection and the threads are the parent's."""
        self._written = self._over = True
        self._threads.clear()
        self.transport.abandon()

    # The threads.

    def _write(self) -> None:
        """The writer thread."""
        try:
            self._run(self._writer.run)
            self._writer.finish()
        finally:
            with self.core.lock:
                self._written = True
                self.core.watchers.wake_all()
            self.core.writer_gone = True
            self.core.carry_out_notes()

    def _read(self) -> None:
        """The reader thread: at the end it gives the connection back."""
        core, transport = self.core, self.transport
        try:
            if not self._run(self._watchdog.run):
                self._run(self._watchdog.run)  # now that the session is over, to take the seat
            deadline = time.monotonic() + core.protocol.config.linger
            wait_until(core.lock, core.watchers, lambda: self._written, deadline)
            if not core.silent:
                transport.linger(memoryview(bytearray(READ)), deadline)
        finally:
            transport.shutdown()
            transport.close()
            with core.lock:
                self._over = True
                core.watchers.wake_all()

    def _run(self, work: Callable[[], None]) -> bool:
        """Do ``work``; an exception ends the session, and is logged. False after one."""
        core = self.core
        try:
            work()
        except BaseException as error:
            with core.lock:
                core.end_poisoned_locked(error)
                core.dirty = False
                if core.writer == get_ident():
                    core.writer = 0
                if core.leader is core.reader_waiter and core.leader.thread == get_ident():
                    core.leader = None
            _log.exception("%s: a thread failed", core.name)
            return False
        return True
