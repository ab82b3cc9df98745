"""Who reads the connection: how long a leader looks before it sleeps, and who goes first."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import muxado

from .conformance.crew import Crew, Task
from .support import RawPeer, frame, until, waiting

DATA, FIN, SYN = 1, 0x1, 0x2


def test_a_leader_that_looks_in_vain_stops_looking(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = raw()
    peer.send(frame(DATA, SYN, 3))
    stream, _ = peer.session.accept()
    looks: list[int] = []
    monkeypatch.setattr(peer.session._engine.transport, "glance", looks.append)
    with stream:
        for _ in range(200):
            reading = crew.start(stream.recv, 1)
            waiting(peer.session, 1)
            peer.send(frame(DATA, 0, 3, b"x"))
            assert reading.result() == b"x"
    assert 1 <= len(looks) < 20


def test_a_leader_that_finds_something_goes_on_looking(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = raw()
    transport = peer.session._engine.transport
    looks: list[int] = []

    def glance(times: int) -> bool:
        looks.append(times)
        transport.wait_readable(None)
        return True

    monkeypatch.setattr(transport, "glance", glance)
    peer.send(frame(DATA, SYN, 3))
    stream, _ = peer.session.accept()
    with stream:
        for _ in range(200):
            peer.send(frame(DATA, 0, 3, b"x"))
            assert stream.recv(1) == b"x"
            until(lambda: peer.session._engine._reading is None)
            reading = crew.start(stream.recv, 1)
            waiting(peer.session, 1)
            peer.send(frame(DATA, 0, 3, b"y"))
            assert reading.result() == b"y"
    assert len(looks) >= 200


def answer(stream: muxado.Stream) -> bytes:
    """What a short handler does; returns what came behind its answer."""
    with stream:
        stream.sendall(stream.recv(100))
        return stream.recv(100)


def short_streams(peer: RawPeer, crew: Crew) -> int:
    """Have the session see that streams end behind the answer; returns the next id."""
    engine = peer.session._engine
    for stream_id in range(3, 3 + 2 * 40, 2):
        peer.send(frame(DATA, SYN, stream_id, b"ask"))
        stream, _ = peer.session.accept()
        answering = crew.start(answer, stream)
        assert peer.expect(DATA, stream_id).body == b"ask"
        peer.send(frame(DATA, FIN, stream_id))
        assert answering.result() == b""
        peer.expect(DATA, stream_id)  # its own FIN
        if engine._brevity >= 8:
            return stream_id + 2
    raise AssertionError("it never learns")


def accepting(peer: RawPeer, crew: Crew) -> Task[muxado.Stream]:
    return crew.start(lambda: peer.session.accept()[0])


def test_one_that_has_answered_leaves_the_seat_to_the_acceptor(
    raw: Callable[..., RawPeer], crew: Crew
) -> None:
    peer = raw()
    engine = peer.session._engine
    stream_id = short_streams(peer, crew)
    first = accepting(peer, crew)
    peer.send(frame(DATA, SYN, stream_id, b"ask"))
    stream = first.result()
    second = accepting(peer, crew)
    until(lambda: engine._acceptors)
    answering = crew.start(answer, stream)
    assert peer.expect(DATA, stream_id).body == b"ask"
    until(lambda: engine._reading in engine._acceptors)
    waiting(peer.session, 2)
    # The end of the one and the next one, in one read: the acceptor has it first.
    peer.send(frame(DATA, FIN, stream_id) + frame(DATA, SYN, stream_id + 2))
    second.result().close()
    assert answering.result() == b""


@pytest.mark.parametrize("more", [b"more", b""])
def test_an_acceptor_that_never_comes_back_keeps_nobody_waiting(
    raw: Callable[..., RawPeer], crew: Crew, more: bytes
) -> None:
    peer = raw()
    stream_id = short_streams(peer, crew)
    accepted = accepting(peer, crew)
    peer.send(frame(DATA, SYN, stream_id, b"ask"))
    answering = crew.start(answer, accepted.result())
    assert peer.expect(DATA, stream_id).body == b"ask"
    peer.send(frame(DATA, 0 if more else FIN, stream_id, more))
    assert answering.result() == more
