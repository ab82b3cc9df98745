"""Objects with ``recv``, ``sendall`` and ``close`` as transports, whatever they do."""

from __future__ import annotations

import errno
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from muxado.transport import Transport, wrap

from ..helpers.crew import GUARD
from ..helpers.gates import Gate
from ..helpers.support import until
from .test_transport import receive, send


class Object:
    """Receives what the test feeds it, and keeps what it is to send."""

    def __init__(self) -> None:
        self.feed: queue.SimpleQueue[bytes | BaseException] = queue.SimpleQueue()
        self.sent = b""
        self.calls: list[object] = []
        self.before_send: Callable[[], object] = int
        self.in_close: Callable[[], object] = int
        self.ends_recv = True  # whether close() ends a recv() that is under way

    def recv(self, size: int) -> bytes:
        item = self.feed.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def sendall(self, data: bytes) -> None:
        self.before_send()
        self.sent += data

    def shutdown(self, how: int) -> None:
        self.calls.append(("shutdown", how))

    def close(self) -> None:
        self.calls.append("close")
        self.in_close()
        if self.ends_recv:
            self.feed.put(OSError(errno.EBADF, "closed"))


class PartSender(Object):
    """Has only ``send``, which takes a few bytes at a time."""

    sendall = None  # type: ignore[assignment]

    def send(self, data: bytes) -> int:
        self.before_send()
        self.sent += data[:1000]
        return len(data[:1000])


def pumps() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("muxado-pump")]


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


@pytest.fixture(params=[Object, PartSender])
def obj(request: pytest.FixtureRequest) -> Iterator[Object]:
    """An object; whatever the test does, no thread and no descriptor is left of it."""
    before = descriptors()
    made: Object = request.param()
    yield made
    made.feed.put(b"")
    until(lambda: not pumps())
    until(lambda: descriptors() <= before)


@pytest.fixture
def transport(obj: Object) -> Iterator[Transport]:
    made = wrap(obj)
    yield made
    made.close()


def test_bytes_and_the_end(obj: Object, transport: Transport) -> None:
    obj.feed.put(b"first")
    obj.feed.put(b"second")
    obj.feed.put(b"")
    assert receive(transport, 100) == b"firstsecond"
    assert receive(transport, 1) == b""
    data = os.urandom(1_000_000)
    send(transport, data)
    transport.finish()
    transport.drain(time.monotonic() + GUARD)
    assert obj.sent == data
    assert transport.unacknowledged() == 0


def test_more_than_the_engine_reads(obj: Object, transport: Transport) -> None:
    """The object is not read without bound, and nothing is lost."""
    for _ in range(100):
        obj.feed.put(bytes(65536))
    obj.feed.put(b"end")
    assert len(receive(transport, 100 * 65536 + 3)) == 100 * 65536 + 3


def test_one_that_is_idle(obj: Object, transport: Transport) -> None:
    obj.feed.put(TimeoutError("timed out"))
    obj.feed.put(TimeoutError())
    obj.feed.put(b"go on")
    assert receive(transport, 5) == b"go on"


@pytest.mark.parametrize(
    "error",
    [OSError("broken"), ConnectionResetError(), TimeoutError(errno.ETIMEDOUT, "by the system")],
)
def test_a_recv_that_fails(obj: Object, transport: Transport, error: OSError) -> None:
    obj.feed.put(b"before")
    obj.feed.put(error)
    assert receive(transport, 6) == b"before"
    for _ in range(2):
        with pytest.raises(OSError) as caught:
            receive(transport, 1)
        assert caught.value is error


@pytest.mark.parametrize(
    "error", [RuntimeError("broken"), EOFError(), BlockingIOError(), ValueError("closed file")]
)
def test_an_error_that_does_not_say_what_it_means_here(
    obj: Object, transport: Transport, error: Exception
) -> None:
    """``BlockingIOError`` would say that nothing has come yet."""
    obj.feed.put(error)
    with pytest.raises(ConnectionAbortedError, match="recv") as caught:
        receive(transport, 1)
    assert caught.value.__cause__ is error


def test_a_recv_that_returns_no_bytes(obj: Object, transport: Transport) -> None:
    obj.feed.put(None)  # type: ignore[arg-type]
    with pytest.raises(ConnectionAbortedError) as caught:
        receive(transport, 1)
    assert isinstance(caught.value.__cause__, TypeError)


def test_a_send_that_fails(obj: Object, transport: Transport) -> None:
    """Reading and writing tell it, though the object still waits to receive something."""
    error = BrokenPipeError(errno.EPIPE, "broken")

    def fail() -> None:
        raise error

    obj.before_send = fail
    obj.feed.put(b"before")
    assert receive(transport, 6) == b"before"
    transport.send([b"x"])
    with pytest.raises(OSError) as reading:
        receive(transport, 1)
    with pytest.raises(OSError) as writing:
        send(transport, bytes(1_000_000))
    assert reading.value is writing.value is error
    until(lambda: transport.unacknowledged() == 0)


def test_what_was_received_before_a_failed_send_is_read(obj: Object, transport: Transport) -> None:
    """More than the pair of sockets holds."""
    error = OSError("broken")
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        raise error

    obj.before_send = fail
    chunk = bytes(2**20)
    obj.feed.put(chunk)
    until(transport.readable)
    transport.send([b"x"])
    assert failed.wait(GUARD)
    until(lambda: transport.unacknowledged() == 0)
    assert len(receive(transport, len(chunk))) == len(chunk)
    with pytest.raises(OSError) as caught:
        receive(transport, 1)
    assert caught.value is error


def test_what_is_not_handed_over_is_unacknowledged(obj: Object, transport: Transport) -> None:
    with Gate() as gate:
        obj.before_send = gate.stop
        taken = transport.send([bytes(5000)])
        gate.reached()
        assert transport.unacknowledged() == taken
        transport.finish()
        transport.drain(time.monotonic())
        assert not obj.sent
    transport.drain(time.monotonic() + GUARD)
    assert len(obj.sent) == taken
    assert transport.unacknowledged() == 0


def test_what_is_urgent_waits_for_little(obj: Object, transport: Transport) -> None:
    def room() -> int:
        """Bytes that are taken while the object takes none."""
        with Gate() as gate:
            obj.before_send = gate.stop
            transport.send([b"x"])
            gate.reached()
            taken = 0
            while count := transport.send([bytes(4096)]):
                taken += count
        until(lambda: transport.unacknowledged() == 0)
        return taken

    ample = room()
    transport.keep_short(True)
    assert room() < min(ample, 65536)
    transport.keep_short(False)
    assert room() == ample


def test_shutdown_does_not_wait_for_the_object(obj: Object) -> None:
    """Its recv() never ends, its sendall() is stuck, and its close() is stuck too."""
    obj.ends_recv = False
    release = threading.Event()
    closing = threading.Event()

    def close() -> None:
        closing.set()
        release.wait()

    obj.before_send = release.wait
    obj.in_close = close
    transport = wrap(obj)
    transport.send([b"x"])
    for _ in range(2):
        transport.shutdown()
    assert closing.wait(GUARD)
    assert receive(transport, 1) == b""
    for _ in range(2):
        transport.close()
    assert pumps(), "the object has not let go"
    release.set()
    assert obj.calls == [("shutdown", 2), "close"]


def test_close_ends_the_threads(obj: Object) -> None:
    transport = wrap(obj)
    transport.send([b"x"])
    transport.finish()
    transport.linger(memoryview(bytearray(100)), time.monotonic() + GUARD)
    transport.close()
    assert obj.sent == b"x"
    assert not pumps()


def test_lingering_waits_for_what_was_written_only(obj: Object) -> None:
    """The object's recv() never ends."""
    obj.ends_recv = False
    transport = wrap(obj)
    send(transport, bytes(100_000))
    transport.finish()
    transport.linger(memoryview(bytearray(100)), time.monotonic() + 1000)
    transport.close()
    assert len(obj.sent) == 100_000


def test_lingering_has_an_end(obj: Object) -> None:
    """The object takes nothing."""
    with Gate() as gate:
        obj.before_send = gate.stop
        transport = wrap(obj)
        transport.send([b"x"])
        gate.reached()
        transport.finish()
        transport.linger(memoryview(bytearray(100)), time.monotonic() + 0.01)
        transport.close()
        assert not obj.sent


def test_lingering_reads_on(obj: Object) -> None:
    """A peer that writes before it reads comes to read what we wrote only once it has written."""
    read = threading.Event()
    recv = obj.recv

    def watched(size: int) -> bytes:
        data = recv(size)
        if data == b"the end":
            read.set()
        return data

    obj.recv = watched  # type: ignore[method-assign]
    obj.before_send = read.wait
    transport = wrap(obj)
    for _ in range(50):
        obj.feed.put(bytes(65536))
    obj.feed.put(b"the end")
    transport.send([b"last"])
    transport.finish()
    transport.linger(memoryview(bytearray(100)), time.monotonic() + 1000)
    transport.close()
    assert obj.sent == b"last"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_abandons_its_copy(obj: Object, transport: Transport) -> None:
    child = os.fork()
    if not child:
        before = descriptors()
        transport.abandon()
        # Both ends of the pair, and of the one that wakes.
        os._exit(0 if descriptors() == before - 4 and not obj.calls else 1)
    assert os.waitpid(child, 0)[1] == 0
    obj.feed.put(b"and on")
    assert receive(transport, 6) == b"and on"


def test_names(obj: Object) -> None:
    def fail() -> object:
        raise NotImplementedError

    obj.getpeername = lambda: ("somewhere", 1)  # type: ignore[attr-defined]
    obj.getsockname = fail  # type: ignore[attr-defined]
    transport = wrap(obj)
    assert transport.getpeername() == ("somewhere", 1)
    assert transport.getsockname() is None
    assert (transport.family, transport.proto) == (0, 0)
    transport.close()
