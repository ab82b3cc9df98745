"""A connection in memory, whose every call is a point for the scheduler.

It holds a bounded number of bytes each way, takes and gives them in short pieces, and ends as a
Unix socket does: what was written before the end can still be read, and closing with bytes unread
is an error to the peer behind them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import NamedTuple

from muxado.transport import Buffer, Transport

from .world import World

__all__ = ["Cuts", "Memory", "connect"]


class Cuts(NamedTuple):
    """How a connection behaves."""

    room: int  #: bytes under way at once
    read: int  #: bytes of one read at most
    write: int  #: bytes of one write at most
    #: Bytes that it takes and keeps although they cannot go yet, as TLS does; 0 for none.
    keeps: int = 0
    #: Whoever is about to wait for bytes looks once more, awake.
    spins: bool = False


class Line:
    """One direction."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.bytes = bytearray()
        self.ended = False  # nothing more is written
        self.broken = False  # reading it fails once it is empty
        self.closed = False  # nobody reads it any more

    @property
    def readable(self) -> bool:
        return bool(self.bytes) or self.ended or self.broken

    @property
    def writable(self) -> bool:
        return len(self.bytes) < self.room or self.closed or self.ended or self.broken

    def read(self, size: int) -> bytes | None:
        """Up to ``size`` bytes, nothing at the end, ``None`` where there is nothing yet."""
        if self.bytes:
            part = bytes(self.bytes[:size])
            del self.bytes[:size]
            return part
        if self.broken:
            raise _error(errno.ECONNRESET)
        return b"" if self.ended else None

    def write(self, data: bytes) -> int:
        """Take what fits."""
        if self.closed or self.broken or self.ended:
            raise _error(errno.EPIPE)
        part = data[: self.room - len(self.bytes)]
        self.bytes += part
        return len(part)

    def reset(self) -> None:
        """The connection breaks, and what was under way is lost."""
        self.bytes.clear()
        self.broken = True


class Memory(Transport):
    """One end, for the engine."""

    def __init__(self, world: World, inward: Line, outward: Line, cuts: Cuts) -> None:
        self._world = world
        self._inward, self._outward = inward, outward
        self._cuts = cuts
        self._woken = False
        self._kept = b""  # taken, and not under way yet
        self.given_back = False
        self.written = []

    @property
    def pending(self) -> bool:  # type: ignore[override]
        return bool(self._kept)

    def recv_into(self, into: memoryview) -> int | None:
        self._world.point()
        self._check()
        data = self._inward.read(min(self._cuts.read, len(into)))
        if data is None:
            return None
        into[: len(data)] = data
        self._world.point()
        return len(data)

    def send(self, buffers: Sequence[Buffer]) -> int:
        self._world.point()
        self._check()
        if self._kept:
            self._kept = self._kept[self._outward.write(self._kept) :]
            if self._kept:
                return 0
        part = b"".join(buffers)[: self._cuts.write]
        count = self._outward.write(part)
        if count < len(part) and self._cuts.keeps:
            self._kept = part[count : count + self._cuts.keeps]
            count += len(self._kept)
        self.written.append(count)
        self._world.point()
        return count

    def spin(self) -> bool:
        self._world.point()
        if not self._cuts.spins:
            return False
        woken, self._woken = self._woken, False
        return woken or self._inward.readable

    def wait_readable(self, seconds: float | None) -> None:
        self._world.point()
        self._world.wait(lambda: self._woken or self._inward.readable, seconds)
        self._woken = False

    def wait_writable(self, seconds: float | None) -> None:
        self._world.point()
        self._world.wait(lambda: self._outward.writable, seconds)

    def readable(self) -> bool:
        return self._inward.readable

    def wake(self) -> None:
        self._woken = True
        self._world.point()

    def finish(self) -> None:
        self._outward.ended = True
        self._world.point()

    def drain(self, deadline: float) -> None:
        self._world.point()  # what was written is out of this end's hands

    def linger(self, into: memoryview, deadline: float) -> None:
        self.shutdown()
        try:
            while self.recv_into(into):
                pass
        except OSError:
            pass  # the other end was faster

    def shutdown(self) -> None:
        self._inward.ended = self._outward.ended = True
        self.wake()

    def close(self) -> None:
        if not self.given_back:
            self.given_back = True
            _close(self._inward, self._outward)
        self._world.point()

    def abandon(self) -> None:
        self.given_back = True  # the other end is not told

    def _check(self) -> None:
        if self.given_back:
            raise _error(errno.EBADF)


def connect(world: World, cuts: Cuts) -> tuple[Memory, Memory]:
    """Two ends joined."""
    there, back = Line(cuts.room), Line(cuts.room)
    return Memory(world, back, there, cuts), Memory(world, there, back, cuts)


def cut(end: Memory) -> None:
    """The connection breaks, seen from both its ends."""
    end._inward.reset()
    end._outward.reset()


def _close(inward: Line, outward: Line) -> None:
    outward.ended = True
    outward.broken = outward.broken or bool(inward.bytes)
    inward.closed = True


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
