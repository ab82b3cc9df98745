"""Config: defaults, and what is no value for an option."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import pytest

from muxado.config import MAX_WINDOW, VERSIONS, Config

COMMON: dict[str, Any] = {
    "typed": False,
    "accept_backlog": 128,
    "max_streams": 10_000,
    "max_window": 16 * 2**20,
    "max_buffered": 256 * 2**20,
    "flood_budget": 50_000,
    "linger": 5.0,
}
#: The defaults of each version of the wire, as the documentation has them.
DEFAULTS: dict[int, dict[str, Any]] = {
    1: COMMON
    | {"version": 1, "heartbeat_interval": 3.0, "heartbeat_tolerance": 10.0, "window": 65536},
    2: COMMON
    | {"version": 2, "heartbeat_interval": 10.0, "heartbeat_tolerance": 15.0, "window": 262144},
}


@pytest.mark.parametrize("version", [1, 2])
def test_defaults(version: int) -> None:
    assert dataclasses.asdict(Config(version=version)) == DEFAULTS[version]


def test_version_2_is_the_default() -> None:
    assert Config() == Config(version=2)
    assert sorted(VERSIONS) == [1, 2]


def test_it_is_a_value() -> None:
    config = Config(window=100)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.window = 200  # type: ignore[misc]
    assert config == Config(window=100)
    assert hash(config) == hash(Config(window=100))
    assert config != Config()
    with pytest.raises(TypeError):
        Config(2)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", 1),
        ("typed", True),
        ("heartbeat_interval", None),
        ("heartbeat_interval", 1),
        ("heartbeat_interval", 0.001),
        ("heartbeat_tolerance", 1),
        ("accept_backlog", 1),
        ("max_streams", 1),
        ("window", 1),
        ("window", 16 * 2**20),
        ("max_window", 262144),  # the window itself: no tuning
        ("max_window", MAX_WINDOW),
        ("max_buffered", 1),
        ("flood_budget", 1000),
        ("linger", 0),
        ("linger", 0.5),
    ],
)
def test_good_values(name: str, value: object) -> None:
    config = Config(**{name: value})  # type: ignore[arg-type]
    assert getattr(config, name) == value
    # Nothing else changes, but for what the version decides.
    rest = {k: v for k, v in dataclasses.asdict(config).items() if k != name}
    assert rest == {k: v for k, v in DEFAULTS[config.version].items() if k != name}


COUNTS = ["accept_backlog", "max_streams", "window", "max_window", "max_buffered", "flood_budget"]
SECONDS = ["heartbeat_interval", "heartbeat_tolerance", "linger"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", 0),
        ("version", 3),
        ("version", -1),
        *[(name, value) for name in COUNTS for value in (0, -1, -(2**40))],
        ("window", MAX_WINDOW + 1),
        ("max_window", MAX_WINDOW + 1),
        ("flood_budget", 999),
        ("max_window", 262143),  # less than the window that it is to grow from
        *[(name, value) for name in SECONDS for value in (-1, -1.0, -0.5)],
        *[(name, float(value)) for name in SECONDS for value in ("nan", "inf", "-inf")],
        ("heartbeat_interval", 0),
        ("heartbeat_tolerance", 0),
        ("heartbeat_tolerance", 0.0),
    ],
)
def test_bad_values(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        Config(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [1e300, 1e10, 10**400, threading.TIMEOUT_MAX * 1.01])
@pytest.mark.parametrize("name", SECONDS)
def test_more_seconds_than_a_lock_can_wait(name: str, value: float) -> None:
    """Refused here: in the midst of closing a session it would be too late."""
    with pytest.raises(OverflowError, match=f"{name} must be at most"):
        Config(**{name: value})  # type: ignore[arg-type]
    Config(**{name: threading.TIMEOUT_MAX})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in COUNTS for value in (None, "9", 9.0, True, False, b"9")],
        *[(name, value) for name in SECONDS for value in ("1", True, False, [1])],
        ("heartbeat_tolerance", None),
        ("linger", None),
        ("version", None),
        ("version", "2"),
        ("version", True),
        ("version", [2]),
    ],
)
def test_values_of_the_wrong_type(name: str, value: object) -> None:
    if (name, value) == ("window", None):
        return  # may stand for the version's own
    with pytest.raises((TypeError, ValueError)):
        Config(**{name: value})  # type: ignore[arg-type]


def test_typed_is_an_option_of_version_2_alone() -> None:
    assert Config(typed=True).typed
    with pytest.raises(ValueError, match="typed"):
        Config(version=1, typed=True)


class TestOf:
    """How ``client(sock, config=..., **options)`` puts the two together."""

    def test_options_alone(self) -> None:
        assert Config.of(None, {}) == Config()
        assert Config.of(None, {"window": 100, "version": 1}) == Config(window=100, version=1)

    def test_config_alone(self) -> None:
        config = Config(window=100)
        assert Config.of(config, {}) == config

    def test_options_go_first(self) -> None:
        config = Config(window=100, linger=1)
        assert Config.of(config, {"linger": 2}) == Config(window=100, linger=2)
        assert config.linger == 1

    def test_heartbeats_can_be_turned_off_and_on(self) -> None:
        off = Config.of(Config(), {"heartbeat_interval": None})
        assert off.heartbeat_interval is None
        assert Config.of(off, {"linger": 1}).heartbeat_interval is None
        assert Config.of(off, {"heartbeat_interval": 2}).heartbeat_interval == 2

    @pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
    def test_another_version_brings_its_own_defaults(self, before: int, after: int) -> None:
        # A window that the peer does not assume breaks the session: v1 peers count on 65536.
        assert Config.of(Config(version=before), {"version": after}) == Config(version=after)

    def test_what_was_set_by_hand_stays_with_another_version(self) -> None:
        config = Config.of(Config(window=1000, heartbeat_tolerance=7), {"version": 1})
        assert (config.window, config.heartbeat_tolerance) == (1000, 7)

    def test_bad_options(self) -> None:
        with pytest.raises(TypeError):
            Config.of(None, {"no_such_option": 1})
        with pytest.raises(TypeError):
            Config.of(Config(), {"no_such_option": 1})
        with pytest.raises(ValueError, match="linger"):
            Config.of(Config(), {"linger": -1})
        with pytest.raises(ValueError, match="max_window"):
            Config.of(Config(max_window=300_000), {"window": 400_000})

    @pytest.mark.parametrize("config", [{}, {"window": 100}, "version 2", 2, Config])
    def test_what_is_no_config(self, config: Any) -> None:
        with pytest.raises(TypeError):
            Config.of(config, {})
