"""Time for tests in which nothing must happen, told by the beats of a session that does nothing."""

from __future__ import annotations

from collections.abc import Callable

from .crew import GUARD
from .support import DATA, RawPeer

#: Seconds between two beats.
INTERVAL = 0.05


class Clock:
    """A session of its own: when it has asked so often, so many of its intervals are over."""

    def __init__(self, raw: Callable[..., RawPeer]) -> None:
        self._peer = raw(client=True, heartbeat_interval=INTERVAL, heartbeat_tolerance=1e6)

    def wait(self, beats: int) -> None:
        """Return when at least ``beats - 1`` intervals are over from now on."""
        sock = self._peer.sock
        sock.setblocking(False)
        try:
            while sock.recv(65536):
                pass  # what is over already does not count
        except BlockingIOError:
            sock.settimeout(GUARD)
        for _ in range(beats):
            self._peer.expect(DATA, 0x7FFFFFFF)
