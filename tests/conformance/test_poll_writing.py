"""fileno() polls writable while send would not wait."""

from __future__ import annotations

import selectors
from collections.abc import Callable

import pytest

from ..helpers.crew import GUARD
from .pipes import Crew, Feature, Pipe, fill, read_exactly
from .pollers import POLLERS, Poller, full, quiet, readable, writable


@pytest.fixture(params=["poll", "selector"])  # fill() uses select()
def poller(request: pytest.FixtureRequest, pipe: Pipe) -> Poller:
    pipe.needs(Feature.POLL)
    return POLLERS[request.param]


def test_writable_at_first(pipe: Pipe, poller: Poller) -> None:
    assert writable(poller, pipe.near, pipe.far) == [pipe.near, pipe.far]


def test_writable_while_there_is_room(pipe: Pipe, poller: Poller) -> None:
    for _ in range(10):
        pipe.near.sendall(b"spam")
        assert writable(poller, pipe.near) == [pipe.near]


def test_not_writable_when_full(pipe: Pipe, poller: Poller) -> None:
    fill(pipe.near)
    assert full(poller, pipe.near)
    with pytest.raises(BlockingIOError):
        pipe.near.send(b"x")
    # The other direction has nothing to do with it.
    assert writable(poller, pipe.far) == [pipe.far]


def test_writable_again_when_read(pipe: Pipe, poller: Poller) -> None:
    total = fill(pipe.near)
    assert len(read_exactly(pipe.far, total)) == total
    assert writable(poller, pipe.near) == [pipe.near]
    assert pipe.near.send(b"spam") == 4
    assert read_exactly(pipe.far, 4) == b"spam"


def test_full_and_readable(pipe: Pipe, poller: Poller) -> None:
    """Bytes that come in are told although none can go out."""
    fill(pipe.near)
    assert quiet(poller, pipe.near)
    pipe.far.sendall(b"spam")
    assert readable(poller, pipe.near) == [pipe.near]
    assert pipe.near.recv(1024) == b"spam"
    assert quiet(poller, pipe.near)
    assert full(poller, pipe.near)


def test_wakes_a_poller_in_another_thread(pipe: Pipe, poller: Poller, crew: Crew) -> None:
    total = fill(pipe.near)
    waiting = crew.start(writable, poller, pipe.near)
    assert len(read_exactly(pipe.far, total)) == total
    assert waiting.result() == [pipe.near]
    assert pipe.near.send(b"spam") == 4


def test_one_full_pipe_among_several(pipes: Callable[[], Pipe], pipe: Pipe, poller: Poller) -> None:
    others = [pipes() for _ in range(3)]
    fill(pipe.near)
    ends = [other.near for other in others]
    assert writable(poller, pipe.near, *ends) == ends
    for other in others:
        other.near.sendall(b"spam")
        assert other.far.recv(1024) == b"spam"


def test_both_events_at_once(pipe: Pipe) -> None:
    pipe.needs(Feature.POLL)
    both = selectors.EVENT_READ | selectors.EVENT_WRITE
    with selectors.DefaultSelector() as selector:
        selector.register(pipe.near, both)
        assert [events for _, events in selector.select(GUARD)] == [selectors.EVENT_WRITE]
        pipe.far.sendall(b"spam")
        assert readable(POLLERS["select"], pipe.near)
        assert [events for _, events in selector.select(GUARD)] == [both]
        total = fill(pipe.near)
        assert [events for _, events in selector.select(GUARD)] == [selectors.EVENT_READ]
        assert pipe.near.recv(1024) == b"spam"
        assert selector.select(0) == []
        assert len(read_exactly(pipe.far, total)) == total
        assert [events for _, events in selector.select(GUARD)] == [selectors.EVENT_WRITE]


def test_an_event_loop_of_ones_own(pipe: Pipe, crew: Crew) -> None:
    """Both directions through one selector, no end ever waiting: two MiB there and back."""
    pipe.needs(Feature.POLL)
    data = bytes(range(256)) * 8192

    def echo() -> None:
        left = len(data)
        while left:
            piece = pipe.far.recv(50_000)
            left -= len(piece)
            pipe.far.sendall(piece)

    echoing = crew.start(echo)
    pipe.near.setblocking(False)
    unsent = memoryview(data)
    got = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(pipe.near, selectors.EVENT_READ | selectors.EVENT_WRITE)
        while len(got) < len(data):
            [(_, events)] = selector.select(GUARD)
            if events & selectors.EVENT_WRITE:
                unsent = unsent[pipe.near.send(unsent[:100_000]) :]
                if not unsent:
                    selector.modify(pipe.near, selectors.EVENT_READ)
            if events & selectors.EVENT_READ:
                got += pipe.near.recv(100_000)
    echoing.result()
    assert got == data
