"""Streams between our sessions and ngrok's Agent SDK, whose core is the muxado in Rust, version 2.

The SDK has an interpreter of its own: the one that ``MUXADO_NGROK_PYTHON`` names, or else that of
a virtual environment made here once and kept in pytest's cache.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import muxado
from muxado import ErrorCode

from ..helpers.certificate import Certificate
from ..helpers.crew import GUARD, Crew
from ..helpers.support import until
from . import ngrok_agent
from .conftest import lacking
from .ngrok_server import (
    AUTH,
    BIND,
    SIZE,
    UNBIND,
    Service,
    Upstream,
    digest,
    fetch,
    make_certificate,
    page,
)

VERSION = "1.7.0"
INSTALL = (
    *("install", "-q", "--no-compile", "--ignore-requires-python", "--only-binary=:all:"),
    *("--timeout", "10", "--retries", "1", f"ngrok=={VERSION}"),
)
INSTALLING = 40.0  # seconds


class Agent:
    """The SDK at work, in a process of its own."""

    def __init__(self, python: str, service: Service, upstream: Upstream, ca: Path, crew: Crew):
        self.seen: list[dict[str, Any]] = []  # every event that was waited for, or came before
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._process = subprocess.Popen(
            [python, ngrok_agent.__file__, f"localhost:{service.port}", str(ca), upstream.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reading = crew.start(self._read)

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                self._events.put(json.loads(line))
        finally:
            self._events.put(None)

    def wait_for(self, name: str) -> dict[str, Any]:
        """Wait for the next event of that name."""
        while True:
            try:
                event = self._events.get(timeout=GUARD)
            except queue.Empty:
                event = None
            assert event is not None, f"the SDK reports no {name!r}, only {self.seen}"
            self.seen.append(event)
            if event["event"] == name:
                return event

    def close(self) -> None:
        """Let it close its session and stay."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        self._process.kill()
        self._reading.result()
        self._process.communicate()


Connect = Callable[..., tuple[Service, Agent]]


def has_sdk(python: str) -> bool:
    code = "import ngrok; from importlib.metadata import version; print(version('ngrok'))"
    try:
        ran = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return False
    return ran.stdout.strip() == VERSION


@pytest.fixture(scope="session")
def sdk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter that has the SDK."""
    named = os.environ.get("MUXADO_NGROK_PYTHON")
    if named:
        if not has_sdk(named):
            pytest.fail(f"MUXADO_NGROK_PYTHON={named} has no ngrok {VERSION}", pytrace=False)
        return named
    cache, name = getattr(request.config, "cache", None), f"ngrok-{VERSION}"
    directory = tmp_path_factory.mktemp(name) if cache is None else cache.mkdir(name)
    python = str(directory / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python"))
    if has_sdk(python):
        return python
    problem = _run(sys.executable, "-m", "venv", "--clear", "--without-pip", str(directory))
    problem = problem or _run(sys.executable, "-m", "pip", "--python", python, *INSTALL)
    if problem or not has_sdk(python):
        lacking(f"no ngrok {VERSION} to be had: {problem or 'it cannot be imported'}")
    return python


def _run(*command: str) -> str:
    """Run it; returns what it complained of last, nothing if all went well."""
    try:
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=INSTALLING)
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or error.stdout).strip().splitlines()
        return lines[-1] if lines else str(error)
    except subprocess.TimeoutExpired as error:
        return str(error)
    return ""


@pytest.fixture(scope="session")
def for_rust(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    openssl = shutil.which("openssl")
    if openssl is None:
        lacking("no openssl command to make a certificate with")
    return make_certificate(openssl, tmp_path_factory.mktemp("ngrok-certificate"))


@pytest.fixture
def upstream(crew: Crew) -> Iterator[Upstream]:
    with Upstream() as upstream:
        crew.start(upstream.serve_forever, 0.05)
        yield upstream
        upstream.shutdown()


@pytest.fixture
def connect(sdk: str, for_rust: Certificate, upstream: Upstream, crew: Crew) -> Iterator[Connect]:
    """``connect(**options)`` starts a service with these options, and the SDK connected to it."""
    ends: list[Callable[[], None]] = []

    def connect(**options: Any) -> tuple[Service, Agent]:
        service = Service(for_rust, crew, **options)
        ends.append(service.end)
        agent = Agent(sdk, service, upstream, for_rust.certfile, crew)
        ends.append(agent.kill)
        return service, agent

    yield connect
    for end in reversed(ends):
        end()


def asked(service: Service, session: muxado.Session) -> list[int]:
    """The types of the requests on a session."""
    return [request.type for request in service.requests if request.session is session]


def test_auth_and_bind(connect: Connect, upstream: Upstream) -> None:
    # Without heartbeats of ours: nothing but the SDK's own bytes moves our end on.
    service, agent = connect(heartbeat_interval=None)
    session = service.bound()
    agent.wait_for("connected")
    event = agent.wait_for("listening")
    assert (event["id"], event["url"]) == ("t", "https://x")
    auth, bind = service.requests
    assert (auth.type, bind.type) == (AUTH, BIND)
    assert auth.message["Extra"]["AuthToken"] == "test"
    assert auth.message["Extra"]["UserAgent"].startswith(f"ngrok-python/{VERSION} ")
    assert bind.message["Proto"] == "https"
    assert bind.message["ForwardsTo"].startswith(upstream.url)
    # The SDK's heartbeat stream lives, and is none of the application's.
    until(lambda: session.stats().streams == 0)
    assert session.stats().accepted == 2
    assert session.latency is None


def test_eight_downloads_at_once(connect: Connect, upstream: Upstream, crew: Crew) -> None:
    service, _ = connect()
    session = service.bound()
    upstream.halfway = threading.Barrier(8, timeout=GUARD).wait  # all eight, or none goes on
    paths = [f"/{number}" for number in range(8)]
    downloads = [crew.start(fetch, session, path) for path in paths]
    for path, download in zip(paths, downloads, strict=True):
        assert download.result() == page(path), path
    until(lambda: session.stats().streams == 0)
    stats = session.stats()
    assert (stats.opened, stats.ignored_frames) == (8, 0)
    assert stats.bytes_received > 8 * SIZE
    assert service.sessions == [session]


def test_eight_uploads_at_once(connect: Connect, crew: Crew) -> None:
    service, _ = connect()
    session = service.bound()
    pages = [page(f"/{number}") for number in range(8)]
    uploads = [crew.start(fetch, session, "/", data) for data in pages]
    for data, upload in zip(pages, uploads, strict=True):
        assert upload.result() == digest(data)
    until(lambda: session.stats().streams == 0)
    assert service.sessions == [session]


def test_heartbeats_both_ways(connect: Connect) -> None:
    service, agent = connect(heartbeat_interval=0.5)
    session = service.bound()
    # It reports a heartbeat when its four bytes have come back, and only then sends the next. (It
    # would stay connected without an answer too, past its interval and its tolerance.)
    for _ in range(5):
        agent.wait_for("heartbeat")
    assert "disconnected" not in {event["event"] for event in agent.seen}
    assert session.latency is not None
    assert 0 < session.latency < GUARD
    assert fetch(session, "/after") == page("/after")
    assert (service.sessions, session.closed) == ([session], False)
    assert asked(service, session) == [AUTH, BIND]


@pytest.mark.parametrize("how", ["close", "go_away"])
def test_goaway_and_the_sdk_comes_again(connect: Connect, how: str) -> None:
    service, agent = connect()
    first = service.bound()
    assert fetch(first, "/first") == page("/first")
    if how == "close":
        first.close()
        assert first.wait(GUARD) == (ErrorCode.NO_ERROR, None, b"")
    else:
        first.go_away(debug=b"maintenance")
        # The SDK does not wait for what is under way: it ends the connection.
        assert first.wait(GUARD).code is ErrorCode.PEER_EOF
    agent.wait_for("disconnected")
    second = service.bound()
    assert second is not first
    assert service.sessions == [first, second]
    assert asked(service, second) == [AUTH, BIND]
    again = [request.message for request in service.requests if request.session is second]
    assert again[0]["ClientId"] == "c"
    assert again[1]["Id"] == "t"
    assert fetch(second, "/second") == page("/second")


def test_the_sdk_closes(connect: Connect) -> None:
    service, agent = connect(heartbeat_interval=0.5, heartbeat_tolerance=1)
    session = service.bound()
    agent.wait_for("listening")
    agent.close()
    agent.wait_for("closed")
    assert service.requests[-1][1:] == (UNBIND, {"Id": "t"})
    # It keeps the connection, and says and answers nothing more on it.
    end = session.wait(GUARD)
    assert isinstance(end.error, muxado.HeartbeatTimeout)


def test_the_sdk_is_killed_in_a_download(connect: Connect, upstream: Upstream, crew: Crew) -> None:
    service, agent = connect()
    session = service.bound()
    halfway, killed = threading.Event(), threading.Event()

    def pause() -> None:
        halfway.set()
        killed.wait(GUARD)

    upstream.halfway = pause
    download = crew.start(fetch, session, "/cut")
    assert halfway.wait(GUARD)
    agent.kill()
    killed.set()
    # No close_notify, no GOAWAY, no FIN: an end of the connection, not of the page.
    with pytest.raises(muxado.SessionClosed):
        download.result()
    assert session.wait(GUARD).code is ErrorCode.PEER_EOF
