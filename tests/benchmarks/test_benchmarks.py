"""The benchmarks tell the truth about failure, and their work is what they say it is."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import parts, report, runner, work
from benchmarks.certificate import NoCertificateError, make_certificate
from benchmarks.others import OTHERS, Go
from benchmarks.parts import Connection
from benchmarks.peers import MUXADO, PLAIN, Address, Job, Peer
from benchmarks.plot import PlotError, plot
from benchmarks.runner import BenchmarkError, Place, measure
from benchmarks.scenarios import SCENARIOS, Metric, Scenario
from benchmarks.work import KINDS

ROOT = Path(__file__).resolve().parents[2]
#: Work for each kind that is done at once.
SMALL = {
    "rtt": 50,
    "open": 64,
    "bulk": 65 * 5000,
    "down": 300_000,
    "both": 300_000,
    "messages": 500,
    "latency": 20,
    "think": 20,
    "push": 20,
    "idle": 200,
    "start": 1,
}


PYTHON = [sys.executable, "-I", "-S", "-c"]  # with nothing installed, it is soon there


class Script(Peer):
    """A peer whose two ends are given as Python source."""

    name = "script"

    def __init__(self, server: str, client: str) -> None:
        self._server = server
        self._client = client

    def server_command(self, job: Job) -> list[str]:
        return [*PYTHON, self._server]

    def client_command(self, job: Job, address: Address) -> list[str]:
        return [*PYTHON, self._client]

    def first_command(self, job: Job, address: Address) -> list[str]:
        return [*PYTHON, self._client]


SERVER = 'import sys; print(\'{"address": ["localhost", 1]}\', flush=True); sys.stdin.read()'
CLIENT = """
import sys
print('{"ready": true}', flush=True)
for line in sys.stdin:
    print('{"seconds": 2.0}', flush=True)
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def run(peer: Peer, place: Place, *, scenario: str = "rtt", timeout: float = 20) -> runner.Result:
    return measure(
        SCENARIOS[scenario], [peer], work=10, rounds=2, place=place, round_timeout=timeout
    )


def test_a_foreign_peer_is_commands(place: Place) -> None:
    assert run(Script(SERVER, CLIENT), place).rounds["seconds"]["script"] == [0.2, 0.2]


def test_a_peer_that_is_slow_does_less(place: Place) -> None:
    slow = CLIENT.replace("print('{\"sec", "time.sleep(0.4); print('{\"sec")
    result = measure(
        SCENARIOS["rtt"],
        [Script(SERVER, "import time" + slow)],
        work=2_000,
        rounds=1,
        place=place,
        longest=0.1,
    )
    (amount,) = result.amounts.values()
    assert 1 <= amount < 500
    assert result.rounds["seconds"]["script"] == [2.0 / amount]


@pytest.mark.parametrize(
    ("work", "streams", "tried", "seconds", "amount"),
    [
        (1000, 1, 100, 0.1, 1000),
        (1000, 1, 100, 0.4, 1000),
        (1000, 1, 100, 0.8, 500),
        (1000, 64, 100, 0.8, 448),
        (1000, 64, 64, 400, 64),
    ],
)
def test_how_much_less(work: int, streams: int, tried: int, seconds: float, amount: int) -> None:
    assert runner.fitting(work, streams, tried, seconds, longest=4.0) == amount


@pytest.mark.parametrize(
    ("server", "client", "message"),
    [
        ("raise SystemExit('no port')", CLIENT, r"script server exited with status 1:\nno port"),
        ("print('hello')", CLIENT, "script server said b'hello"),
        ("print(7)", CLIENT, "script server said b'7"),
        (SERVER, "", "script client exited with status 0"),
        (SERVER, "raise ValueError('bang')", "(?s)script client exited with status 1.*bang"),
        (SERVER, CLIENT.replace("2.0", "}"), "script client said"),
        (SERVER, CLIENT.replace("2.0", "null"), "script client said {'seconds': None}"),
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
def test_a_process_that_fails_ends_the_run(
    server: str, client: str, message: str, place: Place
) -> None:
    with pytest.raises(BenchmarkError, match=message):
        run(Script(server, client), place)


def test_a_start_that_fails_ends_the_run(place: Place) -> None:
    with pytest.raises(BenchmarkError, match=r"script client exited with status 1:\nno start"):
        run(Script(SERVER, "raise SystemExit('no start')"), place, scenario="start")


def test_a_process_that_hangs_ends_the_run_and_shows_where(place: Place) -> None:
    hanging = """
import faulthandler, sys, threading
faulthandler.enable()
print('{"ready": true}', flush=True)
def the_place_where_it_hangs():
    threading.Event().wait()
the_place_where_it_hangs()
"""
    with pytest.raises(BenchmarkError, match=r"(?s)no answer within.*the_place_where_it_hangs"):
        run(Script(SERVER, hanging), place, timeout=0.5)


def test_a_command_that_cannot_start_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, place: Place
) -> None:
    peer = Script(SERVER, CLIENT)
    monkeypatch.setattr(peer, "client_command", lambda job, address: ["/nonexistent/program"])
    with pytest.raises(BenchmarkError, match="script client did not start"):
        run(peer, place)


def test_the_command_says_what_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "PLAIN", Script("raise SystemExit('no port')", CLIENT))
    monkeypatch.setattr(command, "OTHERS", [])
    assert command.main(["--quick", "--only", "rtt"]) == 1
    assert "error: rtt: script server exited with status 1:\nno port" in capsys.readouterr().err


def test_an_openssl_that_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command.main(["--quick", "--only", "rtt-tls", "--peer", "plain"]) == 1
    assert "error: no openssl command" in capsys.readouterr().err
    openssl = tmp_path / "openssl"
    openssl.write_text("#!/bin/sh\necho no entropy today >&2\nexit 9\n", encoding="ascii")
    openssl.chmod(0o755)
    assert command.main(["--quick", "--only", "rtt-tls", "--peer", "plain"]) == 1
    assert "error: openssl made no certificate: no entropy today" in capsys.readouterr().err


def test_an_unknown_scenario_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command.main(["--only", "nonsense"])
    assert stop.value.code == 2
    assert "no such scenario: 'nonsense'" in capsys.readouterr().err


def test_what_is_named_is_chosen() -> None:
    options = command.parse(["--only", "open-?", "--only", "rtt-tls"])
    assert [scenario.name for scenario in command.chosen(options)] == [
        "open-1",
        "open-8",
        "rtt-tls",
    ]


def test_a_peer_that_is_not_there_is_left_out_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = Go("absent", "example.org/absent", "golang-absent-dev")
    monkeypatch.setattr(command, "OTHERS", [absent])
    measured: list[list[Peer]] = []

    def not_measured(scenario: Scenario, peers: list[Peer], **_: object) -> runner.Result:
        measured.append(peers)
        return RTT

    monkeypatch.setattr(command, "measure", not_measured)
    assert command.main(["--only", "start", "--rounds", "1", "--quick"]) == 0
    assert "absent" not in capsys.readouterr().out  # not wanted with --quick
    monkeypatch.setattr(command, "wanted", lambda peer, scenario, options: True)
    assert command.main(["--only", "start", "--rounds", "1", "--quick"]) == 0
    assert "skipped absent: no " in capsys.readouterr().out
    assert measured == [[MUXADO, PLAIN]] * 2


@pytest.mark.parametrize("name", ["rtt", "start"])
def test_the_muxado_of_another_checkout_takes_part(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkout = tmp_path / "before"
    shutil.copytree(ROOT / "muxado", checkout / "muxado")
    imports = tmp_path / "imports"
    with (checkout / "muxado/__init__.py").open("a", encoding="utf-8") as module:
        module.write(f"\nimport os\nwith open({str(imports)!r}, 'a') as _file:\n")
        module.write("    _file.write(f'{os.getpid()}\\n')\n")
    arguments = ["--quick", "--rounds", "1", "--only", name, "--peer", "none"]
    assert command.main([*arguments, "--against", str(checkout)]) == 0
    output = capsys.readouterr().out
    assert "muxado/muxado at before" in output
    assert "muxado/plain" not in output
    # A server, and at least one client.
    assert len(set(imports.read_text(encoding="utf-8").split())) >= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--against", "/nonexistent"], "no muxado in /nonexistent"),
        (["--peer", "none"], "--peer none is for --against"),
        (["--peer", "none", "--peer", "plain", "--against", str(ROOT)], "excludes other peers"),
    ],
)
def test_a_comparison_that_cannot_be_made_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        command.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def server_end() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


@pytest.mark.parametrize("name", list(KINDS))
@pytest.mark.parametrize("streams", [1, 5])
def test_each_kind_over_plain_sockets(name: str, streams: int) -> None:
    kind = KINDS[name]
    failures: list[BaseException] = []
    threads: list[threading.Thread] = []
    sockets: list[socket.socket] = []

    def handle(connection: socket.socket) -> None:
        try:
            kind.handler(connection)
            if not kind.inline:
                connection.close()
        except BaseException as error:
            failures.append(error)

    def connect() -> Connection:
        near, far = socket.socketpair()
        sockets.extend((near, far))
        threads.append(threading.Thread(target=handle, args=(far,)))
        threads[-1].start()
        return near

    figures = kind.client(connect, SMALL[name], streams)
    assert figures
    assert all(value > 0 for value in figures.values()) or name == "idle"
    for thread in threads:
        thread.join()
    for each in sockets:
        each.close()
    work._kept.clear()
    assert failures == []


class Delayed:
    """A connection whose answers are ``DELAY`` seconds late."""

    DELAY = 0.01

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.sendall = sock.sendall
        self.recv_into = sock.recv_into
        self.close = sock.close

    def recv(self, size: int, /) -> bytes:
        data = self._sock.recv(size)
        time.sleep(self.DELAY)
        return data


@pytest.mark.parametrize("name", ["think", "push"])
def test_latency_is_what_the_connection_adds(
    name: str, server_end: tuple[socket.socket, socket.socket]
) -> None:
    near, far = server_end
    server = threading.Thread(target=KINDS[name].handler, args=(far,))
    server.start()
    figures = KINDS[name].client(lambda: Delayed(near), 10, 1)
    server.join()
    assert figures["p99"] >= Delayed.DELAY
    assert figures["p50"] >= Delayed.DELAY


def test_a_connection_that_ends_early_is_an_error(
    server_end: tuple[socket.socket, socket.socket],
) -> None:
    near, far = server_end
    far.sendall(b"abc")
    far.shutdown(socket.SHUT_WR)
    with pytest.raises(EOFError):
        parts.receive_exactly(near, 4)
    with pytest.raises(EOFError):
        parts.sink(near, 4)


def test_a_failing_caller_fails_the_round() -> None:
    def fail() -> None:
        raise ValueError("one of many")

    with pytest.raises(ValueError, match="one of many"):
        parts.together([lambda: None, fail])


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> list[Peer]:
    """The peers that are installed; all of them where it is said that none may be missing."""
    directory = tmp_path_factory.mktemp("peers")
    missing = {peer.name: peer.missing(directory) for peer in OTHERS}
    if os.environ.get("MUXADO_REQUIRE_PEERS") == "1":
        assert not any(missing.values()), missing
    return [PLAIN, *(peer for peer in OTHERS if missing[peer.name] is None)]


#: Every kind of work and of connection. The first is done by every peer that is installed, the
#: others only by muxado and plain sockets unless it is said that no peer may be missing; then
#: paramiko, slow to start, does those before the bar.
EACH_KIND = ["rtt", "open-8", "bulk", "latency", "idle", "start", "rtt-tls", "|"]
EACH_KIND += [
    "think-2",
    "think-8",
    "push-1",
    "push-8",
    "rtt-4",
    "open-8-pool",
    "bulk-64",
    "bulk-down",
    "bulk-both",
    "messages",
    "messages-100",
]
EACH_KIND += ["open-8-tls", "start-tls", "rtt-unix", "open-8-unix", "start-unix"]


@pytest.mark.parametrize("name", [name for name in EACH_KIND if name != "|"])
def test_every_peer_does_each_kind_of_work(
    name: str, place: Place, request: pytest.FixtureRequest
) -> None:
    scenario = SCENARIOS[name]
    if scenario.over == "tls":
        try:
            place = place._replace(certificate=make_certificate(place.directory))
        except NoCertificateError as error:
            pytest.skip(str(error))
    rivals: list[Peer] = [PLAIN]
    if name == EACH_KIND[0] or os.environ.get("MUXADO_REQUIRE_PEERS") == "1":
        rivals = request.getfixturevalue("installed")
    if EACH_KIND.index(name) > EACH_KIND.index("|"):
        rivals = [peer for peer in rivals if peer.name != "paramiko"]
    result = measure(
        scenario,
        [MUXADO, *rivals],
        work=max(SMALL[scenario.kind], scenario.streams),
        rounds=1,
        place=place,
        round_timeout=20,
    )
    names = [peer.name for peer in (MUXADO, *rivals)]
    for metric in scenario.metrics:
        figures = result.rounds[metric.name]
        assert all(len(values) == 1 for values in figures.values())
        if metric.name == "import":
            assert {"muxado", "plain"} <= set(figures)
        else:
            assert sorted(figures) == sorted(names)
    first = scenario.metrics[0]
    assert len(result.ratios(first, "muxado", "plain")) == 1
    assert name in report.table([result])


FIGURES = {"muxado": [2e-3, 3e-3, 4e-3], "plain": [1e-3, 1e-3, 1e-3], "paramiko": [0.1, 0.1, 0.4]}
RTT = runner.Result(SCENARIOS["rtt"], dict.fromkeys(FIGURES, 1000), {"seconds": FIGURES})
BULK_FIGURES = {"muxado": [4e-9], "plain": [1e-9]}
BULK = runner.Result(
    SCENARIOS["bulk"], {"muxado": 192 * 2**20, "plain": 192 * 2**20}, {"seconds": BULK_FIGURES}
)


def test_what_is_written_can_be_put_together(tmp_path: Path) -> None:
    about = report.about_this_run()
    for name, results in (("a", [BULK]), ("b", [RTT, BULK])):
        text = report.Report(about, results, {name: "not there"}).to_json()
        (tmp_path / name).write_text(text, encoding="utf-8")
    both = report.load([tmp_path / "a", tmp_path / "b"])
    assert both == report.Report(about, [RTT, BULK], {"a": "not there", "b": "not there"})


def test_the_table_has_ratios_first() -> None:
    _, _, plain, paramiko, bulk = report.table([RTT, BULK]).splitlines()
    assert plain.split()[:4] == ["rtt", "3.00", "2.00-4.00", "muxado/plain"]
    assert "3.00 ms" in plain
    assert "2.00 ms - 4.00 ms" in plain
    assert "333/s" in plain
    assert paramiko.split()[:4] == ["rtt", "0.02", "0.01-0.03", "muxado/paramiko"]
    assert bulk.split()[:4] == ["bulk", "4.00", "4.00-4.00", "muxado/plain"]
    assert "805 ms" in bulk
    assert "250 MB/s" in bulk


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (12.345, "s", "12.3 s"),
        (1.0, "s", "1.00 s"),
        (0.2345, "s", "234 ms"),
        (4.4e-5, "s", "44.0 us"),
        (8.1e-7, "s", "0.81 us"),
        (1337.0, "B", "1.31 KiB"),
        (201.4, "B", "201 B"),
        (-3.0, "B", "-3.00 B"),
    ],
)
def test_quantities_have_three_figures(value: float, unit: str, text: str) -> None:
    assert report.quantity(value, unit) == text


def test_the_tables_for_a_document() -> None:
    text = report.rst(report.Report(report.about_this_run(), [RTT, BULK], {}))
    first, second = text.split("\n\n")[1:]
    assert [line.split("  ")[0] for line in first.splitlines()][3:5] == [
        SCENARIOS["rtt"].about,
        SCENARIOS["bulk"].about,
    ]
    assert "250 MB/s" in first
    assert second.splitlines()[1].split() == ["Work", "paramiko"]
    assert second.splitlines()[3].split()[-1] == "0.02"


def test_the_plot(tmp_path: Path) -> None:
    results = report.Report(report.about_this_run(), [RTT, BULK], {})
    try:
        plot(results, tmp_path / "a.svg")
    except PlotError as error:
        if os.environ.get("MUXADO_REQUIRE_PEERS") == "1":
            raise
        pytest.skip(str(error))
    plot(results, tmp_path / "b.svg")
    drawn = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert drawn == (tmp_path / "b.svg").read_text(encoding="utf-8")
    for text in (SCENARIOS["rtt"].about, "muxado / plain sockets", "paramiko", "3.00", "4.00"):
        assert f">{text}<" in drawn


def test_no_plot_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(PlotError):
        plot(report.Report({}, [], {}), tmp_path / "a.svg")


def test_what_is_named_is_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = tmp_path / "all.json"
    text = report.Report(report.about_this_run(), [RTT, BULK], {}).to_json()
    written.write_text(text, encoding="utf-8")
    assert command.main(["--load", str(written), "--only", "bulk"]) == 0
    output = capsys.readouterr().out
    assert "805 ms" in output
    assert "rtt" not in output


def test_a_metric_that_a_peer_does_not_tell_is_not_compared() -> None:
    both = {"muxado": [0.2], "plain": [0.1], "go-yamux": [0.4]}
    some = {"muxado": [0.1], "plain": [0.1]}
    result = runner.Result(
        SCENARIOS["start"], dict.fromkeys(both, 1), {"seconds": both, "import": some}
    )
    assert [(row.name, row.rival) for row in report.rows(result)] == [
        ("start", "plain"),
        ("start", "go-yamux"),
        ("start import", "plain"),
    ]


def test_metrics_have_names_of_their_own() -> None:
    for scenario in SCENARIOS.values():
        names = [metric.name for metric in scenario.metrics]
        assert len(set(names)) == len(names)
        assert all(isinstance(metric, Metric) for metric in scenario.metrics)


def test_the_whole_command(tmp_path: Path) -> None:
    figures, tables = tmp_path / "figures.json", tmp_path / "tables.rst"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks", "--quick", "--rounds", "1", "--peer", "plain"),
            *("--only", "rtt", "--json", str(figures), "--rst", str(tables)),
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
    assert scenario["ratios"]["seconds"]["plain"]["median"] > 0
    assert SCENARIOS["rtt"].about in tables.read_text(encoding="utf-8")
