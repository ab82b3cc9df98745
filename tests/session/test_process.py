"""Sessions and the process around them: dropped objects, forks, signals, the exit."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

import muxado

from ..helpers.crew import GUARD, Crew
from ..helpers.support import (
    DATA,
    GOAWAY,
    RST,
    SYN,
    RawPeer,
    Sessions,
    callers_waiting,
    frame,
    streams,
    threads_of,
    until,
    waiting,
)

ROOT = Path(muxado.__file__).parent.parent


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a process of its own that must end by itself."""
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "error", "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=GUARD,
        check=False,
    )


def test_a_dropped_stream_is_reset(raw: Callable[..., RawPeer]) -> None:
    peer = raw()
    peer.send(frame(DATA, SYN, 3, b"unread"))
    stream, _ = peer.session.accept()
    descriptor = stream.fileno()
    assert stream.recv(1) == b"u"
    held = [stream]
    del stream
    with pytest.warns(ResourceWarning, match="unclosed"):
        held.clear()
    gc.collect()
    peer.expect(RST, 3)
    until(lambda: peer.session.stats().streams == 0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_dropped_session_ends() -> None:
    near, far = socket.socketpair()
    session = muxado.client(near)
    threads = threads_of(session)
    assert len(threads) == 2
    held = [session]
    del session
    with pytest.warns(ResourceWarning, match="unclosed"):
        held.clear()
    gc.collect()
    for thread in threads:
        thread.join(GUARD)
        assert not thread.is_alive()
    far.settimeout(GUARD)
    assert far.recv(8)[3] >> 4 == 3, "a GOAWAY"
    far.close()


def test_a_closed_session_keeps_nothing_alive(sessions: Sessions) -> None:
    near, far = socket.socketpair()
    with muxado.client(near) as client, muxado.server(far):
        engine = weakref.ref(client._engine)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del client
        gc.collect()
    until(lambda: engine() is None)


def test_interrupt_while_blocked_costs_nothing(sessions: Sessions, crew: Crew) -> None:
    """A signal handler's exception in recv, accept and sendall: the session lives on."""
    pair = sessions.tcp()
    near, far = streams(pair)

    class Interrupted(Exception):
        pass

    def handler(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        for call in (
            lambda: far.recv(1),
            pair[1].accept,
            lambda: far.sendall(bytes(300_000)),
        ):
            main = threading.main_thread().ident
            assert main is not None

            def interrupt(main: int = main) -> None:
                waiting(pair[1], 1)
                signal.pthread_kill(main, signal.SIGUSR1)

            task = crew.start(interrupt)
            with pytest.raises(Interrupted):
                call()
            task.result()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(near.recv(262144, socket.MSG_WAITALL)) == 262144
    far.sendall(b"and on")
    assert near.recv(100) == b"and on"
    near.sendall(b"both ways")
    assert far.recv(100) == b"both ways"


def test_a_keyboard_interrupt_in_calls_that_wait_for_no_bytes(
    sessions: Sessions, crew: Crew
) -> None:
    """In drain, wait, a file's read, and a listener's accept: all goes on."""
    pair = sessions.tcp()
    near, far = streams(pair)
    file = far.makefile("rb")
    main = threading.main_thread().ident
    assert main is not None
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with muxado.listen(("127.0.0.1", 0)) as listening:
            calls: list[tuple[Callable[[], object], Callable[[], object]]] = [
                (pair[1].drain, lambda: callers_waiting(pair[1])),
                (pair[1].wait, lambda: callers_waiting(pair[1])),
                (file.readline, lambda: callers_waiting(pair[1])),
                (listening.accept, lambda: listening._acceptor.waiting),
            ]
            for call, blocked in calls:

                def interrupt(blocked: Callable[[], object] = blocked) -> None:
                    until(blocked)
                    signal.pthread_kill(main, signal.SIGINT)

                task = crew.start(interrupt)
                with pytest.raises(KeyboardInterrupt):
                    call()
                task.result()
                assert not callers_waiting(pair[1])
            listening.settimeout(GUARD)
            sessions.keep(muxado.dial(listening.getsockname()), listening.accept()[0])
    finally:
        signal.signal(signal.SIGINT, before)
    near.sendall(b"and on")
    near.close()
    assert file.read() == b"and on"
    file.close()
    far.close()
    assert pair[1].drain(GUARD)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_leaves_the_parent_untouched() -> None:
    done = run(
        """
        import os, socket, sys, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
        import muxado
        near, far = socket.socketpair()
        client, server = muxado.client(near), muxado.server(far)
        stream = client.open()
        stream.sendall(b"before")
        accepted, _ = server.accept()
        assert accepted.recv(6) == b"before"
        child = os.fork()
        if not child:
            try:
                for call in (lambda: stream.recv(1), lambda: stream.sendall(b"x"),
                             client.open, server.accept):
                    try:
                        call()
                    except muxado.SessionClosed as error:
                        assert "parent" in str(error), error
                    else:
                        os._exit(2)
                stream.close()
                client.close()
                server.kill()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        accepted.sendall(b"after")
        assert stream.recv(5) == b"after"
        stream.close(); accepted.close()
        client.close(); server.close()
        """
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_in_mid_transfer() -> None:
    """Both directions are full while children come and go; not a byte of theirs is in it."""
    done = run(
        """
        import hashlib, os, socket, threading, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
        import muxado
        listening = socket.create_server(("127.0.0.1", 0))
        near = socket.create_connection(listening.getsockname())
        far, _ = listening.accept()
        client, server = muxado.client(near), muxado.server(far)
        block = bytes(range(256)) * 256
        stop, flowing = threading.Event(), threading.Barrier(5)
        sums, failed = {}, []

        def send(stream, name):
            digest, first = hashlib.sha256(), True
            while first or not stop.is_set():
                stream.sendall(block)
                digest.update(block)
                if first:
                    flowing.wait()
                first = False
            stream.close_write()
            sums["sent " + name] = digest.digest()

        def receive(stream, name):
            digest, first = hashlib.sha256(), True
            while data := stream.recv(65536):
                digest.update(data)
                if first:
                    flowing.wait()
                first = False
            sums["received " + name] = digest.digest()

        up = client.open()
        up.sendall(b"up")
        there, _ = server.accept()
        assert there.recv(2) == b"up"
        jobs = [
            (send, up, "up"), (receive, there, "up"),
            (send, there, "down"), (receive, up, "down"),
        ]
        threads = [threading.Thread(target=job, args=more) for job, *more in jobs]
        for thread in threads:
            thread.start()
        flowing.wait()
        for number in range(8):
            child = os.fork()
            if not child:
                try:
                    for stream in (up, there):
                        try:
                            stream.sendall(b"of the child")
                        except muxado.SessionClosed:
                            pass
                        else:
                            os._exit(2)
                    if number % 2:
                        up.close()
                        client.close()
                        server.kill()
                    os._exit(0)
                finally:
                    os._exit(1)
            assert os.waitpid(child, 0)[1] == 0
        stop.set()
        for thread in threads:
            thread.join()
        for name in ("up", "down"):
            assert sums["sent " + name] == sums["received " + name], name
        up.close(); there.close()
        client.close(); server.close()
        listening.close()
        """
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_while_others_are_inside() -> None:
    """A thread that the child does not have holds every lock that there is in a session."""
    done = run(
        """
        import os, socket, threading, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
        import muxado
        near, far = socket.socketpair()
        client, server = muxado.client(near), muxado.server(far)
        stream = client.open()
        stream.fileno()
        engine, readiness = client._engine, stream._readiness
        inside, leave = threading.Event(), threading.Event()

        def hold():
            with readiness._lock, engine.core.lock:
                inside.set()
                leave.wait()

        holder = threading.Thread(target=hold)
        holder.start()
        inside.wait()
        child = os.fork()
        if not child:
            try:
                stream.close()
                client.close()
                client.wait(1)
                server.kill()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        leave.set()
        holder.join()
        stream.sendall(b"after")
        accepted, _ = server.accept()
        assert accepted.recv(5) == b"after"
        stream.close(); accepted.close()
        client.close(); server.close()
        """
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_exit_with_open_sessions() -> None:
    """Prompt, silent, and the peer is told."""
    ours, theirs = socket.socketpair()
    code = f"""
        import socket, threading
        import muxado
        session = muxado.client(socket.socket(fileno={theirs.fileno()}))
        stream = session.open()
        stream.sendall(b"last")
        threading.Thread(target=session.accept, daemon=True).start()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        pass_fds=[theirs.fileno()],
        capture_output=True,
        timeout=GUARD,
        check=False,
    )
    theirs.close()
    assert (done.returncode, done.stderr) == (0, b"")
    ours.settimeout(GUARD)
    received = b"".join(iter(lambda: ours.recv(4096), b""))
    ours.close()
    assert received.startswith(frame(DATA, SYN, 3, b"last"))
    assert received[12 + 3] >> 4 == 3, "a GOAWAY comes last"


def test_threads_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = socket.socketpair()

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start"):
        muxado.client(near)
    assert far.recv(1) == b""
    far.close()


#: A session over its standard streams, which can only be read and written by blocking.
PIPES = """
    import os, threading, muxado

    class Pipes:
        def recv(self, size): return os.read(0, size)
        def sendall(self, data):
            while data: data = data[os.write(1, data):]
        def close(self): os.close(1)

    session = muxado.client(Pipes())
    stream = session.open()
"""


def exit_over_pipes(code: str, *, read: bool) -> tuple[bytes, bytes]:
    """What a process writes to its pipe until it ends by itself, and to stderr.

    ``read``: somebody reads meanwhile; else not before it has ended.
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PIPES) + textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        # Its standard input stays open, so its reader thread is blocked until the very end.
        received = child.stdout.read() if read else b""
        assert child.wait(GUARD) == 0
        return received + child.stdout.read(), child.stderr.read()


def test_exit_with_an_open_session_over_pipes() -> None:
    """Both of its threads are in calls that nothing ends; that is nobody's concern."""
    received, said = exit_over_pipes(
        """
        stream.sendall(b"last")
        threading.Thread(target=session.accept, daemon=True).start()
        """,
        read=True,
    )
    assert said == b""
    assert b"last" in received
    assert received.endswith(frame(GOAWAY, 0, 0, bytes(8)))


def test_exit_while_a_write_is_stuck_in_a_pipe() -> None:
    """Nobody reads it: there can be no last word, and the exit does not wait for one."""
    received, said = exit_over_pipes(
        """
        stream.settimeout(0.1)
        try:
            stream.sendall(bytes(200_000))
        except TimeoutError:
            pass
        """,
        read=False,
    )
    assert said == b""
    assert len(received) <= 2**16, "what the pipe takes"


@pytest.mark.parametrize("mode", ["w", "wb", "rwb"])
def test_exit_with_an_unflushed_file(mode: str) -> None:
    """What a file still holds is sent before the session says goodbye, as a socket's is."""
    received, said = exit_over_pipes(
        f"""
        stream.sendall(b"last")
        file = stream.makefile({mode!r}, 200_000)
        file.write({"x" if mode == "w" else b"x"!r} * 100_000)
        """,
        read=True,
    )
    assert said == b""
    assert b"last" in received
    assert received.count(b"x") == 100_000
    assert received.endswith(frame(GOAWAY, 0, 0, bytes(8)))


def test_exit_with_a_file_that_is_being_flushed() -> None:
    """The peer grants no window: neither that thread nor the exit waits for it for ever."""
    received, said = exit_over_pipes(
        """
        def flush(file):
            try:
                file.write(bytes(500_000))
                file.flush()
            except OSError:
                pass

        for number in range(2):
            file = session.open().makefile("wb")
            threading.Thread(target=flush, args=(file,), daemon=True).start()
            while not session.stats().stalled > number:
                pass
        other = session.open().makefile("w")
        other.write("the others do not matter to this one")
        """,
        read=True,
    )
    assert said == b""
    assert b"the others do not matter to this one" in received
    assert received.endswith(frame(GOAWAY, 0, 0, bytes(8)))
