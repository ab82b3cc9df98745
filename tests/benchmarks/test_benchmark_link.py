"""The benchmarks of the emulated link measure what they say, and what is cheap there is cheap."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.link import BULK, Echoes, draw, echoes, opening, rates

from ..helpers.link import Link


def test_opening_takes_no_round_trip(links: Callable[..., Link]) -> None:
    """A connection takes one before it takes any bytes."""
    trip = 0.06
    found = opening(links(delay=trip / 2), rounds=4)
    assert trip <= found.stream < 0.75 * found.connection
    assert found.connection >= 2 * trip
    # The hundred wait for each other's processor time, but not for each other's round trips.
    assert trip <= found.least <= found.burst < 4 * trip
    # TCP's first window does not take a hundred requests, whoever sends them.
    assert min(found.cold, found.plain_cold) >= 2 * trip
    assert trip <= found.plain < 4 * trip


@pytest.mark.parametrize("version", [0, 2])
def test_rates(links: Callable[..., Link], version: int) -> None:
    rate = 20e6
    found = rates(links(delay=0.005, rate=rate, queue=40_000), version, 0.8)
    assert len(found) == 4
    assert 0 < sum(found) / 4 <= rate * 1.1
    assert max(found[2:]) > rate / 4


def test_echoes_are_counted_once_settled() -> None:
    one = Echoes([0.5, 2.5, 3.0, 3.5], [9.0, 0.3, 0.1, 0.2], [5_000_000] * BULK, 40.0)
    assert one.settled == [0.1, 0.2, 0.3]
    assert (one.percentile(50), one.percentile(95)) == (0.2, 0.3)
    assert one.share == pytest.approx(0.8)


def test_echoes(links: Callable[..., Link]) -> None:
    found = echoes(links(delay=0.005, rate=10e6, queue=40_000), 2, 2.6, priorities=True)
    assert len(found.at) == len(found.took) >= 5
    assert len(found.moved) == BULK
    assert all(found.moved)
    assert min(found.took) >= 0.01


def test_draw(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "lines.svg"
    lines = [("one", [0.0, 1.0], [2.0, 3.0]), ("two", [0.0, 1.0], [1.0, 1.0])]
    draw(path, [("a title", "a unit", lines)])
    text = path.read_text(encoding="utf-8")
    assert all(word in text for word in ("a title", "a unit", ">one<", ">two<"))
    before = path.read_bytes()
    draw(path, [("a title", "a unit", lines)])
    assert path.read_bytes() == before
