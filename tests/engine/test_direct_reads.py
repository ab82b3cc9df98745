"""Long frames read straight into their reader's memory: same bytes, same ends, nothing lost."""

from __future__ import annotations

import errno
import fcntl
import random
import socket
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import muxado
from muxado.budget import Budget
from muxado.engine import read_seat
from muxado.engine.read_seat import Post

from ..helpers.crew import GUARD, Crew, Task
from ..helpers.gates import Gate, Once, after, before
from ..helpers.support import Connector, RawPeer, frame, read_all, streams, until, waiting

DATA, FIN, SYN = 1, 0x1, 0x2
LONG = 200_000


def past_the_parser(session: muxado.Session, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The counts of the reads that go past the parser from now on."""
    protocol = session._engine.protocol
    taken, counts = protocol.taken, []

    def count(stream: object, size: int) -> bool:
        counts.append(size)
        return taken(stream, size)  # type: ignore[arg-type]

    monkeypatch.setattr(protocol, "taken", count)
    return counts


def accepted(peer: RawPeer, stream_id: int) -> muxado.Stream:
    peer.send(frame(DATA, SYN, stream_id))
    stream, _ = peer.session.accept()
    return stream


def read_on(stream: muxado.Stream, size: int) -> bytes:
    buffer = bytearray(size)
    done = 0
    while count := stream.recv_into(memoryview(buffer)[done:]):
        done += count
        if done == size:
            break
    return bytes(buffer[:done])


def test_a_frame_in_pieces(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = raw()
    stream = accepted(peer, 3)
    counts = past_the_parser(peer.session, monkeypatch)
    engine = peer.session._engine
    into: list[object] = []
    before(monkeypatch, engine.transport, "recv_both", lambda view, _: into.append(view.obj))
    data = random.Random(1).randbytes(LONG)
    whole = frame(DATA, FIN, 3, data)
    reading = crew.start(read_on, stream, LONG + 1)
    peer.send(whole[:1008])
    for start in range(1008, len(whole), 7000):
        peer.send(whole[start : start + 7000])
    assert reading.result() == data
    assert stream.recv(1) == b""
    assert counts, "nothing was read straight"
    assert into
    assert engine._read_buffer.obj not in into, "what is read behind it is lost"
    stream.close()


@pytest.mark.parametrize("behind", [0, 1, 3, 7, 8])
@pytest.mark.parametrize("size", [0, 10, 50_000])
@pytest.mark.parametrize("mine", [True, False], ids=["its own", "another's"])
def test_the_next_header_comes_along(
    raw: Callable[..., RawPeer],
    crew: Crew,
    monkeypatch: pytest.MonkeyPatch,
    behind: int,
    size: int,
    mine: bool,
) -> None:
    """Whole, in part or not at all."""
    peer = raw()
    stream, other = accepted(peer, 3), accepted(peer, 5)
    transport = peer.session._engine.transport
    data = random.Random(behind).randbytes(60_000)
    whole, follows = frame(DATA, 0, 3, data), frame(DATA, FIN, 3 if mine else 5, data[:size])
    counts: list[int] = []
    receive = transport.recv_both

    def receive_both(into: memoryview, header: memoryview) -> int | None:
        if counts:
            return receive(into, header)
        peer.send(whole[1001:] + follows[:behind])
        left = len(whole) - 1000 + behind
        until(lambda: readable(peer.session) == left)
        count = receive(into, header)
        assert count == left
        counts.append(count)
        peer.send(follows[behind:])
        return count

    monkeypatch.setattr(transport, "recv_both", receive_both)
    reading, others = crew.start(read_on, stream, len(data)), crew.start(read_on, other, 50_001)
    codec = peer.session._engine.protocol.codec
    peer.send(whole[:1000])
    until(lambda: codec.data_left == len(whole) - 1000 and stream._state.post is not None)
    peer.send(whole[1000:1001])
    assert reading.result() == data
    assert counts
    if not mine:
        peer.send(frame(DATA, FIN, 3, b"rest"))
        assert others.result() == data[:size]
        assert read_on(stream, 50_001) == b"rest"
    else:
        peer.send(frame(DATA, FIN, 5, b"rest"))
        assert others.result() == b"rest"
        assert read_on(stream, 50_001) == data[:size]
    stream.close()
    other.close()


def test_the_seat_is_left_to_the_one_whose_frame_begins(
    raw: Callable[..., RawPeer], crew: Crew
) -> None:
    """Who has its own frame whole, and comes back for more, waits behind it."""
    peer = raw()
    stream, other = accepted(peer, 3), accepted(peer, 5)
    engine = peer.session._engine
    threads: dict[str, int] = {}

    def read(name: str, end: muxado.Stream) -> bytes:
        threads[name] = threading.get_ident()
        return read_on(end, LONG + 1)

    one, two = crew.start(read, "one", stream), crew.start(read, "two", other)
    until(lambda: stream._state.post is not None and other._state.post is not None)
    first, second = frame(DATA, 0, 3, bytes(60_000)), frame(DATA, 0, 5, bytes(LONG))
    for part in (first[:1000], first[1000:] + second[:8]):
        peer.send(part)
    until(lambda: engine.protocol.codec.data_left == LONG)
    waiting(peer.session, 2)
    until(lambda: engine._reading is not None and engine._reading_thread == threads["two"])
    assert stream._state.post is not None
    peer.send(second[8:] + frame(DATA, FIN, 5), frame(DATA, FIN, 3))
    assert (one.result(), two.result()) == (bytes(60_000), bytes(LONG))
    stream.close()
    other.close()


def test_not_to_one_who_is_about_to_return(raw: Callable[..., RawPeer]) -> None:
    """Where such have not been back for more at once."""
    peer = raw()
    stream = accepted(peer, 3)
    engine, state = peer.session._engine, stream._state
    peer.send(frame(DATA, 0, 3, bytes(LONG))[:1000])
    until(lambda: state.buffered == 992)
    waiter = threading.Lock()
    state.readers = [waiter]
    with engine._lock:
        post = state.post = Post(memoryview(bytearray(10)))
        post.thread = -2
        engine._willing[waiter] = -2
        engine._tardy = True
        assert engine._hand_over_locked()
        post.ripe = True
        assert not engine._hand_over_locked()
        engine._tardy = False
        assert engine._hand_over_locked()
        del engine._willing[waiter]
        state.readers, state.post = None, None
    stream.reset()
    stream.close()


class Counting(socket.socket):
    """A socket with its own way of reading."""

    received = 0

    def recv_into(self, *args: Any) -> int:
        count = super().recv_into(*args)
        self.received += count
        return count


def test_a_socket_that_reads_in_its_own_way_is_let_do_so(crew: Crew) -> None:
    near, far = socket.socketpair()
    mine = Counting(fileno=far.detach())
    with muxado.client(near) as client, muxado.server(mine) as server:
        stream = client.open()
        sending = crew.start(stream.sendall, bytes(LONG))
        accepted, _ = server.accept()
        assert read_on(accepted, LONG) == bytes(LONG)
        sending.result()
        assert mine.received >= LONG + 8 * client.stats().frames_sent - 8
        stream.close()
        accepted.close()


def readable(session: muxado.Session) -> int:
    """Bytes that the connection has for it."""
    connection: socket.socket = session._engine.transport._sock  # type: ignore[attr-defined]
    count = fcntl.ioctl(connection, termios.FIONREAD, bytes(4))
    return int.from_bytes(count, sys.byteorder)


@pytest.mark.parametrize("seed", range(8))
def test_long_and_short_frames_of_several_streams(
    raw: Callable[..., RawPeer], crew: Crew, seed: int
) -> None:
    rng = random.Random(seed)
    peer = raw(window=2**24)
    ids = [3, 5, 7]
    opened = {stream_id: accepted(peer, stream_id) for stream_id in ids}
    sizes = {stream_id: 1 + rng.randrange(600_000) for stream_id in ids}
    reading = {i: crew.start(read_on, opened[i], rng.choice((1, 2, 3)) * sizes[i]) for i in ids}
    data = {stream_id: rng.randbytes(sizes[stream_id]) for stream_id in ids}
    out, left = bytearray(), {stream_id: memoryview(data[stream_id]) for stream_id in ids}
    while any(left.values()):
        stream_id = rng.choice([i for i in ids if left[i]])
        count = rng.choice((1, 100, 40_000, 131_072))
        out += frame(DATA, 0, stream_id, bytes(left[stream_id][:count]))
        left[stream_id] = left[stream_id][count:]
    for stream_id in ids:
        out += frame(DATA, FIN, stream_id)
    start = 0
    while start < len(out):
        count = rng.choice((1, 8, 1000, 50_000, 300_000))
        peer.send(bytes(out[start : start + count]))
        start += count
    for stream_id in ids:
        assert reading[stream_id].result() == data[stream_id]
        opened[stream_id].close()


@pytest.mark.parametrize("how", ["close", "reset", "deaf"])
def test_the_stream_ends_in_the_middle_of_a_frame(
    raw: Callable[..., RawPeer], crew: Crew, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = raw()
    stream, other = accepted(peer, 3), accepted(peer, 5)
    counts = past_the_parser(peer.session, monkeypatch)
    whole = frame(DATA, 0, 3, bytes(LONG))
    reading = crew.start(read_on, stream, LONG)
    peer.send(whole[:50_000])
    until(lambda: peer.session._engine.protocol.codec.data_left == LONG + 8 - 50_000)
    waiting(peer.session, 1)
    if how == "close":
        stream.close()
    elif how == "reset":
        stream.reset()
    else:
        stream.shutdown(0)
    if how == "deaf":
        assert len(reading.result()) < LONG
    else:
        with pytest.raises(OSError):
            reading.result()
    before = list(counts)
    peer.send(whole[50_000:], frame(DATA, FIN, 5, b"whole"))
    assert read_on(other, 6) == b"whole"
    assert counts == before, "bytes of an ended stream went to a reader"
    stream.close()
    other.close()


def test_bytes_that_came_for_a_stream_that_is_closed_meanwhile(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader has the bytes in its memory, and the stream is over before it has said so."""
    peer = raw()
    stream, other = accepted(peer, 3), accepted(peer, 5)
    engine = peer.session._engine
    whole = frame(DATA, 0, 3, bytes(LONG))
    receive = engine._receive

    def closing(into: memoryview) -> int | None:
        count = receive(into)
        if count and into.obj is not engine._read_buffer.obj:
            monkeypatch.undo()
            stream.close()
        return count

    monkeypatch.setattr(engine, "_receive", closing)
    reading = crew.start(read_on, stream, LONG)
    peer.send(whole[:50_000])
    until(lambda: engine.protocol.codec.data_left == LONG + 8 - 50_000)
    peer.send(whole[50_000:], frame(DATA, FIN, 5, b"whole"))
    with pytest.raises(OSError):
        reading.result()
    assert read_on(other, 6) == b"whole"
    other.close()


def test_the_last_straw_for_the_budget_ends_the_session_with_its_own_code(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes came for a stream closed meanwhile, and one more RST is more than is owed."""
    peer = raw()
    stream = accepted(peer, 3)
    engine = peer.session._engine
    whole = frame(DATA, 0, 3, bytes(LONG))
    receive = engine._receive

    def closing(into: memoryview) -> int | None:
        count = receive(into)
        if count and into.obj is not engine._read_buffer.obj:
            monkeypatch.undo()
            stream.close()
            monkeypatch.setattr(Budget, "charge", lambda *_: False)
        return count

    monkeypatch.setattr(engine, "_receive", closing)
    reading = crew.start(read_on, stream, LONG)
    peer.send(whole[:50_000])
    until(lambda: engine.protocol.codec.data_left == LONG + 8 - 50_000)
    peer.send(whole[50_000:])
    with pytest.raises(OSError) as caught:
        reading.result()
    assert caught.value.errno == errno.EBADF
    assert peer.session.wait().code is muxado.ErrorCode.ENHANCE_YOUR_CALM


# Memory of one who waits, filled by another who has the read seat.


class Scene:
    """One waits in ``recv_into`` of ``stream``, and another leads, who is to stop while it reads
    into the first one's memory."""

    def __init__(self, peer: RawPeer, crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
        self.peer, self.crew = peer, crew
        self.engine = peer.session._engine
        # As if another had sat down before the one who is to lead.
        monkeypatch.setattr(self.engine, "_hand_over_locked", lambda: False)
        self.stream, self.other = accepted(peer, 3), accepted(peer, 5)
        self.data = random.Random(3).randbytes(LONG)
        self.memory = bytearray(LONG)
        self.leading = crew.start(read_all, self.other)
        until(self.a_caller_leads)
        self.gate = Gate()
        receive = self.engine._receive

        def stopping(into: memoryview) -> int | None:
            if into.obj is self.memory:
                self.gate.stop()
            return receive(into)

        monkeypatch.setattr(self.engine, "_receive", stopping)

    def a_caller_leads(self) -> bool:
        """Whether it does; the reader thread leaves the seat at the next byte."""
        who = self.engine._reading
        if who is self.engine._reader_waiter:
            self.peer.send(frame(DATA, 0, 5, b"."))
        return who not in (None, self.engine._reader_waiter)

    def wait(self, timeout: float | None = None) -> Task[int]:
        """Have the one wait, and the leader come to the gate."""
        self.stream.settimeout(timeout)
        reading = self.crew.start(self.stream.recv_into, self.memory)
        until(lambda: self.stream._state.post is not None)
        self.post: Post = self.stream._state.post
        whole = frame(DATA, FIN, 3, self.data)
        self.peer.send(whole[:50_000])
        self.gate.reached()
        assert self.post.busy
        return reading

    def finish(self, start: int, sent: int = 50_000) -> None:
        """All bytes from ``start`` on are there, and the leader has its own."""
        self.peer.send(frame(DATA, FIN, 3, self.data)[sent:], frame(DATA, FIN, 5, b"whole"))
        assert read_on(self.stream, LONG) == self.data[start:]
        assert self.leading.result().endswith(b"whole")
        self.stream.close()
        self.other.close()


@pytest.fixture
def scene(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Scene]:
    made = Scene(raw(), crew, monkeypatch)
    with made.gate:
        yield made


def test_who_waits_has_its_memory_filled_and_is_woken_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = past_the_parser(scene.peer.session, monkeypatch)
    reading = scene.wait()
    scene.peer.send(frame(DATA, FIN, 3, scene.data)[50_000:])
    scene.gate.open()
    size = reading.result()
    assert scene.memory[:size] == scene.data[:size]
    assert counts
    scene.peer.send(frame(DATA, FIN, 5, b"whole"))
    assert read_on(scene.stream, LONG) == scene.data[size:]
    assert scene.leading.result().endswith(b"whole")


def test_a_time_out_waits_until_nobody_reads_into_the_memory(scene: Scene) -> None:
    reading = scene.wait(timeout=0.01)
    until(lambda: scene.post.recalled)
    assert reading.running
    scene.gate.open()
    size = reading.result()  # which is no time-out: there are bytes
    assert scene.memory[:size] == scene.data[:size]
    kept = bytes(scene.memory)
    scene.stream.settimeout(GUARD)
    scene.finish(size)
    assert scene.memory == kept


@pytest.mark.parametrize("how", ["close", "reset", "kill"])
def test_the_end_waits_until_nobody_reads_into_the_memory(scene: Scene, how: str) -> None:
    reading = scene.wait()
    if how == "close":
        scene.stream.close()
    elif how == "reset":
        scene.stream.reset()
    else:
        killing = scene.crew.start(scene.peer.session.kill)
    until(lambda: scene.post.recalled)
    assert reading.running
    scene.gate.open()
    size = reading.result()  # what had come before
    assert scene.memory[:size] == scene.data[:size]
    with pytest.raises(OSError):
        scene.stream.recv_into(scene.memory)
    if how == "kill":
        killing.result()
        with pytest.raises(OSError):
            scene.leading.result()
        return
    kept = bytes(scene.memory)
    scene.peer.send(frame(DATA, 0, 3, scene.data)[50_000:], frame(DATA, FIN, 5, b"whole"))
    assert scene.leading.result().endswith(b"whole")
    assert scene.memory == kept


class Struck(BaseException):
    """What a signal's handler raises."""


@pytest.mark.parametrize("more", [0, 70_000])
def test_an_exception_gives_back_what_is_in_the_memory(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    """One that strikes while the leader reads, and some bytes are there already."""
    wait = scene.engine._wait

    def struck(*args: Any, **options: Any) -> bool:
        if not options.get("posted"):
            return wait(*args, **options)
        scene.gate.reached()
        raise Struck

    monkeypatch.setattr(scene.engine, "_wait", struck)
    reading = scene.wait()
    until(lambda: scene.post.recalled)
    assert reading.running
    scene.peer.send(frame(DATA, FIN, 3, scene.data)[50_000 : 50_000 + more])
    scene.gate.open()
    with pytest.raises(Struck):
        reading.result()
    monkeypatch.setattr(scene.engine, "_wait", wait)  # who reads from now on may have to wait
    window = scene.stream._state.receive
    with scene.engine._lock:
        left = window.left + scene.engine.protocol.codec.data_left  # may, and will come
        assert left + scene.stream._state.buffered + window.read == window.size
    scene.finish(0, sent=50_000 + more)


def test_two_readers_and_one_memory(scene: Scene) -> None:
    reading = scene.wait()
    second = scene.crew.start(read_on, scene.stream, LONG)
    until(lambda: len(scene.stream._state.readers or ()) == 2)
    scene.gate.open()
    scene.peer.send(frame(DATA, FIN, 3, scene.data)[50_000:], frame(DATA, FIN, 5, b"whole"))
    size = reading.result()
    rest = second.result() + read_on(scene.stream, LONG)
    assert bytes(scene.memory[:size]) in scene.data, "something else stands between"
    assert sorted([*scene.memory[:size], *rest]) == sorted(scene.data)
    assert scene.leading.result().endswith(b"whole")


def test_what_another_reader_takes_is_behind_all_that_is_in_the_memory(
    raw: Callable[..., RawPeer], crew: Crew
) -> None:
    """The one whose memory it is has not woken yet, and gets nothing from behind that."""
    peer = raw()
    stream = accepted(peer, 3)
    state, engine = stream._state, peer.session._engine
    memory = bytearray(100)
    post = Post(memoryview(memory))
    with engine._lock:
        post.view[:3] = b"one"
        post.count = 3
        state.post = post
        state.receive.left -= 3
        engine.protocol.consumed(state, 3)
    peer.send(frame(DATA, 0, 3, b"two"))
    until(lambda: state.buffered == 3)
    assert stream.recv(100) == b"two"
    peer.send(frame(DATA, 0, 3, b"three"))
    until(lambda: state.buffered == 5)
    with engine._lock:
        assert post.ripe, "it may go on waiting for what it cannot get"
        assert engine._filled_locked(state, post) == 3
        assert state.post is None
    assert memory[:4] == b"one\0"
    assert stream.recv(100) == b"three"
    stream.close()


class Several:
    """Readers with memory of their own, of whom one leads."""

    def __init__(self, peer: RawPeer, crew: Crew) -> None:
        self.peer, self.crew = peer, crew
        self.engine = peer.session._engine
        self.streams = {stream_id: accepted(peer, stream_id) for stream_id in (3, 5, 7)}
        self.memory = {stream_id: bytearray(LONG) for stream_id in self.streams}
        reading = self.read(3)  # with which the reader thread leaves the seat
        peer.send(frame(DATA, 0, 3, b"x"))
        assert reading.result() == 1

    def read(self, stream_id: int) -> Task[int]:
        before = self.engine.blocked()
        stream, memory = self.streams[stream_id], self.memory[stream_id]
        reading = self.crew.start(stream.recv_into, memory)
        until(lambda: self.engine.blocked() == before + 1)
        return reading

    def leads(self, stream_id: int) -> bool:
        """Whether the one who waits for that stream has the seat."""
        with self.engine._lock:
            post = self.streams[stream_id]._state.post
            return self.engine._reading is not None and self.engine._reading_thread == post.thread

    def over(self) -> None:
        for stream in self.streams.values():
            stream.close()


@pytest.fixture
def several(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Several]:
    monkeypatch.setattr(read_seat, "_NAP", GUARD)  # the reader thread does not come back to it
    made = Several(raw(heartbeat_interval=None, window=2**24), crew)
    yield made
    made.over()


def test_the_seat_goes_to_the_one_whose_memory_a_long_frame_goes_into(
    several: Several, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_seat, "_TARDY", GUARD)
    reading = {stream_id: several.read(stream_id) for stream_id in several.streams}
    data = {stream_id: random.Random(stream_id).randbytes(LONG) for stream_id in reading}
    for stream_id in (5, 3, 7):
        whole = frame(DATA, 0, stream_id, data[stream_id])
        several.peer.send(whole[:8])
        until(lambda i=stream_id: several.leads(i))  # type: ignore[misc]
        several.peer.send(whole[8:])
        assert reading[stream_id].result() == LONG
        assert several.memory[stream_id] == data[stream_id]
        # The seat is free, and nobody comes of himself: whoever comes next.
        reading[stream_id] = several.read(stream_id)
    several.over()
    for task in reading.values():
        with pytest.raises(OSError):
            task.result()


def test_a_short_frame_moves_nobody(several: Several) -> None:
    first, second = several.read(3), several.read(5)
    until(lambda: several.leads(3))
    several.peer.send(frame(DATA, 0, 5, b"short")[:8])
    until(lambda: several.engine.protocol.under_way is several.streams[5]._state)
    assert several.leads(3)
    several.peer.send(frame(DATA, 0, 5, b"short")[8:], frame(DATA, 0, 3, b"x"))
    assert (first.result(), second.result()) == (1, 5)


@pytest.mark.parametrize("tardy", [True, False])
def test_while_one_who_takes_his_time_is_away_another_reads(
    several: Several, crew: Crew, monkeypatch: pytest.MonkeyPatch, tardy: bool
) -> None:
    monkeypatch.setattr(read_seat, "_TARDY", 0.0 if tardy else GUARD)
    others = [several.read(5), several.read(7)]
    reading = crew.start(read_on, several.streams[3], 2 * LONG)
    until(lambda: several.engine.blocked() == 3)
    whole = frame(DATA, 0, 3, bytes(LONG))
    several.peer.send(whole[:8])
    until(lambda: several.leads(3))
    several.peer.send(whole[8:])
    until(lambda: several.engine.protocol.codec.data_left == 0)
    until(lambda: several.engine._left is None and several.engine.blocked() == 3)
    assert several.engine._tardy is tardy, "the first time tells how soon he comes back"
    several.peer.send(whole)
    assert reading.result() == bytes(2 * LONG)
    if tardy:
        until(lambda: several.engine._reading is not None)
    else:
        assert several.engine._reading is None
        others.append(several.read(3))
    for stream_id, task in zip((5, 7, 3), others, strict=False):
        several.peer.send(frame(DATA, FIN, stream_id))
        assert task.result() == 0


@pytest.mark.parametrize("version", [1, 2])
def test_both_ways_over_every_connection(connector: Connector, crew: Crew, version: int) -> None:
    near, far = streams(connector(version=version))
    data = random.Random(version).randbytes(3_000_000)
    sending = [crew.start(end.sendall, data) for end in (near, far)]
    reading = [crew.start(read_on, end, len(data)) for end in (near, far)]
    for sender in sending:
        sender.result()
    for reader in reading:
        assert reader.result() == data
    near.close()
    far.close()


def test_an_exception_before_the_memory_is_withdrawn(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was taken into it lies there until it is given back: nobody may read over that."""
    peer = raw()
    stream, other = accepted(peer, 3), accepted(peer, 5)
    engine = peer.session._engine
    short, long = b"x" * 100, bytes(LONG)
    memory = bytearray(2 * LONG)
    led: list[Task[bytes]] = []

    def strike() -> None:
        after(monkeypatch, engine, "_give_up", Once(meanwhile))
        raise KeyboardInterrupt

    def meanwhile() -> None:
        led.append(crew.start(other.recv, 1))
        until(lambda: engine._reading is not None)
        whole = frame(DATA, 0, 3, long)
        peer.send(whole[:1000])
        until(lambda: engine.protocol.codec.data_left)
        peer.send(whole[1000:])
        until(lambda: not engine.protocol.codec.data_left)

    def interrupted() -> None:
        with pytest.raises(KeyboardInterrupt):
            stream.recv_into(memory)

    reading = crew.start(interrupted)
    waiting(peer.session, 1)
    before(monkeypatch, Post, "retract", Once(strike))
    peer.send(frame(DATA, 0, 3, short))
    reading.result()
    assert read_on(stream, len(short + long)) == short + long
    peer.send(frame(DATA, 0, 5, b"y"))
    assert led[0].result() == b"y"
