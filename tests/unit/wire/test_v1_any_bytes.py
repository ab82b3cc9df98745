"""Version 1 of the wire over frames, bytes and deeds that nobody thought of, cut anywhere."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from muxado.config import Config
from muxado.errors import Error, FrameSizeError, ProtocolError
from muxado.protocol import Protocol, StreamState
from tests.helpers.pure import Event, Recorder, cut, places
from tests.helpers.version1 import HEARTBEAT, URGENT, Referee, data, frame, parse, syn, v1

ids = st.integers(1, 0x7FFFFFFF) | st.integers(1, 9)
increments = st.integers(1, 0x7FFFFFFF)
bodies = st.binary(max_size=40) | st.integers(0, 16383).map(bytes)

frames = st.one_of(
    st.tuples(st.just("DATA"), ids, st.booleans(), bodies),
    st.tuples(
        st.just("SYN"),
        ids,
        st.integers(0, 0x7FFFFFFF) | st.just(0),
        st.integers(0, 0xFFFFFFFF) | st.just(0),
        st.booleans(),
        bodies,
    ),
    st.tuples(st.just("RST"), ids, st.sampled_from([0, 1, 2, 3, 4, 5, 6, 8])),
    st.tuples(st.just("WNDINC"), ids, increments),
    st.tuples(st.just("GOAWAY"), st.integers(0, 0x7FFFFFFF), st.binary(max_size=300)),
)


def encode(event: Event) -> tuple[bytes, list[Event]]:
    """A frame as the codec writes it, and what a receiver should find."""
    codec = v1(Recorder())
    kind, *fields = event
    if kind == "RST":
        return codec.rst(*fields), [event]
    if kind == "WNDINC":
        return codec.window(*fields), [event]
    if kind == "GOAWAY":
        last_id, debug = fields
        again: list[Event] = [("GOAWAY", last_id, 3, debug)] if debug else []
        return codec.goaway(last_id, 3, debug, final=True), [("GOAWAY", last_id, 3, b""), *again]
    if kind == "DATA":
        stream_id, fin, body = fields
        found: list[Event] = [("DATA", stream_id, len(body), fin, body)]
        return codec.data(stream_id, len(body), fin=fin) + body, found
    stream_id, priority, stream_type, fin, body = fields
    header = codec.syn(stream_id, len(body), priority=priority, stream_type=stream_type)
    found = [("SYN", stream_id, priority, stream_type)]
    if body:
        found.append(("DATA", stream_id, len(body), False, body))
    return header + body, found


@settings(deadline=None, max_examples=60)
@given(st.lists(frames, max_size=12), places)
def test_round_trip(sent: list[Event], cuts: list[int]) -> None:
    encoded = [encode(event) for event in sent]
    whole = b"".join(part for part, _ in encoded)
    expected = [event for _, events in encoded for event in events]
    assert parse(*cut(whole, cuts)) == expected


#: Bytes with headers among them: pure noise would seldom get past a first header.
headers = st.builds(
    frame,
    st.sampled_from([1, 2, 3, 3, 4, 6]) | st.integers(0, 255),
    st.integers(0, 7) | st.integers(0, 255),
    st.integers(0, 0xFFFFFFFF) | st.integers(0, 5),
    st.binary(max_size=12),
    # The header's own word about its length, which may be wrong; -1: right.
    st.sampled_from([-1, -1, -1, 0, 4, 8, 30, 5000, 0xFFFF]),
)
noise = st.lists(
    st.one_of(
        headers,
        st.builds(syn, ids, priority=st.none() | increments, kind=st.none() | increments),
        st.binary(max_size=24),
        st.binary(min_size=1, max_size=3).map(lambda piece: piece * 2000),
    ),
    max_size=8,
).map(b"".join)


def outcome(*chunks: bytes) -> tuple[list[Event], Event | None, type[Error] | None, bool]:
    """Frames found, the DATA frame under way, the error, and whether bytes of a frame miss."""
    recorder = Recorder()
    codec = v1(recorder)
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
    events, unfinished, error, mid_frame = outcome(whole)
    assert error in (None, FrameSizeError, ProtocolError)
    for chunks in (cut(whole, cuts), cut(whole, range(1, min(len(whole), 3000)))):
        assert outcome(*chunks) == (events, unfinished, error, mid_frame)


@settings(deadline=None, max_examples=150)
@given(st.booleans(), noise, places)
def test_any_bytes_at_a_session(client: bool, whole: bytes, cuts: list[int]) -> None:
    end = Protocol(
        Config(version=1, accept_backlog=2, max_streams=4), client=client, clock=lambda: 0.0
    )
    end.open(priority=0, stream_type=0, fin=False)
    try:
        for chunk in cut(whole, cuts):
            end.feed(memoryview(chunk))
            end.control_frames(opening=True)
    except ProtocolError:
        pass
    assert len(end.backlog) <= 2
    assert end.peer_streams <= 4


# What an application may do at one end, in any order.
numbers = st.integers(0, 5)
actions = st.lists(
    st.one_of(
        st.tuples(
            st.just("open"),
            st.sampled_from([0, 0, 1, URGENT]),
            st.sampled_from([0, 0, 0x2A, HEARTBEAT - 1]),
            st.booleans(),
        ),
        st.tuples(st.just("write"), numbers, st.integers(0, 16383)),
        st.tuples(st.sampled_from(["end", "close", "reset", "answer"]), numbers),
        st.tuples(st.just("flush"), st.booleans()),
        st.just(("beat",)),
        st.just(("goaway",)),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=120)
@given(st.booleans(), actions)
def test_whatever_is_done_only_good_frames_go_out(client: bool, todo: list[Any]) -> None:
    """SYNs in the order of their ids above all, whichever stream has bytes to send first."""
    end = Protocol(Config(version=1), client=client, clock=lambda: 0.0)
    referee = Referee(client=client)
    streams: list[StreamState] = []
    for name, *values in todo:
        if name == "open":
            try:
                streams.append(end.open(priority=values[0], stream_type=values[1], fin=values[2]))
            except Error:
                assert end.going_away
        elif name == "beat":
            end.beat()
        elif name == "goaway":
            end.go_away(0, b"bye", final=False)
        elif name == "flush":
            referee.saw(end.control_frames(opening=values[0]))
        elif values[0] < len(streams):
            stream = streams[values[0]]
            if name == "write":
                if not stream.fin_out and stream.failure is None:
                    body = bytes(min(values[1], stream.send.left))
                    referee.saw(end.data_header(stream, len(body)) + body)
            elif name == "end":
                end.end(stream, flush_now=True)
            elif name == "close":
                end.close(stream)
            elif name == "reset":
                end.reset(stream, 6)
            elif stream.opened:
                referee.heard(answer := data(stream.id, b"something"))
                end.feed(memoryview(answer))
    referee.saw(end.control_frames(opening=True))
