"""Listeners: clients that behave, that say nothing, and that speak something else."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import muxado

from ..helpers.certificate import Certificate
from ..helpers.crew import GUARD, Crew
from ..helpers.gates import Gate, Once, before
from ..helpers.support import Sessions, streams, until


def listener_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("muxado-listener")]


@contextlib.contextmanager
def handling(call: Callable[[], object]) -> Iterator[None]:
    """Have ``call`` called by a signal's handler."""
    previous = signal.signal(signal.SIGUSR1, lambda *_: call())
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, previous)


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
    until(lambda: len(listener._acceptor.waiting) == 2)
    listener.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        accepting.result()
    assert iterating.result() == []
    assert not listener_threads()


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
    until(lambda: listener._acceptor.sessions)
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


def test_a_handler_closes_the_listener_whose_accept_it_interrupts(crew: Crew) -> None:
    listener = muxado.listen("127.0.0.1:0")

    def strike() -> None:
        until(lambda: listener._acceptor.waiting)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    with handling(listener.close):
        striking = crew.start(strike)
        with pytest.raises(OSError, match="Bad file descriptor"):
            listener.accept()
    striking.result()
    assert not listener_threads()


def test_a_handler_closes_the_listener_whose_close_it_interrupts(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = muxado.listen("127.0.0.1:0")
    client = muxado.dial(listener.getsockname())
    until(lambda: listener._acceptor.sessions)
    handled = threading.Event()
    with Gate() as gate:
        before(monkeypatch, listener._acceptor.sessions[0][0], "kill", gate.stop)

        def strike() -> None:
            gate.reached()
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            assert handled.wait(GUARD)
            gate.open()

        def handler() -> None:
            handled.set()
            listener.close()

        with handling(handler):
            striking = crew.start(strike)
            listener.close()
        striking.result()
    assert not listener_threads()
    client.close()


def test_a_handler_that_would_have_to_wait_for_its_own_thread(sessions: Sessions) -> None:
    """It is told so, and what it closes is closed when that thread goes on."""
    listener = muxado.listen("127.0.0.1:0")
    acceptor = listener._acceptor
    with acceptor.lock:
        for call in (listener.accept, listener.fileno):
            with pytest.raises(RuntimeError, match="inside"):
                call()
        listener.close()
        assert not acceptor.over
    until(lambda: acceptor.over)
    listener.close()
    assert not listener_threads()


def test_a_handler_closes_the_listener_whose_descriptor_is_brought_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listener = muxado.listen("127.0.0.1:0")
    number = listener.fileno()
    readiness = listener._acceptor.readiness
    assert readiness is not None
    before(monkeypatch, readiness, "_is_readable", Once(listener.close))
    readiness.sync()
    listener.close()
    assert listener.fileno() == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    assert not listener_threads()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has them")
@pytest.mark.parametrize(
    "name", ["\0muxado-test-{}", b"\0muxado-test-{}", b"\0muxado-\xff-test-{}"], ids=repr
)
def test_abstract_names(sessions: Sessions, name: str | bytes) -> None:
    unique = str(os.getpid())
    address: str | bytes
    if isinstance(name, str):
        address = name.replace("{}", unique)
    else:
        address = name.replace(b"{}", unique.encode())
    with muxado.listen(address) as listener:
        listener.settimeout(GUARD)
        for target in (listener.getsockname(), address):
            client = muxado.dial(target, timeout=GUARD)
            server, _ = listener.accept()
            sessions.keep(client, server)
            near, far = streams((client, server))
            near.sendall(b"hello")
            assert far.recv(5) == b"hello"
    with pytest.raises(ConnectionRefusedError):
        muxado.dial(address)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("used", [False, True], ids=["", "used"])
def test_one_that_is_dropped_is_closed(tmp_path: Path, kind: str, used: bool) -> None:
    descriptors = len(os.listdir("/dev/fd"))
    listener = muxado.listen("127.0.0.1:0" if kind == "tcp" else str(tmp_path / "socket"))
    address = listener.getsockname()
    acceptor = listener._acceptor
    client = None
    if used:
        listener.fileno()
        client = muxado.dial(address)
        until(lambda: acceptor.sessions)
    with pytest.warns(ResourceWarning, match="unclosed <muxado.Listener"):
        del listener
    until(lambda: not listener_threads())
    with pytest.raises(OSError):
        muxado.dial(address)
    if client is not None:
        assert client.wait(GUARD).code == muxado.ErrorCode.PEER_EOF
        client.close()
    assert list(tmp_path.iterdir()) == []
    until(lambda: len(os.listdir("/dev/fd")) <= descriptors)


def test_one_that_was_closed_is_dropped_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    listener = muxado.listen("127.0.0.1:0")
    listener.close()
    del listener
    with pytest.raises(TypeError):
        muxado.listen("127.0.0.1:0", no_such_option=True)
    assert not recwarn.list


def test_a_path_is_removed_when_there_is_no_listener_after_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError):
            muxado.listen(tmp_path / "socket")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_can_accept_nothing(sessions: Sessions) -> None:
    """The thread is the parent's, which goes on."""
    with muxado.listen("127.0.0.1:0") as listener:
        child = os.fork()
        if not child:
            try:
                listener.accept()
            except OSError as error:
                os._exit(0 if error.errno == errno.EBADF else 1)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        listener.settimeout(GUARD)
        client = muxado.dial(listener.getsockname())
        sessions.keep(client, listener.accept()[0])
