"""recv, recv_into, recvfrom and recvfrom_into without flags."""

from __future__ import annotations

import array
import ctypes
from collections.abc import Callable
from typing import Any

import pytest

from .pipes import Crew, Feature, Pipe, read_exactly


class Index:
    """Something that may stand for an integer, as numpy's integers do."""

    def __index__(self) -> int:
        return 3


def test_returns_what_was_sent(pipe: Pipe) -> None:
    pipe.near.sendall(b"spam and eggs")
    got = pipe.far.recv(1024)
    assert got == b"spam and eggs"
    assert type(got) is bytes


def test_both_directions(pipe: Pipe) -> None:
    pipe.near.sendall(b"there")
    pipe.far.sendall(b"and back")
    assert pipe.near.recv(1024) == b"and back"
    assert pipe.far.recv(1024) == b"there"


def test_returns_what_there_is_and_keeps_the_rest(pipe: Pipe) -> None:
    pipe.near.sendall(b"spam and eggs")
    assert pipe.far.recv(4) == b"spam"
    assert pipe.far.recv(1) == b" "
    assert pipe.far.recv(1024) == b"and eggs"


def test_many_small_reads(pipe: Pipe) -> None:
    sent = bytes(range(256)) * 4
    pipe.near.sendall(sent)
    assert b"".join(pipe.far.recv(1) for _ in sent) == sent


def test_size_zero_neither_waits_nor_takes_anything(pipe: Pipe) -> None:
    assert pipe.far.recv(0) == b""
    pipe.near.sendall(b"spam")
    assert pipe.far.recv(0) == b""
    assert pipe.far.recv(1024) == b"spam"


def test_negative_size(pipe: Pipe) -> None:
    pipe.near.sendall(b"spam")
    with pytest.raises(ValueError, match="negative"):
        pipe.far.recv(-1)
    assert pipe.far.recv(1024) == b"spam"


@pytest.mark.parametrize("size", ["3", 3.0, b"3", None], ids=repr)
def test_size_of_a_wrong_type(pipe: Pipe, size: Any) -> None:
    pipe.near.sendall(b"spam")
    with pytest.raises(TypeError):
        pipe.far.recv(size)
    assert pipe.far.recv(1024) == b"spam"


def test_size_is_required(pipe: Pipe) -> None:
    pipe.needs(Feature.STRICT_ARGUMENTS)
    with pytest.raises(TypeError):
        pipe.far.recv()  # type: ignore[call-arg]


def test_size_may_be_anything_with_an_index(pipe: Pipe) -> None:
    pipe.near.sendall(b"spam")
    assert pipe.far.recv(Index()) == b"spa"  # type: ignore[arg-type]


BUFFERS: dict[str, Callable[[], Any]] = {
    "bytearray": lambda: bytearray(8),
    "memoryview": lambda: memoryview(bytearray(8)),
    "slice": lambda: memoryview(bytearray(32))[8:16],
    "array of bytes": lambda: array.array("B", bytes(8)),
    "array of int32": lambda: array.array("i", bytes(8)),
    "two dimensions": lambda: memoryview(bytearray(8)).cast("B", (2, 4)),
    "ctypes": ctypes.c_char * 8,
}


@pytest.mark.parametrize("make", BUFFERS.values(), ids=BUFFERS.keys())
def test_recv_into_any_writable_buffer(pipe: Pipe, make: Callable[[], Any]) -> None:
    buffer = make()
    view = memoryview(buffer)
    if len(view) != view.nbytes:
        pipe.needs(Feature.SIZE_IN_BYTES)
    pipe.near.sendall(b"spam and eggs")
    assert pipe.far.recv_into(buffer) == 8
    assert view.tobytes() == b"spam and"
    assert pipe.far.recv(1024) == b" eggs"


def test_recv_into_leaves_the_rest_of_the_buffer_alone(pipe: Pipe) -> None:
    pipe.near.sendall(b"spam")
    buffer = bytearray(b"." * 8)
    assert pipe.far.recv_into(buffer) == 4
    assert buffer == b"spam...."


def test_recv_into_releases_the_buffer(pipe: Pipe) -> None:
    pipe.near.sendall(b"spam")
    buffer = bytearray(8)
    pipe.far.recv_into(buffer)
    buffer.clear()  # BufferError while anybody still holds it
    assert buffer == b""


def test_recv_into_nbytes(pipe: Pipe) -> None:
    pipe.near.sendall(b"spam and eggs")
    buffer = bytearray(b"." * 8)
    assert pipe.far.recv_into(buffer, 4) == 4
    assert buffer == b"spam...."
    assert pipe.far.recv(1024) == b" and eggs"


def test_recv_into_nbytes_zero_is_the_whole_buffer(pipe: Pipe) -> None:
    pipe.near.sendall(b"spam and eggs")
    buffer = bytearray(8)
    assert pipe.far.recv_into(buffer, 0) == 8
    assert buffer == b"spam and"


@pytest.mark.parametrize("nbytes", [9, -1])
def test_recv_into_nbytes_that_does_not_fit(pipe: Pipe, nbytes: int) -> None:
    pipe.needs(Feature.STRICT_ARGUMENTS)
    pipe.near.sendall(b"spam")
    with pytest.raises(ValueError, match=r"buffer|negative"):
        pipe.far.recv_into(bytearray(8), nbytes)
    assert pipe.far.recv(1024) == b"spam"


def test_recv_into_an_empty_buffer_neither_waits_nor_takes_anything(pipe: Pipe) -> None:
    assert pipe.far.recv_into(bytearray()) == 0
    pipe.near.sendall(b"spam")
    assert pipe.far.recv_into(bytearray(), 0) == 0
    assert pipe.far.recv(1024) == b"spam"


@pytest.mark.parametrize(
    "buffer",
    [b"12345678", memoryview(b"12345678"), "12345678", 8],
    ids=["bytes", "memoryview", "str", "int"],
)
def test_recv_into_what_cannot_be_written(pipe: Pipe, buffer: Any) -> None:
    pipe.near.sendall(b"spam")
    with pytest.raises(TypeError):
        pipe.far.recv_into(buffer, 4)
    assert pipe.far.recv(1024) == b"spam"


def test_recv_into_nothing(pipe: Pipe) -> None:
    pipe.needs(Feature.STRICT_ARGUMENTS)
    nothing: Any = None
    with pytest.raises(TypeError):
        pipe.far.recv_into(nothing, 4)


def test_recv_into_a_buffer_with_gaps(pipe: Pipe) -> None:
    pipe.near.sendall(b"spam")
    with pytest.raises((TypeError, BufferError)):
        pipe.far.recv_into(memoryview(bytearray(16))[::2])
    assert pipe.far.recv(1024) == b"spam"


def test_recv_into_keywords(pipe: Pipe) -> None:
    pipe.near.sendall(b"spam")
    buffer = bytearray(8)
    assert pipe.far.recv_into(buffer, nbytes=2, flags=0) == 2
    assert pipe.far.recv(1024) == b"am"


def test_recvfrom(pipe: Pipe) -> None:
    pipe.needs(Feature.RECVFROM)
    pipe.near.sendall(b"spam and eggs")
    got, _ = pipe.far.recvfrom(4)
    assert got == b"spam"
    got, _ = pipe.far.recvfrom(1024)
    assert got == b" and eggs"


def test_recvfrom_negative_size(pipe: Pipe) -> None:
    pipe.needs(Feature.RECVFROM)
    with pytest.raises(ValueError, match="negative"):
        pipe.far.recvfrom(-1)


def test_recvfrom_into(pipe: Pipe) -> None:
    pipe.needs(Feature.RECVFROM)
    pipe.near.sendall(b"spam and eggs")
    buffer = bytearray(b"." * 8)
    count, _ = pipe.far.recvfrom_into(buffer, 4)
    assert (count, bytes(buffer)) == (4, b"spam....")
    count, _ = pipe.far.recvfrom_into(buffer)
    assert (count, bytes(buffer)) == (8, b" and egg")


@pytest.mark.parametrize("nbytes", [9, -1])
def test_recvfrom_into_nbytes_that_does_not_fit(pipe: Pipe, nbytes: int) -> None:
    pipe.needs(Feature.RECVFROM)
    with pytest.raises(ValueError, match=r"nbytes|negative"):
        pipe.far.recvfrom_into(bytearray(8), nbytes)


def test_recv_waits_for_bytes_still_to_come(pipe: Pipe, crew: Crew) -> None:
    waiting = crew.start(read_exactly, pipe.far, 8)
    pipe.near.sendall(b"spam")
    pipe.near.sendall(b"eggs")
    assert waiting.result() == b"spameggs"
