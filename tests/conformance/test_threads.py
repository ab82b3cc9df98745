"""One end used by several threads, and much going both ways at the same time."""

from __future__ import annotations

import hashlib
import random
import struct
from collections import Counter
from collections.abc import Callable

import pytest

from .pipes import Crew, End, Feature, Pipe, fill, read_exactly, read_to_end

MUCH = 4 * 1024 * 1024
"""Bytes; many times what any pipe holds."""

RECORD = struct.Struct("!BI")
"""What stands before each body in the tests with several writers: which writer, body size."""


def digest_of(end: End, size: int) -> str:
    """Read `size` bytes and return their hash."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(256 * 1024))
    while size:
        count = end.recv_into(buffer[: min(size, len(buffer))])
        assert count, "the end came too early"
        digest.update(buffer[:count])
        size -= count
    return digest.hexdigest()


def test_much_one_way(pipe: Pipe, crew: Crew) -> None:
    data = random.Random(6).randbytes(MUCH)
    reading = crew.start(digest_of, pipe.far, MUCH)
    pipe.near.sendall(data)
    assert reading.result() == hashlib.sha256(data).hexdigest()


def test_much_both_ways_at_once(pipe: Pipe, crew: Crew) -> None:
    pipe.needs(Feature.THREADS)
    there, back = random.Random(7).randbytes(MUCH), random.Random(8).randbytes(MUCH)
    tasks = [crew.start(pipe.near.sendall, there), crew.start(pipe.far.sendall, back)]
    far, near = crew.start(digest_of, pipe.far, MUCH), crew.start(digest_of, pipe.near, MUCH)
    assert far.result() == hashlib.sha256(there).hexdigest()
    assert near.result() == hashlib.sha256(back).hexdigest()
    for task in tasks:
        task.result()


def test_much_over_several_at_once(pipes: Callable[[], Pipe], crew: Crew) -> None:
    made = [pipes() for _ in range(4)]
    datas = [random.Random(number).randbytes(MUCH // 4) for number in range(4)]
    sending = [crew.start(pipe.near.sendall, data) for pipe, data in zip(made, datas, strict=True)]
    reading = [crew.start(digest_of, pipe.far, MUCH // 4) for pipe in made]
    for task, data in zip(reading, datas, strict=True):
        assert task.result() == hashlib.sha256(data).hexdigest()
    for sent in sending:
        sent.result()


def test_one_that_nobody_reads_does_not_stop_the_others(
    pipes: Callable[[], Pipe], crew: Crew
) -> None:
    stuck, free = pipes(), pipes()
    stuck.needs(Feature.POLL)
    total = fill(stuck.near)
    data = random.Random(9).randbytes(MUCH // 4)
    reading = crew.start(digest_of, free.far, len(data))
    free.near.sendall(data)
    assert reading.result() == hashlib.sha256(data).hexdigest()
    assert len(read_exactly(stuck.far, total)) == total


def test_reader_and_writer(pipe: Pipe, crew: Crew) -> None:
    """The far end sends back all it gets, while the near one reads and writes independently."""
    pipe.needs(Feature.THREADS)
    data = random.Random(10).randbytes(MUCH // 2)

    def echo() -> None:
        while piece := pipe.far.recv(64 * 1024):
            pipe.far.sendall(piece)
        pipe.far.shutdown(1)

    echoing = crew.start(echo)
    reading = crew.start(read_to_end, pipe.near)
    pipe.near.sendall(data)
    pipe.near.shutdown(1)
    assert reading.result() == data
    echoing.result()


def test_two_readers_share(pipe: Pipe, crew: Crew) -> None:
    """Each byte goes to exactly one of them, and both see the end."""
    pipe.needs(Feature.THREADS)
    data = random.Random(11).randbytes(1024 * 1024)
    readers = [crew.start(read_to_end, pipe.far) for _ in range(2)]
    pipe.near.sendall(data)
    pipe.near.close()
    parts = [reader.result() for reader in readers]
    assert sum(map(len, parts)) == len(data)
    assert Counter(parts[0]) + Counter(parts[1]) == Counter(data)


def test_two_readers_get_whole_pieces(pipe: Pipe, crew: Crew) -> None:
    """One answer for each of many waiting readers; none gets two, none gets nothing."""
    pipe.needs(Feature.THREADS)
    readers = [crew.start(pipe.far.recv, 1) for _ in range(8)]
    pipe.near.sendall(bytes(range(8)))
    assert sorted(reader.result() for reader in readers) == [bytes([n]) for n in range(8)]


@pytest.mark.parametrize("size", [3000, 700_000])
def test_two_writers(pipe: Pipe, crew: Crew, size: int) -> None:
    """All bytes arrive; on streams those of one sendall() together, however large it is."""
    pipe.needs(Feature.THREADS)
    rounds = 2_000_000 // size

    def write(who: int) -> None:
        for number in range(rounds):
            body = bytes([number % 256]) * (size + who)
            pipe.near.sendall(RECORD.pack(who, len(body)) + body)

    writers = [crew.start(write, who) for who in range(2)]
    total = rounds * sum(RECORD.size + size + who for who in range(2))
    data = read_exactly(pipe.far, total)
    for writer in writers:
        writer.result()
    if Feature.CONTIGUOUS_SENDALL in pipe.kind.lacks:
        expected: Counter[int] = Counter()
        for who in range(2):
            for number in range(rounds):
                expected.update(RECORD.pack(who, size + who))
                expected[number % 256] += size + who
        assert Counter(data) == expected
        return
    seen = Counter[int]()
    position = 0
    while position < total:
        who, length = RECORD.unpack_from(data, position)
        position += RECORD.size
        assert length == size + who
        assert data[position : position + length] == bytes([seen[who] % 256]) * length
        position += length
        seen[who] += 1
    assert seen == {0: rounds, 1: rounds}


def test_many_threads_open_talk_and_close(pipes: Callable[[], Pipe], crew: Crew) -> None:
    made = [pipes() for _ in range(16)]

    def serve(end: End) -> None:
        with end:
            end.sendall(read_to_end(end)[::-1])

    def ask(end: End, number: int) -> None:
        with end:
            end.sendall(b"%d " % number * 5000)
            end.shutdown(1)
            assert read_to_end(end) == (b"%d " % number * 5000)[::-1]

    made[0].needs(Feature.HALF_CLOSE)
    serving = [crew.start(serve, pipe.far) for pipe in made]
    asking = [crew.start(ask, pipe.near, number) for number, pipe in enumerate(made)]
    for task in (*asking, *serving):
        task.result()


def test_a_blocked_reader_does_not_keep_a_writer(pipe: Pipe, crew: Crew) -> None:
    pipe.needs(Feature.THREADS)
    reading = crew.start(pipe.near.recv, 1)
    data = random.Random(12).randbytes(1024 * 1024)
    far = crew.start(digest_of, pipe.far, len(data))
    pipe.near.sendall(data)
    assert far.result() == hashlib.sha256(data).hexdigest()
    pipe.far.sendall(b"x")
    assert reading.result() == b"x"


def test_a_blocked_writer_does_not_keep_a_reader(pipe: Pipe, crew: Crew) -> None:
    pipe.needs(Feature.THREADS, Feature.POLL)
    total = fill(pipe.near)
    pipe.near.setblocking(True)
    writing = crew.start(pipe.near.sendall, b"spam")
    for number in range(100):
        pipe.far.sendall(bytes([number]))
        assert pipe.near.recv(1) == bytes([number])
    assert len(read_exactly(pipe.far, total)) == total
    assert read_exactly(pipe.far, 4) == b"spam"
    writing.result()
