"""Streams and sessions that have ended leave nothing behind."""

from __future__ import annotations

import collections
import gc
import os
import threading
import types
import warnings
from collections.abc import Iterator

import pytest

from ..helpers.support import until
from .leaks import Churn, descriptors


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    """Some streams are left to the garbage collector, on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield


def objects() -> collections.Counter[str]:
    """How many there are of each type that a session makes, and of the containers."""
    gc.collect()
    names = (f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects())
    wanted = ("muxado.", "builtins.dict", "builtins.list", "collections.", "socket.", "weakref.")
    return collections.Counter(name for name in names if name.startswith(wanted))


def sizes(session: object) -> collections.Counter[str]:
    """The summed lengths of all containers that a session reaches, by owner and type.

    Unlike `objects` this also notices a container that grows by numbers or strings.
    """
    found: collections.Counter[str] = collections.Counter()
    seen: set[int] = set()
    pending: list[tuple[str, object]] = [("", session)]
    while pending:
        owner, each = pending.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, (dict, list, set, tuple, collections.deque, bytearray)):
            found[f"{type(each).__name__} of {owner}"] += len(each)
        elif type(each).__module__.startswith("muxado"):
            owner = type(each).__name__
        elif not isinstance(each, types.MethodType):
            continue
        pending += [
            (owner, referent)
            for referent in gc.get_referents(each)
            if not isinstance(referent, (type, types.ModuleType))
        ]
    return found


def grown(
    before: collections.Counter[str], after: collections.Counter[str]
) -> dict[str, tuple[int, int]]:
    """What has grown, though not what is kept for reuse: a few, however many streams there were."""
    return {name: (before[name], after[name]) for name in after if after[name] > before[name] + 40}


@pytest.mark.parametrize("version", [1, 2])
def test_streams_leave_nothing(version: int) -> None:
    churn = Churn(version=version, heartbeat_interval=None)
    try:
        churn.run(400)
        churn.settle()
        before = objects(), sizes(churn.client) + sizes(churn.server)
        counts = descriptors(), threading.active_count()
        churn.run(4000)
        churn.settle()
        after = objects(), sizes(churn.client) + sizes(churn.server)
        assert grown(before[0], after[0]) == {}
        assert grown(before[1], after[1]) == {}
        assert (descriptors(), threading.active_count()) == counts
    finally:
        churn.close()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors cannot be counted")
def test_sessions_leave_nothing() -> None:
    def round_trips() -> None:
        for _ in range(50):
            churn = Churn()
            churn.run(8)
            churn.close()

    round_trips()
    before, counts = objects(), (descriptors(), threading.active_count())
    round_trips()
    until(lambda: threading.active_count() <= counts[1])
    assert grown(before, objects()) == {}
    assert descriptors() <= counts[0]
