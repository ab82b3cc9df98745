"""The heartbeat: asked in time, answered by any peer; silence ends the session for everybody."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable

import pytest

import muxado
from muxado import ErrorCode, HeartbeatTimeout, SessionClosed

from ..helpers.clock import INTERVAL, Clock
from ..helpers.crew import GUARD, Crew, Task
from ..helpers.support import (
    DATA,
    FIN,
    GOAWAY,
    RST,
    SYN,
    RawPeer,
    Sessions,
    frame,
    small_send_buffer,
    threads_of,
    until,
    waiting,
    word,
)

Raw = Callable[..., RawPeer]

TOLERANCE = 0.3
QUICK = {"heartbeat_interval": INTERVAL, "heartbeat_tolerance": TOLERANCE}
#: Asks often and never gives up.
PATIENT = {"heartbeat_interval": 0.02, "heartbeat_tolerance": GUARD}


def probe(*, client: bool) -> bytes:
    """An empty DATA on an id that is never opened."""
    return frame(DATA, 0, 0x7FFFFFFF if client else 0x7FFFFFFE)


def answer(asked: bytes) -> bytes:
    return frame(RST, 0, int.from_bytes(asked[4:], "big"), word(ErrorCode.STREAM_CLOSED))


@pytest.fixture
def pass_time(raw: Raw) -> Callable[[int], None]:
    """``pass_time(beats)`` returns when about so many intervals are over."""
    return Clock(raw).wait


class TestAsking:
    @pytest.mark.parametrize("client", [False, True])
    @pytest.mark.parametrize("typed", [False, True])
    def test_the_probe_comes_at_every_interval(self, raw: Raw, client: bool, typed: bool) -> None:
        peer = raw(client=client, typed=typed, **PATIENT)
        asked = probe(client=client)
        assert peer.session.latency is None
        for _ in range(4):
            assert frame(*peer.read() or ()) == asked
        assert peer.session.latency is None, "nothing was answered"
        peer.send(answer(asked))
        until(lambda: peer.session.latency is not None)
        assert peer.session.latency is not None
        assert 0 <= peer.session.latency < GUARD
        for _ in range(4):
            assert frame(*peer.read() or ()) == asked
            peer.send(answer(asked))
        assert not peer.session.closed

    @pytest.mark.parametrize("code", [0, 1, 4, 255])
    def test_any_answer_will_do(self, raw: Raw, code: int) -> None:
        peer = raw(client=True, **PATIENT)
        peer.expect(DATA, 0x7FFFFFFF)
        peer.send(frame(RST, 0, 0x7FFFFFFF, word(code)))
        until(lambda: peer.session.latency is not None)

    def test_life_is_no_answer(self, raw: Raw) -> None:
        peer = raw(**PATIENT)
        peer.expect(DATA, 0x7FFFFFFE)
        peer.send(frame(RST, 0, 5, word(4)), frame(DATA, SYN | FIN, 3, b"hello"))
        with peer.session.accept()[0] as stream:
            assert stream.recv(100) == b"hello"
        assert peer.session.latency is None

    def test_it_is_no_stream(self, raw: Raw) -> None:
        peer = raw(client=True, **PATIENT)
        peer.expect(DATA, 0x7FFFFFFF)
        peer.send(answer(probe(client=True)))
        until(lambda: peer.session.latency is not None)
        stats = peer.session.stats()
        assert (stats.streams, stats.opened, stats.accepted, stats.ignored_frames) == (0, 0, 0, 0)
        assert peer.session.drain(GUARD)

    def test_none_asks_nothing(self, raw: Raw, pass_time: Callable[[int], None]) -> None:
        peer = raw(client=True, heartbeat_interval=None)
        pass_time(10)
        assert not peer.session.closed
        with peer.session.open() as stream:
            stream.sendall(b"the first bytes")
            assert peer.expect(DATA, 3).flags == SYN
        assert peer.session.latency is None

    def test_it_overtakes_what_waits_to_be_sent(self, raw: Raw, crew: Crew) -> None:
        size = 2**22
        peer = raw(client=True, window=size, **PATIENT)
        small_send_buffer(peer.session)
        streams = [peer.session.open() for _ in range(2)]
        sending = [crew.start(stream.sendall, bytes(size)) for stream in streams]
        engine = peer.session._engine
        until(lambda: engine.writing.jam and engine.core.protocol.heartbeat_due)
        before = 0  # bytes that went before it: what the connection and one batch had taken
        while (got := peer.read()) is not None and got.stream_id != 0x7FFFFFFF:
            before += len(got.body)
        assert before < size // 4
        received = before
        while received < 2 * size:
            got = peer.read()
            assert got is not None
            received += len(got.body)
        for task in sending:
            task.result()
        for stream in streams:
            stream.close()


#: One for each time that the session asks; none is the answer that it asks for.
SIGNS = {
    "a frame": [frame(DATA, FIN, 5)] * 16,
    "a frame that means nothing": [frame(15, 0, 0)] * 16,
    "a byte of a frame": [bytes([byte]) for byte in frame(DATA, SYN, 3, bytes(8))],
}


class TestLife:
    """Whatever comes from the peer shows that it is there."""

    @pytest.mark.parametrize("name", SIGNS)
    def test_any_byte_is_life(self, raw: Raw, name: str) -> None:
        peer = raw(client=False, heartbeat_interval=INTERVAL, heartbeat_tolerance=8 * INTERVAL)
        for sign in SIGNS[name]:
            peer.expect(DATA, 0x7FFFFFFE)
            peer.send(sign)
        assert not peer.session.closed
        assert peer.session.latency is None
        assert isinstance(peer.session.wait(GUARD).error, HeartbeatTimeout), "and then silence"

    def test_a_peer_that_reads_and_says_nothing(self, raw: Raw, crew: Crew) -> None:
        """A connection that swallows everything is as dead as one that takes nothing."""
        peer = raw(client=True, **QUICK)
        frames = crew.start(peer.rest)
        with peer.session.open() as stream:
            stream.sendall(b"anybody there?")
            with pytest.raises(HeartbeatTimeout) as caught:
                stream.recv(1)
            assert not caught.value.retryable, "it may have read that"
        got = frames.result()
        assert b"".join(frame.body for frame in got if frame.stream_id == 3) == b"anybody there?"
        assert (DATA, 0, 0x7FFFFFFF, b"") in got
        assert got[-1].type == GOAWAY
        assert b"silent" in got[-1].body[8:], "the peer's people may want to know"


Call = Callable[[muxado.Session, muxado.Stream], object]

BLOCKING: dict[str, Call] = {
    "recv": lambda session, stream: stream.recv(1),
    "accept": lambda session, stream: session.accept(),
    "sendall": lambda session, stream: stream.sendall(bytes(2**20)),
    "send": lambda session, stream: [stream.send(bytes(2**20)) for _ in range(9)],
    "makefile": lambda session, stream: stream.makefile("rb").read(1),
}


def silenced(task: Task[object]) -> HeartbeatTimeout:
    """What the call in ``task`` raised, which must be the time-out of the heartbeat."""
    with pytest.raises(HeartbeatTimeout) as caught:
        task.result()
    error = caught.value
    assert isinstance(error, SessionClosed)
    assert not isinstance(error, TimeoutError), "a program would go on waiting"
    assert error.errno == errno.ECONNABORTED
    return error


class TestSilence:
    @pytest.mark.parametrize("name", BLOCKING)
    def test_it_ends_every_blocked_call(self, raw: Raw, crew: Crew, name: str) -> None:
        start = time.monotonic()
        peer = raw(client=True, window=1000, **QUICK)
        with peer.session.open() as stream:
            silenced(crew.start(BLOCKING[name], peer.session, stream))
        assert time.monotonic() - start >= INTERVAL + TOLERANCE, "not before its time"

    def test_all_of_them_at_once(self, raw: Raw, crew: Crew) -> None:
        peer = raw(client=True, window=1000, **QUICK)
        session = peer.session
        session.settimeout(GUARD)  # one of their own changes nothing
        streams = [session.open() for _ in BLOCKING]
        for stream in streams:
            stream.settimeout(GUARD)
        tasks = [
            crew.start(call, session, stream)
            for call, stream in zip(BLOCKING.values(), streams, strict=True)
        ]
        end = session.wait(GUARD)
        assert end.code == ErrorCode.SESSION_CLOSED
        assert isinstance(end.error, HeartbeatTimeout)
        causes = {silenced(task).__cause__ for task in tasks}
        assert causes == {end.error}, "one cause, told to everybody"
        assert list(session) == [], "iteration just stops"
        for call in (session.open, session.accept, lambda: streams[0].send(b"x")):
            with pytest.raises(HeartbeatTimeout):
                call()
        for stream in streams:
            stream.close()

    def test_it_ends_drain(self, raw: Raw, crew: Crew) -> None:
        """Streams are left, so there is nothing true that it could return."""
        peer = raw(client=True, **QUICK)
        with peer.session.open():
            silenced(crew.start(peer.session.drain))

    def test_nobody_needs_to_wait_for_it(self, raw: Raw) -> None:
        peer = raw(**QUICK)
        until(lambda: peer.session.closed)
        with pytest.raises(HeartbeatTimeout):
            peer.session.accept()

    def test_what_came_before_it_can_be_read(self, raw: Raw) -> None:
        peer = raw(**QUICK)
        peer.send(frame(DATA, SYN, 3, b"last words"), frame(DATA, SYN, 5, b"waits to be accepted"))
        first, _ = peer.session.accept()
        peer.session.wait(GUARD)
        assert first.recv(100) == b"last words"
        with pytest.raises(HeartbeatTimeout):
            first.recv(100)
        second, _ = peer.session.accept()
        assert second.recv(100) == b"waits to be accepted"
        first.close()
        second.close()

    @pytest.mark.parametrize("others", [0, 3])
    def test_a_caller_stuck_in_a_write(self, raw: Raw, crew: Crew, others: int) -> None:
        """The peer reads nothing, and the connection is full."""
        peer = raw(client=True, window=2**22, **QUICK)
        small_send_buffer(peer.session)
        streams = [peer.session.open() for _ in range(1 + others)]
        tasks: list[Task[object]] = [crew.start(s.sendall, bytes(2**22)) for s in streams]
        tasks += [crew.start(s.recv, 1) for s in streams]
        for task in tasks:
            silenced(task)
        for stream in streams:
            stream.close()

    def test_the_writer_thread_stuck_in_a_write(self, raw: Raw, crew: Crew) -> None:
        peer = raw(client=True, window=2**22, **QUICK)
        small_send_buffer(peer.session)
        with peer.session.open() as stream:
            stream.setblocking(False)
            with pytest.raises((BlockingIOError, HeartbeatTimeout)):
                while True:
                    stream.send(bytes(2**16))
            stream.settimeout(None)
            silenced(crew.start(stream.recv, 1))
        until(lambda: not threads_of(peer.session))

    @pytest.mark.parametrize("kind", ["tcp", "tls"])
    @pytest.mark.parametrize("name", ["recv", "sendall"])
    def test_a_session_that_cannot_do_anything(
        self, sessions: Sessions, crew: Crew, kind: str, name: str
    ) -> None:
        """Somebody sits on its lock."""
        options = {"window": 2**22, "max_window": 2**22}
        near, far = getattr(sessions, kind)(**QUICK, **options)
        with far._engine.core.lock:
            stream = near.open()
            silenced(crew.start(BLOCKING[name] if name == "recv" else flood, near, stream))
            stream.close()

    def test_an_object_for_a_connection(self, sessions: Sessions, crew: Crew) -> None:
        near, far = socket.socketpair()
        session = muxado.client(Plain(near), **QUICK)
        sessions.keep(session)
        with far, session.open() as stream:
            silenced(crew.start(stream.recv, 1))


def flood(session: muxado.Session, stream: muxado.Stream) -> None:
    while True:
        stream.sendall(bytes(2**20))


class Plain:
    """A connection of which nothing is known but that it receives, sends and closes."""

    def __init__(self, sock: socket.socket) -> None:
        self.recv = sock.recv
        self.sendall = sock.sendall
        self._sock = sock

    def close(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is closed
        self._sock.close()


@pytest.mark.parametrize("name", ["recv", "accept"])
def test_a_wait_of_its_own_is_another_matter(raw: Raw, crew: Crew, name: str) -> None:
    """A time-out of the caller's own ends the call, and the session goes on."""
    peer = raw(client=True, heartbeat_interval=INTERVAL, heartbeat_tolerance=GUARD)
    peer.session.settimeout(2 * INTERVAL)
    with peer.session.open() as stream:
        stream.settimeout(2 * INTERVAL)
        call = crew.start(BLOCKING[name], peer.session, stream)
        waiting(peer.session, 1)
        with pytest.raises(TimeoutError) as caught:
            call.result()
        assert not isinstance(caught.value, muxado.Error)
        assert not peer.session.closed
