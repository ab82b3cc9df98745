"""Signals that arrive while a call waits in the main thread."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .pipes import Crew, Feature, Pipe, fill, read_exactly

NUMBER = signal.SIGUSR1


class Interrupted(Exception):
    """Raised by a handler, as KeyboardInterrupt is."""


@pytest.fixture
def handle() -> Iterator[Callable[[Callable[[], None]], None]]:
    """A function that sets what the signal does."""

    def handle(action: Callable[[], None]) -> None:
        signal.signal(NUMBER, lambda *_: action())

    before = signal.getsignal(NUMBER)
    yield handle
    signal.signal(NUMBER, before)


def interrupt() -> None:
    raise Interrupted


def strike() -> None:
    """Send the signal to the main thread, from another one.

    Whether it arrives before the call under test has begun to wait or after makes no difference
    to what has to happen.
    """
    signal.pthread_kill(threading.main_thread().ident or 0, NUMBER)


@pytest.mark.parametrize("timeout", [None, 20.0])
@pytest.mark.parametrize("call", ["recv", "recv_into", "readline"])
def test_an_exception_ends_reading(
    pipe: Pipe, crew: Crew, handle: Any, call: str, timeout: float | None
) -> None:
    pipe.near.settimeout(timeout)
    handle(interrupt)
    with pipe.near.makefile("rb") as file:
        calls: dict[str, Callable[[], Any]] = {
            "recv": lambda: pipe.near.recv(4),
            "recv_into": lambda: pipe.near.recv_into(bytearray(4)),
            "readline": file.readline,
        }
        with pytest.raises(Interrupted):
            crew.start(strike)
            calls[call]()
            pytest.fail("it returned")
    # Nothing is lost by it.
    pipe.far.sendall(b"spam")
    assert read_exactly(pipe.near, 4) == b"spam"
    pipe.near.sendall(b"eggs")
    assert read_exactly(pipe.far, 4) == b"eggs"


@pytest.mark.parametrize("timeout", [None, 20.0])
def test_an_exception_ends_sendall(
    pipe: Pipe, crew: Crew, handle: Any, timeout: float | None
) -> None:
    pipe.needs(Feature.POLL)
    total = fill(pipe.near)
    pipe.near.settimeout(timeout)
    handle(interrupt)
    with pytest.raises(Interrupted):
        crew.start(strike)
        pipe.near.sendall(b"spam")
        pytest.fail("it returned")
    # What had no room was not sent, and what is sent next comes next.
    assert len(read_exactly(pipe.far, total)) == total
    pipe.near.sendall(b"eggs")
    assert read_exactly(pipe.far, 4) == b"eggs"


@pytest.mark.parametrize("timeout", [None, 20.0])
def test_a_handler_that_returns_does_not_end_recv(
    pipe: Pipe, crew: Crew, handle: Any, timeout: float | None
) -> None:
    handled: list[int] = []
    pipe.near.settimeout(timeout)
    handle(lambda: handled.append(1))

    def strike_and_send() -> None:
        strike()
        pipe.far.sendall(b"spam")

    crew.start(strike_and_send)
    assert pipe.near.recv(1024) == b"spam"
    assert handled == [1]


def test_a_handler_that_returns_does_not_end_sendall(pipe: Pipe, crew: Crew, handle: Any) -> None:
    pipe.needs(Feature.POLL)
    handled: list[int] = []
    total = fill(pipe.near)
    pipe.near.setblocking(True)
    handle(lambda: handled.append(1))

    def strike_and_read() -> int:
        strike()
        return len(read_exactly(pipe.far, total + 4))

    reading = crew.start(strike_and_read)
    pipe.near.sendall(b"spam")
    assert reading.result() == total + 4
    assert handled == [1]
