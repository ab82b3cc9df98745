"""``python -m muxado demo``: two processes, one connection, requests both ways at once.

The client process dials the server process. Over a stream it asks which of its applications the
server wants; that one it then serves *to the server*, with ``http.server``, while it sends a large
file over another stream of the same connection. The server process fetches pages, several at once,
and checks each of them.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import multiprocessing
import os
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import muxado

FILE_SIZE = 64 * 2**20
FETCHERS = 8  # pages fetched at once
PAGES_EACH = 25  # by each fetcher at least; they go on until the file has arrived
TIMEOUT = 30.0  # seconds for anything that is waited for; all of it takes about two


class DemoFailed(Exception):
    """Something was not as it should be; the text is the reason."""


#: What the client can serve: pages of such lines, of a number and its square.
APPLICATIONS = {"songs": "{0} bottles on the wall\n", "squares": "{0} * {0} = {1}\n"}


def page(app: str, number: int) -> bytes:
    lines = (APPLICATIONS[app].format(n, n * n) for n in range(number, number + 100))
    return "".join(lines).encode()


class QuietHandler(BaseHTTPRequestHandler):
    """``http.server`` as it comes, without its log."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name
        pass

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def request(session: muxado.Session, method: str, path: str, body: bytes | None = None) -> bytes:
    """Make an HTTP request over a stream of its own, and return the body of the answer."""
    with contextlib.closing(http.client.HTTPConnection("demo")) as connection:
        connection.sock = session.dial(timeout=TIMEOUT)
        connection.request(method, path, body)
        response = connection.getresponse()
        answer = response.read()
    if response.status != 200:
        raise DemoFailed(f"{method} {path}: the answer was {response.status} {response.reason}")
    return answer


# The client process ---------------------------------------------------------------------------


class PageHandler(QuietHandler):
    """Serves an application's pages as ``/1``, ``/2`` ..."""

    app = ""  # set once the server has chosen

    def do_GET(self) -> None:
        self.answer(page(self.app, int(self.path.removeprefix("/"))))


def client(address: tuple[str, int], cafile: Path | None) -> None:
    """Dial, ask, serve what was chosen, and send a file of random bytes meanwhile."""
    file = os.urandom(FILE_SIZE)
    if cafile is None:
        session = muxado.dial(address, timeout=TIMEOUT)
    else:
        context = ssl.create_default_context(cafile=cafile)
        session = muxado.dial_tls(address, context, server_hostname="localhost", timeout=TIMEOUT)
    with session:
        PageHandler.app = request(session, "GET", f"/{','.join(APPLICATIONS)}").decode()
        server = ThreadingHTTPServer(("", 0), PageHandler, bind_and_activate=False)
        threading.Thread(target=session.serve, args=(server,)).start()
        request(session, "PUT", f"/{hashlib.sha256(file).hexdigest()}", file)
        end = session.wait(TIMEOUT)  # the server hangs up when it has seen enough
        if end.error is not None:
            raise end.error


# The server process ---------------------------------------------------------------------------


def show(what: str, result: str, seconds: float | None = None, rate: str = "") -> None:
    took = "" if seconds is None else f"{seconds * 1e3:,.1f} ms"
    print(f"  {what:<38} {result:<13} {took:>12} {rate:>16}".rstrip(), flush=True)


def control_handler(choice: Future[str], file: Future[float]) -> type[BaseHTTPRequestHandler]:
    """What answers the client: with the application that the server wants, and about its file."""

    class ControlHandler(QuietHandler):
        def do_GET(self) -> None:
            name = self.path.split(",")[-1]
            self.answer(name.encode())
            choice.set_result(name)

        def do_PUT(self) -> None:
            start = time.monotonic()
            digest = hashlib.sha256(self.rfile.read(int(self.headers["Content-Length"])))
            took = time.monotonic() - start
            self.answer(b"")  # first, since the result may end the session
            if digest.hexdigest() == self.path.removeprefix("/"):
                file.set_result(took)
            else:
                file.set_exception(DemoFailed("the file has another SHA-256 on arrival"))

    return ControlHandler


def fetch_pages(session: muxado.Session, app: str, first: int, until: Future[Any]) -> list[float]:
    """Fetch pages one after another, each of which must be right; the seconds that each took."""
    times: list[float] = []
    while len(times) < PAGES_EACH or not until.done():
        number = first + FETCHERS * (len(times) % PAGES_EACH)
        start = time.monotonic()
        text = request(session, "GET", f"/{number}")
        times.append(time.monotonic() - start)
        if text != page(app, number):
            raise DemoFailed(f"page {number} is wrong: {text[:60]!r}")
    return times


def converse(session: muxado.Session) -> None:
    """Serve the client and fetch from it, until the file and the pages are in; then hang up."""
    choice: Future[str] = Future()
    file: Future[float] = Future()
    server = ThreadingHTTPServer(("", 0), control_handler(choice, file), bind_and_activate=False)
    with ThreadPoolExecutor(1 + FETCHERS) as pool, session:
        serving = pool.submit(session.serve, server)

        def result(future: Future[Any]) -> Any:
            """What the client brings, which it no longer can once its session is over."""
            wait([future, serving], TIMEOUT, FIRST_COMPLETED)
            if not future.done():
                raise DemoFailed("the client left early, or does not answer")
            return future.result()

        app = result(choice)
        show("server chose the client's application", repr(app))
        start = time.monotonic()
        jobs = [pool.submit(fetch_pages, session, app, n, file) for n in range(FETCHERS)]
        file_took = result(file)
        times = [took for job in jobs for took in job.result(TIMEOUT)]
        pages_took = time.monotonic() - start
    rate = f"{len(times) / pages_took:,.0f} pages/s"
    show(f"server fetched its pages, {FETCHERS} at once", f"{len(times)} right", pages_took, rate)
    show("   one page, median", "", statistics.median(times))
    show("   one page, slowest", "", max(times))
    rate = f"{FILE_SIZE / 1e6 / file_took:,.0f} MB/s"
    show(f"{FILE_SIZE >> 20} MiB file crossed meanwhile", "SHA-256 equal", file_took, rate)


def accept(listener: muxado.Listener, dialing: Callable[[], bool]) -> muxado.Session:
    """The client's session, unless the client ends before it dials."""
    listener.settimeout(0.2)  # to look whether there still is a client
    while dialing():
        with contextlib.suppress(TimeoutError):
            return listener.accept()[0]
    raise DemoFailed("the client process ended too early")


def run(certificate: tuple[Path, Path] | None) -> None:
    """Do it all and show it; raise an exception if anything is not as it should be."""
    if certificate is None:
        listener = muxado.listen(("127.0.0.1", 0))
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        listener = muxado.listen_tls(("127.0.0.1", 0), context)
    with listener:
        start = time.monotonic()
        arguments = (listener.getsockname()[:2], certificate and certificate[0])
        process = multiprocessing.get_context("spawn").Process(target=client, args=arguments)
        process.start()
        print(f"muxado {muxado.__version__}, one {'TLS' if certificate else 'TCP'} connection")
        print(f"server process {os.getpid()}, client process {process.pid}\n", flush=True)
        try:
            session = accept(listener, process.is_alive)
            show("client process started and dialed", "", time.monotonic() - start)
            converse(session)
            start = time.monotonic()
            process.join(TIMEOUT)
            if process.exitcode != 0:
                raise DemoFailed("all seemed well, but not to the client process")
            show("server hung up, client left", "status 0", time.monotonic() - start)
        finally:
            process.kill()
            process.join()


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for ``localhost`` that is its own authority, and its key."""
    cert, key = directory / "cert.pem", directory / "key.pem"
    command = ["openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", str(key), "-out", str(cert)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DemoFailed(f"openssl made no certificate: {done.stderr}")
    return cert, key


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``muxado demo``."""
    parser.add_argument("--tcp", action="store_true", help="plain TCP, even where TLS is possible")
    parser.set_defaults(run=main)


def main(options: argparse.Namespace) -> int:
    """Run the demo; the exit status is 0 when all was right."""
    try:
        with tempfile.TemporaryDirectory(prefix="muxado-demo-") as directory:
            certificate = None
            if not options.tcp and shutil.which("openssl"):
                certificate = make_certificate(Path(directory))
            elif not options.tcp:
                print("No TLS: there is no openssl command to make a certificate with.\n")
            run(certificate)
    except (DemoFailed, OSError, http.client.HTTPException) as error:
        print(f"The demo failed: {error}", file=sys.stderr)
        return 1
    return 0
