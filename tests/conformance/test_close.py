"""close(): what a closed end says, and when an end is really closed."""

from __future__ import annotations

import errno
import io
import socket
from collections.abc import Callable
from typing import Any

import pytest

from .pipes import Crew, End, Feature, Pipe, read_to_end

CALLS: dict[str, Callable[[End], Any]] = {
    "send": lambda end: end.send(b"spam"),
    "sendall": lambda end: end.sendall(b"spam"),
    "send nothing": lambda end: end.send(b""),
    "sendmsg": lambda end: end.sendmsg([b"spam"]),
    "recv": lambda end: end.recv(4),
    "recv_into": lambda end: end.recv_into(bytearray(4)),
    "recvfrom": lambda end: end.recvfrom(4),
    "recvfrom_into": lambda end: end.recvfrom_into(bytearray(4)),
    "shutdown": lambda end: end.shutdown(socket.SHUT_RDWR),
    "settimeout": lambda end: end.settimeout(1),
    "setblocking": lambda end: end.setblocking(False),
    "getsockname": lambda end: end.getsockname(),
    "getpeername": lambda end: end.getpeername(),
    "getsockopt": lambda end: end.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE),
    "setsockopt": lambda end: end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    "sendfile": lambda end: end.sendfile(io.BytesIO(b"spam")),
}


@pytest.mark.parametrize("call", CALLS)
def test_every_call_says_bad_descriptor(pipe: Pipe, call: str) -> None:
    if call.startswith("recvfrom"):
        pipe.needs(Feature.RECVFROM)
    if call == "sendmsg":
        pipe.needs(Feature.SENDMSG)
    pipe.near.close()
    with pytest.raises(OSError) as caught:
        CALLS[call](pipe.near)
    assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize("call", ["recv", "send"])
def test_bad_descriptor_comes_before_anything_else(pipe: Pipe, call: str) -> None:
    """Neither bytes unread nor an end already seen, nor a time-out, changes what is said."""
    pipe.near.settimeout(0)
    pipe.far.sendall(b"spam")
    pipe.far.close()
    pipe.near.close()
    with pytest.raises(OSError) as caught:
        CALLS[call](pipe.near)
    assert caught.value.errno == errno.EBADF


def test_no_descriptor(pipe: Pipe) -> None:
    assert pipe.near.fileno() >= 0
    pipe.near.close()
    assert pipe.near.fileno() == -1
    # Nor one for an end that was never asked for it before.
    pipe.far.close()
    assert pipe.far.fileno() == -1


def test_again(pipe: Pipe) -> None:
    for _ in range(3):
        pipe.near.close()
    assert pipe.far.recv(1) == b""


def test_after_the_peer(pipe: Pipe) -> None:
    pipe.far.close()
    assert pipe.near.recv(1) == b""
    pipe.near.close()
    assert pipe.near.fileno() == -1


def test_what_can_still_be_asked(pipe: Pipe) -> None:
    pipe.near.settimeout(3)
    pipe.near.close()
    assert pipe.near.gettimeout() == 3.0
    assert pipe.near.type == socket.SOCK_STREAM
    assert isinstance(repr(pipe.near), str)
    assert pipe.near == pipe.near
    assert hash(pipe.near) == hash(pipe.near)


def test_with(pipe: Pipe) -> None:
    with pipe.near as entered:
        assert entered is pipe.near
        pipe.near.sendall(b"spam")
    assert pipe.near.fileno() == -1
    assert read_to_end(pipe.far) == b"spam"


def test_with_and_an_error(pipe: Pipe) -> None:
    with pytest.raises(ZeroDivisionError), pipe.near:
        raise ZeroDivisionError
    assert pipe.near.fileno() == -1
    assert pipe.far.recv(1) == b""


def test_with_and_close_inside(pipe: Pipe) -> None:
    with pipe.near:
        pipe.near.close()
    assert pipe.near.fileno() == -1


def test_what_was_written_before_arrives(pipe: Pipe, crew: Crew) -> None:
    reading = crew.start(read_to_end, pipe.far)
    with pipe.near:
        for number in range(100):
            pipe.near.sendall(bytes([number]) * 1000)
    assert reading.result() == b"".join(bytes([number]) * 1000 for number in range(100))


def test_files_keep_it_open(pipe: Pipe) -> None:
    with pipe.near.makefile("rb") as reader, pipe.near.makefile("wb", buffering=0) as writer:
        pipe.near.close()
        assert pipe.near.fileno() >= 0
        writer.write(b"spam")
        assert pipe.far.recv(1024) == b"spam"
        pipe.far.sendall(b"eggs\n")
        assert reader.readline() == b"eggs\n"
        writer.close()
        pipe.far.sendall(b"more\n")
        assert reader.readline() == b"more\n"
    assert pipe.near.fileno() == -1
    assert pipe.far.recv(1) == b""


def test_an_end_closed_under_its_files_is_still_usable(pipe: Pipe) -> None:
    with pipe.near.makefile("rb", buffering=0):
        pipe.near.close()
        pipe.near.sendall(b"spam")
        assert pipe.far.recv(1024) == b"spam"
        pipe.far.sendall(b"eggs")
        assert pipe.near.recv(1024) == b"eggs"
    with pytest.raises(OSError) as caught:
        pipe.near.recv(1)
    assert caught.value.errno == errno.EBADF


def test_closing_files_leaves_it_open(pipe: Pipe) -> None:
    for mode in ("rb", "wb", "rwb"):
        with pipe.near.makefile(mode):
            pass
    pipe.near.sendall(b"spam")
    assert pipe.far.recv(1024) == b"spam"
    pipe.near.close()
    assert pipe.near.fileno() == -1
    assert pipe.far.recv(1) == b""


def test_closing_a_file_twice_counts_once(pipe: Pipe) -> None:
    first = pipe.near.makefile("rb")
    with pipe.near.makefile("rb") as second:
        first.close()
        first.close()
        pipe.near.close()
        pipe.far.sendall(b"spam\n")
        assert second.readline() == b"spam\n"
    assert pipe.near.fileno() == -1


def test_file_of_a_closed_end(pipe: Pipe) -> None:
    pipe.near.close()
    with pytest.raises(OSError) as caught, pipe.near.makefile("rb") as file:
        file.read(1)
    assert caught.value.errno == errno.EBADF
    assert pipe.near.fileno() == -1


def test_from_many_threads(pipe: Pipe, crew: Crew) -> None:
    closing = [crew.start(pipe.near.close) for _ in range(8)]
    for task in closing:
        task.result()
    assert pipe.near.fileno() == -1
    assert pipe.far.recv(1) == b""


@pytest.mark.parametrize("polled", [False, True])
def test_ends_a_blocked_recv(pipe: Pipe, crew: Crew, polled: bool) -> None:
    pipe.needs(Feature.CLOSE_WAKES)
    if polled:
        pipe.near.fileno()
    reading = crew.start(pipe.near.recv, 1)
    pipe.near.close()
    with pytest.raises(OSError) as caught:
        assert reading.result() == b"", "it was already waiting"
        raise OSError(errno.EBADF, "either will do")
    assert caught.value.errno == errno.EBADF


def test_closed_by_a_thread_while_another_uses_its_neighbour(
    pipes: Callable[[], Pipe], crew: Crew
) -> None:
    one, other = pipes(), pipes()

    def use() -> None:
        for number in range(100):
            other.near.sendall(bytes([number]))
            assert other.far.recv(1) == bytes([number])

    using = crew.start(use)
    one.near.close()
    assert one.far.recv(1) == b""
    using.result()
