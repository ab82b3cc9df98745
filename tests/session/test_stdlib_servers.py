"""Servers of the standard library, unchanged, on sessions in place of listening sockets."""

from __future__ import annotations

import http.client
import http.server
import socket
import socketserver
import threading
import urllib.request
import xmlrpc.client
import xmlrpc.server
from typing import Any

import pytest

import muxado

from ..helpers.crew import GUARD, Crew
from ..helpers.support import Connector, Sessions, read_all, until


class Upper(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line.upper())


class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.path.encode() * 1000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[::-1])

    def log_message(self, *args: Any) -> None:
        """Not on the test's standard error."""


def ask(session: muxado.Session, text: bytes) -> bytes:
    with session.open() as stream:
        stream.settimeout(GUARD)
        stream.sendall(text)
        stream.shutdown(socket.SHUT_WR)
        return read_all(stream)


def stop(server: socketserver.BaseServer) -> None:
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("kind", [socketserver.TCPServer, socketserver.ThreadingTCPServer])
@pytest.mark.parametrize("how", ["socket", "serve"])
def test_socketserver(
    connector: Connector, crew: Crew, kind: type[socketserver.TCPServer], how: str
) -> None:
    client, session = connector()
    server = kind(("", 0), Upper, bind_and_activate=False)
    if how == "socket":
        server.socket.close()
        server.socket = session  # type: ignore[assignment]
        serving = crew.start(server.serve_forever, 0.01)
    else:
        serving = crew.start(session.serve, server)
    asking = [crew.start(ask, client, b"hello %d\nagain\n" % n) for n in range(10)]
    for number, task in enumerate(asking):
        assert task.result() == b"HELLO %d\nAGAIN\n" % number
    if how == "serve":
        client.close()
        serving.result()
        server.server_close()
    else:
        stop(server)
        serving.result()


def test_http(connector: Connector, crew: Crew) -> None:
    client, session = connector()
    server = http.server.ThreadingHTTPServer(("", 0), Page, bind_and_activate=False)
    serving = crew.start(session.serve, server)

    def fetch(number: int) -> None:
        connection = http.client.HTTPConnection("page", timeout=GUARD)
        connection._create_connection = client.dial  # type: ignore[attr-defined]
        for turn in range(3):
            connection.request("GET", f"/{number}/{turn}")
            assert connection.getresponse().read() == b"/%d/%d" % (number, turn) * 1000
        connection.request("POST", "/", body=bytes(range(250)) * 1000)
        assert connection.getresponse().read() == (bytes(range(250)) * 1000)[::-1]
        connection.close()

    for task in [crew.start(fetch, number) for number in range(6)]:
        task.result()
    client.close()
    serving.result()
    server.server_close()


def test_a_server_made_without_an_address(sessions: Sessions, crew: Crew) -> None:
    client, session = sessions.tcp()
    server = http.server.ThreadingHTTPServer(
        None,  # type: ignore[arg-type]
        Page,
        bind_and_activate=False,
    )
    serving = crew.start(session.serve, server)
    connection = http.client.HTTPConnection("page")
    connection.sock = client.dial()
    connection.request("GET", "/x")
    assert connection.getresponse().read() == b"/x" * 1000
    connection.close()
    session.close()
    serving.result()
    server.server_close()


def test_xmlrpc(connector: Connector, crew: Crew) -> None:
    client, session = connector()
    server = xmlrpc.server.SimpleXMLRPCServer(("", 0), logRequests=False, bind_and_activate=False)
    server.register_function(lambda base, exponent: base**exponent, "pow")
    server.socket.close()
    server.socket = session  # type: ignore[assignment]
    serving = crew.start(server.serve_forever, 0.01)

    class Transport(xmlrpc.client.Transport):
        def make_connection(self, host: Any) -> http.client.HTTPConnection:
            connection = http.client.HTTPConnection("rpc")
            connection.sock = client.dial()
            return connection

    with xmlrpc.client.ServerProxy("http://rpc/", transport=Transport()) as proxy:
        assert proxy.pow(2, 10) == 1024
    stop(server)
    serving.result()


def test_urllib_dials_through_a_session(sessions: Sessions, crew: Crew) -> None:
    client, session = sessions.tcp()
    server = http.server.ThreadingHTTPServer(("", 0), Page, bind_and_activate=False)
    serving = crew.start(session.serve, server)

    class Connection(http.client.HTTPConnection):
        def connect(self) -> None:
            self.sock = client.dial((self.host, self.port), self.timeout)

    class Handler(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(Connection, req)

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), Handler)
    with opener.open("http://page/u", timeout=GUARD) as response:
        assert response.read() == b"/u" * 1000
    client.close()
    serving.result()
    server.server_close()


class Counting(socketserver.TCPServer):
    """Counts the turns of its loop that had something to do."""

    turns = 0
    idle = threading.Event()

    def _handle_request_noblock(self) -> None:
        self.turns += 1
        super()._handle_request_noblock()  # type: ignore[misc]

    def service_actions(self) -> None:
        self.idle.set()


@pytest.mark.parametrize("how", ["close", "kill", "peer"])
def test_a_dead_session_does_not_make_the_loop_spin(
    sessions: Sessions, crew: Crew, how: str
) -> None:
    client, session = sessions.tcp()
    server = Counting(("", 0), Upper, bind_and_activate=False)
    server.socket.close()
    server.socket = session  # type: ignore[assignment]
    serving = crew.start(server.serve_forever, 0.001)
    assert ask(client, b"one\n") == b"ONE\n"
    {"close": session.close, "kill": session.kill, "peer": client.close}[how]()
    until(lambda: session._engine.core.end_reported)
    before = server.turns
    for _ in range(20):
        server.idle.clear()
        assert server.idle.wait(GUARD)
    assert server.turns <= before + 1
    stop(server)
    serving.result()


def test_serve_returns_when_the_server_is_shut_down(sessions: Sessions, crew: Crew) -> None:
    _, session = sessions.tcp()
    server = socketserver.TCPServer(("", 0), Upper, bind_and_activate=False)
    serving = crew.start(session.serve, server)
    until(lambda: getattr(server, "socket", None) is session)
    server.shutdown()
    serving.result()
    assert not session.closed
    assert not [t for t in threading.enumerate() if t.name == "muxado-serve"]
    server.server_close()


@pytest.mark.parametrize("end", ["close", "kill", "peer"])
@pytest.mark.parametrize("told", [False, True])
def test_serve_on_a_session_that_is_over(sessions: Sessions, end: str, told: bool) -> None:
    """There is nothing to serve, whoever ended it, and whether or not somebody was told."""
    client, session = sessions.tcp()
    {"close": session.close, "kill": session.kill, "peer": client.close}[end]()
    session.wait(GUARD)
    if told:
        with pytest.raises(muxado.SessionClosed):
            session.accept()
    for _ in range(2):
        server = socketserver.TCPServer(("", 0), Upper, bind_and_activate=False)
        session.serve(server)
    assert not [t for t in threading.enumerate() if t.name == "muxado-serve"]
    server.server_close()
    assert session.fileno() == -1


class NotImplementedHere(http.server.SimpleHTTPRequestHandler):
    """Answers 501 to a POST, and closes without having read its body."""

    def log_message(self, *args: Any) -> None:
        """Not on the test's standard error."""


@pytest.mark.parametrize("size", [10, 10_000, 200_000])
def test_an_answer_to_a_request_whose_body_is_not_read(
    connector: Connector, crew: Crew, size: int
) -> None:
    """It arrives each time, as over a socket, though the stream is reset behind it."""
    client, session = connector()
    server = http.server.ThreadingHTTPServer(("", 0), NotImplementedHere, bind_and_activate=False)
    serving = crew.start(session.serve, server)
    for _ in range(10):
        connection = http.client.HTTPConnection("page")
        connection.sock = client.dial(timeout=GUARD)
        try:
            connection.request("POST", "/", body=bytes(size))
        except ConnectionError:
            pass  # the answer came before the whole body had been sent
        response = connection.getresponse()
        assert response.status == 501
        assert len(response.read()) == int(response.headers["Content-Length"])
        connection.close()
    client.close()
    serving.result()
    server.server_close()
