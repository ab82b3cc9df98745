"""A stream that another thread closes, or resets, at any place of a call."""

from __future__ import annotations

import itertools
import os
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

import muxado

from ..helpers.crew import GUARD, Crew
from ..helpers.support import Sessions, until

HERE = os.path.dirname(muxado.__file__) + os.sep


def waiting(call: Callable[[muxado.Stream], object]) -> Callable[[muxado.Stream], object]:
    """``call`` once there is nothing to read, and for no longer than a moment."""

    def wait(stream: muxado.Stream) -> object:
        stream.recv(100)
        stream.settimeout(0.0005)
        try:
            return call(stream)
        except TimeoutError:
            return None

    return wait


CALLS: dict[str, Callable[[muxado.Stream], object]] = {
    "recv-waits": waiting(lambda stream: stream.recv(3)),
    "recv-into-waits": waiting(lambda stream: stream.recv_into(bytearray(3))),
    "recv": lambda stream: stream.recv(3),
    "recv-into": lambda stream: stream.recv_into(bytearray(3)),
    "peek": lambda stream: stream.recv(3, socket.MSG_PEEK),
    "send": lambda stream: stream.send(b"abc"),
    "sendall": lambda stream: stream.sendall(b"abc"),
    "send-now": lambda stream: stream.send(b"abc", socket.MSG_DONTWAIT),
    "hush": lambda stream: stream.shutdown(socket.SHUT_RD),
    "close-write": lambda stream: stream.close_write(),
    "fileno": lambda stream: stream.fileno(),
}


class At:
    """Calls ``action`` before the nth instruction that this thread is about to execute.

    Only instructions of the library count, and only while the thread holds no lock.
    """

    def __init__(self, number: int, stream: muxado.Stream, action: Callable[[], object]) -> None:
        self._left = number
        self._stream = stream
        self._action = action
        self.done = False

    def __enter__(self) -> At:
        self._before = sys.gettrace()
        # Since 3.12 a thread is traced by opcodes only if a frame asked for that beforehand.
        sys._getframe().f_trace_opcodes = True
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _locked(self) -> bool:
        stream: Any = self._stream
        pollers = [each for each in (stream._readiness, stream._state.poller) if each is not None]
        return any(each._lock._is_owned() for each in (stream._engine, *pollers))

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        if not frame.f_code.co_filename.startswith(HERE) or self.done:
            return None
        frame.f_trace = self._trace
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode" and not self._locked():
            self._left -= 1
            if not self._left:
                self.done = True
                self._action()
        return self._trace


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("polled", [False, True], ids=["", "polled"])
@pytest.mark.parametrize("call", CALLS)
def test_at_every_place(sessions: Sessions, crew: Crew, call: str, polled: bool, end: str) -> None:
    near, far = sessions.socketpair()
    for number in itertools.count(1):
        ours = near.open()
        ours.sendall(b"news")
        stream, _ = far.accept()
        stream.settimeout(GUARD)
        until(lambda stream=stream: stream._state.buffered)  # type: ignore[misc]
        if polled:
            stream.fileno()
        ending = getattr(stream, end)
        at = At(number, stream, lambda ending=ending: crew.start(ending).result())  # type: ignore[misc]
        try:
            with at:
                CALLS[call](stream)
        except OSError:
            if not at.done:
                raise
        stream.close()
        ours.close()
        if not at.done:
            assert number > 10
            break
    until(lambda: not near._engine.protocol.streams and not far._engine.protocol.streams)
    assert not far._engine._pins
