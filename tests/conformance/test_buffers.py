"""A call that fails lets go of the caller's buffer, whoever keeps its exception.

Kept exceptions keep the frames that they have passed, and so the views of the buffer made there.
"""

from __future__ import annotations

import array
import ctypes
import socket
from collections.abc import Callable
from typing import Any

import pytest

from .pipes import SHORT, Feature, Pipe, fill

Call = Callable[[Pipe, bytearray], object]

#: Calls that fail at once, whatever the pipe.
MISTAKES: dict[str, Call] = {
    "recv_into: negative": lambda pipe, buffer: pipe.near.recv_into(buffer, -1),
    "recv_into: too many": lambda pipe, buffer: pipe.near.recv_into(buffer, 100),
    "recv_into: no number": lambda pipe, buffer: pipe.near.recv_into(buffer, "x"),  # type: ignore[arg-type]
    "recv_into: strided": lambda pipe, buffer: strided(buffer, pipe.near.recv_into),
    "send: strided": lambda pipe, buffer: strided(buffer, pipe.near.send),
    "sendall: strided": lambda pipe, buffer: strided(buffer, pipe.near.sendall),
}
WAITS: dict[str, Call] = {
    "recv_into": lambda pipe, buffer: pipe.near.recv_into(buffer),
    "recv_into, some": lambda pipe, buffer: pipe.near.recv_into(buffer, 3),
    "recv_into, words": lambda pipe, buffer: words(buffer, pipe.near.recv_into),
    "recv_into, flags": lambda pipe, buffer: pipe.near.recv_into(buffer, 0, socket.MSG_PEEK),
    "send": lambda pipe, buffer: pipe.near.send(buffer),
    "sendall": lambda pipe, buffer: pipe.near.sendall(buffer),
    "sendall, words": lambda pipe, buffer: words(buffer, pipe.near.sendall),
}


def strided(buffer: bytearray, call: Callable[[memoryview], object]) -> None:
    with memoryview(buffer) as view, view[::2] as half:
        call(half)


def words(buffer: bytearray, call: Callable[[memoryview], object]) -> None:
    with memoryview(buffer) as view, view.cast("I") as wide:
        call(wide)


def fails(call: Call, pipe: Pipe, size: int = 8) -> BaseException:
    """Call it with a buffer; its exception, which is kept while the buffer changes its size."""
    buffer = bytearray(size)
    with pytest.raises((TypeError, ValueError, OSError, BufferError)) as caught:
        call(pipe, buffer)
    buffer.extend(b"more")  # BufferError while anybody still holds it
    return caught.value


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake(pipe: Pipe, name: str) -> None:
    pipe.needs(Feature.STRICT_ARGUMENTS)
    error = fails(MISTAKES[name], pipe)
    if name.startswith("send"):
        assert isinstance(error, BufferError)
    else:
        assert isinstance(error, (TypeError, ValueError))


@pytest.mark.parametrize("timeout", [0.0, SHORT])
@pytest.mark.parametrize("name", WAITS)
def test_a_wait_that_is_over(pipe: Pipe, name: str, timeout: float) -> None:
    if name.startswith("send"):
        pipe.needs(Feature.PLAIN_ERRORS)
        fill(pipe.near)
    pipe.near.settimeout(timeout)
    fails(WAITS[name], pipe, 2**20)


@pytest.mark.parametrize("name", WAITS)
def test_a_pipe_that_is_closed(pipe: Pipe, name: str) -> None:
    pipe.near.close()
    fails(WAITS[name], pipe)


@pytest.mark.parametrize("call", ["send", "sendall", "recv_into"])
def test_an_empty_array_of_several_dimensions(pipe: Pipe, call: str) -> None:
    """Nothing is sent, or received; and a full one is so many bytes."""
    pipe.needs(Feature.SIZE_IN_BYTES)
    empty: Any = ((ctypes.c_char * 0) * 3)()
    assert not getattr(pipe.near, call)(empty)
    if call == "recv_into":
        pipe.far.sendall(b"abcdefgh")
    full = memoryview(bytearray(8)).cast("B", (2, 4))
    assert getattr(pipe.near, call)(full) in (8, None)
    if call == "recv_into":
        assert full.tobytes() == b"abcdefgh"
    else:
        assert pipe.far.recv(8, socket.MSG_PEEK)[:1] == b"\0"
    assert getattr(pipe.near, call)(array.array("I")) in (0, None)
