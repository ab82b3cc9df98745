"""Threads that a test starts: each is joined, and what it raises is raised in the test."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

GUARD = 20.0
"""Seconds; how long a wait that should succeed may last before it counts as hung."""


class Task(Generic[T]):
    """One call in a thread of its own."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._outcome: list[T] = []
        self._error: BaseException | None = None
        self.taken = False  # whether the test has asked for the result
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome.append(self._call())
        except BaseException as error:
            self._error = error

    @property
    def running(self) -> bool:
        """Whether the call has not returned."""
        return self._thread.is_alive()

    def result(self) -> T:
        """Join the thread; return what the call returned or raise what it raised."""
        self.taken = True
        self._thread.join(GUARD)
        if self._thread.is_alive():
            raise AssertionError("the thread has not ended")
        if self._error is not None:
            raise self._error
        return self._outcome[0]


class Crew:
    """The threads of one test."""

    def __init__(self) -> None:
        self._tasks: list[Task[Any]] = []

    def start(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Task[T]:
        """Start `call(*args, **kwargs)` in a thread."""
        task = Task(lambda: call(*args, **kwargs))
        self._tasks.append(task)
        return task

    def finish(self) -> None:
        """Join every thread and raise the first error that the test has not been told."""
        errors: list[BaseException] = []
        for task in self._tasks:
            if not task.taken:
                try:
                    task.result()
                except BaseException as error:
                    errors.append(error)
        if errors:
            raise errors[0]
