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
from muxado.config import Config
from muxado.engine.core import Core
from muxado.engine.waiting import WaitQueue
from muxado.engine.writing import Turn, WriteSeat
from muxado.protocol import StreamState
from muxado.protocol.flow import ReceiveWindow, SendWindow
from muxado.transport import Buffer, Transport

from ..helpers.crew import Crew
from ..helpers.gates import Gate, after, before
from ..helpers.link import Link
from ..helpers.support import DATA, Sessions, sock_of, streams, until, waiting

URGENT = 1000

#: Bytes that are handed to the connection ahead of time, at most, while priorities compete.
AHEAD = 8192


# The order, without sockets and threads.


class Paper(Transport):
    """A connection that keeps what it takes: everything at once, or ``room`` bytes at a time."""

    def __init__(self, room: int | None = None) -> None:
        self.taken = b""
        self.room = room
        self.written = []

    def send(self, buffers: Sequence[Buffer]) -> int:
        data = b"".join(buffers)[: self.room]
        self.taken += data
        return len(data)

    def wait_writable(self, seconds: float | None) -> None:
        """There is room again at once."""


class Desk:
    """The write seat of a session, and streams with bytes that wait to be sent."""

    def __init__(self, room: int | None = None) -> None:
        self.paper = Paper(room)
        self.core = Core(Config(), client=True)
        self.seat = WriteSeat(self.core, self.paper)
        self.protocol = self.core.protocol
        self.priority: dict[int, int] = {}
        # Of the one who sits, and has nothing to send.
        no_stream = StreamState(0, True, 0, 0, SendWindow(0), ReceiveWindow(0), False)
        self._nobody = Turn(no_stream, b"", 0)

    def add(self, priority: int, data: int | bytearray) -> None:
        stream = self.protocol.open(priority=priority, stream_type=0, fin=False)
        view = memoryview(bytes(data) if isinstance(data, int) else data)
        stream.writers = WaitQueue()
        stream.write = Turn(stream, view, 0)
        self.protocol.schedule.add(stream, priority)
        self.priority[stream.id] = priority

    def take(self) -> None:
        """Sit down, with a batch."""

        def take_locked() -> None:
            self.seat.load_locked()
            self.seat.add_by_schedule_locked(self._nobody)

        self.core.section(take_locked)

    def write(self) -> list[tuple[int, bytes]]:
        """Write the batch: what goes out, as stream ids with the bytes of each."""
        assert self.seat.write_batch(None)
        data, frames = self.paper.taken, []
        self.paper.taken = b""
        while data:
            end = 8 + int.from_bytes(data[:3], "big")
            if data[3] >> 4 == DATA and end > 8:  # a SYN by itself is empty
                frames.append((int.from_bytes(data[4:8], "big"), data[8:end]))
            data = data[end:]
        return frames

    def batch(self) -> list[tuple[int, int]]:
        """What goes out next: stream ids, with how many bytes of each."""
        self.take()
        return [(stream_id, len(body)) for stream_id, body in self.write()]


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


def test_a_callers_memory_is_its_own_once_its_bytes_are_in_a_batch() -> None:
    """They count as sent, so the caller may write there again before they are written."""
    desk = Desk()
    changing = bytearray(b"spams" * 10)
    desk.add(0, changing)
    desk.take()
    changing[:] = bytes(len(changing))
    assert [body for _, body in desk.write()] == [b"spams" * 10]


def lengths(desk: Desk, batches: int) -> list[int]:
    """How long the frames of so many batches are, each of which has enough to send."""
    result = []
    for _ in range(batches):
        while len(desk.protocol.schedule) < 3:
            desk.add(0, 262144)
        result += [length for _, length in desk.batch()]
    return result


def test_frames_are_long_where_the_connection_takes_whole_batches() -> None:
    desk = Desk()
    assert max(lengths(desk, 1)) == 65536
    assert max(lengths(desk, 10)) == 262144
    desk.add(3, 100_000)  # an urgent one waits for no long frame
    assert max(length for _, length in desk.batch()) <= AHEAD


def test_frames_are_short_where_the_connection_makes_writers_wait() -> None:
    desk = Desk()
    lengths(desk, 10)
    desk.paper.room = 50_000
    lengths(desk, 1)
    assert max(lengths(desk, 10)) == 65536
    desk.paper.room = None
    assert max(lengths(desk, 10)) == 262144


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
    monkeypatch.setattr("muxado.transport.base._NOTSENT_LOWAT", None)
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
    accepted = 0

    def fill() -> int:
        """Send until it would block; how much of that the connection has not taken."""
        nonlocal accepted
        with pytest.raises(BlockingIOError):
            while True:
                accepted += stream.send(bytes(65536))
        return accepted - pair[0].stats().bytes_sent

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


def test_a_sender_falls_behind_that_was_woken_to_go_next(
    sessions: Sessions, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that is first now was not woken by whoever left the seat."""
    pair = sessions.socketpair(heartbeat_interval=None)  # a heartbeat would wake it in the end
    engine = pair[0]._engine
    (one, far_one), (two, far_two), (three, far_three) = (
        streams(pair, priority=URGENT) for _ in range(3)
    )
    until(lambda: not engine.core.writer)  # or the first would have to wait, too
    with Gate() as writes, Gate() as woken:
        before(monkeypatch, engine.transport, "send", writes.stop_large)
        after(monkeypatch, engine.reading, "wait", woken.stop)
        tasks = [crew.start(one.sendall, bytes(10_000))]
        writes.reached()
        tasks.append(crew.start(two.sendall, bytes(10_000)))
        waiting(pair[0], 1)
        tasks.append(crew.start(three.sendall, bytes(10_000)))
        waiting(pair[0], 2)
        writes.open()
        woken.reached()  # the sender on ``two``, to which the seat was left
        two.priority = URGENT - 1
        woken.open()
        for task in tasks:
            task.result()
    for far in (far_one, far_two, far_three):
        assert len(far.recv(10_000, socket.MSG_WAITALL)) == 10_000
