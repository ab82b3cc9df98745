"""Listeners: clients that behave, that say nothing, and that speak something else."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import threading
from pathlib import Path

import pytest

import muxado

from ..helpers.certificate import Certificate
from ..helpers.crew import GUARD, Crew
from ..helpers.support import Sessions, streams, until


def test_dial_and_listen(sessions: Sessions, tmp_path: Path) -> None:
    for address in (("127.0.0.1", 0), "127.0.0.1:0", str(tmp_path / "socket"), "[::1]:0"):
        try:
            listener = muxado.listen(address, linger=1.0)
        except OSError:
            assert address == "[::1]:0", "only IPv6 may be missing"
            continue
        with listener:
            listener.settimeout(GUARD)
            name = listener.getsockname()
            client = muxado.dial(name if isinstance(name, str) else name[:2], timeout=GUARD)
            server, peer = listener.accept()
            assert peer == (server._engine.transport.getpeername())
            sessions.keep(client, server)
            near, far = streams((client, server))
            near.sendall(b"hello")
            assert far.recv(5) == b"hello"
    assert not os.path.exists(tmp_path / "socket")


def test_bad_addresses() -> None:
    for bad in ("nonsense:port", "", "host:99999", ("host",)):
        with pytest.raises(ValueError, match=r"port|address"):
            muxado.dial(bad)
    for wrong in (None, 80, b"bytes"):
        with pytest.raises(TypeError, match="address"):
            muxado.listen(wrong)
    with pytest.raises(TypeError):
        muxado.dial(("127.0.0.1", 1), no_such_option=True)
    with pytest.raises(TypeError, match="SSLContext"):
        muxado.dial_tls(("127.0.0.1", 1), object())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="SSLContext"):
        muxado.listen_tls(("127.0.0.1", 0), None)  # type: ignore[arg-type]
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = closed.getsockname()
    with pytest.raises(ConnectionRefusedError):
        muxado.dial(address, timeout=GUARD)


def test_accept_waits_like_a_socket() -> None:
    listener = muxado.listen("127.0.0.1:0")
    listener.settimeout(0.01)
    assert listener.gettimeout() == 0.01
    with pytest.raises(TimeoutError, match="timed out"):
        listener.accept()
    listener.settimeout(0)
    with pytest.raises(BlockingIOError):
        listener.accept()
    listener.close()
    listener.close()
    for _ in range(2):
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            listener.accept()
        assert caught.value.errno == errno.EBADF
    assert listener.fileno() == -1
    assert "closed" in repr(listener)


def test_close_wakes_accept(crew: Crew) -> None:
    listener = muxado.listen("127.0.0.1:0")
    accepting = crew.start(listener.accept)
    iterating = crew.start(lambda: list(listener))
    until(lambda: len(listener._arrived._waiters) == 2)  # type: ignore[attr-defined]
    listener.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        accepting.result()
    assert iterating.result() == []
    assert not [t for t in threading.enumerate() if t.name.startswith("muxado-listener")]


def test_polls_readable(sessions: Sessions, certificate: Certificate) -> None:
    for context in (None, certificate.server_context()):
        sock = socket.create_server(("127.0.0.1", 0))
        with muxado.Listener(sock, context=context) as listener:
            assert select.select([listener], [], [], 0)[0] == []
            if context is None:
                client = muxado.dial(listener.getsockname())
            else:
                client = muxado.dial_tls(
                    listener.getsockname(),
                    certificate.client_context(),
                    server_hostname="localhost",
                )
            assert select.select([listener], [], [], GUARD)[0] == [listener]
            sessions.keep(client, listener.accept()[0])
            assert select.select([listener], [], [], 0)[0] == []


def test_silent_clients_delay_nobody(sessions: Sessions, certificate: Certificate) -> None:
    with (
        contextlib.ExitStack() as stack,
        muxado.listen_tls("127.0.0.1:0", certificate.server_context()) as listener,
    ):
        listener.settimeout(GUARD)
        for _ in range(50):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        client = muxado.dial_tls(
            listener.getsockname(), certificate.client_context(), server_hostname="localhost"
        )
        sessions.keep(client, listener.accept()[0])
        again = stack.enter_context(socket.create_connection(listener.getsockname()))
        again.sendall(b"\x16\x03\x01")  # a handshake begun and not gone on with
        client = muxado.dial_tls(
            listener.getsockname(), certificate.client_context(), server_hostname="localhost"
        )
        sessions.keep(client, listener.accept()[0])


def test_a_failed_handshake_is_logged_not_raised(
    sessions: Sessions, certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.INFO, "muxado"),
        muxado.listen_tls("127.0.0.1:0", certificate.server_context()) as listener,
    ):
        listener.settimeout(GUARD)
        with socket.create_connection(listener.getsockname()) as other:
            other.settimeout(GUARD)
            other.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while other.recv(4096):
                pass
        client = muxado.dial_tls(
            listener.getsockname(), certificate.client_context(), server_hostname="localhost"
        )
        sessions.keep(client, listener.accept()[0])
    assert any("handshake" in record.message for record in caplog.records)


def test_sessions_nobody_accepted_are_closed_with_it() -> None:
    listener = muxado.listen("127.0.0.1:0")
    client = muxado.dial(listener.getsockname())
    until(lambda: listener._ready)
    listener.close()
    assert client.wait(GUARD).code == muxado.ErrorCode.PEER_EOF
    client.close()


def test_iteration(sessions: Sessions, crew: Crew) -> None:
    listener = muxado.listen("127.0.0.1:0")

    def serve() -> int:
        count = 0
        for session in listener:
            session.close()
            count += 1
        return count

    serving = crew.start(serve)
    for _ in range(3):
        client = muxado.dial(listener.getsockname())
        client.wait(GUARD)
        client.close()
    listener.close()
    assert serving.result() == 3
