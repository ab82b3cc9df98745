"""``python -m benchmarks.soak --minutes 30``: everything at once, for long, and nothing is left.

Rounds of work over TCP, TLS and Unix sockets, both versions of the wire, sessions used from both
ends: echoes, uploads, downloads, resets, time-outs, streams closed with bytes unread, sessions that
are closed, drained, killed or cut off in the middle of it all. What arrives is compared with what
was sent. After each round every thread, descriptor, stream and session must be gone, and in the
long run the memory must not grow. The status is 1 when anything is off, 2 when something hangs.
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
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import muxado
from benchmarks.deeds import DEEDS, DOWNLOAD, GUARD, Off, answer, request
from benchmarks.leaks import descriptors, resident
from muxado import ErrorCode
from muxado.demo import make_certificate

#: Seconds from one heartbeat to the next, so that there are some.
BEAT = 0.5
#: What a session ends with when its peer did not keep to the rules.
OFF = {
    ErrorCode.INTERNAL_ERROR,
    ErrorCode.PROTOCOL_ERROR,
    ErrorCode.FLOW_CONTROL_ERROR,
    ErrorCode.FRAME_SIZE_ERROR,
    ErrorCode.ENHANCE_YOUR_CALM,
}

#: How a session ends, the usual way more than once. All but the first two come in the middle.
ENDS = ("close", "close", "close", "drain", "close early", "peer closes", "kill", "cut")


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
    """Listens, and serves every session that comes; also those streams that come to a client."""

    def __init__(self, directory: Path, log: Log) -> None:
        self.log = log
        self.path = str(directory / "socket")
        certificate = make_certificate(directory)
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(*map(str, certificate))
        self.trust = ssl.create_default_context(cafile=str(certificate[0]))
        self._threads: list[threading.Thread] = []
        self._listeners: dict[tuple[str, int], muxado.Listener] = {}

    def open(self) -> None:
        for version in (1, 2):
            options: dict[str, Any] = {"version": version, "heartbeat_interval": BEAT}
            local = ("127.0.0.1", 0)
            self._listeners["tcp", version] = muxado.listen(local, **options)
            self._listeners["tls", version] = muxado.listen_tls(local, self.context, **options)
            self._listeners["unix", version] = muxado.listen(f"{self.path}{version}", **options)
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
        """A new session to this host, and another descriptor of its connection."""
        address = self._listeners[kind, version].getsockname()
        if kind == "unix":
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(address)
        else:
            sock = socket.create_connection(address)
        knife = sock.dup()
        try:
            if kind == "tls":
                sock.settimeout(GUARD)
                sock = self.trust.wrap_socket(
                    sock, server_hostname="localhost", do_handshake_on_connect=False
                )
            return muxado.client(sock, version=version, heartbeat_interval=BEAT), knife
        except BaseException:
            knife.close()
            raise

    def _accept(self, listener: muxado.Listener) -> None:
        threads = []
        with contextlib.suppress(OSError):  # it was closed
            while True:
                session, _ = listener.accept()
                threads.append(threading.Thread(target=self.serve, args=(session,)))
                threads[-1].start()
        for thread in threads:
            thread.join()

    def serve(self, session: muxado.Session) -> None:
        """Answer what the peer opens, and ask something of it, until the session ends."""
        rng = random.Random()
        threads = []
        for stream in session:
            threads.append(threading.Thread(target=self._answer, args=(session, stream)))
            threads[-1].start()
            if rng.random() < 0.1:
                threads.append(threading.Thread(target=self._ask_back, args=(session,)))
                threads[-1].start()
        for thread in threads:
            thread.join()
        try:
            end = session.wait(GUARD)
            # What the peer says of its own end it has noted itself.
            if end.code in OFF and not isinstance(end.error, muxado.RemoteGoneAway):
                raise Off(f"a session ended with {end}")
        except (Off, TimeoutError) as error:
            self.log.fail("session", error)
        session.close()

    def _answer(self, session: muxado.Session, stream: muxado.Stream) -> None:
        with stream:
            try:
                answer(stream, random.Random())
            except (muxado.SessionClosed, ConnectionResetError, BrokenPipeError):
                pass  # its opener went; what should have come it misses itself
            except Exception as error:
                self.log.fail("answer", error)

    def _ask_back(self, session: muxado.Session) -> None:
        try:
            with session.open() as stream:
                request(stream, DOWNLOAD, random.Random())
            self.log.count("asked back")
        except muxado.Error:
            pass  # the session may end at any time: nobody waits for this
        except Exception as error:
            self.log.fail("ask back", error)


@dataclasses.dataclass
class Life:
    """One session from its beginning to its end."""

    host: Host
    seed: int
    operations: int

    def __call__(self) -> None:
        rng = random.Random(self.seed)
        log = self.host.log
        kind, version = rng.choice(["tcp", "tls", "unix"]), rng.choice([1, 2])
        end = rng.choice(ENDS)
        where = f"life {self.seed}, {kind} version {version}, {end}"
        try:
            session, knife = self.host.connect(kind, version)
        except Exception as error:
            log.fail(where, error)
            return
        with knife:
            serving = threading.Thread(target=self.host.serve, args=(session,))
            serving.start()
            try:
                self._use(session, knife, end, rng, where)
            except Exception as error:
                log.fail(where, error)
            finally:
                session.close()
                serving.join()
        log.count(end)

    def _use(
        self,
        session: muxado.Session,
        knife: socket.socket,
        end: str,
        rng: random.Random,
        where: str,
    ) -> None:
        early = end not in ("close", "drain")
        callers = rng.randint(1, 6)
        shares = [rng.getrandbits(32) for _ in range(callers)]
        threads = [
            threading.Thread(
                target=self._call,
                args=(session, random.Random(share), self.operations // callers + 1, early, where),
            )
            for share in shares
        ]
        for thread in threads:
            thread.start()
        if early:
            time.sleep(rng.random() * 0.3)
            if end == "close early":
                session.close()
            elif end == "kill":
                session.kill()
            else:
                knife.shutdown(socket.SHUT_RDWR if end == "cut" else socket.SHUT_WR)
        for thread in threads:
            thread.join()
        if end == "drain" and not session.drain(GUARD):
            raise Off(f"{session!r} does not drain")

    def _call(
        self, session: muxado.Session, rng: random.Random, count: int, early: bool, where: str
    ) -> None:
        for _ in range(count):
            deed = rng.randrange(len(DEEDS))
            try:
                with session.open(priority=rng.randrange(3)) as stream:
                    size = request(stream, deed, rng)
            except Exception as error:
                # Wrong bytes are wrong even when the session ends in the middle of them.
                ended = isinstance(error, muxado.Error) or (
                    isinstance(error, OSError) and error.errno == errno.ENOTCONN
                )
                if not (early and ended):
                    self.host.log.fail(f"{where}, {DEEDS[deed]}", error)
                return
            self.host.log.count(DEEDS[deed], size)


# What must not grow ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Sample:
    """What the process has."""

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
    """What a round should have given back."""
    return [
        f"{getattr(after, name)} {name}, before {getattr(before, name)}"
        for name in ("threads", "descriptors", "objects")
        if getattr(after, name) > getattr(before, name)
    ]


def grown(samples: Sequence[Sample]) -> str:
    """Whether memory is higher at the end than at the middle, by more than it varies."""
    if len(samples) < 12:
        return ""
    third = len(samples) // 3
    middle = max(sample.memory for sample in samples[third : 2 * third])
    last = max(sample.memory for sample in samples[2 * third :])
    if last > middle * 1.1 + 2**24:
        return f"memory grew from {middle >> 20} to {last >> 20} MiB"
    return ""


# The command ----------------------------------------------------------------------------------


def one_round(host: Host, rng: random.Random, lives: int, operations: int) -> Sample:
    """So many sessions at once; returns what there was in the middle of it."""
    host.open()
    threads = [
        threading.Thread(target=Life(host, rng.getrandbits(32), operations)) for _ in range(lives)
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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="for so long (1 unless --rounds is given)")
    length.add_argument("--rounds", type=int, help="so many rounds, however long they take")
    parser.add_argument("--lives", type=int, default=8, help="sessions of a round")
    parser.add_argument("--operations", type=int, default=60, help="streams of a session")
    parser.add_argument("--seed", type=int, default=None, help="of the first round")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    rounds = options.rounds
    until = time.monotonic() + 60 * (1.0 if options.minutes is None else options.minutes)
    print(f"seed {seed}, CPython {sys.version.split()[0]}")
    print(
        f"{'round':>6} {'minute':>7} {'streams':>9} {'MB':>9}   "
        "memory, threads, descriptors: busy, at rest"
    )
    begun = shown = time.monotonic()
    rests: list[Sample] = []
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="muxado-soak-") as directory:
        log = Log()
        host = Host(Path(directory), log)
        number = 0
        while not wrong and (number < rounds if rounds else time.monotonic() < until):
            faulthandler.dump_traceback_later(10 * GUARD, exit=True)
            gc.collect()
            before = Sample.now()
            busy = one_round(host, random.Random(seed + number), options.lives, options.operations)
            gc.collect()
            rest = Sample.now()
            faulthandler.cancel_dump_traceback_later()
            rests.append(rest)
            number += 1
            wrong = log.wrong + left_over(before, rest) + [text for text in [grown(rests)] if text]
            now = time.monotonic()
            if wrong or number in (1, rounds) or now > shown + 60 or now > until:
                shown = now
                streams = sum(log.counts[name] for name in DEEDS)
                print(
                    f"{number:6} {(now - begun) / 60:7.1f} {streams:9} {log.bytes / 1e6:9.0f}   "
                    f"{busy.memory >> 20} MiB {busy.threads} {busy.descriptors}, "
                    f"{rest.memory >> 20} MiB {rest.threads} {rest.descriptors}",
                    flush=True,
                )
    print("done: " + ", ".join(f"{count} {name}" for name, count in sorted(log.counts.items())))
    for text in wrong:
        print(f"OFF: {text}")
    if wrong:
        print(f"round {number}: again with --seed {seed + number - 1} --rounds 1")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
