"""What a peer may cost beyond the bytes it sends: a token bucket, as plain arithmetic."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Budget"]


class Budget:
    """Up to ``size`` at once, and ``size`` a second in the long run.

    Only what is abnormal is charged for, so the clock is read for that alone. ``clock`` returns
    seconds and never goes back.
    """

    __slots__ = ("_clock", "_empty_at", "size")

    def __init__(self, size: int, clock: Callable[[], float]) -> None:
        self.size = size
        self._clock = clock
        #: When all that was charged is paid off; up to a second ahead.
        self._empty_at = clock()

    def charge(self, cost: int) -> bool:
        """Take ``cost``; false when there is not as much left."""
        now = self._clock()
        paid_off = max(self._empty_at, now) + cost / self.size
        if paid_off > now + 1 + 1e-6:  # what sums of fractions are off by
            return False
        self._empty_at = paid_off
        return True

    @property
    def left(self) -> int:
        """What may be charged now."""
        return max(0, self.size - round(max(0.0, self._empty_at - self._clock()) * self.size))
