"""The demo: right when all is right, and never when anything is off."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from muxado import __main__ as command

ROOT = Path(__file__).resolve().parents[2]


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


def run_changed(change: str) -> subprocess.CompletedProcess[str]:
    """The demo over TCP, with its server process changed; the client's is as it always is."""
    return run_python(
        "-c",
        f"import sys\nfrom muxado import __main__, demo\n{change}\n"
        "sys.exit(__main__.main(['demo', '--tcp']))",
    )


def assert_is_the_table(text: str, transport: str) -> None:
    for pattern in [
        rf"one {transport} connection\nserver process \d+, client process \d+\n",
        r"client process started and dialed +[\d.,]+ ms",
        r"server chose the client's application +'squares'",
        r"server fetched its pages, 8 at once +\d+ right +[\d.,]+ ms +[\d,]+ pages/s",
        r"one page, median +[\d.,]+ ms",
        r"one page, slowest +[\d.,]+ ms",
        r"64 MiB file crossed meanwhile +SHA-256 equal +[\d.,]+ ms +[\d,]+ MB/s",
        r"server hung up, client left +status 0 +[\d.,]+ ms\n$",
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


def test_an_openssl_that_fails_is_told(tmp_path: Path) -> None:
    openssl = tmp_path / "openssl"
    openssl.write_text("#!/bin/sh\necho no entropy today >&2\nexit 9\n", encoding="ascii")
    openssl.chmod(0o755)
    done = run_python("-m", "muxado", "demo", PATH=str(tmp_path))
    assert done.returncode == 1
    assert "The demo failed: openssl made no certificate: no entropy today" in done.stderr


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(
            "demo.APPLICATIONS['squares'] = 'not what the client serves'",
            r"The demo failed: page \d+ is wrong: b'0 \* 0 = 0",
            id="wrong-pages",
        ),
        pytest.param(
            "import hashlib\ndemo.hashlib.sha256 = hashlib.sha512",
            r"The demo failed: the file has another SHA-256 on arrival",
            id="wrong-file",
        ),
        pytest.param(
            "demo.client = print",
            r"The demo failed: the client process ended too early",
            id="client-never-dials",
        ),
        pytest.param(
            "demo.control_handler = lambda choice, file: demo.QuietHandler",
            r"The demo failed: the client left early, or does not answer",
            id="client-fails",
        ),
        pytest.param(
            "demo.converse = lambda session: session.kill()",
            r"The demo failed: all seemed well, but not to the client process",
            id="client-disagrees",
        ),
    ],
)
def test_whatever_is_off_fails_the_demo(change: str, reason: str) -> None:
    done = run_changed(change)
    assert done.returncode == 1
    assert re.search(reason, done.stderr), done.stderr
    assert "hung up" not in done.stdout


def test_a_client_that_hangs_fails_the_demo(tmp_path: Path) -> None:
    script = tmp_path / "hanging.py"
    script.write_text(
        "import sys, muxado\n"
        "from muxado import __main__, demo\n"
        "def client(address, cafile):\n"
        "    muxado.dial(address).accept()\n"
        "if __name__ == '__main__':\n"
        "    demo.client, demo.TIMEOUT = client, 0.1\n"
        "    sys.exit(__main__.main(['demo', '--tcp']))\n",
        encoding="ascii",
    )
    done = run_python(str(script), PYTHONPATH=str(ROOT))
    assert done.returncode == 1
    assert "The demo failed: the client left early, or does not answer" in done.stderr


def test_help_and_a_missing_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command.main(["--help"])
    assert stop.value.code == 0
    assert "demo" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        command.main([])
    assert stop.value.code == 2
