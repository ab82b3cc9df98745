"""Which stream sends next: the one of the highest priority, and equals take turns."""

from __future__ import annotations

import heapq
from typing import Any, Generic, TypeVar

__all__ = ["Schedule"]

T = TypeVar("T")


class Schedule(Generic[T]):
    """The streams that have bytes to send and window to send them in.

    Items must be hashable. Adding one that is in changes nothing but its priority.
    """

    __slots__ = ("_count", "_heap", "waiting")

    def __init__(self) -> None:
        #: The items, each with its entry in the heap; to look at only.
        self.waiting: dict[T, list[Any]] = {}
        # Entries are [negated priority, serial number, item]. One that was discarded stays in the
        # heap until it comes up, its item replaced by None, unless such entries become many.
        self._heap: list[list[Any]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self.waiting)

    def __contains__(self, item: T) -> bool:
        return item in self.waiting

    def add(self, item: T, priority: int) -> None:
        """Put ``item`` behind all others of its priority."""
        before = self.waiting.get(item)
        if before is not None:
            if before[0] == -priority:
                return
            self.discard(item)
        self._count += 1
        self.waiting[item] = entry = [-priority, self._count, item]
        heapq.heappush(self._heap, entry)

    def discard(self, item: T) -> None:
        """Take ``item`` out, if it is in."""
        entry = self.waiting.pop(item, None)
        if entry is not None:
            entry[2] = None
            if len(self._heap) > 2 * len(self.waiting) + 8:
                self._heap = list(self.waiting.values())
                heapq.heapify(self._heap)

    def first(self) -> T:
        """The one that :meth:`pop` would return; ``IndexError`` when there is none."""
        while self._heap[0][2] is None:
            heapq.heappop(self._heap)
        item: T = self._heap[0][2]
        return item

    def pop(self) -> T:
        """Take out and return the one that goes next; ``IndexError`` when there is none."""
        item = self.first()
        heapq.heappop(self._heap)
        del self.waiting[item]
        return item
