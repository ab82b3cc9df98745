"""End of file and the three forms of shutdown()."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any

import pytest

from .pipes import Crew, Feature, Pipe, fill, read_exactly, read_to_end


def test_end_of_file_comes_after_the_last_byte(pipe: Pipe) -> None:
    pipe.near.sendall(b"spam")
    pipe.near.close()
    assert read_to_end(pipe.far) == b"spam"


def test_end_of_file_comes_again_and_again(pipe: Pipe) -> None:
    pipe.near.close()
    for _ in range(3):
        assert pipe.far.recv(1024) == b""
    assert pipe.far.recv_into(bytearray(8)) == 0


def test_end_of_file_without_a_byte_in_any_call(pipe: Pipe) -> None:
    pipe.needs(Feature.RECVFROM)
    pipe.near.close()
    assert pipe.far.recvfrom(8)[0] == b""
    assert pipe.far.recvfrom_into(bytearray(8))[0] == 0


def test_end_of_file_wakes_a_reader(pipe: Pipe, crew: Crew) -> None:
    reading = crew.start(pipe.far.recv, 1)
    pipe.near.close()
    assert reading.result() == b""


def test_much_before_the_end(pipe: Pipe, crew: Crew) -> None:
    data = bytes(range(256)) * 8192
    reading = crew.start(read_to_end, pipe.far)
    pipe.near.sendall(data)
    pipe.near.close()
    assert reading.result() == data


def test_half_close(pipe: Pipe, crew: Crew) -> None:
    """The usual use: say everything, end, and only then get the answer."""
    pipe.needs(Feature.HALF_CLOSE)

    def answer() -> None:
        question = read_to_end(pipe.far)
        pipe.far.sendall(question[::-1])
        pipe.far.shutdown(socket.SHUT_WR)

    answering = crew.start(answer)
    pipe.near.sendall(b"0123456789" * 50_000)
    pipe.near.shutdown(socket.SHUT_WR)
    assert read_to_end(pipe.near) == b"9876543210" * 50_000
    answering.result()


def test_peer_writes_long_after_our_end(pipe: Pipe) -> None:
    pipe.needs(Feature.HALF_CLOSE)
    pipe.near.shutdown(socket.SHUT_WR)
    assert pipe.far.recv(1) == b""
    for number in range(100):
        pipe.far.sendall(bytes([number]))
        assert pipe.near.recv(1) == bytes([number])
    pipe.far.close()
    assert pipe.near.recv(1) == b""


@pytest.mark.parametrize("how", [socket.SHUT_WR, socket.SHUT_RDWR])
@pytest.mark.parametrize("data", [b"spam", b""])
@pytest.mark.parametrize("call", ["send", "sendall"])
def test_writing_after_shut_wr(pipe: Pipe, call: str, data: bytes, how: int) -> None:
    pipe.near.shutdown(how)
    with pytest.raises(BrokenPipeError) as caught:
        getattr(pipe.near, call)(data)
    assert caught.value.errno == errno.EPIPE


def test_writing_after_shut_wr_through_a_file(pipe: Pipe) -> None:
    pipe.needs(Feature.HALF_CLOSE)
    with pipe.near.makefile("wb", buffering=0) as file:
        pipe.near.shutdown(socket.SHUT_WR)
        with pytest.raises(BrokenPipeError):
            file.write(b"spam")


def test_shut_wr_ends_a_sendall_that_waits(pipe: Pipe, crew: Crew) -> None:
    pipe.needs(Feature.THREADS, Feature.HALF_CLOSE)
    fill(pipe.near)
    pipe.near.setblocking(True)
    sending = crew.start(pipe.near.sendall, b"spam")
    pipe.near.shutdown(socket.SHUT_WR)
    with pytest.raises(BrokenPipeError):
        sending.result()


def test_shut_wr_twice(pipe: Pipe) -> None:
    pipe.needs(Feature.HALF_CLOSE)
    pipe.near.sendall(b"spam")
    pipe.near.shutdown(socket.SHUT_WR)
    pipe.near.shutdown(socket.SHUT_WR)
    assert read_to_end(pipe.far) == b"spam"
    pipe.far.sendall(b"eggs")
    assert pipe.near.recv(1024) == b"eggs"


def test_both_ends_shut_wr(pipe: Pipe) -> None:
    pipe.needs(Feature.HALF_CLOSE)
    pipe.near.sendall(b"spam")
    pipe.far.sendall(b"eggs")
    pipe.near.shutdown(socket.SHUT_WR)
    pipe.far.shutdown(socket.SHUT_WR)
    assert read_to_end(pipe.far) == b"spam"
    assert read_to_end(pipe.near) == b"eggs"
    for end in (pipe.near, pipe.far):
        with pytest.raises(BrokenPipeError):
            end.send(b"x")


def test_shut_rd_reads_as_the_end(pipe: Pipe) -> None:
    pipe.needs(Feature.HALF_CLOSE)
    pipe.far.shutdown(socket.SHUT_RD)
    for _ in range(3):
        assert pipe.far.recv(1024) == b""
    assert pipe.far.recv_into(bytearray(8)) == 0


def test_shut_rd_leaves_writing_alone(pipe: Pipe) -> None:
    pipe.needs(Feature.HALF_CLOSE)
    pipe.far.shutdown(socket.SHUT_RD)
    pipe.far.sendall(b"spam")
    assert pipe.near.recv(1024) == b"spam"
    pipe.far.shutdown(socket.SHUT_WR)
    assert pipe.near.recv(1024) == b""


def test_shut_rd_wakes_a_reader(pipe: Pipe, crew: Crew) -> None:
    pipe.needs(Feature.THREADS, Feature.HALF_CLOSE)
    reading = crew.start(pipe.far.recv, 1)
    pipe.far.shutdown(socket.SHUT_RD)
    assert reading.result() == b""


def test_shut_rd_with_bytes_waiting(pipe: Pipe) -> None:
    """Systems differ on whether these bytes are still given; then comes the end in any case."""
    pipe.needs(Feature.FLAGS, Feature.HALF_CLOSE)
    pipe.near.sendall(b"spam")
    assert pipe.far.recv(1, socket.MSG_PEEK) == b"s"
    pipe.far.shutdown(socket.SHUT_RD)
    assert read_to_end(pipe.far) in (b"", b"spam")
    assert pipe.far.recv(1) == b""


def test_shut_rdwr(pipe: Pipe) -> None:
    pipe.needs(Feature.HALF_CLOSE)
    pipe.near.sendall(b"spam")
    pipe.near.shutdown(socket.SHUT_RDWR)
    assert read_to_end(pipe.far) == b"spam"
    assert pipe.near.recv(1) == b""
    with pytest.raises(BrokenPipeError):
        pipe.near.send(b"x")


def test_shut_rdwr_is_not_close(pipe: Pipe) -> None:
    descriptor = pipe.near.fileno()
    pipe.near.shutdown(socket.SHUT_RDWR)
    assert pipe.near.fileno() == descriptor
    pipe.near.close()
    assert pipe.near.fileno() == -1


def test_shut_rdwr_wakes_a_reader(pipe: Pipe, crew: Crew) -> None:
    pipe.needs(Feature.THREADS)
    reading = crew.start(pipe.near.recv, 1)
    pipe.near.shutdown(socket.SHUT_RDWR)
    assert reading.result() == b""


def test_unknown_how(pipe: Pipe) -> None:
    pipe.needs(Feature.HALF_CLOSE)
    with pytest.raises(OSError) as caught:
        pipe.near.shutdown(7)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError):
        pipe.near.shutdown(-1)
    pipe.near.sendall(b"spam")
    assert pipe.far.recv(1024) == b"spam"


@pytest.mark.parametrize("how", ["1", None, 1.0], ids=repr)
def test_how_of_a_wrong_type(pipe: Pipe, how: Any) -> None:
    pipe.needs(Feature.HALF_CLOSE)
    with pytest.raises(TypeError):
        pipe.near.shutdown(how)
    pipe.near.sendall(b"spam")
    assert pipe.far.recv(1024) == b"spam"


def test_others_go_on(pipes: Callable[[], Pipe]) -> None:
    """What ends one pipe leaves its neighbours alone."""
    first, second, third = pipes(), pipes(), pipes()
    first.near.shutdown(socket.SHUT_RDWR)
    second.near.close()
    assert first.far.recv(1) == b""
    assert second.far.recv(1) == b""
    third.near.sendall(b"spam")
    third.far.sendall(b"eggs")
    assert read_exactly(third.far, 4) == b"spam"
    assert read_exactly(third.near, 4) == b"eggs"
