"""What ngrok's Agent SDK is connected to: a stand-in for ngrok's service, on our sessions.

The SDK opens a heartbeat stream (type 0xFFFFFFFF), which our engine answers by itself, and a
stream for each request: Auth, Bind, Unbind. A request is JSON and is not followed by FIN; the
reply is, and then the SDK sends its own. The service opens a stream of type 3 for each connection
to what was bound: the length of a header (8 bytes, little-endian), the header, and then whatever
the two ends say to each other.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import http.server
import json
import queue
import random
import socket
import socketserver
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import muxado

from ..helpers.certificate import Certificate
from ..helpers.crew import GUARD, Crew

AUTH, BIND, UNBIND, PROXY = range(4)

SIZE = 1_000_000
"""Bytes of each page of the upstream: four times the window that a stream starts with."""

_OPENSSL = """
[req]
distinguished_name = name
x509_extensions = extensions
prompt = no
[name]
CN = localhost
[extensions]
basicConstraints = critical, CA:FALSE
subjectAltName = DNS:localhost, IP:127.0.0.1
"""


def make_certificate(openssl: str, directory: Path) -> Certificate:
    """A certificate that is no authority: Rust's TLS takes none that is for a server's own."""
    certificate = Certificate(directory / "cert.pem", directory / "key.pem")
    config = directory / "openssl.cnf"
    config.write_text(_OPENSSL, encoding="ascii")
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-nodes", "-days", "2", "-config", str(config)),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-keyout", str(certificate.keyfile), "-out", str(certificate.certfile)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate


class Request(NamedTuple):
    """What the SDK asked for."""

    session: muxado.Session
    type: int
    message: dict[str, Any]


def _reply(request: Request) -> dict[str, Any]:
    message = request.message
    if request.type == AUTH:
        return {"Version": "3", "ClientId": "c"}
    if request.type == BIND:
        return {
            "Id": "t",
            "URL": "https://x",
            "Proto": message["Proto"],
            "Opts": message["Opts"],
            "Extra": {"Token": ""},  # not to be left out
        }
    assert request.type == UNBIND, request
    return {}


def _read_json(stream: muxado.Stream) -> dict[str, Any]:
    """Read until it parses: no FIN says where it ends."""
    text = b""
    while part := stream.recv(65536):
        text += part
        with contextlib.suppress(ValueError):
            return cast("dict[str, Any]", json.loads(text))
    raise AssertionError(f"the SDK ended its request: {text!r}")


class Service:
    """Takes the SDK's sessions and answers their requests."""

    def __init__(self, certificate: Certificate, crew: Crew, **options: Any) -> None:
        self.sessions: list[muxado.Session] = []
        self.requests: list[Request] = []
        self._crew = crew
        self._bound: queue.Queue[muxado.Session] = queue.Queue()
        self._listener = muxado.listen_tls(
            ("127.0.0.1", 0), certificate.server_context(), typed=True, **options
        )
        self.port: int = self._listener.getsockname()[1]
        self._accepting = crew.start(self._accept)

    def _accept(self) -> None:
        for session in self._listener:
            self.sessions.append(session)
            self._crew.start(self._serve, session)

    def _serve(self, session: muxado.Session) -> None:
        with contextlib.suppress(muxado.SessionClosed):  # which may happen at any point
            for stream in session:
                with stream:
                    stream.settimeout(GUARD)
                    request = Request(session, stream.stream_type, _read_json(stream))
                    self.requests.append(request)
                    stream.sendall(json.dumps(_reply(request)).encode())
                    stream.shutdown(socket.SHUT_WR)
                    assert stream.recv(1) == b""
                if request.type == BIND:
                    self._bound.put(session)

    def bound(self) -> muxado.Session:
        """Wait until the SDK has bound an endpoint on another session."""
        try:
            return self._bound.get(timeout=GUARD)
        except queue.Empty:
            asked = [(request.type, request.message) for request in self.requests]
            raise AssertionError(
                f"nothing is bound: {len(self.sessions)} sessions, which asked {asked}"
            ) from None

    def end(self) -> None:
        self._listener.close()
        self._accepting.result()
        for session in self.sessions:
            session.kill()


def fetch(session: muxado.Session, path: str, body: bytes | None = None) -> bytes:
    """GET a page of the upstream through the SDK, or POST one."""
    header = json.dumps(
        {
            "Id": "t",
            "ClientAddr": "127.0.0.1:5",
            "Proto": "https",
            "EdgeType": "0",
            "PassthroughTLS": False,
        }
    ).encode()
    with session.open(stream_type=PROXY) as stream:
        stream.settimeout(GUARD)
        stream.sendall(len(header).to_bytes(8, "little", signed=True) + header)
        connection = http.client.HTTPConnection("x")
        connection.sock = cast("socket.socket", stream)
        connection.request("GET" if body is None else "POST", path, body)
        with connection.getresponse() as response:
            assert response.status == 200
            return response.read()


def page(path: str) -> bytes:
    """What the upstream has there; no two are alike."""
    return random.Random(path).randbytes(SIZE)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Upstream
    timeout = GUARD

    def do_GET(self) -> None:
        # Without a length: where the page ends only the end of the stream tells.
        self.send_response(200)
        self.end_headers()
        data = page(self.path)
        self.wfile.write(data[: SIZE // 2])
        self.server.halfway()
        self.wfile.write(data[SIZE // 2 :])

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(digest(data))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (its name there)
        pass


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


class Upstream(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """What the SDK forwards to: pages to GET, and the digest of what is POSTed."""

    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        #: Called in the middle of each page.
        self.halfway: Callable[[], object] = lambda: None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The SDK was killed in the middle: no concern of the upstream's."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"
