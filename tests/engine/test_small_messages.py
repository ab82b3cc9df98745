"""Small messages that are left to the thread that is writing: no waiting, nothing lost."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import muxado

from ..helpers.crew import Crew, Task
from ..helpers.gates import Calls, Gate, before, polls
from ..helpers.support import DATA, RST, RawPeer, frame, until

#: A stream of the peer's that nobody has opened.
UNKNOWN = 0x1000


class Held:
    """A session whose next write to the connection stops at a gate, with the seat taken."""

    def __init__(self, peer: RawPeer, crew: Crew, gate: Gate, patch: pytest.MonkeyPatch) -> None:
        self.session = peer.session
        self.first, self.second = peer.session.open(), peer.session.open()
        self.first.sendall(b"SYN and all")
        self.second.sendall(b"SYN and all")
        begun = {self.first.id: b"", self.second.id: b""}
        while any(len(body) < 11 for body in begun.values()):
            found = peer.read()  # a SYN goes alone where it has waited for long
            assert found is not None
            begun[found.stream_id] += found.body
        stops = iter([gate.stop])
        before(patch, peer.session._engine.transport, "send", lambda *_: next(stops, int)())
        self.writing = crew.start(self.first.sendall, b"held")
        gate.reached()


@pytest.fixture
def peer(raw: Callable[..., RawPeer]) -> RawPeer:
    return raw(client=True)


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate() as gate:
        yield gate


def test_a_small_message_does_not_wait_for_its_turn(
    peer: RawPeer, crew: Crew, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(peer, crew, gate, monkeypatch)
    held.second.sendall(b"one")
    assert held.second.send(b"two") == 3
    gate.open()
    held.writing.result()
    bodies = [peer.expect(DATA, stream_id).body for stream_id in (held.first.id,)]
    bodies += [peer.expect(DATA, held.second.id).body for _ in range(2)]
    assert bodies == [b"held", b"one", b"two"]
    for stream in (held.first, held.second):
        stream.close()


def test_a_large_one_waits_and_goes_behind_the_small(
    peer: RawPeer, crew: Crew, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(peer, crew, gate, monkeypatch)
    held.second.sendall(b"small")
    large = crew.start(held.second.sendall, bytes(10_000))
    until(lambda: held.second._state.write is not None)
    gate.open()
    held.writing.result()
    large.result()
    assert peer.expect(DATA, held.first.id).body == b"held"
    got = b""
    while len(got) < 10_005:
        got += peer.expect(DATA, held.second.id).body
    assert got == b"small" + bytes(10_000)
    for stream in (held.first, held.second):
        stream.close()


def test_a_small_message_does_not_wait_for_a_large_one(
    peer: RawPeer, crew: Crew, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where many send, one or another always waits: each would have to be woken for its turn."""
    held = Held(peer, crew, gate, monkeypatch)
    third = peer.session.open()
    large = crew.start(third.sendall, bytes(10_000))
    until(lambda: third._state.write is not None)
    for _ in range(3):
        held.second.sendall(b"small")
    gate.open()
    held.writing.result()
    large.result()
    assert peer.expect(DATA, held.first.id).body == b"held"
    for _ in range(3):
        assert peer.expect(DATA, held.second.id).body == b"small"
    got = b""
    while len(got) < 10_000:
        got += peer.expect(DATA, third.id).body
    for stream in (held.first, held.second, third):
        stream.close()


def test_what_may_be_left_is_bounded(
    peer: RawPeer, crew: Crew, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(peer, crew, gate, monkeypatch)
    sent = 0

    def send() -> None:
        nonlocal sent
        for _ in range(100):
            held.second.sendall(bytes(1000))
            sent += 1

    sending = crew.start(send)
    until(lambda: held.second._state.write is not None)
    assert 60 <= sent <= 66
    gate.open()
    held.writing.result()
    got = {held.first.id: 0, held.second.id: 0}
    while sum(got.values()) < 100_004:
        found = peer.read()
        assert found is not None
        got[found.stream_id] += len(found.body)
    sending.result()
    for stream in (held.first, held.second):
        stream.close()


def test_small_messages_hold_up_no_control_frame(
    peer: RawPeer, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = peer.session.open(), peer.session.open()
    first.sendall(b"SYN and all")
    second.sendall(b"SYN and all")
    writes = iter(range(5))

    def leave() -> None:
        for _ in range(50):
            second.sendall(bytes(1000))

    def leave_more(*_: object) -> None:
        write = next(writes, None)
        if write == 0:
            peer.send(frame(DATA, 0, UNKNOWN, b"for nobody"))
            until(lambda: UNKNOWN in peer.session._engine.core.protocol.pending.resets)
        if write is not None:
            crew.start(leave).result()

    before(monkeypatch, peer.session._engine.transport, "send", leave_more)
    first.sendall(b"first")
    behind = 0
    while (found := peer.read()) is not None and found.type != RST:
        behind += len(found.body) == 1000
    assert found is not None
    assert behind == 50
    for stream in (first, second):
        stream.close()


def test_small_messages_hold_up_no_large_one(
    peer: RawPeer, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one in the seat only sends what is left there, and while it does more is left."""
    second, third = peer.session.open(), peer.session.open()
    engine = peer.session._engine
    second.sendall(b"SYN and all")
    third.sendall(b"SYN and all")
    writes = iter(range(200))
    sending: list[Task[None]] = []

    def leave_more(*_: object) -> None:
        if not sending:
            sending.append(crew.start(third.sendall, bytes(10_000)))
            until(lambda: bool(engine.core.protocol.schedule))
        if next(writes, None) is not None and engine.core.writer:
            crew.start(second.sendall, b"small").result()

    before(monkeypatch, engine.transport, "send", leave_more)
    peer.send(frame(DATA, 0, UNKNOWN, b"for nobody"))  # draws an RST that no caller sends
    small = got = 0
    while got < 10_000:
        found = peer.read()
        assert found is not None
        small += found.body == b"small"
        got += len(found.body) * (found.stream_id == third.id and found.body != b"SYN and all")
    assert small < 50
    sending[0].result()
    for stream in (second, third):
        stream.close()


def test_small_messages_do_not_hold_up_the_clock(
    peer: RawPeer, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer thread sends what is left, and while it does more is left."""
    stream = peer.session.open()
    engine = peer.session._engine
    stream.sendall(b"SYN and all")
    looks = Calls(monkeypatch, engine.keepalive, "look")
    writes = 0

    def leave_more(*_: object) -> None:
        nonlocal writes
        if looks.count < 3 and writes < 200:
            writes += 1
            crew.start(stream.sendall, b"small").result()

    before(monkeypatch, engine.transport, "send", leave_more)
    stream.sendall(b"first")
    until(lambda: looks.count >= 3)
    assert writes < 200
    stream.close()


@pytest.mark.parametrize("end", ["close", "shutdown"])
def test_the_end_of_a_stream_goes_behind_what_it_left(
    peer: RawPeer, crew: Crew, gate: Gate, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    held = Held(peer, crew, gate, monkeypatch)
    held.second.sendall(b"the last")
    calls: dict[str, Callable[[], Any]] = {
        "close": held.second.close,
        "shutdown": held.second.close_write,
    }
    calls[end]()
    gate.open()
    held.writing.result()
    peer.expect(DATA, held.first.id)
    assert peer.expect(DATA, held.second.id).body == b"the last"
    assert peer.expect(DATA, held.second.id).flags & 0x1
    for stream in (held.first, held.second):
        stream.close()


def test_the_descriptor_knows_when_the_window_is_used_up(
    raw: Callable[..., RawPeer], crew: Crew, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(raw(client=True, window=2048), crew, gate, monkeypatch)
    assert polls(held.second, select.POLLOUT)
    held.second.sendall(bytes(held.second._state.send.left))
    assert not polls(held.second, select.POLLOUT)
    gate.open()
    held.writing.result()
    assert not polls(held.second, select.POLLOUT)
    for stream in (held.first, held.second):
        stream.close()


def test_closing_the_session_flushes_it(
    peer: RawPeer, crew: Crew, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(peer, crew, gate, monkeypatch)
    held.second.sendall(b"the last")
    closing = crew.start(held.session.close)
    until(lambda: held.session._engine.core.closing)
    gate.open()
    held.writing.result()
    frames = peer.rest()
    assert [f.body for f in frames if f.type == DATA and f.body] == [b"held", b"the last"]
    closing.result()
    assert isinstance(held.session.wait(), muxado.SessionEnd)
