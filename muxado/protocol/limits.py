"""What a peer may do that serves no stream: the budget, its prices, and what is free of charge."""

from __future__ import annotations

from collections.abc import Callable

from muxado.errors import EnhanceYourCalm

__all__ = ["GOAWAY_COST", "USELESS_COST", "WASTED_STREAM_COST", "Budget", "LateFrames"]

# DATA with bytes, SYN, FIN and updates of a window that was used are free.
#: A frame that changes nothing, or that draws a reset. Go sends FIN twice, for example.
USELESS_COST = 1
#: A stream that the peer resets before this side has sent anything on it, or that it makes this
#: side reset.
WASTED_STREAM_COST = 5
#: A GOAWAY. A session needs one or two.
GOAWAY_COST = 100


class Budget:
    """A token bucket: up to ``size`` at once, and ``size`` a second in the long run.

    Only abnormal frames are charged, so the clock is read for those alone. ``clock`` returns
    seconds and never goes back.
    """

    __slots__ = ("_clock", "_empty_at", "size")

    def __init__(self, size: int, clock: Callable[[], float]) -> None:
        self.size = size
        self._clock = clock
        #: When all that was charged is paid off; up to a second ahead.
        self._empty_at = clock()

    def charge(self, cost: int) -> None:
        """Take ``cost``; ``EnhanceYourCalm`` when there is not as much left."""
        now = self._clock()
        paid_off = max(self._empty_at, now) + cost / self.size
        if paid_off > now + 1 + 1e-6:  # the tolerance covers the rounding of sums of fractions
            raise EnhanceYourCalm(f"the peer sends more than {self.size} useless frames a second")
        self._empty_at = paid_off

    @property
    def left(self) -> int:
        """What may be charged now."""
        return max(0, self.size - round(max(0.0, self._empty_at - self._clock()) * self.size))


class LateFrames:
    """Frames that a correct peer may still send to streams which have ended on this side.

    It cannot know yet that they have ended, so these frames are free of charge.
    """

    __slots__ = ("credit", "ends", "resets")

    def __init__(self) -> None:
        #: Bytes sent on streams that are gone, which window updates may still give back.
        self.credit = 0
        #: Streams that are gone and whose FIN has not come.
        self.ends = 0
        #: Resets received for streams that are gone: at most one answers each frame sent.
        self.resets = 0
