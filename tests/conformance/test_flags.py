"""MSG_PEEK, MSG_WAITALL and MSG_DONTWAIT."""

from __future__ import annotations

import errno
from socket import MSG_DONTWAIT, MSG_PEEK, MSG_WAITALL, SHUT_WR

import pytest

from .pipes import SHORT, Crew, Feature, Pipe, fill, read_exactly

pytestmark = pytest.mark.usefixtures("flags")


@pytest.fixture
def flags(pipe: Pipe) -> None:
    pipe.needs(Feature.FLAGS)


def wait_for(pipe: Pipe, size: int) -> None:
    """Return once `size` bytes wait at the far end."""
    while len(pipe.far.recv(size, MSG_PEEK)) < size:
        pass


def test_peek_takes_nothing(pipe: Pipe) -> None:
    pipe.near.sendall(b"spam")
    assert pipe.far.recv(2, MSG_PEEK) == b"sp"
    assert pipe.far.recv(1024, MSG_PEEK) == b"spam"
    assert pipe.far.recv(1024) == b"spam"


def test_peek_in_the_other_calls(pipe: Pipe) -> None:
    pipe.near.sendall(b"spam")
    buffer = bytearray(4)
    assert pipe.far.recv_into(buffer, 0, MSG_PEEK) == 4
    assert buffer == b"spam"
    assert pipe.far.recvfrom(2, MSG_PEEK)[0] == b"sp"
    assert pipe.far.recv(1024) == b"spam"


def test_peek_sees_across_several_sends(pipe: Pipe) -> None:
    for _ in range(10):
        pipe.near.sendall(b"0123456789")
    wait_for(pipe, 100)
    assert pipe.far.recv(100) == b"0123456789" * 10


def test_peek_in_the_middle(pipe: Pipe) -> None:
    pipe.near.sendall(b"spam and eggs")
    wait_for(pipe, 13)
    assert pipe.far.recv(5) == b"spam "
    assert pipe.far.recv(3, MSG_PEEK) == b"and"
    assert pipe.far.recv(1024) == b"and eggs"


def test_peek_waits_for_the_first_byte(pipe: Pipe, crew: Crew) -> None:
    peeking = crew.start(pipe.far.recv, 1024, MSG_PEEK)
    pipe.near.sendall(b"spam")
    assert peeking.result() == b"spam"
    assert pipe.far.recv(1024) == b"spam"


def test_peek_times_out(pipe: Pipe) -> None:
    pipe.far.settimeout(SHORT)
    with pytest.raises(TimeoutError):
        pipe.far.recv(1, MSG_PEEK)


def test_peek_at_the_end(pipe: Pipe) -> None:
    pipe.near.sendall(b"spam")
    pipe.near.shutdown(SHUT_WR)
    assert pipe.far.recv(1024, MSG_PEEK) == b"spam"
    assert pipe.far.recv(1024) == b"spam"
    assert pipe.far.recv(1024, MSG_PEEK) == b""
    assert pipe.far.recv(1024) == b""


def test_waitall_is_whole(pipe: Pipe, crew: Crew) -> None:
    waiting = crew.start(pipe.far.recv, 12, MSG_WAITALL)
    for piece in (b"spam", b"and", b"eggs", b"..."):
        pipe.near.sendall(piece)
    assert waiting.result() == b"spamandeggs."
    assert pipe.far.recv(1024) == b".."


def test_waitall_larger_than_any_buffer(pipe: Pipe, crew: Crew) -> None:
    # The reader's window has to open while the reader still waits for the rest.
    data = bytes(range(256)) * 4096
    sending = crew.start(pipe.near.sendall, data)
    assert pipe.far.recv(len(data), MSG_WAITALL) == data
    sending.result()


def test_waitall_into(pipe: Pipe, crew: Crew) -> None:
    buffer = bytearray(b"." * 12)
    waiting = crew.start(pipe.far.recv_into, buffer, 8, MSG_WAITALL)
    for piece in (b"spam", b"and", b"eggs"):
        pipe.near.sendall(piece)
    assert waiting.result() == 8
    assert buffer == b"spamande...."


def test_waitall_is_short_at_the_end(pipe: Pipe, crew: Crew) -> None:
    waiting = crew.start(pipe.far.recv, 100, MSG_WAITALL)
    pipe.near.sendall(b"spam")
    pipe.near.shutdown(SHUT_WR)
    assert waiting.result() == b"spam"
    assert pipe.far.recv(100, MSG_WAITALL) == b""


def test_waitall_with_a_time_out_and_nothing_there(pipe: Pipe) -> None:
    pipe.far.settimeout(SHORT)
    with pytest.raises(TimeoutError):
        pipe.far.recv(4, MSG_WAITALL)
    pipe.near.sendall(b"spam")
    assert read_exactly(pipe.far, 4) == b"spam"


def test_waitall_with_a_time_out_loses_nothing(pipe: Pipe) -> None:
    """A socket with a time-out waits only for the first byte; no byte is lost in any case."""
    pipe.near.sendall(b"spam")
    wait_for(pipe, 4)
    pipe.far.settimeout(SHORT)
    assert pipe.far.recv(100, MSG_WAITALL) == b"spam"
    pipe.near.sendall(b"eggs")
    assert read_exactly(pipe.far, 4) == b"eggs"


def test_waitall_without_waiting(pipe: Pipe) -> None:
    pipe.near.sendall(b"spam")
    wait_for(pipe, 4)
    pipe.far.setblocking(False)
    assert pipe.far.recv(100, MSG_WAITALL) == b"spam"
    with pytest.raises(BlockingIOError):
        pipe.far.recv(100, MSG_WAITALL)


def test_waitall_and_peek(pipe: Pipe, crew: Crew) -> None:
    pipe.needs(Feature.PEEK_WAITALL)
    pipe.near.sendall(b"spam")
    wait_for(pipe, 4)
    peeking = crew.start(pipe.far.recv, 8, MSG_WAITALL | MSG_PEEK)
    pipe.near.sendall(b"eggs")
    assert peeking.result() == b"spameggs"
    assert pipe.far.recv(1024) == b"spameggs"


def test_dontwait(pipe: Pipe) -> None:
    with pytest.raises(BlockingIOError) as caught:
        pipe.far.recv(1024, MSG_DONTWAIT)
    assert caught.value.errno in (errno.EAGAIN, errno.EWOULDBLOCK)
    with pytest.raises(BlockingIOError):
        pipe.far.recv_into(bytearray(8), 0, MSG_DONTWAIT)
    assert pipe.far.gettimeout() is None
    pipe.near.sendall(b"spam")
    wait_for(pipe, 4)
    assert pipe.far.recv(1024, MSG_DONTWAIT) == b"spam"


def test_dontwait_at_the_end(pipe: Pipe) -> None:
    pipe.near.shutdown(SHUT_WR)
    assert pipe.far.recv(1) == b""
    assert pipe.far.recv(1, MSG_DONTWAIT) == b""


def test_dontwait_when_sending(pipe: Pipe) -> None:
    assert pipe.near.send(b"spam", MSG_DONTWAIT) == 4
    assert pipe.far.recv(1024) == b"spam"
    fill(pipe.near)
    pipe.near.setblocking(True)
    with pytest.raises(BlockingIOError) as caught:
        pipe.near.send(b"spam", MSG_DONTWAIT)
    assert caught.value.errno in (errno.EAGAIN, errno.EWOULDBLOCK)
