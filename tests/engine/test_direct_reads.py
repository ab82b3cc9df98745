"""Long frames read straight into their reader's memory: same bytes, same ends, nothing lost."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from typing import Any

import pytest

import muxado

from ..helpers.crew import Crew
from ..helpers.support import Connector, RawPeer, frame, streams, until, waiting

DATA, FIN, SYN = 1, 0x1, 0x2
LONG = 200_000


def past_the_parser(session: muxado.Session, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The counts of the reads that go past the parser from now on."""
    protocol = session._engine.core.protocol
    read, counts = protocol.read_directly, []

    def count(stream: object, size: int) -> bool:
        counts.append(size)
        return read(stream, size)  # type: ignore[arg-type]

    monkeypatch.setattr(protocol, "read_directly", count)
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


def read_into(stream: muxado.Stream, memory: bytearray) -> None:
    """Read until the stream is over."""
    while stream.recv_into(memory):
        pass


def test_a_frame_in_pieces(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = raw()
    stream = accepted(peer, 3)
    counts = past_the_parser(peer.session, monkeypatch)
    data = random.Random(1).randbytes(LONG)
    whole = frame(DATA, FIN, 3, data)
    reading = crew.start(read_on, stream, LONG + 1)
    peer.send(whole[:1008])
    for start in range(1008, len(whole), 7000):
        peer.send(whole[start : start + 7000])
    assert reading.result() == data
    assert stream.recv(1) == b""
    assert counts, "nothing was read straight"
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


@pytest.mark.parametrize("how", ["close", "reset", "shutdown"])
def test_the_stream_ends_in_the_middle_of_a_frame(
    raw: Callable[..., RawPeer], crew: Crew, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = raw()
    stream, other = accepted(peer, 3), accepted(peer, 5)
    counts = past_the_parser(peer.session, monkeypatch)
    whole = frame(DATA, 0, 3, bytes(LONG))
    reading = crew.start(read_on, stream, LONG)
    peer.send(whole[:50_000])
    until(lambda: peer.session._engine.core.protocol.codec.data_left == LONG + 8 - 50_000)
    waiting(peer.session, 1)
    if how == "close":
        stream.close()
    elif how == "reset":
        stream.reset()
    else:
        stream.shutdown(socket.SHUT_RD)
    if how == "shutdown":
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
    memory = bytearray(LONG)
    receive = engine.transport.recv_into

    def closing(into: memoryview) -> int | None:
        count = receive(into)
        if count and into.obj is memory:
            monkeypatch.undo()
            stream.close()
        return count

    monkeypatch.setattr(engine.transport, "recv_into", closing)
    reading = crew.start(read_into, stream, memory)
    peer.send(whole[:50_000])
    until(lambda: engine.core.protocol.codec.data_left == LONG + 8 - 50_000)
    peer.send(whole[50_000:], frame(DATA, FIN, 5, b"whole"))
    with pytest.raises(OSError):
        reading.result()
    assert read_on(other, 6) == b"whole"
    other.close()


def test_two_readers_of_one_stream(raw: Callable[..., RawPeer], crew: Crew) -> None:
    """Each has a buffer of its own; no byte is lost, and none comes twice."""
    peer = raw()
    stream = accepted(peer, 3)
    data = random.Random(3).randbytes(LONG)
    reading = [crew.start(read_on, stream, LONG) for _ in range(2)]
    waiting(peer.session, 2)
    whole = frame(DATA, FIN, 3, data)
    for start in range(0, len(whole), 50_000):
        peer.send(whole[start : start + 50_000])
    assert sorted(b"".join(task.result() for task in reading)) == sorted(data)
    stream.close()


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
