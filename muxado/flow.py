"""Flow control: how much each side may send, as plain arithmetic.

Both ends assume the same window for a new stream. The receiver grants what its application has
read, in steps of half a window: an update per read would cost a frame each, and a window that
runs dry before it is topped up would stall the sender.
"""

from __future__ import annotations

from muxado.config import MAX_WINDOW

__all__ = ["ReceiveWindow", "SendWindow"]


class SendWindow:
    """What the peer lets us send on one stream."""

    __slots__ = ("left",)

    def __init__(self, size: int) -> None:
        #: Bytes that may still be sent.
        self.left = size

    def grant(self, increment: int) -> bool:
        """The peer adds ``increment`` bytes; false when no honest peer would get this far."""
        if self.left + increment > MAX_WINDOW:
            return False
        self.left += increment
        return True


class ReceiveWindow:
    """What we let the peer send on one stream."""

    __slots__ = ("left", "read", "size")

    def __init__(self, size: int) -> None:
        #: Bytes the peer could have under way at once.
        self.size = size
        #: Bytes the peer may still send.
        self.left = size
        #: Bytes the application has read that the peer does not know of yet.
        self.read = 0

    def consume(self, count: int) -> bool:
        """The application has read ``count`` bytes; true when an update is due."""
        self.read += count
        return self.read * 2 >= self.size

    def grant(self) -> int:
        """The increment to tell the peer now, 0 for none; it counts as told."""
        increment, self.read = self.read, 0
        self.left += increment
        return increment
