"""Starts the two processes of every peer, interleaves the rounds, and keeps the figures."""

from __future__ import annotations

import json
import os
import queue
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.certificate import Certificate
from benchmarks.peers import Job, Peer
from benchmarks.scenarios import Metric, Scenario

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT = 30.0  # seconds for a process to start and connect
END_TIMEOUT = 15.0  # seconds for a process to leave once told
LONGEST = 4.0  # seconds of a round, about: a peer that would take longer does less


class BenchmarkError(Exception):
    """The run cannot go on; the text is for the user."""


class Child:
    """A process that speaks the protocol of ``worker``, under a limit of time for each answer."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        self.name = name
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()  # b"": the output ended
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop()
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                cwd=ROOT,
                env=environment,
            )
        except OSError as error:
            self._errors.close()
            raise BenchmarkError(f"{name} did not start: {error}") from error
        except BaseException:
            self._errors.close()
            raise
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(b"")

    def tell(self, **fields: object) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(fields).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            pass  # it is dead, as the answer that does not come will tell

    def answer(self, timeout: float, *, also: Child | None = None) -> dict[str, Any]:
        """The next line; ``also`` is watched meanwhile, since without it none may come."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                # Short waits, to see whether the other process has died.
                line = self._lines.get(timeout=0.25)
            except queue.Empty:
                if also is not None and also.process.poll() is not None:
                    raise BenchmarkError(also.obituary()) from None
                if time.monotonic() > deadline:
                    others = [also.stacks()] if also is not None else []
                    message = f"{self.name} gave no answer within {timeout:g} s"
                    raise BenchmarkError("\n".join([message, self.stacks(), *others])) from None
                continue
            if not line:
                message = self.obituary()
                if also is not None and also.process.poll():
                    message = f"{message}\n{also.obituary()}"
                raise BenchmarkError(message)
            try:
                fields = json.loads(line)
            except ValueError:
                fields = None
            if not isinstance(fields, dict):
                raise BenchmarkError(f"{self.name} said {line!r}")
            return fields

    def stacks(self) -> str:
        """Make a process that hangs show where, and end it."""
        self.process.send_signal(signal.SIGABRT)
        return self.obituary()

    def obituary(self) -> str:
        """Why the process ended, with what it wrote."""
        try:
            self.process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace").strip()
        status = self.process.returncode
        how = f"was ended by signal {-status}" if status < 0 else f"exited with status {status}"
        return f"{self.name} {how}" + (f":\n{text}" if text else "")

    def leave(self) -> None:
        """Tell the process to leave, and see that it does so in good order."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
        except OSError:
            pass
        try:
            status = self.process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            message = f"{self.name} did not leave within {END_TIMEOUT:g} s"
            raise BenchmarkError(f"{message}\n{self.stacks()}") from None
        if status:
            raise BenchmarkError(self.obituary())

    def stop(self) -> None:
        """Whatever the state, leave nothing behind."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        for file in (self.process.stdin, self.process.stdout, self._errors):
            try:
                if file is not None:
                    file.close()
            except OSError:
                pass


class Place(NamedTuple):
    """Where a run keeps its files."""

    directory: Path
    certificate: Certificate | None = None

    def environment(self) -> dict[str, str]:
        """For the child processes: where bytecode must not be kept, it is kept here instead.

        Or else every process would compile all that it imports.
        """
        environment = dict(os.environ)
        if environment.pop("PYTHONDONTWRITEBYTECODE", ""):
            environment["PYTHONPYCACHEPREFIX"] = str(self.directory / "bytecode")
        return environment


class Ends:
    """A peer's server, and its client if it lives from round to round."""

    def __init__(self, peer: Peer, scenario: Scenario, place: Place, stack: ExitStack) -> None:
        self._peer = peer
        self._stack = stack
        self._environment = place.environment()
        path = tempfile.mkdtemp(dir=place.directory) + "/socket" if scenario.over == "unix" else ""
        self._job = Job.of(peer.name, scenario, path, place.certificate)
        self.server = self._start("server", peer.server_command(self._job))
        address = self.server.answer(START_TIMEOUT)["address"]
        self._address = address if isinstance(address, str) else (address[0], address[1])

    def _start(self, role: str, command: list[str]) -> Child:
        child = Child(f"{self._peer.name} {role}", command, self._environment)
        self._stack.callback(child.stop)
        return child

    def round(self, work: int, timeout: float) -> dict[str, Any]:
        """The figures of one round, by name."""
        raise NotImplementedError

    def leave(self) -> None:
        """End the processes in good order."""
        self.server.leave()


class Pair(Ends):
    """A client connected and waiting."""

    def __init__(self, peer: Peer, scenario: Scenario, place: Place, stack: ExitStack) -> None:
        super().__init__(peer, scenario, place, stack)
        self.client = self._start("client", peer.client_command(self._job, self._address))
        self.client.answer(START_TIMEOUT, also=self.server)

    def round(self, work: int, timeout: float) -> dict[str, Any]:
        self.client.tell(work=work)
        return self.client.answer(timeout, also=self.server)

    def leave(self) -> None:
        self.client.leave()
        super().leave()


class Starts(Ends):
    """A new client each time, and the clock runs from before there is a process."""

    def round(self, work: int, timeout: float) -> dict[str, Any]:
        figures: dict[str, Any] = {"seconds": 0.0}
        for _ in range(work):
            begun = time.perf_counter()
            client = self._start("client", self._peer.first_command(self._job, self._address))
            answer = client.answer(timeout, also=self.server)
            figures["seconds"] += time.perf_counter() - begun
            for name, value in answer.items():
                figures[name] = figures.get(name, 0.0) + value
            client.leave()
        return figures


@contextmanager
def ends(peer: Peer, scenario: Scenario, place: Place) -> Iterator[Ends]:
    with ExitStack() as stack:
        kind = Starts if scenario.kind == "start" else Pair
        yield kind(peer, scenario, place, stack)


class Result(NamedTuple):
    """What came of a scenario; a peer's figures are for one unit of work where there are units."""

    scenario: Scenario
    amounts: dict[str, int]  # how much work each peer did in a round
    rounds: dict[str, dict[str, list[float]]]  # by the metric's name, then the peer's

    def metrics(self) -> list[Metric]:
        return [metric for metric in self.scenario.metrics if self.rounds.get(metric.name)]

    def ratios(self, metric: Metric, subject: str, rival: str) -> list[float]:
        """The subject's figure divided by the rival's, round by round; empty without figures."""
        figures = self.rounds[metric.name]
        pairs = zip(figures.get(subject, []), figures.get(rival, []), strict=False)
        return [ours / theirs for ours, theirs in pairs if theirs > 0]

    def median(self, metric: Metric, peer: str) -> float:
        return statistics.median(self.rounds[metric.name][peer])


def fitting(work: int, streams: int, tried: int, seconds: float, longest: float) -> int:
    """So much of ``work`` as takes no longer than ``longest``, when ``tried`` took ``seconds``."""
    if seconds / tried * work <= longest:
        return work
    return max(1, int(tried * longest / seconds) // streams) * streams


def measure(
    scenario: Scenario,
    peers: Sequence[Peer],
    *,
    work: int,
    rounds: int,
    place: Place,
    round_timeout: float = 120.0,
    longest: float = LONGEST,
    progress: Callable[[str], None] = lambda text: None,
) -> Result:
    """Run a scenario: ``rounds`` rounds of ``work`` for every peer, taken in turns."""
    amounts: dict[str, int] = {}
    figures: dict[str, dict[str, list[float]]] = {metric.name: {} for metric in scenario.metrics}

    def keep(peer: Peer, fields: dict[str, Any]) -> None:
        for metric in scenario.metrics:
            value = fields.get(metric.name)
            if isinstance(value, (int, float)):
                each = value / amounts[peer.name] if metric.each else value
                figures[metric.name].setdefault(peer.name, []).append(each)
            elif metric is scenario.metrics[0]:
                raise BenchmarkError(f"{peer.name} client said {fields!r}")

    try:
        with ExitStack() as stack:
            running: dict[str, Ends] = {}
            for peer in peers:
                progress(f"{scenario.name}: {peer.name} warms up")
                pair = stack.enter_context(ends(peer, scenario, place))
                tried = min(work, max(scenario.quick_work // 4, scenario.streams))
                begun = time.monotonic()
                pair.round(tried, round_timeout)
                seconds = time.monotonic() - begun
                amounts[peer.name] = fitting(
                    work, scenario.streams, tried, seconds, longest * peer.share
                )
                if scenario.fresh:
                    pair.leave()
                else:
                    running[peer.name] = pair
            order = list(peers)
            for number in range(rounds):
                progress(f"{scenario.name}: round {number + 1} of {rounds}")
                for peer in order:
                    amount = amounts[peer.name]
                    if scenario.fresh:
                        with ends(peer, scenario, place) as pair:
                            keep(peer, pair.round(amount, round_timeout))
                            pair.leave()
                    else:
                        keep(peer, running[peer.name].round(amount, round_timeout))
                order = order[1:] + order[:1]  # nobody is always the first
            for pair in running.values():
                pair.leave()
    except BenchmarkError as error:
        raise BenchmarkError(f"{scenario.name}: {error}") from None
    return Result(scenario, amounts, figures)
