"""``python -m tests.robustness.soak --minutes 30``: mixed work on many sessions, for a long time.

Each round runs several sessions at once, over TCP, TLS and Unix sockets and in both versions of
the wire format. Both ends open streams for echoes, uploads, downloads, resets, time-outs and
streams that are closed with bytes unread (see ``actions``). Some sessions are closed, drained,
killed or cut off while that goes on. All bytes received are compared with what was sent. After
each round every thread, descriptor, stream and session must be gone, and over many rounds memory
must not grow. The exit status is 1 when something was wrong, and also when a round takes ten
minutes, which prints the stacks of all threads.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import errno
import faulthandler
import gc
import random
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import muxado
from muxado import ErrorCode

from ..helpers.certificate import make_certificate
from .actions import TIMEOUT, Action, Wrong, answer, request
from .leaks import descriptors, resident

#: Seconds between two heartbeats: short, so that even brief sessions have some.
HEARTBEAT_INTERVAL = 0.5

#: No session may end with one of these, since both ends keep to the protocol.
FAULTS = {
    ErrorCode.INTERNAL_ERROR,
    ErrorCode.PROTOCOL_ERROR,
    ErrorCode.FLOW_CONTROL_ERROR,
    ErrorCode.FRAME_SIZE_ERROR,
    ErrorCode.ENHANCE_YOUR_CALM,
}

#: How a session ends when all its streams are closed; the most common case is there three times.
ENDS_AFTER_USE = ("close", "close", "close", "drain")
#: How a session ends while its streams are in use.
ENDS_DURING_USE = ("close early", "connection half-closed", "kill", "connection cut")


class Log:
    """What was done, and what went wrong."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counts: collections.Counter[str] = collections.Counter()  # guarded by _lock
        self.wrong: list[str] = []  # guarded by _lock
        self.bytes = 0  # guarded by _lock

    def count(self, name: str, size: int = 0) -> None:
        with self._lock:
            self.counts[name] += 1
            self.bytes += size

    def fail(self, where: str, error: BaseException) -> None:
        with self._lock:
            self.wrong.append(f"{where}: {error!r}")


# Sessions -------------------------------------------------------------------------------------


class Host:
    """Listens on every kind of socket, and serves the streams that come on any session."""

    def __init__(self, directory: Path, log: Log) -> None:
        self.log = log
        self._path = directory / "socket"
        certificate = make_certificate(directory)
        self._server_context = certificate.server_context()
        self._client_context = certificate.client_context()
        self._threads: list[threading.Thread] = []
        self._listeners: dict[tuple[str, int], muxado.Listener] = {}

    def open(self) -> None:
        local = ("127.0.0.1", 0)
        for version in (1, 2):
            options: dict[str, Any] = {
                "version": version,
                "heartbeat_interval": HEARTBEAT_INTERVAL,
            }
            self._listeners |= {
                ("tcp", version): muxado.listen(local, **options),
                ("tls", version): muxado.listen_tls(local, self._server_context, **options),
                ("unix", version): muxado.listen(f"{self._path}{version}", **options),
            }
        for listener in self._listeners.values():
            self._threads.append(threading.Thread(target=self._accept, args=(listener,)))
            self._threads[-1].start()

    def close(self) -> None:
        for listener in self._listeners.values():
            listener.close()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._listeners.clear()

    def connect(self, kind: str, version: int) -> tuple[muxado.Session, socket.socket]:
        """Return a new session with this host, and a duplicate of its socket."""
        address = self._listeners[kind, version].getsockname()
        if kind == "unix":
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(address)
        else:
            sock = socket.create_connection(address)
        duplicate = sock.dup()
        try:
            if kind == "tls":
                sock.settimeout(TIMEOUT)
                sock = self._client_context.wrap_socket(
                    sock, server_hostname="localhost", do_handshake_on_connect=False
                )
            session = muxado.client(sock, version=version, heartbeat_interval=HEARTBEAT_INTERVAL)
        except BaseException:
            duplicate.close()
            raise
        return session, duplicate

    def serve(self, session: muxado.Session) -> None:
        """Answer what the peer opens, and now and then open a stream to it, until the end."""
        rng = random.Random()
        threads = []
        for stream in session:
            threads.append(threading.Thread(target=self._answer, args=(stream,)))
            threads[-1].start()
            if rng.random() < 0.1:
                threads.append(threading.Thread(target=self._ask_back, args=(session,)))
                threads[-1].start()
        for thread in threads:
            thread.join()
        try:
            end = session.wait(TIMEOUT)
            # Where the peer ended the session, the fault is noted at its end.
            if end.code in FAULTS and not isinstance(end.error, muxado.RemoteGoneAway):
                raise Wrong(f"a session ended with {end}")
        except (Wrong, TimeoutError) as error:
            self.log.fail("session", error)
        session.close()

    def _accept(self, listener: muxado.Listener) -> None:
        threads = []
        with contextlib.suppress(OSError):  # raised once the listener is closed
            while True:
                session, _ = listener.accept()
                threads.append(threading.Thread(target=self.serve, args=(session,)))
                threads[-1].start()
        for thread in threads:
            thread.join()

    def _answer(self, stream: muxado.Stream) -> None:
        with stream:
            try:
                answer(stream, random.Random())
            except (muxado.SessionClosed, ConnectionResetError, BrokenPipeError):
                pass  # the opener is gone; if that was wrong, it says so
            except Exception as error:
                self.log.fail("answer", error)

    def _ask_back(self, session: muxado.Session) -> None:
        try:
            with session.open() as stream:
                request(stream, Action.DOWNLOAD, random.Random())
            self.log.count("asked back")
        except muxado.Error:
            pass  # the session may end at any time, since nothing waits for this stream
        except Exception as error:
            self.log.fail("ask back", error)


@dataclasses.dataclass
class Client:
    """One session with the host, from its beginning to its end."""

    host: Host
    seed: int
    operations: int

    def __call__(self) -> None:
        rng = random.Random(self.seed)
        log = self.host.log
        kind, version = rng.choice(["tcp", "tls", "unix"]), rng.choice([1, 2])
        end = rng.choice(ENDS_AFTER_USE + ENDS_DURING_USE)
        where = f"session {self.seed}, {kind} version {version}, {end}"
        try:
            session, sock = self.host.connect(kind, version)
        except Exception as error:
            log.fail(where, error)
            return
        with sock:
            serving = threading.Thread(target=self.host.serve, args=(session,))
            serving.start()
            try:
                self._use(session, sock, end, rng, where)
            except Exception as error:
                log.fail(where, error)
            finally:
                session.close()
                serving.join()
        log.count(end)

    def _use(
        self,
        session: muxado.Session,
        sock: socket.socket,
        end: str,
        rng: random.Random,
        where: str,
    ) -> None:
        may_fail = end in ENDS_DURING_USE
        callers = rng.randint(1, 6)
        count = self.operations // callers + 1
        threads = [
            threading.Thread(
                target=self._call,
                args=(session, random.Random(rng.getrandbits(32)), count, may_fail, where),
            )
            for _ in range(callers)
        ]
        for thread in threads:
            thread.start()
        if end in ENDS_DURING_USE:
            time.sleep(rng.random() * 0.3)
            if end == "close early":
                session.close()
            elif end == "kill":
                session.kill()
            elif end == "connection cut":
                sock.shutdown(socket.SHUT_RDWR)
            else:
                sock.shutdown(socket.SHUT_WR)
        for thread in threads:
            thread.join()
        if end == "drain" and not session.drain(TIMEOUT):
            raise Wrong(f"{session!r} does not drain")

    def _call(
        self, session: muxado.Session, rng: random.Random, count: int, may_fail: bool, where: str
    ) -> None:
        for _ in range(count):
            action = rng.choice(list(Action))
            try:
                with session.open(priority=rng.randrange(3)) as stream:
                    size = request(stream, action, rng)
            except Exception as error:
                # Wrong bytes are wrong even where the session ends in the middle of them.
                ended = isinstance(error, muxado.Error) or (
                    isinstance(error, OSError) and error.errno == errno.ENOTCONN
                )
                if not (may_fail and ended):
                    self.host.log.fail(f"{where}, {action.name}", error)
                return
            self.host.log.count(action.name, size)


# What must not grow ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Sample:
    """What the process holds."""

    memory: int  #: resident bytes
    threads: int
    descriptors: int
    objects: int  #: streams and sessions

    @classmethod
    def now(cls) -> Sample:
        kinds = (muxado.Stream, muxado.Session)
        return cls(
            resident(),
            threading.active_count(),
            descriptors(),
            sum(isinstance(each, kinds) for each in gc.get_objects()),
        )


def left_over(before: Sample, after: Sample) -> list[str]:
    """Say what a round has left behind."""
    return [
        f"{getattr(after, name)} {name}, before {getattr(before, name)}"
        for name in ("threads", "descriptors", "objects")
        if getattr(after, name) > getattr(before, name)
    ]


def grown(samples: Sequence[Sample]) -> list[str]:
    """Say whether memory grew from the second third of the rounds to the last.

    The first third does not count, since allocators and caches fill up. Memory varies from round
    to round, so a tenth and 16 MiB more are no growth yet.
    """
    if len(samples) < 12:
        return []
    third = len(samples) // 3
    middle = max(sample.memory for sample in samples[third : 2 * third])
    last = max(sample.memory for sample in samples[2 * third :])
    if last > middle * 1.1 + 2**24:
        return [f"memory grew from {middle >> 20} to {last >> 20} MiB"]
    return []


# The command ----------------------------------------------------------------------------------


def one_round(host: Host, rng: random.Random, clients: int, operations: int) -> Sample:
    """Run ``clients`` sessions at once; return what there was in the middle of it."""
    host.open()
    threads = [
        threading.Thread(target=Client(host, rng.getrandbits(32), operations))
        for _ in range(clients)
    ]
    for thread in threads:
        thread.start()
    threads[0].join()
    busy = Sample.now()
    for thread in threads:
        thread.join()
    host.close()
    return busy


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.robustness.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=1.0, help="how long (default: 1)")
    length.add_argument("--rounds", type=int, help="how many rounds, however long they take")
    parser.add_argument("--sessions", type=int, default=8, help="sessions in a round")
    parser.add_argument("--operations", type=int, default=60, help="streams in a session")
    parser.add_argument("--seed", type=int, help="of the first round (default: random)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    rounds = options.rounds
    begun = shown = time.monotonic()
    deadline = begun + 60 * options.minutes
    print(f"seed {seed}, CPython {sys.version.split()[0]}")
    print(
        f"{'round':>6} {'minute':>7} {'streams':>9} {'MB':>9}   "
        "memory, threads, descriptors: busy, at rest"
    )
    samples: list[Sample] = []
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="muxado-soak-") as directory:
        log = Log()
        host = Host(Path(directory), log)
        number = 0
        while not wrong and (number < rounds if rounds else time.monotonic() < deadline):
            faulthandler.dump_traceback_later(10 * TIMEOUT, exit=True)
            gc.collect()
            before = Sample.now()
            rng = random.Random(seed + number)
            busy = one_round(host, rng, options.sessions, options.operations)
            gc.collect()
            rest = Sample.now()
            faulthandler.cancel_dump_traceback_later()
            samples.append(rest)
            number += 1
            wrong = log.wrong + left_over(before, rest) + grown(samples)
            now = time.monotonic()
            if wrong or number in (1, rounds) or now > shown + 60 or now > deadline:
                shown = now
                streams = sum(log.counts[action.name] for action in Action)
                print(
                    f"{number:6} {(now - begun) / 60:7.1f} {streams:9} {log.bytes / 1e6:9.0f}   "
                    f"{busy.memory >> 20} MiB {busy.threads} {busy.descriptors}, "
                    f"{rest.memory >> 20} MiB {rest.threads} {rest.descriptors}",
                    flush=True,
                )
    print("done: " + ", ".join(f"{count} {name}" for name, count in sorted(log.counts.items())))
    for text in wrong:
        print(f"WRONG: {text}")
    if wrong:
        print(f"round {number}: repeat it with --seed {seed + number - 1} --rounds 1")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
