"""Version 1 of the wire, frame by frame: what is written, what is found, what is turned down."""

from __future__ import annotations

import tracemalloc

import pytest

from muxado.errors import Error, ErrorCode, FrameSizeError, ProtocolError
from tests.helpers.pure import Event, Recorder, cut
from tests.helpers.version1 import (
    DATA,
    FIN,
    GOAWAY,
    HEARTBEAT,
    PRIORITY,
    RST,
    SYN,
    TYPE,
    URGENT,
    WNDINC,
    data,
    frame,
    goaway,
    parse,
    rst,
    syn,
    v1,
    window,
)

TOP = 0x7FFFFFFF  # the highest stream id, priority and increment
RESERVED = 0x80000000  # the bit beside them, which a receiver ignores
LONGEST = 0x3FFF  # bytes of a body


def opened(stream_id: int, priority: int = 0, kind: int = 0) -> Event:
    return "SYN", stream_id, priority, kind


# Bytes, and the frames that they are.
CASES: dict[str, tuple[bytes, list[Event]]] = {
    "syn": (syn(3), [opened(3)]),
    "syn with priority": (syn(2, priority=TOP), [opened(2, TOP)]),
    "syn with type": (syn(3, kind=0xFFFFFFFF), [opened(3, 0, 0xFFFFFFFF)]),
    "syn with both": (syn(TOP, priority=5, kind=7), [opened(TOP, 5, 7)]),
    "syn with both, 0": (syn(3, priority=0, kind=0), [opened(3)]),
    "syn with fin": (syn(3, fin=True), [opened(3), ("DATA", 3, 0, True, b"")]),
    "syn with all of it": (
        syn(5, priority=1, kind=2, fin=True),
        [opened(5, 1, 2), ("DATA", 5, 0, True, b"")],
    ),
    "heartbeat": (syn(3, priority=URGENT, kind=HEARTBEAT), [opened(3, URGENT, HEARTBEAT)]),
    "data": (data(3, b"hello"), [("DATA", 3, 5, False, b"hello")]),
    "data of one byte": (data(TOP, b"x"), [("DATA", TOP, 1, False, b"x")]),
    "data, empty": (data(2), [("DATA", 2, 0, False, b"")]),
    "fin": (data(3, fin=True), [("DATA", 3, 0, True, b"")]),
    "data with fin": (data(2, b"end", fin=True), [("DATA", 2, 3, True, b"end")]),
    "window": (window(3, 1), [("WNDINC", 3, 1)]),
    "window, all of it": (window(2, TOP), [("WNDINC", 2, TOP)]),
    "window of 0": (window(2, 0), [("WNDINC", 2, 0)]),
    "rst": (rst(3, 7), [("RST", 3, ErrorCode.STREAM_CANCELLED)]),
    "rst of a code not known": (rst(TOP, 0x63), [("RST", TOP, ErrorCode.ERROR_UNKNOWN)]),
    "goaway": (goaway(7, 0), [("GOAWAY", 7, 0, b"")]),
    # It is told of at once, because the originals' debug bytes never come, and again with them.
    "goaway with debug": (
        goaway(0, 2, b"because"),
        [("GOAWAY", 0, 2, b""), ("GOAWAY", 0, 2, b"because")],
    ),
    # What the table leaves open is reserved, and ignored: two bits of the length, three of the
    # type, one of the id and of what is an id, a priority or an increment; other flags.
    "reserved bits, length": (frame(DATA, 0, 3, b"hi", 0xC002), [("DATA", 3, 2, False, b"hi")]),
    "reserved bits, type": (frame(0xE0 | DATA, 0, 3, b"hi"), [("DATA", 3, 2, False, b"hi")]),
    "reserved bits, type of syn": (frame(0x60 | SYN, 0, 3), [opened(3)]),
    "reserved bit, id": (data(RESERVED | 3, b"hi"), [("DATA", 3, 2, False, b"hi")]),
    "reserved bit, syn": (syn(RESERVED | 3, priority=RESERVED | 9), [opened(3, 9)]),
    "reserved bit, rst": (rst(RESERVED | 3, 4), [("RST", 3, 4)]),
    "reserved bit, window": (window(RESERVED | 3, RESERVED | 4), [("WNDINC", 3, 4)]),
    "reserved bit, goaway": (goaway(RESERVED | 5, 0), [("GOAWAY", 5, 0, b"")]),
    "flags unknown, syn": (frame(SYN, 0xF8, 3), [opened(3)]),
    "flags unknown, data": (frame(DATA, 0xFE | FIN, 3, b"a"), [("DATA", 3, 1, True, b"a")]),
    "flags unknown, rst": (frame(RST, 0xFF, 5, bytes(4)), [("RST", 5, 0)]),
    "flags unknown, window": (frame(WNDINC, 0xFF, 5, b"\0\0\0\1"), [("WNDINC", 5, 1)]),
    "several": (
        syn(3) + data(3, b"one") + window(2, 9) + data(3, b"two") + goaway(0, 0, b"!") + rst(3, 7),
        [
            opened(3),
            ("DATA", 3, 3, False, b"one"),
            ("WNDINC", 2, 9),
            ("DATA", 3, 3, False, b"two"),
            ("GOAWAY", 0, 0, b""),
            ("GOAWAY", 0, 0, b"!"),
            ("RST", 3, ErrorCode.STREAM_CANCELLED),
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
    codec = v1(recorder)
    assert not codec.mid_frame
    for position in range(len(whole)):
        assert len(recorder.events) < len(events), "found before its last byte came"
        codec.feed(memoryview(whole)[position : position + 1])
    assert recorder.events == events
    assert not codec.mid_frame


@cases
def test_with_bytes_behind_it(whole: bytes, events: list[Event]) -> None:
    recorder = Recorder()
    codec = v1(recorder)
    codec.feed(memoryview(whole + BEHIND))
    assert recorder.events == events + BEHIND_EVENTS
    assert codec.mid_frame


@cases
def test_split_everywhere(whole: bytes, events: list[Event]) -> None:
    for position in range(1, len(whole)):
        recorder = Recorder()
        codec = v1(recorder)
        for piece in cut(whole + BEHIND, [position]):
            codec.feed(memoryview(piece))
        assert recorder.events == events + BEHIND_EVENTS, f"cut at {position}"


@cases
def test_split_in_three(whole: bytes, events: list[Event]) -> None:
    for first in range(1, len(whole)):
        for second in range(first + 1, min(first + 14, len(whole))):
            assert parse(*cut(whole, [first, second])) == events, f"cut at {first} and {second}"


def test_mid_frame_tells_whether_bytes_are_missing() -> None:
    codec = v1(Recorder())
    for name, (whole, _) in CASES.items():
        if name in ("several", "goaway with debug"):
            continue
        for position in range(1, len(whole)):
            codec.feed(memoryview(whole)[position - 1 : position])
            assert codec.mid_frame
        codec.feed(memoryview(whole)[-1:])
        assert not codec.mid_frame


def test_nothing_is_nothing() -> None:
    assert parse(b"", b"") == []


@pytest.mark.parametrize("debug", [b"", b"bye", b"read EOF from remote peer"])
def test_the_goaway_of_the_originals(debug: bytes) -> None:
    """It claims ``8 + len(debug)`` bytes more than it sends, and the connection ends behind it."""
    lies = goaway(7, 2, length=16 + len(debug))
    for position in range(len(lies)):
        recorder = Recorder()
        codec = v1(recorder)
        for piece in cut(rst(3, 4) + lies, [12 + position]):
            codec.feed(memoryview(piece))
        assert recorder.events == [("RST", 3, 4), ("GOAWAY", 7, 2, b"")], "it is told of at once"
        assert not codec.mid_frame, "nothing of what it meant to say is missing"


def test_data_is_told_of_before_its_body() -> None:
    # Else a frame that breaks its window could be turned down only after it was read.
    recorder = Recorder()
    codec = v1(recorder)
    codec.feed(memoryview(data(3, bytes(1000))[:8]))
    assert recorder.unfinished == ("DATA", 3, 1000, False, b"")


class TestEncoding:
    """Frames as bytes, compared with the table of the specification."""

    codec = v1(Recorder())

    def test_data(self) -> None:
        assert self.codec.data(3, 5) + b"hello" == data(3, b"hello")
        assert self.codec.data(3, 5) == bytes.fromhex("0005 00 03 00000003")
        assert self.codec.data(TOP, 0) == data(TOP)
        assert self.codec.data(2, 0, fin=True) == data(2, fin=True)
        assert self.codec.data(2, 3, fin=True) + b"end" == data(2, b"end", fin=True)

    def test_the_longest_data(self) -> None:
        assert self.codec.max_data == LONGEST
        assert self.codec.data(3, LONGEST) == bytes.fromhex("3fff 00 03 00000003")

    @pytest.mark.parametrize("priority", [0, 1, TOP])
    @pytest.mark.parametrize("kind", [0, 0x2A, HEARTBEAT])
    def test_syn(self, kind: int, priority: int) -> None:
        encoded = self.codec.syn(3, 0, priority=priority, stream_type=kind)
        # What is 0 needs no saying.
        assert encoded == syn(3, priority=priority or None, kind=kind or None)

    def test_syn_as_it_was_seen(self) -> None:
        encoded = self.codec.syn(3, 0, priority=URGENT, stream_type=HEARTBEAT)
        assert encoded == bytes.fromhex("0008 06 01 00000003 7fffffff fffffeff")

    def test_syn_with_first_bytes(self) -> None:
        # A SYN carries no data on this version: a DATA frame follows it.
        encoded = self.codec.syn(3, 5, priority=0, stream_type=7)
        assert encoded + b"first" == syn(3, kind=7) + data(3, b"first")

    def test_window(self) -> None:
        assert (
            self.codec.window(3, 5) == window(3, 5) == bytes.fromhex("0004 00 04 00000003 00000005")
        )
        assert self.codec.window(2, TOP) == window(2, TOP)

    @pytest.mark.parametrize("final", [False, True])
    @pytest.mark.parametrize("debug", [b"", b"bye"])
    def test_goaway(self, debug: bytes, final: bool) -> None:
        """Well-formed: the original reads that right, and more frames may follow."""
        encoded = self.codec.goaway(7, 0, debug, final=final)
        assert encoded == goaway(7, 0, debug)

    def test_a_goaway_with_more_to_say_than_a_frame_holds(self) -> None:
        encoded = self.codec.goaway(7, 0, b"d" * 20_000, final=True)
        assert encoded == goaway(7, 0, b"d" * (LONGEST - 8))

    def test_the_first_ids(self) -> None:
        assert self.codec.first_id == (3, 2)


#: The numbers of this wire, and what each is in ours.
NUMBERS = {
    0: ErrorCode.NO_ERROR,
    1: ErrorCode.PROTOCOL_ERROR,
    2: ErrorCode.INTERNAL_ERROR,
    3: ErrorCode.FLOW_CONTROL_ERROR,
    4: ErrorCode.STREAM_CLOSED,
    5: ErrorCode.FRAME_SIZE_ERROR,
    6: ErrorCode.STREAM_REFUSED,
    7: ErrorCode.STREAM_CANCELLED,
}


@pytest.mark.parametrize("number", [*range(8), 8, 255, 0xFFFFFFFF])
def test_error_codes_that_come(number: int) -> None:
    code = NUMBERS.get(number, ErrorCode.ERROR_UNKNOWN)
    assert parse(rst(3, number)) == [("RST", 3, code)]
    assert parse(goaway(3, number)) == [("GOAWAY", 3, code, b"")]


@pytest.mark.parametrize("code", [*ErrorCode, 999])
def test_error_codes_that_go(code: int) -> None:
    """Those of the wire as themselves; none but those, or the original ends the session."""
    codec = v1(Recorder())
    number = int.from_bytes(codec.rst(3, code)[8:], "big")
    assert codec.rst(3, code) == rst(3, number)
    said = int.from_bytes(codec.goaway(0, code, b"", final=True)[12:], "big")
    assert number in NUMBERS
    assert said in NUMBERS
    if code in NUMBERS.values():
        assert NUMBERS[number] == NUMBERS[said] == code
    else:
        # What it means is not lost: a peer that may try again learns it, no other does.
        retry = (ErrorCode.ACCEPT_QUEUE_FULL, ErrorCode.REMOTE_GONE_AWAY)
        assert (NUMBERS[number] == ErrorCode.STREAM_REFUSED) == (
            code in (*retry, ErrorCode.STREAMS_EXHAUSTED)
        )
        assert NUMBERS[number] != ErrorCode.NO_ERROR
        assert NUMBERS[said] != ErrorCode.NO_ERROR


# Headers that no peer may send.
BAD: dict[str, tuple[bytes, type[Error]]] = {
    **{f"rst of {n}": (frame(RST, 0, 3, bytes(n)), FrameSizeError) for n in (0, 3, 5, LONGEST)},
    **{f"window of {n}": (frame(WNDINC, 0, 3, bytes(n)), FrameSizeError) for n in (0, 3, 5, 8)},
    **{f"goaway of {n}": (frame(GOAWAY, 0, 0, bytes(n)), FrameSizeError) for n in (0, 4, 7)},
    **{
        f"syn of {n} with flags {flags}": (frame(SYN, flags, 3, bytes(n)), FrameSizeError)
        for flags, n in [
            (0, 4),
            (PRIORITY, 0),
            (PRIORITY, 8),
            (TYPE, 3),
            (TYPE, 5),
            (6, 12),
            (6, 4),
        ]
    },
    "data on stream 0": (data(0, b"abc"), ProtocolError),
    "data on stream 0, reserved bit": (data(RESERVED), ProtocolError),
    # Version 2 skips what it does not know. This one is as strict as the original.
    **{f"type {n}": (frame(n, 0, 3, bytes(4)), ProtocolError) for n in (0, 5, 7, 8, 16, 31)},
}
bad = pytest.mark.parametrize(("whole", "kind"), BAD.values(), ids=BAD.keys())


@bad
def test_bad_frames(whole: bytes, kind: type[Error]) -> None:
    """What came before them counts, nothing after, and it does not matter how they were cut."""
    for position in range(24):
        recorder = Recorder()
        codec = v1(recorder)
        with pytest.raises(kind) as caught:
            for piece in cut(rst(9, 1) + whole + rst(11, 1), [position]):
                codec.feed(memoryview(piece))
        assert type(caught.value) is kind
        assert recorder.events == [("RST", 9, 1)]


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        (frame(RST, 0, 3, length=5), FrameSizeError),
        (frame(WNDINC, 0, 3, length=LONGEST), FrameSizeError),
        (frame(SYN, PRIORITY, 3, length=8), FrameSizeError),
        (frame(GOAWAY, 0, 0, length=7), FrameSizeError),
        (frame(5, 0, 3, length=9), ProtocolError),
        (frame(DATA, 0, 0, length=9), ProtocolError),
    ],
)
def test_a_bad_header_is_enough(header: bytes, kind: type[Error]) -> None:
    """The body, which may never come, is not waited for."""
    for position in range(1, 9):
        codec = v1(Recorder())
        with pytest.raises(kind):
            for piece in cut(header, [position]):
                codec.feed(memoryview(piece))


@pytest.mark.parametrize("step", [1, 100, 4_099, 16_391])
def test_a_long_body_is_not_collected(step: int) -> None:
    class Counter(Recorder):
        """Keeps no byte, so that whatever memory grows is the parser's."""

        body = 0

        def on_data(self, stream_id: int, length: int, piece: memoryview, fin: bool) -> None:
            self.body += len(piece)

        def on_more(self, piece: memoryview, last: bool) -> None:
            self.body += len(piece)

    counter = Counter()
    codec = v1(counter)
    whole = memoryview(data(3, b"d" * LONGEST))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for start in range(0, len(whole), step):
            codec.feed(whole[start : start + step])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 4_096
    assert not codec.mid_frame
    assert counter.body == LONGEST


def test_debug_bytes_are_kept_up_to_a_bound() -> None:
    # What people read comes through whole; what a peer sends to fill our memory does not.
    for length, kept in ((1000, 1000), (4096, 4096), (LONGEST - 8, 4096)):
        debug = (bytes(range(250)) * 70)[:length]
        for places in ([], [9, 500], [16], [17], range(1, length)):
            events = parse(*cut(goaway(3, 1, debug) + rst(5, 1), places))
            assert events[0] == ("GOAWAY", 3, 1, b"")
            assert events[1] == ("GOAWAY", 3, 1, debug[:kept])
            assert events[2:] == [("RST", 5, 1)]


def test_an_error_of_the_handler_comes_through() -> None:
    """A handler may raise to end the session; the codec adds nothing and hides nothing."""

    class Refusing(Recorder):
        def on_rst(self, stream_id: int, code: int) -> None:
            super().on_rst(stream_id, code)
            raise ProtocolError("enough")

    for position in range(len(rst(3, 4))):
        handler = Refusing()
        codec = v1(handler)
        with pytest.raises(ProtocolError, match="enough"):
            for piece in cut(rst(3, 4) + rst(5, 4), [position]):
                codec.feed(memoryview(piece))
        assert handler.events == [("RST", 3, 4)]
