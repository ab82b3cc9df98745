"""The heartbeat's clock: when to ask, when to judge, and which thread looks at it.

It runs in the writer thread, which never waits for longer than the clock allows. Over a blocking
transport that thread can be stuck in a write of the user's object, for as long as that object
likes. There a third thread, the *keeper*, keeps the clock and ends what is stuck: it tells
everybody of the session's death, gives the last words a moment, and then shuts the object down.
No caller does that, because the object's own ``close()`` may get stuck as well.
"""

from __future__ import annotations

import logging
import time

from muxado.engine.shared import Poller, Shared, bounded
from muxado.errors import ErrorCode, HeartbeatTimeout

__all__ = ["GRACE", "Clock"]

log = logging.getLogger("muxado")

#: Seconds that the last words may take over a blocking transport.
GRACE = 1.0
#: Seconds to let the read side have its turn before the peer's silence is judged again.
_LISTEN = 0.005


class Clock(Shared):
    """Everything that is done for the time that passes."""

    __slots__ = ()

    def _heartbeat_locked(self) -> float | None:
        """Ask for a sign of life when it is time; returns seconds until this must run again.

        ``None``: never. 0 or less: the peer has been silent for too long.
        """
        interval, tolerance = self.config.heartbeat_interval, self.config.heartbeat_tolerance
        if interval is None:
            return None
        now = time.monotonic()
        if self._heard or self.transport.heard:  # any byte is life
            self._heard = self.transport.heard = False
            self._waits_since = None
        if self._waits_since is not None and now > self._look_due + tolerance / 4:
            # This process was stopped or starved, and has neither asked nor listened meanwhile.
            self._waits_since = now
        if now >= self._asked + interval:
            self._asked = now
            if self.protocol.beat():
                self._beats[0] += 1
                if self._waits_since is None:
                    self._waits_since = now
        left = max(self._asked + interval - now, 0.001)
        if self._waits_since is not None:
            left = min(left, self._waits_since + tolerance - now)
        self._look_due = now + max(left, 0.0)
        return left

    def _judge_silence(self) -> None:
        """The tolerance is over: end the session, unless it is us who have not listened."""
        if self.transport.readable() or (self._inline and self._receiving):
            # Bytes have come, and this process was stopped, or is too busy to have looked.
            self._writer_waiter.acquire(True, _LISTEN)
            with self._lock:
                self._waits_since = time.monotonic()
            return
        seconds = self.config.heartbeat_tolerance
        text = f"the peer has been silent for {seconds} seconds after a heartbeat"
        with self._lock:
            if not self._heard:  # not even while we looked
                self._die_locked(ErrorCode.SESSION_CLOSED, HeartbeatTimeout(text), b"")

    # The keeper.

    def _keep_loop(self) -> None:
        """The keeper: the clock, while the session lives; then its end."""
        me = self._keeper_waiter
        try:
            while True:
                pollers: list[Poller] | None = None
                with self._lock:
                    me.acquire(False)
                    # The writer thread, which does this too, may be stuck.
                    if self._dropped or self._abandoned or self._wills:
                        pollers = self._collect_locked()
                    beat = self._heartbeat_locked()
                    if self.protocol.urgent:
                        self._wake_locked(self._writer_waiter)
                    pause = beat
                    if self._closes_by is not None:
                        left = self._closes_by - time.monotonic()
                        if left <= 0:
                            self._die_locked(ErrorCode.NO_ERROR, None, b"")
                        pause = left if pause is None else min(pause, left)
                    if self.death is not None:
                        break
                for poller in pollers or ():
                    poller.sync()
                if beat is not None and beat <= 0:
                    self._judge_silence()
                else:
                    me.acquire(True, bounded(pause))
        except BaseException as error:
            self._die(ErrorCode.INTERNAL_ERROR, error, b"")
            log.exception("%s: the keeper failed", self.name)
        finally:
            self._end_what_is_stuck()

    def _end_what_is_stuck(self) -> None:
        """The keeper, after death."""
        with self._lock:
            pollers = self._pollers_locked()
        for poller in pollers:
            poller.sync()
        if self._silent or not self._last_words.wait(GRACE):
            self.transport.shutdown()

    # What stands above: see the package.

    def _collect_locked(self) -> list[Poller] | None:
        raise NotImplementedError
