"""The state of a session: streams, windows, half-closes, heartbeats, GOAWAY.

Nothing here has a socket, a lock or a clock of its own: bytes and the time are handed in, frames
are handed out, and whoever owns a :class:`Protocol` guards it. The rules are in ``protocol.py``.
"""

from __future__ import annotations

from muxado.protocol.flow import MAX_TURN
from muxado.protocol.protocol import MAX_PRIORITY, Protocol
from muxado.protocol.streams import Failure, ReceiveBuffer, SessionEnd, StreamState

__all__ = [
    "MAX_PRIORITY",
    "MAX_TURN",
    "Failure",
    "Protocol",
    "ReceiveBuffer",
    "SessionEnd",
    "StreamState",
]
