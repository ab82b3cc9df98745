"""The benchmarks tell the truth about failure, and their scenarios do what they say."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import peers, runner, scenarios
from benchmarks.peers import Address, Job, Peer
from benchmarks.runner import BenchmarkError, measure
from benchmarks.scenarios import SCENARIOS, Connection, Scenario

ROOT = Path(__file__).resolve().parent.parent
SMALL = {"round trip": 50, "message": 500, "open": 64, "byte": 65 * 5000}


def small_work(scenario: Scenario) -> int:
    return SMALL[scenario.unit.thing]


class Script(Peer):
    """A peer whose two ends are given as Python source."""

    name = "script"

    def __init__(self, server: str, client: str) -> None:
        self._server = server
        self._client = client

    def server_command(self, job: Job) -> list[str]:
        return [sys.executable, "-c", self._server]

    def client_command(self, job: Job, address: Address) -> list[str]:
        return [sys.executable, "-c", self._client]


SERVER = 'import sys; print(\'{"address": ["localhost", 1]}\', flush=True); sys.stdin.read()'
CLIENT = """
import sys
print('{"ready": true}', flush=True)
for line in sys.stdin:
    print('{"seconds": 2.0}', flush=True)
"""


def run(peer: Peer, **options: float) -> runner.Result:
    return measure(SCENARIOS["rtt"], peer, [], work=10, rounds=2, **options)  # type: ignore[arg-type]


def test_a_foreign_peer_is_two_commands() -> None:
    assert run(Script(SERVER, CLIENT)).figures["script"].seconds == [2.0, 2.0]


@pytest.mark.parametrize(
    ("server", "client", "message"),
    [
        ("raise SystemExit('no port')", CLIENT, r"script server exited with status 1:\nno port"),
        ("print('hello')", CLIENT, "script server said b'hello"),
        ("print(7)", CLIENT, "script server said b'7"),
        (SERVER, "", "script client exited with status 0"),
        (SERVER, "raise ValueError('bang')", "(?s)script client exited with status 1.*bang"),
        (SERVER, CLIENT.replace("2.0", "}"), "script client said"),
        (SERVER, CLIENT.replace("for", "raise KeyError('k')\nfor"), "(?s)status 1.*KeyError"),
        (SERVER, CLIENT + "sys.exit('late')", r"script client exited with status 1:\nlate"),
        (SERVER + "; sys.exit('later')", CLIENT, r"script server exited with status 1:\nlater"),
        (
            SERVER.replace("sys.stdin.read()", "sys.exit('gone')"),
            "import sys; sys.stdin.read()",
            r"script server exited with status 1:\ngone",
        ),
    ],
)
def test_a_process_that_fails_ends_the_run(server: str, client: str, message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        run(Script(server, client))


def test_a_process_that_hangs_ends_the_run_and_shows_where() -> None:
    hanging = """
import faulthandler, sys, threading
faulthandler.enable()
print('{"ready": true}', flush=True)
def the_place_where_it_hangs():
    threading.Event().wait()
the_place_where_it_hangs()
"""
    with pytest.raises(BenchmarkError, match=r"(?s)no answer within.*the_place_where_it_hangs"):
        run(Script(SERVER, hanging), round_timeout=0.5)


def test_a_command_that_cannot_start_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Script(SERVER, CLIENT)
    monkeypatch.setattr(peer, "client_command", lambda job, address: ["/nonexistent/program"])
    with pytest.raises(BenchmarkError, match="script client did not start"):
        run(peer)


def test_the_command_says_what_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "RIVALS", [Script("raise SystemExit('no port')", CLIENT)])
    assert command.main(["--quick", "--only", "rtt"]) == 1
    assert "error: rtt: script server exited with status 1:\nno port" in capsys.readouterr().err


def test_an_unknown_scenario_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command.main(["--only", "nonsense"])
    assert stop.value.code == 2
    assert "invalid choice: 'nonsense'" in capsys.readouterr().err


@pytest.fixture
def server_end() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


@pytest.mark.parametrize("name", [name for name, each in SCENARIOS.items() if not each.tls])
def test_each_scenario_over_plain_sockets(name: str) -> None:
    scenario = SCENARIOS[name]
    failures: list[BaseException] = []
    threads: list[threading.Thread] = []

    def handle(connection: socket.socket) -> None:
        try:
            with connection:
                scenario.handler(connection)
        except BaseException as error:
            failures.append(error)

    def connect() -> Connection:
        near, far = socket.socketpair()
        threads.append(threading.Thread(target=handle, args=(far,)))
        threads[-1].start()
        return near

    assert scenario.client(connect, small_work(scenario)) > 0
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_connection_that_ends_early_is_an_error(
    server_end: tuple[socket.socket, socket.socket],
) -> None:
    near, far = server_end
    far.sendall(b"abc")
    far.shutdown(socket.SHUT_WR)
    with pytest.raises(EOFError):
        scenarios.receive_exactly(near, 4)
    with pytest.raises(EOFError):
        scenarios.sink(near, 4)


def test_a_failing_caller_fails_the_round() -> None:
    def fail() -> None:
        raise ValueError("one of many")

    with pytest.raises(ValueError, match="one of many"):
        scenarios.together([lambda: None, fail])


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_each_scenario_with_muxado_beside_plain_sockets(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = SCENARIOS[name]
    certificate = None
    if scenario.tls:
        demo = pytest.importorskip("muxado.demo")
        try:
            certificate = peers.Certificate(*map(str, demo.make_certificate(tmp_path)))
        except demo.OpenSSLMissing as error:
            pytest.skip(str(error))
    result = measure(
        scenario,
        peers.MUXADO,
        peers.RIVALS,
        work=small_work(scenario),
        rounds=2,
        certificate=certificate,
        round_timeout=20,
    )
    assert set(result.figures) == {"muxado", "plain"}
    assert all(len(figures.seconds) == 2 for figures in result.figures.values())
    (comparison,) = result.comparisons
    assert len(comparison.ratios) == 2
    assert name in command.table([result])


def test_the_whole_command(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks", "--quick", "--rounds", "1"),
            *("--only", "rtt", "--json", str(figures)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert "muxado/plain" in done.stdout
    (scenario,) = json.loads(figures.read_text(encoding="utf-8"))["scenarios"]
    assert scenario["name"] == "rtt"
    assert scenario["ratios"]["plain"]["median"] > 0
