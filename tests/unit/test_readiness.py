"""A descriptor that polls as two functions say."""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import muxado.readiness
from muxado.readiness import Readiness

from ..helpers.crew import Crew
from ..helpers.gates import Gate


class Source:
    """What a descriptor tells of, and what happens when it is asked."""

    def __init__(self) -> None:
        self.is_readable = False
        self.is_writable = True
        self.on_ask: list[Callable[[], object]] = []

    def readable(self) -> bool:
        result = self.is_readable
        if self.on_ask:
            self.on_ask.pop()()
        return result

    def writable(self) -> bool:
        return self.is_writable


class Fails:
    """In place of a socket: does what it is told, but an exception follows."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def send(self, data: bytes) -> int:
        self._sock.send(data)
        raise KeyboardInterrupt

    def recv(self, size: int) -> bytes:
        self._sock.recv(size)
        raise KeyboardInterrupt


def polled(readiness: Readiness) -> tuple[bool, bool]:
    """Whether it polls readable, and writable."""
    poller = select.poll()
    poller.register(readiness.fileno(), select.POLLIN | select.POLLOUT)
    events = dict(poller.poll(0)).get(readiness.fileno(), 0)
    return bool(events & select.POLLIN), bool(events & select.POLLOUT)


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def readiness(source: Source) -> Iterator[Readiness]:
    made = Readiness(source.readable, source.writable)
    yield made
    made.close()


def test_it_says_what_the_functions_say(source: Source, readiness: Readiness) -> None:
    for _ in range(2):
        for state in ((True, True), (True, False), (False, False), (False, True)):
            source.is_readable, source.is_writable = state
            for _ in range(2):
                readiness.sync()
                assert polled(readiness) == state


def test_a_change_while_the_functions_are_asked(
    source: Source, readiness: Readiness, crew: Crew
) -> None:
    """Whoever makes it comes second, and its descriptor is right when it goes on."""
    with Gate() as gate:
        source.on_ask.append(gate.stop)
        first = crew.start(readiness.sync)
        gate.reached()
        source.is_readable = True
        second = crew.start(readiness.sync)
        gate.open()
        second.result()
        assert polled(readiness) == (True, True)
        first.result()
    assert polled(readiness) == (True, True)


def test_a_handler_makes_a_change(source: Source, readiness: Readiness) -> None:
    """It calls sync() while its own thread is inside of it."""
    inside = []

    def handler(*_: object) -> None:
        inside.append(readiness.inside())
        source.is_readable = True
        readiness.sync()

    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        source.on_ask.append(lambda: signal.raise_signal(signal.SIGUSR1))
        readiness.sync()
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert inside == [True]
    assert not readiness.inside()
    assert polled(readiness) == (True, True)


def test_a_handler_closes_it(source: Source, readiness: Readiness) -> None:
    source.is_readable = True
    source.on_ask.append(readiness.close)
    readiness.sync()
    assert readiness.fileno() == -1
    readiness.sync()


@pytest.mark.parametrize(
    ("state", "end"),
    [
        ((True, True), "_inner"),
        ((False, True), "_inner"),
        ((False, True), "_outer"),
        ((True, False), "_inner"),
        ((True, False), "_outer"),
        ((False, False), "_outer"),
    ],
)
def test_an_exception_inside(
    source: Source,
    readiness: Readiness,
    monkeypatch: pytest.MonkeyPatch,
    state: tuple[bool, bool],
    end: str,
) -> None:
    """The next call starts from nothing that the broken one may have done."""
    source.is_readable, source.is_writable = not state[0], not state[1]
    readiness.sync()
    source.is_readable, source.is_writable = state
    with monkeypatch.context() as patch:
        patch.setattr(readiness, end, Fails(getattr(readiness, end)))
        with pytest.raises(KeyboardInterrupt):
            readiness.sync()
    assert not readiness.inside()
    readiness.sync()
    assert polled(readiness) == state
    source.is_readable, source.is_writable = not state[0], not state[1]
    readiness.sync()
    assert polled(readiness) == (not state[0], not state[1])


def test_an_exception_of_a_function(source: Source, readiness: Readiness) -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    source.is_readable = True
    source.on_ask.append(fail)
    with pytest.raises(KeyboardInterrupt):
        readiness.sync()
    readiness.sync()
    assert polled(readiness) == (True, True)


def test_one_that_is_dropped_needs_no_collector(source: Source) -> None:
    gc.disable()
    try:
        readiness = Readiness(source.readable, source.writable)
        readiness.sync()
        number = readiness.fileno()
        del readiness
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)
    finally:
        gc.enable()


def test_a_child_gives_up_its_copy(source: Source, readiness: Readiness, crew: Crew) -> None:
    """Whoever was inside of it in the parent does not exist in the child."""
    with Gate() as gate:
        source.on_ask.append(gate.stop)
        syncing = crew.start(readiness.sync)
        gate.reached()
        readiness.abandon()
        assert readiness.fileno() == -1
        gate.open()
        syncing.result()


@pytest.mark.parametrize("name", ["socketpair", "setblocking", "setsockopt"])
def test_an_exception_while_it_is_made(
    source: Source, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Nothing is left of it, and its finalizer has nothing to say."""
    said: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    descriptors = len(os.listdir("/dev/fd"))

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # one end may still be a plain socket
        owner: object = socket if name == "socketpair" else muxado.readiness._End
        patch.setattr(owner, name, fail, raising=False)
        with pytest.raises(KeyboardInterrupt):
            Readiness(source.readable, source.writable)
        gc.collect()
    assert said == []
    assert len(os.listdir("/dev/fd")) == descriptors
