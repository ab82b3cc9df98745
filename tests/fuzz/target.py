"""One input: a session's protocol is fed bytes of the peer in pieces, and used in between.

An input is a byte of options, a byte that says how many bytes of deeds follow, the deeds, and
what the peer sends. A deed, each in its turn and from the first again, tells how many of the
peer's bytes come next and what the application does then.
"""

from __future__ import annotations

from muxado import wire
from muxado.config import Config
from muxado.errors import Error, SessionClosed
from muxado.protocol import Protocol, StreamState
from tests.helpers.pure import Event, Recorder

__all__ = ["run"]

#: Bytes of the peer that a deed lets through: the deed's last three bits.
SIZES = (1, 2, 3, 7, 8, 9, 60, 5000)
#: What the options' bits mean.
CLIENT, TYPED, ROOMY = 1, 2, 4
#: Bytes that the interpreter needs for an object beyond those that it holds; and then some.
OVERHEAD = 128


def run(version: int, data: bytes) -> None:
    """Feed the input ``data`` to a session of ``version``; raises when something is wrong."""
    if len(data) < 2:
        return
    options, count = data[:2]
    deeds, sent = data[2 : 2 + count] or b"\x07", data[2 + count :]
    config = Config(
        version=version,
        typed=version == 2 and bool(options & TYPED),
        accept_backlog=100 if options & ROOMY else 2,
        max_streams=1000 if options & ROOMY else 3,
        **({} if options & ROOMY else {"window": 100, "max_window": 200}),
    )
    End(config, client=bool(options & CLIENT)).talk(deeds, sent)
    pieces = list(cut(deeds, sent))
    assert heard(version, sent) == heard(version, *pieces), "what is heard depends on the cuts"


def cut(deeds: bytes, sent: bytes) -> list[bytes]:
    pieces, place, number = [], 0, 0
    while place < len(sent):
        size = SIZES[deeds[number % len(deeds)] & 7]
        pieces.append(sent[place : place + size])
        place, number = place + size, number + 1
    return pieces


def heard(version: int, *pieces: bytes) -> tuple[list[Event], Event | None, type[Error] | None]:
    """The frames that a codec finds, the one under way, and what it ends with."""
    recorder = Recorder()
    codec = _codec(version, recorder)
    try:
        for piece in pieces:
            codec.feed(memoryview(piece))
    except SessionClosed as error:
        return recorder.events, recorder.unfinished, type(error)
    return recorder.events, recorder.unfinished, None


def _codec(version: int, recorder: Recorder) -> wire.Codec:
    return wire.codec(Config(version=version), recorder)


class End:
    """A protocol, and an application that does something with whatever it has."""

    def __init__(self, config: Config, *, client: bool) -> None:
        self.config = config
        self.protocol = Protocol(config, client=client, clock=lambda: 0.0)
        self.mine: list[StreamState] = []
        self.said = Recorder()
        self.listener = _codec(config.version, self.said)

    def talk(self, deeds: bytes, sent: bytes) -> None:
        for number, piece in enumerate(cut(deeds, sent)):
            try:
                self.protocol.feed(memoryview(piece))
            except SessionClosed:
                self.protocol.go_away(1, b"", final=True)
                self.say(self.protocol.control_frames(opening=False))
                return
            self.check()
            self.act(deeds[number % len(deeds)] >> 3, number)
            self.check()

    def act(self, deed: int, number: int) -> None:
        """One of 32 things, some of them nothing."""
        protocol = self.protocol
        stream = self.mine[number % len(self.mine)] if self.mine else None
        if deed == 0:
            self.say(protocol.control_frames(opening=True))
        elif deed == 1:
            if (accepted := protocol.accept()) is not None:
                self.mine.append(accepted)
        elif deed == 2:
            self.open()
        elif deed == 3:
            protocol.beat()
        elif deed == 4:
            protocol.go_away(0, b"going", final=False)
        elif deed == 5:
            protocol.refuse_backlog()
        elif stream is not None and not stream.closed:
            self.use(protocol, stream, deed)
        self.mine = [stream for stream in self.mine if not stream.closed]

    def open(self) -> None:
        try:
            self.mine.append(self.protocol.open(priority=0, stream_type=0, fin=False))
        except Error:
            assert self.protocol.going_away or self.protocol.goaway is not None

    def use(self, protocol: Protocol, stream: StreamState, deed: int) -> None:
        if deed in (6, 7):
            if stream.buffer.size:
                data = stream.buffer.take(10 if deed == 6 else 100_000)
                assert data
                protocol.consumed(stream, len(data))
        elif deed in (8, 9):
            size = min(50, stream.send.left)
            if size > 0 and not stream.fin_out and stream.failure is None:
                self.say(protocol.data_header(stream, size) + bytes(size))
        elif deed == 10:
            protocol.end(stream, flush_now=True)
        elif deed == 11:
            protocol.shut_read(stream)
        elif deed == 12:
            protocol.close(stream)
        elif deed == 13:
            protocol.reset(stream, 6)

    def say(self, frames: bytes) -> None:
        """What it sends must be frames."""
        self.listener.feed(memoryview(frames))
        assert not self.listener.mid_frame

    def check(self) -> None:
        protocol, config = self.protocol, self.config
        assert len(protocol.backlog) <= config.accept_backlog
        assert protocol.peer_streams <= config.max_streams
        for stream in protocol.streams.values():
            window = stream.receive
            assert window.left >= 0
            assert window.size <= config.max_window
            coming = protocol.codec.data_left if stream is protocol._receiver.current else 0
            assert window.left + coming + stream.buffer.size + window.read == window.size
            assert not (stream.read_shut and stream.buffer.size)
            size = stream.buffer.size
            assert len(stream.buffer.peek(size + 1)) == size
            assert stream.failure is None
            assert stream.send.left <= 2**31 - 1
        for state in (protocol.pending.grants, protocol.pending.ending, protocol.pending.opening):
            assert all(not s.failure for s in state)
