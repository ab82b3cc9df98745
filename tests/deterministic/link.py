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

__all__ = ["Blocking", "Cuts", "Memory", "connect"]


class Cuts(NamedTuple):
    """How a connection behaves."""

    room: int  #: bytes under way at once
    read: int  #: bytes of one read at most
    write: int  #: bytes of one write at most
    #: Bytes that it takes and keeps although they cannot go yet, as TLS does; 0 for none.
    keeps: int = 0


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

    polled = True

    def __init__(self, world: World, inward: Line, outward: Line, cuts: Cuts) -> None:
        self._world = world
        self._inward, self._outward = inward, outward
        self._cuts = cuts
        self._woken = False
        self._kept = b""  # taken, and not under way yet
        self.given_back = False

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

    def recv_both(self, into: memoryview, behind: memoryview) -> int | None:
        both = bytearray(len(into) + len(behind))
        count = self.recv_into(memoryview(both))
        if count is not None:
            first = min(count, len(into))
            into[:first] = both[:first]
            behind[: count - first] = both[first:count]
        return count

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
        self._world.point()
        return count

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

    def discard(self, into: memoryview) -> int:
        count = self.recv_into(into)
        if count is None:
            raise _error(errno.EAGAIN)
        return count

    def shutdown(self) -> None:
        self._inward.ended = self._outward.ended = True
        self.wake()

    def close(self) -> None:
        if not self.given_back:
            self.given_back = True
            _close(self._inward, self._outward)
        self._world.point()

    def _check(self) -> None:
        if self.given_back:
            raise _error(errno.EBADF)


class Blocking:
    """One end as a user's object: it is no transport, and only its own ``close`` ends its calls."""

    def __init__(self, world: World, inward: Line, outward: Line, cuts: Cuts) -> None:
        self._world = world
        self._inward, self._outward = inward, outward
        self._cuts = cuts
        self.given_back = False

    def recv(self, size: int) -> bytes:
        self._world.point()
        self._world.wait(lambda: self.given_back or self._inward.readable)
        if self.given_back:
            raise _error(errno.EBADF)
        data = self._inward.read(min(size, self._cuts.read))
        assert data is not None
        self._world.point()
        return data

    def sendall(self, data: bytes) -> None:
        while data:
            self._world.point()
            self._world.wait(lambda: self.given_back or self._outward.writable)
            if self.given_back:
                raise _error(errno.EBADF)
            data = data[self._outward.write(data[: self._cuts.write]) :]
        self._world.point()

    def close(self) -> None:
        if not self.given_back:
            self.given_back = True
            _close(self._inward, self._outward)
        self._world.point()


def connect(
    world: World, cuts: Cuts, *, polled: bool
) -> tuple[Memory | Blocking, Memory | Blocking]:
    """Two ends joined."""
    make = Memory if polled else Blocking
    there, back = Line(cuts.room), Line(cuts.room)
    return make(world, back, there, cuts), make(world, there, back, cuts)


def cut(end: Memory | Blocking) -> None:
    """The connection breaks, seen from both its ends."""
    end._inward.reset()
    end._outward.reset()


def _close(inward: Line, outward: Line) -> None:
    outward.ended = True
    outward.broken = outward.broken or bool(inward.bytes)
    inward.closed = True


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
