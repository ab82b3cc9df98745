"""The heartbeat while a connection takes no more: it is asked, judged and told all the same."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import muxado
from muxado import HeartbeatTimeout

from ..helpers.crew import Crew
from ..helpers.support import (
    DATA,
    FIN,
    RST,
    WNDINC,
    RawPeer,
    frame,
    small_send_buffer,
    threads_of,
    until,
    waiting,
    word,
)

PROBE = 0x7FFFFFFF


class Stuck:
    """A connection whose peer is gone without a word: every call of it waits, for ever or until
    one of ``frees`` is called."""

    def __init__(self, frees: str) -> None:
        self._frees = frees.split()
        self.free = threading.Event()
        self.writing = threading.Event()

    def recv(self, size: int) -> bytes:
        self.free.wait()
        return b""

    def sendall(self, data: bytes) -> None:
        self.writing.set()
        self.free.wait()
        raise BrokenPipeError

    def shutdown(self, how: int) -> None:
        if "shutdown" in self._frees:
            self.free.set()

    def close(self) -> None:
        if "close" in self._frees:
            self.free.set()
        if "nothing" in self._frees:
            self.free.wait()  # as a buffered file does whose write is stuck


@pytest.fixture
def stuck() -> Iterator[Callable[..., tuple[Stuck, muxado.Session]]]:
    made = []

    def make(frees: str, **options: Any) -> tuple[Stuck, muxado.Session]:
        made.append(Stuck(frees))
        return made[-1], muxado.client(made[-1], **options)

    yield make
    for each in made:
        each.free.set()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("frees", ["close", "shutdown", "neither", "nothing"])
def test_a_write_that_is_stuck_in_a_plain_object(
    stuck: Callable[..., tuple[Stuck, muxado.Session]], crew: Crew, frees: str, version: int
) -> None:
    """Every call learns of the silence, whether or not anything frees the thread that is stuck."""
    connection, session = stuck(
        frees, version=version, heartbeat_interval=0.1, heartbeat_tolerance=0.3, linger=0.1
    )
    first, second, polled = session.open(), session.open(), session.open()
    first.sendall(b"x")
    assert connection.writing.wait(20)
    poller = select.poll()
    poller.register(polled.fileno(), select.POLLIN)
    calls: list[Callable[[], object]] = [
        lambda: first.recv(1),
        lambda: second.sendall(bytes(2**20)),
        session.accept,
        session.drain,
    ]
    for task in [crew.start(call) for call in calls]:
        with pytest.raises(HeartbeatTimeout):
            task.result()
    until(lambda: poller.poll(10))
    assert isinstance(session.wait(1).error, HeartbeatTimeout)
    session.close()
    if frees in ("close", "shutdown"):
        until(lambda: not threads_of(session))
    for stream in (first, second, polled):
        stream.close()


@pytest.mark.parametrize("end", ["close", "kill"])
@pytest.mark.parametrize("frees", ["close", "neither", "nothing"])
def test_an_end_while_a_write_is_stuck(
    stuck: Callable[..., tuple[Stuck, muxado.Session]], crew: Crew, frees: str, end: str
) -> None:
    connection, session = stuck(frees, heartbeat_interval=None, linger=0.1)
    with session.open() as stream:
        stream.sendall(b"x")
        assert connection.writing.wait(20)
        reading = crew.start(stream.recv, 1)
        waiting(session, 1)
        ending = [crew.start(getattr(session, end)) for _ in range(2)]
        with pytest.raises(muxado.SessionClosed):
            reading.result()
        for task in ending:
            task.result()


def test_a_dropped_session_whose_write_is_stuck(
    stuck: Callable[..., tuple[Stuck, muxado.Session]],
) -> None:
    connection, session = stuck("close", heartbeat_interval=None, linger=0.1)
    held: list[Any] = [session, session.open()]
    held[1].sendall(b"x")
    assert connection.writing.wait(20)
    threads = threads_of(session)
    del session
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        held.clear()
    until(lambda: not any(thread.is_alive() for thread in threads))


def beat(session: muxado.Session) -> None:
    """Have a heartbeat fall due."""
    core = session._engine.core
    core.section(core.protocol.beat)


def fill(stream: muxado.Stream, size: int) -> int:
    """Send without blocking until it would; returns how many bytes went."""
    stream.setblocking(False)
    total = 0
    with pytest.raises(BlockingIOError):
        while True:
            total += stream.send(bytes(size))
    return total


def test_it_overtakes_what_non_blocking_sends_have_left(raw: Callable[..., RawPeer]) -> None:
    """Several, one after the other, while the connection takes nothing."""
    peer = raw(client=True, heartbeat_interval=0.1, heartbeat_tolerance=60)
    small_send_buffer(peer.session)
    with peer.session.open() as stream:
        total = fill(stream, 1000)
        before = peer.session.stats().heartbeats_sent
        until(lambda: peer.session.stats().heartbeats_sent >= before + 3)
        asked = peer.session.stats().heartbeats_sent
        seen = probes = 0
        while probes < asked:
            got = peer.read()
            assert got is not None
            probes += got.stream_id == PROBE
            seen += len(got.body)
        assert total - seen > 200_000
        while seen < total:
            got = peer.read()
            assert got is not None
            seen += len(got.body)
        stream.reset()


def test_it_overtakes_a_batch_that_is_under_way(raw: Callable[..., RawPeer], crew: Crew) -> None:
    """A caller waits for the connection with frames of many streams in hand."""
    peer = raw(client=True, heartbeat_interval=60)
    engine = peer.session._engine
    small_send_buffer(peer.session)
    first, *others = [peer.session.open() for _ in range(13)]
    sending = [crew.start(first.sendall, bytes(100_000))]
    until(lambda: engine.writing.jam)
    sending += [crew.start(stream.sendall, bytes(10_000)) for stream in others]
    waiting(peer.session, 13)
    assert len(peer.expect(DATA, first.id).body) == 100_000
    until(lambda: peer.session.stats().bytes_sent > 100_100 and engine.writing.jam)
    beat(peer.session)
    seen = []
    while (got := peer.read()) is not None and got.stream_id != PROBE:
        seen.append(len(got.body))
    assert got is not None
    assert sum(seen) < 60_000
    while sum(seen) < 120_000:
        got = peer.read()
        assert got is not None
        seen.append(len(got.body))
    for task in sending:
        task.result()
    for stream in (first, *others):
        stream.close()


@pytest.mark.parametrize("seed", range(5))
def test_frames_are_whole_and_in_order_whatever_overtakes(
    raw: Callable[..., RawPeer], crew: Crew, seed: int
) -> None:
    """Heartbeats, window updates, FINs and resets among data, over a connection that is full."""
    chance = random.Random(seed)
    peer = raw(client=True, heartbeat_interval=60, window=20_000)
    small_send_buffer(peer.session)
    open_now = [peer.session.open() for _ in range(6)]
    all_streams = open_now.copy()
    for number, stream in enumerate(open_now):
        stream.setblocking(False)
        stream.sendall(bytes([number]))
    sent = {stream.id: bytes([number]) for number, stream in enumerate(open_now)}
    ended: dict[int, int] = {}

    def listen() -> list[Any]:
        frames = []
        while (got := peer.read()) is not None:
            frames.append(got)
            if got.type == DATA and got.stream_id in sent and chance.random() < 0.3:
                with contextlib.suppress(BrokenPipeError):  # it has been closed
                    peer.send(frame(WNDINC, 0, got.stream_id, word(max(1, len(got.body)))))
                    if got.stream_id not in ended:
                        peer.send(frame(DATA, 0, got.stream_id, bytes(11_000)))
        return frames

    listening = crew.start(listen)
    for step in range(400):
        stream = chance.choice(open_now)
        kind = chance.random()
        try:
            if kind < 0.8:
                data = bytes([step & 255]) * chance.randrange(1, 3000)
                count = stream.send(data)
                sent[stream.id] += data[:count]
            elif kind < 0.9:
                stream.recv(11_000)
            elif kind < 0.98:
                beat(peer.session)
            elif len(open_now) > 2:
                open_now.remove(stream)
                ended[stream.id] = FIN if kind < 0.99 else RST
                (stream.close_write if kind < 0.99 else stream.reset)()
        except OSError:
            pass
    peer.session.close()
    got: dict[int, bytes] = dict.fromkeys(sent, b"")
    over = set()
    probes = 0
    for each in listening.result():
        assert each.type in (DATA, WNDINC, RST, 3), each
        if each.stream_id == PROBE:
            probes += 1
        elif each.type == DATA:
            assert each.stream_id not in over, each
            got[each.stream_id] += each.body
            if each.flags & FIN:
                over.add(each.stream_id)
        elif each.type == RST:
            over.add(each.stream_id)
    assert probes
    for stream_id, data in sent.items():
        assert data.startswith(got[stream_id])
        if ended.get(stream_id) != RST:
            assert got[stream_id] == data
    for stream in all_streams:
        stream.close()


def test_a_plain_object_gets_its_bytes_in_parts(crew: Crew) -> None:
    """So that a heartbeat does not stand behind a whole batch of somebody's."""
    near, far = socket.socketpair()

    class Parts:
        def __init__(self) -> None:
            self.recv, self.close = near.recv, near.close
            self.shutdown = near.shutdown
            self.largest = 0

        def sendall(self, data: bytes) -> None:
            self.largest = max(self.largest, len(data))
            near.sendall(data)

    parts = Parts()
    with muxado.client(parts) as client, muxado.server(far) as server, client.open() as stream:
        sending = crew.start(stream.sendall, bytes(2**20))
        accepted, _ = server.accept()
        with accepted:
            assert len(accepted.recv(2**20, socket.MSG_WAITALL)) == 2**20
        sending.result()
    assert parts.largest <= 65536
