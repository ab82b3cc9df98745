"""Bytes recorded between the Go originals' ends of version 1, and a session in place of either.

``v1.json`` beside this file: each entry's ``client_to_server`` and ``server_to_client`` (hex, one
item per read), and ``order``, the frames as they were seen: direction, type, flags, stream id,
length. In entries named ``probe_...`` one end was driven by hand, often against the rules; what
it sent is in c2s, also in those where it was the server.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from muxado.config import Config
from muxado.errors import Error, ErrorCode, FrameSizeError, ProtocolError
from muxado.protocol import Protocol, StreamState
from tests.helpers.pure import Event, Recorder
from tests.helpers.version1 import (
    DATA,
    FIN,
    GOAWAY,
    HEARTBEAT,
    PRIORITY,
    RST,
    SYN,
    TYPE,
    Referee,
    v1,
)

#: What the numbers of this wire's error codes mean.
CODES = (0, 1, 2, 3, 4, 8, 5, 6)

#: The probes that broke a rule of framing, and how that ends.
FRAMING_ERRORS: dict[str, type[Error]] = {
    "probe_accept_queue_full": ProtocolError,
    "probe_data_stream_0": ProtocolError,
    "probe_goaway_short": FrameSizeError,
    "probe_pri_frame_type_5": ProtocolError,
    "probe_rst_bad_length": FrameSizeError,
    "probe_syn_bad_length": FrameSizeError,
    "probe_syn_too_long": FrameSizeError,
    "probe_unknown_frame_type_7": ProtocolError,
    "probe_wndinc_bad_length": FrameSizeError,
}
#: The probes whose GOAWAY was as long as it said, so that frames could follow.
WELL_FORMED = ("probe_goaway_debug", "probe_goaway_len8")
#: And those that broke a rule of the session.
SESSION_ERRORS: dict[str, type[Error]] = {
    **FRAMING_ERRORS,
    "probe_client_id_1": ProtocolError,
    "probe_data_idle_server_stream": ProtocolError,
    "probe_data_idle_stream": ProtocolError,
    "probe_go_client_wrong_parity": ProtocolError,
    "probe_rst_idle_stream": ProtocolError,
    "probe_syn_id_lower": ProtocolError,
    "probe_syn_id_reused": ProtocolError,
    "probe_wndinc_idle_stream": ProtocolError,
    "probe_wrong_parity": ProtocolError,
}


@dataclasses.dataclass(frozen=True)
class Recording:
    """One entry, with its frames cut at their borders."""

    name: str
    reads: dict[str, list[bytes]]
    #: In the order they were seen: direction, bytes. Whatever stood behind a GOAWAY, which the
    #: originals miscount, goes with it.
    frames: list[tuple[str, bytes]]

    def __str__(self) -> str:
        return self.name

    def of(self, route: str) -> list[bytes]:
        return [raw for where, raw in self.frames if where == route]

    def route_of(self, client: bool) -> str:
        return "c2s" if client != ("go_client" in self.name) else "s2c"


def size_of(raw: bytes) -> int:
    """Bytes of the first frame of ``raw``, by its header."""
    return 8 + int.from_bytes(raw[:2], "big") % 0x4000


def _load() -> list[Recording]:
    entries: list[dict[str, Any]] = json.loads(
        Path(__file__).with_name("v1.json").read_text(encoding="utf-8")
    )
    found = []
    for entry in entries:
        reads = {
            "c2s": [bytes.fromhex(read) for read in entry["client_to_server"]],
            "s2c": [bytes.fromhex(read) for read in entry["server_to_client"]],
        }
        left = {route: b"".join(each) for route, each in reads.items()}
        frames = []
        for route, kind, *_ in [*entry["order"], ("c2s", "the last of a read with two frames")]:
            miscounted = kind == "GOAWAY" and entry["name"] not in WELL_FORMED
            size = len(left[route]) if miscounted else size_of(left[route])
            if left[route]:
                frames.append((route, left[route][:size]))
                left[route] = left[route][size:]
        assert not any(left.values())
        found.append(Recording(entry["name"], reads, frames))
    return found


RECORDINGS = _load()
recordings = pytest.mark.parametrize("recording", RECORDINGS, ids=str)
routes = pytest.mark.parametrize("route", ["c2s", "s2c"])


def header(raw: bytes) -> tuple[int, int, int, bytes]:
    """Type, flags, stream id and body, by the table of the specification."""
    length, flags, kind, stream_id = struct.unpack_from(">HBBI", raw)
    return kind % 32, flags, stream_id % 2**31, raw[8 : 8 + length % 0x4000]


def events_of(raw: bytes) -> list[Event]:
    """What a parser should find in a frame that keeps the rules."""
    kind, flags, stream_id, body = header(raw)
    if kind == GOAWAY and len(raw) < size_of(raw):
        body = body[:8]  # the debug bytes that it promised are not there
    words = [word for (word,) in struct.iter_unpack(">I", body[: len(body) // 4 * 4])]
    if kind == SYN:
        priority = words.pop(0) if flags & PRIORITY else 0
        fin: list[Event] = [("DATA", stream_id, 0, True, b"")] if flags & FIN else []
        return [("SYN", stream_id, priority, words[0] if flags & TYPE else 0), *fin]
    if kind == DATA:
        return [("DATA", stream_id, len(body), bool(flags & FIN), body)]
    if kind == RST:
        code = CODES[words[0]] if words[0] < len(CODES) else ErrorCode.ERROR_UNKNOWN
        return [("RST", stream_id, code)]
    if kind == GOAWAY:
        debug: list[Event] = [("GOAWAY", words[0], CODES[words[1]], body[8:])]
        return [("GOAWAY", words[0], CODES[words[1]], b""), *debug * (len(body) > 8)]
    return [("WNDINC", stream_id, words[0])]


def test_the_recordings_are_there() -> None:
    assert len(RECORDINGS) == 58
    assert {recording.name for recording in RECORDINGS} > SESSION_ERRORS.keys()


@recordings
@routes
@pytest.mark.parametrize("bytewise", [False, True], ids=["as read", "byte by byte"])
def test_every_frame_is_found(recording: Recording, route: str, bytewise: bool) -> None:
    recorder = Recorder()
    codec = v1(recorder)
    error: Error | None = None
    whole = b"".join(recording.reads[route])
    reads = [whole[i : i + 1] for i in range(len(whole))] if bytewise else recording.reads[route]
    try:
        for read in reads:
            codec.feed(memoryview(read))
    except Error as caught:
        error = caught
    frames = recording.of(route)
    bad = FRAMING_ERRORS.get(recording.name) if route == "c2s" else None
    if bad is not None:
        assert type(error) is bad
        first_bad = next(i for i, raw in enumerate(frames) if not keeps_the_rules(raw))
        frames = frames[:first_bad]
    cut = bool(frames) and len(frames[-1]) < size_of(frames[-1])
    if cut and header(frames[-1])[0] != GOAWAY:
        assert codec.mid_frame
        frames.pop()
    expected = [event for raw in frames for event in events_of(raw)]
    miscounted = any(event[0] == "GOAWAY" for event in expected)
    assert recorder.events[: len(expected)] == expected
    if not miscounted or recording.name in WELL_FORMED:
        assert recorder.events == expected
        assert error is None or bad is not None


def keeps_the_rules(raw: bytes) -> bool:
    kind, flags, stream_id, body = header(raw)
    if kind == SYN:
        return len(body) == 4 * bool(flags & PRIORITY) + 4 * bool(flags & TYPE)
    if kind == GOAWAY:
        return int.from_bytes(raw[:2], "big") >= 8
    return bool(stream_id) if kind == DATA else kind in (2, 4) and len(body) == 4


@recordings
@routes
@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
def test_either_end_survives(recording: Recording, route: str, client: bool) -> None:
    """Only documented errors escape, also at the end that these bytes were not meant for."""
    end = Protocol(Config(version=1), client=client, clock=lambda: 0.0)
    for _ in range(60):
        end.open(priority=0, stream_type=0, fin=False)
    end.control_frames(opening=True)
    try:
        for read in recording.reads[route]:
            end.feed(memoryview(read))
            end.control_frames(opening=True)
    except ProtocolError:
        pass


class Player:
    """A session in place of one end of a recording, whose application does what that end's did."""

    def __init__(self, *, client: bool) -> None:
        self.end = Protocol(Config(version=1), client=client, clock=lambda: 0.0)
        self.referee = Referee(client=client)
        self.streams: dict[int, StreamState] = {}
        self.sent: dict[int, bytes] = collections.defaultdict(bytes)
        self.received: dict[int, bytes] = collections.defaultdict(bytes)
        self.asked = 0  # how often the recorded end asked for a sign of life

    def hear(self, raw: bytes) -> None:
        self.referee.heard(raw)
        self.end.feed(memoryview(raw))
        while (stream := self.end.accept()) is not None:
            self.streams[stream.id] = stream
        self.flush()

    def say(self, raw: bytes) -> None:
        """Do what makes the other end see ``raw``, as far as a correct end can."""
        kind, flags, stream_id, body = header(raw)
        stream = self.streams.get(stream_id)
        if kind == SYN and keeps_the_rules(raw):
            self.open(raw)
        elif kind == DATA and stream_id == self.referee.asked:
            self.asked += 1
            if self.asked > 1:  # the first question went with the SYN
                self.end.beat()
        elif kind == DATA and stream is not None and stream.failure is None and not stream.fin_out:
            if body:
                self.flush(self.end.data_header(stream, len(body)) + body)
            if flags & FIN:
                self.end.end(stream, flush_now=True)
        elif kind == RST and stream is not None and keeps_the_rules(raw) and raw[11] in (6, 7):
            self.end.reset(stream, CODES[raw[11]])  # those of 4 answer to late frames by themselves
        elif kind == GOAWAY and len(body) >= 8:
            self.end.go_away(CODES[body[7]], body[8:], final=True)
        self.flush()
        self.read()

    def open(self, raw: bytes) -> None:
        # FIN on a SYN did not keep the originals from writing: it is no half-close to copy.
        ((_, stream_id, priority, kind), *_) = events_of(raw)
        if kind == HEARTBEAT:
            self.end.beat()
        elif stream_id & 1 == self.referee.parity:
            kind = min(kind, HEARTBEAT - 1)
            while self.end.goaway is None and stream_id > self.referee.last:
                stream = self.end.open(priority=priority, stream_type=kind, fin=False)
                self.streams[stream.id] = stream
                self.flush()

    def flush(self, frames: bytes = b"") -> None:
        for got in self.referee.saw(frames + self.end.control_frames(opening=True)):
            if got.type == DATA:
                self.sent[got.stream_id] += got.body

    def read(self) -> None:
        """Take all that has come, and let go of what is over."""
        for stream in list(self.streams.values()):
            if stream.buffer.size:
                taken = stream.buffer.take(stream.buffer.size)
                self.received[stream.id] += taken
                self.end.consumed(stream, len(taken))
            if stream.fin_in and stream.fin_out:
                self.end.close(stream)
        self.flush()


@recordings
@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
def test_in_place_of_either_end(recording: Recording, client: bool) -> None:
    """What our side says is what a correct end may say, and the other's faults are survived."""
    mine = recording.route_of(client)
    player = Player(client=client)
    error: Error | None = None
    for route, raw in recording.frames:
        if route == mine:
            if player.end.going_away and header(raw)[0] == SYN:
                return  # a session that is going away opens no stream
            player.say(raw)
            continue
        try:
            player.hear(raw)
        except Error as caught:
            error = caught
            break
    if player.end.goaway is None:  # behind one a framing error is just the end
        expected = SESSION_ERRORS.get(recording.name) if mine == "s2c" else None
        assert type(error) is (type(None) if expected is None else expected)
    if recording.name.startswith("probe_"):
        return
    player.read()
    said, heard = (totals(recording.of(route)) for route in (mine, "s2c" if client else "c2s"))
    for stream_id in player.streams:
        assert player.sent[stream_id] == said[stream_id]
        if recording.name != "syn_with_fin" or client:  # where the original wrote after its FIN
            assert player.received[stream_id] == heard[stream_id]
    for stream_id in player.referee.heartbeats - {player.referee.asked}:
        assert player.sent[stream_id] == said[stream_id], "an echo"
    opened = {raw[4:8]: raw for raw in recording.of(mine) if header(raw)[0] == SYN}
    for got in player.referee.sent:
        if got.type == SYN:
            raw = opened[got.stream_id.to_bytes(4, "big")]
            kind, flags, *rest = header(raw)
            assert got == (kind, flags & ~FIN, *rest)


def totals(frames: list[bytes]) -> dict[int, bytes]:
    """The bytes of each stream."""
    bodies: dict[int, bytes] = collections.defaultdict(bytes)
    for raw in frames:
        kind, _, stream_id, body = header(raw)
        if kind == DATA:
            bodies[stream_id] += body
    return bodies
