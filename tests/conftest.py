"""Fixtures for whole sessions; the kinds of pipe of ``tests/conformance`` are its own."""

from __future__ import annotations

import gc
import os
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import muxado

from .helpers.certificate import Certificate, make_certificate
from .helpers.crew import Crew
from .helpers.link import Link
from .helpers.support import Connector, RawPeer, Sessions


def pytest_collection_finish() -> None:
    """Spare the tests that collect garbage a walk through all that pytest has loaded."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where no bytecode may be kept, keep it elsewhere for the processes that tests start.

    Or else each of them would compile all that it imports.
    """
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        base = tmp_path_factory.getbasetemp()
        if "PYTEST_XDIST_WORKER" in os.environ:
            base = base.parent  # all workers'
        os.environ["PYTHONPYCACHEPREFIX"] = str(base / "bytecode")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def crew() -> Iterator[Crew]:
    """Starts threads. Torn down after the sessions, so what a failed test left blocked is woken."""
    crew = Crew()
    yield crew
    crew.finish()


@pytest.fixture
def sessions(crew: Crew, request: pytest.FixtureRequest) -> Iterator[Sessions]:
    """Makes pairs of sessions; what the test leaves open is killed."""
    sessions = Sessions(crew, lambda: request.getfixturevalue("certificate"))
    yield sessions
    sessions.end()


@pytest.fixture
def frequent_turns() -> Iterator[None]:
    """A thread that never waits leaves the interpreter to others after 0.1 ms instead of 5."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(params=["socketpair", "tcp", "unix", "tls"])
def connector(request: pytest.FixtureRequest, sessions: Sessions) -> Connector:
    """A function that makes a pair of sessions, over each kind of connection in turn."""
    make: Connector = getattr(sessions, request.param)
    return make


@pytest.fixture
def raw(crew: Crew) -> Iterator[Callable[..., RawPeer]]:
    """Makes a session with a hand-driven peer: ``raw(client=True)`` tests a client."""
    made: list[RawPeer] = []

    def make(*, client: bool = False, **options: Any) -> RawPeer:
        ours, theirs = socket.socketpair()
        session = muxado.Session(ours, client=client, **options)
        made.append(RawPeer(theirs, session))
        return made[-1]

    yield make
    for peer in made:
        peer.session.kill()
        peer.sock.close()


@pytest.fixture
def links() -> Iterator[Callable[..., Link]]:
    """Makes emulated links, ``links(delay=0.01, rate=10e6)``, where this system lets us."""
    made: list[Link] = []

    def make(**figures: Any) -> Link:
        try:
            link = Link(**figures)
        except OSError as error:
            if os.environ.get("MUXADO_REQUIRE_LINK") == "1":
                raise
            pytest.skip(f"no emulated link here: {error}")
        made.append(link)
        return link

    yield make
    for link in made:
        link.close()
