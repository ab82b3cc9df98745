"""fileno() polls readable exactly while recv would not wait."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable

import pytest

from ..helpers.crew import GUARD
from .pipes import Crew, Feature, Pipe, read_exactly
from .pollers import POLLERS, Poller, quiet, readable


@pytest.fixture(params=POLLERS)
def poller(request: pytest.FixtureRequest, pipe: Pipe) -> Poller:
    pipe.needs(Feature.POLL)
    return POLLERS[request.param]


def test_quiet_until_there_is_something(pipe: Pipe, poller: Poller) -> None:
    assert quiet(poller, pipe.far, pipe.near)
    pipe.near.sendall(b"spam")
    assert readable(poller, pipe.far) == [pipe.far]
    assert pipe.far.recv(1024) == b"spam"


def test_stays_readable_until_drained(pipe: Pipe, poller: Poller) -> None:
    pipe.near.sendall(b"spam")
    for left in (3, 2, 1):
        assert readable(poller, pipe.far) == [pipe.far]
        pipe.far.recv(1)
        # Asked again without reading, it says the same.
        for _ in range(2):
            assert readable(poller, pipe.far) == [pipe.far]
        assert pipe.far.recv(1024, socket.MSG_PEEK) == b"spam"[-left:]
    pipe.far.recv(1)
    assert quiet(poller, pipe.far)


def test_again_and_again(pipe: Pipe, poller: Poller) -> None:
    pipe.far.setblocking(False)
    for number in range(100):
        pipe.near.sendall(bytes([number]))
        assert readable(poller, pipe.far) == [pipe.far]
        assert pipe.far.recv(1024) == bytes([number])
        with pytest.raises(BlockingIOError):
            pipe.far.recv(1)
    assert quiet(poller, pipe.far)


def test_what_came_before_the_first_question(pipe: Pipe, poller: Poller) -> None:
    """The descriptor may be asked for only when bytes, and even the end, are there already."""
    pipe.near.sendall(b"spam and eggs")
    pipe.near.shutdown(socket.SHUT_WR)
    assert pipe.far.recv(4) == b"spam"
    assert readable(poller, pipe.far) == [pipe.far]
    assert read_exactly(pipe.far, 100) == b" and eggs"
    assert readable(poller, pipe.far) == [pipe.far]


def test_readable_at_the_end(pipe: Pipe, poller: Poller) -> None:
    assert quiet(poller, pipe.far)
    pipe.near.shutdown(socket.SHUT_WR)
    for _ in range(3):
        assert readable(poller, pipe.far) == [pipe.far]
        assert pipe.far.recv(1024) == b""


def test_readable_when_the_peer_has_closed(pipe: Pipe, poller: Poller) -> None:
    assert quiet(poller, pipe.far)
    pipe.near.sendall(b"spam")
    pipe.near.close()
    assert readable(poller, pipe.far) == [pipe.far]
    assert read_exactly(pipe.far, 100) == b"spam"
    assert readable(poller, pipe.far) == [pipe.far]
    assert pipe.far.recv(1) == b""


def test_readable_after_shut_rd(pipe: Pipe, poller: Poller) -> None:
    assert quiet(poller, pipe.far)
    pipe.far.shutdown(socket.SHUT_RD)
    assert readable(poller, pipe.far) == [pipe.far]
    assert pipe.far.recv(1) == b""


def test_a_peek_does_not_drain(pipe: Pipe, poller: Poller) -> None:
    pipe.near.sendall(b"spam")
    assert readable(poller, pipe.far) == [pipe.far]
    assert pipe.far.recv(1, socket.MSG_PEEK) == b"s"
    assert readable(poller, pipe.far) == [pipe.far]


def test_recv_into_drains(pipe: Pipe, poller: Poller) -> None:
    pipe.near.sendall(b"spam")
    assert readable(poller, pipe.far) == [pipe.far]
    assert pipe.far.recv_into(bytearray(100)) == 4
    assert quiet(poller, pipe.far)


def test_several_at_once(pipes: Callable[[], Pipe], pipe: Pipe, poller: Poller) -> None:
    others = [pipe, *(pipes() for _ in range(4))]
    ends = [other.far for other in others]
    assert quiet(poller, *ends)
    for other in (others[1], others[3]):
        other.near.sendall(b"spam")
        # One by one: bytes of different connections do not arrive in order.
        assert readable(poller, other.far) == [other.far]
    assert readable(poller, *ends) == [ends[1], ends[3]]
    assert ends[1].recv(1024) == b"spam"
    assert readable(poller, *ends) == [ends[3]]
    assert ends[3].recv(1024) == b"spam"
    assert quiet(poller, *ends)


def test_every_one_of_many(pipes: Callable[[], Pipe], pipe: Pipe, poller: Poller) -> None:
    others = [pipe, *(pipes() for _ in range(9))]
    for number, other in enumerate(others):
        other.near.sendall(bytes([number]))
    waiting = {other.far: bytes([number]) for number, other in enumerate(others)}
    while waiting:
        for end in readable(poller, *waiting):
            assert end.recv(1024) == waiting.pop(end)
    assert quiet(poller, *(other.far for other in others))


@pytest.mark.parametrize("event", ["bytes", "end"])
def test_wakes_a_poller_in_another_thread(
    pipe: Pipe, poller: Poller, crew: Crew, event: str
) -> None:
    waiting = crew.start(readable, poller, pipe.far)
    if event == "bytes":
        pipe.near.sendall(b"spam")
    else:
        pipe.near.shutdown(socket.SHUT_WR)
    assert waiting.result() == [pipe.far]
    assert pipe.far.recv(1024) == (b"spam" if event == "bytes" else b"")


def test_a_poller_beside_blocking_calls(
    pipes: Callable[[], Pipe], pipe: Pipe, poller: Poller, crew: Crew
) -> None:
    """A thread that waits in recv must not keep what it reads for others from a poller."""
    other = pipes()
    reading = crew.start(other.far.recv, 4)
    polling = crew.start(readable, poller, pipe.far)
    pipe.near.sendall(b"spam")
    assert polling.result() == [pipe.far]
    other.near.sendall(b"eggs")
    assert reading.result() == b"eggs"
    assert pipe.far.recv(1024) == b"spam"


def test_a_selector_that_lives_long(pipe: Pipe) -> None:
    """Registered once, asked often, and gone when unregistered: what an event loop does."""
    pipe.needs(Feature.POLL)
    with selectors.DefaultSelector() as selector:
        selector.register(pipe.far, selectors.EVENT_READ, data="mine")
        for number in range(50):
            assert selector.select(0) == []
            pipe.near.sendall(bytes([number]) * 10)
            [(key, events)] = selector.select(GUARD)
            assert (key.data, events) == ("mine", selectors.EVENT_READ)
            assert pipe.far.recv(1024) == bytes([number]) * 10
        selector.unregister(pipe.far)


def test_the_descriptor_stays_the_same(pipe: Pipe) -> None:
    pipe.needs(Feature.POLL)
    descriptor = pipe.far.fileno()
    pipe.near.sendall(b"spam")
    assert pipe.far.recv(1024) == b"spam"
    assert pipe.far.fileno() == descriptor
    pipe.near.close()
    assert pipe.far.recv(1024) == b""
    assert pipe.far.fileno() == descriptor
