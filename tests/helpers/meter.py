"""Counts what a pair of sessions costs: system calls, frames, and wake-ups from thread to thread.

Only the interface of ``Transport`` is looked at, and the one function through which threads are
woken, so that the counting stays right whatever the engine does in between.
"""

from __future__ import annotations

import collections
import socket
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import muxado
from muxado.engine.shared import Shared
from muxado.transport import Buffer, Transport, wrap

#: Methods of a transport that make no system call.
_FREE = {"inside", "getsockname", "getpeername"}


class Frames:
    """Counts the frames in what is written, piece by piece."""

    def __init__(self) -> None:
        self.count = 0
        self._head = bytearray()
        self._body = 0  # bytes of the current frame's body that are still to come

    def feed(self, data: memoryview) -> None:
        at = 0
        while at < len(data):
            if self._body:
                step = min(self._body, len(data) - at)
                self._body -= step
            else:
                step = min(8 - len(self._head), len(data) - at)
                self._head += data[at : at + step]
                if len(self._head) == 8:
                    self.count += 1
                    self._body = int.from_bytes(self._head[:3], "big")
                    self._head.clear()
            at += step


class Meter:
    """What several sessions did, all together."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: collections.Counter[str] = collections.Counter()
        self._written: list[Frames] = []
        wake = Shared._wake_locked

        def counted(shared: Shared, waiter: Any) -> None:
            # One who is awake already is not woken; one who leads is, through the transport.
            if waiter.locked():
                self.calls["wake-up"] += 1
            wake(shared, waiter)

        monkeypatch.setattr(Shared, "_wake_locked", counted)

    def transport(self, sock: socket.socket) -> Transport:
        """A transport for a session, whose every call is counted."""
        made = wrap(sock)
        for name in dir(made):
            method = getattr(made, name)
            if not name.startswith("_") and callable(method) and name not in _FREE:
                setattr(made, name, self._counted(name, method))
        frames = Frames()
        self._written.append(frames)
        send = made.send

        def seen(buffers: Sequence[Buffer]) -> int:
            sent = send(buffers)
            frames.feed(memoryview(b"".join(buffers))[:sent])
            return sent

        made.send = seen  # type: ignore[method-assign]
        return made

    def _counted(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self.calls[name] += 1
            return method(*args)

        return call

    def sessions(
        self, near: socket.socket, far: socket.socket, **options: Any
    ) -> tuple[muxado.Session, muxado.Session]:
        """A client and a server, both counted."""
        return (
            muxado.client(self.transport(near), **options),
            muxado.server(self.transport(far), **options),
        )

    def reset(self) -> None:
        """Count from here."""
        self.calls.clear()
        for frames in self._written:
            frames.count = 0

    def per(self, operations: int) -> dict[str, float]:
        """For one operation, both ends together: by method, and in all."""
        counts = {name: count / operations for name, count in sorted(self.calls.items())}
        system = sum(count for name, count in counts.items() if name != "wake-up")
        frames = sum(each.count for each in self._written) / operations
        return {"wake-up": 0.0, **counts, "system calls": system, "frames": frames}
