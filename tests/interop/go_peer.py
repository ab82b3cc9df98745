"""The Go program in ``go_v1/``: the original muxado, version 1, as the other end of a session."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import muxado

from ..helpers.certificate import Certificate
from ..helpers.crew import GUARD, Crew
from ..helpers.support import Sessions

Event = dict[str, Any]

SOURCE = Path(__file__).parent / "go_v1"
PACKAGE = "github.com/inconshreveable/muxado"
#: Some of the error codes of version 1, as Go reports them.
NO_ERROR, INTERNAL_ERROR, REFUSED_STREAM, CANCEL = 0, 2, 6, 7


class NotInstalledError(Exception):
    """There is no Go here, or no muxado for it."""


def build(directory: Path) -> Path:
    """Build the program in ``directory``."""
    go = shutil.which("go")
    if go is None:
        raise NotInstalledError("no go command (Debian: golang-go)")
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOFLAGS": ""}
    if "HOME" not in environment:
        environment.setdefault("GOCACHE", str(directory / "cache"))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [go, *arguments],
            cwd=SOURCE,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    if run("list", PACKAGE).returncode:
        raise NotInstalledError(
            f"no {PACKAGE} for go (Debian: golang-github-inconshreveable-muxado-dev)"
        )
    program = directory / "go_v1"
    built = run("build", "-o", str(program), ".")
    if built.returncode:
        raise RuntimeError(f"go build failed:\n{built.stderr}")
    return program


class GoPeer:
    """The program at work."""

    def __init__(self, program: Path, crew: Crew, arguments: list[str]) -> None:
        self._process = subprocess.Popen(
            [program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._events: queue.Queue[Event | None] = queue.Queue()
        self._passed: list[Event] = []  # came while another was asked for
        self._reading = crew.start(self._read)

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                self._events.put(json.loads(line))
        finally:
            self._events.put(None)

    def event(self, name: str) -> Event:
        """Wait for the next event of that name; others are kept."""
        for index, event in enumerate(self._passed):
            if event["event"] == name:
                return self._passed.pop(index)
        while True:
            try:
                got = self._events.get(timeout=GUARD)
            except queue.Empty:
                raise AssertionError(f"go reports no {name!r}, only {self._passed}") from None
            if got is None:
                self._events.put(None)
                raise AssertionError(f"go ended and reported no {name!r}, only {self._passed}")
            if got["event"] == name:
                return got
            self._passed.append(got)

    def events(self, name: str, count: int) -> list[Event]:
        return [self.event(name) for _ in range(count)]

    def stepped(self, step: str) -> str:
        """Wait until a step was taken; returns its error, empty if there was none."""
        event = self.event("stepped")
        assert event["step"] == step, event
        error: str = event["error"]
        return error

    def go_on(self) -> None:
        """Let it go past its next ``wait``."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def freeze(self) -> None:
        """Stop the process as a whole: its connection stays, and it says nothing more."""
        self._process.send_signal(signal.SIGSTOP)

    def end(self) -> None:
        self._process.kill()
        self._reading.result()
        self._process.communicate()


class Kind(NamedTuple):
    """What the Go end is, and over what kind of connection."""

    client: bool
    tls: bool

    def __str__(self) -> str:
        return f"go-{'client' if self.client else 'server'}-{'tls' if self.tls else 'tcp'}"


KINDS = [Kind(client, tls) for tls in (False, True) for client in (False, True)]

Link = tuple[muxado.Session, GoPeer]


class Go:
    """Connects sessions of ours with the Go program."""

    def __init__(
        self, program: Path, certificate: Certificate, crew: Crew, sessions: Sessions
    ) -> None:
        self._program = program
        self._certificate = certificate
        self._crew = crew
        self._sessions = sessions
        self._peers: list[GoPeer] = []

    def start(self, *arguments: object) -> GoPeer:
        """Run the program."""
        peer = GoPeer(self._program, self._crew, [str(argument) for argument in arguments])
        self._peers.append(peer)
        return peer

    def connect(self, kind: Kind, *arguments: object, **options: Any) -> Link:
        """A session and the program that takes the steps in ``arguments`` at its other end."""
        link = (self._accept if kind.client else self._dial)(kind.tls, arguments, options)
        session, _ = link
        self._sessions.keep(session)
        return link

    def _accept(self, tls: bool, arguments: tuple[object, ...], options: dict[str, Any]) -> Link:
        here = ("127.0.0.1", 0)
        if tls:
            context = self._certificate.server_context()
            listener = muxado.listen_tls(here, context, version=1, **options)
            arguments = ("-ca", self._certificate.certfile, *arguments)
        else:
            listener = muxado.listen(here, version=1, **options)
        with listener:
            host, port = listener.getsockname()
            peer = self.start("-dial", f"{host}:{port}", *arguments)
            session, _ = listener.accept()
        return session, peer

    def _dial(self, tls: bool, arguments: tuple[object, ...], options: dict[str, Any]) -> Link:
        options = {"timeout": GUARD, "version": 1, **options}
        if not tls:
            peer = self.start("-listen", *arguments)
            return muxado.dial(peer.event("listening")["address"], **options), peer
        certificate = self._certificate
        peer = self.start(
            *("-listen", "-cert", certificate.certfile, "-key", certificate.keyfile), *arguments
        )
        context = certificate.client_context()
        return muxado.dial_tls(peer.event("listening")["address"], context, **options), peer

    def end(self) -> None:
        for peer in self._peers:
            peer.end()
