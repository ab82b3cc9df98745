"""The work, written once for all of Python's peers; ``go/`` does the same in Go.

Each kind is a *client* that is given ``connect()``, an amount of work and a number of streams, and
returns the figures of one round by name, and a *handler* that the server runs on each connection
that it accepts. The client tells the server how much there is to do inside the connection itself,
so rounds of any size can follow one another.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from pathlib import Path

from benchmarks.latency import (
    latency_client,
    latency_handler,
    push_client,
    push_handler,
    think_client,
    think_handler,
)
from benchmarks.parts import (
    ACK,
    MESSAGE,
    WARM_UP,
    Connect,
    Connection,
    Figures,
    Kind,
    echo,
    expect_ack,
    expect_end,
    pour,
    prepared,
    receive_exactly,
    receive_size,
    send_size,
    sink,
    timed,
    together,
)

REQUEST = 1024  # bytes sent and echoed by "open"
KEEP, WEIGH = b"k", b"w"  # what is asked of the server of "idle"

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
    "think": Kind(think_client, think_handler),
    "push": Kind(push_client, push_handler),
    "idle": Kind(idle_client, idle_handler, inline=True),
    # Its clients are programs of their own: see Peer.first_command().
    "start": Kind(rtt_client, echo),
}
