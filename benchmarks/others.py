"""Peers of other projects. One that is not installed is left out, and the reason is told."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.parts import Connect, Connection
from benchmarks.peers import (
    MUXADO,
    PLAIN,
    Accept,
    Address,
    Job,
    Leave,
    Peer,
    PythonPeer,
    connected_socket,
    listening_socket,
    no_delay,
)

GO_SOURCE = Path(__file__).resolve().parent / "go"
GO_PATH = "/usr/share/gocode"  # where Debian puts the libraries
OTHERS_SHARE = 0.15  # they are compared by the rate, and what is slow need not be slow for long


class BuildError(Exception):
    """A peer is installed and cannot be built; the text is for the user."""


class Channel:
    """A channel of paramiko's, with what it lacks of a socket."""

    def __init__(self, transport: Any, channel: Any) -> None:
        self._transport = transport  # a transport nobody holds is closed
        self._channel = channel
        self.sendall = channel.sendall
        self.recv = channel.recv

    def recv_into(self, buffer: memoryview, /) -> int:
        data = self._channel.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        with contextlib.suppress(EOFError, OSError):  # the other end may have left already
            self._channel.close()


class Paramiko(PythonPeer):
    """Channels of one SSH connection. Its own encryption stands in for TLS."""

    name = "paramiko"
    share = OTHERS_SHARE
    first_program = """
import sys, time
over, cert, *place = sys.argv[1:]
start = time.perf_counter()
import paramiko
seconds = time.perf_counter() - start
import socket
if over == "unix":
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(place[0])
else:
    connection = socket.create_connection((place[0], int(place[1])))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
transport = paramiko.Transport(connection)
transport.start_client()
transport.auth_none("benchmark")
channel = transport.open_session()
channel.sendall(b"x")
assert channel.recv(1) == b"x"
print('{"import": %r}' % seconds, flush=True)
channel.close()
transport.close()
"""

    def missing(self, directory: Path) -> str | None:
        try:
            importlib.import_module("paramiko")
        except ImportError as error:
            return f"{error} (the extra `bench` installs it)"
        return None

    def listen(self, job: Job) -> tuple[Address, Accept]:
        paramiko = importlib.import_module("paramiko")

        class Everybody(paramiko.ServerInterface):  # type: ignore[misc,name-defined]
            def get_allowed_auths(self, username: str) -> str:
                return "none"

            def check_auth_none(self, username: str) -> Any:
                return paramiko.AUTH_SUCCESSFUL

            def check_channel_request(self, kind: str, chanid: int) -> Any:
                return paramiko.OPEN_SUCCEEDED

        address, listener = listening_socket(job)
        key = paramiko.ECDSAKey.generate()
        transports: list[Any] = []

        def accept() -> Connection:
            while True:
                if not transports:
                    connection, _ = listener.accept()
                    no_delay(connection)
                    transport = paramiko.Transport(connection)
                    transport.add_server_key(key)
                    transport.start_server(server=Everybody())
                    transports.append(transport)
                transport = transports[0]
                channel = transport.accept(1.0)
                if channel is not None:
                    return Channel(transport, channel)
                if not transport.is_active():
                    transports.clear()

        return address, accept

    def dial(self, job: Job, address: Address) -> tuple[Connect, Leave]:
        paramiko = importlib.import_module("paramiko")
        transport = paramiko.Transport(connected_socket(address))
        transport.start_client()
        transport.auth_none("benchmark")
        return lambda: Channel(transport, transport.open_session()), transport.close


class Go(Peer):
    """A library in Go at both ends, by the program in ``go/``, which is built for it."""

    share = OTHERS_SHARE

    def __init__(self, name: str, package: str, debian: str) -> None:
        self.name = name
        self.package = package
        self._debian = debian
        self._program = ""

    def missing(self, directory: Path) -> str | None:
        go = shutil.which("go")
        if go is None:
            return "no go command (Debian: golang-go)"
        environment = {**os.environ, "GO111MODULE": "off", "GOPATH": GO_PATH, "GOFLAGS": ""}
        if "HOME" not in environment:
            environment.setdefault("GOCACHE", str(directory / "go-cache"))

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [go, *arguments],
                cwd=GO_SOURCE,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )

        if run("list", self.package).returncode:
            return f"no {self.package} for go (Debian: {self._debian})"
        program = directory / self.name
        tag = self.package.rpartition("/")[2]
        built = run("build", "-tags", tag, "-o", str(program), ".")
        if built.returncode:
            raise BuildError(f"{self.name}: go build failed:\n{built.stderr}")
        self._program = str(program)
        return None

    def server_command(self, job: Job) -> list[str]:
        return [self._program, "server", job.to_json()]

    def client_command(self, job: Job, address: Address) -> list[str]:
        return [self._program, "client", job.to_json(), json.dumps(address)]

    def first_command(self, job: Job, address: Address) -> list[str]:
        return [self._program, "first", job.to_json(), json.dumps(address)]


#: Those beside Python's own sockets, in the table's order.
OTHERS: list[Peer] = [
    Paramiko(),
    Go(
        "go-muxado",
        "github.com/inconshreveable/muxado",
        "golang-github-inconshreveable-muxado-dev",
    ),
    Go("go-yamux", "github.com/hashicorp/yamux", "golang-github-hashicorp-yamux-dev"),
]

PEERS: dict[str, Peer] = {peer.name: peer for peer in (MUXADO, PLAIN, *OTHERS)}
