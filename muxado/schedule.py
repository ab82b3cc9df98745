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
        # Heap of the negated levels. An exception of a signal's handler can strike behind any call
        # and may leave a level here twice, or one that is no more; never one less.
        self._order: list[int] = []

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
        level = self._levels.get(priority)
        if level is None:
            level = collections.OrderedDict()
            heapq.heappush(self._order, -priority)
            self._levels[priority] = level
        level[item] = None
        self.waiting[item] = priority

    def discard(self, item: T) -> None:
        """Take ``item`` out, if it is in."""
        priority = self.waiting.get(item)
        if priority is not None:
            level = self._levels[priority]
            del level[item]
            del self.waiting[item]
            # A level left empty stays until it comes up in pop(), which is cheaper than searching
            # the heap, unless they would become many.
            if not level and len(self._order) > 2 * len(self.waiting) + 8:
                self._levels = {number: items for number, items in self._levels.items() if items}
                order = [-number for number in self._levels]
                heapq.heapify(order)
                self._order = order

    def first(self) -> T:
        """The one that :meth:`pop` would return; there must be one."""
        while True:
            level = self._levels.get(-self._order[0])
            if level:
                return next(iter(level))
            self._levels.pop(-self._order[0], None)
            heapq.heappop(self._order)

    def pop(self) -> T:
        """Take out and return the one that goes next; ``IndexError`` when there is none."""
        while True:
            priority = -self._order[0]
            level = self._levels.get(priority)
            item = next(iter(level), None) if level else None
            if level and item is not None:
                del level[item]
                del self.waiting[item]
            if not level:
                self._levels.pop(priority, None)
                heapq.heappop(self._order)
            if item is not None:
                return item
