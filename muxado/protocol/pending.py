"""Control frames that are to be sent, kept as state and made into bytes when somebody writes.

There is at most one entry per stream and kind, and those that a peer provokes are counted.
"""

from __future__ import annotations

import collections
from collections.abc import Callable

from muxado.protocol.flow import Windows
from muxado.protocol.streams import StreamState
from muxado.wire import Codec

__all__ = ["Pending"]


class Pending:
    """What is to be sent except DATA with bytes, and the count of all that was sent."""

    def __init__(self, codec: Codec, windows: Windows, clock: Callable[[], float]) -> None:
        self._codec, self._windows, self._clock = codec, windows, clock
        #: Streams whose SYN is not sent yet, in the order of their ids.
        self.opening: collections.OrderedDict[StreamState, None] = collections.OrderedDict()
        #: Streams whose FIN is not sent yet.
        self.ending: dict[StreamState, None] = {}
        #: Streams for which a window update is due.
        self.grants: dict[StreamState, None] = {}
        #: Stream ids to reset, each with the error code.
        self.resets: dict[int, int] = {}
        #: The GOAWAY frame.
        self.goaway = b""
        #: The heartbeat's probe frame.
        self.probe = b""
        #: Something must go at once. Without it a SYN, a FIN or a window update may wait for
        #: another frame to go with.
        self.flush_now = False
        #: SYNs must not wait for the first bytes of their streams any longer.
        self.syn_due = False
        #: How many of these frames the peer has provoked.
        self.drawn = 0
        #: Frames made since the start, and the bytes in them. When the connection ends, not all
        #: of them may have been sent.
        self.frames_sent = 0
        self.framed = 0

    def __bool__(self) -> bool:
        """Whether any frame is to be sent, now or later; window updates only if they must go."""
        grants = self.grants and self.flush_now
        return bool(
            self.resets or self.ending or self.opening or self.goaway or self.probe or grants
        )

    def reset(self, stream_id: int, code: int) -> None:
        """Have RST sent for ``stream_id``; the first code given for it stands."""
        self.resets.setdefault(stream_id, code)
        self.flush_now = True

    def abandon(self) -> None:
        """Nothing of all this is to be sent, since it may be half changed."""
        self.opening = collections.OrderedDict()
        self.ending, self.grants, self.resets = {}, {}, {}
        self.goaway = self.probe = b""
        self.flush_now = self.syn_due = False

    def syn(self, stream: StreamState, length: int) -> bytes:
        """The frames that open ``stream``, whose first ``length`` bytes are to follow them.

        SYNs leave in the order of their ids: version 1 demands it, and otherwise the id in a
        GOAWAY would not tell which streams the peer has seen.
        """
        frames = b""
        while (earlier := next(iter(self.opening))) is not stream:
            frames += self.syn(earlier, 0)
        del self.opening[stream]
        stream.opened = True
        codec = self._codec
        header = codec.syn(stream.id, length, stream.priority, stream.stream_type)
        stream.syn_end = self.framed + len(header)
        self.frames_sent += 1
        if length and not codec.syn_is_data:  # then the header of a DATA frame follows the SYN
            stream.syn_end -= 8
            self.frames_sent += 1
        self.framed += len(header) + length
        if not length and stream in self.ending:
            del self.ending[stream]
            header += self.counted([codec.data(stream.id, 0, True)])
        return frames + header

    def take(self, *, opening: bool, alone: bool) -> bytes:
        """All frames, which count as sent.

        ``opening`` adds the SYN of streams that have sent nothing yet; without it they wait for
        their first bytes unless :attr:`syn_due`. ``alone``: the session has one stream at most.
        """
        codec = self._codec
        syns = []
        while self.opening and (opening or self.syn_due):
            syns.append(self.syn(next(iter(self.opening)), 0))
        frames = [self.probe] if self.probe else []
        now = self._clock() if self.grants else 0.0
        for stream in self.grants:
            if stream.closed:  # its window is no longer one of those that may grow
                increment = stream.receive.grant()
            else:
                increment = self._windows.update(stream.receive, now, alone=alone)
            if increment:
                frames.append(codec.window(stream.id, increment))
        for stream in list(self.ending):
            if not stream.opened:
                syns.append(self.syn(stream, 0))  # which takes the FIN along
            elif stream in self.ending:  # and not taken along by a later stream's SYN
                frames.append(codec.data(stream.id, 0, True))
        for stream_id, code in self.resets.items():  # after the FIN of a stream closed just now
            frames.append(codec.rst(stream_id, code))
        if self.goaway:
            frames.append(self.goaway)
        self.grants.clear()
        self.ending.clear()
        self.resets.clear()
        self.goaway = self.probe = b""
        self.flush_now = self.syn_due = False
        self.drawn = 0
        return b"".join([*syns, self.counted(frames)])

    def counted(self, frames: list[bytes]) -> bytes:
        """``frames`` joined, which count as sent."""
        joined = b"".join(frames)
        self.frames_sent += len(frames)
        self.framed += len(joined)
        return joined
