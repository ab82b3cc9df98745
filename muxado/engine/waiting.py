"""How a thread waits until another wakes it: one kind of waiter, one way to wake it.

A waiter is used under a lock of its owner's choice, by one rule: whoever waits looks at what it
waits for, calls ``Waiter.prepare`` in the same turn of the lock, and only then sleeps, without
the lock. Whoever changes what is waited for does so under the same lock and wakes the waiters
afterwards. So a wake-up can come too early, before the sleep, but never be lost: it ends the sleep
at once, and whoever has slept looks again.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any
from typing import Protocol as Interface

__all__ = ["WaitQueue", "Waiter", "wait_until"]


class Wakeable(Interface):
    """Something other than a lock that a thread may wait in: a connection."""

    def wake(self) -> None:
        """End the wait."""


class Waiter:
    """What one thread sleeps on.

    :meth:`wake` takes no lock that anybody holds while waiting, so a finalizer or a handler of a
    signal may call it at any moment.
    """

    __slots__ = ("_lock", "connection", "prepare", "queue", "ring", "thread", "yields")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        #: Forgets wake-ups of before; those that come from now on end the next sleep.
        self.prepare = functools.partial(self._lock.acquire, False)
        #: Ends the sleep, or raises ``RuntimeError`` where there is none. It is in C, so that no
        #: exception can strike inside; for where one has just ended a call.
        self.ring = self._lock.release
        #: Where its thread waits while it reads for everybody, else ``None``.
        self.connection: Wakeable | None = None
        #: The queue it stands in.
        self.queue: WaitQueue | None = None
        #: The thread that waits.
        self.thread = 0
        #: It has just woken another reader and lets that one read next.
        self.yields = False

    def sleep(self, deadline: float | None) -> None:
        """Wait for :meth:`wake`, or until ``deadline`` (seconds, monotonic)."""
        if deadline is None:
            self._lock.acquire()
        else:
            left = max(0.0, deadline - time.monotonic())
            self._lock.acquire(True, min(left, threading.TIMEOUT_MAX))
        self.yields = False

    @property
    def woken(self) -> bool:
        """Whether its thread has been woken since it called ``prepare``."""
        return not self._lock.locked()

    def wake(self) -> None:
        """End the sleep, or the wait in the connection, that is under way or comes next."""
        connection = self.connection
        if connection is not None:
            connection.wake()
        elif self._lock.locked():
            try:
                self._lock.release()
            except RuntimeError:
                pass  # another thread has just woken it


class WaitQueue(list[Waiter]):
    """The waiters that wait for one thing, oldest first."""

    __slots__ = ()

    def wake_all(self) -> None:
        """Have all of them look again."""
        for waiter in self:
            waiter.wake()


def wait_until(
    lock: Any, queue: WaitQueue, ready: Callable[[], object], deadline: float | None
) -> bool:
    """Wait until ``ready()``, asked with ``lock`` held, is true; false past ``deadline``.

    Whoever makes it true calls ``queue.wake_all()`` with the lock held. For waits that have
    nothing to do with a session's connection; those are in ``reading.py``.
    """
    waiter = Waiter()
    try:
        while True:
            with lock:
                if ready():
                    return True
                if deadline is not None and time.monotonic() >= deadline:
                    return False
                if waiter not in queue:
                    queue.append(waiter)
                waiter.prepare()
            waiter.sleep(deadline)
    finally:
        with lock:
            if waiter in queue:
                queue.remove(waiter)
