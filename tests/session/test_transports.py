"""Any connection will do: sockets of every kind, TLS, objects with three methods, and streams."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import muxado

from ..helpers.certificate import Certificate
from ..helpers.crew import GUARD, Crew
from ..helpers.support import (
    DATA,
    FIN,
    SYN,
    Connector,
    Sessions,
    frame,
    read_all,
    streams,
    tcp_pair,
    threads_of,
    until,
    waiting,
)


def exchange(pair: tuple[muxado.Session, muxado.Session], crew: Crew, size: int = 2**20) -> None:
    """Bytes both ways at once, over two streams."""
    tasks = []
    for number in range(2):
        for end in (ends := streams(pair)):
            data = random.Random(number).randbytes(size)

            def send(end: muxado.Stream = end, data: bytes = data) -> None:
                end.sendall(data)
                end.shutdown(socket.SHUT_WR)

            crew.start(send)
        digest = hashlib.sha256(data).digest()
        tasks += [(crew.start(read_all, end), digest) for end in ends]
    for task, expected in tasks:
        assert hashlib.sha256(task.result()).digest() == expected


def test_sockets(connector: Connector, crew: Crew) -> None:
    exchange(connector(), crew)


class Pipes:
    """Any object with recv, sendall and close; this one over two pipes."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self._incoming = os.fdopen(incoming, "rb", buffering=0)
        self._outgoing = os.fdopen(outgoing, "wb", buffering=0)

    def recv(self, size: int) -> bytes:
        return self._incoming.read(size) or b""

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._outgoing.write(view) :]

    def close(self) -> None:
        self._outgoing.close()


class HalfSender(Pipes):
    """With send in place of sendall, and one that never takes everything."""

    sendall = None  # type: ignore[assignment]

    def send(self, data: bytes) -> int:
        return self._outgoing.write(memoryview(data)[: max(1, len(data) // 2)]) or 0


@pytest.mark.parametrize("kind", [Pipes, HalfSender])
def test_an_object_with_three_methods(sessions: Sessions, crew: Crew, kind: type[Pipes]) -> None:
    there, back = os.pipe(), os.pipe()
    near, far = kind(back[0], there[1]), kind(there[0], back[1])
    pair = muxado.client(near), muxado.server(far)
    exchange(pair, crew)
    a, b = streams(pair)
    b.settimeout(0.01)
    with pytest.raises(TimeoutError):
        b.recv(1)
    b.settimeout(None)
    reading = crew.start(b.recv, 1)
    waiting(pair[1], 1)
    a.close()
    assert reading.result() == b""
    b.close()
    pair[0].close()
    pair[1].wait(GUARD)
    pair[1].close()
    for pipe in (near, far):
        pipe._incoming.close()
    assert not threads_of(pair[0])
    assert not threads_of(pair[1])


class Wrapped:
    """A socket as an object with three methods."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def recv(self, size: int) -> bytes:
        return self.sock.recv(size)

    def sendall(self, data: bytes) -> None:
        self.sock.sendall(data)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


def test_an_object_with_a_time_out(sessions: Sessions, crew: Crew) -> None:
    """That its recv() raises TimeoutError says that it is idle, not that it is broken."""
    near, far = socket.socketpair()
    near.settimeout(0.001)
    idle = threading.Event()
    recv = near.recv

    class Idle(Wrapped):
        def recv(self, size: int) -> bytes:
            try:
                return recv(size)
            except TimeoutError:
                idle.set()
                raise

    pair = muxado.client(Idle(near)), muxado.server(far)
    sessions.keep(*pair)
    assert idle.wait(GUARD)
    a, b = streams(pair)
    a.sendall(b"hello")
    assert b.recv(5) == b"hello"
    b.sendall(b"hello")
    assert a.recv(5) == b"hello"


@pytest.mark.parametrize("call", ["recv", "sendall"])
def test_the_error_of_an_object_is_why_the_session_ended(sessions: Sessions, call: str) -> None:
    near, far = socket.socketpair()
    error = OSError("out of order")
    broken = threading.Event()

    class Broken(Wrapped):
        def recv(self, size: int) -> bytes:
            if call == "recv":
                broken.wait()
                raise error
            return super().recv(size)

        def sendall(self, data: bytes) -> None:
            if call == "sendall":
                raise error
            super().sendall(data)

    session = muxado.client(Broken(near))
    sessions.keep(session)
    stream = session.open()
    if call == "sendall":
        stream.sendall(b"x")
    broken.set()
    end = session.wait(GUARD)
    assert (end.code, end.error) == (muxado.ErrorCode.PEER_EOF, error)
    with pytest.raises(muxado.SessionClosed) as caught:
        stream.recv(1)
    assert caught.value.__cause__ is error
    stream.close()
    far.close()


@pytest.mark.parametrize("stuck", ["recv", "sendall", "close"])
def test_closing_waits_for_nothing_that_cannot_come(stuck: str) -> None:
    """The object's recv() never ends, and perhaps other calls do not either."""
    release = threading.Event()
    sent: list[bytes] = []
    before = threading.enumerate()

    class Stuck:
        def recv(self, size: int) -> bytes:
            release.wait()
            return b""

        def sendall(self, data: bytes) -> None:
            if stuck == "sendall":
                release.wait()
            sent.append(data)

        def close(self) -> None:
            if stuck == "close":
                release.wait()

    session = muxado.client(Stuck(), linger=0.01 if stuck == "sendall" else 1000.0)
    stream = session.open()
    stream.sendall(b"last words")
    stream.close()
    session.close()
    session.close()
    session.kill()
    assert session.closed
    assert not threads_of(session)
    if stuck != "sendall":
        assert b"last words" in b"".join(sent)
    release.set()
    until(lambda: set(threading.enumerate()) <= set(before))


CHILD = """
import os, sys, threading
import muxado

class Stdio:
    def recv(self, size): return os.read(0, size)
    def sendall(self, data):
        while data: data = data[os.write(1, data):]
    def close(self): os.close(1)

def echo(stream):
    with stream:
        while data := stream.recv(65536): stream.sendall(data)

for stream in muxado.server(Stdio()):
    threading.Thread(target=echo, args=(stream,)).start()
"""


def test_a_subprocess(crew: Crew) -> None:
    root = str(Path(muxado.__file__).parent.parent)
    with subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        stdin, stdout = child.stdin, child.stdout

        class Adapter:
            def recv(self, size: int) -> bytes:
                return os.read(stdout.fileno(), size)

            def sendall(self, data: bytes) -> None:
                stdin.write(data)
                stdin.flush()

            def close(self) -> None:
                stdin.close()

        with muxado.client(Adapter()) as session:
            data = random.Random(7).randbytes(300_000)
            stream = session.open()
            sending = crew.start(stream.sendall, data)
            assert stream.recv(len(data), socket.MSG_WAITALL) == data
            sending.result()
            stream.close()
        assert child.wait(GUARD) == 0


def test_a_session_inside_a_session(sessions: Sessions, crew: Crew) -> None:
    outer = sessions.tcp()
    near, far = streams(outer)
    inner = muxado.client(near), muxado.server(far)
    sessions.keep(*inner)
    exchange(inner, crew, 300_000)
    innermost_ends = streams(inner)
    innermost = muxado.client(innermost_ends[0]), muxado.server(innermost_ends[1])
    sessions.keep(*innermost)
    exchange(innermost, crew, 100_000)
    innermost[0].close()
    innermost[1].wait(GUARD)
    inner[0].close()
    inner[1].wait(GUARD)
    assert not outer[0].closed
    a, b = streams(outer)
    a.sendall(b"the outer one lives")
    assert b.recv(100) == b"the outer one lives"


def test_an_inner_session_dies_with_the_outer(sessions: Sessions, crew: Crew) -> None:
    outer = sessions.tcp()
    inner = tuple(
        make(end) for make, end in zip((muxado.client, muxado.server), streams(outer), strict=True)
    )
    sessions.keep(*inner)
    near, far = streams(inner)  # type: ignore[arg-type]
    reading = crew.start(far.recv, 1)
    waiting(inner[1], 1)
    outer[0].kill()
    with pytest.raises(muxado.SessionClosed):
        reading.result()
    inner[0].wait(GUARD)
    near.close()


@pytest.mark.parametrize("done", [True, False], ids=["handshaken", "not-yet"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_an_ssl_socket(
    sessions: Sessions,
    crew: Crew,
    certificate: Certificate,
    version: ssl.TLSVersion,
    done: bool,
) -> None:
    near, far = tcp_pair()
    client_context, server_context = certificate.client_context(), certificate.server_context()
    for context in (client_context, server_context):
        context.minimum_version = context.maximum_version = version
    tls_near = client_context.wrap_socket(
        near, server_hostname="localhost", do_handshake_on_connect=False
    )
    tls_far = server_context.wrap_socket(far, server_side=True, do_handshake_on_connect=False)
    if done:
        shaking = crew.start(tls_far.do_handshake)
        tls_near.do_handshake()
        shaking.result()
        assert tls_near.version() is not None
    making = crew.start(muxado.server, tls_far)
    pair = muxado.client(tls_near), making.result()
    sessions.keep(*pair)
    exchange(pair, crew)
    pair[0].close()
    assert pair[1].wait(GUARD).error is None


def test_a_non_blocking_ssl_socket(
    sessions: Sessions, crew: Crew, certificate: Certificate
) -> None:
    """Its handshake is still to come."""
    near, far = tcp_pair()
    near.setblocking(False)
    far.setblocking(False)
    tls_near = certificate.client_context().wrap_socket(
        near, server_hostname="localhost", do_handshake_on_connect=False
    )
    tls_far = certificate.server_context().wrap_socket(
        far, server_side=True, do_handshake_on_connect=False
    )
    making = crew.start(muxado.server, tls_far)
    pair = muxado.client(tls_near), making.result()
    sessions.keep(*pair)
    exchange(pair, crew, 1000)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_with_time_outs_and_both_directions(
    sessions: Sessions, crew: Crew, certificate: Certificate, version: ssl.TLSVersion
) -> None:
    """What two threads inside one SSLSocket break on."""
    server_context = certificate.server_context()
    server_context.minimum_version = server_context.maximum_version = version
    with muxado.listen_tls("127.0.0.1:0", server_context) as listener:
        client = muxado.dial_tls(
            listener.getsockname(), certificate.client_context(), server_hostname="localhost"
        )
        server, _ = listener.accept()
    sessions.keep(client, server)
    ends = streams((client, server))
    data = random.Random(3).randbytes(3 * 2**20)
    sending = []
    for end in ends:
        end.settimeout(GUARD)
        sending.append(crew.start(end.sendall, data))
    for end in ends:
        assert end.recv(len(data), socket.MSG_WAITALL) == data
    for task in sending:
        task.result()


def test_client_certificates(sessions: Sessions, certificate: Certificate) -> None:
    server_context = certificate.server_context()
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.load_verify_locations(certificate.certfile)
    client_context = certificate.client_context()
    with muxado.listen_tls("127.0.0.1:0", server_context) as listener:
        listener.settimeout(GUARD)
        anonymous = muxado.dial_tls(
            listener.getsockname(), certificate.client_context(), server_hostname="localhost"
        )
        # In TLS 1.3 a client learns only afterwards that its certificate was wanted.
        assert isinstance(anonymous.wait(GUARD).error, OSError)
        anonymous.close()
        client_context.load_cert_chain(certificate.certfile, certificate.keyfile)
        client = muxado.dial_tls(
            listener.getsockname(), client_context, server_hostname="localhost"
        )
        server, _ = listener.accept()
    sessions.keep(client, server)
    near, far = streams((client, server))
    near.sendall(b"known")
    assert far.recv(100) == b"known"


def test_dial_tls_checks_the_certificate(certificate: Certificate) -> None:
    with muxado.listen_tls("127.0.0.1:0", certificate.server_context()) as listener:
        with pytest.raises(ssl.SSLCertVerificationError):
            muxado.dial_tls(listener.getsockname(), timeout=GUARD)
        with pytest.raises(ssl.SSLCertVerificationError, match=r"[Hh]ostname"):
            muxado.dial_tls(
                listener.getsockname(),
                certificate.client_context(),
                server_hostname="example.com",
                timeout=GUARD,
            )


def test_close_notify_is_sent(sessions: Sessions, certificate: Certificate) -> None:
    near, far = tcp_pair()
    server_context = certificate.server_context()
    making: list[Any] = []
    thread = threading.Thread(
        target=lambda: making.append(server_context.wrap_socket(far, server_side=True))
    )
    thread.start()
    session = muxado.client(
        certificate.client_context().wrap_socket(
            near, server_hostname="localhost", do_handshake_on_connect=False
        )
    )
    thread.join()
    with making[0] as peer:
        peer.settimeout(GUARD)
        peer.suppress_ragged_eofs = False
        closing = threading.Thread(target=session.close)
        closing.start()
        while peer.recv(4096):  # an end without close_notify would raise SSLEOFError
            pass
        peer.close()
        closing.join()


def test_an_end_without_close_notify_is_ordinary(
    sessions: Sessions, crew: Crew, certificate: Certificate
) -> None:
    """ngrok's SDK never sends one."""
    near, far = tcp_pair()
    wrapping = crew.start(certificate.server_context().wrap_socket, far, server_side=True)
    session = muxado.client(
        certificate.client_context().wrap_socket(
            near, server_hostname="localhost", do_handshake_on_connect=False
        )
    )
    sessions.keep(session)
    with wrapping.result() as peer:
        goaway = bytes.fromhex("00000830000000000000000000000000")
        peer.sendall(goaway)
        raw = socket.socket(fileno=peer.detach())
    raw.close()
    end = session.wait(GUARD)
    assert (end.code, end.error) == (muxado.ErrorCode.NO_ERROR, None)


@pytest.mark.parametrize("done", [False, True], ids=["", "handshake done"])
def test_close_notify_in_the_same_read_as_data_is_the_end(
    sessions: Sessions, crew: Crew, certificate: Certificate, done: bool
) -> None:
    """Though the connection below stays open."""
    near, far = tcp_pair()
    far.settimeout(GUARD)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    peer = certificate.server_context().wrap_bio(incoming, outgoing, server_side=True)
    ours = certificate.client_context().wrap_socket(
        near, server_hostname="localhost", do_handshake_on_connect=False
    )

    def make() -> muxado.Session:
        if done:
            ours.do_handshake()
        return muxado.client(ours)

    making = crew.start(make)
    while True:
        try:
            peer.do_handshake()
            break
        except ssl.SSLWantReadError:
            far.sendall(outgoing.read())
            incoming.write(far.recv(65536))
    far.sendall(outgoing.read())
    session = making.result()
    sessions.keep(session)
    peer.write(frame(DATA, SYN | FIN, 2, b"last words"))
    with contextlib.suppress(ssl.SSLWantReadError):
        peer.unwrap()
    far.sendall(outgoing.read())
    stream, _ = session.accept()
    assert read_all(stream) == b"last words"
    assert session.wait(GUARD).code is muxado.ErrorCode.PEER_EOF
    stream.close()
    far.close()


def test_a_descriptor_closed_behind_our_back(sessions: Sessions) -> None:
    near, far = socket.socketpair()
    session = muxado.client(near)
    sessions.keep(session)
    far.close()
    assert session.wait(GUARD).code == muxado.ErrorCode.PEER_EOF
