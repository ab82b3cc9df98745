"""A stream's buffer of received bytes, against a ``bytearray`` that does the same."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muxado.protocol import StreamState
from tests.helpers.pure import End, data

WINDOW = 262144


def stream() -> StreamState:
    return StreamState(3, local=False, window=WINDOW, priority=0, stream_type=0)


def cost(state: StreamState) -> int:
    """Bytes of memory that the buffer takes."""
    return sys.getsizeof(state.chunks) + sum(sys.getsizeof(chunk) for chunk in state.chunks)


# Sizes on both sides of where small pieces are joined, and the small ones that are.
sizes = st.integers(1, 40) | st.sampled_from([4095, 4096, 4097, 9000])
counts = st.integers(0, 60) | st.sampled_from([4095, 4096, 4097, 20_000])
steps = st.lists(
    st.tuples(st.just("push"), sizes)
    | st.tuples(st.sampled_from(["take", "copy_into", "peek", "drop"]), counts),
    max_size=60,
)


@settings(deadline=None, max_examples=120)
@given(steps)
def test_like_a_bytearray(todo: list[tuple[str, int]]) -> None:
    state, model = stream(), bytearray()
    pushed = 0
    for what, count in todo:
        if what == "push":
            piece = bytearray((pushed + i) % 251 for i in range(count))
            pushed += count
            with memoryview(piece) as view:
                state.push(view)
            model += piece
            piece[:] = bytes(count)  # the read buffer is used again: nothing may still look at it
        elif what == "peek":
            assert state.peek(count) == model[:count]
        elif what == "drop":
            gone = min(count, len(model))
            state.drop(gone)
            del model[:gone]
        elif what == "take" and model:  # an empty buffer is the caller's to wait on
            taken = state.take(count)
            assert type(taken) is bytes
            assert taken == model[: len(taken)]
            assert len(taken) == min(count, len(model))
            del model[: len(taken)]
        elif what == "copy_into":
            into = bytearray(b"\xff" * (count + 3))
            done = state.copy_into(memoryview(into)[:count])
            assert done == min(count, len(model))
            assert into == model[:done] + b"\xff" * (count + 3 - done)
        assert state.buffered == len(model)
        assert sum(map(len, state.chunks)) - state.skip == len(model)
        assert 0 <= state.skip < max(1, *map(len, state.chunks), 1)
    assert state.peek(len(model) + 1) == model
    state.clear()
    assert (state.buffered, state.skip, state.peek(9), state.chunks) == (0, 0, b"", [])


def test_a_large_piece_is_handed_out_as_it_is() -> None:
    """Copied once, out of the read buffer, and not again when all of it is read."""
    state = stream()
    state.push(memoryview(bytes(100_000)))
    kept = state.chunks[0]
    assert state.take(100_000) is kept


@pytest.mark.parametrize(
    "sizes",
    [[1], [2], [3], [100], [4095], [4096], [1, 4096], [4095, 1], [2, 5000, 2], [1] * 9 + [4095]],
    ids=str,
)
def test_small_pieces_are_joined(sizes: list[int]) -> None:
    """A window full of pieces costs little more than its bytes, however small they are."""
    state = stream()
    pieces = [memoryview(bytes(size)) for size in sizes]
    while state.buffered + sum(sizes) <= WINDOW:
        for piece in pieces:
            state.push(piece)
    assert cost(state) <= 3 * state.buffered


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_flood_of_tiny_frames_costs_no_more_than_its_window(size: int) -> None:
    end = End()
    stream = end.accepted()
    piece = data(3, b"abc"[:size] if size < 4 else bytes(size))
    count = WINDOW // size
    batch = piece * 1000
    for _ in range(count // 1000):
        end.feed(batch)
    assert stream.buffered == count // 1000 * 1000 * size
    assert cost(stream) <= 3 * stream.buffered


@pytest.mark.parametrize("unread", [1, 100, 5000])
def test_a_reader_that_keeps_a_little_unread(unread: int) -> None:
    """What was read is given back, also when the buffer is never quite empty."""
    state = stream()
    piece = memoryview(b"ab")
    worst = 0
    for _ in range(20_000):
        state.push(piece)
        if state.buffered > unread + 2:
            state.take(state.buffered - unread)
        worst = max(worst, len(state.chunks))
    assert cost(state) <= 3 * unread + 16_384
    assert worst <= 8


def test_pieces_are_joined_behind_one_that_is_read_in_part() -> None:
    state = stream()
    state.push(memoryview(b"0123456789"))
    assert state.take(4) == b"0123"
    state.push(memoryview(b"abc"))
    assert state.peek(99) == b"456789abc"
    assert state.take(8) == b"456789ab"
    state.push(memoryview(b"!"))
    assert state.take(99) == b"c!"
    assert state.buffered == 0
