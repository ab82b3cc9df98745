"""Config: what can be set about a session."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

__all__ = ["MAX_WINDOW", "VERSIONS", "Config", "Version"]

#: The longest that a lock can wait, in seconds: ``threading.TIMEOUT_MAX``, which this pure module
#: must not import. (In nanoseconds it has to fit 64 bits.)
MAX_SECONDS = 2**63 // 10**9

#: The largest window that the wire can express, in bytes.
MAX_WINDOW = 2**31 - 1


class Version(NamedTuple):
    """What a generation of the wire decides for everybody above it."""

    window: int  #: bytes of receive window that both ends assume for a new stream
    heartbeat_interval: float  #: seconds
    heartbeat_tolerance: float  #: seconds
    may_be_typed: bool  #: whether ``typed`` is a choice


#: The one table of per-version facts; how frames look is in ``muxado.wire``.
VERSIONS = {
    1: Version(65536, 3.0, 10.0, False),
    2: Version(262144, 10.0, 15.0, True),
}


class _Own:
    """Stands for what the version of the wire has as its own."""

    def __repr__(self) -> str:
        return "the version's own"


_OWN: Any = _Own()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The options of a session; every one has a default.

    Both ends must agree on ``version``, ``typed`` and ``window``: the wire does not carry them.
    ``heartbeat_interval``, ``heartbeat_tolerance`` and ``window`` are the version's own unless
    given.
    """

    #: Wire format: 2 (what ngrok's Go and Rust peers speak today) or 1 (the first muxado).
    version: int = 2
    #: Version 2 only: every stream starts with its 4-byte type.
    typed: bool = False
    #: Seconds between heartbeats; ``None`` turns them off.
    heartbeat_interval: float | None = _OWN
    #: Seconds of silence after an unanswered heartbeat before the session ends.
    heartbeat_tolerance: float = _OWN
    #: Streams waiting for ``accept()``; one more is reset with ACCEPT_QUEUE_FULL.
    accept_backlog: int = 128
    #: Streams the peer may have open at once.
    max_streams: int = 10_000
    #: Bytes of receive window a stream starts with; the peer must assume the same.
    window: int = _OWN
    #: Bytes that a stream's receive window may grow to while its reader keeps up and a round trip
    #: of the link would hold more; ``window`` itself keeps it as it is. A stream moves at most
    #: about half of it in a round trip, and a reader that stalls holds at most so much memory.
    max_window: int = 16 * 2**20
    #: Bytes received and unread over all streams: no window grows where the sum of all would
    #: exceed it, and those that have grown shrink while it does.
    max_buffered: int = 256 * 2**20
    #: Frames a second, and at once, that a peer may send though they serve no stream; over it the
    #: session ends with ENHANCE_YOUR_CALM.
    flood_budget: int = 50_000
    #: Seconds that ``close()`` goes on flushing what was written before it.
    linger: float = 5.0

    def __post_init__(self) -> None:
        _check_count("version", self.version, 1)
        facts = VERSIONS.get(self.version)
        if facts is None:
            raise ValueError(f"version must be 1 or 2, not {self.version!r}")
        if self.typed and not facts.may_be_typed:
            raise ValueError(f"typed is not an option of version {self.version}")
        # A frozen dataclass resolves its defaults through object.__setattr__.
        if self.heartbeat_interval is _OWN:
            object.__setattr__(self, "heartbeat_interval", facts.heartbeat_interval)
        if self.heartbeat_tolerance is _OWN:
            object.__setattr__(self, "heartbeat_tolerance", facts.heartbeat_tolerance)
        if self.window is _OWN:
            object.__setattr__(self, "window", facts.window)
        _check_seconds("heartbeat_interval", self.heartbeat_interval, positive=True)
        _check_seconds("heartbeat_tolerance", self.heartbeat_tolerance, positive=True)
        _check_seconds("linger", self.linger, positive=False)
        _check_count("accept_backlog", self.accept_backlog, 1)
        _check_count("max_streams", self.max_streams, 1)
        # A type in the data takes four bytes of the window before anything is read.
        _check_count("window", self.window, 4 if self.typed else 1, MAX_WINDOW)
        _check_count("max_window", self.max_window, self.window, MAX_WINDOW)
        _check_count("max_buffered", self.max_buffered, 1)
        _check_count("flood_budget", self.flood_budget, 1000)

    @classmethod
    def of(cls, config: Config | None, options: dict[str, Any]) -> Config:
        """``config`` with ``options`` on top; an unknown option is a ``TypeError``."""
        if config is None:
            return cls(**options)
        if not isinstance(config, Config):
            raise TypeError(f"config must be a muxado.Config, not {type(config).__name__}")
        if not options:
            return config
        if options.get("version", config.version) != config.version:
            # What was the one version's own becomes the other's.
            own = VERSIONS[config.version]
            for name in ("heartbeat_interval", "heartbeat_tolerance", "window"):
                if getattr(config, name) == getattr(own, name):
                    options = {name: _OWN, **options}
        return dataclasses.replace(config, **options)


def _check_seconds(name: str, value: float | None, *, positive: bool) -> None:
    if value is None and name == "heartbeat_interval":
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not (value > 0 if positive else value >= 0) or value == float("inf"):
        raise ValueError(f"{name} must be a {'positive' if positive else 'non-negative'} number")
    if value > MAX_SECONDS:
        raise OverflowError(f"{name} must be at most {MAX_SECONDS} seconds")


def _check_count(name: str, value: int, least: int, most: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < least or (most is not None and value > most):
        bound = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be {bound}, not {value}")
