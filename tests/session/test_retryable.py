"""``retryable``: true exactly when the peer's application cannot have seen the stream.

Two ends are joined by queues of bytes and do anything in any order, on each kind of wire. What an
end has framed the connection may not have taken yet, and what it has taken may never arrive. At
every step nobody may have been told to try again what the other application has seen, or sees
later; at the end everybody must have been told who could be.
"""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import muxado
from muxado import ErrorCode, wire
from muxado.config import Config
from muxado.protocol import StreamState
from tests.helpers.pure import End, Recorder

from ..helpers.crew import GUARD, Crew
from ..helpers.support import (
    DATA,
    GOAWAY,
    RST,
    WNDINC,
    RawPeer,
    Sessions,
    frame,
    small_send_buffer,
    until,
    word,
)

OPTIONS: dict[str, Any] = {"accept_backlog": 3, "max_streams": 6}


@dataclasses.dataclass
class Held:
    """A stream as the application of one end has it."""

    state: StreamState
    let_go: bool = False  # closed or reset, after its SYN had gone: what it is told is no matter


class Side:
    def __init__(self, *, client: bool, options: dict[str, Any]) -> None:
        self.end = End(client=client, **OPTIONS, **options)
        self.held: dict[int, Held] = {}
        self.seen: set[int] = set()  # the ids of the peer's streams that reached the application
        self.unsent = bytearray()  # framed, and not taken by the connection
        self.wire = bytearray()  # taken, and not delivered
        self.taken = bytearray()  # all that was ever taken
        self.dead = False
        self.last: int | None = None  # how many bytes were taken in all, if that is known
        self.accepts = True
        self.promised: set[int] = set()  # the streams that may be tried again, as it was told

    def told(self, held: Held) -> bool | None:
        """What an error of this stream's says, ``None`` while there is none."""
        if held.state.failure is not None:
            return held.state.failure.retryable
        if self.dead:
            return self.end.protocol.unseen(held.state, self.last)
        return None

    def local(self) -> list[Held]:
        return [held for held in self.held.values() if held.state.local]


class Run:
    """Two ends, their applications and the connection between them."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.sides = Side(client=True, options=options), Side(client=False, options=options)

    def step(self, which: int, what: str, number: int, size: int) -> None:
        getattr(self, what)(which, number, size)
        self.nobody_tries_again_what_was_seen()

    def pick(
        self, side: Side, number: int, fit: Callable[[StreamState], object] = bool
    ) -> Held | None:
        fitting = [
            held
            for held in side.held.values()
            if held.state.failure is None and not held.state.closed and fit(held.state)
        ]
        return fitting[number % len(fitting)] if fitting and not side.dead else None

    # The applications.

    def open(self, which: int, number: int, size: int) -> None:
        side = self.sides[which]
        protocol = side.end.protocol
        if side.dead:
            return
        if protocol.going_away or protocol.goaway is not None:
            with pytest.raises(muxado.Error) as caught:
                side.end.open(announced=False)
            assert caught.value.retryable
        else:
            stream = side.end.open(fin=number % 4 == 0, announced=False)
            side.held[stream.id] = Held(stream)

    def accept(self, which: int, number: int = 0, size: int = 0) -> None:
        side = self.sides[which]
        stream = side.end.protocol.accept() if side.accepts else None
        if stream is not None:
            side.held[stream.id] = Held(stream)
            side.seen.add(stream.id)

    def write(self, which: int, number: int, size: int) -> None:
        side = self.sides[which]
        if held := self.pick(side, number, lambda s: not s.fin_out and s.send.left >= size):
            side.unsent += side.end.write(held.state, bytes(size))

    def read(self, which: int, number: int, size: int) -> None:
        side = self.sides[which]
        if held := self.pick(side, number, lambda s: s.buffer.size):
            side.end.read(held.state, size)

    def announce(self, which: int, number: int, size: int) -> None:
        side = self.sides[which]
        if held := self.pick(side, number):
            side.end.protocol.announce(held.state)

    def reset(self, which: int, number: int, size: int) -> None:
        side = self.sides[which]
        if held := self.pick(side, number):
            held.let_go = held.state.opened
            side.end.protocol.reset(held.state, ErrorCode.STREAM_CANCELLED)

    def close(self, which: int, number: int, size: int) -> None:
        side = self.sides[which]
        if held := self.pick(side, number):
            held.let_go = True
            side.end.protocol.close(held.state)

    # The sessions.

    def go_away(self, which: int, number: int, size: int) -> None:
        side = self.sides[which]
        if not side.dead and not number % 3:
            side.end.protocol.go_away(ErrorCode.NO_ERROR, b"", final=False)

    def die(self, which: int, how: str) -> None:
        """As ``Session.close()``, as a session that fails, or as one whose connection is full."""
        side = self.sides[which]
        protocol = side.end.protocol
        side.dead = True
        if how == "jam":
            protocol.abandon_opening()
            side.unsent.clear()
            side.last = len(side.taken)
            return
        if how == "close":
            protocol.refuse_backlog()
            side.accepts = False
            side.unsent += protocol.control_frames(opening=True)
        protocol.abandon_opening()
        self.nobody_tries_again_what_was_seen()
        protocol.go_away(ErrorCode.NO_ERROR, b"", final=True)
        side.unsent += protocol.control_frames(opening=False)
        self.take(which, 0, 10**6)

    # The connection.

    def frame(self, which: int, number: int, size: int) -> None:
        side = self.sides[which]
        if not side.dead:
            side.unsent += side.end.protocol.control_frames(opening=bool(number % 2))

    def take(self, which: int, number: int, size: int) -> None:
        side = self.sides[which]
        part = side.unsent[:size]
        del side.unsent[:size]
        side.wire += part
        side.taken += part

    def deliver(self, which: int, number: int, size: int) -> None:
        side, other = self.sides[which], self.sides[1 - which]
        part = bytes(side.wire[:size])
        del side.wire[:size]
        if not other.dead:  # else nobody reads any more
            other.end.feed(part)

    def connect(self, which: int, number: int, size: int) -> None:
        """All that there is, all the way."""
        self.frame(which, 1, 0)
        self.take(which, 0, 10**6)
        self.deliver(which, 0, 10**6)

    # What must hold.

    def nobody_tries_again_what_was_seen(self) -> None:
        for number, side in enumerate(self.sides):
            side.promised |= {held.state.id for held in side.local() if side.told(held)}
            assert not side.promised & self.sides[1 - number].seen

    def visible(self, side: Side) -> set[int]:
        """The streams of which so much was taken that the peer could hand them out."""
        recorder = Recorder()
        config = Config(**self.options)
        wire.codec(config, recorder).feed(memoryview(bytes(side.taken)))
        seen = {event[1] for event in recorder.events if event[0] == "SYN"}
        if not config.typed:
            return seen
        begun = [recorder.unfinished] if recorder.unfinished else []
        return {e[1] for e in [*recorder.events, *begun] if e[0] == "DATA" and len(e[4]) >= 4}

    def finish(self, which: int, how: str, opened: int, written: int, cut: int) -> None:
        """One end dies, what is under way arrives, and what was never accepted still is.

        Not before a few more streams were opened, one of them written to, and some bytes taken.
        """
        side, other = self.sides[which], self.sides[1 - which]
        for number in range(opened):
            self.open(which, number + written, 0)
        if written:
            self.write(which, -written, 5)
            self.announce(which, -written, 0)
        if cut % 2:
            self.frame(which, cut // 2, 0)
        self.take(which, 0, cut)
        if how == "close":  # an orderly end comes when there is nothing else to do
            for _ in range(3):
                self.connect(which, 0, 0)
                self.connect(1 - which, 0, 0)
        self.die(which, how)
        if how == "jam":  # what the connection has taken is all that the peer may know
            visible = self.visible(side)
            for held in side.local():
                if held.state.failure is None and not held.state.closed:
                    assert side.told(held) == (held.state.id not in visible)
        self.deliver(which, 0, 10**6)
        self.nobody_tries_again_what_was_seen()
        for number in (0, 1):
            while self.sides[number].accepts and self.sides[number].end.protocol.backlog:
                self.accept(number)
        self.nobody_tries_again_what_was_seen()
        if how == "close":
            other.dead = True
            other.end.protocol.abandon_opening()
            for held in other.local():
                if not held.let_go:
                    assert other.told(held) == (held.state.id not in side.seen)


# What leads somewhere more often than what ends things.
STEPS = ["open", "write", "accept", "connect", "frame", "take", "deliver"] * 2
STEPS += ["read", "announce", "reset", "close", "go_away"]
steps = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from(STEPS), st.integers(0, 50), st.integers(1, 40)),
    min_size=20,
    max_size=60,
)


@pytest.mark.parametrize(
    "options", [{"version": 2}, {"version": 2, "typed": True}, {"version": 1}], ids=str
)
@pytest.mark.parametrize("how", ["close", "fail", "jam"])
@settings(deadline=None, max_examples=30)
@given(
    todo=steps,
    which=st.integers(0, 1),
    last=st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 70)),
)
def test_any_order(
    options: dict[str, Any],
    how: str,
    todo: list[tuple[int, str, int, int]],
    which: int,
    last: tuple[int, int, int],
) -> None:
    run = Run(options)
    for step in todo:
        run.step(*step)
    run.finish(which, how, *last)


class TestOnSessions:
    """The cases by name, on whole sessions."""

    def test_in_the_backlog_as_the_peer_closes(self, sessions: Sessions) -> None:
        client, server = sessions.socketpair()
        stream = client.open()
        stream.sendall(b"request")
        until(lambda: server.stats().backlog)
        server.close()
        with pytest.raises(muxado.StreamRefused) as caught:
            stream.recv(1)
        assert caught.value.retryable
        stream.close()

    def test_seen_and_then_refused(self, raw: Callable[..., RawPeer]) -> None:
        """A refusal of what was answered is no refusal."""
        peer = raw(client=True)
        stream = peer.session.open()
        stream.sendall(b"request")
        peer.expect(DATA, 3)
        peer.send(frame(WNDINC, 0, 3, word(7)), frame(RST, 0, 3, word(ErrorCode.STREAM_REFUSED)))
        with pytest.raises(muxado.StreamReset) as caught:
            stream.recv(1)
        assert not caught.value.retryable
        stream.close()

    def test_above_the_last_id(self, raw: Callable[..., RawPeer]) -> None:
        peer = raw(client=True)
        first, second = peer.session.open(), peer.session.open()
        for stream in (first, second):
            stream.sendall(b"request")
        peer.send(frame(GOAWAY, 0, 0, word(3) + word(0)))
        with pytest.raises(muxado.RemoteGoneAway) as caught:
            second.recv(1)
        assert caught.value.retryable
        peer.sock.close()
        with pytest.raises(muxado.SessionClosed) as closed:
            first.recv(1)
        assert not closed.value.retryable
        first.close()
        second.close()

    @pytest.mark.parametrize("blocking", [True, False])
    def test_never_flushed(self, raw: Callable[..., RawPeer], crew: Crew, blocking: bool) -> None:
        """The connection is full: whose SYN it has taken may have been seen, the other not."""
        peer = raw(client=True, heartbeat_interval=None)
        small_send_buffer(peer.session)
        first = peer.session.open()
        filling = crew.start(first.sendall, bytes(200_000))
        until(lambda: peer.session._engine.writing.jam)
        second = peer.session.open()
        if not blocking:
            second.setblocking(False)
            assert second.send(b"request") == 7  # queued behind the rest
            assert second._state.opened
        peer.session.kill()
        with pytest.raises(muxado.SessionClosed) as caught:
            filling.result()
        assert not caught.value.retryable
        second.setblocking(True)
        with pytest.raises(muxado.SessionClosed) as caught:
            second.recv(1)
        assert caught.value.retryable
        first.close()
        second.close()

    def test_last_words_open_no_stream(self, raw: Callable[..., RawPeer]) -> None:
        """Whoever was told that a stream was never sent must be able to rely on it."""
        peer = raw(client=True, heartbeat_interval=None)
        core = peer.session._engine.core

        def open_and_end_locked() -> StreamState:
            stream = core.protocol.open(priority=0, stream_type=0, fin=True)
            core.protocol.announce(stream)
            core.end_locked(ErrorCode.INTERNAL_ERROR, None, b"")
            return stream

        stream = core.section(open_and_end_locked)
        assert [got.type for got in peer.rest()] == [GOAWAY]
        assert core.session_error(stream).retryable

    def test_handed_out_after_the_end(self, sessions: Sessions) -> None:
        """A session that fails still hands out what came before; its GOAWAY does not deny it."""
        ours, theirs = socket.socketpair()
        server = muxado.server(ours, heartbeat_interval=None)
        sessions.keep(server)
        peer = RawPeer(theirs, server)
        peer.send(frame(DATA, 2, 3, b"work"), frame(DATA, 2, 5, b"work"), frame(RST, 0, 0, b""))
        last = peer.goaway()
        assert server.wait(GUARD).code is ErrorCode.FRAME_SIZE_ERROR
        assert last.word == 5
        for stream_id in (3, 5):
            stream, _ = server.accept()
            assert stream.id == stream_id
            assert stream.recv(9) == b"work"
            stream.close()
        theirs.close()

    def test_reset_before_it_left(self, raw: Callable[..., RawPeer], crew: Crew) -> None:
        """The connection takes nothing, so the SYN cannot go before the stream is reset."""
        peer = raw(client=True, heartbeat_interval=None)
        small_send_buffer(peer.session)
        other = peer.session.open()
        filling = crew.start(other.sendall, bytes(200_000))
        until(lambda: peer.session._engine.writing.jam)
        stream = peer.session.open()
        stream.reset()
        with pytest.raises(muxado.StreamReset) as caught:
            stream.recv(1)
        assert caught.value.retryable
        stream.close()
        peer.session.kill()
        with pytest.raises(muxado.SessionClosed):
            filling.result()
        other.close()
        assert all(got.stream_id == other.id for got in peer.rest()), "it never left"
