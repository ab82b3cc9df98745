"""The kinds of work that measure latency: beside a bulk transfer, and of callers that pause.

``go/latency.go`` does the same in Go.
"""

from __future__ import annotations

import functools
import random
import struct
import threading
import time

from benchmarks.parts import (
    ACK,
    BLOCK,
    MESSAGE,
    READ,
    WARM_UP,
    Connect,
    Connection,
    Figures,
    echo,
    expect_end,
    prepared,
    receive_exactly,
    receive_size,
    round_trip,
    send_size,
    together,
)

PROBE, BULK = b"p", b"b"  # what a connection of "latency" is for

# Seconds. Each random sequence has the connection's number as its seed, so that every round and
# every peer has the same.
THINKING = (0.2e-3, 4e-3)  # of a caller before a request
ANSWERING = (0.5e-3, 2e-3)  # of the server before its answer
PAUSING = (0.2e-3, 1e-3)  # of a reader after a message
BETWEEN_MESSAGES = 2e-3  # on average, to one reader


def percentile(times: list[float], percent: int) -> float:
    return sorted(times)[len(times) * percent // 100]


def percentiles(times: list[float]) -> Figures:
    return {"p50": percentile(times, 50), "p99": percentile(times, 99)}


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
    return {**percentiles(times), **figures}


# think: requests of callers that pause in between -----------------------------------------------

_DELAY = struct.Struct(f">Q{MESSAGE - 8}x")  # nanoseconds that the server is to wait; the request


def think_handler(connection: Connection) -> None:
    requests = receive_size(connection)
    connection.sendall(ACK)
    for _ in range(requests):
        request = receive_exactly(connection, MESSAGE)
        (delay,) = _DELAY.unpack(request)
        time.sleep(delay / 1e9)
        connection.sendall(request)
    expect_end(connection)


def think_client(connect: Connect, count: int, streams: int) -> Figures:
    times: list[float] = []

    def caller(connection: Connection, seed: int) -> None:
        chance = random.Random(seed)
        beyond = []
        for _ in range(count // streams):
            time.sleep(chance.uniform(*THINKING))
            delay = chance.uniform(*ANSWERING)
            request = _DELAY.pack(round(delay * 1e9))
            begun = time.perf_counter()
            connection.sendall(request)
            receive_exactly(connection, MESSAGE)
            beyond.append(time.perf_counter() - begun - delay)
        times.extend(beyond)

    connections = [prepared(connect, count // streams) for _ in range(streams)]
    together(functools.partial(caller, each, seed) for seed, each in enumerate(connections))
    for connection in connections:
        connection.close()
    return percentiles(times)


# push: messages at random times to readers that pause after each --------------------------------

_SENT = struct.Struct(f">Q{MESSAGE - 8}x")  # when, in nanoseconds of the monotonic clock


def push_handler(connection: Connection) -> None:
    seed, messages = receive_size(connection), receive_size(connection)
    chance = random.Random(seed)
    for _ in range(messages):
        time.sleep(chance.expovariate(1 / BETWEEN_MESSAGES))
        connection.sendall(_SENT.pack(time.monotonic_ns()))
    expect_end(connection)


def push_client(connect: Connect, count: int, streams: int) -> Figures:
    all_seconds: list[float] = []  # from send to receipt
    late_seconds: list[float] = []  # the same without the reader's pause

    def reader(connection: Connection, seed: int) -> None:
        chance = random.Random(seed)
        send_size(connection, seed)
        send_size(connection, count // streams)
        for _ in range(count // streams):
            called = time.monotonic_ns()
            (sent,) = _SENT.unpack(receive_exactly(connection, MESSAGE))
            received = time.monotonic_ns()  # the server's process reads the same clock
            all_seconds.append((received - sent) / 1e9)
            late_seconds.append((received - max(called, sent)) / 1e9)
            time.sleep(chance.uniform(*PAUSING))

    connections = [connect() for _ in range(streams)]
    together(functools.partial(reader, each, seed) for seed, each in enumerate(connections))
    for connection in connections:
        connection.close()
    # More than one message in a hundred comes when its reader has just begun a long pause, whatever
    # carries it.
    return {"p50": percentile(all_seconds, 50), "p99": percentile(late_seconds, 99)}
