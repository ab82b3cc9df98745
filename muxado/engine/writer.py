"""The writer thread: what no caller is there to write, heartbeats, and what finalizers leave."""

from __future__ import annotations

import time
from threading import get_ident
from typing import TYPE_CHECKING

from muxado.engine.core import TAKEN, Core
from muxado.engine.keepalive import Keepalive
from muxado.engine.reading import ReadSeat
from muxado.engine.writing import WriteSeat
from muxado.errors import Error, ErrorCode, HeartbeatTimeout

if TYPE_CHECKING:
    from muxado.protocol import StreamState

__all__ = ["WriterThread"]

#: Seconds that a SYN or FIN waits for another frame to go with.
_DELAY = 0.002
#: How often in a row the thread waits so long, with nothing to send after it, before it parks. More
#: streams are likely to be opened or closed meanwhile, which need not wake it then.
_IDLE_DELAYS = 8
#: Seconds that the end of the connection is waited for after a write failed.
_BROKEN = 1.0
#: Seconds to let the read side have its turn before the peer's silence is judged again.
_LISTEN = 0.005


class WriterThread:
    """The writer thread's own state, and what it does."""

    def __init__(
        self, core: Core, reading: ReadSeat, writing: WriteSeat, keepalive: Keepalive
    ) -> None:
        self._core = core
        self._reading = reading
        self._writing = writing
        self._keepalive = keepalive
        #: Whose SYN and whose FIN had waited longest at the last look.
        self._before: tuple[StreamState | None, StreamState | None] = (None, None)
        self._rested = False  # the last sleep was not cut short
        self._idle = _IDLE_DELAYS
        #: Until when the last GOAWAY waits for the connection to take it (seconds, monotonic).
        self.close_deadline = 0.0

    def run(self) -> None:
        """Work until the session is over."""
        core, writing, me = self._core, self._writing, self._core.writer_waiter
        me.thread = get_ident()
        while core.end is None:
            me.prepare()
            if core.notes:
                core.carry_out_notes()
            if core.stale:
                core.settle()
            with core.lock:
                if core.dirty or core.struck:
                    core.recover_locked()
                core.dirty = True
                writing.parked = False
                now = time.monotonic()
                beat = self._heartbeat_locked(now)
                silent = beat is not None and beat <= 0
                sits, pause = (False, None) if silent else self._look_locked(now)
                if beat is not None and not silent:
                    pause = beat if pause is None else min(pause, beat)
                core.dirty = False
            if silent:
                self._judge()
            elif sits:
                # However long the connection takes no more, the clock goes on.
                writing.write_batch(None if beat is None else now + beat)
                self._rested = False
            else:
                deadline = None if pause is None else now + pause
                me.sleep(deadline)
                self._rested = deadline is not None and time.monotonic() >= deadline

    def _look_locked(self, now: float) -> tuple[bool, float | None]:
        """Whether to write, having taken the seat; or else for how many seconds to sleep."""
        core, writing, pending = self._core, self._writing, self._core.protocol.pending
        if core.end is not None:
            return False, 0.0
        if writing.broken is not None:
            left = writing.broken[0] + _BROKEN - now
            if left <= 0:
                core.end_locked(ErrorCode.PEER_EOF, writing.broken[1], b"")
            return False, left
        before = self._before
        opening, ending = next(iter(pending.opening), None), next(iter(pending.ending), None)
        self._before = (opening, ending)
        waits = opening is not None or ending is not None
        # Only what has waited since the last look: the rest may still go with another frame.
        overdue = self._rested and (
            (opening is not None and opening is before[0])
            or (ending is not None and ending is before[1])
        )
        if not core.writer and (writing.has_work() or (waits and (overdue or core.closing))):
            writing.load_locked(opening=True)
            self._idle = 0
            return True, None
        if waits and not overdue:
            self._idle = 0
            return False, _DELAY
        core.flushers.wake_all()  # what was to be sent may have been given up, with a stream
        if overdue and opening is not None:
            core.protocol.announce(opening)  # whoever writes would leave it to its first bytes
        elif self._idle < _IDLE_DELAYS:
            self._idle += 1
            return False, _DELAY
        writing.parked = True
        return False, None

    def _heartbeat_locked(self, now: float) -> float | None:
        """Ask for a sign of life when it is time; returns seconds until this must run again.

        ``None``: never. 0 or less: the peer has been silent for too long.
        """
        keepalive = self._keepalive
        if self._writing.transport.heard:  # part of a TLS record is a sign of life too
            self._writing.transport.heard = False
            keepalive.heard = True
        if keepalive.is_due(now):
            keepalive.asked(now, sent=self._core.protocol.beat())
        return keepalive.look(now)

    def _judge(self) -> None:
        """The peer has been silent for too long, unless it is this side that has not listened."""
        core, keepalive = self._core, self._keepalive
        if self._writing.transport.readable() or self._reading.mid_read:
            core.writer_waiter.sleep(time.monotonic() + _LISTEN)
            keepalive.forgive(time.monotonic())
            return

        def end_locked() -> None:
            if not keepalive.heard:
                error = HeartbeatTimeout(keepalive.verdict)
                core.end_locked(ErrorCode.SESSION_CLOSED, error, b"")

        core.section(end_locked)

    def finish(self) -> None:
        """After the end: GOAWAY, and no byte more."""
        core, writing = self._core, self._writing
        frames = b""

        def take_seat_locked() -> bool:
            nonlocal frames
            if core.writer:
                return False
            core.writer = TAKEN
            assert core.end is not None
            if not core.silent and writing.broken is None:
                core.protocol.go_away(core.end.code, _debug_bytes(core.end.error), final=True)
                frames = writing.outbox.take()[0] + core.protocol.control_frames(opening=False)
            return True

        core.writer_waiter.prepare()
        while not core.section(take_seat_locked):
            core.writer_waiter.sleep(None)  # whoever writes sees the end, leaves and wakes us
            core.writer_waiter.prepare()
        try:
            if frames:
                self._send_last(frames)
            if not core.silent:
                writing.transport.finish()
        except (OSError, ValueError):
            pass  # the connection went first

    def _send_last(self, frames: bytes) -> None:
        """Send ``frames``; only ``close()`` allows time for what does not go at once."""
        transport = self._writing.transport
        while True:
            frames = frames[transport.send([frames] if frames else ()) :]
            left = self.close_deadline - time.monotonic()
            if left <= 0 or not (frames or transport.pending):
                return
            transport.wait_writable(left)


def _debug_bytes(error: BaseException | None) -> bytes:
    """What to tell the peer's developer about our reason."""
    if error is None:
        return b""
    text = error.strerror if isinstance(error, Error) else str(error)
    return str(text).encode()[:256]
