"""Every recorded conversation, fed to a live session in place of either end.

The session's application echoes what it accepts and opens what the recording's end opened. What
it says to the recorded peer, who of course does not listen, must be what a correct end may say.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import muxado
from muxado import ErrorCode

from ..helpers.crew import GUARD, Crew
from ..helpers.support import DATA, FIN, GOAWAY, RST, SYN, WNDINC, Frame
from ..helpers.version1 import frames_in

WIRE = Path(__file__).parents[1] / "unit" / "wire"
PAD = 15

#: What a session may end with, having heard an original that broke off or broke a rule.
ENDS = {
    ErrorCode.NO_ERROR,
    ErrorCode.PROTOCOL_ERROR,
    ErrorCode.INTERNAL_ERROR,
    ErrorCode.FLOW_CONTROL_ERROR,
    ErrorCode.FRAME_SIZE_ERROR,
    ErrorCode.PEER_EOF,
    ErrorCode.ERROR_UNKNOWN,
}


class Conversation(NamedTuple):
    version: int
    name: str
    client: bool  # whether our session takes the client's place
    said: list[bytes]  # what the other end said
    opens: int  # how many streams the end that we replace opened
    typed: bool


def conversations() -> list[Conversation]:
    found = []
    for version in (1, 2):
        for entry in json.loads((WIRE / f"v{version}.json").read_text()):
            # A probe's raw end may be the server: "c2s" is always the raw end's direction.
            swapped = "is the SERVER" in entry["note"]
            for client in (True, False):
                key = "server_to_client" if client != swapped else "client_to_server"
                own = "s2c" if key == "client_to_server" else "c2s"
                opening = {
                    row[3]
                    for row in entry["order"]
                    if row[0] == own and row[3] and row[3] % 2 == client
                }
                found.append(
                    Conversation(
                        version,
                        entry["name"],
                        client,
                        [bytes.fromhex(piece) for piece in entry[key]],
                        min(len(opening), 8),
                        version == 2 and "typed" in entry["name"],
                    )
                )
    return found


class Referee2:
    """What an end of version 2 may send."""

    def __init__(self, *, client: bool) -> None:
        self.parity = int(client)
        self.left: dict[int, int] = {}
        self.finished: set[int] = set()
        self.gone = False

    def saw(self, frames: list[Frame]) -> None:
        for got in frames:
            kind, flags, stream_id, body = got
            if kind == GOAWAY:
                assert (stream_id, flags) == (0, 0), got
                assert len(body) >= 8, got
                self.gone = True
            elif kind == PAD:
                assert self.gone, "an unknown type kills the Rust peer"
            elif kind == DATA:
                assert flags & ~(SYN | FIN) == 0, got
                if flags & SYN:
                    assert stream_id & 1 == self.parity, got
                    assert stream_id not in self.left, got
                    self.left[stream_id] = 262144
                left = self.left.setdefault(stream_id, 262144)
                assert stream_id not in self.finished, f"{got} after FIN"
                self.left[stream_id] = left - len(body)
                assert self.left[stream_id] >= 0, f"{got}: more than its window"
                if flags & FIN:
                    self.finished.add(stream_id)
            elif kind == WNDINC:
                assert len(body) == 4, got
                assert 0 < got.word <= 0x7FFFFFFF, "WNDINC of 0 kills a Go peer"
            else:
                assert kind == RST, got
                assert (len(body), flags) == (4, 0), got
                assert stream_id, got


def listen(sock: socket.socket) -> bytes:
    """Everything up to the end of the connection, which may be a reset.

    The session may end while bytes are under way to it; what it had said comes before the reset.
    """
    heard = []
    try:
        while piece := sock.recv(65536):
            heard.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(heard)


def serve(session: muxado.Session, crew: Crew) -> None:
    def echo(stream: muxado.Stream) -> None:
        with stream:
            try:
                while data := stream.recv(65536):
                    stream.sendall(data)
            except OSError:
                pass  # reset, or the session's end: as it was recorded

    for stream in session:
        crew.start(echo, stream)


def use(session: muxado.Session) -> None:
    try:
        with session.open() as stream:
            stream.sendall(b"hello")
            stream.close_write()
            while stream.recv(65536):
                pass
    except OSError:
        pass  # what was recorded was no answer to this


@pytest.mark.parametrize(
    "talk",
    conversations(),
    ids=lambda talk: f"v{talk.version}-{talk.name}-{'client' if talk.client else 'server'}",
)
def test_replayed_against_a_session(talk: Conversation, crew: Crew) -> None:
    ours, theirs = socket.socketpair()
    theirs.settimeout(GUARD)
    options: dict[str, Any] = {"version": talk.version, "typed": talk.typed, "linger": 0.5}
    session = muxado.Session(ours, client=talk.client, **options)
    with theirs:
        listening = crew.start(listen, theirs)
        serving = crew.start(serve, session, crew)
        using = [crew.start(use, session) for _ in range(talk.opens)]
        for piece in talk.said:
            try:
                theirs.sendall(piece)
            except OSError:
                break  # the session has ended over what came before
        theirs.shutdown(socket.SHUT_WR)
        end = session.wait(GUARD)
        assert end.code in ENDS
        serving.result()
        for task in using:
            task.result()
        session.close()
        said = listening.result()
    if talk.version == 1:
        frames = list(frames_in(said))
        own = {f.stream_id for f in frames if f.type == 1}
        assert sorted(own) == [f.stream_id for f in frames if f.type == 1], "SYNs in order"
        assert all(stream_id & 1 == int(talk.client) for stream_id in own)
        assert frames[-1].type == 6, "a GOAWAY is the last word"
    else:
        frames = list(frames_of_version_2(said))
        Referee2(client=talk.client).saw(frames)
        assert frames[-1].type == GOAWAY, "a GOAWAY is the last word"


def frames_of_version_2(raw: bytes) -> list[Frame]:
    frames = []
    while raw:
        assert len(raw) >= 8, "a cut header"
        length = int.from_bytes(raw[:3], "big")
        assert len(raw) >= 8 + length, "a cut body"
        stream_id = int.from_bytes(raw[4:8], "big")
        frames.append(Frame(raw[3] >> 4, raw[3] & 15, stream_id, raw[8 : 8 + length]))
        raw = raw[8 + length :]
    return frames
