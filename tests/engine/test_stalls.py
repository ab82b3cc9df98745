"""Short streams of a peer that writes a frame's header and its body apart, as Go's muxado does.

Each half comes in a read of its own. Where the server gives each stream a thread, several threads
wait meanwhile, and one that nobody wakes waits for the reader thread's next look.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable

import pytest

import muxado

from ..helpers.crew import Crew
from ..helpers.support import DATA, FIN, SYN, RawPeer, frame

#: Streams, and how many at once.
COUNT, AT_ONCE = 400, 4
#: Seconds that no short stream takes that is not stalled, and the share that may.
SLOW, SHARE = 0.004, 0.01
#: A busy machine is slow now and then, and not each time.
ATTEMPTS = 5


def handle(stream: muxado.Stream) -> None:
    with stream:
        question = stream.recv(100, socket.MSG_WAITALL)
        stream.sendall(question[:8])
        assert stream.recv(1) == b""


class Client:
    """The peer: asks on new streams, four at a time, and takes the time until each is over."""

    def __init__(self, peer: RawPeer) -> None:
        self._peer = peer
        self._lock = threading.Lock()  # of the connection
        self._asked: dict[int, float] = {}
        self._free = threading.Semaphore(AT_ONCE)
        self.times: list[float] = []

    def _send(self, head: bytes, body: bytes) -> None:
        with self._lock:
            self._peer.sock.sendall(head)
            self._peer.sock.sendall(body)

    def ask(self) -> None:
        rng = random.Random(1)
        for number in range(3, 3 + 2 * COUNT, 2):
            self._free.acquire()
            self._asked[number] = time.perf_counter()
            whole = frame(DATA, SYN, number, bytes(100))
            self._send(whole[:8], whole[8:])
            if rng.random() < 0.2:
                time.sleep(0.0005)  # what makes the threads of the server meet in other orders

    def hear(self) -> None:
        left = COUNT
        while left:
            got = self._peer.read()
            assert got is not None
            if got.type == DATA and got.body:
                whole = frame(DATA, FIN, got.stream_id)
                self._send(whole[:8], whole[8:])
            if got.type == DATA and got.flags & FIN:
                self.times.append(time.perf_counter() - self._asked.pop(got.stream_id))
                self._free.release()
                left -= 1


def slow_ones(peer: RawPeer, crew: Crew) -> tuple[int, int]:
    """How many streams were slow, and how many callers had to be rescued."""
    client = Client(peer)

    def serve() -> None:
        for stream in peer.session:
            crew.start(handle, stream)

    crew.start(serve)
    hearing = crew.start(client.hear)
    crew.start(client.ask).result()
    hearing.result()
    return sum(each > SLOW for each in client.times), peer.session.stats().rescues


def test_short_streams_are_not_stalled(raw: Callable[..., RawPeer], crew: Crew) -> None:
    found = []
    for _ in range(ATTEMPTS):
        peer = raw(heartbeat_interval=None)
        found.append(slow_ones(peer, crew))
        peer.session.close()
        if found[-1][0] <= COUNT * SHARE and found[-1][1] <= COUNT * SHARE:
            return
    pytest.fail(f"of {COUNT} streams slow, and rescued: {found}")
