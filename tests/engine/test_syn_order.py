"""SYNs leave in the order of their ids, however many threads open streams at once.

Version 1 demands it, and in version 2 the id in a GOAWAY means nothing without it.
"""

from __future__ import annotations

import random
import socket
import threading

import pytest

import muxado

from ..helpers.crew import GUARD, Crew
from ..helpers.support import SYN
from ..helpers.version1 import frames_in
from ..session.test_recorded_peers import frames_of_version_2

THREADS, EACH = 16, 25


@pytest.mark.parametrize("version", [1, 2])
def test_many_threads_open_at_once(crew: Crew, version: int) -> None:
    ours, theirs = socket.socketpair()
    theirs.settimeout(GUARD)
    session = muxado.client(ours, version=version, heartbeat_interval=None)
    heard: list[bytes] = []
    together = threading.Barrier(THREADS)

    def opener(seed: int) -> None:
        rng = random.Random(seed)
        together.wait(GUARD)
        for _ in range(EACH):
            with session.open() as stream:
                if rng.random() < 0.7:
                    stream.sendall(bytes(rng.choice([1, 100, 5000])))

    with theirs:
        listening = crew.start(lambda: heard.extend(iter(lambda: theirs.recv(65536), b"")))
        for task in [crew.start(opener, seed) for seed in range(THREADS)]:
            task.result()
        session.close()
        listening.result()
    said = b"".join(heard)
    if version == 1:
        opened = [frame.stream_id for frame in frames_in(said) if frame.type == 1]
    else:
        frames = frames_of_version_2(said)
        opened = [f.stream_id for f in frames if f.type == 1 and f.flags & SYN]
    assert opened == list(range(3, 3 + 2 * THREADS * EACH, 2))
