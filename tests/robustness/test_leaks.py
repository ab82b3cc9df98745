"""What is left of streams and sessions that came and went: nothing."""

from __future__ import annotations

import collections
import gc
import os
import threading
import warnings
from collections.abc import Iterator

import pytest

from benchmarks.leaks import Churn, descriptors

from ..helpers.support import until


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


def sizes(churn: Churn) -> dict[str, int]:
    """The length of every container that a session's state has."""
    found = {}
    for name, session in (("client", churn.client), ("server", churn.server)):
        engine = session._engine
        for owner in (engine, engine.protocol, engine.protocol.codec):
            for key, value in vars(owner).items():
                if isinstance(value, (dict, list, set, collections.deque, bytearray)):
                    found[f"{name} {type(owner).__name__}.{key}"] = len(value)
    return found


@pytest.mark.parametrize("version", [1, 2])
def test_streams_leave_nothing(version: int) -> None:
    churn = Churn(version=version, heartbeat_interval=None)
    try:
        churn.run(400)
        churn.settle()
        before = objects(), sizes(churn), descriptors(), threading.active_count()
        churn.run(4000)
        churn.settle()
        after = objects(), sizes(churn), descriptors(), threading.active_count()
        grown = {k: v for k, v in (after[0] - before[0]).items() if v > 40}
        assert not grown, "objects for 4000 streams"
        # Locks to wait with are kept, as many as ever waited at once.
        assert {k: v for k, v in after[1].items() if v > before[1][k] + 4} == {}
        assert after[2:] == before[2:]
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
    before = objects(), descriptors(), threading.active_count()
    round_trips()
    until(lambda: threading.active_count() <= before[2])
    after = objects(), descriptors()
    assert {k: v for k, v in (after[0] - before[0]).items() if v > 40} == {}
    assert after[1] <= before[1]
