"""When to send heartbeats, and when to judge the peer's silence. Pure: callers pass the time."""

from __future__ import annotations

__all__ = ["Keepalive"]

#: A look that comes later than it should by so much of the tolerance shows that this process was
#: stopped, or starved of processor time.
_LATE = 0.25


class Keepalive:
    """The clock of a session's heartbeats. Any byte from the peer is a sign of life.

    ``interval`` and ``tolerance`` are the fields of ``Config``; all times are in seconds.
    """

    def __init__(self, interval: float | None, tolerance: float, now: float) -> None:
        self._interval = interval
        self._tolerance = tolerance
        self._asked = now
        #: When a heartbeat was asked for since which nothing was heard.
        self._silent_since: float | None = None
        self._look_due = now
        #: Bytes came since the last look; whoever reads the connection sets it.
        self.heard = False
        #: Heartbeats asked for, and answered; and the last one's round trip.
        self.questions = self.answers = 0
        self.latency: float | None = None

    def answered(self, now: float) -> float:
        """The peer has answered a heartbeat: how long it took."""
        self.latency = now - self._asked
        self.answers += 1
        return self.latency

    def is_due(self, now: float) -> bool:
        """Whether to ask for a sign of life now; then :meth:`asked` is to be called."""
        return self._interval is not None and now >= self._asked + self._interval

    def asked(self, now: float, *, sent: bool) -> None:
        """It was time; ``sent``: a heartbeat goes out."""
        self._asked = now
        if sent:
            self.questions += 1
            if self._silent_since is None:
                self._silent_since = now

    def look(self, now: float) -> float | None:
        """Seconds until the next look, ``None`` for never; 0 or less if the silence is too long.

        A process that was stopped judges nobody: it neither asked nor listened meanwhile, so it
        waits once more for as long.
        """
        if self._interval is None:
            return None
        if self.heard:
            self.heard = False
            self._silent_since = None
        if self._silent_since is not None and now > self._look_due + self._tolerance * _LATE:
            self._silent_since = now
        left = max(self._asked + self._interval - now, 0.001)
        if self._silent_since is not None:
            left = min(left, self._silent_since + self._tolerance - now)
        self._look_due = now + max(left, 0.0)
        return left

    def forgive(self, now: float) -> None:
        """Bytes lie unread here: it is this side that has not listened."""
        if self._silent_since is not None:
            self._silent_since = now

    @property
    def silent_since(self) -> float | None:
        """Since when the peer has been silent though it was asked, if it has."""
        return self._silent_since

    @property
    def verdict(self) -> str:
        """What to say of a peer whose silence was too long."""
        return f"the peer has been silent for {self._tolerance} seconds after a heartbeat"
