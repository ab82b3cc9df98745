"""The wire of an emulated link: takes packets from two TUN devices, late and not too many.

A program of its own, so that what is measured over the link does not share an interpreter with it.
It is started by ``tests/helpers/link.py``: ``relay.py FD FD DELAY RATE QUEUE PROCESSOR``.
"""

from __future__ import annotations

import collections
import contextlib
import os
import select
import sys
import time

#: Packets taken from one device before the other has its turn.
_TURN = 64

#: Seconds between two looks at the devices while packets are under way. Woken for each packet the
#: wire would take more processor time than the two ends, and they would be measured waiting for it.
_LOOK = 0.0002


class Direction:
    """One way: packets leave the queue at ``rate`` and arrive ``delay`` seconds later."""

    def __init__(self, source: int, sink: int, delay: float, rate: float, queue: int) -> None:
        self._source, self._sink = source, sink
        self._delay, self._rate, self._queue = delay, rate, queue
        self._free = 0.0  # when the last packet in the queue will have left
        self._under_way: collections.deque[tuple[float, bytes]] = collections.deque()

    def take(self) -> None:
        """Read what the device has; drop what the queue has no room for."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(_TURN):
                packet = os.read(self._source, 65536)
                now = time.monotonic()
                if self._rate:
                    self._free = max(self._free, now)
                    if (self._free - now) * self._rate + len(packet) > self._queue:
                        continue
                    self._free += len(packet) / self._rate
                    now = self._free
                self._under_way.append((now + self._delay, packet))

    def deliver(self) -> float | None:
        """Hand over what has arrived; returns the seconds until the next packet does."""
        under_way = self._under_way
        while under_way:
            left = under_way[0][0] - time.monotonic()
            if left > 0:
                return left
            os.write(self._sink, under_way.popleft()[1])
        return None


def main(near: int, far: int, delay: float, rate: float, queue: int, processor: int) -> None:
    with contextlib.suppress(OSError):
        os.nice(-10)  # it stands for hardware, which waits for nobody
    if processor >= 0:
        os.sched_setaffinity(0, {processor})
    ways = {
        near: Direction(near, far, delay, rate, queue),
        far: Direction(far, near, delay, rate, queue),
    }
    for fd in ways:
        os.set_blocking(fd, False)
    while True:
        waits = [wait for way in ways.values() if (wait := way.deliver()) is not None]
        if waits:
            time.sleep(min(*waits, _LOOK))
        else:
            select.select(list(ways), [], [])
        for way in ways.values():
            way.take()


if __name__ == "__main__":
    _, near, far, delay, rate, queue, processor = sys.argv
    main(int(near), int(far), float(delay), float(rate), int(queue), int(processor))
