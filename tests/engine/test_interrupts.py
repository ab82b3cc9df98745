"""Exceptions of signals' handlers, at every place of an operation where one can strike.

Whatever it struck, the session lives on as if nothing had been, or has ended with an error that
every other caller gets: no seat stays taken, nobody waits for ever, nothing is half-parsed.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import random
import select
import socket
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest

import muxado
from muxado.transport import Buffer

from ..helpers.crew import GUARD, Crew
from ..helpers.gates import Gate, polls
from ..helpers.interrupts import Between, Interrupt, Twice, WithinCalls
from ..helpers.support import Pair, Sessions, threads_of, until

#: A stream or a session that an exception has taken from its caller is nobody's.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

#: Small windows, so that a large write waits for the peer's reader, several times.
OPTIONS: dict[str, Any] = {"window": 4096, "heartbeat_interval": None, "linger": 0.2}


#: What comes in one long frame.
LONG = random.Random(1).randbytes(120_000)


class Scene:
    """A pair of sessions whose server echoes, and what an operation needs."""

    options: ClassVar[dict[str, Any]] = OPTIONS
    #: Reads past the parser, where they are counted.
    straight: int | None = None

    def __init__(self, sessions: Sessions, crew: Crew) -> None:
        self.pair: Pair = sessions.socketpair(**self.options)
        self.session, self.server = self.pair
        self.crew = crew
        self.engine = self.session._engine
        self.probe = self.session.open()
        self.probe.settimeout(GUARD)
        self.over = threading.Event()  # the operation is
        self.reader: muxado.Stream | None = None  # whose call the operation is, if it reads
        self.afterwards: Callable[[], object] = int
        crew.start(self._serve)
        self.check()

    def _serve(self) -> None:
        def echo(stream: muxado.Stream) -> None:
            with stream, contextlib.suppress(muxado.Error):
                while data := stream.recv(65536):
                    if data == b"open":
                        self.server.open().sendall(b"opened")
                    elif data == b"open two":
                        for _ in range(2):
                            self.server.open().sendall(b"opened")
                    elif data == b"long":
                        stream.sendall(LONG)
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
                and not any(stream.readers for stream in engine.protocol.streams.values())
            )

    def reading(
        self, stream: muxado.Stream, data: bytes, call: Callable[[], object]
    ) -> Callable[[], object]:
        """``call``, which is to read some of the ``data`` that comes.

        Afterwards the rest must come next: all but what the engine had returned, for what strikes
        later strikes as if the call had returned.
        """
        stream.settimeout(GUARD)
        self.reader = stream
        engine, done = self.engine, 0
        ways = {name: getattr(engine, name) for name in ("receive", "read", "read_at_once")}

        def counting(function: Callable[..., Any]) -> Any:
            def counted(*args: Any, **options: Any) -> Any:
                nonlocal done
                before = done  # one of them may call the other
                result: Any = function(*args, **options)
                done = before + (result if isinstance(result, int) else len(result))
                return result

            return counted

        def run() -> None:
            for name, way in ways.items():
                setattr(engine, name, counting(way))
            call()

        def afterwards() -> None:
            for name, way in ways.items():
                setattr(engine, name, way)
            self.check_descriptor(stream)
            with contextlib.suppress(muxado.SessionClosed):
                rest = b""
                while len(rest) < len(data) - done:
                    rest += stream.recv(len(data))
                assert rest == data[done:]
                self.check_window(stream)
                self.check_descriptor(stream)
            stream.close()

        self.afterwards = afterwards
        return run

    def check_window(self, stream: muxado.Stream) -> None:
        """What the peer may send and what was read make up the window of one that sends no more."""
        window = stream._state.receive
        with self.engine._lock:
            assert window.left + stream._state.buffered + window.read == window.size

    def check_descriptor(self, stream: muxado.Stream) -> None:
        """It says what is, if there is one."""
        state = stream._state
        if state.poller is not None:
            until(lambda: polls(stream, select.POLLIN) == self.engine.readable(state))
            until(lambda: polls(stream, select.POLLOUT) == self.engine.writable(state))

    def soon(self, act: Callable[[], object]) -> None:
        """Do ``act`` in another thread, once the operation is blocked (or over)."""
        over = self.over

        def wait() -> None:
            with contextlib.suppress(OSError):
                until(lambda: over.is_set() or self.engine.blocked())
                act()

        self.crew.start(wait)


class LongScene(Scene):
    """One whose windows are large, and whose server's long frames come in pieces."""

    options: ClassVar[dict[str, Any]] = {**OPTIONS, "window": 2**20}

    def __init__(self, sessions: Sessions, crew: Crew) -> None:
        super().__init__(sessions, crew)
        server, self._send = self.server._engine, self.server._engine.transport.send
        server.transport.send = self._send_pieces  # type: ignore[method-assign]
        self.straight = 0
        taken = self.engine.protocol.taken

        def counting(stream: Any, count: int) -> bool:
            self.straight = (self.straight or 0) + 1
            return taken(stream, count)

        self.engine.protocol.taken = counting  # type: ignore[method-assign]

    def _send_pieces(self, buffers: Any) -> int:
        """A piece of a long frame, once all before it was read and its reader waits for more."""
        data = b"".join(buffers)
        if len(data) <= 5000:
            return self._send(buffers)
        engine, server = self.engine, self.server._engine
        until(lambda: engine._received == server._sent or engine.death or server.death)
        until(lambda: self.over.is_set() or self.waits() or engine.death)
        left = len(data)
        # The first ends in mid-frame, the second leaves enough of it to be read straight.
        size = 1000 if left > len(LONG) else 30_000 if left > len(LONG) - 1000 else left
        return self._send([data[:size]])

    def waits(self) -> bool:
        """Whether memory of the one who reads can be filled."""
        post = None if self.reader is None else self.reader._state.post
        return post is not None and not post.ripe


#: Makes what the operation needs and returns the operation itself, to be interrupted.
Operation = Callable[[Scene], Callable[[], object]]


def send_small(scene: Scene) -> Callable[[], object]:
    stream = scene.session.open()
    return lambda: stream.sendall(b"x")


def send_large(scene: Scene) -> Callable[[], object]:
    """More than its window: it waits for the peer, reading meanwhile."""
    stream = scene.session.open()
    scene.afterwards = stream.reset
    return send_large_on(scene, stream)


def send_large_on(scene: Scene, stream: muxado.Stream) -> Callable[[], object]:
    def read() -> None:
        with contextlib.suppress(OSError):
            while stream.recv(65536):
                pass

    scene.crew.start(read)
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
    stream.sendall(b"0123456789")
    until(lambda: stream._state.buffered == 10)
    return scene.reading(stream, b"0123456789", lambda: stream.recv(3))


def receive(scene: Scene) -> Callable[[], object]:
    """It waits, and reads the connection itself."""
    stream = scene.session.open()
    scene.soon(lambda: stream.sendall(LONG[:3000]))
    return scene.reading(stream, LONG[:3000], lambda: stream.recv(4000))


def receive_long(scene: Scene) -> Callable[[], object]:
    """It reads long frames into its own memory."""
    stream = scene.session.open()
    scene.soon(lambda: stream.sendall(b"long"))
    return scene.reading(stream, LONG, lambda: read_into(stream))


def receive_long_behind(scene: Scene) -> Callable[[], object]:
    """Another does so for it."""
    leading, stream = scene.session.open(), scene.session.open()
    leader = scene.crew.start(leading.recv, 1)
    until(lambda: scene.engine.blocked() == 1)

    def act() -> None:
        until(lambda: scene.over.is_set() or scene.engine.blocked() == 2)
        stream.sendall(b"long")

    scene.soon(act)
    run = scene.reading(stream, LONG, lambda: read_into(stream))
    rest = scene.afterwards

    def afterwards() -> None:
        rest()
        leader.taken = True
        with contextlib.suppress(muxado.SessionClosed):
            leading.sendall(b"z")
            assert leader.result() == b"z"
            leading.close()

    scene.afterwards = afterwards
    return run


def read_into(stream: muxado.Stream) -> None:
    memory = bytearray(len(LONG))
    with memoryview(memory) as view:
        done = 0
        while done < len(LONG):
            done += stream.recv_into(view[done:])


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


def accept_beside(scene: Scene) -> Callable[[], object]:
    """Another waits for a stream too, and two come; neither is lost."""
    scene.session.settimeout(GUARD)
    asking = scene.session.open()
    beside = scene.crew.start(scene.session.accept)
    beside.taken = True
    until(lambda: scene.engine.blocked() == 1)
    accept, got = scene.engine.accept, []

    def counting(deadline: float | None) -> Any:
        got.append(accept(deadline))
        return got[-1]

    def run() -> None:
        scene.engine.accept = counting  # type: ignore[method-assign]
        scene.session.accept()[0].close()

    def act() -> None:
        until(lambda: scene.over.is_set() or scene.engine.blocked() == 2)
        asking.sendall(b"open two")

    def afterwards() -> None:
        scene.engine.accept = accept  # type: ignore[method-assign]
        with contextlib.suppress(muxado.SessionClosed):
            accepted = [beside.result()[0]]
            if not got:
                accepted.append(scene.session.accept()[0])
            for stream in accepted:
                stream.settimeout(GUARD)
                assert stream.recv(10) == b"opened"
                stream.close()

    scene.soon(act)
    scene.afterwards = afterwards
    return run


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


def receive_polled(scene: Scene) -> Callable[[], object]:
    """Its descriptor is in use, so the reader thread keeps the seat, and says what is left."""
    stream = scene.session.open()
    stream.fileno()
    scene.soon(lambda: stream.sendall(b"y" * 3000))
    return scene.reading(stream, b"y" * 3000, lambda: stream.recv(4000))


def send_polled(scene: Scene) -> Callable[[], object]:
    stream = scene.session.open()
    stream.fileno()
    read_on = send_large_on(scene, stream)

    def afterwards() -> None:
        scene.check_descriptor(stream)
        stream.reset()
        stream.close()

    scene.afterwards = afterwards
    return read_on


def half_close(scene: Scene) -> Callable[[], object]:
    stream = scene.session.open()
    scene.afterwards = stream.close

    def run() -> None:
        stream.sendall(b"x")
        stream.shutdown(socket.SHUT_RD)
        stream.close_write()

    return run


def hush_with_bytes_unread(scene: Scene) -> Callable[[], object]:
    stream = scene.session.open()
    stream.sendall(b"0123456789")
    until(lambda: stream._state.buffered == 10)

    def afterwards() -> None:
        stream.settimeout(GUARD)
        assert stream.recv(100) in (b"", b"0123456789")
        stream.close()

    scene.afterwards = afterwards
    return lambda: stream.shutdown(socket.SHUT_RD)


def reset(scene: Scene) -> Callable[[], object]:
    stream = scene.session.open()
    stream.sendall(b"x")
    return stream.reset


def close_with_bytes_unread(scene: Scene) -> Callable[[], object]:
    stream = scene.session.open()
    stream.sendall(b"x")
    until(lambda: stream._state.buffered)
    return stream.close


def priorities(scene: Scene) -> Callable[[], object]:
    stream, other = scene.session.open(), scene.session.open(priority=7)
    stream.sendall(b"x")

    def run() -> None:
        stream.priority = 5
        other.close()

    def afterwards() -> None:
        other.close()
        protocol = scene.engine.protocol
        with scene.engine._lock:
            mine = [each for each in protocol.streams.values() if not each.fin_out]
            assert protocol.levels == Counter(each.priority for each in mine)
            assert protocol.mixed == (len(protocol.levels) > 1)
        stream.close()

    scene.afterwards = afterwards
    return run


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
    receive_polled,
    send_polled,
    accept,
    accept_beside,
    open_and_close,
    time_out,
    poll,
    half_close,
    hush_with_bytes_unread,
    reset,
    close_with_bytes_unread,
    priorities,
]

#: Of these scenes of their own are made.
LONG_READS: list[Operation] = [receive_long, receive_long_behind]

#: What others depend on most, for two exceptions.
TWICE: list[Operation] = [send_large, receive, receive_behind, accept_beside, *LONG_READS]

LOGGED: list[Operation] = [send_small, receive, accept, open_and_close]

#: These end the session.
LAST: list[Operation] = [go_away, drain, close_session, kill_session]


def strike_everywhere(
    sessions: Sessions,
    crew: Crew,
    operation: Operation,
    kind: Any,
    make: type[Scene] = Scene,
    first: int = 1,
    stride: int = 1,
) -> float:
    """Strike at each place of ``operation`` in turn; the part of them that the session survived.

    Those are ``stride`` places apart.
    """
    scene = make(sessions, crew)
    lived = straight = 0
    for tried, place in enumerate(itertools.count(first, stride), 1):
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
            again = getattr(striker, "again", None)
            where = f"struck at place {place}: {striker.struck}, then {again}"
            error.args = (where, *error.args)
            raise
        if striker.struck is None:
            assert tried > 3
            if scene.straight is not None:
                assert straight + scene.straight, "nothing was read past the parser"
            return lived / tried
        lived += alive
        if not alive:
            scene.leave()
            straight += scene.straight or 0
            scene = make(sessions, crew)
    raise AssertionError


@pytest.mark.parametrize("kind", [Between, WithinCalls])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_at_every_place(sessions: Sessions, crew: Crew, operation: Operation, kind: Any) -> None:
    assert strike_everywhere(sessions, crew, operation, kind) > 0.25


@pytest.mark.parametrize("kind", [Between, WithinCalls])
@pytest.mark.parametrize("operation", LONG_READS, ids=lambda operation: operation.__name__)
def test_at_every_place_of_a_long_read(
    sessions: Sessions, crew: Crew, operation: Operation, kind: Any
) -> None:
    assert strike_everywhere(sessions, crew, operation, kind, LongScene, stride=2) > 0.25


@pytest.mark.parametrize("later", [1, 2, 3, 5, 8, 13])
@pytest.mark.parametrize("operation", TWICE, ids=lambda operation: operation.__name__)
def test_twice(sessions: Sessions, crew: Crew, operation: Operation, later: int) -> None:
    """The second exception strikes what clears up behind the first.

    That is much the same wherever the first has struck, so not every place is tried with each.
    """

    def kind(place: int) -> Twice:
        return Twice(place, later)

    make = LongScene if operation in LONG_READS else Scene
    strike_everywhere(sessions, crew, operation, kind, make, first=later, stride=7)


@pytest.mark.parametrize("operation", LOGGED, ids=lambda operation: operation.__name__)
def test_at_every_place_while_all_is_logged(
    sessions: Sessions, crew: Crew, operation: Operation, caplog: pytest.LogCaptureFixture
) -> None:
    """No lock of a session's is let go by anything that could be struck before it does so."""
    caplog.set_level(logging.DEBUG, "muxado")
    assert strike_everywhere(sessions, crew, operation, Between) > 0.25
    assert "muxado.frames" in {record.name for record in caplog.records}


@pytest.mark.parametrize("kind", [Between, WithinCalls])
@pytest.mark.parametrize("operation", LAST, ids=lambda operation: operation.__name__)
def test_at_every_place_of_an_end(
    sessions: Sessions, crew: Crew, operation: Operation, kind: Any
) -> None:
    strike_everywhere(sessions, crew, operation, kind)


def test_nothing_follows_what_the_transport_had_taken_and_may_have_sent(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As TLS has, where the connection did not take all of it: no batch is under way then."""
    session, peer = sessions.socketpair(heartbeat_interval=None)
    transport = session._engine.transport
    send = transport.send

    def strike(buffers: Sequence[Buffer]) -> int:
        assert not buffers
        transport.pending = False
        monkeypatch.setattr(transport, "send", send)
        raise Interrupt

    monkeypatch.setattr(transport, "send", strike)
    transport.pending = True
    with pytest.raises(Interrupt):
        session._engine.push()
    assert session.wait(GUARD).code == muxado.ErrorCode.INTERNAL_ERROR
    assert peer.wait(GUARD).code == muxado.ErrorCode.PEER_EOF
