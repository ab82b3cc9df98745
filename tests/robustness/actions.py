"""What the soak test does with a stream, at the end that opened it and at the other."""

from __future__ import annotations

import contextlib
import enum
import hashlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import muxado

__all__ = ["TIMEOUT", "Action", "Wrong", "answer", "request"]

#: Seconds; an operation that takes longer is taken to hang.
TIMEOUT = 60.0

#: The first bytes of a stream: an `Action`, a number of bytes, and where in BLOCK they begin.
HEADER = struct.Struct(">BII")
BLOCK = random.Random(1).randbytes(2**21)
LARGEST = 2**20


class Action(enum.IntEnum):
    """What the opener of a stream asks the other end to do."""

    ECHO = 0  # send everything back
    UPLOAD = 1  # receive everything, answer with its digest
    DOWNLOAD = 2  # send bytes
    TRICKLE = 3  # send bytes in four parts, with pauses that make the opener time out
    JAM = 4  # receive late, so that the opener's sends time out
    RESET = 5  # reset the stream
    ABANDON = 6  # send bytes that the opener leaves unread
    CANCEL = 7  # receive until the opener resets the stream


class Wrong(Exception):
    """Something happened that must not happen."""


def answer(stream: muxado.Stream, rng: random.Random) -> None:
    """Do what the opener of an accepted stream asks for."""
    header = stream.recv(HEADER.size, socket.MSG_WAITALL)
    if len(header) < HEADER.size:
        raise Wrong(f"a stream ended after {len(header)} bytes")
    action, size, start = HEADER.unpack(header)
    if action == Action.ECHO:
        while part := stream.recv(rng.choice([100, 5000, 65536])):
            stream.sendall(part)
    elif action in (Action.UPLOAD, Action.JAM, Action.CANCEL):
        if action == Action.JAM:
            time.sleep(0.02)  # long enough for the opener's time-outs
        stream.sendall(hashlib.sha256(_read_to_end(stream, rng)).digest())
    elif action in (Action.DOWNLOAD, Action.ABANDON):
        stream.sendall(_data(start, size))
    elif action == Action.TRICKLE:
        step = max(1, size // 4)
        for offset in range(0, size, step):
            time.sleep(0.003)
            stream.sendall(_data(start + offset, min(size - offset, step)))
    elif action == Action.RESET:
        stream.reset()


def request(stream: muxado.Stream, action: Action, rng: random.Random) -> int:
    """Carry out ``action`` on a stream that was just opened; return how many bytes it moved."""
    size = rng.choice([rng.randint(1, 100), rng.randint(1, 20_000), rng.randint(1, LARGEST)])
    start = rng.randrange(len(BLOCK) - size)
    data = _data(start, size)
    stream.settimeout(TIMEOUT)
    stream.sendall(HEADER.pack(action, size, start))
    if action == Action.ECHO:
        with _in_a_thread(lambda: _send_in_parts(stream, data, rng)):
            _compare(_read_to_end(stream, rng), data)
        return 2 * size
    if action == Action.UPLOAD:
        _send_in_parts(stream, data, rng)
        _check_digest(stream, data)
    elif action == Action.DOWNLOAD:
        _compare(_read_to_end(stream, rng), data)
    elif action == Action.TRICKLE:
        _compare(_read_with_timeouts(stream, size, rng), data)
    elif action == Action.JAM:
        _send_with_timeouts(stream, data)
        _check_digest(stream, data)
    elif action == Action.RESET:
        try:
            stream.recv(1)
        except muxado.StreamReset:
            return 0
        raise Wrong("a stream that the peer reset gave no StreamReset")
    elif action == Action.ABANDON:
        head = min(size, 10)
        _compare(stream.recv(head, socket.MSG_WAITALL), data[:head])
    elif action == Action.CANCEL:
        stream.sendall(data[: size // 2])
        stream.reset()
    return size


def _data(start: int, size: int) -> memoryview:
    return memoryview(BLOCK)[start : start + size]


def _compare(received: bytes | bytearray, sent: memoryview) -> None:
    if memoryview(received) != sent:
        raise Wrong(f"received {len(received)} bytes that differ from the {len(sent)} sent")


def _check_digest(stream: muxado.Stream, sent: memoryview) -> None:
    digest = hashlib.sha256(sent).digest()
    if stream.recv(len(digest), socket.MSG_WAITALL) != digest:
        raise Wrong(f"the peer received bytes that differ from the {len(sent)} sent")


def _read_to_end(stream: muxado.Stream, rng: random.Random) -> bytearray:
    data = bytearray()
    while part := stream.recv(rng.choice([1, 100, 5000, 65536, 262144])):
        data += part
    return data


def _read_with_timeouts(stream: muxado.Stream, size: int, rng: random.Random) -> bytearray:
    data = bytearray()
    stream.settimeout(0.001)
    deadline = time.monotonic() + TIMEOUT
    while len(data) < size and time.monotonic() < deadline:
        with contextlib.suppress(TimeoutError):
            part = stream.recv(rng.choice([1, 1000, 100_000]), rng.choice([0, socket.MSG_WAITALL]))
            if not part:
                break
            data += part
    return data


def _send_in_parts(stream: muxado.Stream, data: memoryview, rng: random.Random) -> None:
    while data:
        part = rng.choice([1000, 30_000, 300_000])
        stream.sendall(data[:part])
        data = data[part:]
    stream.close_write()


def _send_with_timeouts(stream: muxado.Stream, data: memoryview) -> None:
    stream.settimeout(0.004)
    deadline = time.monotonic() + TIMEOUT
    while data:
        if time.monotonic() > deadline:
            raise Wrong(f"{len(data)} bytes could not be sent in {TIMEOUT} s")
        with contextlib.suppress(TimeoutError):
            data = data[stream.send(data) :]
    stream.settimeout(TIMEOUT)
    stream.close_write()


@contextlib.contextmanager
def _in_a_thread(call: Callable[[], object]) -> Iterator[None]:
    """Run ``call`` in a thread during the block; what it raises is raised after the block."""
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
