"""Whose connections are compared.

A peer is commands, a server's and a client's, that speak the protocol at the top of ``worker``. A
peer written in Python is a subclass of ``PythonPeer`` with ``listen`` and ``dial``, and ``worker``
runs it; any other program is a subclass of ``Peer`` that names its own commands.
"""

from __future__ import annotations

import abc
import json
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

try:
    import resource
except ImportError:  # not a Unix
    resource = None  # type: ignore[assignment]

import muxado
from benchmarks.certificate import Certificate
from benchmarks.parts import Connect, Connection
from benchmarks.scenarios import Scenario

Address = tuple[str, int] | str  # a string is the path of a Unix socket
Accept = Callable[[], Connection]
Leave = Callable[[], None]

_BACKLOG = 1024  # connections, or streams, that wait to be accepted
#: More streams than the largest scenario needs.
_LIMITS: dict[str, Any] = {"accept_backlog": _BACKLOG, "max_streams": 20_000}


class Job(NamedTuple):
    """What the two processes of a peer are told."""

    peer: str
    kind: str  # of `work`
    streams: int
    workers: int
    over: str  # "tcp", "tls" or "unix"
    path: str  # for the server to make its socket at, over "unix"
    cert: str  # file names, over "tls"
    key: str

    @classmethod
    def of(
        cls, peer: str, scenario: Scenario, path: str = "", certificate: Certificate | None = None
    ) -> Job:
        cert, key = certificate if certificate is not None and scenario.over == "tls" else ("", "")
        return cls(
            *(peer, scenario.kind, scenario.streams, scenario.workers, scenario.over),
            *(path, cert, key),
        )

    def to_json(self) -> str:
        return json.dumps(self._asdict())

    @classmethod
    def from_json(cls, text: str) -> Job:
        return cls(**json.loads(text))


class Peer(abc.ABC):
    """Somebody's connections, seen from the process that measures."""

    name: str
    #: Of the time that a round may take, and by which less is done by one who would take longer.
    share = 1.0

    def missing(self, directory: Path) -> str | None:
        """Why this peer cannot run here, or ``None``; asked once, before anything else.

        What it has to build, it builds in ``directory``.
        """
        return None

    @abc.abstractmethod
    def server_command(self, job: Job) -> list[str]: ...

    @abc.abstractmethod
    def client_command(self, job: Job, address: Address) -> list[str]: ...

    @abc.abstractmethod
    def first_command(self, job: Job, address: Address) -> list[str]:
        """A process that connects, has one byte echoed, says so on a line and leaves."""


class PythonPeer(Peer):
    """A peer whose two ends run in ``worker``."""

    #: The program of ``first_command``: as small as it can be, for what it imports counts.
    first_program: str

    #: The command of a worker, before its arguments.
    worker: tuple[str, ...] = (sys.executable, "-m", "benchmarks.worker")

    def server_command(self, job: Job) -> list[str]:
        return [*self.worker, "server", job.to_json()]

    def client_command(self, job: Job, address: Address) -> list[str]:
        return [*self.worker, "client", job.to_json(), json.dumps(address)]

    def first_command(self, job: Job, address: Address) -> list[str]:
        place = [address] if isinstance(address, str) else [address[0], str(address[1])]
        return [sys.executable, "-c", self.first_program, job.over, job.cert, *place]

    @abc.abstractmethod
    def listen(self, job: Job) -> tuple[Address, Accept]:
        """Where clients are to connect, and what hands out their connections."""

    @abc.abstractmethod
    def dial(self, job: Job, address: Address) -> tuple[Connect, Leave]:
        """What makes a connection to a server, and what to call at the end."""


def server_context(job: Job) -> ssl.SSLContext | None:
    if job.over != "tls":
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(job.cert, job.key)
    return context


def client_context(job: Job) -> ssl.SSLContext | None:
    return ssl.create_default_context(cafile=job.cert) if job.over == "tls" else None


def no_delay(connection: socket.socket) -> None:
    if connection.family != getattr(socket, "AF_UNIX", None):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def listening_socket(job: Job) -> tuple[Address, socket.socket]:
    if job.over == "unix":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(job.path)
        listener.listen(_BACKLOG)
        return job.path, listener
    listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
    host, port = listener.getsockname()
    return (host, port), listener


def connected_socket(address: Address) -> socket.socket:
    if isinstance(address, str):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(address)
    else:
        connection = socket.create_connection(address)
        no_delay(connection)
    return connection


class Plain(PythonPeer):
    """Python's own sockets: a TCP, TLS or Unix connection for each."""

    name = "plain"
    first_program = """
import sys, time
over, cert, *place = sys.argv[1:]
start = time.perf_counter()
import socket
if over == "tls":
    import ssl
seconds = time.perf_counter() - start
if over == "unix":
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(place[0])
else:
    connection = socket.create_connection((place[0], int(place[1])))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
if over == "tls":
    context = ssl.create_default_context(cafile=cert)
    connection = context.wrap_socket(connection, server_hostname="localhost")
connection.sendall(b"x")
assert connection.recv(1) == b"x"
print('{"import": %r}' % seconds, flush=True)
connection.close()
"""

    def listen(self, job: Job) -> tuple[Address, Accept]:
        address, listener = listening_socket(job)
        context = server_context(job)

        def accept() -> Connection:
            connection, _ = listener.accept()
            no_delay(connection)
            if context is None:
                return connection
            # The handshake is made by the first recv, in the thread that handles the connection.
            return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

        return address, accept

    def dial(self, job: Job, address: Address) -> tuple[Connect, Leave]:
        context = client_context(job)

        def connect() -> Connection:
            connection = connected_socket(address)
            if context is None:
                return connection
            return context.wrap_socket(connection, server_hostname="localhost")

        return connect, lambda: None


class Muxado(PythonPeer):
    """Streams of one session."""

    name = "muxado"
    first_program = """
import sys, time
over, cert, *place = sys.argv[1:]
start = time.perf_counter()
import muxado
seconds = time.perf_counter() - start
address = place[0] if over == "unix" else (place[0], int(place[1]))
if over == "tls":
    import ssl
    context = ssl.create_default_context(cafile=cert)
    session = muxado.dial_tls(address, context, server_hostname="localhost")
else:
    session = muxado.dial(address)
with session, session.open() as stream:
    stream.sendall(b"x")
    assert stream.recv(1) == b"x"
    print('{"import": %r}' % seconds, flush=True)
"""

    def listen(self, job: Job) -> tuple[Address, Accept]:
        address, listening = listening_socket(job)
        listener = muxado.Listener(listening, context=server_context(job), **_LIMITS)
        sessions: list[muxado.Session] = []  # the one that lives, if any; guarded by `lock`
        lock = threading.Lock()

        def accept() -> Connection:
            while True:
                with lock:
                    if not sessions:
                        sessions.append(listener.accept()[0])
                    session = sessions[0]
                try:
                    return session.accept()[0]
                except muxado.SessionClosed:
                    end = session.wait()
                    if end.error is not None:
                        raise
                with lock:
                    if session in sessions:
                        sessions.remove(session)

        return address, accept

    def dial(self, job: Job, address: Address) -> tuple[Connect, Leave]:
        context = client_context(job)
        if context is None:
            session = muxado.dial(address, **_LIMITS)
        else:
            session = muxado.dial_tls(address, context, server_hostname="localhost", **_LIMITS)
        return session.dial, session.close


class OtherCheckout(Muxado):
    """Streams of the muxado in another checkout; the work is that of this one's benchmarks."""

    def __init__(self, checkout: Path) -> None:
        checkout = checkout.resolve()
        self.name = f"muxado at {checkout.name}"
        path_first = f"import sys; sys.path.insert(0, {str(checkout)!r})\n"
        # PYTHONPATH would not do: the current directory comes before it. Once the package
        # `benchmarks` is imported its modules are found, whatever comes first on the path.
        run = "from benchmarks.worker import main; main(sys.argv[1:])"
        self.worker = (sys.executable, "-c", f"import benchmarks\n{path_first}{run}")
        self.first_program = path_first + Muxado.first_program

    def server_command(self, job: Job) -> list[str]:
        return super().server_command(job._replace(peer=Muxado.name))

    def client_command(self, job: Job, address: Address) -> list[str]:
        return super().client_command(job._replace(peer=Muxado.name), address)


def allow_many_files() -> None:
    """Let this process have as many descriptors as it may."""
    if resource is not None:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


MUXADO = Muxado()
PLAIN = Plain()
