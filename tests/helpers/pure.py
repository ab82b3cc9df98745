"""What the tests of the pure parts share: frames made by hand, and what a codec made of them.

The frames here are put together from the table of the wire's specification and not by
``muxado.wire``, so that an error which the encoder and the parser have in common shows.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any

from hypothesis import strategies as st

from muxado import wire
from muxado.config import Config
from muxado.protocol import Protocol, StreamState
from muxado.protocol.flow import ReceiveWindow

RST, DATA, WNDINC, GOAWAY = range(4)
FIN, SYN = 0x1, 0x2

#: A frame as a test names it: its kind, then its fields. DATA: id, length, fin, bytes.
Event = tuple[Any, ...]


def frame(kind: int, flags: int, stream_id: int, body: bytes = b"", length: int = -1) -> bytes:
    """The bytes of a version 2 frame; ``length`` where the header is to lie about the body."""
    length = len(body) if length < 0 else length
    return struct.pack(">II", length << 8 | kind << 4 | flags, stream_id) + body


def syn(stream_id: int, body: bytes = b"", *, fin: bool = False) -> bytes:
    return frame(DATA, SYN | fin, stream_id, body)


def data(stream_id: int, body: bytes = b"", *, fin: bool = False) -> bytes:
    return frame(DATA, int(fin), stream_id, body)


def rst(stream_id: int, code: int) -> bytes:
    return frame(RST, 0, stream_id, struct.pack(">I", code))


def window(stream_id: int, increment: int) -> bytes:
    return frame(WNDINC, 0, stream_id, struct.pack(">I", increment))


def goaway(last_id: int, code: int, debug: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, struct.pack(">II", last_id, code) + debug)


def consume(window: ReceiveWindow, count: int) -> bool:
    """The application reads ``count`` bytes that came in ``window``; true when an update is due."""
    window.read += count
    return window.read >= window.due


class Recorder:
    """A ``Handler`` that notes each frame, and insists that a codec keeps to its contract."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._body = bytearray()
        self._under_way: tuple[int, int, bool] | None = None  # id, length, fin of a DATA frame

    def on_syn(self, stream_id: int, priority: int, stream_type: int) -> None:
        self._whole("SYN", stream_id, priority, stream_type)

    def on_data(self, stream_id: int, length: int, piece: memoryview, fin: bool) -> None:
        assert self._under_way is None, "a DATA frame began inside another"
        assert len(piece) <= length
        assert type(fin) is bool
        if len(piece) == length:
            self.events.append(("DATA", stream_id, length, fin, bytes(piece)))
        else:
            self._under_way = stream_id, length, fin
            self._body = bytearray(piece)

    def on_more(self, piece: memoryview, last: bool) -> None:
        assert self._under_way is not None, "the rest of a DATA frame that did not begin"
        assert len(piece), "a piece without bytes"
        stream_id, length, fin = self._under_way
        self._body += piece
        assert len(self._body) <= length
        assert last == (len(self._body) == length)
        if last:
            self._under_way = None
            self.events.append(("DATA", stream_id, length, fin, bytes(self._body)))

    def on_rst(self, stream_id: int, code: int) -> None:
        self._whole("RST", stream_id, code)

    def on_window(self, stream_id: int, increment: int) -> None:
        self._whole("WNDINC", stream_id, increment)

    def on_goaway(self, last_id: int, code: int, debug: bytes) -> None:
        assert type(debug) is bytes, "a view would not outlive the read"
        self._whole("GOAWAY", last_id, code, debug)

    def on_unknown(self, frame_type: int) -> None:
        self._whole("UNKNOWN", frame_type)

    def _whole(self, *event: Any) -> None:
        assert self._under_way is None, "a frame began inside a DATA frame"
        self.events.append(event)

    @property
    def unfinished(self) -> Event | None:
        """What has arrived of the DATA frame under way, if one is."""
        if self._under_way is None:
            return None
        return ("DATA", *self._under_way, bytes(self._body))


def v2(handler: wire.Handler) -> wire.Codec:
    return wire.codec(Config(version=2), handler)


def parse(*chunks: bytes) -> list[Event]:
    """The frames in ``chunks``, which must end where a frame ends."""
    recorder = Recorder()
    codec = v2(recorder)
    for chunk in chunks:
        codec.feed(memoryview(chunk))
    assert not codec.mid_frame
    return recorder.events


def cut(whole: bytes, places: Iterable[int]) -> Iterator[bytes]:
    """``whole`` in pieces, cut at ``places`` (those that lie inside it)."""
    start = 0
    for place in sorted(places):
        if start < place < len(whole):
            yield whole[start:place]
            start = place
    yield whole[start:]


#: Places to cut at: many near the start, where headers are, and some anywhere.
places = st.lists(st.integers(1, 60) | st.integers(1, 5000), max_size=25)


class End:
    """One end of a session: a ``Protocol``, and the frames that a test hands it or gets from it."""

    def __init__(self, *, client: bool = False, **options: Any) -> None:
        self.now = 0.0  # seconds; stands still unless a test moves it
        self.protocol = Protocol(Config(**options), client=client, clock=lambda: self.now)

    def feed(self, *frames: bytes) -> None:
        """Give it ``frames``, each as a read of its own."""
        for each in frames:
            self.protocol.feed(memoryview(each))

    def sent(self, *, opening: bool = True) -> list[Event]:
        """The frames that it owes, which count as sent."""
        return parse(self.protocol.control_frames(opening=opening))

    def quiet(self) -> bool:
        """Whether it owes nothing, and sends nothing if asked."""
        return not self.protocol.pending and not self.protocol.control_frames(opening=True)

    def open(self, *, fin: bool = False, announced: bool = True) -> StreamState:
        """A stream of its own; ``announced``: its SYN is out."""
        stream = self.protocol.open(priority=0, stream_type=0, fin=fin)
        if announced:
            self.protocol.control_frames(opening=True)
        return stream

    def accept(self) -> StreamState:
        stream = self.protocol.accept()
        assert stream is not None
        return stream

    def accepted(self, stream_id: int = 3, body: bytes = b"") -> StreamState:
        """A stream that the peer opened just now, handed to the application."""
        self.feed(syn(stream_id, body))
        stream = self.accept()
        assert stream.id == stream_id
        return stream

    def read(self, stream: StreamState, count: int) -> bytes:
        """What the application gets when it reads up to ``count`` bytes; there must be some."""
        taken = stream.buffer.take(count)
        self.protocol.consumed(stream, len(taken))
        return taken

    def write(self, stream: StreamState, body: bytes) -> bytes:
        """The bytes of a DATA frame that the application sends, window permitting."""
        assert len(body) <= stream.send.left
        return self.protocol.data_header(stream, len(body)) + body
