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

from ..helpers.crew import GUARD, Crew
from ..helpers.support import DATA, FIN, SYN, RawPeer, frame

#: Streams; and the share of them for which somebody may have to be rescued by the reader thread,
#: which happens also where a busy machine gives a thread that was woken no processor for so long.
COUNT, SHARE = 400, 0.01
ATTEMPTS = 5


def answer_and_close(stream: muxado.Stream) -> None:
    with stream:
        stream.sendall(stream.recv(100, socket.MSG_WAITALL))


def answer_and_wait(stream: muxado.Stream) -> None:
    with stream:
        stream.sendall(stream.recv(100, socket.MSG_WAITALL))
        assert stream.recv(1) == b""


class Client:
    """The peer: asks on new streams, several at a time, and waits for the end of each."""

    def __init__(self, peer: RawPeer, at_once: int) -> None:
        self._peer = peer
        self._lock = threading.Lock()  # of the connection
        self._free = threading.Semaphore(at_once)

    def _send(self, head: bytes, body: bytes = b"") -> None:
        with self._lock:
            self._peer.sock.sendall(head)
            if body:
                self._peer.sock.sendall(body)

    def ask(self) -> None:
        rng = random.Random(1)
        for number in range(3, 3 + 2 * COUNT, 2):
            assert self._free.acquire(timeout=GUARD)
            whole = frame(DATA, SYN, number, bytes(100))
            self._send(whole[:8], whole[8:])
            if rng.random() < 0.2:
                time.sleep(0.0005)  # the threads of the server meet in other orders

    def hear(self) -> None:
        left = COUNT
        while left:
            got = self._peer.read()
            assert got is not None
            if got.type == DATA and got.body:
                self._send(frame(DATA, FIN, got.stream_id))
            if got.type == DATA and got.flags & FIN:
                self._free.release()
                left -= 1


@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.parametrize("handle", [answer_and_close, answer_and_wait])
def test_nobody_waits_for_bytes_that_nobody_reads(
    raw: Callable[..., RawPeer],
    crew: Crew,
    handle: Callable[[muxado.Stream], None],
    at_once: int,
) -> None:
    def serve(session: muxado.Session) -> None:
        for stream in session:
            crew.start(handle, stream)

    rescues = []
    for _ in range(ATTEMPTS):
        peer = raw(heartbeat_interval=None)
        client = Client(peer, at_once)
        serving = crew.start(serve, peer.session)
        hearing = crew.start(client.hear)
        crew.start(client.ask).result()
        hearing.result()
        rescues.append(peer.session.stats().rescues)
        peer.session.close()
        serving.result()
        if rescues[-1] <= COUNT * SHARE:
            return
    pytest.fail(f"of {COUNT} streams, rescued: {rescues}")
