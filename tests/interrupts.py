"""An exception at any chosen place where CPython lets a signal's handler run.

Handlers run in the main thread between two instructions, but not between any two: where a
function begins, where a loop goes back, and where a call has returned. These are the *places*, in
the order in which an operation comes to them; an exception from a handler that strikes there
looks to the code as if the call, or the instruction, had raised it.
"""

from __future__ import annotations

import dis
import itertools
import os
import sys
from collections.abc import Callable
from functools import cache
from types import CodeType, FrameType
from typing import Any

import muxado

HERE = os.path.dirname(muxado.__file__) + os.sep


class Interrupt(BaseException):
    """What the handler raises."""


@cache
def places(code: CodeType) -> frozenset[int]:
    """Offsets of the instructions before which a handler may have run, but for the first.

    Where an instruction behind a call is not guarded as the call is, an exception raised before
    it would not be the same as one out of the call; `WithinCalls` strikes there.
    """
    found = set()
    guarded = _guards(code)
    instructions = list(dis.get_instructions(code))
    for before, here in itertools.pairwise(instructions):
        called = before.opname.startswith("CALL") and "INTRINSIC" not in before.opname
        if called and guarded(before.offset) == guarded(here.offset):
            found.add(here.offset)
    for here in instructions:
        backward = here.opname.startswith("JUMP_BACKWARD")
        absolute = here.opname == "JUMP_ABSOLUTE" and here.argval <= here.offset
        if (backward and "NO_INTERRUPT" not in here.opname) or absolute:
            found.add(here.offset)
    return frozenset(found)


def _guards(code: CodeType) -> Callable[[int], object]:
    """A function that tells which handler guards an offset."""
    parse = getattr(dis, "_parse_exception_table", None)
    if parse is None:  # before 3.11 that was not a matter of the offset
        return lambda offset: None
    table = parse(code)

    def handler(offset: int) -> object:
        for entry in table:
            if entry.start <= offset < entry.end:
                return entry.target, entry.depth, entry.lasti
        return None

    return handler


def _in_a_finalizer(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


class _Striker:
    """Counts places in the thread that enters it, and raises at one of them."""

    def __init__(self, place: int) -> None:
        self._left = place
        self.struck: str | None = None

    def _come(self, frame: FrameType) -> None:
        self._left -= 1
        if self._left <= 0 and not _in_a_finalizer(frame):  # there it would be lost
            code = frame.f_code
            name = getattr(code, "co_qualname", code.co_name)
            self.struck = f"{name}, line {frame.f_lineno}"
            raise Interrupt(self.struck)


class Between(_Striker):
    """Strikes where a function begins, a loop goes back, or a call has returned."""

    def __enter__(self) -> Between:
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(HERE) or self.struck:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        stops = places(code)

        def trace(frame: FrameType, event: str, arg: Any) -> Any:
            if event == "opcode" and frame.f_lasti in stops and not self.struck:
                self._come(frame)
            return trace

        self._come(frame)
        return trace


class WithinCalls(_Striker):
    """Strikes where a function written in C has returned, as if that had raised."""

    def __enter__(self) -> WithinCalls:
        self._before = sys.getprofile()
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(self._before)

    def _profile(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "c_return" and not self.struck and frame.f_code.co_filename.startswith(HERE):
            self._come(frame)
