"""Handlers of signals that use the session whose call they interrupt."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

import muxado
from muxado import ErrorCode
from muxado.engine.core import REENTERED

from ..helpers.crew import GUARD, Crew
from ..helpers.gates import Gate, Once, after, before
from ..helpers.support import Pair, Sessions, read_all, streams, threads_of, until, waiting

Action = Callable[[muxado.Session, muxado.Stream], object]


def set_priority(stream: muxado.Stream) -> None:
    stream.priority = 5


#: What a handler does with the session whose call it interrupts, and with another stream of it.
#: What would have to wait for the handler's own thread is refused,
REFUSED: dict[str, Action] = {
    "open": lambda session, other: session.open(),
    "accept": lambda session, other: session.accept(),
    "recv": lambda session, other: other.recv(1),
    "recv_into": lambda session, other: other.recv_into(bytearray(1)),
    "peek": lambda session, other: other.recv(1, socket.MSG_PEEK),
    "send": lambda session, other: other.send(b"x"),
    "sendall": lambda session, other: other.sendall(bytes(100_000)),
    "send-now": lambda session, other: other.send(b"x", socket.MSG_DONTWAIT),
    "shutdown": lambda session, other: other.shutdown(socket.SHUT_WR),
    "priority": lambda session, other: set_priority(other),
    "go_away": lambda session, other: session.go_away(),
    "drain": lambda session, other: session.drain(),
}
#: and the rest is done, perhaps a moment later.
DONE: dict[str, Action] = {
    "stats": lambda session, other: session.stats(),
    "repr": lambda session, other: (repr(session), repr(other)),
    "close": lambda session, other: other.close(),
    "reset": lambda session, other: other.reset(),
}
END: dict[str, Action] = {
    "close": lambda session, other: session.close(),
    "kill": lambda session, other: session.kill(),
}


class Handler:
    """A handler of SIGUSR1 that acts once, and keeps what came of it."""

    def __init__(self) -> None:
        self.action: Callable[[], object] = int
        self.outcome: list[object] = []

    def __call__(self, *_: object) -> None:
        try:
            self.outcome.append(self.action())
        except RuntimeError as error:
            self.outcome.append(str(error))


@pytest.fixture
def handler() -> Iterator[Handler]:
    made = Handler()
    previous = signal.signal(signal.SIGUSR1, made)
    yield made
    signal.signal(signal.SIGUSR1, previous)


def strike(*_: object) -> None:
    """Interrupt the main thread; for another thread, wherever it is."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)


def strike_here() -> Callable[..., None]:
    """A function that has the handler run in it, the first time that the main thread calls it."""
    once = Once(lambda: signal.raise_signal(signal.SIGUSR1))

    def struck(*_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            once()

    return struck


@pytest.fixture
def pair(sessions: Sessions) -> Pair:
    return sessions.socketpair(heartbeat_interval=None)


@pytest.mark.parametrize("name", [*REFUSED, *DONE])
def test_inside_a_section(
    pair: Pair, handler: Handler, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    near, far = streams(pair)
    other, far_other = streams(pair)
    handler.action = lambda: {**REFUSED, **DONE}[name](pair[0], other)
    after(monkeypatch, pair[0]._engine.core.protocol, "data_header", strike_here())
    near.sendall(b"x")
    assert far.recv(1) == b"x"
    assert (handler.outcome == [REENTERED]) == (name in REFUSED)
    assert len(handler.outcome) == 1
    if name == "close":
        assert read_all(far_other) == b""
    elif name == "reset":
        with pytest.raises(muxado.StreamReset):
            far_other.recv(1)
    near.sendall(b"and on")
    assert far.recv(6) == b"and on"
    assert not pair[0].closed


@pytest.mark.parametrize("name", END)
def test_the_end_inside_a_section(
    pair: Pair, handler: Handler, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    near, _ = streams(pair)
    handler.action = lambda: END[name](pair[0], near)
    after(monkeypatch, pair[0]._engine.core.protocol, "data_header", strike_here())
    with contextlib.suppress(muxado.SessionClosed):
        near.sendall(b"x")
    assert pair[0].wait(GUARD).error is None
    assert pair[1].wait(GUARD).code is (
        ErrorCode.NO_ERROR if name == "close" else ErrorCode.PEER_EOF
    )
    until(lambda: not threads_of(pair[0]))
    assert handler.outcome == [None]


@pytest.mark.parametrize("name", ["accept", "recv", "recv_into", "drain", "sendall"])
def test_in_the_write_seat_nothing_is_waited_for(
    pair: Pair, handler: Handler, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It may be the answer to what this very thread is just sending."""
    near, far = streams(pair)
    other, _ = streams(pair)
    handler.action = lambda: REFUSED[name](pair[0], other)
    before(monkeypatch, pair[0]._engine.transport, "send", strike_here())
    while not handler.outcome:  # the writer thread may have the seat
        near.sendall(b"x")
        assert far.recv(1) == b"x"
    assert handler.outcome == [REENTERED]


@pytest.mark.parametrize("name", ["open", "reset", "close", "priority", "send-now"])
def test_in_the_write_seat_the_rest_is_done(
    pair: Pair, handler: Handler, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    near, far = streams(pair)
    other, far_other = streams(pair)
    handler.action = lambda: {**REFUSED, **DONE}[name](pair[0], other)
    before(monkeypatch, pair[0]._engine.transport, "send", strike_here())
    while not handler.outcome:  # the writer thread may have the seat
        near.sendall(b"x")
        assert far.recv(1) == b"x"
    assert handler.outcome != [REENTERED]
    if name == "open":
        handler.outcome[0].close()  # type: ignore[attr-defined]
    elif name == "send-now":
        assert far_other.recv(1) == b"x"
    elif name == "close":
        assert read_all(far_other) == b""
    near.sendall(b"and on")
    assert far.recv(6) == b"and on"


def test_many_opens_by_a_handler(pair: Pair, crew: Crew, handler: Handler) -> None:
    """Each stream has a number of its own, whatever the handler has interrupted."""
    opened: list[muxado.Stream] = []
    stop = threading.Event()

    def open_one() -> None:
        opened.append(pair[0].open())

    def strike_on() -> None:
        while not stop.is_set():
            strike()
            stop.wait(0.0002)

    handler.action = open_one
    striking = crew.start(strike_on)
    while len(opened) < 500:
        opened.append(pair[0].open())
    stop.set()
    striking.result()
    assert not pair[0].closed
    numbers = [stream.id for stream in opened]
    assert len(set(numbers)) == len(numbers)
    assert set(handler.outcome) <= {None, REENTERED}
    for stream in opened:
        stream.close()


@pytest.mark.parametrize("end", END)
@pytest.mark.parametrize("call", ["accept", "recv", "sendall"])
def test_the_end_while_a_call_waits(
    sessions: Sessions, crew: Crew, handler: Handler, call: str, end: str
) -> None:
    """The main thread is blocked, perhaps in a seat that nobody else gets before it goes on."""
    pair = sessions.tcp(buffers=4096, linger=5.0)
    near, far = streams(pair)
    calls: dict[str, Callable[[], object]] = {
        "accept": pair[0].accept,
        "recv": lambda: near.recv(1),
        "sendall": lambda: near.sendall(bytes(2**20)),
    }
    handler.action = lambda: END[end](pair[0], near)

    def strike_when_it_waits() -> None:
        waiting(pair[0], 1)
        strike()
        if call == "sendall":  # close() flushes what it can
            with contextlib.suppress(OSError):
                while far.recv(65536):
                    pass

    striking = crew.start(strike_when_it_waits)
    with contextlib.suppress(muxado.SessionClosed):
        calls[call]()
        assert (call, end) == ("sendall", "close")
    striking.result()
    assert handler.outcome == [None]
    assert pair[0].wait(GUARD).error is None
    until(lambda: not threads_of(pair[0]))


@pytest.mark.parametrize("where", ["flush", "end", "section"])
def test_close_while_the_main_thread_is_in_close(
    sessions: Sessions,
    crew: Crew,
    handler: Handler,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    pair = sessions.tcp(buffers=4096, heartbeat_interval=None, linger=GUARD)
    near, far = streams(pair)
    engine = pair[0]._engine
    handler.action = pair[0].close
    sending = crew.start(near.sendall, bytes(200_000))
    until(lambda: engine.writing.jam)

    def go_on() -> None:
        until(lambda: engine.core.flushers)
        strike()
        until(lambda: handler.outcome or len(engine.core.flushers) > 1)
        read_to_the_end()

    def read_to_the_end() -> None:
        with contextlib.suppress(OSError):  # the end of the session, or of the test
            read_all(far)

    if where == "flush":
        crew.start(go_on)
    else:
        name = "refuse_backlog" if where == "section" else "abandon_opening"
        before(monkeypatch, engine.core.protocol, name, strike_here())
        crew.start(read_to_the_end)
    pair[0].close()
    assert handler.outcome == [None]
    assert pair[0].wait(GUARD).code is ErrorCode.NO_ERROR
    until(lambda: not threads_of(pair[0]))
    with contextlib.suppress(muxado.SessionClosed):
        sending.result()


@pytest.mark.parametrize("where", ["_is_readable", "select"])
def test_close_while_the_main_thread_polls(
    pair: Pair, crew: Crew, handler: Handler, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The session's threads may have to bring the same descriptor up to date, and get to an end."""
    near, far = streams(pair)
    near.fileno()
    began = []

    def close() -> None:
        began.append(time.monotonic())
        pair[0].close()
        began.append(time.monotonic())

    handler.action = close
    if where == "select":
        striking = crew.start(lambda: time.sleep(0.01) or strike())  # type: ignore[func-returns-value]
        select.select([near], [], [], GUARD)
        striking.result()
    else:
        near._readiness.sync()  # type: ignore[union-attr]
        before(monkeypatch, near._readiness, where, strike_here())
        near.send(b"x")
    until(lambda: len(began) == 2)
    assert began[1] - began[0] < pair[0]._engine.core.protocol.config.linger, (
        "it waited for its own thread"
    )
    assert pair[0].wait(GUARD).error is None
    until(lambda: not threads_of(pair[0]))
    far.close()


def test_a_stream_is_closed_while_another_thread_brings_up_its_descriptor(
    pair: Pair, crew: Crew, handler: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That thread has the descriptor's lock, and waits for the section that the handler is in."""
    near, far = streams(pair)
    other, far_other = streams(pair)
    other.fileno()
    readiness = other._readiness
    assert readiness is not None
    with Gate() as gate:
        before(monkeypatch, readiness, "_is_readable", gate.stop)
        syncing = crew.start(readiness.sync)
        gate.reached()

        def close() -> None:
            gate.open()
            other.close()

        handler.action = close
        after(monkeypatch, pair[0]._engine.core.protocol, "data_header", strike_here())
        near.sendall(b"x")
        syncing.result()
    assert handler.outcome == [None]
    assert far.recv(1) == b"x"
    assert read_all(far_other) == b""
    del readiness
    until(lambda: other._state.poller is None)


# Errors that strike inside.


def at_every_depth(call: Callable[[], object]) -> int:
    """Call ``call`` with ever less room on the stack; returns how often it was told so."""

    def descend(depth: int) -> None:
        if depth:
            descend(depth - 1)
        else:
            call()

    frame, used = sys._getframe(), 0
    while frame is not None:
        used, frame = used + 1, frame.f_back  # type: ignore[assignment]
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(used + 120)
    failed = 0
    try:
        for depth in range(60, 120):
            try:
                descend(depth)
            except RecursionError:
                failed += 1
            except muxado.SessionClosed:
                pass
    finally:
        sys.setrecursionlimit(limit)
    return failed


@pytest.mark.parametrize(
    "name", ["recv", "recv_into", "sendall", "sendall-much", "send-now", "open", "accept", "reset"]
)
def test_too_little_room_on_the_stack(sessions: Sessions, crew: Crew, name: str) -> None:
    """Whatever was cut short, the others go on, or are told."""
    pair = sessions.socketpair(heartbeat_interval=None)
    near, far = streams(pair)
    other, far_other = streams(pair)
    asleep = crew.start(other.recv, 1)
    waiting(pair[0], 1)
    near.settimeout(0.001)
    pair[0].settimeout(0.001)
    opened: list[muxado.Stream] = []

    def reset_one() -> None:
        opened.append(pair[0].open())
        opened[-1].reset()

    def waits(call: Callable[[], object]) -> Callable[[], None]:
        def call_it() -> None:
            with contextlib.suppress(TimeoutError, BlockingIOError):
                call()

        return call_it

    calls: dict[str, Callable[[], object]] = {
        "recv": waits(lambda: near.recv(1)),
        "recv_into": waits(lambda: near.recv_into(bytearray(10))),
        "sendall": waits(lambda: near.sendall(b"x")),
        "sendall-much": waits(lambda: near.sendall(bytes(300_000))),
        "send-now": waits(lambda: near.send(b"x", socket.MSG_DONTWAIT)),
        "open": lambda: pair[0].open().close(),
        "accept": waits(pair[0].accept),
        "reset": reset_one,
    }
    assert at_every_depth(calls[name]) > 3
    core = pair[0]._engine.core
    until(lambda: pair[0].closed or not core.dirty)
    if not pair[0].closed:
        far_other.sendall(b"!")
    until(lambda: pair[0].closed or not asleep.running)
    if pair[0].closed:
        assert pair[0].wait(GUARD).code is ErrorCode.INTERNAL_ERROR
        with pytest.raises(muxado.SessionClosed):
            asleep.result()
        until(lambda: not threads_of(pair[0]))
    else:
        assert asleep.result() == b"!"
        assert core.writer == 0
    for stream in opened:
        stream.close()
    far.close()


class Struck(BaseException):
    pass


# A strike inside of a finalizer ends there: Python reports it, and goes on.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("call", ["recv", "accept", "sendall"])
def test_three_signals_at_once(sessions: Sessions, crew: Crew, call: str) -> None:
    """The second strikes where the call gives back what it holds, the third just behind."""
    pair = sessions.socketpair(heartbeat_interval=None, window=4096, max_window=4096)
    near, far = streams(pair)
    other, far_other = streams(pair)
    numbers = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
    armed = True

    def raise_struck(*_: object) -> None:
        if armed:
            raise Struck

    calls: dict[str, Callable[[], object]] = {
        "recv": lambda: near.recv(1),
        "accept": pair[0].accept,
        "sendall": lambda: near.sendall(bytes(10_000)),
    }

    def strike_thrice() -> None:
        waiting(pair[0], 1)
        for number in numbers:
            signal.pthread_kill(threading.main_thread().ident or 0, number)

    previous = [signal.signal(number, raise_struck) for number in numbers]
    try:
        striking = crew.start(strike_thrice)
        try:
            try:
                calls[call]()
            except Struck:
                armed = False
        except Struck:  # the last, before that
            armed = False
        striking.result()
    finally:
        for number, action in zip(numbers, previous, strict=True):
            signal.signal(number, action)
    core = pair[0]._engine.core
    reading = crew.start(other.recv, 1)
    until(lambda: pair[0].closed or core.leader is not None)
    if not pair[0].closed:
        with contextlib.suppress(muxado.SessionClosed):
            far_other.sendall(b"!")
    try:
        assert reading.result() == b"!"
    except muxado.SessionClosed:
        assert pair[0].wait(GUARD).code is ErrorCode.INTERNAL_ERROR
        until(lambda: not threads_of(pair[0]))
    far.close()


@pytest.mark.parametrize("call", ["recv", "sendall"])
def test_a_seat_is_lost_when_the_session_has_ended(
    sessions: Sessions, crew: Crew, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The session's threads end all the same, and its connection is closed."""
    pair = sessions.socketpair(heartbeat_interval=None, window=4096, max_window=4096)
    near, far = streams(pair)
    core, transport = pair[0]._engine.core, pair[0]._engine.transport
    owner = pair[0]._engine.reading if call == "recv" else pair[0]._engine.writing

    def end_and_strike(*_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            core.section(lambda: core.end_locked(ErrorCode.INTERNAL_ERROR, None, b""))
            raise Struck

    def strike_again(*_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            struck_again()

    def strike() -> None:
        raise Struck

    struck_again = Once(strike)

    def call_on() -> None:
        while True:  # a thread of the session's may have the seat at first
            if call == "recv":
                near.recv(1)
            else:
                near.sendall(b"x")

    def feed() -> None:
        with contextlib.suppress(OSError):
            while True:
                if call == "sendall":
                    far.recv(65536)
                else:
                    far.sendall(b"x")
                    time.sleep(0.001)

    with monkeypatch.context() as patch:
        before(patch, transport, "recv_into" if call == "recv" else "send", end_and_strike)
        name = "_give_back_locked" if call == "recv" else "give_back_locked"
        before(patch, type(owner), name, strike_again)
        feeding = crew.start(feed)
        with pytest.raises(Struck):
            call_on()
    until(lambda: not threads_of(pair[0]))
    feeding.result()
    far.close()
