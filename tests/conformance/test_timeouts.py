"""settimeout, setblocking and what the calls raise that may not wait, or not any longer."""

from __future__ import annotations

import errno
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .pipes import GUARD, SHORT, Crew, Feature, Kind, Pipe, fill, read_exactly, read_to_end

TOO_MUCH = 16 * 1024 * 1024
"""Bytes; more than any pipe holds while nobody reads."""


def test_blocking_by_default(pipe: Pipe) -> None:
    for end in (pipe.near, pipe.far):
        assert end.gettimeout() is None
        assert end.getblocking() is True


def test_get_what_was_set(pipe: Pipe) -> None:
    end = pipe.near
    end.settimeout(3)
    assert end.gettimeout() == 3.0
    assert type(end.gettimeout()) is float
    assert end.getblocking() is True
    end.settimeout(0.25)
    assert end.gettimeout() == 0.25
    end.settimeout(0)
    assert end.gettimeout() == 0.0
    assert end.getblocking() is False
    end.settimeout(None)
    assert end.gettimeout() is None
    assert end.getblocking() is True
    end.setblocking(False)
    assert end.gettimeout() == 0.0
    end.setblocking(True)
    assert end.gettimeout() is None
    end.setblocking(0)  # type: ignore[arg-type]
    assert end.getblocking() is False


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (-1, ValueError),
        (-0.001, ValueError),
        (float("nan"), ValueError),
        (float("inf"), OverflowError),
        ("1", TypeError),
        (b"1", TypeError),
        ([], TypeError),
        (1j, TypeError),
    ],
    ids=repr,
)
def test_bad_values(pipe: Pipe, value: Any, error: type[Exception]) -> None:
    pipe.near.settimeout(7)
    with pytest.raises(error):
        pipe.near.settimeout(value)
    assert pipe.near.gettimeout() == 7.0


@pytest.fixture
def default_timeout() -> Iterator[float]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(GUARD)
    yield GUARD
    socket.setdefaulttimeout(before)


def test_default_timeout(default_timeout: float, pipes: Callable[[], Pipe]) -> None:
    pipe = pipes()
    assert pipe.near.gettimeout() == default_timeout
    assert pipe.far.gettimeout() == default_timeout


def test_each_end_has_its_own(pipe: Pipe) -> None:
    pipe.near.settimeout(5)
    assert pipe.far.gettimeout() is None


READS: dict[str, Callable[[socket.socket], Any]] = {
    "recv": lambda end: end.recv(1),
    "recv_into": lambda end: end.recv_into(bytearray(1)),
    "recvfrom": lambda end: end.recvfrom(1),
    "recvfrom_into": lambda end: end.recvfrom_into(bytearray(1)),
}
reads = pytest.mark.parametrize("call", READS)


def need_call(pipe: Pipe, call: str) -> Callable[[socket.socket], Any]:
    if call.startswith("recvfrom"):
        pipe.needs(Feature.RECVFROM)
    return READS[call]


def expect_time_out(kind: Kind, call: Callable[[], Any]) -> None:
    with pytest.raises(socket.timeout) as caught:  # an alias of TimeoutError
        call()
    assert type(caught.value) is TimeoutError
    if Feature.PLAIN_ERRORS in kind.lacks:
        assert "timed out" in str(caught.value)
    else:
        assert str(caught.value) == "timed out"
        assert caught.value.errno is None


@reads
def test_reading_times_out(pipe: Pipe, call: str) -> None:
    read = need_call(pipe, call)
    pipe.far.settimeout(SHORT)
    began = time.monotonic()
    expect_time_out(pipe.kind, lambda: read(pipe.far))
    assert time.monotonic() - began > SHORT * 0.9, "it did not wait"


@reads
def test_reading_goes_on_after_a_time_out(pipe: Pipe, call: str) -> None:
    read = need_call(pipe, call)
    pipe.far.settimeout(SHORT)
    with pytest.raises(TimeoutError):
        read(pipe.far)
    pipe.far.settimeout(GUARD)
    pipe.near.sendall(b"spam")
    assert read_exactly(pipe.far, 4) == b"spam"


@reads
def test_reading_may_not_wait(pipe: Pipe, call: str) -> None:
    read = need_call(pipe, call)
    pipe.far.setblocking(False)
    with pytest.raises(pipe.kind.would_block) as caught:
        read(pipe.far)
    if Feature.PLAIN_ERRORS not in pipe.kind.lacks:
        assert caught.value.errno in (errno.EAGAIN, errno.EWOULDBLOCK)
        assert type(caught.value) is BlockingIOError


def test_a_buffer_is_free_after_a_time_out(pipe: Pipe) -> None:
    buffer = bytearray(8)
    pipe.far.settimeout(SHORT)
    with pytest.raises(TimeoutError):
        pipe.far.recv_into(buffer)
    buffer.clear()  # BufferError while anybody still holds it
    pipe.near.sendall(b"spam")
    assert read_exactly(pipe.far, 4) == b"spam"


@pytest.mark.parametrize("timeout", [GUARD, 0.0])
def test_bytes_that_are_there_come_at_once(pipe: Pipe, timeout: float) -> None:
    pipe.near.sendall(b"spam and eggs")
    assert pipe.far.recv(4) == b"spam"
    pipe.far.settimeout(timeout)
    assert read_exactly(pipe.far, 9) == b" and eggs"


def test_bytes_in_time(pipe: Pipe, crew: Crew) -> None:
    pipe.far.settimeout(GUARD)
    reading = crew.start(pipe.far.recv, 1024)
    pipe.near.sendall(b"spam")
    assert reading.result() == b"spam"


def test_sendall_times_out(pipe: Pipe) -> None:
    pipe.near.settimeout(SHORT)
    data = bytes(TOO_MUCH)
    expect_time_out(pipe.kind, lambda: pipe.near.sendall(data))


def test_send_times_out(pipe: Pipe) -> None:
    pipe.needs(Feature.POLL)
    fill(pipe.near)
    pipe.near.settimeout(SHORT)
    expect_time_out(pipe.kind, lambda: pipe.near.send(b"spam"))
    expect_time_out(pipe.kind, lambda: pipe.near.sendall(b"spam"))


def test_what_sendall_sent_before_its_time_out_is_a_prefix(pipe: Pipe) -> None:
    pipe.needs(Feature.EXACT_SEND, Feature.HALF_CLOSE)
    data = random.Random(3).randbytes(TOO_MUCH)
    pipe.near.settimeout(SHORT)
    with pytest.raises(TimeoutError):
        pipe.near.sendall(data)
    pipe.near.shutdown(socket.SHUT_WR)
    got = read_to_end(pipe.far)
    assert 0 < len(got) < len(data)
    assert data.startswith(got)


def test_send_counts_exactly_across_time_outs(pipe: Pipe, crew: Crew) -> None:
    """A send that timed out has sent nothing, so the next goes on where the last one ended."""
    pipe.needs(Feature.EXACT_SEND)
    data = random.Random(4).randbytes(2 * 1024 * 1024)
    pipe.near.settimeout(0.002)
    slow = threading.Event()  # never set: its wait is what makes the reader slow

    def read_slowly() -> bytes:
        parts = []
        left = len(data)
        while left:
            slow.wait(0.003)
            parts.append(read_exactly(pipe.far, min(left, 100_000)))
            left -= len(parts[-1])
        return b"".join(parts)

    reading = crew.start(read_slowly)
    sent = 0
    timeouts = 0
    while sent < len(data):
        try:
            sent += pipe.near.send(memoryview(data)[sent : sent + 50_000])
        except TimeoutError:
            timeouts += 1
    assert reading.result() == data


def test_the_time_out_is_for_all_of_sendall(pipe: Pipe, crew: Crew) -> None:
    """A reader that takes a little now and then does not keep sendall going for ever."""
    pipe.near.settimeout(0.1)
    enough = threading.Event()

    def trickle() -> None:
        while not enough.wait(0.005):
            pipe.far.recv(16 * 1024)

    reading = crew.start(trickle)
    with pytest.raises(TimeoutError):
        pipe.near.sendall(bytes(TOO_MUCH))
    enough.set()
    # The reader may be waiting for bytes that no longer come.
    pipe.near.close()
    reading.result()


def test_sendall_may_not_wait(pipe: Pipe) -> None:
    pipe.near.setblocking(False)
    with pytest.raises(pipe.kind.would_block):
        pipe.near.sendall(bytes(TOO_MUCH))


def test_send_may_not_wait(pipe: Pipe) -> None:
    pipe.needs(Feature.POLL)
    total = fill(pipe.near)
    with pytest.raises(BlockingIOError) as caught:
        pipe.near.send(b"spam")
    assert caught.value.errno in (errno.EAGAIN, errno.EWOULDBLOCK)
    assert len(read_exactly(pipe.far, total)) == total
    pipe.near.settimeout(GUARD)
    assert pipe.near.send(b"spam") == 4
    assert pipe.far.recv(1024) == b"spam"


def test_room_in_time(pipe: Pipe, crew: Crew) -> None:
    pipe.needs(Feature.POLL)
    total = fill(pipe.near)
    pipe.near.settimeout(GUARD)
    sending = crew.start(pipe.near.sendall, b"spam")
    assert len(read_exactly(pipe.far, total)) == total
    assert read_exactly(pipe.far, 4) == b"spam"
    sending.result()


def test_end_of_file_is_not_a_time_out(pipe: Pipe) -> None:
    pipe.near.close()
    pipe.far.settimeout(GUARD)
    assert pipe.far.recv(1) == b""
    pipe.far.setblocking(False)
    assert pipe.far.recv(1) == b""
