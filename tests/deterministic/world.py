"""A scheduler that decides which thread runs, and a clock that jumps.

Every logical thread is a real one, but all except one are parked. At each *point* (an operation on
a lock, a wait, a call of the connection) the scheduler may switch. Its decisions come from
``Choices``, so the same choices give the same run. Time stands still while anybody can run; when
everybody waits, the clock jumps to the earliest deadline. When everybody waits for ever the world
is *quiet*: whoever asked for that goes on, and if nobody did it is a deadlock.

``World.run`` puts itself in place of ``threading``, ``_thread`` and ``time`` in all modules of
muxado, by the names that they have there, so it needs to know nothing of what is inside them.
"""

from __future__ import annotations

import _thread
import collections
import gc
import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import muxado

from . import threads
from .threads import Killed, LowLevel, Thread, Threading, Time

__all__ = ["Choices", "Deadlock", "Preemptions", "Seeded", "Spinning", "World"]

#: A deadline this close, in seconds, may pass although somebody could run: threads are slow.
SOON = 0.05
#: Points of one run; more than any plan needs. Between lines there are several times as many.
STEPS = 300_000
STEPS_OF_LINES = 1_000_000
#: Real seconds that a thread may take from one point to the next.
OUTSIDE = 30.0

_NEVER = sys.maxsize
_OWN = {__file__, threads.__file__}
_MUXADO = str(Path(muxado.__file__).parent)


class Deadlock(AssertionError):
    """Everybody waits for ever."""


class Spinning(AssertionError):
    """A run that does not come to its end."""


class Choices:
    """The scheduler's decisions."""

    def preempt(self) -> tuple[int, int]:
        """After how many points to stop the running thread, and the number of who goes on."""
        raise NotImplementedError

    def turn(self) -> int:
        """The number of who goes on when the running thread has to wait; 0 for the next."""
        raise NotImplementedError


class Preemptions(Choices):
    """A few decisions, written down; beyond them threads run until they wait, in turn."""

    def __init__(
        self, preemptions: Sequence[tuple[int, int]] = (), turns: Sequence[int] = ()
    ) -> None:
        self._preemptions = iter(preemptions)
        self._turns = iter(turns)

    def preempt(self) -> tuple[int, int]:
        return next(self._preemptions, (_NEVER, 0))

    def turn(self) -> int:
        return next(self._turns, 0)


class Seeded(Choices):
    """Decisions by the million, from a seed: a thread is stopped every so many points."""

    def __init__(self, seed: int, every: int) -> None:
        self._random = random.Random(seed)
        self._every = every

    def preempt(self) -> tuple[int, int]:
        return self._random.randint(1, 2 * self._every), self._random.randrange(1000)

    def turn(self) -> int:
        return self._random.randrange(1000)


class World:
    """One run. ``lines``: between any two lines of muxado's own code, too, is a point.

    ``punctual``: no deadline passes while anybody can run, so whatever a time-out brings about is
    something that no thread was about to do.
    """

    def __init__(self, choices: Choices, *, lines: bool = False, punctual: bool = False) -> None:
        self.now = 1000.0
        self.steps = 0
        #: Releases that found somebody asleep; the one with number ``lose`` does not wake them.
        self.wakes = 0
        self.lose: int | None = None
        self._choices = choices
        self._lines = lines
        self._punctual = punctual
        self._most = STEPS_OF_LINES if lines else STEPS
        self.threads: list[Thread] = []
        self.current: Thread | None = None
        self._ident = 0  # of the real thread that runs
        self._idents: set[int] = set()  # of all
        gap, self._who = choices.preempt()
        self._next = min(gap, self._most)
        self.killing = False
        self._over = False
        self._done = threading.Lock()
        self._failure: BaseException | None = None
        self._history: collections.deque[str] = collections.deque(maxlen=60)
        self.threading: Any = Threading(self)
        self.low_level: Any = LowLevel(self)
        self.time: Any = Time(self)

    def run(self, main: Callable[[], object]) -> None:
        """Call ``main`` in a thread of this world; returns when it has, and all others are gone.

        Raises what any of the world's threads raised, or ``Deadlock``, or ``Spinning``.
        """
        self._done.acquire()
        collecting = gc.isenabled()
        gc.disable()  # finalizers run where references end, the same in each run
        try:
            with self._instead(), on_one_processor():
                first = Thread(self, target=main, name="main")
                self.add(first)
                self._resume(first)
                if not self._done.acquire(timeout=OUTSIDE):
                    self._failure = Spinning(self.report("a thread waits outside of the scheduler"))
                self._over = True
                self._kill_all()
        finally:
            if collecting:
                gc.enable()
        if self._failure is not None:
            raise self._failure

    def fail(self, error: BaseException) -> None:
        """End the run with ``error``; returns in no thread of this world."""
        if self._failure is None:
            self._failure = error
        self._finish()

    def report(self, what: str) -> str:
        """Where everybody is."""
        frames = sys._current_frames()
        lines = [f"{what}, at {self.now - 1000:.4f} s, after {self.steps} points"]
        for thread in self.threads:
            if thread.done:
                continue
            lines.append(f"-- {thread.name}{thread.waits()}")
            frame = frames.get(thread.ident or 0)
            own = [
                entry
                for entry in traceback.extract_stack(frame)
                if entry.filename not in _OWN and "/threading.py" not in entry.filename
            ]
            lines += traceback.format_list(own[-8:])
        lines.append("-- the last turns: " + " ".join(self._history))
        return "\n".join(lines)

    @property
    def alive(self) -> list[str]:
        """The names of the threads that have not ended."""
        return [thread.name for thread in self.threads if not thread.done]

    # For whoever runs.

    def here(self) -> bool:
        """Whether the caller is the thread that runs in this world."""
        return self._ident == threading.get_ident() and not self._over

    def point(self) -> None:
        """Somebody else may go on here."""
        if self._ident != threading.get_ident() or self.killing:
            self._stand_aside()
            return
        self.steps += 1
        if self.steps >= self._next:
            self._preempt()

    def wait(self, ready: Callable[[], object], seconds: float | None = None) -> bool:
        """Wait until ``ready()``; false when ``seconds`` have passed first.

        ``ready`` must not come to a point itself.
        """
        me = self.current
        if self._ident != threading.get_ident() or self.killing or me is None:
            self._stand_aside()
            return bool(ready())  # nobody else is left to change it
        deadline = None if seconds is None else self.now + seconds
        while not ready():
            if deadline is not None and self.now >= deadline:
                return False
            me.ready, me.deadline = ready, deadline
            self._give_way(me)
        return True

    def quiet(self) -> None:
        """Wait until nobody else can go on any more, now or later."""
        me = self.current
        assert me is not None
        me.resigned = True
        try:
            self.wait(lambda: not me.resigned)
        finally:
            me.resigned = False

    def sleep(self, seconds: float) -> None:
        self.wait(lambda: False, seconds)

    def start(self, name: str, call: Callable[[], object]) -> Thread:
        thread = Thread(self, target=call, name=name)
        thread.start()
        return thread

    # The turns.

    def add(self, thread: Thread) -> None:
        self.threads.append(thread)
        thread.real.start()  # it parks at once
        self._idents.add(thread.ident or 0)

    def _stand_aside(self) -> None:
        """The caller is not the one who runs: its world has ended, or it never was of this one."""
        if self.killing and threading.get_ident() in self._idents:
            raise Killed

    def _preempt(self) -> None:
        me = self.current
        assert me is not None
        if self.steps >= self._most:
            self.fail(Spinning(self.report("no end")))
            raise Killed
        gap, who = self._choices.preempt()
        self._next, who, self._who = min(self.steps + gap, self._most), self._who, who
        others = [t for t in self.threads if t is not me and t.runs()]
        soon = min(
            (t for t in self.threads if t.deadline is not None and t is not me and not t.runs()),
            key=_deadline,
            default=None,
        )
        if soon is not None and not self._punctual and _deadline(soon) <= self.now + SOON:
            others.append(soon)
        if not others:
            return
        chosen = others[who % len(others)]
        if chosen is soon:
            self.now = max(self.now, _deadline(soon))
        me.ready = me.deadline = None
        self._switch(me, chosen)

    def _give_way(self, me: Thread) -> None:
        """The running thread has to wait: somebody else goes on."""
        chosen = self._choose(me)
        if chosen is None:
            self.fail(Deadlock(self.report("everybody waits for ever")))
            raise Killed
        if chosen is not me:
            self._switch(me, chosen)
        me.ready = me.deadline = None

    def _choose(self, me: Thread) -> Thread | None:
        if self.steps >= self._most:
            self.fail(Spinning(self.report("no end")))
            raise Killed
        while True:
            threads = self.threads
            start = threads.index(me) + 1
            able = [t for t in [*threads[start:], *threads[:start]] if t.runs()]
            if able:
                return able[self._choices.turn() % len(able)] if len(able) > 1 else able[0]
            soon = min((_deadline(t) for t in threads if t.deadline is not None), default=None)
            if soon is None:
                break
            self.now = max(self.now, soon)
        for thread in self.threads:
            if thread.resigned and not thread.done:
                thread.resigned = False
                return thread
        return None

    def _switch(self, me: Thread, chosen: Thread) -> None:
        self._resume(chosen)
        me.baton.acquire()
        if self.killing:
            raise Killed

    def _resume(self, thread: Thread) -> None:
        self._history.append(f"{thread.name}@{self.steps}")
        self.current = thread
        self._ident = thread.ident or 0
        thread.baton.release()

    def ended(self, me: Thread) -> None:
        """The running thread has come to its end."""
        me.done = True
        if self.killing or self._over:
            return
        chosen = self._choose(me)
        if chosen is not None:
            self._resume(chosen)
        elif all(thread.done for thread in self.threads):
            self._finish()
        else:
            self.fail(Deadlock(self.report("everybody waits for ever")))

    def _finish(self) -> None:
        self._over = self.killing = True
        if self._done.locked():
            self._done.release()

    def _kill_all(self) -> None:
        self.killing = True
        self.current, self._ident = None, 0
        for thread in self.threads:
            if not thread.done:
                thread.baton.release()
            thread.real.join(1.0 if isinstance(self._failure, Spinning) else OUTSIDE)
        self._idents.clear()  # the system gives them to others

    def trace(self, frame: Any, event: str, _: object) -> Any:
        """For ``sys.settrace``: a point at each line of muxado's."""
        return self._line if frame.f_code.co_filename.startswith(_MUXADO) else None

    def _line(self, frame: Any, event: str, _: object) -> Any:
        if event == "line":
            self.point()
        return self._line

    @property
    def lines(self) -> bool:
        return self._lines

    @contextmanager
    def _instead(self) -> Iterator[None]:
        """Stand in for the three modules, and for what was imported from them."""
        own: dict[int, Any] = {}
        pairs = ((threading, self.threading), (_thread, self.low_level), (time, self.time))
        for module, stand_in in pairs:
            own[id(module)] = stand_in
            own |= {id(getattr(module, name)): getattr(stand_in, name) for name in stand_in.names}
        changed: list[tuple[Any, str, Any]] = []
        for module in [m for n, m in sys.modules.items() if n.startswith("muxado")]:
            for name, value in vars(module).items():
                if id(value) in own:
                    changed.append((module, name, value))
        for module, name, value in changed:
            setattr(module, name, own[id(value)])
        try:
            yield
        finally:
            for module, name, value in changed:
                setattr(module, name, value)


@contextmanager
def on_one_processor() -> Iterator[None]:
    """Keep the threads that start here together: no two run at once, and turns cost less there."""
    try:
        allowed = os.sched_getaffinity(0)
        # Not all the processes that test at the same time on the same one.
        os.sched_setaffinity(0, {sorted(allowed)[os.getpid() % len(allowed)]})
    except (AttributeError, OSError):  # not a Linux, or not to be had there
        yield
        return
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _deadline(thread: Thread) -> float:
    assert thread.deadline is not None
    return thread.deadline
