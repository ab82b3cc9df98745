"""Logging what happens inside a session: noted under its lock, said without it.

A handler of ``logging`` runs any code, so it is never called while the session's lock is held.
What is to be logged is noted instead, and said by whoever lets go of the lock next. Whether
anything is noted is decided once, when the session starts; where nothing is, the lock is a plain
one and there is nothing to pay.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import threading
from typing import Any

__all__ = ["Notes", "frames", "log"]

#: One line for each event of a session, at DEBUG.
log = logging.getLogger("muxado")
#: One line for each frame, at DEBUG.
frames = logging.getLogger("muxado.frames")


class Notes:
    """The lock of a session ``name``, and what is to be said once it is free."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.RLock()
        # Appended with the lock held; so what is said is in the order in which it happened.
        self._notes: collections.deque[tuple[logging.Logger, str, tuple[Any, ...]]]
        self._notes = collections.deque()
        self._saying = threading.RLock()  # never taken with _lock held

    @staticmethod
    def wanted() -> bool:
        """Whether anybody listens now."""
        return log.isEnabledFor(logging.DEBUG) or frames.isEnabledFor(logging.DEBUG)

    def event(self, text: str, *args: Any) -> None:
        """Note an event of the session."""
        self._notes.append((log, "%s: " + text, (self._name, *args)))

    def frame(self, text: str, *args: Any) -> None:
        """Note a frame."""
        self._notes.append((frames, "%s: " + text, (self._name, *args)))

    # What the engine asks of its lock.

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if self._notes and not self._is_owned():
            self._say()

    def _is_owned(self) -> bool:
        # A handler that uses the session it is told of stands inside it, as a finalizer may.
        return bool(self._lock._is_owned() or self._saying._is_owned())  # type: ignore[attr-defined]

    def _say(self) -> None:
        with self._saying:
            while True:  # not `while self._notes`: see Secure.recv_into()
                if not self._notes:
                    break
                logger, text, args = self._notes.popleft()
                with contextlib.suppress(Exception):  # a filter's fault is not the session's
                    logger.debug(text, *args)
