"""The demo: right when all is right, and never when anything is off."""

from __future__ import annotations

import io
import os
import re
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import muxado
from muxado import __main__ as command
from muxado import demo

ROOT = Path(__file__).resolve().parents[2]
SIZE = 2**20


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def assert_is_the_table(text: str, transport: str) -> None:
    for pattern in [
        rf"server process \d+, client process \d+,\none {transport} connection, \d+ streams",
        rf"client process started and dialed over {transport} +[\d.,]+ ms",
        r"server chose the client's application +'squares'",
        r"server fetched its pages, 8 at once +\d+ right +[\d.,]+ ms +[\d,]+ pages/s",
        r"one page, median +[\d.,]+ ms",
        r"one page, slowest +[\d.,]+ ms",
        r"64 MiB file crossed meanwhile +SHA-256 equal +[\d.,]+ ms +[\d,]+ MB/s",
        r"server hung up, client left +status 0 +[\d.,]+ ms",
        r"SHA-256 [0-9a-f]{64}\n$",
    ]:
        assert re.search(pattern, text), f"{pattern!r} not found in:\n{text}"


def test_two_processes_do_the_main_job() -> None:
    done = run_python("-m", "muxado", "demo")
    assert (done.returncode, done.stderr) == (0, "")
    assert_is_the_table(done.stdout, "TCP" if "No TLS" in done.stdout else "TLS")


def test_without_openssl_it_says_so_and_uses_tcp(tmp_path: Path) -> None:
    done = run_python("-m", "muxado", "demo", PATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("No TLS: there is no openssl command")
    assert_is_the_table(done.stdout, "TCP")


def test_a_failure_is_told_and_is_the_exit_status() -> None:
    done = run_python(
        "-c",
        "import sys\n"
        "from muxado import __main__, demo\n"
        "demo.APPLICATIONS['squares'] = lambda number: b'not what the client serves'\n"
        "demo.GRACE = 0.1\n"
        "sys.exit(__main__.main(['demo', '--tcp']))",
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.match(r"The demo failed: page \d+ is wrong: status 200, \d+ bytes", done.stderr)


def test_an_openssl_that_fails_is_told(tmp_path: Path) -> None:
    openssl = tmp_path / "openssl"
    openssl.write_text("#!/bin/sh\necho no entropy today >&2\nexit 9\n", encoding="ascii")
    openssl.chmod(0o755)
    done = run_python("-m", "muxado", "demo", PATH=str(tmp_path))
    assert done.returncode == 1
    assert "The demo failed: openssl made no certificate: no entropy today" in done.stderr


CLIENT_PRELUDE = """
import os, sys, threading
from muxado import demo
"""


def run_with_client(source: str, *, timeout: float = 20.0) -> demo.Report:
    """The demo with a client process that runs ``source`` instead of its own main."""

    def client(address: tuple[str, int], cafile: Path | None, size: int) -> list[str]:
        usual = demo.client_command(address, cafile, size)
        arguments = usual[usual.index("muxado.demo") + 1 :]
        return [sys.executable, "-c", CLIENT_PRELUDE + source, *arguments]

    return demo.run(None, size=SIZE, timeout=timeout, command=client)


def test_the_client_as_it_is_passes() -> None:
    report = run_with_client("sys.exit(demo.client_main(sys.argv[1:]))")
    assert report.file.size == SIZE
    assert len(report.pages) >= demo.FETCHERS * demo.PAGES_EACH


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        pytest.param(
            "sys.exit('no such luck')",
            r"(?s)the client process ended too early.*status 1; it said:\nno such luck",
            id="dies-at-once",
        ),
        pytest.param(
            "import muxado\nmuxado.dial((sys.argv[1], int(sys.argv[2]))).close()",
            r"The client process exited with status 0",
            id="leaves-after-dialing",
        ),
        pytest.param(
            "del demo.APPLICATIONS['squares'], demo.APPLICATIONS['songs']\n"
            "sys.exit(demo.client_main(sys.argv[1:]))",
            r"(?s)status 1; it said:.*the server answered 404 when asked for its choice",
            id="offers-nothing",
        ),
        pytest.param(
            "make = demo.make_file\n"
            "demo.make_file = lambda size: (make(size)[0], '0' * 64)\n"
            "sys.exit(demo.client_main(sys.argv[1:]))",
            r"the file has SHA-256 [0-9a-f]{64} on arrival, it had 0{64}",
            id="sends-another-file",
        ),
        pytest.param(
            "demo.send_file = lambda session, file, size, digest: os._exit(7)\n"
            "sys.exit(demo.client_main(sys.argv[1:]))",
            r"(?s)The client process exited with status 7",
            id="dies-halfway",
        ),
        pytest.param(
            "demo.client_main(sys.argv[1:])\nsys.exit('regrets')",
            r"(?s)all seemed well, but not to the client.*status 1; it said:\nregrets",
            id="fails-at-the-end",
        ),
    ],
)
def test_whatever_is_off_in_the_client_fails_the_demo(source: str, reason: str) -> None:
    with pytest.raises(demo.DemoFailed, match=reason):
        run_with_client(source)


def test_wrong_pages_fail_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "GRACE", 0.1)  # the client is content, and stays
    with pytest.raises(demo.DemoFailed, match=r"page \d+ is wrong: status 200, 5 bytes: b'wrong'"):
        run_with_client(
            "demo.APPLICATIONS['squares'] = lambda number: b'wrong'\n"
            "sys.exit(demo.client_main(sys.argv[1:]))"
        )


@pytest.mark.parametrize(
    ("source", "what"),
    [
        pytest.param("threading.Event().wait()", "session", id="never-dials"),
        pytest.param(
            "import muxado\n"
            "session = muxado.dial((sys.argv[1], int(sys.argv[2])))\n"
            "threading.Event().wait()",
            "choice",
            id="never-asks",
        ),
        pytest.param(
            "demo.send_file = lambda session, file, size, digest: threading.Event().wait()\n"
            "sys.exit(demo.client_main(sys.argv[1:]))",
            "file",
            id="never-sends",
        ),
    ],
)
def test_a_client_that_hangs_fails_the_demo(
    source: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Impatient(demo.Events):
        """What the test is about is not waited for so long; what comes before it is."""

        def wait_for(self, expected: str) -> Any:
            if expected == what:
                self._deadline = time.monotonic() + 0.1
            return super().wait_for(expected)

    monkeypatch.setattr(demo, "Events", Impatient)
    monkeypatch.setattr(demo, "GRACE", 0.1)
    reason = rf"no news of the {what} within 20 s\n.*has been killed"
    with pytest.raises(demo.DemoFailed, match=reason):
        run_with_client(source)


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, b'{"sha256": "feed"}', "the server says that the file has SHA-256 feed"),
        (409, b"spoilt", "the server did not take the file: spoilt"),
    ],
)
def test_the_client_does_not_believe_in_a_file_that_the_server_got_wrong(
    status: int, body: bytes, reason: str
) -> None:
    class Handler(demo.QuietHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(status, body)

    with serving(Handler) as session, pytest.raises(demo.DemoFailed, match=reason):
        demo.send_file(session, io.BytesIO(b"abc"), 3, "beef")


def test_the_client_takes_only_what_it_offered() -> None:
    class Handler(demo.QuietHandler):
        def do_GET(self) -> None:
            self.answer(200, b'{"application": "root shell"}')

    with (
        serving(Handler) as session,
        pytest.raises(demo.DemoFailed, match="chose 'root shell', which was not offered"),
    ):
        demo.choose(session)


class serving:  # noqa: N801 - a context manager, used like a function
    """A client session whose peer serves HTTP with ``handler``."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        near, far = socket.socketpair()
        self._client = muxado.client(near)
        self._server = muxado.server(far)
        server = ThreadingHTTPServer(("", 0), handler, bind_and_activate=False)
        self._thread = threading.Thread(target=self._server.serve, args=(server,))

    def __enter__(self) -> muxado.Session:
        self._thread.start()
        return self._client

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._thread.join()
        self._server.close()


def test_help_and_a_missing_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command.main(["--help"])
    assert stop.value.code == 0
    assert "demo" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        command.main([])
    assert stop.value.code == 2
