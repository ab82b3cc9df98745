"""Two whole sessions, used by several threads at each end, in any order of the threads' turns.

A failure prints the plan; ``perform`` with that plan does the same again, to the last turn.
"""

from __future__ import annotations

import gc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .link import Cuts
from .plans import ENDS, STEPS, Plan, Step, random_plan
from .run import perform


def steps(names: tuple[str, ...]) -> st.SearchStrategy[tuple[Step, ...]]:
    size = st.integers(1, 10) | st.integers(1, 150)
    step = st.builds(Step, st.sampled_from(names), st.integers(0, 5), size, st.integers(0, 5))
    return st.lists(step, min_size=1, max_size=8).map(tuple)


def plans(names: tuple[str, ...], *, lines: bool) -> st.SearchStrategy[Plan]:
    gap = st.integers(1, 20) | st.integers(1, 2000 if lines else 300)
    first = st.tuples(
        steps(names).map(lambda more: (0, (Step("open"), *more))),
        steps(names).map(lambda more: (1, (Step("accept"), *more))),
    )
    others = st.lists(st.tuples(st.integers(0, 1), steps(names)), max_size=4).map(tuple)
    return st.builds(
        Plan,
        players=st.tuples(first, others).map(lambda both: both[0] + both[1]),
        version=st.sampled_from([2, 1]),
        window=st.sampled_from([60, 8, 200]),
        cuts=st.builds(
            Cuts,
            st.sampled_from([1000, 100, 30, 1]),
            st.sampled_from([1000, 50, 7, 1]),
            st.sampled_from([1000, 50, 7, 1]),
            st.sampled_from([0, 20]),
            st.booleans(),
        ),
        first=st.integers(0, 1),
        lines=st.just(lines),
        preemptions=st.lists(st.tuples(gap, st.integers(0, 9)), max_size=30).map(tuple),
        turns=st.lists(st.integers(0, 9), max_size=60).map(tuple),
    )


often = settings(
    deadline=None,
    max_examples=80,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@often
@given(plan=plans(STEPS, lines=False))
def test_streams_in_any_order(plan: Plan) -> None:
    perform(plan)


@often
@given(plan=plans(STEPS + ENDS, lines=False))
def test_the_end_in_any_order(plan: Plan) -> None:
    perform(plan)


@settings(often, max_examples=30)
@given(plan=plans(STEPS + ENDS, lines=True))
def test_any_two_lines_in_any_order(plan: Plan) -> None:
    perform(plan)


@pytest.mark.parametrize("lines", [False, True], ids=["calls", "lines"])
def test_plans_by_number(lines: bool) -> None:
    """Far more turns than hypothesis chooses, the same ones each time."""
    for seed in range(300 if lines else 1500):
        perform(random_plan(seed, lines=lines))
    gc.collect()


@pytest.mark.parametrize(("seed", "lines"), [(93707, False), (90441, True)])
def test_plans_that_have_failed(seed: int, lines: bool) -> None:
    """Who left the write seat brought a descriptor up to date, wrote again, and so on for ever."""
    perform(random_plan(seed, lines=lines))
