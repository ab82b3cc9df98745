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
from typing import TYPE_CHECKING, Any, NamedTuple

import muxado

if TYPE_CHECKING:
    from typing_extensions import Self

HERE = os.path.dirname(muxado.__file__) + os.sep

#: CPython 3.10 runs no handler where one of these comes next.
_UNDISTURBED = {"SETUP_FINALLY", "SETUP_WITH", "BEFORE_ASYNC_WITH", "YIELD_FROM"}


class Interrupt(BaseException):
    """What the handler raises."""


class Places(NamedTuple):
    """Where in a function's code a handler may run, but for its first instruction."""

    #: Offsets of the instructions before which one may have run, wherever they were come from.
    stops: frozenset[int]
    #: And where it may only for having jumped there: offsets of jumps, and where to.
    jumps: dict[int, int]


@cache
def places(code: CodeType) -> Places:
    """The places of ``code``.

    Where an instruction behind a call is not guarded as the call is, an exception raised before
    it would not be the same as one out of the call; `WithinCalls` strikes there.
    """
    stops: set[int] = set()
    jumps: dict[int, int] = {}
    guarded = guards(code)
    instructions = list(dis.get_instructions(code))
    names = {each.offset: each.opname for each in instructions}
    for before, here in itertools.pairwise(instructions):
        called = before.opname.startswith("CALL") and "INTRINSIC" not in before.opname
        if called and here.opname in _UNDISTURBED:
            continue
        if called and guarded(before.offset) == guarded(here.offset):
            stops.add(here.offset)
    prefixes: list[int] = []
    for here in instructions:
        prefixes.append(here.offset)
        if here.opname == "EXTENDED_ARG":
            continue
        if _checks(here) and names[here.argval] not in _UNDISTURBED:
            # What guards it is found by the instruction before the one that comes next: since
            # 3.13, where the check comes before the jump, by the jump.
            behind = here.offset if sys.version_info >= (3, 13) else here.argval - 2
            if guarded(behind) == guarded(here.argval):
                # A trace function is told of a jump's prefixes, of the jump, or of both.
                jumps.update(dict.fromkeys(prefixes, here.argval))
            elif sys.version_info >= (3, 13):
                stops.add(here.offset)
        prefixes = []
    return Places(frozenset(stops), jumps)


def _checks(jump: dis.Instruction) -> bool:
    """Whether handlers may run where ``jump`` is taken."""
    name = jump.opname
    if sys.version_info >= (3, 11):
        # POP_JUMP_BACKWARD_IF_TRUE and its like are 3.11's: later ones go back by JUMP_BACKWARD.
        return "JUMP_BACKWARD" in name and "NO_INTERRUPT" not in name
    return name in {"JUMP_ABSOLUTE", "POP_JUMP_IF_FALSE", "POP_JUMP_IF_TRUE"}  # forward too


def guards(code: CodeType) -> Callable[[int], object]:
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


class Tracer:
    """Has the thread that enters it traced by instructions."""

    def __enter__(self) -> Self:
        self._before = sys.gettrace()
        # Since 3.12 a thread is traced by opcodes only where any frame was to be before this.
        sys._getframe().f_trace_opcodes = True
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        raise NotImplementedError


class Between(Tracer, _Striker):
    """Strikes where a function begins, a loop goes back, or a call has returned."""

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(HERE) or self.struck:
            return None
        stops, jumps = places(code)
        before = -1  # the last instruction of this frame

        def trace(frame: FrameType, event: str, arg: Any) -> Any:
            nonlocal before
            if event == "opcode":
                last, before = before, frame.f_lasti
                if (before in stops or jumps.get(last) == before) and not self.struck:
                    self._come(frame)
            return trace

        frame.f_trace = trace  # first: since 3.13 it has no effect to ask for opcodes before
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
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


class Twice(Between):
    """Strikes as `Between` does, and again so many places later, in what clears up behind that.

    A trace function that has raised is not called again. The second strike is a profile
    function's: where a function begins, and where one written in C has returned.
    """

    def __init__(self, place: int, later: int) -> None:
        super().__init__(place)
        self._later = later
        self.again: str | None = None

    def __enter__(self) -> Twice:
        self._profiled = sys.getprofile()
        sys.setprofile(self._profile)
        super().__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        sys.setprofile(self._profiled)

    def _profile(self, frame: FrameType, event: str, arg: Any) -> None:
        if not self.struck or self.again or event not in ("call", "c_return"):
            return
        if frame.f_code.co_filename.startswith(HERE) and not _in_a_finalizer(frame):
            self._later -= 1
            if self._later <= 0:
                name = getattr(frame.f_code, "co_qualname", frame.f_code.co_name)
                self.again = f"{name}, line {frame.f_lineno}"
                raise Interrupt(self.again)
