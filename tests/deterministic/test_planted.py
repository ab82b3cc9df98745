"""Faults put into the engine, the transport and the protocol are found, and found again."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from muxado.engine import Engine
from muxado.protocol import StreamState

from . import run
from .link import Memory
from .plans import Plan, random_plan
from .run import perform
from .world import World

PLANS = 400
"""Among so many plans there must be one that shows the fault; most show within the first ten."""


def failure(plan: Plan) -> str:
    try:
        perform(plan)
    except Exception as error:
        return re.sub(r"(client|server)-\d+", "", str(error))  # sessions are numbered on and on
    return ""


def found(number: Callable[[str], bool]) -> None:
    """One of the plans must fail, and fail in the same way when it is carried out again."""
    for seed in range(PLANS):
        plan = random_plan(seed)
        text = failure(plan)
        if text and number(text):
            again = failure(plan)
            assert again.partition("\n")[0] == text.partition("\n")[0]
            return
    raise AssertionError("no plan shows it")


def test_a_release_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """One wake-up in a run does not arrive; that nobody else makes up for it must show."""

    class Lossy(World):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.lose = 7

    monkeypatch.setattr(run, "World", Lossy)
    found(lambda text: text.startswith("everybody waits for ever"))


def test_who_accepts_is_not_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    wake = Engine._wake_locked

    def forget(engine: Engine, waiter: Any) -> None:
        if waiter not in engine._acceptors:
            wake(engine, waiter)

    monkeypatch.setattr(Engine, "_wake_locked", forget)
    found(lambda text: text.startswith("accept of side"))


def test_who_sends_is_not_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    wake = Engine._wake_locked

    def forget(engine: Engine, waiter: Any) -> None:
        if waiter not in engine._senders:
            wake(engine, waiter)

    monkeypatch.setattr(Engine, "_wake_locked", forget)
    found(lambda text: text.startswith("send of side"))


def test_who_leads_is_not_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Memory, "wake", lambda _: None)
    found(lambda text: "wait" in text.partition("\n")[0])


def test_a_byte_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = StreamState.ahead

    def lose(stream: StreamState, count: int) -> tuple[int, int]:
        gone, skip = ahead(stream, count)
        return gone, skip + (count > 20 and gone < len(stream.chunks))

    monkeypatch.setattr(StreamState, "ahead", lose)
    found(lambda text: "other bytes than were sent" in text)


def test_bytes_go_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A send that gives up leaves its bytes in the schedule."""
    monkeypatch.setattr(Engine, "_withdraw_locked", lambda *_: None)
    found(lambda text: "more was" in text)
