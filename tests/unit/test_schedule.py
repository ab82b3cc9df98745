"""Which stream sends next, against a model that does it the slow and obvious way."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muxado.protocol.schedule import Schedule

TOP = 0x7FFFFFFF  # the highest priority


class Model:
    """A list of items and priorities in the order that they came in."""

    def __init__(self) -> None:
        self.waiting: list[tuple[str, int]] = []

    def add(self, item: str, priority: int) -> None:
        if (item, priority) not in self.waiting:
            self.discard(item)
            self.waiting.append((item, priority))

    def discard(self, item: str) -> None:
        self.waiting = [each for each in self.waiting if each[0] != item]

    def pop(self) -> str:
        best = max(priority for _, priority in self.waiting)
        item = next(item for item, priority in self.waiting if priority == best)
        self.discard(item)
        return item


items = st.sampled_from("abcdefgh")
priorities = st.integers(0, 3) | st.integers(0, TOP)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), items, priorities),
        st.tuples(st.just("again"), items, st.just(0)),  # a turn taken, and more to send
        st.tuples(st.just("discard"), items, st.just(0)),
        st.tuples(st.just("pop"), items, st.just(0)),
    ),
    max_size=80,
)


@settings(deadline=None, max_examples=150)
@given(steps)
def test_like_the_model(todo: list[tuple[str, str, int]]) -> None:
    schedule: Schedule[str] = Schedule()
    model = Model()
    for what, item, priority in todo:
        if what == "add":
            schedule.add(item, priority)
            model.add(item, priority)
        elif what == "discard":
            schedule.discard(item)
            model.discard(item)
        elif not model.waiting:
            with pytest.raises(IndexError):
                schedule.pop()
        else:
            before = dict(model.waiting)
            first = schedule.first()
            assert first in schedule
            popped = schedule.pop()
            assert popped == first
            assert popped == model.pop()
            if what == "again":
                schedule.add(popped, before[popped])
                model.add(popped, before[popped])
        assert len(schedule) == len(model.waiting)
        assert bool(schedule) == bool(model.waiting)
        for name in "abcdefgh":
            assert (name in schedule) == any(name == each for each, _ in model.waiting)
    assert [schedule.pop() for _ in range(len(schedule))] == [
        model.pop() for _ in range(len(model.waiting))
    ]


def drain(schedule: Schedule[str]) -> str:
    return "".join(schedule.pop() for _ in range(len(schedule)))


def test_strict_between_priorities() -> None:
    schedule: Schedule[str] = Schedule()
    for item, priority in zip("abcde", (5, 0, TOP, 1, 7), strict=True):
        schedule.add(item, priority)
    assert drain(schedule) == "ceadb"


def test_a_more_urgent_one_goes_before_those_that_waited_longer() -> None:
    schedule: Schedule[str] = Schedule()
    for item in "ab":
        schedule.add(item, 1)
    assert schedule.pop() == "a"
    schedule.add("z", 2)
    schedule.add("a", 1)
    assert drain(schedule) == "zba"


def test_equals_take_turns() -> None:
    schedule: Schedule[str] = Schedule()
    for item in "abc":
        schedule.add(item, 4)
    order = ""
    for _ in range(9):
        item = schedule.pop()
        order += item
        schedule.add(item, 4)  # it has more to send
    assert order == "abcabcabc"


def test_adding_again_keeps_the_turn() -> None:
    schedule: Schedule[str] = Schedule()
    for item in "abca":
        schedule.add(item, 0)
    assert drain(schedule) == "abc"


def test_a_change_of_priority() -> None:
    schedule: Schedule[str] = Schedule()
    for item in "abc":
        schedule.add(item, 1)
    schedule.add("b", 9)
    schedule.add("a", 0)
    schedule.add("b", 8)
    assert len(schedule) == 3
    assert drain(schedule) == "bca"


def test_discard() -> None:
    schedule: Schedule[str] = Schedule()
    for item in "abc":
        schedule.add(item, 1)
    schedule.discard("b")
    schedule.discard("b")
    schedule.discard("never there")
    assert drain(schedule) == "ac"
    with pytest.raises(IndexError):
        schedule.pop()


# Memory: a session lives for months, and a stream's priority is any number its user likes, such as
# the time at which it was opened. (The lambdas give the priority of each round.)
CYCLES: dict[str, Callable[[int], int]] = {
    "the same priority": lambda _: 5,
    "rising priorities": lambda number: number,
    "falling priorities": lambda number: TOP - number,
    "all over the place": lambda number: number * 7919 % 100_003,
}


@pytest.mark.parametrize("standing", [False, True], ids=["alone", "with another waiting"])
@pytest.mark.parametrize("ending", ["pop", "discard", "change"])
@pytest.mark.parametrize("cycle", CYCLES)
def test_memory_does_not_grow(cycle: str, ending: str, standing: bool) -> None:
    priority = CYCLES[cycle]
    schedule: Schedule[str] = Schedule()
    if standing:
        schedule.add("standing", 50_000)

    def run(rounds: range) -> None:
        for number in rounds:
            schedule.add("item", priority(number))
            if ending == "pop":
                if schedule.pop() == "standing":
                    schedule.pop()
                    schedule.add("standing", 50_000)
            elif ending == "discard":
                schedule.discard("item")

    run(range(100))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        run(range(100, 3_100))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Room for tables of a fixed size, and not for 3000 entries of any kind.
    assert after - before < 3_000 * sys.getsizeof(0)
