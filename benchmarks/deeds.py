"""What the soak test does with a stream, at the end that opened it and at the other."""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import muxado

__all__ = ["DEEDS", "DOWNLOAD", "GUARD", "Off", "answer", "request"]

#: Seconds; whatever takes longer hangs.
GUARD = 60.0

#: A stream begins with what its opener wants: a deed, a number of bytes, where they begin in BLOCK.
HEADER = struct.Struct(">BII")
BLOCK = random.Random(1).randbytes(2**21)
LARGEST = 2**20

ECHO, UPLOAD, DOWNLOAD, SLOW, JAM, RESET, ABANDON, CANCEL = range(8)
DEEDS = ("echo", "upload", "download", "slow", "jam", "reset", "abandon", "cancel")


class Off(Exception):
    """Something that must not happen."""


def data_at(start: int, size: int) -> memoryview:
    return memoryview(BLOCK)[start : start + size]


def same(got: bytes, start: int, size: int) -> None:
    if got != data_at(start, size):
        raise Off(f"{len(got)} bytes came that are not the {size} that were sent")


def read_to_end(stream: muxado.Stream, rng: random.Random) -> bytes:
    data = bytearray()
    while part := stream.recv(rng.choice([1, 100, 5000, 65536, 262144])):
        data += part
    return bytes(data)


def answer(stream: muxado.Stream, rng: random.Random) -> None:
    """The side that accepted the stream."""
    head = stream.recv(HEADER.size, socket.MSG_WAITALL)
    if len(head) < HEADER.size:
        raise Off(f"a stream that ends after {len(head)} bytes")
    deed, size, start = HEADER.unpack(head)
    if deed == ECHO:
        while part := stream.recv(rng.choice([100, 5000, 65536])):
            stream.sendall(part)
    elif deed in (UPLOAD, JAM, CANCEL):
        if deed == JAM:
            time.sleep(0.02)  # its opener runs into its time-outs meanwhile
        digest = hashlib.sha256(read_to_end(stream, rng)).digest()
        stream.sendall(digest)
    elif deed in (DOWNLOAD, ABANDON):
        stream.sendall(data_at(start, size))
    elif deed == SLOW:
        for place in range(0, size, max(1, size // 4)):
            time.sleep(0.003)
            stream.sendall(data_at(start + place, min(size - place, max(1, size // 4))))
    elif deed == RESET:
        stream.reset()


def request(stream: muxado.Stream, deed: int, rng: random.Random) -> int:
    """The side that opened the stream; returns how many bytes it moved."""
    size = rng.choice([rng.randint(1, 100), rng.randint(1, 20_000), rng.randint(1, LARGEST)])
    start = rng.randrange(len(BLOCK) - size)
    stream.settimeout(GUARD)
    stream.sendall(HEADER.pack(deed, size, start))
    data = data_at(start, size)
    if deed == ECHO:
        with beside(lambda: pour(stream, data, rng)):
            same(read_to_end(stream, rng), start, size)
        return 2 * size
    if deed == UPLOAD:
        pour(stream, data, rng)
        check_digest(stream, data)
    elif deed == JAM:
        stream.settimeout(0.004)
        while data:
            with contextlib.suppress(TimeoutError):
                data = data[stream.send(data) :]
        stream.settimeout(GUARD)
        stream.close_write()
        check_digest(stream, data_at(start, size))
    elif deed == DOWNLOAD:
        same(read_to_end(stream, rng), start, size)
    elif deed == SLOW:
        got = bytearray()
        stream.settimeout(0.001)
        begun = time.monotonic()
        while len(got) < size and time.monotonic() < begun + GUARD:
            with contextlib.suppress(TimeoutError):
                got += stream.recv(
                    rng.choice([1, 1000, 100_000]), rng.choice([0, socket.MSG_WAITALL])
                )
        same(bytes(got), start, size)
    elif deed == RESET:
        try:
            stream.recv(1)
        except muxado.StreamReset:
            return 0
        raise Off("a stream that was reset ended in another way")
    elif deed == ABANDON:
        same(stream.recv(min(size, 10), socket.MSG_WAITALL), start, min(size, 10))
    elif deed == CANCEL:
        stream.sendall(data[: size // 2])
        stream.reset()
    return size


def pour(stream: muxado.Stream, data: memoryview, rng: random.Random) -> None:
    while data:
        part = rng.choice([1000, 30_000, 300_000])
        stream.sendall(data[:part])
        data = data[part:]
    stream.close_write()


def check_digest(stream: muxado.Stream, data: memoryview) -> None:
    digest = hashlib.sha256(data).digest()
    if stream.recv(len(digest), socket.MSG_WAITALL) != digest:
        raise Off(f"other bytes arrived than the {len(data)} that were sent")


@contextlib.contextmanager
def beside(call: Callable[[], object]) -> Iterator[None]:
    """Call it in a thread, and join that; what it raises is raised."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if errors:
        raise errors[0]
