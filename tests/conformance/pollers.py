"""The ways to wait for several descriptors at once, behind one function."""

from __future__ import annotations

import select
import selectors
from collections.abc import Callable, Sequence

from ..helpers.crew import GUARD
from .pipes import End

Poller = Callable[[Sequence[End], bool, float], list[End]]
"""`(ends, writing, timeout)` -> those of `ends` that are ready."""


def with_select(ends: Sequence[End], writing: bool, timeout: float) -> list[End]:
    if writing:
        return select.select([], ends, [], timeout)[1]
    return select.select(ends, [], [], timeout)[0]


def with_poll(ends: Sequence[End], writing: bool, timeout: float) -> list[End]:
    poll = select.poll()
    wanted = select.POLLOUT if writing else select.POLLIN
    for end in ends:
        poll.register(end, wanted)
    ready = {descriptor for descriptor, event in poll.poll(timeout * 1000) if event & wanted}
    return [end for end in ends if end.fileno() in ready]


def with_selector(ends: Sequence[End], writing: bool, timeout: float) -> list[End]:
    """The selector that asyncio takes: epoll on Linux, which watches, where poll() only looks."""
    with selectors.DefaultSelector() as selector:
        for end in ends:
            selector.register(end, selectors.EVENT_WRITE if writing else selectors.EVENT_READ)
        ready = [key.fileobj for key, _ in selector.select(timeout)]
        return [end for end in ends if end in ready]


POLLERS: dict[str, Poller] = {
    "select": with_select,
    "poll": with_poll,
    "selector": with_selector,
}


def readable(poller: Poller, *ends: End) -> list[End]:
    """Return which of `ends` are readable, as soon as one is."""
    return poller(ends, False, GUARD)


def quiet(poller: Poller, *ends: End) -> bool:
    """Return whether none of `ends` is readable at this moment."""
    return poller(ends, False, 0) == []


def writable(poller: Poller, *ends: End) -> list[End]:
    """Return which of `ends` are writable, as soon as one is."""
    return poller(ends, True, GUARD)


def full(poller: Poller, *ends: End) -> bool:
    """Return whether none of `ends` is writable at this moment."""
    return poller(ends, True, 0) == []
