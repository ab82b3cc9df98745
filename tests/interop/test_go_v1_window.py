"""The original muxado for Go, version 1, as the sender into a receive window that grows."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

import muxado

from ..helpers.link import Link
from ..helpers.support import Sessions
from .go_peer import Go
from .streams import WINDOW

pytestmark = pytest.mark.timeout(120)  # the first of them builds the Go program


def test_it_sends_what_it_is_granted(
    go: Go, links: Callable[..., Link], sessions: Sessions
) -> None:
    """It just adds the increments, so four mebibytes take less than their 64 round trips."""
    size, trip = 4 * 2**20, 0.06
    link = links(delay=trip / 2, rate=400e6, queue=4 * 2**20, mtu=9000)
    with muxado.Listener(link.listen(1), version=1) as listener:
        host, port = listener.getsockname()
        steps = ["open", 1, size, 0, 0]
        peer = link.run(0, lambda: go.start("-dial", f"{host}:{port}", *steps))
        session, _ = listener.accept()
    sessions.keep(session)
    stream, _ = session.accept()
    start = time.monotonic()
    with stream:
        left = size
        while left:
            left -= len(stream.recv(2**20))
        took = time.monotonic() - start
        assert stream.recv(1) == b""
        assert stream._state.receive.size > 4 * WINDOW
    assert took < 35 * trip
    told = peer.event("stream")
    assert (told["sent"], told["error"]) == (size, "")
    session.close()
