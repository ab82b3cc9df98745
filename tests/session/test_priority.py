"""Priorities: the order in which streams send, and what it comes to on a slow link."""

from __future__ import annotations

import socket
import statistics
import threading
import time
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import muxado
from muxado import transport
from muxado.config import Config
from muxado.engine import write_seat
from muxado.engine.write_seat import Write, WriteSeat
from muxado.errors import ErrorCode
from muxado.protocol import Protocol, StreamState
from muxado.transport import Buffer, Transport

from ..helpers.crew import Crew
from ..helpers.link import Link
from ..helpers.support import DATA, Sessions, sock_of, streams

URGENT = 1000

#: Bytes that are handed to the connection ahead of time, at most, while priorities compete.
AHEAD = 8192


# The order, without sockets and threads.


class Paper(Transport):
    """A connection that takes everything and keeps it."""

    polled = True

    def __init__(self) -> None:
        self.taken = b""

    def send(self, buffers: Sequence[Buffer]) -> int:
        self.taken += b"".join(buffers)
        return sum(map(len, buffers))


class Desk:
    """The write seat of a session, and streams with bytes that wait to be sent."""

    def __init__(self) -> None:
        self.paper = Paper()
        self.seat = WriteSeat(self.paper, Config(), client=True)
        self.protocol = self.seat.protocol
        self.priority: dict[int, int] = {}
        state = StreamState(0, local=True, window=0, priority=0, stream_type=0)
        self._nobody = Write(state, memoryview(b""))  # who sits, and has nothing to send

    def add(self, priority: int, data: int | bytes | bytearray) -> None:
        stream = self.protocol.open(priority=priority, stream_type=0, fin=False)
        view = memoryview(bytes(data) if isinstance(data, int) else data)
        stream.write = Write(stream, view)
        self.protocol.schedule.add(stream, priority)
        self.priority[stream.id] = priority

    def buffers(self) -> list[Buffer]:
        with self.seat._lock:
            return self.seat._batch_locked(self._nobody)

    def batch(self) -> list[tuple[int, int]]:
        """What goes out next: stream ids, with how many bytes of each."""
        data, frames = b"".join(self.buffers()), []
        while data:
            length, kind = int.from_bytes(data[:3], "big"), data[3] >> 4
            if kind == DATA and length:  # a SYN by itself is empty
                frames.append((int.from_bytes(data[4:8], "big"), length))
            data = data[8 + length :]
        return frames


ready = st.lists(
    st.tuples(st.integers(0, 3) | st.integers(0, 0x7FFFFFFF), st.integers(1, 60_000)), max_size=8
)


@settings(deadline=None, max_examples=100)
@given(st.lists(ready, min_size=1, max_size=4))
def test_the_most_urgent_goes_next(arrivals: list[list[tuple[int, int]]]) -> None:
    """Whatever is ready, and whatever comes while the batches before it are being sent."""
    desk = Desk()
    left: dict[int, int] = {}
    turns: list[int] = []  # of those ready, oldest turn first
    waves = arrivals[::-1]
    while True:
        for priority, size in waves.pop() if waves else ():
            desk.add(priority, size)
            left[max(desk.priority)] = size
            turns.append(max(desk.priority))
        frames = desk.batch()
        if not frames and not waves:
            break
        for stream_id, length in frames:
            best = max(desk.priority[each] for each in turns)
            expected = next(each for each in turns if desk.priority[each] == best)
            assert stream_id == expected
            left[stream_id] -= length
            turns.remove(stream_id)
            if left[stream_id]:
                turns.append(stream_id)
        if len(set(desk.priority.values())) > 1:
            assert sum(length for _, length in frames[:-1]) < AHEAD, "committed too early"
            assert all(length <= AHEAD for _, length in frames)
    assert not turns, "somebody is forgotten"


def test_equals_alone_send_large_batches() -> None:
    desk = Desk()
    for _ in range(4):
        desk.add(7, 100_000)
    assert [length for _, length in desk.batch()] == [65536] * 2
    alone = Desk()
    alone.add(0, 200_000)
    assert alone.batch()[0][1] == 131072


def test_a_callers_memory_is_its_own_once_its_bytes_are_in_a_batch() -> None:
    """They count as sent, so the caller may write there again. Bytes that cannot change stay."""
    desk = Desk()
    fixed, changing = b"fixed" * 10, bytearray(b"spams" * 10)
    desk.add(0, fixed)
    desk.add(0, changing)
    buffers = desk.buffers()
    changing[:] = bytes(len(changing))
    bodies = [memoryview(each) for each in buffers if len(each) == 50]
    assert bodies == [fixed, b"spams" * 10]
    assert bodies[0].obj is fixed
    assert isinstance(changing, bytearray)
    changing.clear()  # nor does anything keep it from being resized


class Wire:
    """Time as it goes by on a connection that takes so many bytes a second."""

    def __init__(self, rate: float, room: int) -> None:
        self.now, self._rate, self._room, self._ahead = 1000.0, rate, room, 0.0

    def monotonic(self) -> float:
        return self.now

    def take(self, size: int) -> None:
        """Time passes until it has: what fits into its buffer goes at a gigabyte a second."""
        self.now += size / 1e9
        self._ahead = max(0.0, self._ahead - self._rate * size / 1e9) + size
        if self._ahead > self._room:
            self.now += (self._ahead - self._room) / self._rate
            self._ahead = self._room


@pytest.mark.parametrize(
    ("rate", "most"),
    [(1.25e6, 65536), (30e6, 65536), (60e6, 120_000), (125e6, 250_000), (1e9, 262144)],
)
def test_turns_are_as_long_as_the_connection_is_fast(
    rate: float, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the kernel's buffers swallow at first, at 10 Mbit/s a turn is never longer."""
    link = Wire(rate, room=6_000_000)
    monkeypatch.setattr(write_seat, "time", link)
    desk = Desk()
    lengths: list[int] = []
    for _ in range(400):
        if not desk.protocol.schedule:
            for _ in range(3):
                desk.add(0, 262144)
        buffers = desk.buffers()
        lengths += [length for length in map(len, buffers) if length > 1000]
        size = sum(map(len, buffers))
        link.take(size)
        desk.seat._pace(size)
    assert max(lengths) <= most
    assert max(lengths[-40:]) > 0.9 * most
    desk.add(3, 100_000)  # an urgent one waits for no long turn
    assert max(length for _, length in desk.batch()) <= AHEAD
    link.now += 1.0  # nothing was there to send, and how fast it is now nobody knows
    desk.seat._pace(1000)
    assert desk.seat._turn <= 65536


def test_a_new_priority_counts_from_the_next_frame() -> None:
    desk = Desk()
    for _ in range(3):
        desk.add(5, 50_000)
    desk.add(1, 50_000)
    first = desk.batch()[0][0]
    last = desk.protocol.streams[max(desk.priority)]
    desk.protocol.prioritise(last, 6)
    assert desk.batch()[0][0] == last.id
    desk.protocol.prioritise(last, 0)
    assert desk.batch()[0][0] != last.id
    assert first != last.id


# Whether priorities compete.


def recount(protocol: Protocol) -> dict[int, int]:
    levels: dict[int, int] = {}
    for stream in protocol.streams.values():
        if not stream.fin_out and stream not in protocol.services:
            levels[stream.priority] = levels.get(stream.priority, 0) + 1
    return levels


steps = st.lists(
    st.tuples(
        st.sampled_from(["open", "fin", "accept", "end", "close", "reset", "rst", "prioritise"]),
        st.integers(0, 30),
        st.integers(0, 2),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=150)
@given(steps)
def test_levels_are_counted(todo: list[tuple[str, int, int]]) -> None:
    protocol = Protocol(Config(version=1, accept_backlog=5), client=True)
    assert protocol.beat(), "its stream has the highest priority, and competes with none"
    theirs = 0
    for what, index, priority in todo:
        mine: list[StreamState] = [
            stream for stream in protocol.streams.values() if stream not in protocol.services
        ]
        if what in ("open", "fin"):
            protocol.open(priority=priority, stream_type=0, fin=what == "fin")
        elif what == "accept":
            theirs += 2
            protocol.on_syn(theirs, priority, 0)
        elif mine:
            stream = mine[index % len(mine)]
            if what == "end":
                protocol.end(stream, urgent=True)
            elif what == "close":
                protocol.close(stream)
            elif what == "reset":
                protocol.reset(stream, ErrorCode.STREAM_CANCELLED)
            elif what == "rst":
                protocol.on_rst(stream.id, ErrorCode.STREAM_CANCELLED)
            else:
                protocol.prioritise(stream, priority)
        assert protocol.levels == recount(protocol)
        assert protocol.mixed == (len(protocol.levels) > 1)


def notsent(session: muxado.Session) -> int:
    return sock_of(session).getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="no TCP_NOTSENT_LOWAT")
def test_the_kernels_queue_is_short_while_they_compete(sessions: Sessions) -> None:
    pair = sessions.tcp()
    stream, peer = streams(pair)
    stream.sendall(b"spam")
    usual = notsent(pair[0])
    urgent = pair[0].open(priority=URGENT)
    stream.sendall(b"spam")
    assert 0 < notsent(pair[0]) <= AHEAD
    urgent.close()
    stream.sendall(b"spam")
    assert notsent(pair[0]) == usual
    stream.priority = 3  # alone, whatever its priority
    stream.sendall(b"spam")
    assert notsent(pair[0]) == usual
    assert peer.recv(16, socket.MSG_WAITALL) == b"spam" * 4


def test_where_there_is_no_such_option(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch, crew: Crew
) -> None:
    """A small buffer does, for as long as it must."""
    monkeypatch.setattr(transport, "_NOTSENT_LOWAT", None)
    pair = sessions.tcp()
    sock = sock_of(pair[0])
    stream, peer = streams(pair)
    usual = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    with pair[0].open(priority=URGENT):
        sending = crew.start(stream.sendall, bytes(500_000))
        got = 0
        while got < 500_000:
            got += len(peer.recv(65536))
        sending.result()
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) < usual
    stream.sendall(b"spam")
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) >= usual


def test_what_does_not_block_leaves_little_behind(sessions: Sessions) -> None:
    """Bytes that a non-blocking send leaves to others are committed too."""
    pair = sessions.tcp(buffers=4096)
    stream, _ = streams(pair)
    stream.setblocking(False)

    def fill() -> int:
        with pytest.raises(BlockingIOError):
            while True:
                stream.send(bytes(65536))
        return len(pair[0]._engine._unsent)

    with pair[0].open(priority=URGENT):
        assert fill() <= 2 * AHEAD + AHEAD + 100
    assert fill() > 8 * AHEAD, "it may leave more when nothing competes"


def test_version_1_tells_the_acceptor(sessions: Sessions) -> None:
    stream, peer = streams(sessions.tcp(version=1), priority=URGENT)
    assert stream.priority == peer.priority == URGENT
    peer.priority = 5
    assert (stream.priority, peer.priority) == (URGENT, 5)


# What it comes to.


def drain(stream: muxado.Stream) -> int:
    count = 0
    while data := stream.recv(65536):
        count += len(data)
    return count


def echo(stream: muxado.Stream) -> None:
    while data := stream.recv(100):
        stream.sendall(data)


@pytest.mark.parametrize("version", [1, 2])
def test_an_urgent_echo_beside_bulk(links: Callable[..., Link], crew: Crew, version: int) -> None:
    """Its time is the way there and back and the queue of the link, and not what bulk has waiting.

    Eight windows are 0.4 seconds of this link on version 1 and 1.7 on version 2.
    """
    rate, delay, queue = 10e6, 0.005, 40_000
    near, far = links(delay=delay, rate=rate, queue=queue).connect()
    with (
        muxado.client(near, version=version) as client,
        muxado.server(far, version=version) as server,
    ):
        asker, answerer = streams((client, server), priority=URGENT)
        answerer.priority = URGENT
        echoing = crew.start(echo, answerer)
        done = threading.Event()

        def fill(stream: muxado.Stream) -> None:
            with stream:
                while not done.is_set():
                    stream.sendall(bytes(65536))

        bulk = [streams((client, server)) for _ in range(8)]
        drains = [crew.start(drain, peer) for _, peer in bulk]
        start = time.monotonic()
        fills = [crew.start(fill, stream) for stream, _ in bulk]
        took = []
        for _ in range(30):
            asked = time.monotonic()
            asker.sendall(bytes(64))
            assert len(asker.recv(64, socket.MSG_WAITALL)) == 64
            took.append(time.monotonic() - asked)
            done.wait(0.02)
        done.set()
        for task in fills:
            task.result()
        moved = [task.result() for task in drains]
        seconds = time.monotonic() - start
        asker.close()
        echoing.result()
    # 10 ms for the way and 32 for a full queue; without priorities 330 on version 2.
    assert statistics.median(took[5:]) < 2 * delay + queue * 8 / rate + 0.1
    assert sum(moved) * 8 > 0.7 * rate * seconds, "bulk has what urgency leaves"
    assert max(moved) < 1.6 * min(moved), "equals share"
