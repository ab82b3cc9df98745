"""Bytes recorded between the Go originals' ends, and what is to be found in them.

``v2.json`` beside this file: each entry's ``client_to_server`` and ``server_to_client`` (hex, one
item per read), and ``order``, the frames as they were seen: direction, type, flags, stream id,
length. In entries named ``probe_...`` one end was driven by hand, often against the rules.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from muxado.config import Config
from muxado.errors import Error, FrameSizeError, ProtocolError
from muxado.protocol import Protocol
from tests.helpers.pure import Event, Recorder, v2

ID = 0x7FFFFFFF
ROUTES = {"c2s": "client_to_server", "s2c": "server_to_client"}

#: One frame: type, flags that have a meaning, stream id, length.
Frame = tuple[str, int, int, int]


@dataclasses.dataclass(frozen=True)
class Recording:
    """One direction of one entry."""

    name: str
    note: str
    route: str
    reads: list[bytes]
    frames: list[Frame]
    cut: bool  # the last frame is not whole
    own_ids: list[int]  # what the receiver opened

    def __str__(self) -> str:
        return f"{self.name}-{self.route}"


def _load() -> list[Recording]:
    entries: list[dict[str, Any]] = json.loads(
        Path(__file__).with_name("v2.json").read_text(encoding="utf-8")
    )
    found = []
    for entry in entries:
        for route, key in ROUTES.items():
            mine = [seen[1:] for seen in entry["order"] if seen[0] == route]
            theirs = [seen[1:] for seen in entry["order"] if seen[0] != route]
            found.append(
                Recording(
                    entry["name"],
                    entry["note"],
                    route,
                    [bytes.fromhex(read) for read in entry[key]],
                    [
                        (kind, flags & 3 if kind == "DATA" else 0, stream_id & ID, length)
                        for kind, flags, stream_id, length in mine
                        if kind != "INCOMPLETE"
                    ],
                    any(kind == "INCOMPLETE" for kind, *_ in mine),
                    [seen[2] & ID for seen in theirs if seen[0] == "DATA" and seen[1] & 2],
                )
            )
    return found


RECORDINGS = _load()
recordings = pytest.mark.parametrize("recording", RECORDINGS, ids=str)

#: The probes that broke a rule of framing, and how that ends.
FRAMING_ERRORS: dict[str, type[Error]] = {
    "probe_data_stream_0-c2s": ProtocolError,
    "probe_goaway_bad_length-c2s": FrameSizeError,
    "probe_goaway_bad_stream-c2s": ProtocolError,
    "probe_rst_bad_length-c2s": FrameSizeError,
    "probe_rst_stream_0-c2s": ProtocolError,
    "probe_wndinc_bad_length-c2s": FrameSizeError,
    "probe_wndinc_stream_0-c2s": ProtocolError,
}
#: And those that broke a rule of the session.
SESSION_ERRORS: dict[str, type[Error]] = {
    **FRAMING_ERRORS,
    "probe_syn_id_reused-c2s": ProtocolError,
    "probe_wrong_parity-c2s": ProtocolError,
    "probe_go_client_wrong_parity-c2s": ProtocolError,
}


def found(recorder: Recorder) -> list[Frame]:
    """What a parser found, in the words of a recording."""
    frames: list[Frame] = []
    syn = 0
    for event in recorder.events:
        match event:
            case ("SYN", _, _, _):
                syn = 2
            case ("DATA", stream_id, length, fin, body):
                assert len(body) == length
                frames.append(("DATA", syn | fin, stream_id, length))
                syn = 0
            case ("RST" | "WNDINC" as kind, stream_id, _):
                frames.append((kind, 0, stream_id, 4))
            case ("GOAWAY", _, _, debug):
                frames.append(("GOAWAY", 0, 0, 8 + len(debug)))
            case ("UNKNOWN", kind):
                frames.append((f"UNKNOWN_{kind}", 0, 0, -1))
            case _:
                raise AssertionError(event)
    return frames


def seen(frames: list[Frame]) -> list[Frame]:
    """The frames of a recording as a handler can tell them: unknown ones by their type alone."""
    return [(f[0], 0, 0, -1) if f[0].startswith("UNKNOWN") else f for f in frames]


def test_the_recordings_are_there() -> None:
    assert len(RECORDINGS) == 2 * 56
    names = {str(recording) for recording in RECORDINGS}
    assert names > SESSION_ERRORS.keys()


@recordings
@pytest.mark.parametrize("bytewise", [False, True], ids=["as read", "byte by byte"])
def test_every_frame_is_found(recording: Recording, bytewise: bool) -> None:
    recorder = Recorder()
    codec = v2(recorder)
    error: Error | None = None
    whole = b"".join(recording.reads)
    reads = [whole[i : i + 1] for i in range(len(whole))] if bytewise else recording.reads
    try:
        for read in reads:
            codec.feed(memoryview(read))
    except Error as caught:
        error = caught
    frames = seen(recording.frames)
    expected = FRAMING_ERRORS.get(str(recording))
    if expected is None and error is not None:
        # The originals miscount their GOAWAY (by 8 bytes, either way); what comes behind one may
        # be no frame. Everything up to it is right all the same.
        assert ("GOAWAY", 0, 0) in [f[:3] for f in frames[: len(found(recorder))]], error
        assert found(recorder) == frames[: len(found(recorder))]
    elif expected is not None:
        # Each of these was the first rule broken, with the last frame but one still good.
        assert type(error) is expected
        assert found(recorder) == frames[:-1]
    else:
        assert found(recorder) == frames
        assert codec.mid_frame == recording.cut


@recordings
@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
def test_either_end_survives(recording: Recording, client: bool) -> None:
    """Only documented errors escape, also at the end that these bytes were not meant for."""
    end = Protocol(Config(), client=client, clock=lambda: 0.0)
    while end.codec.first_id[0 if client else 1] + 2 * end.opened <= max(
        recording.own_ids, default=0
    ):
        end.open(priority=0, stream_type=0, fin=False)
    end.control_frames(opening=True)
    error: Error | None = None
    try:
        for read in recording.reads:
            end.feed(memoryview(read))
            end.control_frames(opening=True)
    except Error as caught:
        error = caught
    assert error is None or isinstance(error, ProtocolError)
    # A Go client took part in the two recordings named "go_client", and its server was the raw
    # end, which the recordings call c2s all the same.
    meant_for_client = (recording.route == "s2c") != ("go_client" in recording.name)
    if client == meant_for_client:
        assert type(error) is SESSION_ERRORS.get(str(recording), type(None))


@pytest.mark.parametrize(
    "recording", [r for r in RECORDINGS if not r.name.startswith("probe_")], ids=str
)
def test_what_the_originals_say_to_each_other_arrives(recording: Recording) -> None:
    client = recording.route == "s2c"
    end = Protocol(Config(), client=client, clock=lambda: 0.0)
    mine = [end.open(priority=0, stream_type=0, fin=False) for _ in recording.own_ids]
    assert {stream.id for stream in mine} == set(recording.own_ids)
    end.control_frames(opening=True)
    for read in recording.reads:
        end.feed(memoryview(read))
    recorder = Recorder()
    codec = v2(recorder)
    codec.feed(memoryview(b"".join(recording.reads)))

    def of(kind: str, stream_id: int) -> list[Event]:
        return [e for e in recorder.events if e[0] == kind and e[1] == stream_id]

    for stream in [*mine, *end.backlog.values()]:
        if of("RST", stream.id):
            assert stream.failure is not None
            assert stream.buffer.size == 0
            continue
        pieces = of("DATA", stream.id)
        body = b"".join(piece[4] for piece in pieces)
        assert stream.buffer.peek(stream.buffer.size) == body
        assert stream.fin_in == any(piece[3] for piece in pieces)
        granted = sum(e[2] for e in of("WNDINC", stream.id))
        assert stream.send.left == 262144 + granted
    last = [e for e in recorder.events if e[0] == "GOAWAY"]
    assert end.goaway in [e[1:] for e in last]
