"""What is measured: each scenario is written once, for every peer.

A scenario is a *handler* that the server runs on each accepted connection, and a *client* that is
given ``connect()`` and an amount of work and returns the seconds which that work took. The client
tells the server how much there is to do inside the connection itself, so rounds of any size can
follow one another.
"""

from __future__ import annotations

import functools
import queue
import struct
import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

MIB = 2**20
BLOCK = MIB  # bytes in one sendall of the bulk scenarios
READ = 256 * 1024  # bytes in the buffer that bulk data is received into
REQUEST = 1024  # bytes sent and echoed by the open scenarios
MESSAGE = 64  # bytes in one message
ACK = b"."


class Connection(Protocol):
    """What the scenarios need of a socket, a TLS socket or a stream."""

    def sendall(self, data: bytes | memoryview, /) -> None: ...
    def recv(self, size: int, /) -> bytes: ...
    def recv_into(self, buffer: memoryview, /) -> int: ...
    def close(self) -> None: ...


Connect = Callable[[], Connection]
Handler = Callable[[Connection], None]
Client = Callable[[Connect, int], float]


class Unit(NamedTuple):
    """How an amount of work and its time are shown."""

    thing: str  # what is counted: "round trip", "open", "byte" ...
    per: int  # times are shown for so many of them; 0: for the whole round
    scale: float  # the rate is things per second times this
    rate: str  # and called so


ROUND_TRIPS = Unit("round trip", 1, 1, "/s")
OPENS = Unit("open", 1, 1, "/s")
MESSAGES = Unit("message", 1, 1, "/s")
BYTES = Unit("byte", 0, 1e-6, " MB/s")


class Scenario(NamedTuple):
    name: str
    about: str
    unit: Unit
    client: Client
    handler: Handler
    work: int  # how much one round does
    quick_work: int  # and with --quick
    workers: int = 0  # server threads that accept and handle; 0: a new thread for each connection
    tls: bool = False
    rounds: int = 5


# The parts ------------------------------------------------------------------------------------


def receive_exactly(connection: Connection, size: int) -> bytes:
    """``size`` bytes, or ``EOFError`` when the connection ends before."""
    first = connection.recv(size)
    if len(first) == size:
        return first
    data = bytearray(first)
    while len(data) < size:
        more = connection.recv(size - len(data)) if data else b""
        if not more:
            raise EOFError(f"the connection ended after {len(data)} of {size} bytes")
        data += more
    return bytes(data)


def sink(connection: Connection, size: int) -> None:
    """Receive ``size`` bytes into one buffer."""
    buffer = memoryview(bytearray(READ))
    left = size
    while left:
        got = connection.recv_into(buffer[:left] if left < READ else buffer)
        if not got:
            raise EOFError(f"the connection ended {left} bytes before its end")
        left -= got


def pour(connection: Connection, size: int) -> None:
    """Send ``size`` bytes, a block at a time."""
    block = memoryview(bytes(BLOCK))
    for _ in range(size // BLOCK):
        connection.sendall(block)
    if size % BLOCK:
        connection.sendall(block[: size % BLOCK])


def expect_ack(connection: Connection) -> None:
    answer = receive_exactly(connection, 1)
    if answer != ACK:
        raise ValueError(f"{answer!r} came instead of the acknowledgement")


def expect_end(connection: Connection) -> None:
    extra = connection.recv(1)
    if extra:
        raise ValueError(f"{extra!r} came instead of the end")


def together(jobs: Iterable[Callable[[], None]]) -> float:
    """Run every job in a thread of its own; seconds from the common start to the last end.

    The first job that fails raises here at once; the process is about to end then.
    """
    todo = list(jobs)
    ready = threading.Barrier(len(todo) + 1)
    ends: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def run(job: Callable[[], None]) -> None:
        try:
            ready.wait()
            job()
        except BaseException as error:  # handed to the thread that waits
            ends.put(error)
        else:
            ends.put(None)

    threads = [threading.Thread(target=run, args=(job,), daemon=True) for job in todo]
    for thread in threads:
        thread.start()
    ready.wait()
    start = time.perf_counter()
    for _ in todo:
        error = ends.get()
        if error is not None:
            raise error
    seconds = time.perf_counter() - start
    for thread in threads:
        thread.join()
    return seconds


# rtt: one byte there and back -----------------------------------------------------------------


def rtt_handler(connection: Connection) -> None:
    while data := connection.recv(1):
        connection.sendall(data)


def rtt_client(connect: Connect, count: int) -> float:
    connection = connect()

    def trips(number: int) -> None:
        for _ in range(number):
            connection.sendall(b"x")
            if connection.recv(1) != b"x":
                raise EOFError("the echo did not come")

    trips(min(100, count))
    start = time.perf_counter()
    trips(count)
    seconds = time.perf_counter() - start
    connection.close()
    return seconds


# bulk: many bytes, one way --------------------------------------------------------------------


def bulk_handler(connection: Connection) -> None:
    (size,) = struct.unpack(">Q", receive_exactly(connection, 8))
    connection.sendall(ACK)
    sink(connection, size)
    connection.sendall(ACK)
    expect_end(connection)


def _prepared(connect: Connect, size: int) -> Connection:
    connection = connect()
    connection.sendall(struct.pack(">Q", size))
    expect_ack(connection)
    return connection


def _upload(connection: Connection, size: int) -> None:
    pour(connection, size)
    expect_ack(connection)


def bulk_client(connect: Connect, size: int) -> float:
    connection = _prepared(connect, size)
    start = time.perf_counter()
    _upload(connection, size)
    seconds = time.perf_counter() - start
    connection.close()
    return seconds


def bulk_many_client(streams: int, connect: Connect, size: int) -> float:
    share = size // streams
    connections = [_prepared(connect, share) for _ in range(streams)]
    seconds = together(functools.partial(_upload, each, share) for each in connections)
    for connection in connections:
        connection.close()
    return seconds


def bulk_down_handler(connection: Connection) -> None:
    (size,) = struct.unpack(">Q", receive_exactly(connection, 8))
    pour(connection, size)
    expect_end(connection)


def bulk_down_client(connect: Connect, size: int) -> float:
    connection = connect()
    start = time.perf_counter()
    connection.sendall(struct.pack(">Q", size))
    sink(connection, size)
    seconds = time.perf_counter() - start
    connection.close()
    return seconds


# messages: many small sends -------------------------------------------------------------------


def messages_handler(connection: Connection) -> None:
    (left,) = struct.unpack(">Q", receive_exactly(connection, 8))
    connection.sendall(ACK)
    while left > 0:
        got = len(connection.recv(65536))
        if not got:
            raise EOFError(f"the connection ended {left} bytes before its end")
        left -= got
    connection.sendall(ACK)
    expect_end(connection)


def messages_client(connect: Connect, count: int) -> float:
    connection = _prepared(connect, count * MESSAGE)
    message = bytes(MESSAGE)
    start = time.perf_counter()
    for _ in range(count):
        connection.sendall(message)
    expect_ack(connection)
    seconds = time.perf_counter() - start
    connection.close()
    return seconds


# open: a connection for every request ---------------------------------------------------------


def open_handler(connection: Connection) -> None:
    connection.sendall(receive_exactly(connection, REQUEST))
    expect_end(connection)


def open_client(callers: int, connect: Connect, count: int) -> float:
    request = bytes(range(256)) * (REQUEST // 256)

    def caller() -> None:
        for _ in range(count // callers):
            connection = connect()
            connection.sendall(request)
            if receive_exactly(connection, REQUEST) != request:
                raise ValueError("the echo is not what was sent")
            connection.close()

    return together([caller] * callers)


def _open(name: str, callers: int, count: int, *, workers: int = 0, tls: bool = False) -> Scenario:
    server = f"{workers} waiting workers" if workers else "a thread for each"
    return Scenario(
        name,
        f"open{' over TLS' if tls else ''}, 1 KiB echo, close; {callers} callers, {server}",
        OPENS,
        functools.partial(open_client, callers),
        open_handler,
        count,
        count // 8,
        workers,
        tls,
    )


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "rtt",
            "1 byte there and back",
            ROUND_TRIPS,
            rtt_client,
            rtt_handler,
            10_000,
            2_000,
            # Where the kernel happens to put the two processes makes much of the difference
            # between one round and the next.
            rounds=15,
        ),
        Scenario(
            "bulk",
            "192 MiB from client to server",
            BYTES,
            bulk_client,
            bulk_handler,
            192 * MIB,
            48 * MIB,
        ),
        Scenario(
            "bulk-down",
            "192 MiB from server to client",
            BYTES,
            bulk_down_client,
            bulk_down_handler,
            192 * MIB,
            48 * MIB,
        ),
        Scenario(
            "bulk-64",
            "64 at once, 4 MiB each",
            BYTES,
            functools.partial(bulk_many_client, 64),
            bulk_handler,
            256 * MIB,
            64 * MIB,
        ),
        Scenario(
            "messages",
            "a million sends of 64 bytes",
            MESSAGES,
            messages_client,
            messages_handler,
            1_000_000,
            100_000,
        ),
        _open("open-1", 1, 2_000),
        _open("open-8", 8, 4_000),
        _open("open-64", 64, 6_400),
        _open("open-8-pool", 8, 4_000, workers=16),
        _open("open-64-pool", 64, 6_400, workers=16),
        _open("tls-open-8", 8, 1_600, tls=True),
        Scenario(
            "bulk-tls",
            "192 MiB from client to server over TLS",
            BYTES,
            bulk_client,
            bulk_handler,
            192 * MIB,
            48 * MIB,
            tls=True,
        ),
    )
}
