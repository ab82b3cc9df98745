"""Flow control: how much each side may send, as plain arithmetic.

Both ends assume the same window for a new stream. The receiver grants what its application has
read, in steps of half a window: an update per read would cost a frame each, and a window that
runs dry before it is topped up would stall the sender. A window that has grown is topped up after
three quarters of what it started with, if nothing else is to be received: some senders never let
theirs grow (ngrok's agent in Rust stops after 262144 bytes, whatever it has been granted).

**How a receive window grows.** A sender with a window of ``size`` sends no more than ``size`` bytes
in a round trip. So when three times what the application reads in a round trip is more than the
window, the window grows to that. The factor is three because updates come at half a window, so
that the sender always has a round trip's worth left. Where the window was the limit this doubles
it each round trip; where something else is, it stops by itself. (TCP does the same: Fisk and Feng,
"Dynamic Right-Sizing in TCP".) Reading counts, not arriving, so a slow reader keeps a small window.

**Among many streams** each has its turn now and then, and sends in it what its window allows. A
turn costs both ends a thread's waking, so short windows make many streams slow. A window that was
used up, and read at once, grows to two whole turns.

**The round trip** is measured by updates: bytes beyond the old limit cannot come before the peer
has the update. They may come later, so only the shortest time seen on the session is believed;
heartbeats count too.

**How it shrinks.** A grant cannot be taken back, so a window that is too large is halved by
granting nothing until the peer has no more left than the new size. Only bytes that the peer has
used, and beyond what a stream starts with, are withheld. So a window shrinks where it costs memory.

All windows together promise memory to the peer. Growth stops where that sum, with the bytes kept
for streams that were reset, would exceed the session's budget, and windows shrink while it does.
"""

from __future__ import annotations

__all__ = ["MAX_TURN", "ReceiveWindow", "SendWindow", "Windows"]

#: Seconds that reading is watched at least: on a short link it comes in bursts.
_BURST = 0.005
#: Seconds after which a window that was never needed in them is halved.
_SETTLE = 1.0
#: Seconds that a round trip counts as at least, since a thread must wake up: for the only stream of
#: a session, and for one among others.
_AWAKENING = 0.001
_AWAKENING_BESIDE = 0.0002
#: Bytes that a stream sends at most before it is another's turn, however fast the connection is.
MAX_TURN = 1048576
#: Seconds within which half of a window is read that grows because it was used up, by how much at a
#: time, and up to how many bytes: those of a turn, and as many again while the update of that is
#: under way.
_AT_ONCE = 0.002
_STEP = 4
_TURNS = 2 * MAX_TURN


class SendWindow:
    """What the peer lets us send on one stream."""

    __slots__ = ("left", "most")

    def __init__(self, size: int) -> None:
        #: Bytes that may still be sent.
        self.left = size
        #: The most that it ever was.
        self.most = size


class ReceiveWindow:
    """What we let the peer send on one stream.

    Always: ``left``, what is received and not read, and ``read`` add up to ``size``.
    """

    __slots__ = (
        "_need",
        "_quiet",
        "_read",
        "_since",
        "asked",
        "due",
        "left",
        "mark",
        "read",
        "size",
        "told",
        "used_up",
    )

    def __init__(self, size: int) -> None:
        #: Bytes the peer could have under way at once.
        self.size = size
        #: Bytes in `read` for which an update may be sent.
        self.due = (size + 1) // 2
        #: Bytes the peer may still send.
        self.left = size
        #: Bytes the application has read that the peer does not know of yet. Below 0 after the
        #: window has shrunk: so many more will be read before anything is granted.
        self.read = 0
        #: With less than this left, ``Windows.reached`` is to be called: the window is used up,
        #: or bytes have come that the peer could not send before it had a certain update.
        self.mark = 1
        #: When that update was sent; below 0 while no round trip is being measured.
        self.asked = -1.0
        #: When the window was used up last; below 0 if it never was.
        self.used_up = -1.0
        self._since = -1.0  # when the application began to read `_read` bytes; before the first, -1
        # Not before the first update:
        self.told: int  # `read`, as the last update left it
        self._read: int
        self._need: float  # the largest window that was needed since the time `_quiet`
        self._quiet: float

    def grant(self) -> int:
        """The increment to tell the peer now, 0 for none; it counts as told."""
        increment = self.read
        if increment <= 0:
            return 0
        self.read = 0
        self.left += increment
        return increment

    def needed(self, now: float, trip: float) -> float | None:
        """The window that the application's reading asks for, ``None`` before that is known.

        To be called when an update is due. ``trip`` is the round trip in seconds.
        """
        need = None
        if self._since < 0:
            self._need, self._quiet = 0.0, now
            self._since, self._read = now, 0
        else:
            self._read += self.read - self.told
            took = now - self._since
            if took >= max(trip, _BURST):
                need = 3 * self._read * trip / took
                self._need = need if took >= _SETTLE else max(need, self._need)
                self._since, self._read = now, 0
        if not self.left and 0 < now - self.used_up <= _AT_ONCE:  # the window ended its turn
            need = self._need = max(self._need, min(_STEP * self.size, max(self.size, _TURNS)))
        return need

    def unneeded(self, now: float) -> bool:
        """Whether a window half as large would have done, and doubly so, for a while."""
        if now - self._quiet < _SETTLE:
            return False
        need, self._need, self._quiet = self._need, 0.0, now
        return need * 4 <= self.size


class Windows:
    """The receive windows of a session: what each may grow to, and all of them together."""

    __slots__ = ("_budget", "_most", "_start", "kept", "promised", "trip")

    def __init__(self, start: int, most: int, budget: int) -> None:
        self._start = start
        self._most = most
        self._budget = budget
        #: The sum of the sizes of all windows. Whoever makes or drops one adds or subtracts it.
        self.promised = 0
        #: Bytes that streams hold which are over, and which the application may still read.
        self.kept = 0
        #: The shortest round trip seen, in seconds; ``None`` before the first.
        self.trip: float | None = None

    def reached(self, window: ReceiveWindow, now: float) -> None:
        """Bytes have come that leave less than the window's ``mark``."""
        if not window.left:
            window.used_up = now
        if window.asked >= 0:
            self.saw(now - window.asked)
        window.asked, window.mark = -1.0, 1

    def saw(self, trip: float) -> None:
        """Something took ``trip`` seconds that takes a round trip or longer."""
        if trip > 0 and (self.trip is None or trip < self.trip):
            self.trip = trip

    def update(self, window: ReceiveWindow, now: float, *, alone: bool) -> int:
        """An update is due: the increment to tell the peer, 0 for none. It counts as told.

        ``alone``: of a session's only stream.
        """
        if self._most > self._start:
            self._tune(window, now, _AWAKENING if alone else _AWAKENING_BESIDE)
        increment = window.grant()
        window.told = window.read
        if window.asked >= 0:
            window.mark += increment
        elif increment:
            window.mark, window.asked = increment, now
        return increment

    def _tune(self, window: ReceiveWindow, now: float, least: float) -> None:
        """Let ``window`` grow or shrink. A round trip counts as no less than ``least``."""
        need = window.needed(now, max(self.trip or 0.0, least))
        size = window.size
        room = self._budget - self.promised - self.kept
        if need is not None and need > size and room > 0:
            self._resize(window, min(int(need), self._most, size + room))
        elif size > self._start and (room < 0 or (need is not None and window.unneeded(now))):
            # No more than the peer has certainly had beyond the start: one whose own window
            # never grows has lost the rest, and would miss for ever what is withheld.
            spare = size - window.left - self._start
            if spare > 0:
                self._resize(window, max(size // 2, self._start, size - spare))

    def _resize(self, window: ReceiveWindow, size: int) -> None:
        """Let ``window`` be ``size`` large from the next grant on."""
        self.promised += size - window.size
        window.read += size - window.size
        window.size = size
        window.due = min((size + 1) // 2, -(-3 * self._start // 4))
