"""Starts the two processes of every peer, interleaves the rounds, and keeps the figures."""

from __future__ import annotations

import json
import queue
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.peers import Certificate, Job, Peer
from benchmarks.scenarios import Scenario

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT = 30.0  # seconds for a process to start and connect
END_TIMEOUT = 15.0  # seconds for a process to leave once told


class BenchmarkError(Exception):
    """The run cannot go on; the text is for the user."""


class Child:
    """A process that speaks the protocol of ``worker``, under a limit of time for each answer."""

    def __init__(self, name: str, command: list[str]) -> None:
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
            )
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


class Pair:
    """A peer's server and client, connected and waiting."""

    def __init__(
        self, peer: Peer, scenario: Scenario, certificate: Certificate | None, stack: ExitStack
    ) -> None:
        job = Job(peer.name, scenario.name, certificate if scenario.tls else None)
        self.server = self._start(f"{peer.name} server", peer.server_command(job), stack)
        host, port = self.server.answer(START_TIMEOUT)["address"]
        command = peer.client_command(job, (host, port))
        self.client = self._start(f"{peer.name} client", command, stack)
        self.client.answer(START_TIMEOUT, also=self.server)

    @staticmethod
    def _start(name: str, command: list[str], stack: ExitStack) -> Child:
        try:
            child = Child(name, command)
        except OSError as error:
            raise BenchmarkError(f"{name} did not start: {error}") from error
        stack.callback(child.stop)
        return child

    def round(self, work: int, timeout: float) -> float:
        self.client.tell(work=work)
        return float(self.client.answer(timeout, also=self.server)["seconds"])

    def leave(self) -> None:
        self.client.leave()
        self.server.leave()


@contextmanager
def pairs(
    peers: list[Peer], scenario: Scenario, certificate: Certificate | None
) -> Iterator[dict[str, Pair]]:
    with ExitStack() as stack:
        yield {peer.name: Pair(peer, scenario, certificate, stack) for peer in peers}


class Figures(NamedTuple):
    """What one peer did in one scenario."""

    seconds: list[float]  # a round each

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class Comparison(NamedTuple):
    """muxado beside one rival: its time divided by the rival's, round by round."""

    rival: str
    ratios: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)


class Result(NamedTuple):
    scenario: Scenario
    work: int
    figures: dict[str, Figures]
    comparisons: list[Comparison]


def measure(
    scenario: Scenario,
    subject: Peer,
    rivals: list[Peer],
    *,
    work: int,
    rounds: int,
    certificate: Certificate | None = None,
    round_timeout: float = 120.0,
    progress: Callable[[str], None] = lambda text: None,
) -> Result:
    """Run a scenario: ``rounds`` rounds of ``work`` for every peer, taken in turns."""
    seconds: dict[str, list[float]] = {peer.name: [] for peer in (subject, *rivals)}
    try:
        with pairs([subject, *rivals], scenario, certificate) as running:
            for pair in running.values():  # a round to warm up, not counted
                pair.round(min(work, scenario.quick_work), round_timeout)
            order = list(running)
            for number in range(rounds):
                progress(f"{scenario.name}: round {number + 1} of {rounds}")
                for name in order:
                    seconds[name].append(running[name].round(work, round_timeout))
                order = order[1:] + order[:1]  # nobody is always the first
            for pair in running.values():
                pair.leave()
    except BenchmarkError as error:
        raise BenchmarkError(f"{scenario.name}: {error}") from None
    mine = seconds[subject.name]
    return Result(
        scenario,
        work,
        {name: Figures(times) for name, times in seconds.items()},
        [
            Comparison(
                peer.name,
                [a / b for a, b in zip(mine, seconds[peer.name], strict=True)],
            )
            for peer in rivals
        ],
    )
