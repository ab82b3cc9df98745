"""The scheduler itself: what it finds in small programs, and that it finds it again."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from . import world as module
from .world import Choices, Deadlock, Preemptions, Seeded, Spinning, World

Program = Callable[[World], object]


def run(program: Program, choices: Choices) -> World:
    world = World(choices)
    world.run(lambda: program(world))
    return world


def outcome(program: Program, choices: Choices) -> str:
    try:
        run(program, choices)
    except AssertionError as error:
        return f"{type(error).__name__}: {error}".split("\n")[0]
    return ""


def first_seed(program: Program) -> int:
    """The first seed with which the program goes wrong."""
    return next(seed for seed in range(1000) if outcome(program, Seeded(seed, 3)))


def both(world: World, *calls: Callable[[], object]) -> None:
    threads = [world.start(f"thread {number}", call) for number, call in enumerate(calls)]
    for thread in threads:
        thread.join()


def lost_wake_up(world: World) -> None:
    """Whoever waits looks first and goes to sleep then, and forgets what came in between."""
    lock, bell = world.threading.Lock(), world.threading.Event()
    letters: list[str] = []

    def reader() -> None:
        with lock:
            empty = not letters
        if empty:
            bell.clear()
            bell.wait()

    def writer() -> None:
        with lock:
            letters.append("hello")
        bell.set()

    both(world, reader, writer)


def crossed_locks(world: World) -> None:
    one, other = world.threading.Lock(), world.threading.Lock()

    def take(first: threading.Lock, second: threading.Lock) -> None:
        with first, second:
            pass

    both(world, lambda: take(one, other), lambda: take(other, one))


def lost_update(world: World) -> None:
    lock = world.threading.RLock()
    count = 0

    def add() -> None:
        nonlocal count
        with lock:
            before = count
        with lock:
            count = before + 1

    both(world, add, add)
    assert count == 2, f"{count} of 2"


@pytest.mark.parametrize("program", [lost_wake_up, crossed_locks, lost_update])
def test_a_fault_is_found_and_found_again(program: Program) -> None:
    seed = first_seed(program)
    assert outcome(program, Preemptions()) == "", "nobody is stopped: it goes well"
    first = outcome(program, Seeded(seed, 3))
    assert first == outcome(program, Seeded(seed, 3))
    assert first.startswith(("Deadlock", "AssertionError: 1 of 2"))


def test_one_preemption_is_enough() -> None:
    """What hypothesis shrinks to: where to stop, and who goes on."""
    results = [outcome(lost_update, Preemptions([(gap, 0)])) for gap in range(1, 20)]
    assert "AssertionError: 1 of 2" in results
    assert "" in results


def test_the_report_says_where_everybody_waits() -> None:
    with pytest.raises(Deadlock) as caught:
        run(crossed_locks, Seeded(first_seed(crossed_locks), 3))
    text = str(caught.value)
    assert "-- thread 0, waits for ever" in text
    assert "with first, second:" in text


def test_the_clock_jumps_when_everybody_waits() -> None:
    woken: list[tuple[float, str]] = []

    def program(world: World) -> None:
        lock = world.threading.Lock()
        lock.acquire()

        def late() -> None:
            assert not lock.acquire(True, 2.0)
            woken.append((world.now - start, "late"))

        def early() -> None:
            world.time.sleep(1.5)
            woken.append((world.time.monotonic() - start, "early"))

        start = world.now
        both(world, late, early)

    run(program, Preemptions())
    assert woken == [(1.5, "early"), (2.0, "late")]


def test_a_thread_that_fails_ends_the_run() -> None:
    def program(world: World) -> None:
        lock = world.threading.Lock()
        lock.acquire()

        def fail() -> None:
            raise ZeroDivisionError

        world.start("failing", fail)
        lock.acquire()

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        run(program, Preemptions())
    assert threading.active_count() == before


def test_a_run_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS", 1000)

    def program(world: World) -> None:
        lock = world.threading.Lock()
        while True:
            with lock:
                pass

    with pytest.raises(Spinning):
        run(program, Preemptions())


def test_a_wait_that_the_scheduler_does_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OUTSIDE", 0.1)
    real = threading.Event()
    try:
        with pytest.raises(Spinning, match="outside"):
            run(lambda world: real.wait(), Preemptions())
    finally:
        real.set()


def test_quiet_comes_last() -> None:
    order: list[str] = []

    def program(world: World) -> None:
        def slow() -> None:
            world.sleep(100)
            order.append("slow")

        world.start("slow", slow)
        world.quiet()
        order.append("quiet")

    run(program, Preemptions())
    assert order == ["slow", "quiet"]


def test_what_it_cannot_stand_in_for() -> None:
    with pytest.raises(AssertionError, match=r"threading\.Barrier"):
        run(lambda world: world.threading.Barrier(2), Preemptions())
