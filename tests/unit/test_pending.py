"""Control frames that are to be sent: what counts as pending, and in which order they leave."""

from __future__ import annotations

from muxado import wire
from muxado.config import Config
from muxado.errors import ErrorCode
from muxado.protocol.flow import ReceiveWindow, SendWindow, Windows
from muxado.protocol.pending import Pending
from muxado.protocol.streams import StreamState
from tests.helpers.pure import End, Event, Recorder, parse, v2

WINDOW = 100


def new_stream(stream_id: int, *, opened: bool, priority: int = 0) -> StreamState:
    send, receive = SendWindow(WINDOW), ReceiveWindow(WINDOW)
    return StreamState(stream_id, True, priority, 0, send, receive, opened)


class Frames:
    """A ``Pending`` of a version 2 session, and streams for it."""

    def __init__(self) -> None:
        self.codec: wire.Codec = v2(Recorder())
        self.windows = Windows(WINDOW, WINDOW, 10 * WINDOW)
        self.pending = Pending(self.codec, self.windows, lambda: 0.0)

    def stream(self, stream_id: int, *, opened: bool = True) -> StreamState:
        stream = new_stream(stream_id, opened=opened)
        if not opened:
            self.pending.opening[stream] = None
        return stream

    def take(self, *, opening: bool = False) -> list[Event]:
        return parse(self.pending.take(opening=opening, alone=False))


def test_nothing_is_pending_at_first() -> None:
    frames = Frames()
    assert not frames.pending
    assert frames.take(opening=True) == []
    assert frames.pending.frames_sent == frames.pending.framed == 0


def test_each_kind_is_pending_until_it_is_taken() -> None:
    for kind in ("opening", "ending", "resets", "goaway", "probe"):
        frames = Frames()
        pending = frames.pending
        if kind == "opening":
            frames.stream(3, opened=False)
        elif kind == "ending":
            pending.ending[frames.stream(3)] = None
        elif kind == "resets":
            pending.reset(3, 6)
        elif kind == "goaway":
            pending.goaway = frames.codec.goaway(0, 0, b"", final=True)
        else:
            pending.probe = frames.codec.data(0x7FFFFFFF, 0)
        assert pending, kind
        assert frames.take(opening=True), kind
        assert not pending, kind


def test_an_update_is_pending_only_when_it_must_go() -> None:
    frames = Frames()
    stream = frames.stream(3)
    stream.receive.left -= 60
    stream.receive.read += 60
    frames.pending.grants[stream] = None
    assert not frames.pending
    frames.pending.flush_now = True
    assert frames.pending
    assert frames.take() == [("WNDINC", 3, 60)]
    assert not frames.pending.flush_now


def test_order() -> None:
    """SYN before FIN, FIN before RST, GOAWAY behind everything."""
    frames = Frames()
    pending = frames.pending
    pending.goaway = frames.codec.goaway(0, 0, b"", final=True)
    pending.reset(5, 6)
    pending.ending[frames.stream(5)] = None
    pending.ending[frames.stream(7, opened=False)] = None
    assert frames.take() == [
        ("SYN", 7, 0, 0),
        ("DATA", 7, 0, False, b""),
        ("DATA", 7, 0, True, b""),
        ("DATA", 5, 0, True, b""),
        ("RST", 5, 6),
        ("GOAWAY", 0, 0, b""),
    ]


def test_the_first_reset_of_a_stream_stands() -> None:
    frames = Frames()
    frames.pending.reset(3, 6)
    frames.pending.reset(3, 4)
    assert frames.take() == [("RST", 3, 6)]


def test_syns_wait_for_their_bytes_until_they_are_due() -> None:
    frames = Frames()
    frames.stream(3, opened=False)
    assert frames.take() == []
    frames.pending.syn_due = True
    assert frames.take() == [("SYN", 3, 0, 0), ("DATA", 3, 0, False, b"")]
    frames.stream(5, opened=False)
    assert frames.take() == []


def test_each_fin_leaves_once_whichever_stream_ended_first() -> None:
    """The SYN of the later stream takes along the one before it, and its FIN."""
    frames = Frames()
    first, second = frames.stream(3, opened=False), frames.stream(5, opened=False)
    frames.pending.ending[second] = frames.pending.ending[first] = None
    expected = [
        event
        for number in (3, 5)
        for event in (
            ("SYN", number, 0, 0),
            ("DATA", number, 0, False, b""),
            ("DATA", number, 0, True, b""),
        )
    ]
    assert frames.take() == expected


def test_what_was_sent_is_counted_to_the_end_of_each_syn() -> None:
    """It decides which streams the peer cannot have seen when the connection ends."""
    frames = Frames()
    pending = frames.pending
    first, second, third = (frames.stream(number, opened=False) for number in (3, 5, 7))
    pending.ending[first] = None
    header = pending.syn(second, 10)
    assert len(header) == 8 + 8 + 8  # SYN and FIN of the first
    assert (first.syn_end, second.syn_end) == (8, 24)
    assert pending.framed == 34
    pending.probe = frames.codec.data(0x7FFFFFFF, 0)
    pending.reset(9, 6)
    whole = pending.take(opening=True, alone=False)
    assert third.syn_end == 34 + 8
    assert pending.framed == 34 + len(whole)
    assert pending.frames_sent == 6


def test_on_version_1_a_syn_ends_before_the_header_of_its_data() -> None:
    config = Config(version=1)
    codec = wire.codec(config, Recorder())
    windows = Windows(WINDOW, WINDOW, WINDOW)
    pending = Pending(codec, windows, lambda: 0.0)
    stream = new_stream(3, opened=False, priority=7)
    pending.opening[stream] = None
    assert len(pending.syn(stream, 5)) == 12 + 8
    assert (stream.syn_end, pending.framed, pending.frames_sent) == (12, 25, 2)


def test_a_stream_that_failed_has_nothing_to_send() -> None:
    end = End(client=True)
    stream = end.open(fin=True, announced=False)
    end.protocol.reset(stream, ErrorCode.STREAM_CANCELLED)
    assert end.quiet(), "the peer never hears of it"


def test_at_the_end_the_peer_is_not_told_of_streams_it_does_not_know() -> None:
    end = End(client=True)
    known, ended, idle = end.open(), end.open(announced=False), end.open(announced=False)
    for stream in (known, ended):
        end.protocol.end(stream, flush_now=True)
    end.protocol.announce(idle)
    end.protocol.abandon_opening()
    assert end.sent() == [("DATA", known.id, 0, True, b"")]
