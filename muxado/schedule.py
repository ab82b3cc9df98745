"""Which stream sends next: the highest priority that is ready, and equals take turns."""

from __future__ import annotations

import collections
import heapq
from typing import Generic, TypeVar

__all__ = ["Schedule"]

T = TypeVar("T")


class Schedule(Generic[T]):
    """The streams that have bytes to send and window to send them in.

    Items must be hashable. Adding one that is in changes nothing but its priority.
    """

    __slots__ = ("_levels", "_order", "waiting")

    def __init__(self) -> None:
        #: The items, each with its priority; to look at only.
        self.waiting: dict[T, int] = {}
        # level -> its items, first come first; a plain dict gets slow when its front is deleted
        self._levels: dict[int, collections.OrderedDict[T, None]] = {}
        self._order: list[int] = []  # heap of the negated levels; exactly the keys of _levels

    def __len__(self) -> int:
        return len(self.waiting)

    def __contains__(self, item: T) -> bool:
        return item in self.waiting

    def add(self, item: T, priority: int) -> None:
        """Put ``item`` at the end of its level."""
        before = self.waiting.get(item)
        if before == priority:
            return
        if before is not None:
            self.discard(item)
        self.waiting[item] = priority
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = collections.OrderedDict()
            heapq.heappush(self._order, -priority)
        level[item] = None

    def discard(self, item: T) -> None:
        """Take ``item`` out, if it is in."""
        priority = self.waiting.pop(item, None)
        if priority is not None:
            level = self._levels[priority]
            del level[item]
            # A level left empty stays until it comes up in pop(), which is cheaper than searching
            # the heap, unless they would become many.
            if not level and len(self._order) > 2 * len(self.waiting) + 8:
                self._levels = {number: items for number, items in self._levels.items() if items}
                self._order = [-number for number in self._levels]
                heapq.heapify(self._order)

    def pop(self) -> T:
        """Take out and return the one that goes next; ``IndexError`` when there is none."""
        while True:
            priority = -self._order[0]
            level = self._levels[priority]
            item = next(iter(level), None)
            if item is not None:
                del level[item]
                del self.waiting[item]
            if not level:
                heapq.heappop(self._order)
                del self._levels[priority]
            if item is not None:
                return item
