"""The heartbeat of version 1: one stream on which each side asks, as its peers do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from muxado import ErrorCode, HeartbeatTimeout

from ..helpers.clock import INTERVAL, Clock
from ..helpers.crew import GUARD, Crew
from ..helpers.support import RawPeer, Sessions, streams, until
from ..helpers.version1 import (
    DATA,
    GOAWAY,
    HEARTBEAT,
    SYN,
    URGENT,
    WNDINC,
    RawPeer1,
    data,
    frame,
    goaway,
    raw_peer,
    rst,
    syn,
    window,
)

Raw = Callable[..., RawPeer]

QUICK: dict[str, Any] = {"heartbeat_interval": INTERVAL, "heartbeat_tolerance": 0.3}
#: Asks often and never gives up.
PATIENT: dict[str, Any] = {"heartbeat_interval": 0.02, "heartbeat_tolerance": GUARD}


@pytest.fixture
def pass_time(raw: Raw) -> Callable[[int], None]:
    """``pass_time(beats)`` returns when about so many intervals are over."""
    return Clock(raw).wait


def asked(peer: RawPeer1, stream_id: int) -> bytes:
    """The number with which the session asks."""
    while (got := peer.read()) is not None and got.type == WNDINC:
        assert got.stream_id == stream_id, "nobody else's window is topped up"
    assert got is not None
    assert (got.type, got.flags, got.stream_id, len(got.body)) == (DATA, 0, stream_id, 4)
    return got.body


@pytest.mark.parametrize("client", [False, True])
def test_one_stream_is_asked_on_at_every_interval(raw: Raw, client: bool) -> None:
    peer = raw_peer(raw, client=client, **PATIENT)
    own = 3 if client else 2
    assert frame(*peer.expect(SYN, own)) == syn(own, priority=URGENT, kind=HEARTBEAT)
    numbers = [asked(peer, own) for _ in range(3)]
    assert len(set(numbers)) == 3
    assert peer.session.latency is None, "nothing was answered"
    for _ in range(4):
        peer.send(data(own, asked(peer, own)))
    until(lambda: peer.session.latency is not None)
    assert peer.session.latency is not None
    assert 0 <= peer.session.latency < GUARD
    stats = peer.session.stats()
    assert (stats.streams, stats.opened, stats.accepted) == (0, 0, 0)
    assert not peer.session.closed


def test_an_answer_to_another_question(raw: Raw) -> None:
    peer = raw_peer(raw, client=True, **QUICK)
    peer.expect(SYN, 3)
    for _ in range(12):  # for twice as long as silence is borne
        asked(peer, 3)
        peer.send(data(3, b"\xff" * 4))
    assert not peer.session.closed, "it is a sign of life"
    assert peer.session.latency is None, "and no answer"


def test_both_ask_and_answer(raw: Raw) -> None:
    peer = raw_peer(raw, client=True, **PATIENT)
    peer.expect(SYN, 3)
    asked(peer, 3)
    peer.send(syn(2, priority=URGENT, kind=HEARTBEAT), data(2, b"beat"))
    while (got := peer.read()) is not None and got.stream_id == 3:
        peer.send(data(3, got.body))
    assert got == (DATA, 0, 2, b"beat")


def test_its_stream_is_given_window(raw: Raw, pass_time: Callable[[int], None]) -> None:
    """The peer reads so many beats as it lets come, and no more do."""
    peer = raw_peer(raw, client=True, window=16, **PATIENT)
    peer.expect(SYN, 3)
    for _ in range(4):
        peer.send(data(3, asked(peer, 3)))
    pass_time(2)
    peer.send(window(3, 8))
    for _ in range(2):
        peer.send(data(3, asked(peer, 3)))
    assert not peer.session.closed


def test_silence(raw: Raw, crew: Crew) -> None:
    peer = raw_peer(raw, client=True, **QUICK)
    with peer.session.open() as stream:
        reading = crew.start(stream.recv, 1)
        for _ in range(3):
            with pytest.raises(HeartbeatTimeout):
                reading.result()
    assert isinstance(peer.session.wait(GUARD).error, HeartbeatTimeout)
    last = peer.goaway()
    assert last.body[4:8] == b"\0\0\0\2", "an internal error is the nearest that this wire has"


@pytest.mark.parametrize("refusal", [rst(3, 6), rst(3, 4), data(3, fin=True)])
def test_a_peer_that_will_not_be_asked(
    raw: Raw,
    pass_time: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    refusal: bytes,
) -> None:
    """It is there all the same: nobody is killed for not having that extension."""
    peer = raw_peer(raw, client=True, **QUICK)
    peer.expect(SYN, 3)
    asked(peer, 3)
    peer.send(refusal)
    protocol = peer.session._engine.core.protocol
    until(lambda: not protocol.heartbeat_streams.streams)
    looks = 0
    beat = protocol.beat

    def count() -> bool:
        nonlocal looks
        looks += 1
        return beat()

    monkeypatch.setattr(protocol, "beat", count)
    pass_time(12)  # twice what silence may last
    assert not peer.session.closed
    assert looks < 100, "an idle session does not poll"
    with peer.session.open() as stream:
        stream.sendall(b"still here")
        while (got := peer.read()) is not None and got.stream_id == 3:
            assert got.type == DATA, "asked before the refusal came"
        assert got == (SYN, 0, 5, b"")
        assert peer.read() == (DATA, 0, 5, b"still here")
        peer.send(data(5, b"me too", fin=True))
        assert stream.recv(100) == b"me too"


def test_it_stays_up_while_the_peer_goes_away(raw: Raw) -> None:
    """Its GOAWAY may not have seen the heartbeat's stream, which is not the application's."""
    peer = raw_peer(raw, client=True, **PATIENT)
    peer.expect(SYN, 3)
    peer.send(data(3, asked(peer, 3)), goaway(0, 0))
    for _ in range(5):
        peer.send(data(3, asked(peer, 3)))
    assert not peer.session.closed


@pytest.mark.parametrize("first", [0, 1])
def test_two_of_ours(sessions: Sessions, first: int) -> None:
    pair = sessions.socketpair(version=1, **PATIENT)
    near, far = streams((pair[first], pair[1 - first]))
    until(lambda: all(session.latency is not None for session in pair))
    near.sendall(b"hello")
    assert far.recv(100) == b"hello"
    for session in pair:
        stats = session.stats()
        assert (stats.streams, stats.opened + stats.accepted, stats.backlog) == (1, 1, 0)
    near.close()
    far.close()
    assert pair[0].drain(GUARD)
    pair[0].close()
    assert pair[1].wait(GUARD).code == ErrorCode.NO_ERROR


def test_goaway_of_a_session_that_is_closed_has_no_beats_behind_it(raw: Raw) -> None:
    peer = raw_peer(raw, client=True, **PATIENT)
    peer.expect(SYN, 3)
    asked(peer, 3)
    peer.session.close()
    frames = peer.rest()
    assert [got.type for got in frames].count(GOAWAY) == 1
    assert frames[-1].type == GOAWAY
