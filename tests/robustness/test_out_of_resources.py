"""A process that runs out of descriptors or threads: a clear error, and nothing is lost or left."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import muxado
from muxado import accepting

from ..helpers.certificate import Certificate
from ..helpers.crew import GUARD, Crew
from ..helpers.gates import Plain, polls
from ..helpers.support import Sessions, read_all, streams, threads_of, until

resource = pytest.importorskip("resource")


@contextlib.contextmanager
def descriptors(free: int) -> Iterator[Callable[[], None]]:
    """Only so many more can be opened by this process; what is yielded lifts that early."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.dup(0)
    filled = [probe]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 4096), hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                filled.append(os.dup(0))
        for _ in range(free):
            os.close(filled.pop())

        def lift() -> None:
            while filled:
                os.close(filled.pop())

        yield lift
    finally:
        while filled:
            os.close(filled.pop())
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def opened() -> int:
    """How many descriptors this process has; those of an earlier test may still be on their way."""
    return len(os.listdir("/dev/fd"))


def muxado_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("muxado")]


def until_it_works(make: Callable[[], Any]) -> tuple[Any, int]:
    """``make()`` with ever more descriptors to spare; what it made, and how often it failed.

    Where it fails, it says why and leaves nothing behind.
    """
    before, threads = opened(), muxado_threads()
    for free in range(20):
        made = None
        with descriptors(free):
            try:
                made = make()
            except OSError as error:
                if error.errno != errno.EMFILE:
                    raise
        if made is not None:
            return made, free
        assert opened() <= before
        assert muxado_threads() == threads
    raise AssertionError("it never worked")


class TestDescriptors:
    @pytest.mark.parametrize("kind", ["tcp", "unix"])
    def test_dial(self, tmp_path: Path, kind: str) -> None:
        """The other end needs descriptors too, and would take what is spare: there is none."""
        with socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET) as listening:
            listening.bind(str(tmp_path / "socket") if kind == "unix" else ("127.0.0.1", 0))
            listening.listen(100)
            address = listening.getsockname()
            session, failures = until_it_works(lambda: muxado.dial(address))
            assert failures == 3  # the connection, and two to wake its reader
            session.kill()

    @pytest.mark.parametrize("free", range(3))
    def test_dial_tls(self, certificate: Certificate, free: int) -> None:
        context = certificate.client_context()
        before = opened()
        with (
            socket.create_server(("127.0.0.1", 0)) as listening,
            descriptors(free),
            pytest.raises(OSError, match="Too many open files"),
        ):
            muxado.dial_tls(listening.getsockname(), context, server_hostname="localhost")
        assert opened() <= before

    def test_a_session_on_a_socket_that_there_is(self, sessions: Sessions) -> None:
        """It fails before it has touched the socket, which is still the caller's."""
        near, far = socket.socketpair()
        near.settimeout(7)
        with descriptors(1), pytest.raises(OSError) as caught:
            muxado.client(near)
        assert caught.value.errno == errno.EMFILE
        assert near.gettimeout() == 7
        sessions.keep(muxado.client(near), muxado.server(far))

    def test_listen(self, tmp_path: Path) -> None:
        for address in (("127.0.0.1", 0), str(tmp_path / "socket")):

            def listen(address: Any = address) -> Any:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(tmp_path / "socket")
                return muxado.listen(address)

            listening, failures = until_it_works(listen)
            assert failures == 4  # the socket, two to wake the thread, and the selector
            with listening:
                client = muxado.dial(listening.getsockname())
                listening.settimeout(GUARD)
                listening.accept()[0].kill()
                client.kill()

    @pytest.mark.parametrize("free", range(3))
    @pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
    def test_a_listeners_accept(
        self,
        sessions: Sessions,
        certificate: Certificate,
        crew: Crew,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        free: int,
        tls: bool,
    ) -> None:
        """It pauses, and takes who has come meanwhile when there are descriptors again."""
        monkeypatch.setattr(accepting, "_PAUSE", 0.02)
        caplog.set_level(logging.WARNING, "muxado")
        listening = (
            muxado.listen_tls(("127.0.0.1", 0), certificate.server_context())
            if tls
            else muxado.listen(("127.0.0.1", 0))
        )
        looks: list[float] = []
        take = listening._acceptor._take

        def looked(*args: Any) -> bool:
            looks.append(time.monotonic())
            return take(*args)

        monkeypatch.setattr(listening._acceptor, "_take", looked)
        context = certificate.client_context()
        with listening:
            clients = [socket.socket() for _ in range(3)]
            with descriptors(free) as lift:
                for sock in clients:
                    sock.connect(listening.getsockname())
                until(lambda: len(caplog.records) >= 5)
                tried = list(looks)
                assert all("cannot accept just now" in each.message for each in caplog.records)
                lift()
                listening.settimeout(GUARD)
                for sock in clients:
                    if tls:
                        client = crew.start(
                            muxado.client,
                            context.wrap_socket(
                                sock, server_hostname="localhost", do_handshake_on_connect=False
                            ),
                        )
                        server, _ = listening.accept()
                        pair = client.result(), server
                    else:
                        server, address = listening.accept()
                        assert address == sock.getsockname()
                        pair = muxado.client(sock), server
                    sessions.keep(*pair)
                    near, far = streams(pair)
                    near.sendall(b"hello")
                    assert far.recv(5) == b"hello"
        # The first may find nobody yet, and the next is no repetition then.
        pauses = [after - before for before, after in itertools.pairwise(tried[-4:])]
        assert min(pauses) > 0.015, "it did not pause"

    def test_a_client_that_is_held_goes_with_the_listener(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        listening = muxado.listen(("127.0.0.1", 0))
        with socket.socket() as client:
            with descriptors(1):
                client.connect(listening.getsockname())
                until(lambda: listening._acceptor._held)
                listening.close()
            client.settimeout(GUARD)
            assert client.recv(1) == b""
        assert caplog.records

    def test_a_descriptor_to_poll(self, sessions: Sessions) -> None:
        """The call fails, the stream and the session go on, and it works when it can."""
        pair = sessions.socketpair()
        near, far = streams(pair)
        with muxado.listen(("127.0.0.1", 0)) as listening:
            for pollable in (near, pair[1], listening):
                descriptor, failures = until_it_works(pollable.fileno)
                assert failures == 2
                os.fstat(descriptor)
        assert pair[0]._engine.reading.pins == pair[1]._engine.reading.pins == 1
        far.sendall(b"news")
        until(lambda: polls(near, 1))
        assert near.recv(4) == b"news"

    def test_streams_need_none(self, sessions: Sessions) -> None:
        pair = sessions.socketpair()
        with descriptors(0):
            for _ in range(20):
                near, far = streams(pair)
                near.makefile("wb", 0).write(b"hello")
                near.close()
                assert read_all(far) == b"hello"
                far.close()
            pair[0].close()
        assert pair[1].wait(GUARD).error is None


class TestThreads:
    """A session has two threads, and two more over an object that only blocks."""

    @staticmethod
    def limit(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
        """Only so many more threads can be started."""
        start = threading.Thread.start
        left = [None] * count

        def limited(thread: threading.Thread) -> None:
            if not left:
                raise RuntimeError("can't start new thread")
            left.pop()
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", limited)

    @pytest.mark.parametrize(
        ("wrap", "count"),
        [(None, 0), (None, 1), (Plain, 0), (Plain, 1), (Plain, 2), (Plain, 3)],
    )
    def test_one_that_cannot_be_started(
        self, monkeypatch: pytest.MonkeyPatch, wrap: Callable[[Any], Any] | None, count: int
    ) -> None:
        near, far = socket.socketpair()
        before = set(threading.enumerate())
        with monkeypatch.context() as limited:
            self.limit(limited, count)
            with pytest.raises(RuntimeError, match="can't start"):
                muxado.client(near if wrap is None else wrap(near))
        until(lambda: near.fileno() == -1)  # an object may be closed by a thread of its own
        far.settimeout(GUARD)
        assert far.recv(1) == b"", "nothing was said"
        far.close()
        for thread in set(threading.enumerate()) - before:
            thread.join(GUARD)
            assert not thread.is_alive()

    def test_the_listeners(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = opened()
        with monkeypatch.context() as limited:
            self.limit(limited, 0)
            with pytest.raises(RuntimeError, match="can't start"):
                muxado.listen(("127.0.0.1", 0))
        assert opened() <= before

    def test_those_of_a_session_that_a_listener_makes(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """That client is turned away, and the next one is served."""
        with muxado.listen(("127.0.0.1", 0)) as listening:
            with monkeypatch.context() as limited, socket.socket() as unlucky:
                self.limit(limited, 1)
                unlucky.connect(listening.getsockname())
                unlucky.settimeout(GUARD)
                assert unlucky.recv(1) == b""
            until(lambda: "can't start new thread" in caplog.text)
            with muxado.dial(listening.getsockname()):
                listening.settimeout(GUARD)
                listening.accept()[0].kill()


class TestMemory:
    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    def test_the_writer_thread_has_none_left_while_it_writes(
        self, sessions: Sessions, monkeypatch: pytest.MonkeyPatch, tls: bool
    ) -> None:
        """The session ends and says why, and neither of its threads stays behind."""
        client, server = sessions.tls() if tls else sessions.socketpair()

        def send(buffers: object) -> int:
            raise MemoryError

        monkeypatch.setattr(client._engine.transport, "send", send)
        opened = client.open()  # whose SYN the writer thread writes
        end = client.wait(GUARD)
        assert end.code == muxado.ErrorCode.INTERNAL_ERROR
        assert isinstance(end.error, MemoryError)
        assert server.wait(GUARD).code == muxado.ErrorCode.PEER_EOF
        until(lambda: not threads_of(client))
        with pytest.raises(muxado.SessionClosed):
            opened.recv(1)
        client.close()
