"""send and sendall."""

from __future__ import annotations

import array
import ctypes
import hashlib
import random
from typing import Any

import pytest

from .pipes import Crew, Feature, Pipe, read_exactly

BUFFERS: dict[str, Any] = {
    "bytes": b"spam and eggs...",
    "bytearray": bytearray(b"spam and eggs..."),
    "memoryview": memoryview(b"spam and eggs..."),
    "slice": memoryview(b"0123spam and eggs...4567")[4:-4],
    "array of bytes": array.array("B", b"spam and eggs..."),
    "array of int32": array.array("i", b"spam and eggs..."),
    "two dimensions": memoryview(b"spam and eggs...").cast("B", (2, 8)),
    "ctypes": (ctypes.c_char * 16).from_buffer_copy(b"spam and eggs..."),
}


@pytest.mark.parametrize("data", BUFFERS.values(), ids=BUFFERS.keys())
def test_sendall_any_buffer(pipe: Pipe, data: Any) -> None:
    assert pipe.near.sendall(data) is None  # type: ignore[func-returns-value]
    assert read_exactly(pipe.far, 16) == b"spam and eggs..."


@pytest.mark.parametrize("data", BUFFERS.values(), ids=BUFFERS.keys())
def test_send_any_buffer_returns_bytes_not_items(pipe: Pipe, data: Any) -> None:
    assert pipe.near.send(data) == 16
    assert read_exactly(pipe.far, 16) == b"spam and eggs..."


def test_send_reports_how_much_went(pipe: Pipe, crew: Crew) -> None:
    # More than any buffer holds, so some of these calls may well take less than they are given.
    data = random.Random(1).randbytes(1024 * 1024)
    reading = crew.start(read_exactly, pipe.far, len(data))
    view = memoryview(data)
    while view:
        count = pipe.near.send(view)
        assert 0 < count <= len(view)
        view = view[count:]
    assert reading.result() == data


def test_nothing(pipe: Pipe) -> None:
    assert pipe.near.send(b"") == 0
    assert pipe.near.sendall(b"") is None  # type: ignore[func-returns-value]
    pipe.near.sendall(b"something")
    assert pipe.far.recv(1024) == b"something"


@pytest.mark.parametrize("data", ["text", None, 5, [1, 2]], ids=repr)
def test_what_is_not_bytes(pipe: Pipe, data: Any) -> None:
    with pytest.raises(TypeError):
        pipe.near.send(data)
    with pytest.raises(TypeError):
        pipe.near.sendall(data)
    pipe.near.sendall(b"bytes")
    assert pipe.far.recv(1024) == b"bytes"


def test_a_buffer_with_gaps(pipe: Pipe) -> None:
    gappy = memoryview(b"s.p.a.m.")[::2]
    with pytest.raises((BufferError, TypeError)):
        pipe.near.send(gappy)
    with pytest.raises((BufferError, TypeError)):
        pipe.near.sendall(gappy)
    pipe.near.sendall(b"bytes")
    assert pipe.far.recv(1024) == b"bytes"


def test_flags_of_zero(pipe: Pipe) -> None:
    assert pipe.near.send(b"spam", 0) == 4
    pipe.near.sendall(b"eggs", 0)
    assert read_exactly(pipe.far, 8) == b"spameggs"


@pytest.mark.parametrize("call", ["send", "sendall"])
def test_the_buffer_is_the_callers_again(pipe: Pipe, call: str) -> None:
    """What was sent is what the buffer held then, and nobody keeps hold of it."""
    data = bytearray(b"spam")
    getattr(pipe.near, call)(data)
    data[:] = b"eggs"
    data.clear()  # BufferError while anybody still holds it
    assert read_exactly(pipe.far, 4) == b"spam"


def test_a_large_buffer_is_the_callers_again(pipe: Pipe, crew: Crew) -> None:
    data = bytearray(random.Random(2).randbytes(1024 * 1024))
    digest = hashlib.sha256(data).digest()
    reading = crew.start(read_exactly, pipe.far, len(data))
    pipe.near.sendall(data)
    data[:] = bytes(len(data))
    data.clear()
    assert hashlib.sha256(reading.result()).digest() == digest


def test_small_sends_arrive_in_order(pipe: Pipe, crew: Crew) -> None:
    chunks = [bytes([number % 256]) * (number % 17 + 1) for number in range(2000)]
    reading = crew.start(read_exactly, pipe.far, sum(map(len, chunks)))
    for chunk in chunks:
        pipe.near.sendall(chunk)
    assert reading.result() == b"".join(chunks)


SENDMSG = [
    ([b"spam"], b"spam"),
    ([b"spam", bytearray(b" and "), memoryview(b"eggs")], b"spam and eggs"),
    ([b"", b"spam", b"", b"eggs", b""], b"spameggs"),
    ([array.array("i", b"spam"), b"eggs"], b"spameggs"),
]


@pytest.mark.parametrize(("buffers", "expected"), SENDMSG, ids=range(len(SENDMSG)))
def test_sendmsg(pipe: Pipe, buffers: Any, expected: bytes) -> None:
    """asyncio's transports send this way since Python 3.12."""
    pipe.needs(Feature.SENDMSG)
    assert pipe.near.sendmsg(buffers) == len(expected)
    assert read_exactly(pipe.far, len(expected)) == expected
    assert pipe.near.sendmsg(iter(buffers)) == len(expected)
    assert read_exactly(pipe.far, len(expected)) == expected


def test_sendmsg_of_nothing(pipe: Pipe) -> None:
    pipe.needs(Feature.SENDMSG)
    assert pipe.near.sendmsg([]) == 0
    assert pipe.near.sendmsg([b""]) == 0
    pipe.near.sendall(b"something")
    assert pipe.far.recv(1024) == b"something"


@pytest.mark.parametrize("buffers", [None, b"spam", ["spam"], [b"spam", 5]], ids=repr)
def test_sendmsg_of_what_is_not_buffers(pipe: Pipe, buffers: Any) -> None:
    pipe.needs(Feature.SENDMSG)
    with pytest.raises(TypeError):
        pipe.near.sendmsg(buffers)
    pipe.near.sendall(b"bytes")
    assert pipe.far.recv(1024) == b"bytes"


def test_sendmsg_reports_how_much_went(pipe: Pipe, crew: Crew) -> None:
    pipe.needs(Feature.SENDMSG)
    data = random.Random(16).randbytes(1024 * 1024)
    reading = crew.start(read_exactly, pipe.far, len(data))
    view = memoryview(data)
    while view:
        middle = len(view) // 2
        count = pipe.near.sendmsg([view[:middle], view[middle:]])
        assert 0 < count <= len(view)
        view = view[count:]
    assert reading.result() == data


def test_question_and_answer(pipe: Pipe, crew: Crew) -> None:
    def answer() -> None:
        for number in range(200):
            assert read_exactly(pipe.far, 4) == number.to_bytes(4, "big")
            pipe.far.sendall((number + 1).to_bytes(4, "big"))

    answering = crew.start(answer)
    for number in range(200):
        pipe.near.sendall(number.to_bytes(4, "big"))
        assert read_exactly(pipe.near, 4) == (number + 1).to_bytes(4, "big")
    answering.result()
