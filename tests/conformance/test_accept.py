"""The listening side: a session accepts streams as a listening socket accepts connections."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from .pipes import GUARD, SHORT, Crew, End, Feature, Kind, Source, read_to_end


@dataclass
class Service:
    """Something that accepts, and a function that connects to it."""

    listener: Any
    connect: Callable[..., End]
    ends: list[End] = field(default_factory=list)

    def dial(self, *arguments: Any) -> End:
        self.ends.append(self.connect(*arguments))
        return self.ends[-1]

    def accept(self) -> tuple[End, Any]:
        end, address = self.listener.accept()
        self.ends.append(end)
        return end, address


@pytest.fixture
def service(kind: Kind, source: Source) -> Iterator[Service]:
    kind.needs(Feature.LISTEN)
    service = Service(*source.listener())
    yield service
    for end in service.ends:
        end.close()


def test_accept(service: Service) -> None:
    near = service.dial()
    far, address = service.accept()
    near.sendall(b"spam")
    assert far.recv(1024) == b"spam"
    far.sendall(b"eggs")
    assert near.recv(1024) == b"eggs"
    assert address == far.getpeername()


def test_accept_sees_an_opener_that_never_writes(service: Service) -> None:
    near = service.dial()
    far, _ = service.accept()
    far.sendall(b"hello")
    assert near.recv(1024) == b"hello"


def test_accept_waits(service: Service, crew: Crew) -> None:
    waiting = crew.start(service.accept)
    near = service.dial()
    far, _ = waiting.result()
    near.sendall(b"spam")
    assert far.recv(1024) == b"spam"


def test_in_order(service: Service) -> None:
    for number in range(10):
        service.dial().sendall(bytes([number]))
    assert [service.accept()[0].recv(1) for _ in range(10)] == [bytes([n]) for n in range(10)]


def test_opener_closed_before_accept(service: Service) -> None:
    with service.dial() as near:
        near.sendall(b"spam")
    far, _ = service.accept()
    assert read_to_end(far) == b"spam"


def test_several_threads_accept(service: Service, crew: Crew) -> None:
    waiting = [crew.start(service.accept) for _ in range(4)]
    for number in range(4):
        service.dial().sendall(bytes([number]))
    got = sorted(task.result()[0].recv(1) for task in waiting)
    assert got == [bytes([number]) for number in range(4)]


def test_dial_takes_a_time_out(service: Service) -> None:
    near = service.dial(SHORT)
    service.accept()
    assert near.gettimeout() == SHORT
    with pytest.raises(TimeoutError):
        near.recv(1)


def test_accept_times_out(service: Service) -> None:
    service.listener.settimeout(SHORT)
    with pytest.raises(TimeoutError) as caught:
        service.accept()
    assert str(caught.value) == "timed out"
    service.listener.settimeout(GUARD)
    service.dial()
    service.accept()


def test_accept_may_not_wait(service: Service) -> None:
    service.listener.setblocking(False)
    with pytest.raises(BlockingIOError) as caught:
        service.accept()
    assert caught.value.errno in (errno.EAGAIN, errno.EWOULDBLOCK)
    service.dial()
    assert select.select([service.listener], [], [], GUARD)[0]
    service.accept()


def test_time_outs_of_the_listener(service: Service) -> None:
    listener = service.listener
    assert listener.gettimeout() is None
    assert listener.getblocking() is True
    listener.settimeout(3)
    assert listener.gettimeout() == 3.0
    listener.setblocking(False)
    assert listener.gettimeout() == 0.0
    assert listener.getblocking() is False
    listener.setblocking(True)
    assert listener.gettimeout() is None
    with pytest.raises(ValueError):
        listener.settimeout(-1)
    with pytest.raises(TypeError):
        listener.settimeout("1")


def test_accepted_ends_do_not_inherit_the_time_out(service: Service) -> None:
    service.listener.settimeout(GUARD)
    service.dial()
    far, _ = service.accept()
    assert far.gettimeout() is None
    service.dial()
    service.listener.setblocking(False)
    assert select.select([service.listener], [], [], GUARD)[0]
    far, _ = service.accept()
    assert far.gettimeout() is None


@pytest.fixture
def default_timeout() -> Iterator[float]:
    socket.setdefaulttimeout(GUARD)
    yield GUARD
    socket.setdefaulttimeout(None)


def test_accepted_ends_take_the_default_time_out(service: Service, default_timeout: float) -> None:
    service.dial()
    service.listener.settimeout(1.5 * GUARD)
    far, _ = service.accept()
    assert far.gettimeout() == default_timeout


def test_polls_readable_while_somebody_waits(service: Service) -> None:
    def pending(timeout: float) -> bool:
        return bool(select.select([service.listener], [], [], timeout)[0])

    assert not pending(0)
    service.dial()
    service.dial()
    assert pending(GUARD)
    service.accept()
    assert pending(GUARD)
    service.accept()
    assert not pending(0)


def test_wakes_a_poller_in_another_thread(service: Service, crew: Crew) -> None:
    def wait() -> list[Any]:
        return select.select([service.listener], [], [], GUARD)[0]

    waiting = crew.start(wait)
    service.dial()
    assert waiting.result() == [service.listener]
    service.accept()


def test_what_prepares_a_listening_socket_runs(service: Service) -> None:
    listener = service.listener
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.listen()
    listener.listen(5)
    assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
    assert listener.type == socket.SOCK_STREAM
    assert listener.getsockname() is not None
    service.dial()
    service.accept()


def test_closed(service: Service) -> None:
    service.listener.close()
    service.listener.close()
    with pytest.raises(OSError):
        service.accept()
