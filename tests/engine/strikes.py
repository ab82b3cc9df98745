"""Signals whose handler raises, at random moments inside of calls of a session.

``python -m tests.engine.strikes --trials 1000`` strikes each operation as often, in two ways:

- *busy*: a trial calls the operation over and over until an interval timer goes off, so that every
  signal arrives inside of the library, most of them while the session's state is being changed;
- *paced*: a trial calls it once, as programs do, and the peer takes its time. The timer goes off
  after up to twice as long as the call takes. So most sessions must live on.

Afterwards, in both:

- the threads that use the same session go on, or are told of its end, within a second;
- the thread that was struck holds no seat and stands in no queue;
- the session lives, or has ended with ``INTERNAL_ERROR``;
- when the session is closed, none of its threads and descriptors is left.

Signals arrive in the main thread, so this is a program of its own; ``test_strikes.py`` runs it.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import faulthandler
import gc
import os
import random
import select
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import muxado
from muxado import ErrorCode

#: Seconds in which everybody must have gone on or been told.
SOON = 1.0
#: Trials with one session, if it lives so long.
TRIALS_OF_A_SESSION = 50
#: The share of sessions that live on, where the timer is paced and nothing else runs. Beside other
#: processes more signals wait until their thread has the interpreter again, which is where it was
#: taken from it, and that may be anywhere.
LIVE_ON = 0.8


class Struck(BaseException):
    """What the handler raises, as ``KeyboardInterrupt`` is."""


class Alarm(TimeoutError):
    """What many programs raise in a handler of SIGALRM: an error of the kind that sockets raise."""


class Wrong(Exception):
    """Something that must not be."""


def wait_for(condition: Callable[[], object], what: str, seconds: float = SOON) -> None:
    """Wait until ``condition()`` is true; it is wrong if it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Wrong(what)
        time.sleep(0.0005)


def shielded_socketpair(
    make: Callable[..., tuple[socket.socket, socket.socket]] = socket.socketpair, *args: Any
) -> tuple[socket.socket, socket.socket]:
    """``socket.socketpair``, which loses descriptors if a handler raises inside of it.

    To block the signal would not do: another thread may get it, and the handler runs in this one.
    """
    Timer.shielded = True
    try:
        return make(*args)
    finally:
        Timer.shielded = False


def unraisable(about: Any) -> None:
    """A strike inside of a finalizer ends there: Python reports it, and goes on."""
    if not issubclass(about.exc_type, (Struck, Alarm)):
        sys.__unraisablehook__(about)


class Bystander:
    """A thread that uses the session over and over, and ends when it is told of the end."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self.count = 0
        self.error: OSError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while self._call() is not None:
                self.count += 1
        except OSError as error:
            self.error = error

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()


class Scene:
    """A pair of sessions, the threads that use the one that is struck, and the streams for it."""

    def __init__(self, *, busy: bool, paced: bool) -> None:
        self._paced = paced
        ours, theirs = socket.socketpair()
        self.session = muxado.client(ours, heartbeat_interval=None)
        self.far = muxado.server(theirs, heartbeat_interval=None)
        self.far.settimeout(SOON)
        self._streams: list[muxado.Stream] = []
        # A thread that waits for a byte now and then, and perhaps one that never rests.
        waits, self._wakes = self.pair()
        waits.settimeout(None)
        self._waiter = Bystander(lambda: waits.recv(1) or None)
        self._bystanders = [self._waiter]
        self._helpers: list[Bystander] = []  # who depend on what the main thread does
        if busy:
            asks, answers = self.pair()
            self._bystanders += [
                Bystander(lambda: answers.send(answers.recv(100))),
                Bystander(lambda: (asks.send(b"ask"), asks.recv(100))),
            ]
        self.lost = 0  # streams of the peer's that nobody closed

    def pair(self) -> tuple[muxado.Stream, muxado.Stream]:
        """A stream of the session that is struck, and its other end."""
        near = self.session.open()
        near.sendall(b".")
        far = self.far.accept()[0]
        assert far.recv(1) == b"."
        self._streams += (near, far)
        return near, far

    def feed(self, stream: muxado.Stream) -> None:
        """Send on ``stream``, for as long as it is read."""
        self._helpers.append(Bystander(lambda: self.rest() and stream.send(bytes(500))))

    def swallow(self, stream: muxado.Stream) -> None:
        """Read all that comes on ``stream``."""
        self._helpers.append(Bystander(lambda: (self.rest() and stream.recv(65536)) or None))

    def rest(self) -> bool:
        """Let the other end do something else meanwhile; true."""
        if self._paced:
            time.sleep(0.0005)
        return True

    def swallow_new(self) -> None:
        """Accept all streams, and read each to its end."""

        def serve() -> bool:
            with contextlib.suppress(TimeoutError):
                self.far.accept()[0].close()
            return True

        self._helpers.append(Bystander(serve))

    def keep_opening(self) -> None:
        """Open streams towards the session that is struck, and wait for the end of each."""

        def open_one() -> bool:
            self.rest()
            with self.far.open() as stream:
                stream.settimeout(SOON)
                stream.sendall(b"new")
                try:
                    stream.recv(1)
                except muxado.StreamReset:
                    pass
                except TimeoutError:
                    self.lost += 1
            return True

        self._helpers.append(Bystander(open_one))

    def check(self) -> bool:
        """Look after a strike whether all is well; returns whether the session lives."""
        session, core = self.session, self.session._engine.core
        me = threading.get_ident()
        # A session that cannot go on says so by itself, even if nobody does anything with it.
        wait_for(lambda: session.closed or not core.dirty, "nobody has heard of the end")
        if not session.closed:
            held = [waiter for waiter in [*core.waiting, *core.followers] if waiter.thread == me]
            if core.writer == me or held:
                seat = "the write seat" if core.writer == me else f"what {held} wait for"
                raise Wrong(f"the thread that was struck has {seat}: {core.struck}, {session!r}")
        counts = [each.count for each in self._bystanders]
        if not session.closed:
            with contextlib.suppress(OSError):
                self._wakes.send(b"!")
            wait_for(
                lambda: session.closed or self._waiter.count > counts[0], "one that waits hangs"
            )
        for each, count in zip(self._bystanders, counts, strict=True):
            wait_for(
                lambda: each.over or (not session.closed and each.count > count),  # noqa: B023
                f"a thread hangs: {session!r}, {self.far!r}",
            )
        if session.closed:
            code = session.wait(0).code
            if code is not ErrorCode.INTERNAL_ERROR:
                raise Wrong(f"the session has ended with {session.wait(0)}")
        return not session.closed

    def end(self) -> None:
        """Close all, and see that nothing is left."""
        everybody = self._bystanders + self._helpers
        names = [session._engine.core.name for session in (self.session, self.far)]
        for session in (self.session, self.far):
            session.close()
        wait_for(lambda: all(each.over for each in everybody), "a thread was not told")
        for stream in self._streams:
            stream.close()

        def left() -> list[str]:
            return [t.name for t in threading.enumerate() if t.name.endswith(tuple(names))]

        wait_for(lambda: not left(), f"threads are left: {left()}")


Operation = Callable[[], object]


def receiving(scene: Scene, into: bool) -> Operation:
    near, far = scene.pair()
    scene.feed(far)
    buffer = bytearray(1000)
    return (lambda: near.recv_into(buffer)) if into else (lambda: near.recv(1000))


def sending(scene: Scene, whole: bool, size: int) -> Operation:
    near, far = scene.pair()
    scene.swallow(far)
    data = bytes(size)
    return (lambda: near.sendall(data)) if whole else (lambda: near.send(data))


def accept(scene: Scene) -> Operation:
    scene.keep_opening()

    def accept_one() -> None:
        scene.session.accept()[0].close()

    return accept_one


def ending(scene: Scene, how: Callable[[muxado.Stream], object]) -> Operation:
    scene.swallow_new()
    return lambda: how(scene.session.open())


def sent_and_closed(stream: muxado.Stream) -> None:
    stream.sendall(b"x")
    stream.close()


def drain(scene: Scene) -> Operation:
    return lambda: scene.session.drain(0.0005)


def priority(scene: Scene) -> Operation:
    near, far = scene.pair()
    scene.swallow(far)

    def change() -> None:
        near.priority = random.randrange(4)
        near.send(bytes(100))

    return change


def polled(scene: Scene) -> Operation:
    near, far = scene.pair()
    scene.feed(far)
    other, taker = scene.pair()
    scene.swallow(taker)
    near.setblocking(False)
    other.setblocking(False)

    def poll() -> None:
        readable, writable, _ = select.select([near], [other], [], SOON)
        if not (readable or writable):
            raise Wrong("neither descriptor tells anything")
        with contextlib.suppress(BlockingIOError):
            near.recv(1000)
        with contextlib.suppress(BlockingIOError):
            other.send(bytes(1000))

    return poll


def newly_polled(stream: muxado.Stream) -> None:
    select.select([stream], [], [], 0)
    stream.close()


OPERATIONS: dict[str, Callable[[Scene], Operation]] = {
    "recv": lambda scene: receiving(scene, into=False),
    "recv_into": lambda scene: receiving(scene, into=True),
    "send": lambda scene: sending(scene, whole=False, size=1000),
    "sendall": lambda scene: sending(scene, whole=True, size=1000),
    "sendall-much": lambda scene: sending(scene, whole=True, size=600_000),
    "accept": accept,
    "open": lambda scene: ending(scene, sent_and_closed),
    "close": lambda scene: ending(scene, muxado.Stream.close),
    "shutdown": lambda scene: ending(scene, lambda stream: stream.shutdown(socket.SHUT_RDWR)),
    "reset": lambda scene: ending(scene, muxado.Stream.reset),
    "drain": drain,
    "priority": priority,
    "polled": polled,
    "fileno": lambda scene: ending(scene, newly_polled),
}


class Timer:
    """Raises in the main thread after a moment, once."""

    #: A signal that comes now is to come again a moment later.
    shielded = False

    def __init__(self) -> None:
        self.armed = False
        self._error: type[BaseException] = Struck
        signal.signal(signal.SIGALRM, self._strike)

    def _strike(self, *_: Any) -> None:
        if self.shielded:
            signal.setitimer(signal.ITIMER_REAL, 1e-5)
        elif self.armed:
            self.armed = False
            raise self._error

    def _call(self, operation: Operation, once: bool) -> None:
        # CPython from 3.13 on lets an exception that strikes at the end of a loop pass by the
        # handlers of the function that the loop is in.
        while self.armed:
            operation()
            while once and self.armed:
                time.sleep(0.0001)

    def strike(
        self, operation: Operation, seconds: float, error: type[BaseException], *, once: bool
    ) -> None:
        """Call ``operation`` until the signal has come; or ``once``, and wait for it then."""
        self._error = error
        try:
            self.armed = True
            signal.setitimer(signal.ITIMER_REAL, seconds)
            self._call(operation, once)
        except error:
            pass
        except muxado.SessionClosed:
            self.armed = False  # by what the signal has done before this call raised


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """No descriptor is open behind this that was not open before it."""

    def count() -> int:
        gc.collect()
        return len(os.listdir("/dev/fd"))

    before = count()
    yield
    wait_for(lambda: count() <= before, "descriptors are left")


def run(
    name: str, trials: int, rng: random.Random, timer: Timer, *, paced: bool
) -> collections.Counter[str]:
    """Strike one operation; returns what was counted."""
    done: collections.Counter[str] = collections.Counter()
    while done["trials"] < trials:
        with nothing_left():
            scene = Scene(busy=rng.random() < 0.5, paced=paced)
            operation = OPERATIONS[name](scene)
            operation()
            began = time.perf_counter()
            for _ in range(3):
                operation()
            duration = min((time.perf_counter() - began) / 3, 0.005)
            left = min(TRIALS_OF_A_SESSION, trials - done["trials"])
            lives = True
            while lives and left:
                left -= 1
                done["trials"] += 1
                seconds = rng.uniform(1e-5, 2 * duration)
                timer.strike(operation, seconds, rng.choice((Struck, Alarm)), once=paced)
                lives = scene.check()
            done["ended"] += not lives
            done["streams lost"] += scene.lost
            scene.end()
            del scene, operation
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=150, help="of each operation")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--live-on", type=float, default=LIVE_ON, help="the share that must")
    parser.add_argument("operations", nargs="*", default=list(OPERATIONS), metavar="operation")
    options = parser.parse_args()
    faulthandler.enable()
    sys.unraisablehook = unraisable
    socket.socketpair = shielded_socketpair  # type: ignore[assignment]
    # A stream that the exception has taken away is dropped without being closed.
    warnings.simplefilter("ignore", ResourceWarning)
    sys.setswitchinterval(1e-4)
    timer, rng = Timer(), random.Random(options.seed)
    for paced in (False, True):
        way = "paced" if paced else "busy"
        total: collections.Counter[str] = collections.Counter()
        for name in options.operations:
            began = time.monotonic()
            try:
                done = run(name, options.trials, rng, timer, paced=paced)
            except Wrong as error:
                faulthandler.dump_traceback()
                sys.exit(f"{name}, {way}, seed {options.seed}: {error}")
            total += done
            text = ", ".join(f"{count} {what}" for what, count in done.items() if count)
            print(f"{name}, {way}: {text} ({time.monotonic() - began:.1f} s)", flush=True)
        share = 1 - total["ended"] / total["trials"]
        print(f"{way}: {share:.1%} of the sessions lived on after {total['trials']} strikes")
        if paced and share < options.live_on:
            sys.exit(f"too few, seed {options.seed}")


if __name__ == "__main__":
    main()
