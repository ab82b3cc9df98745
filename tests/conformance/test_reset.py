"""A peer that resets the connection, or closes it while bytes are still on their way."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable
from typing import Any

import pytest

from .pipes import Crew, End, Feature, Pipe, fill

BROKEN = (errno.ECONNRESET, errno.EPIPE)


def send_for_ever(end: End) -> None:
    """Send until that fails: before the news has come, a send may well succeed."""
    while True:
        end.send(b"spam" * 64)


def expect_broken(pipe: Pipe, call: Callable[[], Any]) -> None:
    with pytest.raises(pipe.kind.broken) as caught:
        call()
    if Feature.PLAIN_ERRORS not in pipe.kind.lacks:
        assert caught.value.errno in BROKEN


def test_recv(pipe: Pipe) -> None:
    pipe.needs(Feature.RESET)
    pipe.reset(pipe.far)
    with pytest.raises(ConnectionResetError) as caught:
        pipe.near.recv(1)
    assert caught.value.errno == errno.ECONNRESET


def test_recv_into(pipe: Pipe) -> None:
    pipe.needs(Feature.RESET)
    pipe.reset(pipe.far)
    with pytest.raises(ConnectionResetError) as caught:
        pipe.near.recv_into(bytearray(4))
    assert caught.value.errno == errno.ECONNRESET


def test_recv_in_the_other_direction(pipe: Pipe) -> None:
    pipe.needs(Feature.RESET)
    pipe.reset(pipe.near)
    with pytest.raises(ConnectionResetError):
        pipe.far.recv(1)


def test_wakes_a_reader(pipe: Pipe, crew: Crew) -> None:
    pipe.needs(Feature.RESET)
    reading = crew.start(pipe.near.recv, 1)
    pipe.reset(pipe.far)
    with pytest.raises(ConnectionResetError):
        reading.result()


def test_wakes_a_reader_with_a_time_out(pipe: Pipe, crew: Crew) -> None:
    pipe.needs(Feature.RESET)
    pipe.near.settimeout(20)
    reading = crew.start(pipe.near.recv, 1)
    pipe.reset(pipe.far)
    with pytest.raises(ConnectionResetError):
        reading.result()


def test_through_a_file(pipe: Pipe) -> None:
    pipe.needs(Feature.RESET)
    with pipe.near.makefile("rb") as file:
        pipe.reset(pipe.far)
        with pytest.raises(ConnectionResetError):
            file.read()


def test_reading_on_never_waits(pipe: Pipe) -> None:
    pipe.needs(Feature.RESET)
    pipe.reset(pipe.far)
    with pytest.raises(ConnectionResetError):
        pipe.near.recv(1)
    # A socket tells an error once and is at its end afterwards; telling it again is as good.
    for _ in range(3):
        try:
            assert pipe.near.recv(1) == b""
        except ConnectionResetError:
            pass


def test_send(pipe: Pipe) -> None:
    pipe.reset(pipe.far)
    expect_broken(pipe, lambda: send_for_ever(pipe.near))
    # And from then on every one fails.
    for _ in range(3):
        expect_broken(pipe, lambda: pipe.near.sendall(b"spam"))


def test_ends_a_sendall_that_waits(pipe: Pipe, crew: Crew) -> None:
    pipe.needs(Feature.POLL)
    fill(pipe.near)
    pipe.near.setblocking(True)
    sending = crew.start(pipe.near.sendall, b"spam")
    pipe.reset(pipe.far)
    expect_broken(pipe, sending.result)


def test_polls_readable(pipe: Pipe) -> None:
    pipe.needs(Feature.POLL)
    assert pipe.near.fileno() >= 0
    pipe.reset(pipe.far)
    assert select.select([pipe.near], [], [], 20)[0] == [pipe.near]
    with pytest.raises(ConnectionResetError):
        pipe.near.recv(1)


def test_polls_writable(pipe: Pipe) -> None:
    """Whoever waits for room has to learn that there never will be any."""
    pipe.needs(Feature.POLL)
    fill(pipe.near)
    pipe.reset(pipe.far)
    assert select.select([], [pipe.near], [], 20)[1] == [pipe.near]
    expect_broken(pipe, lambda: pipe.near.send(b"spam"))


def test_close_afterwards(pipe: Pipe) -> None:
    pipe.needs(Feature.RESET)
    pipe.reset(pipe.far)
    with pytest.raises(ConnectionResetError):
        pipe.near.recv(1)
    pipe.near.close()
    assert pipe.near.fileno() == -1


def test_close_without_having_noticed(pipe: Pipe) -> None:
    pipe.reset(pipe.far)
    with pipe.near:
        pass
    assert pipe.near.fileno() == -1


def test_half_closed_before(pipe: Pipe) -> None:
    pipe.needs(Feature.HALF_CLOSE, Feature.RESET_WHEN_HALF_CLOSED)
    pipe.near.shutdown(socket.SHUT_WR)
    assert pipe.far.recv(1) == b""
    pipe.reset(pipe.far)
    with pytest.raises(ConnectionResetError):
        pipe.near.recv(1)


def test_closing_with_bytes_unread(pipe: Pipe) -> None:
    """The peer learns that not all it sent was read."""
    pipe.needs(Feature.RESET_WHEN_UNREAD)
    pipe.near.sendall(b"spam and eggs")
    assert pipe.far.recv(4) == b"spam"
    pipe.far.close()
    with pytest.raises(ConnectionResetError):
        pipe.near.recv(1)


def test_sending_to_a_peer_that_has_closed(pipe: Pipe) -> None:
    pipe.far.close()
    expect_broken(pipe, lambda: send_for_ever(pipe.near))


def test_sendall_to_a_peer_that_closes(pipe: Pipe, crew: Crew) -> None:
    """However much there is to send, it ends."""
    sending = crew.start(pipe.near.sendall, bytes(16 * 1024 * 1024))
    assert pipe.far.recv(1) == b"\0"
    pipe.far.close()
    expect_broken(pipe, sending.result)


def test_others_go_on(pipes: Callable[[], Pipe]) -> None:
    one, other = pipes(), pipes()
    one.needs(Feature.RESET)
    one.reset(one.far)
    with pytest.raises(ConnectionResetError):
        one.near.recv(1)
    other.near.sendall(b"spam")
    other.far.sendall(b"eggs")
    assert other.far.recv(1024) == b"spam"
    assert other.near.recv(1024) == b"eggs"
