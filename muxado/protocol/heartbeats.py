"""Heartbeat streams: whatever comes on one is echoed, four bytes at a time.

On version 1 each side opens one and asks on it. On a typed version 2 session peers may open them,
while this side asks with a probe, which needs no stream. The application never sees one.
"""

from __future__ import annotations

from muxado.errors import EnhanceYourCalm
from muxado.protocol.streams import StreamState

__all__ = ["MAX_HEARTBEAT_STREAMS", "HeartbeatStreams"]

#: How many a peer may have open. It needs one.
MAX_HEARTBEAT_STREAMS = 16

#: Bytes that wait to be echoed on one of them.
_MAX_WAITING = 4096

_BEAT = 4  # bytes


class HeartbeatStreams:
    """The heartbeat streams of a session, and the bytes to be sent on them."""

    __slots__ = ("_question", "own", "streams", "waiting")

    def __init__(self) -> None:
        #: All of them, each with what has come of an unfinished beat.
        self.streams: dict[StreamState, bytearray] = {}
        #: The bytes that are to be sent, by stream.
        self.waiting: dict[StreamState, bytes] = {}
        #: The one that this side opened to ask on.
        self.own: StreamState | None = None
        self._question = bytes(_BEAT)  # what the peer should echo on it

    def ask(self, stream: StreamState) -> None:
        """Have the next question sent on ``stream``; one that still waits is replaced."""
        number = int.from_bytes(self._question, "big") + 1
        self._question = (number & 0x7FFFFFFF).to_bytes(_BEAT, "big")
        self.waiting[stream] = self._question

    def receive(self, stream: StreamState) -> bool:
        """Take what has arrived on ``stream``; true if the peer has answered the question."""
        beats = self.streams[stream]
        beats += stream.buffer.take(stream.buffer.size)
        whole = len(beats) - len(beats) % _BEAT
        data = bytes(beats[:whole])
        del beats[:whole]
        if stream is self.own:
            return self._question in [data[i : i + _BEAT] for i in range(0, whole, _BEAT)]
        if data:
            self.waiting[stream] = data = self.waiting.get(stream, b"") + data
            if len(data) > _MAX_WAITING:
                raise EnhanceYourCalm("the peer sends heartbeats and reads no answer")
        return False

    def due(self, *, overtaking: bool) -> list[tuple[StreamState, bytes]]:
        """What is to be sent and fits the window of its stream.

        With ``overtaking``, only what may go before frames made earlier. A heartbeat stream that
        this side opened may not until the peer has sent something on it, since its SYN may be one
        of those frames.
        """
        return [
            (stream, data)
            for stream, data in self.waiting.items()
            if stream.send.left >= len(data)
            and not (overtaking and stream.local and not stream.answered)
        ]
