"""Exceptions of signals' handlers, at every place of an operation where one can strike.

Whatever it struck, the session lives on as if nothing had been, or has ended with an error that
every other caller gets: no seat stays taken, nobody waits for ever, nothing is half-parsed.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

import muxado

from .conformance.crew import GUARD, Crew
from .gates import Gate
from .interrupts import Between, Interrupt, WithinCalls
from .support import Pair, Sessions, threads_of, until

#: Small windows, so that a large write waits for the peer's reader, several times.
OPTIONS: dict[str, Any] = {"window": 4096, "heartbeat_interval": None, "linger": 0.2}


class Scene:
    """A pair of sessions whose server echoes, and what an operation needs."""

    def __init__(self, sessions: Sessions, crew: Crew) -> None:
        self.pair: Pair = sessions.socketpair(**OPTIONS)
        self.session, self.server = self.pair
        self.crew = crew
        self.engine = self.session._engine
        self.probe = self.session.open()
        self.probe.settimeout(GUARD)
        self.over = threading.Event()  # the operation is
        self.afterwards: Callable[[], object] = int
        crew.start(self._serve)
        self.check()

    def _serve(self) -> None:
        def echo(stream: muxado.Stream) -> None:
            with stream, contextlib.suppress(muxado.Error):
                while data := stream.recv(65536):
                    if data == b"open":
                        self.server.open().sendall(b"opened")
                    else:
                        stream.sendall(data)

        for stream in self.server:
            threading.Thread(target=echo, args=(stream,), daemon=True).start()

    def check(self) -> None:
        """Another stream is heard by both ends."""
        self.probe.sendall(b"are you there?")
        got = b""
        while len(got) < 14:
            got += self.probe.recv(100)
        assert got == b"are you there?"

    def goes_on(self) -> bool:
        """Whether the session lives; if so every part of it does, and nobody is left in it."""
        try:
            self.crew.start(self.check).result()
            self.crew.start(self.check).result()
        except muxado.SessionClosed:
            assert self.session.closed
            assert self.server.wait(GUARD).code != muxado.ErrorCode.PROTOCOL_ERROR
            return False
        until(self.quiet)
        return True

    def leave(self) -> None:
        """The session is over, and its threads and its connection go."""
        until(lambda: not threads_of(self.session) and not threads_of(self.server))

    def quiet(self) -> bool:
        """Nobody sits, nobody waits."""
        engine = self.engine
        with engine._lock:
            return (
                not engine._writing
                and engine._reading in (None, engine._reader_waiter)
                and not engine._waiters
                and not engine._willing
                and not engine._senders
                and not engine._acceptors
                and not engine._watchers
                and not engine._flushers
            )

    def soon(self, act: Callable[[], object]) -> None:
        """Do ``act`` in another thread, once the operation is blocked (or over)."""
        over = self.over

        def wait() -> None:
            with contextlib.suppress(muxado.Error):
                until(lambda: over.is_set() or self.engine.blocked())
                act()

        self.crew.start(wait)


#: Makes what the operation needs and returns the operation itself, to be interrupted.
Operation = Callable[[Scene], Callable[[], object]]


def send_small(scene: Scene) -> Callable[[], object]:
    stream = scene.session.open()
    return lambda: stream.sendall(b"x")


def send_large(scene: Scene) -> Callable[[], object]:
    """More than its window: it waits for the peer, reading meanwhile."""
    stream = scene.session.open()

    def read() -> None:
        with contextlib.suppress(OSError):
            while stream.recv(65536):
                pass

    scene.crew.start(read)
    scene.afterwards = stream.reset
    return lambda: stream.sendall(bytes(9000))


def send_now(scene: Scene) -> Callable[[], object]:
    stream = scene.session.open()
    stream.setblocking(False)
    return lambda: stream.send(b"x")


def send_behind(scene: Scene) -> Callable[[], object]:
    """Another is writing, and takes along what is sent, the SYN of two streams with it."""
    return _behind_a_writer(scene, blocking=True)


def send_now_behind(scene: Scene) -> Callable[[], object]:
    return _behind_a_writer(scene, blocking=False)


def _behind_a_writer(scene: Scene, *, blocking: bool) -> Callable[[], object]:
    transport = scene.engine.transport
    send = transport.send
    gate = Gate()

    def stop(buffers: Any) -> int:
        gate.stop()
        return send(buffers)

    transport.send = stop  # type: ignore[method-assign]
    writing = scene.crew.start(scene.session.open().sendall, b"x")
    gate.reached()
    earlier, stream = scene.session.open(), scene.session.open()
    stream.setblocking(blocking)

    def afterwards() -> None:
        transport.send = send  # type: ignore[method-assign]
        gate.open()
        with contextlib.suppress(muxado.SessionClosed):
            writing.result()
            earlier.settimeout(GUARD)
            earlier.sendall(b"y")
            assert earlier.recv(2) == b"y"
            earlier.close()

    scene.afterwards = afterwards
    return lambda: stream.send(b"x" * 10)


def receive_what_waits(scene: Scene) -> Callable[[], object]:
    stream = scene.session.open()
    stream.settimeout(GUARD)
    stream.sendall(b"x" * 10)
    until(lambda: stream._state.buffered)
    return lambda: stream.recv(3)


def receive(scene: Scene) -> Callable[[], object]:
    """It waits, and reads the connection itself."""
    stream = scene.session.open()
    stream.settimeout(GUARD)
    scene.soon(lambda: stream.sendall(b"y" * 3000))
    return lambda: stream.recv(4000)


def receive_behind(scene: Scene) -> Callable[[], object]:
    """It waits while another reads the connection."""
    first, stream = scene.session.open(), scene.session.open()
    for each in (first, stream):
        each.settimeout(GUARD)

    def lead() -> None:
        with contextlib.suppress(OSError):
            first.recv(1)

    leading = scene.crew.start(lead)
    leading.taken = True
    until(lambda: scene.engine.blocked() == 1)

    def act() -> None:
        until(lambda: scene.over.is_set() or scene.engine.blocked() == 2)
        stream.sendall(b"z")
        first.sendall(b"z")

    scene.soon(act)
    return lambda: stream.recv(1)


def accept(scene: Scene) -> Callable[[], object]:
    scene.session.settimeout(GUARD)
    asking = scene.session.open()
    scene.soon(lambda: asking.sendall(b"open"))
    return scene.session.accept


def open_and_close(scene: Scene) -> Callable[[], object]:
    def run() -> None:
        with scene.session.open():
            pass

    return run


def time_out(scene: Scene) -> Callable[[], object]:
    stream = scene.session.open()
    stream.settimeout(0.001)

    def run() -> None:
        with pytest.raises(TimeoutError):
            stream.recv(1)

    return run


def poll(scene: Scene) -> Callable[[], object]:
    stream = scene.session.open()

    def run() -> None:
        stream.fileno()
        stream.sendall(b"x")
        stream.recv(1)
        stream.close()

    return run


def half_close(scene: Scene) -> Callable[[], object]:
    stream = scene.session.open()
    scene.afterwards = stream.close

    def run() -> None:
        stream.sendall(b"x")
        stream.shutdown(socket.SHUT_RD)
        stream.close_write()

    return run


def reset(scene: Scene) -> Callable[[], object]:
    stream = scene.session.open()
    stream.sendall(b"x")
    return stream.reset


def close_with_bytes_unread(scene: Scene) -> Callable[[], object]:
    stream = scene.session.open()
    stream.sendall(b"x")
    until(lambda: stream._state.buffered)
    return stream.close


def go_away(scene: Scene) -> Callable[[], object]:
    scene.afterwards = scene.session.kill
    return scene.session.go_away


def drain(scene: Scene) -> Callable[[], object]:
    scene.afterwards = scene.session.kill
    return lambda: scene.session.drain(0.001)


def close_session(scene: Scene) -> Callable[[], object]:
    scene.afterwards = scene.session.close  # what was cut short can be done again
    return scene.session.close


def kill_session(scene: Scene) -> Callable[[], object]:
    scene.afterwards = scene.session.kill
    return scene.session.kill


OPERATIONS: list[Operation] = [
    send_small,
    send_large,
    send_now,
    send_behind,
    send_now_behind,
    receive_what_waits,
    receive,
    receive_behind,
    accept,
    open_and_close,
    time_out,
    poll,
    half_close,
    reset,
    close_with_bytes_unread,
]

#: These end the session.
LAST: list[Operation] = [go_away, drain, close_session, kill_session]


def strike_everywhere(sessions: Sessions, crew: Crew, operation: Operation, kind: Any) -> float:
    """Strike at each place of ``operation`` in turn; the part of them that the session survived."""
    scene = Scene(sessions, crew)
    place = lived = 0
    while True:
        place += 1
        scene.over = threading.Event()
        run = operation(scene)
        striker = kind(place)
        try:
            with striker:
                run()
        except Interrupt:
            pass
        try:
            scene.over.set()
            scene.afterwards()
            alive = scene.goes_on()
        except BaseException as error:
            error.args = (f"struck at place {place}: {striker.struck}", *error.args)
            raise
        if striker.struck is None:
            assert place > 3
            return lived / place
        lived += alive
        if not alive:
            scene.leave()
            scene = Scene(sessions, crew)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("kind", [Between, WithinCalls])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_at_every_place(sessions: Sessions, crew: Crew, operation: Operation, kind: Any) -> None:
    assert strike_everywhere(sessions, crew, operation, kind) > 0.25


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("kind", [Between, WithinCalls])
@pytest.mark.parametrize("operation", LAST, ids=lambda operation: operation.__name__)
def test_at_every_place_of_an_end(
    sessions: Sessions, crew: Crew, operation: Operation, kind: Any
) -> None:
    strike_everywhere(sessions, crew, operation, kind)
