"""Logging what happens inside a session: noted under its lock, said without it.

A handler of ``logging`` runs any code, so it is never called while the session's lock is held.
What is to be logged is noted instead, and said by whoever leaves a seat or dispatches next. Whether
anything is noted is decided once, when the session starts; where nothing is, there is next to
nothing to pay.
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
    """What there is to say of a session ``name``, whose lock is given."""

    def __init__(self, name: str, lock: Any) -> None:
        self._name = name
        self._lock = lock
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

    def saying(self) -> bool:
        """Whether this thread is just saying something: in a handler that uses the session."""
        return bool(self._saying._is_owned())  # type: ignore[attr-defined]

    def say(self) -> None:
        """Call the handlers for what was noted, unless this thread is inside the lock or of one."""
        # Not from the lock's release: as a function in Python that could be struck, by an exception
        # of a signal's handler, before it has released anything.
        if not self._notes or self._lock._is_owned() or self.saying():
            return
        with self._saying:
            while True:  # not `while self._notes`: see Secure.recv_into()
                if not self._notes:
                    break
                logger, text, args = self._notes.popleft()
                with contextlib.suppress(Exception):  # a filter's fault is not the session's
                    logger.debug(text, *args)
