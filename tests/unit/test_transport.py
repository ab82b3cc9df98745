"""What the engine asks of a connection, over sockets of every kind."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
import types
from collections.abc import Callable, Iterator

import pytest

from muxado.transport import Secure, SocketTransport, Transport, base, tls, wrap

from ..helpers.certificate import Certificate
from ..helpers.crew import GUARD, Crew
from ..helpers.support import tcp_pair, until

Pair = tuple[SocketTransport, SocketTransport]


def shake_hands(near: ssl.SSLSocket, far: ssl.SSLSocket, crew: Crew) -> None:
    """The TLS handshake of two sockets that block."""
    shaking = crew.start(far.do_handshake)
    near.do_handshake()
    shaking.result()


@pytest.fixture(params=["socketpair", "tcp", "secure", "locked"])
def pair(request: pytest.FixtureRequest, crew: Crew) -> Iterator[Pair]:
    """Two connected transports."""
    if request.param == "socketpair":
        near, far = socket.socketpair()
    else:
        near, far = tcp_pair()
    ends: list[Transport]
    if request.param in ("socketpair", "tcp"):
        ends = [wrap(near), wrap(far)]
    else:
        certificate: Certificate = request.getfixturevalue("certificate")
        tls_near = certificate.client_context().wrap_socket(
            near, server_hostname="localhost", do_handshake_on_connect=False
        )
        tls_far = certificate.server_context().wrap_socket(
            far, server_side=True, do_handshake_on_connect=False
        )
        if request.param == "locked":
            shake_hands(tls_near, tls_far, crew)
        making = crew.start(wrap, tls_far)
        ends = [wrap(tls_near), making.result()]
    first, second = ends
    assert isinstance(first, SocketTransport)
    assert isinstance(second, SocketTransport)
    receive(first, 0)  # what TLS says behind its handshake
    yield first, second
    for end in ends:
        end.close()


def receive(transport: Transport, size: int) -> bytes:
    """Wait for so many bytes, or the end; with 0 take what is there already."""
    data, buffer = b"", memoryview(bytearray(65536))
    while True:
        try:
            count = transport.recv_into(buffer)
        except BlockingIOError:
            count = None
        if count == 0:
            return data
        data += buffer[: count or 0]
        if len(data) >= size:
            return data
        if not count:
            transport.wait_readable(GUARD)


def send(transport: Transport, data: bytes) -> None:
    while data or transport.pending:
        data = data[transport.send([data] if data else ()) :]
        if data or transport.pending:
            transport.wait_writable(GUARD)


class Yields:
    """Counts how often a spin gives the processor away, and may act at one of these moments."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.at: dict[int, Callable[[], object]] = {}
        monkeypatch.setattr(base, "_sched_yield", self._turn)

    def _turn(self) -> None:
        self.count += 1
        self.at.get(self.count, int)()


def test_bytes_and_the_end(pair: Pair, crew: Crew) -> None:
    near, far = pair
    data = os.urandom(500_000)
    sending = crew.start(send, near, data)
    assert receive(far, len(data)) == data
    sending.result()
    near.finish()
    assert receive(far, 1) == b""
    assert far.recv_into(memoryview(bytearray(1))) == 0


def test_many_buffers_at_once(pair: Pair) -> None:
    near, far = pair
    buffers = [b"%06d" % number for number in range(2000)]
    taken = near.send(buffers)
    assert 0 < taken <= 12_000
    assert receive(far, taken) == b"".join(buffers)[:taken]


def test_a_spin_sees_what_comes(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = pair
    monkeypatch.setattr(base, "_SPIN", GUARD)
    yields = Yields(monkeypatch)
    yields.at[3] = lambda: send(near, b"x")
    assert far.spin()
    assert receive(far, 1) == b"x"


def test_a_spin_is_ended_by_a_wake_up(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_SPIN", GUARD)
    yields = Yields(monkeypatch)
    yields.at[3] = pair[0].wake
    assert pair[0].spin()
    assert yields.count == 3
    monkeypatch.setattr(base, "_SPIN", 0.0)
    assert not pair[0].spin(), "the wake-up was not taken away"


def test_a_spin_ends_though_each_look_takes_long(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other processes want the processor: whoever yields it has it back many looks later."""
    now = 0.0
    monkeypatch.setattr(base, "time", types.SimpleNamespace(monotonic=lambda: now))
    looks = 0

    def work_of_others() -> None:
        nonlocal now, looks
        now += base._SPIN * 0.7
        looks += 1

    monkeypatch.setattr(base, "_sched_yield", work_of_others)
    assert not pair[0].spin()
    assert looks == base._LOOKS


def test_spins_that_do_not_pay_are_left_out(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = pair
    yields = Yields(monkeypatch)

    def looks() -> bool:
        """Whether this spin looks at all, in vain."""
        before = yields.count
        assert not far.spin()
        return yields.count > before

    first = [looks() for _ in range(200)]
    patience = first.index(False)
    assert all(first[:patience])
    skipped = first[patience:].index(True)
    assert first[patience + skipped : patience + 2 * skipped + 1] == [True] + [False] * skipped
    until(looks)
    for _ in range(skipped):
        assert not looks()
    send(near, b"x")
    assert far.spin()
    assert receive(far, 1) == b"x"
    assert [looks() for _ in range(patience + 1)] == [True] * patience + [False]


def test_a_wait_is_ended_by_a_wake_up(pair: Pair, crew: Crew) -> None:
    near = pair[0]
    near.wake()
    near.wait_readable(None)  # the one that came before the wait
    waiting = crew.start(near.wait_readable, None)
    near.wake()
    waiting.result()


def test_a_wait_is_ended_by_shutdown(pair: Pair, crew: Crew) -> None:
    near = pair[0]
    waits = [crew.start(near.wait_readable, None), crew.start(near.wait_writable, None)]
    near.shutdown()
    for wait in waits:
        wait.result()


@pytest.mark.parametrize("lowat", [base._NOTSENT_LOWAT, None], ids=["lowat", "buffer"])
def test_little_is_taken_in_advance(monkeypatch: pytest.MonkeyPatch, lowat: int | None) -> None:
    monkeypatch.setattr(base, "_NOTSENT_LOWAT", lowat)
    near, far = tcp_pair()
    far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    transport = wrap(near)

    def options() -> tuple[int, int]:
        size = near.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        return size, near.getsockopt(socket.IPPROTO_TCP, lowat) if lowat is not None else 0

    before = options()
    for _ in range(2):
        transport.keep_short(True)
        assert transport.short
        assert options() != before
        transport.keep_short(False)
        assert not transport.short
        assert options() == before
    transport.close()
    far.close()


def test_waits_have_an_end(pair: Pair) -> None:
    pair[0].wait_readable(0.001)
    pair[0].wait_writable(1e300)  # it is writable


def test_readable_never_waits(pair: Pair) -> None:
    near, far = pair
    assert not far.readable()
    send(near, b"x")
    until(far.readable)
    far.close()
    assert not far.readable()


def test_lingering_reads_until_all_is_acknowledged(crew: Crew) -> None:
    """To close a connection with bytes unread resets it, and the peer loses what it was sent."""
    near, far = tcp_pair()
    transport = wrap(near)
    far.settimeout(GUARD)
    far.sendall(bytes(100_000))
    until(transport.readable)
    transport.send([b"last"])
    transport.finish()
    buffer = memoryview(bytearray(65536))
    transport.linger(buffer, time.monotonic() + GUARD)
    transport.close()
    with far:
        assert far.recv(100) == b"last"
        assert far.recv(100) == b""


def test_lingering_ends_a_unix_socket_without_a_reset() -> None:
    near, far = socket.socketpair()
    transport = wrap(near)
    far.sendall(b"unread")
    transport.send([b"last"])
    transport.finish()
    transport.linger(memoryview(bytearray(4)), time.monotonic() + GUARD)
    transport.close()
    with far:
        assert far.recv(100) == b"last"
        assert far.recv(100) == b""


def test_lingering_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer acknowledges nothing."""
    near, far = tcp_pair()
    transport = wrap(near)
    monkeypatch.setattr(transport, "unacknowledged", lambda: 1)
    transport.linger(memoryview(bytearray(4)), time.monotonic() + 0.01)
    transport.close()
    far.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_that_abandons_its_copy_says_nothing(pair: Pair) -> None:
    near, far = pair
    child = os.fork()
    if not child:
        near.abandon()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert not far.readable()
    send(near, b"and on")
    assert receive(far, 6) == b"and on"


@pytest.mark.parametrize("client", [True, False], ids=["client", "server"])
def test_the_handshake_of_a_non_blocking_socket(
    certificate: Certificate, crew: Crew, client: bool
) -> None:
    """It has a time-out of its own, because the socket has none to give."""
    near, far = tcp_pair()
    near.setblocking(False)
    if client:
        ours = certificate.client_context().wrap_socket(
            near, server_hostname="localhost", do_handshake_on_connect=False
        )
    else:
        ours = certificate.server_context().wrap_socket(
            near, server_side=True, do_handshake_on_connect=False
        )
    making = crew.start(wrap, ours)
    if client:
        theirs = certificate.server_context().wrap_socket(far, server_side=True)
    else:
        theirs = certificate.client_context().wrap_socket(far, server_hostname="localhost")
    transport = making.result()
    send(transport, b"hello")
    with theirs:
        assert theirs.recv(5) == b"hello"
        transport.close()


def test_a_handshake_that_does_not_come(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_TIMEOUT", 0.01)
    near, far = tcp_pair()
    near.setblocking(False)
    sock = certificate.client_context().wrap_socket(
        near, server_hostname="localhost", do_handshake_on_connect=False
    )
    with pytest.raises(TimeoutError, match="handshake"):
        wrap(sock)
    with far:
        far.settimeout(GUARD)
        while far.recv(65536):  # the connection was closed
            pass


def test_a_record_that_was_tampered_with(certificate: Certificate, crew: Crew) -> None:
    """What came before it is read, then the error comes, at every call."""
    near, far = tcp_pair()
    far.settimeout(GUARD)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    peer = certificate.server_context().wrap_bio(incoming, outgoing, server_side=True)
    ours = Secure(
        near, certificate.client_context(), server_side=False, server_hostname="localhost"
    )
    shaking = crew.start(ours.handshake, None)
    while True:
        try:
            peer.do_handshake()
            break
        except ssl.SSLWantReadError:
            far.sendall(outgoing.read())
            incoming.write(far.recv(65536))
    far.sendall(outgoing.read())
    shaking.result()
    peer.write(b"good")
    good = outgoing.read()
    peer.write(b"bad")
    bad = bytearray(outgoing.read())
    bad[-1] ^= 1
    far.sendall(good + bad)
    assert receive(ours, 4) == b"good"
    ours.wait_readable(None)  # the socket is silent, and the error is known
    assert ours.spin()
    for _ in range(2):
        with pytest.raises(ssl.SSLError):
            receive(ours, 1)
    ours.close()
    far.close()


def test_reading_and_writing_take_turns_in_tls(pair: Pair, crew: Crew) -> None:
    """Both ends send more than the connection holds, and read meanwhile."""
    data = os.urandom(3_000_000)
    sends = [crew.start(send, end, data) for end in pair]
    reads = [crew.start(receive, end, len(data)) for end in pair]
    for reading in reads:
        assert reading.result() == data
    for sending in sends:
        sending.result()


def test_a_type_that_is_no_transport() -> None:
    class NoClose:
        recv = sendall = len

    class NoSend:
        recv = close = len

    for wrong in (NoClose(), NoSend(), None, 3):
        with pytest.raises(TypeError, match="a transport needs"):
            wrap(wrong)
    with (
        socket.socket(type=socket.SOCK_DGRAM) as datagrams,
        pytest.raises(TypeError, match="stream socket"),
    ):
        wrap(datagrams)
    assert not [t for t in threading.enumerate() if t.name.startswith("muxado-pump")]
