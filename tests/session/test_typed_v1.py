"""Version 1: type and priority stand in the SYN, and the SYNs in the order of their ids."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ..helpers.crew import Crew
from ..helpers.support import Frame, RawPeer, Sessions, streams, word
from ..helpers.version1 import (
    DATA,
    FIN,
    HEARTBEAT,
    RST,
    SYN,
    URGENT,
    Referee,
    data,
    frame,
    raw_peer,
    syn,
)

Raw = Callable[..., RawPeer]


@pytest.mark.parametrize("priority", [0, 1, 0x7FFFFFFF])
def test_the_openers_priority_is_the_accepted_ones(sessions: Sessions, priority: int) -> None:
    pair = sessions.socketpair(version=1)
    for ends in (pair, (pair[1], pair[0])):
        near, far = streams(ends, priority=priority, stream_type=9)
        assert (near.priority, far.priority) == (priority, priority)
        assert (near.stream_type, far.stream_type) == (9, 9)
        near.priority = 5
        near.sendall(b"a default, and each side may choose its own")
        far.recv(1)
        assert far.priority == priority
        far.recv(100)


def test_version_2_carries_no_priority(sessions: Sessions) -> None:
    near, far = streams(sessions.socketpair(typed=True), priority=5)
    assert (near.priority, far.priority) == (5, 0)


def test_what_is_on_the_wire(raw: Raw) -> None:
    peer = raw_peer(raw, client=True)
    with peer.session.open(priority=9, stream_type=0xFFFFFEFE) as stream:
        stream.sendall(b"hello")
        assert peer.read() == (SYN, 6, 3, word(9) + word(0xFFFFFEFE))
        assert peer.read() == (DATA, 0, 3, b"hello")


@pytest.mark.parametrize("kind", [0xFFFFFEFF, 0xFFFFFFFF, 0x100000000, -1])
def test_types_that_are_not_the_applications(raw: Raw, kind: int) -> None:
    peer = raw_peer(raw, client=True)
    with pytest.raises(ValueError):
        peer.session.open(stream_type=kind)
    with peer.session.open():
        assert peer.read() == (SYN, 0, 3, b"")


def test_types_of_theirs_that_are_not_the_applications(raw: Raw) -> None:
    peer = raw_peer(raw)
    peer.send(
        syn(3, kind=0xFFFFFF00),
        syn(5, priority=URGENT, kind=HEARTBEAT),
        data(5, b"beat"),
        syn(7, priority=3, kind=0xFFFFFEFE),
    )
    answers = [peer.read(), peer.read()]
    assert sorted(answers, key=lambda got: got.stream_id if got else 0) == [
        (RST, 0, 3, word(4)),
        (DATA, 0, 5, b"beat"),
    ]
    with peer.session.accept()[0] as stream:
        assert (stream.id, stream.priority, stream.stream_type) == (7, 3, 0xFFFFFEFE)


def test_syns_leave_in_the_order_of_their_ids(raw: Raw, crew: Crew) -> None:
    """Many threads open at once; the original ends the session for an id out of order."""
    peer = raw_peer(raw, client=True)
    session = peer.session

    def work(number: int) -> None:
        for turn in range(25):
            with session.open(priority=number, fin=turn % 5 == 0) as stream:
                if turn % 5:
                    stream.sendall(bytes(turn))

    workers = [crew.start(work, number) for number in range(8)]
    referee = Referee(client=True)
    ended = 0
    while ended < 200:
        got = peer.read()
        assert isinstance(got, Frame)
        (seen,) = referee.saw(frame(*got))
        ended += seen.type == DATA and seen.flags == FIN
    for worker in workers:
        worker.result()
    assert referee.last == 2 * 200 + 1
