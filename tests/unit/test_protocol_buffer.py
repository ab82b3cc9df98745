"""A stream's buffer of received bytes, against a ``bytearray`` that does the same."""

from __future__ import annotations

import gc
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muxado.protocol import ReceiveBuffer
from tests.helpers.pure import End, data

WINDOW = 262144


def cost(buffer: ReceiveBuffer) -> int:
    """Bytes of memory that the buffer takes: itself, its list, the pieces in that."""
    total, todo = 0, [buffer]
    while todo:
        each = todo.pop()
        total += sys.getsizeof(each)
        if each is buffer or isinstance(each, list):
            todo += [other for other in gc.get_referents(each) if not isinstance(other, type)]
    return total


# Sizes on both sides of where small pieces are joined, and the small ones that are.
sizes = st.integers(0, 40) | st.sampled_from([4095, 4096, 4097, 9000])
counts = st.integers(0, 60) | st.sampled_from([4095, 4096, 4097, 20_000])
steps = st.lists(
    st.tuples(st.just("push"), sizes)
    | st.tuples(st.sampled_from(["take", "read_into", "peek"]), counts)
    | st.tuples(st.just("clear"), st.just(0)),
    max_size=60,
)


@settings(deadline=None, max_examples=150)
@given(steps)
def test_like_a_bytearray(todo: list[tuple[str, int]]) -> None:
    buffer, model = ReceiveBuffer(), bytearray()
    pushed = 0
    for what, count in todo:
        if what == "push":
            piece = bytearray((pushed + i) % 251 for i in range(count))
            pushed += count
            with memoryview(piece) as view:
                buffer.push(view)
            model += piece
            piece[:] = bytes(count)  # the read buffer is used again: nothing may still look at it
        elif what == "peek":
            peeked = buffer.peek(count)
            assert type(peeked) is bytes
            assert peeked == model[:count]
        elif what == "take":
            taken = buffer.take(count)
            assert type(taken) is bytes
            assert taken == model[:count]
            del model[:count]
        elif what == "read_into":
            into = bytearray(b"\xff" * (count + 3))
            done = buffer.read_into(memoryview(into)[:count])
            assert done == min(count, len(model))
            assert into == model[:done] + b"\xff" * (count + 3 - done)
            del model[:done]
        else:
            buffer.clear()
            model.clear()
        assert buffer.size == len(model)
        assert buffer.peek(len(model) + 1) == model


def test_a_piece_that_is_read_whole_is_not_copied_again() -> None:
    """Copied once, out of the memory that the connection is read into."""
    buffer = ReceiveBuffer()
    buffer.push(memoryview(bytes(100_000)))
    buffer.push(memoryview(bytes(5_000)))
    kept = buffer.peek(100_000)
    assert buffer.take(100_000) is kept
    kept = buffer.peek(5_000)
    assert buffer.take(9_999) is kept


def test_an_empty_buffer_is_small() -> None:
    """Thousands of streams are idle: one that is empty, or empty again, holds no list."""
    buffer = ReceiveBuffer()
    fresh = cost(buffer)
    assert fresh <= 150
    for read in (buffer.take, lambda count: buffer.read_into(memoryview(bytearray(count)))):
        buffer.push(memoryview(bytes(5000)))
        buffer.push(memoryview(bytes(5000)))
        assert cost(buffer) > 10_000
        read(10_000)
        assert cost(buffer) == fresh


@pytest.mark.parametrize(
    "sizes",
    [[1], [2], [3], [100], [4095], [4096], [1, 4096], [4095, 1], [2, 5000, 2], [1] * 9 + [4095]],
    ids=str,
)
def test_small_pieces_are_joined(sizes: list[int]) -> None:
    """A window full of pieces costs little more than its bytes, however small they are."""
    buffer = ReceiveBuffer()
    pieces = [memoryview(bytes(size)) for size in sizes]
    while buffer.size + sum(sizes) <= WINDOW:
        for piece in pieces:
            buffer.push(piece)
    assert cost(buffer) <= 3 * buffer.size


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_flood_of_tiny_frames_costs_no_more_than_its_window(size: int) -> None:
    end = End()
    stream = end.accepted()
    piece = data(3, b"abc"[:size] if size < 4 else bytes(size))
    count = WINDOW // size
    batch = piece * 1000
    for _ in range(count // 1000):
        end.feed(batch)
    assert stream.buffer.size == count // 1000 * 1000 * size
    assert cost(stream.buffer) <= 3 * stream.buffer.size


@pytest.mark.parametrize("unread", [1, 100, 5000])
def test_a_reader_that_keeps_a_little_unread(unread: int) -> None:
    """The memory of what was read is given back, also when the buffer is never quite empty."""
    buffer = ReceiveBuffer()
    piece = memoryview(b"ab")
    worst = 0
    for number in range(20_000):
        buffer.push(piece)
        if buffer.size > unread + 2:
            buffer.take(buffer.size - unread)
        if number % 100 == 0:
            worst = max(worst, cost(buffer))
    assert worst <= 3 * unread + 16_384


def test_pieces_are_joined_behind_one_that_is_read_in_part() -> None:
    buffer = ReceiveBuffer()
    buffer.push(memoryview(b"0123456789"))
    assert buffer.take(4) == b"0123"
    buffer.push(memoryview(b"abc"))
    assert buffer.peek(99) == b"456789abc"
    assert buffer.take(8) == b"456789ab"
    buffer.push(memoryview(b"!"))
    assert buffer.take(99) == b"c!"
    assert buffer.size == 0
