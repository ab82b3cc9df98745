"""Signs of life that are here, and that nobody has looked at when the time is over."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable

import pytest

import muxado
from muxado import ErrorCode

from ..helpers.certificate import Certificate
from ..helpers.clock import INTERVAL, Clock
from ..helpers.crew import GUARD, Crew
from ..helpers.support import DATA, FIN, RST, SYN, RawPeer, Sessions, frame, until, word

Raw = Callable[..., RawPeer]

QUICK = {"heartbeat_interval": INTERVAL, "heartbeat_tolerance": 0.3}
ANSWER = frame(RST, 0, 0x7FFFFFFF, word(ErrorCode.STREAM_CLOSED))


@pytest.fixture
def pass_time(raw: Raw) -> Callable[[int], None]:
    """``pass_time(beats)`` returns when about so many intervals are over."""
    return Clock(raw).wait


class Held:
    """Stops whoever reads the connection of ``peer``'s session, with the bytes in hand."""

    def __init__(self, peer: RawPeer, monkeypatch: pytest.MonkeyPatch) -> None:
        transport = peer.session._engine.transport
        self._recv_into = transport.recv_into
        self.read, self.go_on = threading.Event(), threading.Event()
        monkeypatch.setattr(transport, "recv_into", self._hold)

    def _hold(self, into: memoryview) -> int | None:
        count = self._recv_into(into)
        self.read.set()
        self.go_on.wait(GUARD)
        return count


def alive(peer: RawPeer) -> None:
    """The session goes on."""
    with peer.session.open() as stream:
        stream.sendall(b"alive")
        while (got := peer.read()) is not None and got.stream_id == 0x7FFFFFFF:
            peer.send(ANSWER)
        assert got is not None
        assert (got.type, got.flags, got.stream_id) == (DATA, SYN, 3)
    assert not peer.session.closed


def test_they_are_seen_after_their_time(
    raw: Raw, monkeypatch: pytest.MonkeyPatch, pass_time: Callable[[int], None]
) -> None:
    """They came in time; this process is busy, or was stopped just there."""
    peer = raw(client=True, **QUICK)
    held = Held(peer, monkeypatch)
    peer.expect(DATA, 0x7FFFFFFF)
    peer.send(ANSWER)
    assert held.read.wait(GUARD)
    pass_time(10)
    held.go_on.set()
    alive(peer)


def test_they_are_seen_during_the_verdict(
    raw: Raw, monkeypatch: pytest.MonkeyPatch, pass_time: Callable[[int], None]
) -> None:
    """Between the last look at what was heard and the last look at the connection."""
    peer = raw(client=True, **QUICK)
    held = Held(peer, monkeypatch)
    transport = peer.session._engine.transport
    readable = transport.readable

    def meanwhile() -> bool:
        held.go_on.set()
        until(lambda: peer.session.latency is not None)
        return readable()

    monkeypatch.setattr(transport, "readable", meanwhile)
    peer.expect(DATA, 0x7FFFFFFF)
    peer.send(ANSWER)
    assert held.go_on.wait(GUARD)
    pass_time(3)  # now it is spoken
    alive(peer)


def test_a_tls_record_that_comes_slowly(
    sessions: Sessions, certificate: Certificate, crew: Crew, pass_time: Callable[[int], None]
) -> None:
    """Any byte of it is life, although none can be decrypted before the last one is there."""
    near, far = socket.socketpair()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = certificate.client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")

    def shake_hands() -> None:
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                far.sendall(outgoing.read())
                incoming.write(far.recv(65536))
            else:
                far.sendall(outgoing.read())
                return

    with far:
        shaking = crew.start(shake_hands)
        context = certificate.server_context()
        session = muxado.server(
            context.wrap_socket(near, server_side=True, do_handshake_on_connect=False), **QUICK
        )
        sessions.keep(session)
        shaking.result()
        body = bytes(1200)
        tls.write(frame(DATA, SYN | FIN, 3, body))
        record = outgoing.read()
        for start in range(0, len(record), 100):
            far.sendall(record[start : start + 100])
            pass_time(1)
        session.settimeout(GUARD)
        with session.accept()[0] as stream:
            assert stream.recv(2000, socket.MSG_WAITALL) == body
