"""Parts of the standard library that are given a connected socket."""

from __future__ import annotations

import asyncio
import http.client
import http.server
import random
import socketserver
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest

from .pipes import Crew, End, Feature, Pipe, read_to_end

NO_SERVER: Any = None  # handlers only keep it


class HttpHandler(http.server.BaseHTTPRequestHandler):
    """Echoes bodies, counts in chunks, and says what else it was asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/chunks":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for number in range(20):
                body = b"%d," % number
                self.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))
            self.wfile.write(b"0\r\n\r\n")
        elif self.path == "/until-closed":
            self.close_connection = True
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"the end says how long")
        else:
            self.answer(urllib.parse.unquote(self.path).encode())

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def http_connection(pipe: Pipe, crew: Crew) -> Iterator[http.client.HTTPConnection]:
    """A client at the near end; at the far one a handler that runs until the client closes."""

    def serve() -> None:
        # The far end is closed here because a file of the handler's may outlive it.
        with pipe.far:
            HttpHandler(pipe.far, ("peer", 0), NO_SERVER)

    serving = crew.start(serve)
    connection = http.client.HTTPConnection("nowhere.invalid")
    connection.sock = pipe.near
    yield connection
    connection.close()
    serving.result()


def test_http_requests_on_one_connection(http_connection: http.client.HTTPConnection) -> None:
    for path in ("/one", "/two", "/three"):
        http_connection.request("GET", path)
        response = http_connection.getresponse()
        assert response.status == 200
        assert response.read() == path.encode()


def test_http_body_both_ways(http_connection: http.client.HTTPConnection) -> None:
    body = random.Random(13).randbytes(1024 * 1024)
    http_connection.request("POST", "/", body=body)
    assert http_connection.getresponse().read() == body


def test_http_body_from_an_iterable(http_connection: http.client.HTTPConnection) -> None:
    parts = [b"%d," % number for number in range(1000)]
    headers = {"Content-Length": str(sum(map(len, parts)))}
    http_connection.request("POST", "/", body=iter(parts), headers=headers)
    assert http_connection.getresponse().read() == b"".join(parts)


def test_http_chunks(http_connection: http.client.HTTPConnection) -> None:
    http_connection.request("GET", "/chunks")
    response = http_connection.getresponse()
    assert response.read() == b"".join(b"%d," % number for number in range(20))
    http_connection.request("GET", "/next")
    assert http_connection.getresponse().read() == b"/next"


def test_http_response_until_closed(http_connection: http.client.HTTPConnection) -> None:
    http_connection.request("GET", "/until-closed")
    response = http_connection.getresponse()
    # The response still reads after the connection has given up its socket.
    http_connection.close()
    assert response.read() == b"the end says how long"


class EchoHandler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line.upper())


class BufferedEchoHandler(EchoHandler):
    rbufsize = 0
    wbufsize = 1024


class TimedEchoHandler(EchoHandler):
    timeout = 20


class UndelayedEchoHandler(EchoHandler):
    disable_nagle_algorithm = True


@pytest.mark.parametrize(
    "handler", [EchoHandler, BufferedEchoHandler, TimedEchoHandler, UndelayedEchoHandler]
)
def test_stream_request_handler(
    pipe: Pipe, crew: Crew, handler: type[socketserver.StreamRequestHandler]
) -> None:
    pipe.needs(Feature.HALF_CLOSE)
    if handler.disable_nagle_algorithm:
        pipe.needs(Feature.TCP_OPTIONS)

    def serve() -> None:
        with pipe.far:
            handler(pipe.far, ("peer", 0), NO_SERVER)

    serving = crew.start(serve)
    pipe.near.sendall(b"spam\nand\neggs")
    pipe.near.shutdown(1)
    assert read_to_end(pipe.near) == b"SPAM\nAND\nEGGS"
    serving.result()


class OneConnection(socketserver.BaseServer):
    """A server whose only request is a connection that is there already."""

    def __init__(self, end: End) -> None:
        super().__init__(("nowhere", 0), EchoHandler)
        self.end = end

    def get_request(self) -> tuple[Any, Any]:
        return self.end, ("peer", 0)

    # As socketserver.TCPServer has them.
    def shutdown_request(self, request: Any) -> None:
        try:
            request.shutdown(1)
        except OSError:
            pass
        request.close()


class OneThreadedConnection(socketserver.ThreadingMixIn, OneConnection):
    pass


@pytest.mark.parametrize("server_class", [OneConnection, OneThreadedConnection])
def test_socketserver(pipe: Pipe, crew: Crew, server_class: type[OneConnection]) -> None:
    pipe.needs(Feature.HALF_CLOSE)
    server = server_class(pipe.far)
    serving = crew.start(server._handle_request_noblock)  # type: ignore[attr-defined]
    pipe.near.sendall(b"spam\n")
    pipe.near.shutdown(1)
    assert read_to_end(pipe.near) == b"SPAM\n"
    serving.result()
    server.server_close()  # joins the thread that has the request
    assert pipe.far.fileno() == -1


def echo_all(end: End) -> None:
    end.sendall(read_to_end(end))
    end.shutdown(1)


def test_asyncio_loop_calls(pipe: Pipe, crew: Crew) -> None:
    """An event loop waits for the descriptor and then calls recv and send itself."""
    pipe.needs(Feature.POLL)
    data = random.Random(14).randbytes(1024 * 1024)
    echoing = crew.start(echo_all, pipe.far)

    async def talk() -> bytes:
        loop = asyncio.get_running_loop()
        pipe.near.setblocking(False)
        await loop.sock_sendall(pipe.near, data)
        pipe.near.shutdown(1)
        got = bytearray()
        while part := await loop.sock_recv(pipe.near, 65536):
            got += part
        return bytes(got)

    assert asyncio.run(talk()) == data
    echoing.result()


def test_asyncio_streams(pipe: Pipe, crew: Crew) -> None:
    pipe.needs(Feature.POLL)
    data = b"".join(b"line %d\n" % number for number in range(1000))
    echoing = crew.start(echo_all, pipe.far)

    async def talk() -> list[bytes]:
        reader, writer = await asyncio.open_connection(sock=pipe.near)
        for line in data.splitlines(keepends=True):
            writer.write(line)
            await writer.drain()
        writer.write_eof()
        lines = [line async for line in reader]
        writer.close()
        await writer.wait_closed()
        return lines

    assert asyncio.run(talk()) == data.splitlines(keepends=True)
    echoing.result()
    assert pipe.near.fileno() == -1


def test_asyncio_server_side(pipe: Pipe, crew: Crew) -> None:
    """More goes both ways than there is room for, through a transport's own buffers."""
    pipe.needs(Feature.POLL)
    data = random.Random(15).randbytes(1024 * 1024)

    def ask() -> bytes:
        sending = crew.start(pipe.near.sendall, data)
        got = read_to_end(pipe.near)
        sending.result()
        return got

    asking = crew.start(ask)

    async def serve() -> None:
        reader, writer = await asyncio.open_connection(sock=pipe.far)
        received = 0
        while received < len(data):
            part = await reader.read(65536)
            received += len(part)
            writer.write(part)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    asyncio.run(serve())
    assert asking.result() == data
