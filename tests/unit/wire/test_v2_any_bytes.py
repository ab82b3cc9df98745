"""Version 2 of the wire over frames and bytes that nobody thought of, cut anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muxado.errors import Error, FrameSizeError, ProtocolError
from tests.helpers.pure import Event, Recorder, cut, frame, parse, places, v2

ids = st.integers(1, 0x7FFFFFFF) | st.integers(1, 9)
words = st.integers(0, 0xFFFFFFFF) | st.integers(0, 15)
increments = st.integers(1, 0x7FFFFFFF)
bodies = st.binary(max_size=40) | st.integers(0, 5000).map(
    lambda size: bytes(range(250)) * (size // 250)
)

frames = st.one_of(
    st.tuples(st.just("DATA"), ids, st.booleans(), bodies),
    st.tuples(st.just("SYN"), ids, st.booleans(), bodies),
    st.tuples(st.just("RST"), ids, words),
    st.tuples(st.just("WNDINC"), ids, increments),
    st.tuples(st.just("GOAWAY"), st.integers(0, 0x7FFFFFFF), words, st.binary(max_size=300)),
)


def encode(event: Event) -> tuple[bytes, list[Event]]:
    """A frame as the codec writes it, and what a receiver should find."""
    codec = v2(Recorder())
    kind, *fields = event
    if kind == "RST":
        return codec.rst(*fields), [event]
    if kind == "WNDINC":
        return codec.window(*fields), [event]
    if kind == "GOAWAY":
        return codec.goaway(*fields, final=True), [event]
    stream_id, fin, body = fields
    found: list[Event] = [("DATA", stream_id, len(body), fin, body)]
    if kind == "DATA":
        return codec.data(stream_id, len(body), fin=fin) + body, found
    header = codec.syn(stream_id, len(body), priority=0, stream_type=0)
    return header + body, [("SYN", stream_id, 0, 0), ("DATA", stream_id, len(body), False, body)]


@settings(deadline=None, max_examples=60)
@given(st.lists(frames, max_size=12), places)
def test_round_trip(sent: list[Event], cuts: list[int]) -> None:
    encoded = [encode(event) for event in sent]
    whole = b"".join(part for part, _ in encoded)
    expected = [event for _, events in encoded for event in events]
    assert parse(*cut(whole, cuts)) == expected


#: Bytes with headers among them: pure noise would seldom get past a first header.
noise = st.lists(
    st.one_of(
        st.builds(
            frame,
            st.integers(0, 15) | st.integers(0, 3),
            st.integers(0, 15),
            st.integers(0, 0xFFFFFFFF) | st.integers(0, 5),
            st.binary(max_size=24),
            # The header's own word about its length, which may be wrong; -1: right.
            st.sampled_from([-1, -1, -1, 4, 8, 30, 5000, 2**24 - 1]),
        ),
        st.binary(max_size=24),
        st.binary(min_size=1, max_size=3).map(lambda piece: piece * 2000),
    ),
    max_size=8,
).map(b"".join)


def outcome(*chunks: bytes) -> tuple[list[Event], Event | None, type[Error] | None, bool]:
    """Frames found, the DATA frame under way, the error, and whether bytes of a frame miss."""
    recorder = Recorder()
    codec = v2(recorder)
    error: type[Error] | None = None
    try:
        for chunk in chunks:
            codec.feed(memoryview(chunk))
    except Error as caught:
        error = type(caught)
    return recorder.events, recorder.unfinished, error, codec.mid_frame


@settings(deadline=None, max_examples=150)
@given(noise, places)
def test_any_bytes(whole: bytes, cuts: list[int]) -> None:
    """Only the documented errors escape, and how the bytes are cut changes nothing."""
    events, unfinished, error, _ = outcome(whole)
    assert error in (None, FrameSizeError, ProtocolError)
    for chunks in (cut(whole, cuts), cut(whole, range(1, min(len(whole), 3000)))):
        other_events, other_unfinished, other_error, mid_frame = outcome(*chunks)
        assert other_events == events
        assert other_unfinished == unfinished
        # A parser may wait for the end of a short frame before it says what is wrong with it.
        assert other_error is error or (other_error is None and mid_frame)


@pytest.mark.parametrize(
    "header", [frame(3, 0, 5, length=1000), frame(0, 0, 0, length=4), frame(2, 0, 0, length=4)]
)
def test_a_wrong_header_is_judged_before_its_body(header: bytes) -> None:
    """However it is cut: what it says of a body, which may never come, is not waited for."""
    for chunks in ([header], [header[:3], header[3:]]):
        codec = v2(Recorder())
        with pytest.raises(ProtocolError):
            for chunk in chunks:
                codec.feed(memoryview(chunk))
