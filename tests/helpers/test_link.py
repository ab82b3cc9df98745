"""The emulated link does what it is told to, so that what is measured over it means something."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable

from .crew import Crew
from .link import Link


def test_it_delays(links: Callable[..., Link]) -> None:
    near, far = links(delay=0.05).connect()
    with near, far:
        took = []
        for number in range(3):
            start = time.monotonic()
            near.sendall(b"%d" % number)
            assert far.recv(100) == b"%d" % number
            took.append(time.monotonic() - start)
        assert min(took) >= 0.05


def test_it_is_no_faster_than_its_rate(links: Callable[..., Link], crew: Crew) -> None:
    size = 200_000
    near, far = links(delay=0.001, rate=8e6, queue=40_000).connect()
    with near, far:
        start = time.monotonic()
        sending = crew.start(near.sendall, bytes(size))
        left = size
        while left:
            left -= len(far.recv(65536))
        sending.result()
        # But for the first packet each has waited for those before it, headers and all.
        assert time.monotonic() - start >= (size - 1500) / 1e6


def test_what_the_queue_cannot_hold_is_lost(links: Callable[..., Link], crew: Crew) -> None:
    """And sent again: TCP hides it."""
    data = bytes(range(256)) * 400
    near, far = links(delay=0.001, rate=20e6, queue=4000).connect()
    with near, far:
        sending = crew.start(near.sendall, data)
        got = b""
        while len(got) < len(data):
            got += far.recv(65536)
        sending.result()
        assert got == data
        retransmitted = near.getsockopt(6, 11, 104)[100:104]  # tcpi_total_retrans of TCP_INFO
        assert int.from_bytes(retransmitted, sys.byteorder) > 0


def test_its_congestion_control_is_the_one_asked_for(links: Callable[..., Link]) -> None:
    for end in links(delay=0.001, congestion="reno").connect():
        with end:
            name = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
            assert name.rstrip(b"\0") == b"reno"


def test_its_relay_keeps_to_its_processor(links: Callable[..., Link]) -> None:
    processor = max(os.sched_getaffinity(0))
    link = links(delay=0.0, processor=processor)
    near, far = link.connect()
    with near, far:  # the relay has carried packets, so it has started
        assert link._relay is not None
        assert os.sched_getaffinity(link._relay.pid) == {processor}


def test_two_links_do_not_meet(links: Callable[..., Link]) -> None:
    first, second = links(delay=0.001), links(delay=0.001)
    with first.listen(1) as listening, second.new_socket(0) as stranger:
        stranger.settimeout(5)
        try:
            stranger.connect(listening.getsockname())
        except ConnectionRefusedError:
            pass
        else:
            raise AssertionError("a socket of one link has reached the other")
    near, far = second.connect()
    with near, far:
        near.sendall(b"spam")
        assert far.recv(4) == b"spam"
