"""The work, written once for all of Python's peers; ``go/work.go`` does the same in Go.

Each kind is a *client* that is given ``connect()``, an amount of work and a number of streams, and
returns the figures of one round by name, and a *handler* that the server runs on each connection
that it accepts. The client tells the server how much there is to do inside the connection itself,
so rounds of any size can follow one another.
"""

from __future__ import annotations

import functools
import gc
import queue
import struct
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

BLOCK = 2**20  # bytes in one sendall of bulk data
READ = 256 * 1024  # bytes in the buffer that bulk data is received into
REQUEST = 1024  # bytes sent and echoed by "open"
MESSAGE = 64  # bytes in one message
WARM_UP = 100  # round trips before the clock starts
ACK = b"."
PROBE, BULK = b"p", b"b"  # what a connection of "latency" is for
KEEP, WEIGH = b"k", b"w"  # what is asked of the server of "idle"


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


# rtt: one byte there and back -----------------------------------------------------------------


def rtt_client(connect: Connect, count: int, streams: int) -> Figures:
    def trips(connection: Connection, number: int) -> None:
        for _ in range(number):
            connection.sendall(b"x")
            if connection.recv(1) != b"x":
                raise EOFError("the echo did not come")

    connections = [connect() for _ in range(streams)]
    for connection in connections:
        trips(connection, min(WARM_UP, count))
    jobs = [functools.partial(trips, each, count // streams) for each in connections]
    seconds = timed(jobs[0]) if streams == 1 else together(jobs)
    for connection in connections:
        connection.close()
    return {"seconds": seconds}


# open: a connection for every request ---------------------------------------------------------


def open_handler(connection: Connection) -> None:
    connection.sendall(receive_exactly(connection, REQUEST))
    expect_end(connection)


def open_client(connect: Connect, count: int, callers: int) -> Figures:
    request = bytes(range(256)) * (REQUEST // 256)

    def caller() -> None:
        for _ in range(count // callers):
            connection = connect()
            connection.sendall(request)
            if receive_exactly(connection, REQUEST) != request:
                raise ValueError("the echo is not what was sent")
            connection.close()

    return {"seconds": together([caller] * callers)}


# bulk, down, both: many bytes, to the server, from it, and both at once -------------------------


def bulk_handler(connection: Connection) -> None:
    size = receive_size(connection)
    connection.sendall(ACK)
    sink(connection, size)
    connection.sendall(ACK)
    expect_end(connection)


def _upload(connection: Connection, size: int) -> None:
    pour(connection, size)
    expect_ack(connection)


def _each(connect: Connect, size: int, streams: int, job: Callable[[Connection], None]) -> Figures:
    """Do the job on so many connections at once, each prepared for its share of ``size``."""
    connections = [prepared(connect, size // streams) for _ in range(streams)]
    jobs = [functools.partial(job, connection) for connection in connections]
    seconds = timed(jobs[0]) if streams == 1 else together(jobs)
    for connection in connections:
        connection.close()
    return {"seconds": seconds}


def bulk_client(connect: Connect, size: int, streams: int) -> Figures:
    return _each(connect, size, streams, lambda connection: _upload(connection, size // streams))


def down_handler(connection: Connection) -> None:
    pour(connection, receive_size(connection))
    expect_end(connection)


def down_client(connect: Connect, size: int, streams: int) -> Figures:
    connection = connect()

    def download() -> None:
        send_size(connection, size)
        sink(connection, size)

    seconds = timed(download)
    connection.close()
    return {"seconds": seconds}


def both_handler(connection: Connection) -> None:
    size = receive_size(connection)
    connection.sendall(ACK)
    together([lambda: pour(connection, size), lambda: sink(connection, size)])
    connection.sendall(ACK)
    expect_end(connection)


def both_client(connect: Connect, size: int, streams: int) -> Figures:
    connection = prepared(connect, size)

    def receive() -> None:
        sink(connection, size)
        expect_ack(connection)

    seconds = together([lambda: pour(connection, size), receive])
    connection.close()
    return {"seconds": seconds}


# messages: many small sends -------------------------------------------------------------------


def messages_handler(connection: Connection) -> None:
    left = receive_size(connection)
    connection.sendall(ACK)
    while left > 0:
        got = len(connection.recv(65536))
        if not got:
            raise EOFError(f"the connection ended {left} bytes before its end")
        left -= got
    connection.sendall(ACK)
    expect_end(connection)


def messages_client(connect: Connect, count: int, streams: int) -> Figures:
    message = bytes(MESSAGE)

    def send(connection: Connection) -> None:
        for _ in range(count // streams):
            connection.sendall(message)
        expect_ack(connection)

    return _each(connect, count // streams * streams * MESSAGE, streams, send)


# latency: a round trip while bulk data goes the same way ----------------------------------------


def latency_handler(connection: Connection) -> None:
    if receive_exactly(connection, 1) == PROBE:
        echo(connection)
        return
    buffer = memoryview(bytearray(READ))
    while connection.recv_into(buffer):
        pass


def latency_client(connect: Connect, count: int, streams: int) -> Figures:
    probe = connect()
    probe.sendall(PROBE)
    round_trip(probe)
    bulk = connect()
    bulk.sendall(BULK)
    blocks = 0
    flowing, stop = threading.Event(), threading.Event()

    def flood() -> None:
        nonlocal blocks
        block = memoryview(bytes(BLOCK))
        try:
            while not stop.is_set():
                bulk.sendall(block)
                blocks += 1
                flowing.set()
        finally:
            flowing.set()

    times: list[float] = []
    figures: Figures = {}

    def ask() -> None:
        flowing.wait()
        try:
            for _ in range(min(WARM_UP, count) // 10):
                round_trip(probe)
            before, start = blocks, time.perf_counter()
            for _ in range(count):
                begun = time.perf_counter()
                round_trip(probe)
                times.append(time.perf_counter() - begun)
            sent, seconds = (blocks - before) * BLOCK, time.perf_counter() - start
            # Half a block on the way at either end is as good as it gets.
            figures["bulk"] = seconds / max(sent, BLOCK // 2)
        finally:
            stop.set()

    together([flood, ask])
    bulk.close()
    probe.close()
    times.sort()
    return {"p50": times[count // 2], "p99": times[count * 99 // 100], **figures}


# idle: what a connection costs that does nothing ------------------------------------------------


def private_memory() -> int:
    """Bytes of this process's memory that nobody shares: what it has written to."""
    gc.collect()
    for line in Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) * 1024
    raise ValueError("/proc/self/smaps_rollup does not tell Private_Dirty")


def kernel_memory() -> int:
    """Bytes that the kernel has for its own small objects, sockets among them; 0 if unknown."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("Slab:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


_kept: list[Connection] = []  # the server's idle connections


def idle_handler(connection: Connection) -> None:
    question = receive_exactly(connection, 1)
    if question == WEIGH:
        send_size(connection, private_memory())
    else:
        connection.sendall(ACK)
    _kept.append(connection)


def _weigh(connection: Connection) -> int:
    """Memory of both ends together."""
    connection.sendall(WEIGH)
    theirs = receive_size(connection)
    return theirs + private_memory()


def idle_client(connect: Connect, count: int, streams: int) -> Figures:
    first = connect()  # whatever is made once and for all is made now
    before, kernel = _weigh(first), kernel_memory()
    idle = []
    for _ in range(count - 1):
        connection = connect()
        connection.sendall(KEEP)
        expect_ack(connection)
        idle.append(connection)
    idle.append(connect())
    after, kernel_after = _weigh(idle[-1]), kernel_memory()
    for connection in idle:
        connection.close()
    first.close()
    grown = float(after - before)
    return {"bytes": grown, "all": grown + kernel_after - kernel}


KINDS: dict[str, Kind] = {
    "rtt": Kind(rtt_client, echo),
    "open": Kind(open_client, open_handler),
    "bulk": Kind(bulk_client, bulk_handler),
    "down": Kind(down_client, down_handler),
    "both": Kind(both_client, both_handler),
    "messages": Kind(messages_client, messages_handler),
    "latency": Kind(latency_client, latency_handler),
    "idle": Kind(idle_client, idle_handler, inline=True),
    # Its clients are programs of their own: see Peer.first_command().
    "start": Kind(rtt_client, echo),
}
