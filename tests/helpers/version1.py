"""What the tests of version 1 share: frames made by hand, a peer driven by hand, a referee.

The frames here are put together from the table of the wire's specification and not by
``muxado.wire``, so that an error which the encoder and the parser have in common shows.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

from muxado import wire
from muxado.config import Config
from tests.helpers.pure import Event, Recorder
from tests.helpers.support import Frame, RawPeer

SYN, RST, DATA, WNDINC, GOAWAY = 1, 2, 3, 4, 6
FIN, PRIORITY, TYPE = 0x1, 0x2, 0x4
#: The type and the priority of the streams on which an end is asked for a sign of life.
HEARTBEAT, URGENT = 0xFFFFFEFF, 0x7FFFFFFF
WINDOW = 65536


def frame(kind: int, flags: int, stream_id: int, body: bytes = b"", length: int = -1) -> bytes:
    """The bytes of a frame; ``length`` where the header is to lie about the body."""
    length = len(body) if length < 0 else length
    return struct.pack(">HBBI", length, flags, kind, stream_id) + body


def syn(
    stream_id: int, *, priority: int | None = None, kind: int | None = None, fin: bool = False
) -> bytes:
    flags, body = int(fin), b""
    if priority is not None:
        flags |= PRIORITY
        body += struct.pack(">I", priority)
    if kind is not None:
        flags |= TYPE
        body += struct.pack(">I", kind)
    return frame(SYN, flags, stream_id, body)


def data(stream_id: int, body: bytes = b"", *, fin: bool = False) -> bytes:
    return frame(DATA, int(fin), stream_id, body)


def rst(stream_id: int, code: int) -> bytes:
    return frame(RST, 0, stream_id, struct.pack(">I", code))


def window(stream_id: int, increment: int) -> bytes:
    return frame(WNDINC, 0, stream_id, struct.pack(">I", increment))


def goaway(last_id: int, code: int, debug: bytes = b"", length: int = -1) -> bytes:
    return frame(GOAWAY, 0, 0, struct.pack(">II", last_id, code) + debug, length)


def v1(handler: wire.Handler) -> wire.Codec:
    return wire.codec(Config(version=1), handler)


def parse(*chunks: bytes) -> list[Event]:
    """The frames in ``chunks``, which must end where a frame ends."""
    recorder = Recorder()
    codec = v1(recorder)
    for chunk in chunks:
        codec.feed(memoryview(chunk))
    assert not codec.mid_frame
    return recorder.events


def frames_in(sent: bytes) -> Iterator[Frame]:
    """The frames in ``sent``, which must be whole; their headers must have no odd bit."""
    while sent:
        assert len(sent) >= 8, f"{sent!r} is no header"
        length, flags, kind, stream_id = struct.unpack_from(">HBBI", sent)
        assert length <= 0x3FFF
        assert stream_id <= 0x7FFFFFFF
        assert len(sent) >= 8 + length, f"the frame {sent[:8]!r} is cut"
        yield Frame(kind, flags, stream_id, sent[8 : 8 + length])
        sent = sent[8 + length :]


class RawPeer1(RawPeer):
    """A session's other end, driven frame by frame, on version 1."""

    def read(self) -> Frame | None:
        head = self._exactly(8)
        if len(head) < 8:
            return None
        length, flags, kind, stream_id = struct.unpack(">HBBI", head)
        return Frame(kind, flags, stream_id, self._exactly(length))

    def goaway(self) -> Frame:
        last = self.rest()[-1]
        assert last.type == GOAWAY, last
        return last


def raw_peer(raw: Callable[..., RawPeer], **options: Any) -> RawPeer1:
    """What the fixture ``raw`` makes, for version 1."""
    peer = raw(version=1, **options)
    return RawPeer1(peer.sock, peer.session)


class Referee:
    """Watches what one end sends, and fails for what no correct end may send.

    It must be told what that end was given before it is told what the end sent in answer.
    """

    def __init__(self, *, client: bool) -> None:
        self.parity = 1 if client else 0
        self.last = 1 if client else 0  # the highest id this end has opened, or less than any
        self.left: dict[int, int] = {}  # stream -> bytes that this end may still send on it
        self.over: set[int] = set()  # streams that the peer has reset: not a word more
        self.reset: set[int] = set()  # streams that this end has reset: RST again, or nothing
        self.finished: set[int] = set()  # streams on which it has sent FIN
        self.heartbeats: set[int] = set()  # ids of heartbeat streams, whoever opened them
        self.asked: int | None = None  # the one that this end opened
        self.sent: list[Frame] = []

    def heard(self, raw: bytes) -> None:
        """This end was given the frame ``raw``."""
        length, flags, kind, stream_id = struct.unpack_from(">HBBI", raw)
        stream_id &= 0x7FFFFFFF
        words = [w for (w,) in struct.iter_unpack(">I", raw[8 : 8 + (length & 0x3FFF) // 4 * 4])]
        if kind == SYN:
            self.left.setdefault(stream_id, WINDOW)
            if flags & TYPE and words and words[-1] == HEARTBEAT:
                self.heartbeats.add(stream_id)
        elif kind == RST:
            self.over.add(stream_id)
        elif kind == WNDINC and stream_id in self.left:
            self.left[stream_id] += words[0] if words else 0

    def saw(self, raw: bytes) -> list[Frame]:
        """This end has sent ``raw``: the frames in it, all of them allowed."""
        frames = list(frames_in(raw))
        for each in frames:
            self._judge(each)
            self.sent.append(each)
        return frames

    def _judge(self, got: Frame) -> None:
        kind, flags, stream_id, body = got
        words = [w for (w,) in struct.iter_unpack(">I", body)] if len(body) % 4 == 0 else []
        if kind == SYN:
            # To the original, FIN on a SYN says that it may not answer, and the end is yet to come.
            assert flags & ~(PRIORITY | TYPE) == 0, got
            assert len(words) == bool(flags & PRIORITY) + bool(flags & TYPE), got
            assert stream_id & 1 == self.parity, got
            assert stream_id > self.last, (got, self.last)
            self.last = stream_id
            self.left[stream_id] = WINDOW
            if flags & PRIORITY:
                assert words[0] <= URGENT, got
            if flags & TYPE and words[-1] >= HEARTBEAT:
                assert words == [URGENT, HEARTBEAT], got
                assert self.asked is None, "only one heartbeat stream is ever accepted"
                self.asked = stream_id
                self.heartbeats.add(stream_id)
            return
        if kind == GOAWAY:
            assert (flags, stream_id) == (0, 0), got
            assert len(body) >= 8, got
            assert int.from_bytes(body[4:8], "big") <= 7, got
            return
        assert stream_id in self.left, f"{got} for a stream that was never opened"
        assert stream_id not in self.over, f"{got} after the peer's RST"
        assert kind == RST or stream_id not in self.reset, f"{got} after its own RST"
        if kind == DATA:
            assert flags & ~FIN == 0, got
            assert stream_id not in self.finished, f"{got} after FIN"
            self.left[stream_id] -= len(body)
            assert self.left[stream_id] >= 0, f"{got.stream_id}: more than its window"
            if flags & FIN:
                assert stream_id not in self.heartbeats, "a heartbeat stream is never ended"
                self.finished.add(stream_id)
        elif kind == WNDINC:
            assert flags == 0, got
            assert len(words) == 1, got
            assert 1 <= words[0] <= 0x7FFFFFFF, got
        else:
            assert kind == RST, f"no frame of version 1: {got}"
            assert flags == 0, got
            assert len(words) == 1, got
            assert words[0] <= 7, f"version 1 has no such error code: {got}"
            assert stream_id not in self.heartbeats, "a heartbeat stream is never reset"
            self.reset.add(stream_id)
