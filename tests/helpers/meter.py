"""Counts what a pair of sessions costs: system calls, frames, wake-ups, turns of the lock.

Only the interface of ``Transport`` is looked at, the one function through which threads are woken,
and the one lock of a session, so that the counting stays right whatever the engine does in between.
"""

from __future__ import annotations

import collections
import socket
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import muxado
from muxado.engine.waiting import Waiter
from muxado.transport import Buffer, Transport, wrap

from .gates import HookedLock

#: Methods of a transport that make no system call.
_FREE = {"getsockname", "getpeername"}
#: What is counted beside the methods of transports.
_NO_CALLS = {"wake-up", "turn of the lock"}


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
        wake = Waiter.wake

        def counted(waiter: Waiter) -> None:
            # One who is awake already is not woken; one who leads is, through the transport.
            if waiter.connection is None and not waiter.woken:
                self.calls["wake-up"] += 1
            wake(waiter)

        monkeypatch.setattr(Waiter, "wake", counted)

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
        pair = (
            muxado.client(self.transport(near), **options),
            muxado.server(self.transport(far), **options),
        )
        for session in pair:
            core = session._engine.core
            with core.lock:
                core.lock = HookedLock(core.lock, self._count_turn)
        return pair

    def _count_turn(self) -> None:
        self.calls["turn of the lock"] += 1

    def reset(self) -> None:
        """Count from here."""
        self.calls.clear()
        for frames in self._written:
            frames.count = 0

    def per(self, operations: int) -> dict[str, float]:
        """For one operation, both ends together: by method, and in all."""
        counts = {name: count / operations for name, count in sorted(self.calls.items())}
        system = sum(count for name, count in counts.items() if name not in _NO_CALLS)
        frames = sum(each.count for each in self._written) / operations
        none = {"wake-up": 0.0, "turn of the lock": 0.0}
        return {**none, **counts, "system calls": system, "frames": frames}
