"""What README.rst shows is run here, as it stands but for addresses and file names."""

from __future__ import annotations

import ast
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

import muxado

from ..helpers.certificate import Certificate

README = Path(__file__).resolve().parents[2] / "README.rst"
TEXT = README.read_text(encoding="utf-8")
BLOCK = re.compile(
    r"^\.\. code-block:: python\n   :name: (\S+)\n\n((?:(?:   .*)?\n)+)", re.MULTILINE
)
BLOCKS = {
    match[1]: "".join(line[3:] or "\n" for line in match[2].splitlines(keepends=True))
    for match in BLOCK.finditer(TEXT)
}
TIMEOUT = 20.0  # seconds for anything that is waited for


def compiled(text: str, name: str) -> CodeType:
    return compile(text, f"README.rst, {name}", "exec")


def run(name: str, text: str | None = None, **names: Any) -> dict[str, Any]:
    """Run a block, with ``names`` defined; the names it leaves behind."""
    exec(compiled(BLOCKS[name] if text is None else text, name), names)
    return names


def replace(name: str, *pairs: tuple[str, str]) -> str:
    text = BLOCKS[name]
    for old, new in pairs:
        assert old in text, f"{old!r} is not in the block {name}"
        text = text.replace(old, new)
    return text


@pytest.fixture
def background() -> Iterator[Callable[..., Any]]:
    """Run a function in a thread; its exception, if any, fails the test."""
    with ThreadPoolExecutor() as pool:
        futures = []

        def start(function: Callable[..., Any], *arguments: Any, **names: Any) -> Any:
            futures.append(pool.submit(function, *arguments, **names))
            return futures[-1]

        yield start
        for future in futures:
            future.result(TIMEOUT)


@pytest.fixture
def pair() -> Iterator[tuple[muxado.Session, muxado.Session]]:
    near, far = socket.socketpair()
    with muxado.client(near) as client, muxado.server(far) as server:
        yield client, server


def test_every_example_is_run_by_a_test() -> None:
    assert TEXT.count("code-block:: python") == len(BLOCKS)
    tests = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    used = {
        node.value
        for node in ast.walk(tests)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert set(BLOCKS) <= used


def test_the_commands_are_there() -> None:
    for line in [
        "    python3 -m muxado demo\n",
        '    python3 -m pip install -e ".[test]" && python3 -m pytest\n',
    ]:
        assert line in TEXT


def test_quick_example(capsys: pytest.CaptureFixture[str]) -> None:
    server = replace("quick-server", ("7000", "0"), ("while True:", "for _ in range(1):"))
    # The listener is made first, so that the client knows its port; then the loop runs.
    head, loop = server.split("for _ in range(1):")
    names = run("quick-server", head)
    with names["listener"] as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(
            target=exec, args=(compiled("for _ in range(1):" + loop, "quick-server"), names)
        )
        thread.start()
        run("quick-client", replace("quick-client", ("7000", str(port))))
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    assert capsys.readouterr().out == "b'one'\ntwo\n\n"


def test_a_web_server_behind_nat(
    certificate: Certificate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    background: Callable[..., Any],
) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(certificate.certfile.read_bytes() + certificate.keyfile.read_bytes())
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("<p>behind NAT</p>", encoding="ascii")
    monkeypatch.chdir(site)
    monkeypatch.setenv(
        "SSL_CERT_FILE", str(certificate.certfile)
    )  # what a public authority is elsewhere

    outside = replace(
        "nat-outside", ("relay.example.org.pem", str(both)), ('("", 7000)', '("127.0.0.1", 0)')
    )
    ports: list[int] = []
    known = threading.Event()
    listen_tls = muxado.listen_tls

    def listen_and_tell(*arguments: Any) -> muxado.Listener:
        listener = listen_tls(*arguments)
        ports.append(listener.getsockname()[1])
        known.set()
        return listener

    monkeypatch.setattr(muxado, "listen_tls", listen_and_tell)
    background(run, "nat-outside", outside)
    assert known.wait(TIMEOUT)
    inside = replace("nat-inside", ("relay.example.org", "localhost"), ("7000", str(ports[0])))
    # localhost may be ::1 first, where nobody listens; the certificate names both.
    background(run, "nat-inside", inside).result(TIMEOUT)
    output = capsys.readouterr()
    assert output.out == "200 17\n"
    assert '"GET / HTTP/1.1" 200' in output.err


def test_any_socketserver(background: Callable[..., Any]) -> None:
    with muxado.listen(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        background(run, "socketserver", replace("socketserver", ("7000", str(port))))
        session, _ = listener.accept()
        with session, session.open() as stream, stream.makefile("rwb") as file:
            file.write(b"hello\n")
            file.flush()
            assert file.readline() == b"HELLO\n"


def test_pipes_of_a_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = tmp_path / "program.py"
    program.write_text(BLOCKS["pipes"] + "\n\n" + BLOCKS["pipes-program"], encoding="utf-8")
    root = str(README.parent)
    start = f"import sys, runpy; sys.path.insert(0, {root!r}); runpy.run_path({str(program)!r})"
    command = repr([sys.executable, "-W", "error", "-c", start])
    client = replace("pipes-client", ('["ssh", "example.org", "python3", "program.py"]', command))
    names = run("pipes-client", client, **run("pipes"))
    assert capsys.readouterr().out == "b'HELLO\\n'\n"
    assert names["program"].returncode == 0


def test_errors(
    pair: tuple[muxado.Session, muxado.Session], background: Callable[..., Any]
) -> None:
    ask = run("retry")["ask"]
    client, server = pair

    def answer() -> None:
        for code in (muxado.ErrorCode.STREAM_REFUSED, None, muxado.ErrorCode.STREAM_CANCELLED):
            stream, _ = server.accept()
            with stream:
                stream.recv(100)
                if code is None:
                    stream.sendall(b"42")
                else:
                    stream.reset(code)

    background(answer)
    assert ask(client, b"6 * 7?") == b"42"  # refused at first, asked again
    with pytest.raises(muxado.StreamReset):
        ask(client, b"and why?")
