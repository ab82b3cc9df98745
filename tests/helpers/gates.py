"""Where a test stops a thread, or lets something happen, at one point of the code; and a look."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import pytest

import muxado

from .crew import GUARD


class Gate:
    """The first thread that comes to it stands still until it is opened; later ones pass.

    Opened at the latest when the ``with`` block ends, so that a test that fails leaves nobody
    standing.
    """

    def __init__(self) -> None:
        self._ticket = threading.Semaphore()
        self._reached = threading.Event()
        self._opened = threading.Event()

    def stop(self, *_: object) -> None:
        """Stand still here, if nobody did before."""
        if self._ticket.acquire(blocking=False):
            self._reached.set()
            assert self._opened.wait(GUARD), "nobody opened the gate"

    def stop_large(self, buffers: Sequence[bytes]) -> None:
        """The same for a write that is larger than any control frame."""
        if sum(map(len, buffers)) > 5000:
            self.stop()

    def reached(self) -> None:
        """Wait until a thread stands here."""
        assert self._reached.wait(GUARD), "nobody came to the gate"

    def open(self) -> None:
        """Let it go on."""
        self._opened.set()

    def __enter__(self) -> Gate:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.open()


class HookedLock:
    """A session's lock that calls ``released`` when a thread has let go of it."""

    def __init__(self, lock: Any, released: Callable[[], object]) -> None:
        self._lock = lock
        self._released = released

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        self._lock.release()
        if not self._is_owned():
            self._released()

    def _is_owned(self) -> bool:
        owned: bool = self._lock._is_owned()
        return owned


class Calls:
    """Counts the calls of one object's method."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
        self.count = 0
        before(monkeypatch, owner, name, self._counted)

    def _counted(self, *_: object) -> None:
        self.count += 1


def before(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, action: Callable[..., object]
) -> None:
    """Have ``action`` called with the arguments before each call of one object's method."""
    call = getattr(owner, name)

    def called(*args: Any, **options: Any) -> Any:
        action(*args)
        return call(*args, **options)

    monkeypatch.setattr(owner, name, called)


def after(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, action: Callable[..., object]
) -> None:
    """The same after each call."""
    call = getattr(owner, name)

    def called(*args: Any, **options: Any) -> Any:
        result = call(*args, **options)
        action(*args)
        return result

    monkeypatch.setattr(owner, name, called)


class Once:
    """Calls ``action`` at the first call only."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action: Callable[[], object] | None = action

    def __call__(self, *_: object) -> None:
        action, self._action = self._action, None
        if action is not None:
            action()


class Plain:
    """A connection that is no socket to a session: it can only be read and written by blocking."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.recv = sock.recv
        self.sendall = sock.sendall
        self.shutdown = sock.shutdown
        self.close = sock.close


def polls(stream: muxado.Stream | muxado.Session, event: int) -> bool:
    """Whether the descriptor reports the event now."""
    poller = select.poll()
    poller.register(stream.fileno(), event)
    return bool(poller.poll(0))
