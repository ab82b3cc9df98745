"""The reader thread, which watches over the read seat and reads while no caller does.

It looks at the seat every ``_NAP`` seconds. When it finds it free and unused since its last look,
it wakes a follower, or sits there itself where there is none, or where a descriptor is polled.
While one leader sits on and on, the thread parks, so that neither an idle session nor a caller
that waits for an hour costs anything. With that, no wake-up that never came (that of a caller
which an exception took away, say) can stop a session for longer than two naps.
"""

from __future__ import annotations

import time
from threading import get_ident

from muxado.engine.core import TAKEN, Core
from muxado.engine.reading import ReadSeat

__all__ = ["Watchdog"]

#: Seconds between two looks.
_NAP = 0.005
#: Looks at the same leader after which the thread parks.
_LONG_SIT = 20


class Watchdog:
    """The reader thread's own state, and what it does."""

    def __init__(self, core: Core, reading: ReadSeat) -> None:
        self._core = core
        self._reading = reading
        #: How often callers had left at the last look, and how many looks have seen the same one.
        self._used, self._looks = -1, 0
        #: At the last look a follower was on its way to the seat. It may be in a signal's handler.
        self._expected = False
        #: How often the seat was free, somebody waited, and nobody was on the way.
        self.rescues = 0

    def run(self) -> None:
        """Watch until the session is over; then the seat is taken for good."""
        core, me = self._core, self._core.reader_waiter
        me.thread = get_ident()
        while True:
            me.prepare()
            with core.lock:
                if core.dirty or core.struck:
                    core.recover_locked()
                core.dirty = True
                sits, pause = self._look_locked()
                over = sits and core.end is not None
                core.dirty = False
            core.settle()
            if over:
                me.thread = TAKEN  # a thread that starts later may get this one's ident
                return
            if sits:
                self._sit()
            else:
                deadline = None if pause is None else time.monotonic() + pause
                me.sleep(deadline)
                if deadline is not None and time.monotonic() < deadline:
                    self._used = -1  # woken early: the next look comes too soon to call it unused

    def _look_locked(self) -> tuple[bool, float | None]:
        """Whether to sit, or else for how many seconds to sleep, ``None`` until woken."""
        core, reading = self._core, self._reading
        unused = self._used == reading.sittings and not reading.parked
        self._used, reading.parked = reading.sittings, False
        expected, self._expected = self._expected, False
        if core.leader is None:
            self._looks = 0
            if (
                reading.pins
                or core.end is not None
                or (unused and (expected or not core.followers))
            ):
                core.leader = core.reader_waiter
                core.leader.connection = reading.transport
                return True, None
            if unused:
                self._expected = True
                if not any(waiter.woken for waiter in core.followers):
                    self.rescues += 1
                    next(iter(core.followers)).wake()
            return False, _NAP
        if core.end is not None:
            core.leader.wake()
            return False, _NAP  # and not parked: an exception may keep the leader from leaving
        if reading.pins:
            core.leader.wake()  # it leaves, and wakes us
            self._looks = _LONG_SIT
        else:
            self._looks = self._looks + 1 if unused else 0
        if self._looks >= _LONG_SIT:
            self._looks, reading.parked = 0, True
            return False, None
        return False, _NAP

    def _sit(self) -> None:
        """Read until there is a follower to do so."""
        core, reading, me = self._core, self._reading, self._core.reader_waiter
        leaves = False
        while not leaves:
            reading.read_once()
            with core.lock:
                if core.dirty or core.struck:
                    core.recover_locked()
                core.dirty = True
                leaves = core.end is not None or (bool(core.followers) and not reading.pins)
                if leaves:
                    me.connection = None
                    core.leader = None
                    self._used = -1  # a nap before the next look that may find the seat unused
                    if core.followers:
                        next(iter(core.followers)).wake()
                core.dirty = False
