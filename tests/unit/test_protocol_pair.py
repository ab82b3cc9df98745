"""Two ends wired back to back, doing anything in any order, against an oracle of bytes.

The machine plays both applications and the network between: it opens, accepts, writes within the
window, reads, ends, closes, resets and stops reading, and lets bytes through in pieces of any
size. After every step the tables and windows of both ends must add up; at the end, when all is
delivered, each side must know what became of its streams.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from muxado.errors import ErrorCode, FlowControlError
from muxado.protocol import StreamState
from tests.helpers.pure import End, parse

#: Small, so that windows run out; equal, so that what is granted is what was read.
WINDOW = 64
OPTIONS = {"window": WINDOW, "max_window": WINDOW, "accept_backlog": 3, "max_streams": 5}


@dataclasses.dataclass
class Held:
    """A stream as the application of one end has it, and what it did with it."""

    state: StreamState
    sent: bytearray = dataclasses.field(default_factory=bytearray)
    read: int = 0  # bytes
    granted: int = 0  # bytes that updates of the window have told the peer
    reset: bool = False  # by this application, or by close() with bytes unread

    @property
    def live(self) -> bool:
        return not self.state.closed and self.state.failure is None


class Side:
    def __init__(self, *, client: bool) -> None:
        self.end = End(client=client, **OPTIONS)
        self.held: dict[int, Held] = {}
        self.wire = bytearray()  # sent and not delivered
        self.said: dict[int, str] = {}  # what the peer was told last of a stream's sending

    def say(self, frames: bytes) -> None:
        """Put ``frames`` on the wire, if they stand in an order that makes sense."""
        self.wire += frames
        for event in parse(frames):
            kind, stream_id = event[:2]
            before = self.said.get(stream_id)
            mine = stream_id % 2 == self.end.protocol.next_id % 2
            if kind == "SYN":
                assert mine
                assert before is None
                self.said[stream_id] = "open"
            elif kind == "DATA":
                assert before == "open" or (before is None and not mine)
                self.said[stream_id] = "finished" if event[3] else "open"
            elif kind == "WNDINC":
                assert before in ("open", "finished") or not mine
                assert before != "reset"
                assert event[2] > 0
                self.held[stream_id].granted += event[2]
            else:
                assert kind == "RST"
                assert before is not None or not mine, "the peer never heard of it"
                self.said[stream_id] = "reset"


which = st.integers(0, 1)
some = st.integers(0, 50)


def may_send(stream: StreamState) -> bool:
    return stream.send.left > 0 and not stream.fin_out


def both_shut(stream: StreamState) -> bool:
    return stream.read_shut and stream.fin_out


class Pair(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.sides = Side(client=True), Side(client=False)

    def pick(
        self, side: int, number: int, fit: Callable[[StreamState], object] = bool
    ) -> Held | None:
        """One of the streams that an application can still do something with."""
        fitting = [h for h in self.sides[side].held.values() if h.live and fit(h.state)]
        return fitting[number % len(fitting)] if fitting else None

    # The applications.

    @initialize()
    def begin(self) -> None:
        """One stream each way that both applications have: most steps need one."""
        self.connect(0)
        self.connect(1)

    @rule(side=which)
    def connect(self, side: int) -> None:
        self.open(side, False)
        self.flush(side, True)
        self.deliver(side, 1000)
        self.accept(1 - side)

    @rule(side=which, fin=st.sampled_from([False, False, True]))
    def open(self, side: int, fin: bool) -> None:
        stream = self.sides[side].end.open(fin=fin, announced=False)
        self.sides[side].held[stream.id] = Held(stream)

    @rule(side=which)
    def accept(self, side: int) -> None:
        stream = self.sides[side].end.protocol.accept()
        if stream is not None:
            self.sides[side].held[stream.id] = Held(stream)

    def send(self, side: int, held: Held, size: int) -> None:
        size = min(size, held.state.send.left)
        start = len(held.sent)
        body = bytes((held.state.id * 7 + side + start + i) % 251 for i in range(size))
        held.sent += body
        self.sides[side].say(self.sides[side].end.write(held.state, body))

    @rule(side=which, number=some, size=st.integers(1, 80))
    def write(self, side: int, number: int, size: int) -> None:
        if held := self.pick(side, number, may_send):
            self.send(side, held, size)

    @rule(side=which, number=some, size=st.integers(2, 80), less=st.integers(0, 60))
    def write_and_deliver(self, side: int, number: int, size: int, less: int) -> None:
        # But for the last bytes, so that the reader often stands in the middle of a frame.
        self.write(side, number, size)
        self.deliver(side, max(0, len(self.sides[side].wire) - less))

    @rule(side=which, number=some, count=st.integers(1, 80), into=st.booleans())
    def read(self, side: int, number: int, count: int, into: bool) -> None:
        # Also of a stream that the peer has reset: what came before stays readable.
        readable = [held for held in self.sides[side].held.values() if held.state.buffer.size]
        if not readable:
            return
        held = readable[number % len(readable)]
        peer = self.sides[1 - side].held[held.state.id]
        if into:
            room = bytearray(count)
            done = held.state.buffer.read_into(memoryview(room))
            self.sides[side].end.protocol.consumed(held.state, done)
            taken = bytes(room[:done])
        else:
            taken = self.sides[side].end.read(held.state, count)
        assert taken
        assert taken == peer.sent[held.read : held.read + len(taken)]
        held.read += len(taken)

    def leave(self, side: int, held: Held) -> None:
        """Read all that has come and close; more may be under way, even of the same frame."""
        if held.state.buffer.size:
            held.read += len(self.sides[side].end.read(held.state, WINDOW))
        self.sides[side].end.protocol.close(held.state)
        held.reset = held.state.failure is not None  # a frame was under way

    # One rule, so that streams live long enough for something to happen on them.
    @rule(
        side=which,
        number=some,
        how=st.sampled_from(["end", "close", "leave", "reset", "shut_read"]),
    )
    def part(self, side: int, number: int, how: str) -> None:
        held = self.pick(side, number)
        if held is None:
            return
        protocol = self.sides[side].end.protocol
        if how == "end":
            protocol.end(held.state, flush_now=bool(number % 2))
        elif how == "shut_read":
            protocol.shut_read(held.state)
        elif how == "leave":
            self.leave(side, held)
        elif how == "reset":
            held.reset = True
            protocol.reset(held.state, ErrorCode.INTERNAL_ERROR)
        else:
            protocol.close(held.state)
            held.reset = held.state.failure is not None

    @rule(side=which, number=some, size=st.integers(2, 60), less=st.integers(1, 60))
    def leave_in_the_middle_of_the_last_frame(
        self, side: int, number: int, size: int, less: int
    ) -> None:
        held = self.pick(side, number, may_send)
        peer = held and self.sides[1 - side].held.get(held.state.id)
        if not held or not peer or not peer.live:
            return
        self.send(side, held, size)
        self.deliver(side, max(1, len(self.sides[side].wire) - less))
        if peer.live:
            self.leave(1 - side, peer)

    # The network.

    @rule(side=which, opening=st.booleans())
    def flush(self, side: int, opening: bool) -> None:
        self.sides[side].say(self.sides[side].end.protocol.control_frames(opening=opening))

    @rule(side=which, count=st.integers(1, 30) | st.integers(30, 300))
    def deliver(self, side: int, count: int) -> None:
        sender = self.sides[side]
        self.sides[1 - side].end.feed(bytes(sender.wire[:count]))
        del sender.wire[:count]

    # What must hold at any time.

    @invariant()
    def tables_hold_what_is_alive(self) -> None:
        for side in self.sides:
            protocol = side.end.protocol
            alive = {i: held.state for i, held in side.held.items() if held.live}
            assert protocol.streams == {**alive, **protocol.backlog}
            kept = [h for h in side.held.values() if not h.state.local and not h.state.closed]
            assert protocol.peer_streams == len(kept) + len(protocol.backlog)
            assert protocol.peer_streams <= OPTIONS["max_streams"]
            assert len(protocol.backlog) <= OPTIONS["accept_backlog"]
            assert not protocol.pending.resets.keys() & protocol.streams.keys()
            over = [h.state for h in side.held.values() if not h.live]
            assert all(s.failure and not s.closed for s in over if s.buffer.size)
            assert protocol.windows.kept == sum(s.buffer.size for s in over)
            assert protocol.windows.promised == WINDOW * len(protocol.streams)
            for stream in protocol.pending.grants:
                assert stream.id in protocol.streams or (stream.closed and not stream.receive.left)

    @invariant()
    def windows_add_up(self) -> None:
        for number, side in enumerate(self.sides):
            peers = self.sides[1 - number].held
            for stream in side.end.protocol.streams.values():
                held = side.held.get(stream.id) or Held(stream)  # nothing done: not accepted yet
                peer = peers.get(stream.id)
                sent = peer.sent if peer else b""
                assert stream.send.left >= 0
                assert 0 <= stream.buffer.size <= WINDOW
                # All that was granted, less the frames whose header has come.
                told = WINDOW + held.granted - stream.receive.left
                if stream.read_shut:
                    assert stream.buffer.size == 0
                    continue
                assert held.read == held.granted + stream.receive.read
                assert len(sent) - held.read <= WINDOW, "more than a window under way"
                arrived = held.read + stream.buffer.size
                assert arrived <= told <= len(sent)
                assert stream.buffer.peek(WINDOW) == sent[held.read : arrived]
                assert not (stream.fin_in and arrived < len(sent))

    # What must have become of everything once it is quiet.

    def settle(self) -> None:
        while any(side.wire or side.end.protocol.pending for side in self.sides):
            for number in (0, 1):
                self.flush(number, True)
                self.deliver(number, len(self.sides[number].wire))

    def teardown(self) -> None:
        self.settle()
        self.tables_hold_what_is_alive()
        self.windows_add_up()
        for number, side in enumerate(self.sides):
            other = self.sides[1 - number]
            for stream_id, held in side.held.items():
                peer = other.held.get(stream_id)
                self.know_each_other(held, peer, other.end.protocol.streams.get(stream_id))
        for side in self.sides:
            for rest in side.held.values():
                side.end.protocol.close(rest.state)
            side.end.protocol.refuse_backlog()
        self.settle()
        for side in self.sides:
            protocol = side.end.protocol
            assert not protocol.streams
            assert protocol.peer_streams == 0
            assert not protocol.pending
            assert not protocol.schedule

    def know_each_other(self, held: Held, peer: Held | None, known: StreamState | None) -> None:
        """``held`` of one end, ``peer`` of the other's application, ``known`` in its table."""
        stream = held.state
        if stream.failure is not None:
            assert stream.failure.kind is not FlowControlError
            # Both ends keep to the rules, so somebody wanted this, or a limit was reached.
            refused = stream.local and peer is None
            assert (
                held.reset
                or refused
                or both_shut(stream)
                or (peer and (peer.reset or peer.state.closed or both_shut(peer.state)))
            )
            assert known is None, "only one end knows that it failed"
            return
        if stream.closed:
            if known is not None:
                assert known.fin_in
                if not known.read_shut:
                    assert (peer.read if peer else 0) + known.buffer.size == len(held.sent)
            return
        # Alive: then the peer has, or had, all of it, and its window is known here.
        assert known is not None or (peer is not None and peer.state.closed)
        if known is None:
            assert peer is not None
            assert peer.state.failure is None
            assert peer.state.read_shut or peer.read == len(held.sent), "lost, and nobody was told"
            assert stream.fin_in
            return
        assert known.fin_in == stream.fin_out
        if not known.read_shut:
            assert (peer.read if peer else 0) + known.buffer.size == len(held.sent)
        if not known.fin_in:
            assert stream.send.left == WINDOW - known.buffer.size - known.receive.read
            assert known.receive.read * 2 < WINDOW


Pair.TestCase.settings = settings(deadline=None, max_examples=60, stateful_step_count=50)
TestPair = Pair.TestCase
