"""Fixtures for the originals at the other end."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from ..helpers.certificate import Certificate
from ..helpers.crew import GUARD, Crew
from ..helpers.support import Sessions
from .go_peer import KINDS, Go, Kind, Link, NotInstalledError, build


def lacking(what: str) -> NoReturn:
    """Skip the running test, or fail it where it is said that nothing may be lacking."""
    if os.environ.get("MUXADO_REQUIRE_INTEROP") == "1":
        pytest.fail(f"MUXADO_REQUIRE_INTEROP=1, but there is {what}", pytrace=False)
    pytest.skip(what)


@pytest.fixture(scope="session")
def go_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        lacking("no openssl command to make a certificate with")
    try:
        return build(tmp_path_factory.mktemp("go_v1"))
    except NotInstalledError as error:
        reason = str(error)
    lacking(reason)


@pytest.fixture
def go(go_program: Path, certificate: Certificate, crew: Crew, sessions: Sessions) -> Iterator[Go]:
    """Runs the Go program; what the test leaves running is killed."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(GUARD)  # sessions and streams take it over: nothing waits for ever
    go = Go(go_program, certificate, crew, sessions)
    yield go
    go.end()
    socket.setdefaulttimeout(before)


@pytest.fixture(params=KINDS, ids=str)
def link(go: Go, request: pytest.FixtureRequest) -> Callable[..., Link]:
    """``link(*steps, **options)`` connects with Go, as client and as server, over TCP and TLS."""
    kind: Kind = request.param
    return lambda *steps, **options: go.connect(kind, *steps, **options)
