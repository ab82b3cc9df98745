"""What the work is made of, for Python's peers: small uses of a connection, and jobs in threads."""

from __future__ import annotations

import queue
import struct
import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

BLOCK = 2**20  # bytes in one sendall of bulk data
READ = 256 * 1024  # bytes in the buffer that bulk data is received into
MESSAGE = 64  # bytes in one message
WARM_UP = 100  # round trips before the clock starts
ACK = b"."


class Connection(Protocol):
    """What the work needs of a socket, a TLS socket or a stream."""

    def sendall(self, data: bytes | memoryview, /) -> None: ...
    def recv(self, size: int, /) -> bytes: ...
    def recv_into(self, buffer: memoryview, /) -> int: ...
    def close(self) -> None: ...


Connect = Callable[[], Connection]
Handler = Callable[[Connection], None]
Figures = dict[str, float]
Client = Callable[[Connect, int, int], Figures]


class Kind(NamedTuple):
    client: Client
    handler: Handler
    inline: bool = False  # the one who accepts handles too, and nobody closes


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


def send_size(connection: Connection, size: int) -> None:
    connection.sendall(struct.pack(">Q", size))


def receive_size(connection: Connection) -> int:
    (size,) = struct.unpack(">Q", receive_exactly(connection, 8))
    return int(size)


def expect_ack(connection: Connection) -> None:
    answer = receive_exactly(connection, 1)
    if answer != ACK:
        raise ValueError(f"{answer!r} came instead of the acknowledgement")


def expect_end(connection: Connection) -> None:
    extra = connection.recv(1)
    if extra:
        raise ValueError(f"{extra!r} came instead of the end")


def echo(connection: Connection) -> None:
    """Send back every byte by itself, to the end."""
    while data := connection.recv(1):
        connection.sendall(data)


def round_trip(connection: Connection) -> None:
    connection.sendall(b"x")
    if connection.recv(1) != b"x":
        raise EOFError("the echo did not come")


def prepared(connect: Connect, size: int) -> Connection:
    """A connection whose server knows that ``size`` bytes will come."""
    connection = connect()
    send_size(connection, size)
    expect_ack(connection)
    return connection


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


def timed(job: Callable[[], None]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start
