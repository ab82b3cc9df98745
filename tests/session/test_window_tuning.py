"""Receive windows that grow and shrink: in a simulated world first, then on an emulated link."""

from __future__ import annotations

import collections
import signal
import socket
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import muxado
from muxado.config import Config
from muxado.protocol import Protocol
from muxado.protocol.flow import ReceiveWindow, SendWindow, Windows

from ..helpers.crew import GUARD, Crew
from ..helpers.gates import Once, before
from ..helpers.link import Link
from ..helpers.pure import consume, rst, syn
from ..helpers.support import DATA, SYN, WNDINC, RawPeer, Sessions, frame, streams, until, waiting

KIB, MIB = 2**10, 2**20
#: What a stream starts with, on version 1 and on version 2.
STARTS = [64 * KIB, 256 * KIB]


class World:
    """A sender, a link, a receiver and its application, in steps of a fiftieth of a round trip."""

    def __init__(
        self, windows: Windows, start: int, *, trip: float, cap: int | None = None
    ) -> None:
        self.windows = windows
        self._cap = cap  # what the sender ignores of its window, like ngrok's agent
        self._due = False  # an update is, and waits until nothing more comes
        self.alone = True
        self.sender, self.window = SendWindow(start), ReceiveWindow(start)
        windows.promised += start
        self.buffered = 0
        self.now = 1.0
        self._trip = trip
        self._data: collections.deque[tuple[float, int]] = collections.deque()
        self._grants: collections.deque[tuple[float, int]] = collections.deque()

    def run(self, seconds: float, *, rate: float, reader: float = 1e12) -> int:
        """Both ends at work, at so many bytes a second; returns how many were read."""
        step = self._trip / 50
        end, total, could, may = self.now + seconds, 0, 0.0, 0.0
        window = self.window
        while self.now < end:
            self.now += step
            could = min(could + rate * step, 65536.0)
            count = min(int(could), self.sender.left)
            if count:
                could -= count
                self.sender.left -= count
                self._data.append((self.now + self._trip / 2, count))
            while self._data and self._data[0][0] <= self.now:
                count = self._data.popleft()[1]
                assert count <= window.left, "the window was overrun"
                window.left -= count
                self.buffered += count
                if window.left < window.mark:
                    self.windows.reached(window, self.now)
            may = min(may + reader * step, max(65536.0, reader * step))
            count = min(int(may), self.buffered)
            may -= count
            self.buffered -= count
            total += count
            if count and consume(window, count):
                self._due = True
            if self._due and (2 * window.read >= window.size or not self.buffered):
                self._due = False
                increment = self.windows.update(window, self.now, alone=self.alone)
                if increment:
                    self._grants.append((self.now + self._trip / 2, increment))
            while self._grants and self._grants[0][0] <= self.now:
                self.sender.left += self._grants.popleft()[1]
                if self._cap is not None:
                    self.sender.left = min(self.sender.left, self._cap)
            assert window.left + self.buffered + window.read == window.size
        return total


def world(
    start: int, *, trip: float = 0.05, most: int = 16 * MIB, budget: int = 256 * MIB
) -> World:
    return World(Windows(start, most, budget), start, trip=trip)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(("rate", "trip"), [(25e6, 0.05), (2.5e6, 0.2), (100e6, 0.01)])
def test_it_fills_the_link_within_two_seconds(start: int, rate: float, trip: float) -> None:
    one = world(start, trip=trip)
    one.run(2.0, rate=rate)
    assert one.run(1.0, rate=rate) > 0.95 * rate
    assert one.windows.trip == pytest.approx(trip, rel=0.1)
    assert one.window.size <= max(start, 6 * rate * trip), "no larger than is of use"


@pytest.mark.parametrize("start", STARTS)
def test_a_slow_reader_keeps_it_small(start: int) -> None:
    """Whatever the sender could send."""
    one = world(start)
    one.run(10.0, rate=100e6, reader=start / 4 / 0.05)
    assert one.window.size == start
    assert one.buffered > start / 3, "it is the reader who is waited for"


@pytest.mark.parametrize("start", STARTS)
def test_a_slow_sender_hardly_grows_it(start: int) -> None:
    one = world(start)
    one.run(20.0, rate=100e3)
    assert one.window.size <= 3 * start


@pytest.mark.parametrize("start", STARTS)
def test_a_sender_whose_own_window_never_grows_is_not_left_waiting(start: int) -> None:
    capped = World(Windows(start, 16 * MIB, 256 * MIB), start, trip=0.01, cap=start)
    for _ in range(20):
        assert capped.run(0.5, rate=1e9) >= 0.5 / 0.01 * start / 2, "half a window a round trip"
    assert capped.window.size > 2 * start, "it grew nevertheless"


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("budget", [256 * MIB, MIB])
def test_nor_when_a_window_that_it_never_had_shrinks(start: int, budget: int) -> None:
    """Of a window that has grown it has lost what was more than its own: nothing is taken back."""
    windows = Windows(start, 16 * MIB, 256 * MIB)
    capped = World(windows, start, trip=0.01, cap=start)
    for _ in range(2):
        capped.run(0.2, rate=1e9)
        assert capped.window.size > 2 * start
        windows._budget = budget  # for others: it is more than there should be
        slow = start / 2
        for _ in range(4):
            assert capped.run(1.0, rate=slow) > 0.9 * slow
        windows._budget = 256 * MIB


def test_it_grows_no_larger_than_it_may() -> None:
    one = world(64 * KIB, most=300_000)
    one.run(3.0, rate=100e6)
    assert one.window.size == 300_000


@pytest.mark.parametrize("start", STARTS)
def test_tuning_can_be_turned_off(start: int) -> None:
    one = world(start, most=start)
    one.run(3.0, rate=100e6)
    assert one.window.size == start


@pytest.mark.parametrize("start", STARTS)
def test_one_that_was_fast_shrinks(start: int) -> None:
    """Nothing can be taken back: what was granted must be used up first."""
    one = world(start, trip=0.2)
    one.run(4.0, rate=12.5e6)
    large = one.window.size
    assert large > 2_500_000
    one.now += 60.0  # idle
    slow = start / 2
    one.run(2.2 * large / slow, rate=12.5e6, reader=slow)
    assert one.window.size < 1.5 * start
    assert one.sender.left < 1.5 * start
    assert one.run(20.0, rate=slow) > 19 * slow, "a slow stream is not slowed down"
    one.run(4.0, rate=12.5e6)
    assert one.window.size > 2_500_000, "it can be fast again"


def test_pauses_do_not_shrink_it_at_once() -> None:
    """Who loads a page, thinks, and loads the next finds the window that the last one left."""
    one = world(256 * KIB)
    one.run(2.0, rate=25e6)
    size = one.window.size
    for _ in range(5):
        one.now += 10.0
        assert one.run(0.4, rate=25e6) > 0.4 * 25e6 * 0.75
    assert one.window.size >= size // 2


def test_all_together_keep_to_the_budget() -> None:
    windows = Windows(64 * KIB, 16 * MIB, 20 * MIB)
    worlds = [World(windows, 64 * KIB, trip=0.05) for _ in range(100)]
    for _ in range(40):
        for one in worlds:
            one.run(0.05, rate=25e6)
    assert windows.promised == sum(one.window.size for one in worlds)
    assert 15 * MIB < windows.promised <= 20 * MIB


def test_they_make_room_for_streams_that_come_later() -> None:
    windows = Windows(64 * KIB, 16 * MIB, 10 * MIB)
    first = World(windows, 64 * KIB, trip=0.05)
    first.run(2.0, rate=25e6)
    assert windows.promised == first.window.size > 2 * MIB
    later = [World(windows, 64 * KIB, trip=0.05) for _ in range(140)]
    first.run(2.0, rate=25e6, reader=10e6)
    assert first.window.size + 140 * 64 * KIB <= 10 * MIB + 64 * KIB
    for one in later:
        windows.promised -= one.window.size
    first.run(2.0, rate=25e6)
    assert first.window.size > 2 * MIB


@settings(deadline=None, max_examples=150)
@given(
    st.integers(1, 300),
    st.integers(0, 4000),
    st.integers(0, 6000),
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 3000), st.floats(0, 5)), max_size=60),
)
def test_both_ends_agree(
    start: int, extra: int, budget: int, steps: list[tuple[int, int, float]]
) -> None:
    """Sent as the window allows, read at any pace, at any time: no overrun and no standstill."""
    windows = Windows(start, start + extra, budget)
    windows.promised += start
    windows.saw(0.05)
    sender, window = SendWindow(start), ReceiveWindow(start)
    buffered, now = 0, 0.0
    for send, read, pause in steps:
        now += pause
        count = min(send, sender.left)
        sender.left -= count
        window.left -= count
        if window.left < window.mark:
            windows.reached(window, now)
        buffered += count
        count = min(read, buffered)
        buffered -= count
        if count and consume(window, count):
            increment = windows.update(window, now, alone=False)
            assert increment >= 0
            sender.left += increment
        assert sender.left == window.left >= 0
        assert window.left + buffered + window.read == window.size == windows.promised
        assert start <= window.size <= max(start, min(start + extra, budget))
        assert window.read * 2 < window.size or not count
    assert sender.left + buffered > 0, "the sender waits for what will never come"


class Turn:
    """One of many streams: now and then it sends what its window allows, up to a turn's bytes."""

    def __init__(self, start: int, turn: int) -> None:
        self.windows = Windows(start, 16 * MIB, 256 * MIB)
        self.windows.promised += start
        self.windows.saw(0.00002)
        self.sender, self.window = SendWindow(start), ReceiveWindow(start)
        self.turn = turn
        self.now = 1.0

    def run(self, turns: int, *, takes: float, between: float = 0.05) -> None:
        """So many turns, each read in eight parts within so many seconds."""
        window = self.window
        for _ in range(turns):
            self.now += between
            size = min(self.sender.left, self.turn)
            self.sender.left -= size
            window.left -= size
            if window.left < window.mark:
                self.windows.reached(window, self.now)
            for part in range(8):
                self.now += takes / 8
                if consume(window, (size + part) // 8):
                    increment = self.windows.update(window, self.now, alone=False)
                    self.sender.left += increment
            assert window.left + window.read == window.size


@pytest.mark.parametrize("start", STARTS)
def test_it_grows_to_whole_turns_where_many_take_turns(start: int) -> None:
    one = Turn(start, turn=4 * MIB)
    one.run(3, takes=0.001)
    assert one.window.size == 2 * MIB
    one.run(200, takes=0.001)
    assert one.window.size == 2 * MIB, "neither more nor, as it is used, less"


def test_once_for_each_time_that_it_is_used_up() -> None:
    one = Turn(64 * KIB, turn=64 * KIB)
    one.run(1, takes=0.0005)
    assert one.window.size == 256 * KIB
    one.run(1, takes=0.0005, between=0.0001)
    assert one.window.size == 256 * KIB


@pytest.mark.parametrize("start", STARTS)
def test_but_not_where_a_turn_is_not_read_at_once(start: int) -> None:
    one = Turn(start, turn=2 * MIB)
    one.run(50, takes=0.02)
    assert one.window.size == start


def test_empty_frames_do_not_make_a_slow_reader_quick() -> None:
    now = 1.0
    protocol = Protocol(Config(), client=False, clock=lambda: now)
    half = bytes(128 * KIB)
    protocol.feed(memoryview(frame(DATA, SYN, 3, half) + frame(DATA, 0, 3, half)))
    stream = protocol.accept()
    assert stream is not None
    assert not stream.receive.left
    for _ in range(8):
        now += 1.0
        protocol.feed(memoryview(frame(DATA, 0, 3)))
        now += 0.001
        protocol.consumed(stream, len(stream.buffer.take(32 * KIB)))
        protocol.control_frames(opening=False)
    assert stream.receive.size == 256 * KIB


@pytest.mark.parametrize("start", STARTS)
def test_nor_where_the_clock_stands_still(start: int) -> None:
    one = Turn(start, turn=2 * MIB)
    one.run(50, takes=0.0, between=0.0)
    assert one.window.size == start


@pytest.mark.parametrize("start", STARTS)
def test_nor_where_the_window_is_not_used_up(start: int) -> None:
    one = Turn(start, turn=start // 3)
    one.run(50, takes=0.0001)
    assert one.window.size == start


@pytest.mark.parametrize("start", STARTS)
def test_it_grows_where_a_round_trip_takes_no_time_but_a_thread_must_wake(start: int) -> None:
    one = world(start, trip=0.00002)
    one.run(0.1, rate=2e9)
    assert 2 * MIB < one.window.size < 8 * MIB
    beside = world(start, trip=0.00002)
    beside.alone = False  # others wait behind all that is under way
    beside.run(0.1, rate=2e9)
    assert MIB < beside.window.size < 2 * MIB


# In a session.


class Grown:
    """A stream whose receive window has grown, though its peer believes it as large as before."""

    def __init__(self, peer: RawPeer) -> None:
        self.peer = peer
        self.engine = peer.session._engine
        peer.send(frame(DATA, SYN, 3), frame(DATA, SYN, 5))
        self.stream, self.other = peer.session.accept()[0], peer.session.accept()[0]
        state, protocol = self.stream._state, self.engine.core.protocol
        self.start = state.receive.size

        def grow_locked() -> None:
            protocol.windows._resize(state.receive, 16 * self.start)
            protocol.pending.grants[state] = None
            protocol.pending.flush_now = True

        self.engine.core.section(grow_locked)
        assert peer.expect(WNDINC, 3).word == 15 * self.start

    def send(self, count: int) -> None:
        self.peer.send(frame(DATA, 0, 3, bytes(count)))

    def read(self, count: int) -> None:
        memory = memoryview(bytearray(count))
        while memory:
            memory = memory[self.stream.recv_into(memory) :]

    def told(self) -> None:
        """The peer, which believes that it may send no more, hears of what was read."""
        assert self.start * 3 // 4 <= self.peer.expect(WNDINC, 3).word <= self.start


@pytest.fixture
def grown(raw: Callable[..., RawPeer]) -> Grown:
    return Grown(raw(heartbeat_interval=None))


def test_an_update_that_waits_goes_before_the_reader_sleeps(grown: Grown, crew: Crew) -> None:
    reading = crew.start(grown.read, grown.start + 1)
    grown.send(grown.start)
    grown.told()
    grown.send(1)
    reading.result()


def test_an_update_that_waits_goes_where_nobody_reads_on(grown: Grown, crew: Crew) -> None:
    """The bytes came while another read, who has left; so has the reader of these."""
    reading = crew.start(grown.other.recv, 1)
    waiting(grown.peer.session, 1)
    grown.send(grown.start)
    grown.peer.send(frame(DATA, 0, 5, b"x"))
    assert reading.result() == b"x"
    grown.read(grown.start)
    grown.told()


def test_an_update_that_waits_goes_while_another_sleeps_in_the_seat(
    grown: Grown, crew: Crew
) -> None:
    grown.send(grown.start)
    until(lambda: grown.stream._state.buffer.size == grown.start)
    reading = crew.start(grown.other.recv, 1)
    waiting(grown.peer.session, 1)
    grown.read(grown.start)
    grown.told()
    grown.peer.send(frame(DATA, 0, 5, b"x"))
    assert reading.result() == b"x"


def test_an_update_that_waits_goes_though_its_reader_interrupts_the_leader(
    grown: Grown, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler reads in the thread that is asleep in the seat, and goes on to be so."""
    asleep, read = threading.Event(), threading.Event()

    def sleeps(_: object) -> None:
        if grown.stream._state.buffer.size >= grown.start:
            asleep.set()

    before(monkeypatch, grown.engine.transport, "wait_readable", sleeps)

    def leads() -> bool:
        core = grown.engine.core
        if core.leader is core.reader_waiter:  # which leaves at the next byte
            grown.send(1)
        return core.leader not in (None, core.reader_waiter)

    def struck() -> bool:
        # Again, for one that comes just before the system call does not interrupt it.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        return read.is_set()

    def handle() -> None:
        grown.read(grown.start)
        read.set()

    def strike() -> None:
        until(leads)
        grown.send(grown.start)
        assert asleep.wait(GUARD)
        until(struck)
        grown.told()
        grown.peer.send(frame(DATA, 0, 5, b"x"))

    previous = signal.signal(signal.SIGUSR1, Once(handle))
    try:
        striking = crew.start(strike)
        assert grown.other.recv(1) == b"x"
        striking.result()
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_an_update_that_waits_goes_though_others_never_fall_silent(
    grown: Grown, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grown.engine.transport, "spin", lambda: True)
    reading = crew.start(grown.read, grown.start + 1)
    grown.send(grown.start)
    grown.told()
    grown.send(1)
    reading.result()


def test_a_session_is_closed_at_once_though_an_update_waits(grown: Grown) -> None:
    core = grown.engine.core

    def look_locked() -> bool:
        core.protocol.pending.grants[grown.stream._state] = None
        return grown.engine.writing.until_flushed() is None

    assert core.section(look_locked)


def test_a_stream_that_goes_gives_its_window_back() -> None:
    protocol = Protocol(Config(), client=False, clock=lambda: 0.0)
    for stream_id in (3, 5, 7):
        protocol.feed(memoryview(syn(stream_id)))
    assert protocol.windows.promised == 3 * Config().window
    mine = protocol.open(priority=0, stream_type=0, fin=False)
    assert protocol.windows.promised == 4 * Config().window
    protocol.feed(memoryview(rst(3, muxado.ErrorCode.STREAM_CANCELLED)))
    protocol.close(protocol.streams[5])
    protocol.reset(protocol.streams[7], muxado.ErrorCode.STREAM_CANCELLED)
    protocol.reset(mine, muxado.ErrorCode.STREAM_CANCELLED)
    assert protocol.windows.promised == 0


def test_no_peek_waits_for_more_than_was_granted(sessions: Sessions) -> None:
    """What was read and not told yet is no room for the peer."""
    stream, peer = streams(sessions.socketpair(window=1000))
    stream.sendall(bytes(1000))
    assert peer.recv(400, socket.MSG_WAITALL) == bytes(400)
    assert peer.recv(1000, socket.MSG_PEEK | socket.MSG_WAITALL) == bytes(600)


def timed(stream: muxado.Stream, peer: muxado.Stream, crew: Crew, size: int = 4 * MIB) -> float:
    """Seconds that so many bytes take."""
    start = time.monotonic()
    sending = crew.start(stream.sendall, bytes(size))
    while size:
        size -= len(peer.recv(MIB))
    sending.result()
    return time.monotonic() - start


@pytest.mark.parametrize("version", [1, 2])
def test_on_a_link(links: Callable[..., Link], crew: Crew, version: int) -> None:
    """Four mebibytes take a window of 64 KiB 64 round trips, and one that grows a dozen."""
    trip = 0.06
    link = links(delay=trip / 2, rate=400e6, queue=4 * MIB, mtu=9000)
    near, far = link.connect()
    with (
        muxado.client(near, version=version) as client,
        muxado.server(far, version=version) as server,
    ):
        stream, peer = streams((client, server))
        took = timed(stream, peer, crew)
        assert took < 35 * trip
        windows = server._engine.core.protocol.windows
        assert windows.trip is not None
        assert trip <= windows.trip < 2 * trip
        assert peer._state.receive.size > 4 * server._engine.core.protocol.config.window


def test_a_thousand_readers_who_stall(links: Callable[..., Link], crew: Crew) -> None:
    """Some windows have grown when all stop reading: what is held stays within its bound."""
    start, most, budget = 8 * KIB, 256 * KIB, 9 * MIB
    near, far = links(delay=0.01).connect()
    options = {"window": start, "max_window": most, "max_buffered": budget, "accept_backlog": 1000}
    with (
        muxado.client(near, **options) as client,
        muxado.server(far, **options) as server,
    ):
        opened = [client.open() for _ in range(1000)]
        pairs = [(stream, server.accept()[0]) for stream in opened]
        for stream, peer in pairs[:3]:
            timed(stream, peer, crew, MIB // 2)
        windows = server._engine.core.protocol.windows
        assert pairs[0][1]._state.receive.size > start
        assert windows.promised <= budget
        for stream, _ in pairs:
            stream.sendall(bytes(stream._state.send.left))
        last, peer = streams((client, server))
        last.sendall(b"all are here")
        assert peer.recv(100) == b"all are here"
        held = sum(peer._state.buffer.size for _, peer in pairs)
        assert 1000 * start < held <= budget
