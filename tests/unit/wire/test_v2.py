"""Version 2 of the wire, frame by frame: what is written, what is found, what is turned down."""

from __future__ import annotations

import tracemalloc

import pytest

from muxado.errors import Error, FrameSizeError, ProtocolError
from tests.helpers.pure import (
    DATA,
    FIN,
    GOAWAY,
    RST,
    SYN,
    WNDINC,
    Event,
    Recorder,
    cut,
    data,
    frame,
    goaway,
    parse,
    rst,
    syn,
    v2,
    window,
)

TOP = 0x7FFFFFFF  # the highest stream id, and the highest increment
RESERVED = 0x80000000  # the bit beside them, which a receiver ignores

# Bytes, and the frames that they are.
CASES: dict[str, tuple[bytes, list[Event]]] = {
    "data": (data(3, b"hello"), [("DATA", 3, 5, False, b"hello")]),
    "data of one byte": (data(TOP, b"x"), [("DATA", TOP, 1, False, b"x")]),
    "empty data, the probe": (data(TOP), [("DATA", TOP, 0, False, b"")]),
    "fin": (data(3, fin=True), [("DATA", 3, 0, True, b"")]),
    "data with fin": (data(2, b"end", fin=True), [("DATA", 2, 3, True, b"end")]),
    "syn": (syn(3), [("SYN", 3, 0, 0), ("DATA", 3, 0, False, b"")]),
    "syn with data": (syn(2, b"hi"), [("SYN", 2, 0, 0), ("DATA", 2, 2, False, b"hi")]),
    "syn with fin": (syn(3, fin=True), [("SYN", 3, 0, 0), ("DATA", 3, 0, True, b"")]),
    "syn with data and fin": (
        syn(5, b"all", fin=True),
        [("SYN", 5, 0, 0), ("DATA", 5, 3, True, b"all")],
    ),
    "rst": (rst(3, 6), [("RST", 3, 6)]),
    "rst of a code not known": (rst(TOP, 0xFFFFFFFF), [("RST", TOP, 0xFFFFFFFF)]),
    "window": (window(3, 1), [("WNDINC", 3, 1)]),
    "window, all of it": (window(2, TOP), [("WNDINC", 2, TOP)]),
    "window of 0": (window(2, 0), [("WNDINC", 2, 0)]),
    "goaway": (goaway(7, 14), [("GOAWAY", 7, 14, b"")]),
    "goaway with debug": (goaway(0, 2, b"because"), [("GOAWAY", 0, 2, b"because")]),
    "unknown, empty": (frame(15, 0, 0), [("UNKNOWN", 15)]),
    "unknown with a body": (frame(4, 0xF, 9, b"whatever it is"), [("UNKNOWN", 4)]),
    # The top bit of an id or an increment is reserved: ignored.
    "reserved bit, data": (data(RESERVED | 3, b"hi"), [("DATA", 3, 2, False, b"hi")]),
    "reserved bit, rst": (rst(RESERVED | 3, 4), [("RST", 3, 4)]),
    "reserved bit, window": (window(RESERVED | 3, RESERVED | 4), [("WNDINC", 3, 4)]),
    "reserved bit, goaway": (goaway(RESERVED | 5, 1), [("GOAWAY", 5, 1, b"")]),
    "reserved bit, goaway's own id": (
        frame(GOAWAY, 0, RESERVED, bytes(8)),
        [("GOAWAY", 0, 0, b"")],
    ),
    # So are the flags that mean nothing.
    "flags unknown, data": (frame(DATA, 0xC | FIN, 3, b"a"), [("DATA", 3, 1, True, b"a")]),
    "flags unknown, syn": (
        frame(DATA, 0xC | SYN, 3),
        [("SYN", 3, 0, 0), ("DATA", 3, 0, False, b"")],
    ),
    "flags unknown, rst": (frame(RST, 0xF, 5, bytes(4)), [("RST", 5, 0)]),
    "flags unknown, window": (frame(WNDINC, 0xF, 5, b"\0\0\0\1"), [("WNDINC", 5, 1)]),
    "several": (
        syn(3, b"one") + window(2, 9) + data(3, b"two") + frame(9, 0, 3, b"???") + rst(3, 6),
        [
            ("SYN", 3, 0, 0),
            ("DATA", 3, 3, False, b"one"),
            ("WNDINC", 2, 9),
            ("DATA", 3, 3, False, b"two"),
            ("UNKNOWN", 9),
            ("RST", 3, 6),
        ],
    ),
}
cases = pytest.mark.parametrize(("whole", "events"), CASES.values(), ids=CASES.keys())

# What stands behind a case in a read; its last frame is cut, so that a parser which takes too
# much or too little of the case is found out by what it leaves.
BEHIND = data(9, b"behind") + rst(11, 4)[:7]
BEHIND_EVENTS: list[Event] = [("DATA", 9, 6, False, b"behind")]


@cases
def test_whole(whole: bytes, events: list[Event]) -> None:
    assert parse(whole) == events


@cases
def test_byte_by_byte(whole: bytes, events: list[Event]) -> None:
    recorder = Recorder()
    codec = v2(recorder)
    assert not codec.mid_frame
    for position in range(len(whole)):
        if events[-1][0] != "UNKNOWN":  # which is told by its header, since nobody wants more
            assert len(recorder.events) < len(events), "found before its last byte came"
        codec.feed(memoryview(whole)[position : position + 1])
    assert recorder.events == events
    assert not codec.mid_frame


@cases
def test_with_bytes_behind_it(whole: bytes, events: list[Event]) -> None:
    recorder = Recorder()
    codec = v2(recorder)
    codec.feed(memoryview(whole + BEHIND))
    assert recorder.events == events + BEHIND_EVENTS
    assert codec.mid_frame


@cases
def test_split_everywhere(whole: bytes, events: list[Event]) -> None:
    for position in range(1, len(whole)):
        recorder = Recorder()
        codec = v2(recorder)
        for piece in cut(whole + BEHIND, [position]):
            codec.feed(memoryview(piece))
        assert recorder.events == events + BEHIND_EVENTS, f"cut at {position}"


@cases
def test_split_in_three(whole: bytes, events: list[Event]) -> None:
    for first in range(1, len(whole)):
        for second in range(first + 1, min(first + 14, len(whole))):
            assert parse(*cut(whole, [first, second])) == events, f"cut at {first} and {second}"


def test_mid_frame_tells_whether_bytes_are_missing() -> None:
    codec = v2(Recorder())
    for name, (whole, _) in CASES.items():
        if name == "several":
            continue
        for position in range(1, len(whole)):
            codec.feed(memoryview(whole)[position - 1 : position])
            assert codec.mid_frame
        codec.feed(memoryview(whole)[-1:])
        assert not codec.mid_frame


def test_nothing_is_nothing() -> None:
    assert parse(b"", b"") == []


def test_data_is_told_of_before_its_body() -> None:
    # Else a frame that breaks its window could be turned down only after it was read.
    recorder = Recorder()
    codec = v2(recorder)
    codec.feed(memoryview(syn(3, bytes(1000))[:8]))
    assert recorder.events == [("SYN", 3, 0, 0)]
    assert recorder.unfinished == ("DATA", 3, 1000, False, b"")


class TestEncoding:
    """Frames as bytes, compared with the table of the specification."""

    codec = v2(Recorder())

    def test_data(self) -> None:
        assert self.codec.data(3, 5) + b"hello" == data(3, b"hello")
        assert self.codec.data(TOP, 0) == data(TOP)
        assert self.codec.data(2, 0, fin=True) == data(2, fin=True)
        assert self.codec.data(2, 3, fin=True) + b"end" == data(2, b"end", fin=True)

    def test_the_longest_data(self) -> None:
        length = self.codec.max_data
        assert length == 2**24 - 1
        assert self.codec.data(3, length) == bytes.fromhex("ffffff 10 00000003")

    @pytest.mark.parametrize("body", [b"", b"first"])
    def test_syn(self, body: bytes) -> None:
        header = self.codec.syn(3, len(body), priority=0, stream_type=0)
        assert header + body == syn(3, body)

    def test_priority_is_not_on_this_wire(self) -> None:
        assert self.codec.syn(3, 0, priority=7, stream_type=0) == syn(3)

    def test_rst(self) -> None:
        assert self.codec.rst(3, 6) == rst(3, 6) == bytes.fromhex("00000400 00000003 00000006")
        assert self.codec.rst(TOP, 255) == rst(TOP, 255)

    def test_window(self) -> None:
        assert (
            self.codec.window(3, 5) == window(3, 5) == bytes.fromhex("00000420 00000003 00000005")
        )
        assert self.codec.window(2, TOP) == window(2, TOP)

    def test_goaway(self) -> None:
        assert self.codec.goaway(7, 2, b"", final=True) == goaway(7, 2)
        assert self.codec.goaway(0, 0, b"bye", final=True) == goaway(0, 0, b"bye")

    @pytest.mark.parametrize("debug", [b"", b"bye"])
    def test_goaway_that_frames_follow(self, debug: bytes) -> None:
        # Go's receiver swallows 8 bytes behind a GOAWAY: an empty frame of type 15.
        encoded = self.codec.goaway(7, 0, debug, final=False)
        assert encoded == goaway(7, 0, debug) + bytes.fromhex("000000f0 00000000")
        assert parse(encoded + rst(3, 6)) == [
            ("GOAWAY", 7, 0, debug),
            ("UNKNOWN", 15),
            ("RST", 3, 6),
        ]

    def test_the_first_ids(self) -> None:
        assert self.codec.first_id == (3, 2)


# Headers that no peer may send.
BAD: dict[str, tuple[bytes, type[Error]]] = {
    **{f"rst of {n}": (frame(RST, 0, 3, bytes(n)), FrameSizeError) for n in (0, 3, 5, 8, 70_000)},
    **{
        f"window of {n}": (frame(WNDINC, 0, 3, bytes(n)), FrameSizeError)
        for n in (0, 3, 5, 8, 70_000)
    },
    **{f"goaway of {n}": (frame(GOAWAY, 0, 0, bytes(n)), FrameSizeError) for n in (0, 4, 7)},
    "data on stream 0": (data(0, b"abc"), ProtocolError),
    "empty data on stream 0": (data(0), ProtocolError),
    "syn on stream 0": (syn(0), ProtocolError),
    "data on stream 0, reserved bit": (data(RESERVED, b"abc"), ProtocolError),
    "rst on stream 0": (rst(0, 6), ProtocolError),
    "window on stream 0": (window(0, 5), ProtocolError),
    "window on stream 0, reserved bit": (window(RESERVED, 5), ProtocolError),
    "goaway on stream 3": (frame(GOAWAY, 0, 3, bytes(8)), ProtocolError),
}
bad = pytest.mark.parametrize(("whole", "kind"), BAD.values(), ids=BAD.keys())


@bad
def test_bad_frames(whole: bytes, kind: type[Error]) -> None:
    """What came before them counts, nothing after, and it does not matter how they were cut."""
    for position in range(24):
        recorder = Recorder()
        codec = v2(recorder)
        with pytest.raises(kind) as caught:
            for piece in cut(rst(9, 1) + whole + rst(11, 1), [position]):
                codec.feed(memoryview(piece))
        assert type(caught.value) is kind
        assert recorder.events == [("RST", 9, 1)]


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        (frame(RST, 0, 3, length=5), FrameSizeError),
        (frame(WNDINC, 0, 3, length=2**24 - 1), FrameSizeError),
        (frame(GOAWAY, 0, 0, length=7), FrameSizeError),
        (frame(DATA, 0, 0, length=9), ProtocolError),
    ],
)
def test_a_bad_header_is_enough(header: bytes, kind: type[Error]) -> None:
    """The body, which may never come, is not waited for."""
    for position in range(1, 9):
        codec = v2(Recorder())
        with pytest.raises(kind):
            for piece in cut(header, [position]):
                codec.feed(memoryview(piece))


class Counter:
    """A handler that keeps no byte, so that whatever memory grows is the parser's."""

    def __init__(self) -> None:
        self.frames = self.body = 0
        self.debug = b""

    def on_syn(self, stream_id: int, priority: int, stream_type: int) -> None: ...

    def on_data(self, stream_id: int, length: int, piece: memoryview, fin: bool) -> None:
        self.body += len(piece)
        self.frames += len(piece) == length

    def on_more(self, piece: memoryview, last: bool) -> None:
        self.body += len(piece)
        self.frames += last

    def on_rst(self, stream_id: int, code: int) -> None: ...

    def on_window(self, stream_id: int, increment: int) -> None: ...

    def on_goaway(self, last_id: int, code: int, debug: bytes) -> None:
        self.debug = debug

    def on_unknown(self, frame_type: int) -> None:
        self.frames += 1


@pytest.mark.parametrize("step", [65_536, 4_099])
@pytest.mark.parametrize(
    ("header", "length", "body"),
    [
        (frame(DATA, 0, 3, length=2**24 - 1), 2**24 - 1, 2**24 - 1),
        (frame(14, 0xF, 3, length=2**24 - 1), 2**24 - 1, 0),
        (frame(GOAWAY, 0, 0, length=2**23), 2**23, 0),
    ],
    ids=["data", "unknown", "goaway"],
)
def test_a_long_body_is_not_collected(header: bytes, length: int, body: int, step: int) -> None:
    """Whatever its length: a peer could have every connection's parser hold 16 MiB."""
    counter = Counter()
    codec = v2(counter)
    read = memoryview(b"d" * step)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for position in range(8):
            codec.feed(memoryview(header)[position : position + 1])
        left = length
        while left:
            codec.feed(read[: min(left, step)])
            left -= min(left, step)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 32_768
    assert not codec.mid_frame
    assert counter.body == body
    codec.feed(memoryview(data(5, b"framing is kept")))
    assert counter.body == body + 15


def test_debug_bytes_are_kept_up_to_a_bound() -> None:
    # What people read comes through whole; what a peer sends to fill our memory does not.
    for length in (1000, 4096):
        debug = bytes(range(250)) * (length // 250 + 1)
        assert parse(*cut(goaway(3, 1, debug[:length]), [9, 500])) == [
            ("GOAWAY", 3, 1, debug[:length])
        ]
    for places in ([], [4], [12], [17], [5000], range(1, 9000)):
        counter = Counter()
        codec = v2(counter)
        debug = bytes(range(250)) * 40
        for piece in cut(goaway(3, 1, debug), places):
            codec.feed(memoryview(piece))
        assert not codec.mid_frame
        assert debug.startswith(counter.debug)
        assert 4096 <= len(counter.debug) <= 8192


def test_an_error_of_the_handler_comes_through() -> None:
    """A handler may raise to end the session; the codec adds nothing and hides nothing."""

    class Refusing(Recorder):
        def on_rst(self, stream_id: int, code: int) -> None:
            super().on_rst(stream_id, code)
            raise ProtocolError("enough")

    for position in range(len(rst(3, 6))):
        handler = Refusing()
        codec = v2(handler)
        with pytest.raises(ProtocolError, match="enough"):
            for piece in cut(rst(3, 6) + rst(5, 6), [position]):
                codec.feed(memoryview(piece))
        assert handler.events == [("RST", 3, 6)]
