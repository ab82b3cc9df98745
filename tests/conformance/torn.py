"""A connection that takes and gives bytes in pieces of any size, and often says that it would wait.

A kernel may do all of that at any time, and seldom does. What it does here comes from a seed.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence

from muxado.transport import Buffer, SocketTransport

__all__ = ["Torn"]

#: Bytes of one read or write at most: inside a header, a header, about a frame, and much.
PIECES = (1, 2, 5, 8, 9, 60, 1000, 16384, 2**20)
#: How often it does not do what it could.
IDLE = 0.2


class Torn(SocketTransport):
    """A socket, cut short."""

    def __init__(self, sock: socket.socket, seed: int) -> None:
        super().__init__(sock)
        # One for each seat: reading and writing go on at once.
        self._reads, self._writes = random.Random(seed), random.Random(seed + 1)

    def recv_into(self, into: memoryview) -> int | None:
        if self._reads.random() < IDLE:
            if self._reads.random() < 0.5:
                raise InterruptedError
            return None
        return self._sock.recv_into(into[: self._reads.choice(PIECES)])

    def send(self, buffers: Sequence[Buffer]) -> int:
        if self._writes.random() < IDLE:
            return 0
        try:
            return self._sock.send(b"".join(buffers)[: self._writes.choice(PIECES)])
        except (BlockingIOError, InterruptedError):
            return 0
