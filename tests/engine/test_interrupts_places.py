"""The places that ``interrupts.py`` strikes at are those where CPython runs signals' handlers."""

from __future__ import annotations

import dis
import pathlib
import sys
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

import pytest

from ..helpers.interrupts import HERE, Between, Interrupt, WithinCalls, guards

#: More than 256 units of code: a jump over them has a prefix.
LONG = "        y = x + x\n" * 100

WHILE = """\
def f(seen, x):
    while x:
        seen += [x]
{more}        x -= 1
"""

FOR = """\
def f(seen, x):
    for y in x:
        seen += [y]
{more}
"""

FOREVER = """\
def f(seen, x):
    try:
        while True:
            seen += [x]
            x -= 1
            if not x:
                break
    finally:
        seen += ["over"]
"""

CALL = """\
def f(seen, x):
    seen += [0]
    y = len(x)
    seen += [y]
"""

BRANCH = """\
def f(seen, x):
    seen += [0]
    if x:
        seen += [1]
    y = x
"""

WITH = """\
def f(seen, x):
    with \\
        x():
        seen += [0]
"""


def struck(source: str, argument: Any, kind: Any = Between) -> list[tuple[int, Any]]:
    """For each place of the function in ``source`` its line, and what was seen last before it."""
    names: dict[str, Any] = {}
    exec(compile(source, HERE + "sample.py", "exec"), names)  # as if it were muxado's
    f: Callable[..., Any] = names["f"]
    found: list[tuple[int, Any]] = []
    while True:
        seen: list[Any] = [None]
        striker = kind(len(found) + 1)
        try:
            with striker:
                f(seen, argument)
        except Interrupt:
            line = int(striker.struck.rpartition(" ")[2])
            found.append((line, next(each for each in reversed(seen) if each != "over")))
        else:
            assert striker.struck is None
            return found


@pytest.mark.parametrize("more", ["", LONG], ids=["short", "long"])
def test_a_loop_without_a_call_is_struck_as_often_as_it_goes_back(more: str) -> None:
    assert struck(WHILE.format(more=more), 3) == [(1, None), (3, 3), (3, 2)]
    assert struck(FOR.format(more=more), [1, 2]) == [(1, None), (2, 1), (2, 2)]


def test_a_loop_that_is_left_from_inside() -> None:
    lines = struck(FOREVER, 3)
    assert [each for each in lines if each[0] == 4] == [(4, 3), (4, 2)]


def test_where_a_call_has_returned() -> None:
    assert struck(CALL, "ab") == [(1, None), (3, 0)]
    assert struck(CALL, "ab", WithinCalls) == [(3, 0)]


def test_a_jump_forward_is_a_place_of_3_10() -> None:
    assert struck(BRANCH, True) == [(1, None)]
    forward = [(5, 0)] if sys.version_info < (3, 11) else []
    assert struck(BRANCH, False) == [(1, None), *forward]


def test_between_a_call_and_with_no_handler_runs_on_3_10() -> None:
    class Manager:
        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            pass

    lines = struck(WITH, Manager)
    assert [seen for _, seen in lines] == [None, None, 0][-3 + (sys.version_info < (3, 11)) :]
    assert lines[0] == (1, None)


#: Only threads that handlers never run in come there.
ELSEWHERE = {"_see_off", "_read_loop"}


def codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from codes(each)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="what guards a loop guards its going back")
@pytest.mark.parametrize("part", ["engine/*.py", "transport.py", "protocol.py", "readiness.py"])
def test_no_exception_passes_by_the_release_of_a_lock(part: str) -> None:
    """CPython 3.13 lets one that strikes as some loops go back pass by what guards them."""
    for path in pathlib.Path(HERE).glob(part):
        for code in codes(compile(path.read_text(), str(path), "exec")):
            guarded, instructions = guards(code), list(dis.get_instructions(code))
            if not any(each.opname == "BEFORE_WITH" for each in instructions):
                continue
            bad = [
                each.offset
                for each in instructions
                if each.opname == "JUMP_BACKWARD"
                and guarded(each.argval) is not None
                and guarded(each.offset) != guarded(each.argval)
            ]
            assert not bad or code.co_name in ELSEWHERE, f"{path}, {code.co_name}: {bad}"
