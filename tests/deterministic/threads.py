"""What stands in for ``threading``, ``_thread`` and ``time`` in a world of ``world.World``."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .world import World

__all__ = ["Killed", "LowLevel", "Thread", "Threading", "Time"]


class Killed(BaseException):
    """Ends a thread that is left when its world ends."""


class Thread:
    """Stands in for ``threading.Thread``."""

    def __init__(
        self,
        world: World,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        daemon: bool | None = None,
    ) -> None:
        self._world = world
        self._call = functools.partial(target or int, *args, **(kwargs or {}))
        self.name = name or f"thread-{len(world.threads)}"
        self.daemon = daemon
        self.done = False
        #: What it waits for, while it does; and until when.
        self.ready: Callable[[], object] | None = None
        self.deadline: float | None = None
        #: It waits for the world to be quiet.
        self.resigned = False
        self.baton = threading.Lock()
        self.baton.acquire()
        self.real = threading.Thread(target=self._run, name=self.name, daemon=True)

    @property
    def ident(self) -> int | None:
        return self.real.ident

    def runs(self) -> bool:
        """Whether it could go on now."""
        if self.done:
            return False
        late = self.deadline is not None and self._world.now >= self.deadline
        return late or self.ready is None or bool(self.ready())

    def waits(self) -> str:
        if self.ready is None:
            return ""
        until = "ever" if self.deadline is None else f"{self.deadline - self._world.now:.4f} s"
        return f", waits for {until}"

    def start(self) -> None:
        self._world.add(self)
        self._world.point()

    def join(self, timeout: float | None = None) -> None:
        self._world.wait(lambda: self.done, timeout)

    def is_alive(self) -> bool:
        return self.real.ident is not None and not self.done

    def _run(self) -> None:
        world = self._world
        self.baton.acquire()
        try:
            if world.killing:
                return
            if world.lines:
                sys.settrace(world.trace)
            try:
                self._call()
            finally:
                sys.settrace(None)
        except Killed:
            pass
        except BaseException as error:
            if not world.killing:
                world.fail(error)
        finally:
            try:
                world.ended(self)
            except Killed:
                pass


class Lock:
    """Stands in for ``threading.Lock``."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._locked = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        self._world.point()
        if self._locked:
            if not blocking or timeout == 0:
                return False
            if not self._world.wait(self._free, None if timeout < 0 else timeout):
                return False
        self._locked = True
        return True

    def _free(self) -> bool:
        return not self._locked

    def release(self) -> None:
        if not self._locked:
            raise RuntimeError("release unlocked lock")
        world = self._world
        if world.lose is not None and any(t.ready == self._free for t in world.threads):
            world.wakes += 1
            if world.wakes == world.lose:
                return
        self._locked = False
        if not world.killing:
            world.point()

    def locked(self) -> bool:
        return self._locked

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class RLock:
    """Stands in for ``threading.RLock``."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._owner = 0
        self._count = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        me = threading.get_ident()
        if self._owner == me:
            self._count += 1
            return True
        self._world.point()
        if self._owner:
            if not blocking or timeout == 0:
                return False
            if not self._world.wait(self._free, None if timeout < 0 else timeout):
                return False
        self._owner, self._count = me, 1
        return True

    def _free(self) -> bool:
        return not self._owner

    def release(self) -> None:
        if self._owner != threading.get_ident():
            raise RuntimeError("cannot release un-acquired lock")
        self._count -= 1
        if not self._count:
            self._owner = 0
            if not self._world.killing:
                self._world.point()

    def _is_owned(self) -> bool:
        return self._owner == threading.get_ident()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Event:
    """Stands in for ``threading.Event``."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        if not self._world.killing:
            self._world.point()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        self._world.point()
        return self._world.wait(self.is_set, timeout)


class Threading:
    """Stands in for the module ``threading``."""

    names = ("Lock", "RLock", "Event", "Thread", "current_thread")
    TIMEOUT_MAX = threading.TIMEOUT_MAX
    get_ident = staticmethod(threading.get_ident)

    def __init__(self, world: World) -> None:
        self._world = world

    def Lock(self) -> Any:  # noqa: N802
        return Lock(self._world)

    def RLock(self) -> Any:  # noqa: N802
        return RLock(self._world)

    def Event(self) -> Any:  # noqa: N802
        return Event(self._world)

    def Thread(self, *args: Any, **options: Any) -> Any:  # noqa: N802
        return Thread(self._world, *args, **options)

    def current_thread(self) -> Any:
        return self._world.current if self._world.here() else threading.current_thread()

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the scheduler has nothing to stand in for threading.{name}")


class LowLevel:
    """Stands in for the module ``_thread``."""

    names = ("start_new_thread",)

    def __init__(self, world: World) -> None:
        self._world = world

    def start_new_thread(self, function: Callable[..., object], args: Sequence[Any]) -> int:
        thread = Thread(self._world, target=function, args=args)
        thread.start()
        return thread.ident or 0

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the scheduler has nothing to stand in for _thread.{name}")


class Time:
    """Stands in for the module ``time``."""

    names = ("monotonic", "sleep")

    def __init__(self, world: World) -> None:
        self._world = world

    def monotonic(self) -> float:
        return self._world.now

    def sleep(self, seconds: float) -> None:
        self._world.sleep(seconds)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the scheduler has nothing to stand in for time.{name}")
