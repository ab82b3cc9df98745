"""The heartbeat among processes that are stopped, continued and busy."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import muxado
from muxado import HeartbeatTimeout

from ..helpers.crew import GUARD, Crew
from ..helpers.support import Sessions, read_all, streams

ROOT = Path(muxado.__file__).parent.parent

pytestmark = pytest.mark.skipif(not hasattr(os, "waitid"), reason="no way to see a process stop")

#: A server that echoes every stream, and has `busy` threads that never rest.
SERVER = """
    import ast, socket, sys, threading
    import muxado

    connection = socket.socket(fileno=int(sys.argv[1]))
    options = ast.literal_eval(sys.argv[2])

    def spin():
        while True:
            pass

    def echo(stream):
        with stream:
            while data := stream.recv(65536):
                stream.sendall(data)

    for _ in range(options.pop("busy", 0)):
        threading.Thread(target=spin, daemon=True).start()
    print("ready", flush=True)
    session = muxado.server(connection, **options)
    try:
        while True:
            stream, _ = session.accept()
            threading.Thread(target=echo, args=(stream,), daemon=True).start()
    except muxado.SessionClosed as error:
        print(repr(error.__cause__ or error), flush=True)
"""


class Child:
    """A process with an echoing session, and the session in this process that talks to it."""

    def __init__(self, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
        near, far = socket.socketpair()
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(SERVER), str(far.fileno()), repr(theirs)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            pass_fds=[far.fileno()],
            stdout=subprocess.PIPE,
            text=True,
        )
        far.close()
        assert self.last_words() == "ready\n"
        self.session = muxado.client(near, **ours)
        self.stream = self.session.open()
        self.stream.settimeout(GUARD)
        self.talk()

    def talk(self) -> None:
        self.stream.sendall(b"anybody there?")
        try:
            assert self.stream.recv(14, socket.MSG_WAITALL) == b"anybody there?"
        except muxado.SessionClosed as error:
            raise AssertionError(f"the child ended the session: {self.last_words()}") from error

    def stop(self) -> None:
        """Return when it does nothing any more."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def last_words(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self) -> None:
        self.stream.close()
        self.session.kill()
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def child() -> Iterator[Callable[..., Child]]:
    """``child(theirs, ours)``: makes a child, with options for either session."""
    made: list[Child] = []

    def make(theirs: dict[str, Any], ours: dict[str, Any]) -> Child:
        made.append(Child(theirs, ours))
        return made[-1]

    yield make
    for each in made:
        each.end()


@pytest.mark.parametrize("version", [1, 2])
def test_a_peer_that_is_stopped(child: Callable[..., Child], crew: Crew, version: int) -> None:
    """Its kernel goes on to take bytes; it does not answer."""
    here = child(
        {"version": version},
        {"version": version, "heartbeat_interval": 0.1, "heartbeat_tolerance": 0.4},
    )
    calls: list[Callable[[], object]] = [
        lambda: here.stream.recv(1),
        here.session.accept,
        lambda: here.stream.sendall(bytes(2**20)),
    ]
    here.stream.settimeout(None)
    here.stop()
    tasks = [crew.start(call) for call in calls]
    for task in tasks:
        with pytest.raises(HeartbeatTimeout):
            task.result()
    assert isinstance(here.session.wait(GUARD).error, HeartbeatTimeout)


@pytest.mark.parametrize(("version", "busy"), [(1, 0), (2, 0), (2, 2)])
def test_a_process_that_was_stopped_judges_nobody(
    child: Callable[..., Child], version: int, busy: int
) -> None:
    """For longer than it bears silence it has not listened: that is no fault of its peer's."""
    here = child(
        {
            "version": version,
            "heartbeat_interval": 0.05,
            "heartbeat_tolerance": 0.3,
            "busy": busy,
        },
        {"version": version, "heartbeat_interval": None},
    )
    for _ in range(3):
        here.stop()
        time.sleep(0.45)  # the time that is to pass
        here.go_on()
        here.talk()


@pytest.mark.parametrize("version", [1, 2])
def test_busy_and_saturated(sessions: Sessions, crew: Crew, version: int) -> None:
    """Threads that never give up the interpreter, and bulk both ways through small buffers."""
    pair = sessions.socketpair(
        buffers=4096, version=version, heartbeat_interval=0.05, heartbeat_tolerance=0.5
    )
    rest = threading.Event()
    until = time.monotonic() + 1

    def spin() -> None:
        while not rest.is_set():
            sum(range(1000))

    def pour(stream: muxado.Stream) -> int:
        sent = 0
        while time.monotonic() < until:
            stream.sendall(bytes(50_000))
            sent += 50_000
        stream.close_write()
        return sent

    ends = [streams((pair[number % 2], pair[1 - number % 2])) for number in range(4)]
    spinning = [crew.start(spin) for _ in range(2)]
    try:
        pouring = [crew.start(pour, end) for both in ends for end in both]
        draining = [crew.start(read_all, end) for near, far in ends for end in (far, near)]
        sent = [task.result() for task in pouring]
        assert [len(task.result()) for task in draining] == sent
    finally:
        rest.set()
    for task in spinning:
        task.result()
    assert not any(session.closed for session in pair)


@pytest.mark.parametrize("version", [1, 2])
def test_busy_and_silent(sessions: Sessions, crew: Crew, version: int) -> None:
    """Nothing but heartbeats goes over the connection, and nobody waits in any call."""
    pair = sessions.socketpair(version=version, heartbeat_interval=0.05, heartbeat_tolerance=0.5)
    until = time.monotonic() + 1

    def spin() -> None:
        while time.monotonic() < until:
            sum(range(1000))

    for task in [crew.start(spin) for _ in range(2)]:
        task.result()
    assert not any(session.closed for session in pair)
    assert all(session.latency is not None for session in pair)
