"""Whose connections are compared.

A peer is two commands, a server's and a client's, that speak the protocol at the top of
``worker``. A peer written in Python is a subclass of ``PythonPeer`` with ``listen`` and ``dial``,
and ``worker`` runs it; any other program is a subclass of ``Peer`` that names its own commands.
Adding one to ``PEERS`` is all it takes.
"""

from __future__ import annotations

import abc
import json
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from typing import NamedTuple

import muxado
from benchmarks.scenarios import Connect, Connection

Address = tuple[str, int]
Accept = Callable[[], Connection]
Leave = Callable[[], None]


class Finished(Exception):
    """The client has left; there is nothing more to accept."""


class Certificate(NamedTuple):
    """File names; the certificate is for ``localhost``, and its own authority."""

    cert: str
    key: str


class Job(NamedTuple):
    """What the two processes of a peer are told."""

    peer: str
    scenario: str
    certificate: Certificate | None  # with one, TLS

    def to_json(self) -> str:
        return json.dumps(self._asdict())

    @classmethod
    def from_json(cls, text: str) -> Job:
        fields = json.loads(text)
        certificate = fields["certificate"]
        return cls(
            fields["peer"], fields["scenario"], Certificate(*certificate) if certificate else None
        )


class Peer(abc.ABC):
    """Somebody's connections, seen from the process that measures."""

    name: str

    def missing(self, *, tls: bool) -> str | None:
        """Why this peer cannot run here (or not over TLS), or ``None``."""
        return None

    @abc.abstractmethod
    def server_command(self, job: Job) -> list[str]: ...

    @abc.abstractmethod
    def client_command(self, job: Job, address: Address) -> list[str]: ...


class PythonPeer(Peer):
    """A peer whose two ends run in ``worker``."""

    def server_command(self, job: Job) -> list[str]:
        return [sys.executable, "-m", "benchmarks.worker", "server", job.to_json()]

    def client_command(self, job: Job, address: Address) -> list[str]:
        host, port = address
        return [sys.executable, "-m", "benchmarks.worker", "client", job.to_json(), host, str(port)]

    @abc.abstractmethod
    def listen(self, certificate: Certificate | None) -> tuple[Address, Accept]:
        """Where clients are to connect, and what hands out their connections."""

    @abc.abstractmethod
    def dial(self, address: Address, certificate: Certificate | None) -> tuple[Connect, Leave]:
        """What makes a connection to a server, and what to call at the end."""


def _server_context(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert, certificate.key)
    return context


def _client_context(certificate: Certificate) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate.cert)


def _no_delay(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _listening_socket() -> tuple[Address, socket.socket]:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    host, port = listener.getsockname()
    return (host, port), listener


class Plain(PythonPeer):
    """Python's own sockets: a TCP (or TLS) connection for each."""

    name = "plain"

    def listen(self, certificate: Certificate | None) -> tuple[Address, Accept]:
        address, listener = _listening_socket()
        context = _server_context(certificate) if certificate else None

        def accept() -> Connection:
            connection, _ = listener.accept()
            _no_delay(connection)
            if context is None:
                return connection
            # The handshake is made by the first recv, in the thread that handles the connection.
            return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

        return address, accept

    def dial(self, address: Address, certificate: Certificate | None) -> tuple[Connect, Leave]:
        context = _client_context(certificate) if certificate else None

        def connect() -> Connection:
            connection = socket.create_connection(address)
            _no_delay(connection)
            if context is None:
                return connection
            return context.wrap_socket(connection, server_hostname="localhost")

        return connect, lambda: None


class Muxado(PythonPeer):
    """Streams of one session."""

    name = "muxado"

    def listen(self, certificate: Certificate | None) -> tuple[Address, Accept]:
        address, listening = _listening_socket()
        context = _server_context(certificate) if certificate else None
        listener = muxado.Listener(listening, context=context)
        sessions: list[muxado.Session] = []  # at most one; guarded by `lock`
        lock = threading.Lock()

        def accept() -> Connection:
            with lock:
                if not sessions:
                    sessions.append(listener.accept()[0])
            try:
                return sessions[0].accept()[0]
            except muxado.SessionClosed as end:
                raise Finished from end

        return address, accept

    def dial(self, address: Address, certificate: Certificate | None) -> tuple[Connect, Leave]:
        if certificate is None:
            session = muxado.dial(address)
        else:
            context = _client_context(certificate)
            session = muxado.dial_tls(address, context, server_hostname="localhost")
        return session.dial, session.close


MUXADO = Muxado()

#: What muxado is compared with, in the table's order.
RIVALS: list[Peer] = [Plain()]

PEERS: dict[str, Peer] = {peer.name: peer for peer in (MUXADO, *RIVALS)}
