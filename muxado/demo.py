"""The main job, shown: two processes, one connection, requests both ways at once.

A client process dials a server process over TLS on loopback. It asks the server, over a stream,
which of its applications the server wants to use; that application it then serves *to the server*
with an unchanged ``http.server`` handler, on the same connection, while it sends a large file over
another stream. The server process fetches pages, several at once, and checks each.

``run`` is the server process, ``client`` what runs in the other. Every wait has a limit of time,
and whatever goes wrong in either process ends the demo with the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import hashlib
import http.client
import json
import os
import queue
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, NamedTuple

import muxado

__all__ = ["Certificate", "DemoFailed", "OpenSSLMissing", "Report", "client", "make_certificate"]

MIB = 2**20
BLOCK = 256 * 1024  # bytes of the file read or written at a time
FILE_SIZE = 64 * MIB
FETCHERS = 8  # pages fetched at once
PAGES_EACH = 25  # by each fetcher at least; they go on until the file has arrived
TIMEOUT = 30.0  # seconds for everything; it takes about two
GRACE = 2.0  # seconds in which a client process that met an error may end by itself


class DemoFailed(Exception):
    """Something was not as it should be; the text is the reason."""


class OpenSSLMissing(DemoFailed):
    """There is no ``openssl`` command to make a certificate with."""


# The certificate ------------------------------------------------------------------------------


class Certificate(NamedTuple):
    """Two files: a certificate for ``localhost`` that is its own authority, and its key."""

    cert: Path
    key: Path


OPENSSL_CONFIG = """
[req]
distinguished_name = name
x509_extensions = extensions
prompt = no
[name]
CN = localhost
[extensions]
subjectAltName = DNS:localhost, IP:127.0.0.1
basicConstraints = critical, CA:TRUE
keyUsage = critical, digitalSignature, keyCertSign
subjectKeyIdentifier = hash
"""


def make_certificate(directory: Path) -> Certificate:
    """Make a new certificate in ``directory``, good for two days.

    Raises ``OpenSSLMissing`` without the ``openssl`` command, ``DemoFailed`` when that fails.
    """
    made = Certificate(directory / "cert.pem", directory / "key.pem")
    config = directory / "openssl.cnf"
    config.write_text(OPENSSL_CONFIG, encoding="ascii")
    command = ["openssl", "req", "-x509", "-new", "-nodes", "-newkey", "rsa:2048", "-days", "2"]
    command += ["-config", str(config), "-keyout", str(made.key), "-out", str(made.cert)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT, check=False
        )
    except FileNotFoundError as error:
        raise OpenSSLMissing("there is no openssl command to make a certificate with") from error
    except subprocess.TimeoutExpired as error:
        raise DemoFailed(f"openssl made no certificate within {TIMEOUT:g} s") from error
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip()
        raise DemoFailed(f"openssl made no certificate: {reason}")
    return made


# The applications -----------------------------------------------------------------------------


def _squares(number: int) -> bytes:
    return "".join(f"{n} * {n} = {n * n}\n" for n in range(number, number + 100)).encode()


def _songs(number: int) -> bytes:
    lines = (f"{n} green bottles hanging on the wall\n" for n in range(number, -1, -1))
    return "".join(lines).encode()


#: What the client can serve: from the number of a page to its text.
APPLICATIONS: dict[str, Callable[[int], bytes]] = {"songs": _songs, "squares": _squares}


class QuietHandler(BaseHTTPRequestHandler):
    """``http.server`` as it comes, but for the log, and with an answer made in one call."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name
        pass

    def answer(self, status: int, body: bytes, kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def page_handler(application: Callable[[int], bytes]) -> type[BaseHTTPRequestHandler]:
    """A handler that serves an application's pages as ``/1``, ``/2`` ..."""

    class PageHandler(QuietHandler):
        def do_GET(self) -> None:
            number = self.path.removeprefix("/")
            if number.isdecimal():
                self.answer(200, application(int(number)))
            else:
                self.send_error(404)

    return PageHandler


def _request(
    session: muxado.Session,
    method: str,
    path: str,
    *,
    body: IO[bytes] | None = None,
    **headers: str,
) -> tuple[int, bytes]:
    """One HTTP request over a stream of its own: the status and the body of the answer."""
    connection = http.client.HTTPConnection("demo", blocksize=BLOCK)
    connection.sock = session.dial(timeout=TIMEOUT)
    with contextlib.closing(connection):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body=body, headers=named)
        response = connection.getresponse()
        return response.status, response.read()


# The client process ---------------------------------------------------------------------------


def make_file(size: int) -> tuple[IO[bytes], str]:
    """A temporary file of random bytes, and its SHA-256."""
    digest = hashlib.sha256()
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the caller
    for start in range(0, size, BLOCK):
        block = os.urandom(min(BLOCK, size - start))
        digest.update(block)
        file.write(block)
    file.seek(0)
    return file, digest.hexdigest()


def choose(session: muxado.Session) -> str:
    """Ask the server which application it wants."""
    offer = urllib.parse.urlencode({"offer": list(APPLICATIONS)}, doseq=True)
    status, body = _request(session, "GET", f"/application?{offer}")
    if status != 200:
        raise DemoFailed(f"the server answered {status} when asked for its choice: {body!r}")
    name: str = json.loads(body)["application"]
    if name not in APPLICATIONS:
        raise DemoFailed(f"the server chose {name!r}, which was not offered")
    return name


def send_file(session: muxado.Session, file: IO[bytes], size: int, digest: str) -> None:
    status, body = _request(
        session, "PUT", "/file", body=file, Content_Length=str(size), X_SHA_256=digest
    )
    if status != 200:
        raise DemoFailed(f"the server did not take the file: {body.decode(errors='replace')}")
    seen = json.loads(body)["sha256"]
    if seen != digest:
        raise DemoFailed(f"the server says that the file has SHA-256 {seen}, it has {digest}")


def client(address: tuple[str, int], cafile: str | None, size: int) -> None:
    """What the client process does: dial, ask, serve what was chosen, send the file meanwhile."""
    file, digest = make_file(size)
    if cafile is None:
        session = muxado.dial(address, timeout=TIMEOUT)
    else:
        context = ssl.create_default_context(cafile=cafile)
        session = muxado.dial_tls(address, context, server_hostname="localhost", timeout=TIMEOUT)
    with session, file:
        handler = page_handler(APPLICATIONS[choose(session)])
        server = ThreadingHTTPServer(("", 0), handler, bind_and_activate=False)
        serving = threading.Thread(target=session.serve, args=(server,), daemon=True)
        serving.start()
        send_file(session, file, size, digest)
        end = session.wait(timeout=TIMEOUT)  # the server hangs up when it has seen enough
        serving.join(TIMEOUT)
        if serving.is_alive():
            raise DemoFailed("the session is over, but serve() has not returned")
        if end.code != muxado.ErrorCode.NO_ERROR:
            raise DemoFailed(f"the session ended with {end.code.name}: {end.error}")


def client_main(arguments: Sequence[str]) -> int:
    """The command line of the client process: host, port, size of the file, certificate or not."""
    faulthandler.dump_traceback_later(TIMEOUT, exit=True)  # hanging, it says where, and ends
    host, port, size, *cafile = arguments
    try:
        client((host, int(port)), cafile[0] if cafile else None, int(size))
    except DemoFailed as error:
        print(error, file=sys.stderr)
        return 1
    faulthandler.cancel_dump_traceback_later()
    return 0


# The server process ---------------------------------------------------------------------------


class FileReport(NamedTuple):
    """What came of the file."""

    size: int
    digest: str
    seconds: float


class Page(NamedTuple):
    """One page fetched."""

    start: float  # monotonic seconds
    end: float


class Report(NamedTuple):
    """What happened, for the table."""

    transport: str
    processes: tuple[int, int]  # the server's id and the client's
    connected: float  # seconds from the start of the client process to its session
    application: str
    pages: list[Page]
    file: FileReport
    closed: float  # seconds from hanging up to the client's end


class Events:
    """What the threads of the server process tell the one that waits, against one deadline."""

    def __init__(self, timeout: float) -> None:
        self._deadline = time.monotonic() + timeout
        self._timeout = timeout
        self._queue: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._early: dict[str, Any] = {}  # what came before it was waited for

    def tell(self, what: str, value: Any = None) -> None:
        self._queue.put((what, value))

    @contextlib.contextmanager
    def failures(self, doing: str) -> Iterator[None]:
        """Report whatever is raised inside, in a thread that nobody waits for."""
        try:
            yield
        except DemoFailed as error:
            self.tell("failure", str(error))
        except Exception as error:
            self.tell("failure", f"{doing}: {type(error).__name__}: {error}")

    def wait_for(self, what: str) -> Any:
        """The value told with ``what``; raises ``DemoFailed`` for a failure or the deadline."""
        while what not in self._early:
            left = self._deadline - time.monotonic()
            try:
                told, value = self._queue.get(timeout=max(left, 0))
            except queue.Empty:
                message = f"no news of the {what} within {self._timeout:g} s"
                raise DemoFailed(message) from None
            if told == "failure":
                raise DemoFailed(value)
            self._early[told] = value
            if told == "client's end" and what != told:
                raise DemoFailed("the client process ended too early")
        return self._early.pop(what)


def control_handler(events: Events) -> type[BaseHTTPRequestHandler]:
    """What the server answers to the client: its choice, and what it thinks of the file."""

    class ControlHandler(QuietHandler):
        def do_GET(self) -> None:
            url = urllib.parse.urlsplit(self.path)
            offered = urllib.parse.parse_qs(url.query).get("offer", [])
            wanted = [name for name in offered if name in APPLICATIONS]
            if url.path != "/application" or not wanted:
                self.send_error(404)
                return
            self.answer(200, json.dumps({"application": wanted[-1]}).encode(), "application/json")
            events.tell("choice", wanted[-1])

        def do_PUT(self) -> None:
            left = size = int(self.headers["Content-Length"])
            digest = hashlib.sha256()
            start = time.monotonic()
            while left:
                block = self.rfile.read(min(left, BLOCK))
                if not block:
                    raise DemoFailed(f"the file ended {left} bytes before its end")
                digest.update(block)
                left -= len(block)
            seconds = time.monotonic() - start
            found, promised = digest.hexdigest(), self.headers["X-SHA-256"]
            if found != promised:
                message = f"the file has SHA-256 {found} on arrival, it had {promised}"
                self.answer(409, message.encode())
                raise DemoFailed(message)
            self.answer(200, json.dumps({"sha256": found}).encode(), "application/json")
            events.tell("file", FileReport(size, found, seconds))

    return ControlHandler


class ControlServer(ThreadingHTTPServer):
    """Reports a handler's exception instead of printing it."""

    def __init__(self, events: Events) -> None:
        super().__init__(("", 0), control_handler(events), bind_and_activate=False)
        self._events = events

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        with self._events.failures("serving the client"):
            assert error is not None
            raise error


def fetch(session: muxado.Session, number: int, expected: bytes) -> Page:
    """Fetch one page from the client, and see that it is the right one."""
    start = time.monotonic()
    status, body = _request(session, "GET", f"/{number}")
    if (status, body) != (200, expected):
        raise DemoFailed(
            f"page {number} is wrong: status {status}, {len(body)} bytes: {body[:60]!r}"
        )
    return Page(start, time.monotonic())


class Fetchers:
    """``FETCHERS`` threads that fetch pages until each has enough and the file has arrived."""

    def __init__(self, session: muxado.Session, application: str, events: Events) -> None:
        self._session = session
        self._text = APPLICATIONS[application]
        self._events = events
        self._pages: list[Page] = []  # guarded by _lock, as is _left
        self._left = FETCHERS
        self._lock = threading.Lock()
        self.enough = threading.Event()
        for first in range(FETCHERS):
            threading.Thread(target=self._run, args=(first,), daemon=True).start()

    def _run(self, first: int) -> None:
        with self._events.failures("fetching a page"):
            pages: list[Page] = []
            while len(pages) < PAGES_EACH or not self.enough.is_set():
                number = first + FETCHERS * (len(pages) % PAGES_EACH)
                pages.append(fetch(self._session, number, self._text(number)))
            with self._lock:
                self._pages += pages
                self._left -= 1
                if not self._left:
                    self._events.tell("pages", self._pages)


def client_command(address: tuple[str, int], cafile: Path | None, size: int) -> list[str]:
    """How the client process is started."""
    host, port = address
    command = [sys.executable, "-m", "muxado.demo", host, str(port), str(size)]
    return command if cafile is None else [*command, str(cafile)]


class ClientProcess:
    """The other process; its end is told, and what it wrote is kept."""

    def __init__(self, command: list[str], events: Events) -> None:
        root = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONPATH": path},
        )
        self._events = events
        self._output = ""  # written before _ended is set
        self._ended = threading.Event()
        self.id = self._process.pid
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        self._output = self._process.communicate()[0].strip()
        self._ended.set()
        self._events.tell("client's end")

    @property
    def failed(self) -> bool:
        return self._process.returncode != 0

    def last_words(self) -> str:
        """How the process ended, or is now made to end, and what it said."""
        if self._ended.wait(GRACE):
            how = f"exited with status {self._process.returncode}"
        else:
            self._process.kill()
            self._ended.wait(GRACE)
            how = "was still running, and has been killed"
        return f"The client process {how}" + (f"; it said:\n{self._output}" if self._output else "")

    def stop(self) -> None:
        if not self._ended.is_set():
            self._process.kill()
            self._ended.wait(GRACE)


def run(
    certificate: Certificate | None,
    *,
    size: int = FILE_SIZE,
    timeout: float = TIMEOUT,
    command: Callable[[tuple[str, int], Path | None, int], list[str]] = client_command,
) -> Report:
    """Do it all, and return what happened, or raise ``DemoFailed`` with the reason.

    ``certificate``: TLS with it, or plain TCP; ``size`` in bytes of the file; ``timeout`` in
    seconds for everything; ``command`` makes the command line of the client process.
    """
    events = Events(timeout)
    if certificate is None:
        listener = muxado.listen(("127.0.0.1", 0))
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.cert, certificate.key)
        listener = muxado.listen_tls(("127.0.0.1", 0), context)
    with listener:
        address: tuple[str, int] = listener.getsockname()[:2]
        start = time.monotonic()
        child = ClientProcess(
            command(address, certificate.cert if certificate else None, size), events
        )
        session: muxado.Session | None = None
        try:
            session = _accept(listener, events)
            connected = time.monotonic() - start
            application, pages, file = _converse(session, events)
            hung_up = time.monotonic()
            session.close()
            events.wait_for("client's end")
            closed = time.monotonic() - hung_up
            if child.failed:
                raise DemoFailed("all seemed well, but not to the client")
        except DemoFailed as error:
            raise DemoFailed(f"{error}\n{child.last_words()}") from None
        finally:
            child.stop()
            if session is not None:
                session.kill()
    transport = "TLS" if certificate else "TCP"
    processes = (os.getpid(), child.id)
    return Report(transport, processes, connected, application, pages, file, closed)


def _accept(listener: muxado.Listener, events: Events) -> muxado.Session:
    def accept() -> None:
        with events.failures("accepting the client"):
            events.tell("session", listener.accept()[0])

    threading.Thread(target=accept, daemon=True).start()
    session: muxado.Session = events.wait_for("session")
    return session


def _converse(session: muxado.Session, events: Events) -> tuple[str, list[Page], FileReport]:
    """Serve the client and fetch from it, on one session, until the file and the pages are in."""

    def serve() -> None:
        with events.failures("serving the client"):
            session.serve(ControlServer(events))

    threading.Thread(target=serve, daemon=True).start()
    application: str = events.wait_for("choice")
    fetchers = Fetchers(session, application, events)
    file: FileReport = events.wait_for("file")
    fetchers.enough.set()
    pages: list[Page] = events.wait_for("pages")
    return application, pages, file


# The table ------------------------------------------------------------------------------------


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f} ms"


def table(report: Report) -> str:
    """The report as text."""
    pages, file = report.pages, report.file
    took = [page.end - page.start for page in pages]
    span = max(page.end for page in pages) - min(page.start for page in pages)
    rows = [
        (
            f"client process started and dialed over {report.transport}",
            "",
            _milliseconds(report.connected),
            "",
        ),
        ("server chose the client's application", repr(report.application), "", ""),
        (
            f"server fetched its pages, {FETCHERS} at once",
            f"{len(pages)} right",
            _milliseconds(span),
            f"{len(pages) / span:,.0f} pages/s",
        ),
        ("   one page, median", "", _milliseconds(statistics.median(took)), ""),
        ("   one page, slowest", "", _milliseconds(max(took)), ""),
        (
            f"{file.size / MIB:g} MiB file crossed meanwhile",
            "SHA-256 equal",
            _milliseconds(file.seconds),
            f"{file.size / 1e6 / file.seconds:,.0f} MB/s",
        ),
        ("server hung up, client left", "status 0", _milliseconds(report.closed), ""),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    server, other = report.processes
    lines = [
        f"muxado {muxado.__version__}: server process {server}, client process {other},",
        f"one {report.transport} connection, {len(pages) + 2} streams",
        "",
    ]
    for what, result, seconds, rate in rows:
        cells = (
            what.ljust(widths[0]),
            result.ljust(widths[1]),
            seconds.rjust(widths[2]),
            rate.rjust(widths[3]),
        )
        lines.append("  " + "   ".join(cells).rstrip())
    lines += ["", f"SHA-256 {file.digest}"]
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``muxado demo``."""
    parser.add_argument("--tcp", action="store_true", help="plain TCP, even where TLS is possible")
    parser.set_defaults(run=main)


def main(options: argparse.Namespace) -> int:
    """Run the demo, print its table; the exit status is 0 when all was right."""
    try:
        with tempfile.TemporaryDirectory(prefix="muxado-demo-") as directory:
            certificate = None
            if not options.tcp:
                try:
                    certificate = make_certificate(Path(directory))
                except OpenSSLMissing as error:
                    print(f"No TLS: {error}. Plain TCP instead.\n", flush=True)
            print(table(run(certificate)))
    except (DemoFailed, OSError) as error:
        print(f"The demo failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(client_main(sys.argv[1:]))
