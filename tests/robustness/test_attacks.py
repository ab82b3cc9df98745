"""Attacks in raw frames on whole sessions: what they cost in memory and work, and how they end.

Memory is what Python allocates while the attack lasts, its frames made before. Work is the
processor's time, of both ends, held against honest traffic of as many frames in the same run.
``unit/test_budget.py`` has every flood alone, without threads.
"""

from __future__ import annotations

import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType

import pytest

import muxado
from muxado import ErrorCode, accepting

from ..helpers.certificate import Certificate
from ..helpers.crew import GUARD, Crew
from ..helpers.support import (
    DATA,
    FIN,
    GOAWAY,
    RST,
    SYN,
    WNDINC,
    RawPeer,
    Sessions,
    frame,
    read_all,
    small_send_buffer,
    until,
    waiting,
    word,
)

Raw = Callable[..., RawPeer]

KIB, MIB = 2**10, 2**20
#: No flood is ended by the budget, so that what else bounds it can be seen.
UNLIMITED = 10**12


class Meter:
    """What happens in the ``with`` block costs ``memory`` bytes at the most at a time."""

    memory = 0

    def __enter__(self) -> Meter:
        tracemalloc.start()
        self._before = tracemalloc.get_traced_memory()[0]
        return self

    def look(self) -> int:
        """Bytes that are in use now."""
        return tracemalloc.get_traced_memory()[0] - self._before

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.memory = tracemalloc.get_traced_memory()[1] - self._before
        tracemalloc.stop()


def stop_the_clock(peer: RawPeer) -> None:
    """However slow the machine, the flood comes at once."""
    budget = peer.session._engine.core.protocol.budget
    now = budget._clock()
    budget._clock = lambda: now


def flood(peer: RawPeer, frames: bytes, *, part: int = 64 * KIB) -> None:
    """Send all of it, or as much as the session lives to see."""
    try:
        for start in range(0, len(frames), part):
            peer.sock.sendall(frames[start : start + part])
    except OSError:
        assert peer.session.wait(GUARD)


def drain(peer: RawPeer) -> None:
    """Read whatever comes, to the end of the connection."""
    try:
        while peer.sock.recv(256 * KIB):
            pass
    except OSError:
        pass


def calmed(peer: RawPeer) -> muxado.SessionEnd:
    end = peer.session.wait(GUARD)
    assert end.code is ErrorCode.ENHANCE_YOUR_CALM
    assert isinstance(end.error, muxado.EnhanceYourCalm)
    return end


def rapid_reset() -> Iterator[bytes]:
    for number in range(3, 60_003, 2):
        yield frame(DATA, SYN, number)
        yield frame(RST, 0, number, word(ErrorCode.STREAM_CANCELLED))


FLOODS: dict[str, Callable[[], Iterable[bytes]]] = {
    "rapid-reset": rapid_reset,
    "empty-data": lambda: [frame(DATA, 0, 1)] * 60_000,
    "window": lambda: [frame(WNDINC, 0, 1, word(1))] * 60_000,
    "window-nobody": lambda: [frame(WNDINC, 0, 99, word(1))] * 60_000,
    "fin-nobody": lambda: [frame(DATA, FIN, 99)] * 60_000,
    "rst-nobody": lambda: [frame(RST, 0, 99, word(0))] * 60_000,
    "probes": lambda: [frame(DATA, 0, 0x7FFFFFFF)] * 60_000,
    "unknown": lambda: [frame(9, 0, 0)] * 60_000,
    "goaway": lambda: [frame(GOAWAY, 0, 0, word(0) + word(0))] * 1_000,
}


@pytest.mark.parametrize("reads", [True, False], ids=["reads", "deaf"])
@pytest.mark.parametrize("name", FLOODS)
def test_floods(raw: Raw, crew: Crew, name: str, reads: bool) -> None:
    """They end with ENHANCE_YOUR_CALM, whether the peer reads what comes of it or not."""
    peer = raw()
    peer.send(frame(DATA, SYN, 1))
    stream, _ = peer.session.accept()
    stop_the_clock(peer)
    frames = b"".join(FLOODS[name]())
    if reads:
        crew.start(drain, peer)
    with Meter() as meter:
        flood(peer, frames)
        end = peer.session.wait(GUARD)
    if name == "goaway":  # it has said how it ends
        assert end.code is ErrorCode.NO_ERROR
    else:
        calmed(peer)
    assert meter.memory < 8 * MIB
    stream.close()


def test_rapid_reset_hands_out_no_more_streams_than_may_be_open(raw: Raw, crew: Crew) -> None:
    """An application gets a stream and a thread starts to work; the reset gives no place back."""
    peer = raw(max_streams=20, flood_budget=UNLIMITED)
    held: list[muxado.Stream] = []
    crew.start(lambda: held.extend(peer.session))
    crew.start(drain, peer)
    number = 3
    while len(held) < 20:
        have = len(held)
        peer.send(frame(DATA, SYN, number, b"work"))
        until(lambda: len(held) > have)  # noqa: B023
        peer.send(frame(RST, 0, number, word(6)))
        number += 2
    with Meter() as meter:
        for first in range(number, number + 20_000, 2_000):
            flood(
                peer,
                b"".join(
                    frame(DATA, SYN, i, b"work") + frame(RST, 0, i, word(6))
                    for i in range(first, first + 2_000, 2)
                ),
            )
        until(lambda: peer.session.stats().bytes_received > 10_000 * 24)
        assert meter.look() < 2 * MIB
    assert len(held) == 20
    assert held[0].recv(9) == b"work"
    with pytest.raises(muxado.StreamReset):
        held[0].recv(1)
    while held:
        held.pop().close()
    peer.send(frame(DATA, SYN | FIN, 1, b"work"))
    until(lambda: held)  # there is room again
    assert held[0].recv(9) == b"work"
    held.pop().close()


@pytest.mark.parametrize("part", [100 * 8, 64 * KIB])
def test_resets_that_are_drawn_and_never_read(raw: Raw, part: int) -> None:
    """However they are cut into reads, what is owed is bounded by itself."""
    peer = raw(flood_budget=UNLIMITED)
    small_send_buffer(peer.session)
    frames = b"".join(frame(DATA, 0, number, b"") for number in range(3, 120_003, 2))
    with Meter() as meter:
        flood(peer, frames, part=part)
        calmed(peer)
    assert meter.memory < 8 * MIB


def test_streams_served_for_a_peer_that_reads_nothing(raw: Raw, crew: Crew) -> None:
    """The end of each is owed; it counts as open until the peer has been told."""
    peer = raw(max_streams=200, flood_budget=UNLIMITED)
    small_send_buffer(peer.session)
    served: list[int] = []

    def serve() -> None:
        for stream in peer.session:
            stream.close()
            served.append(stream.id)

    crew.start(serve)
    frames = b"".join(frame(DATA, SYN, number, b"!") for number in range(3, 100_003, 2))
    with Meter() as meter:
        flood(peer, frames)
        calmed(peer)
    assert meter.memory < 16 * MIB


@pytest.mark.parametrize(
    "options", [{"max_streams": 50}, {"accept_backlog": 50}], ids=["max_streams", "accept_backlog"]
)
def test_syns_past_the_limits(raw: Raw, crew: Crew, options: dict[str, int]) -> None:
    peer = raw(flood_budget=UNLIMITED, **options)
    crew.start(drain, peer)
    frames = b"".join(frame(DATA, SYN, number, b"!") for number in range(3, 80_003, 2))
    with Meter() as meter:
        flood(peer, frames)
        until(lambda: peer.session.stats().bytes_received == len(frames))
        assert meter.look() < MIB
    assert meter.memory < 8 * MIB
    stats = peer.session.stats()
    assert (stats.streams, stats.backlog) == (50, 50)
    for _ in range(50):
        stream, _ = peer.session.accept()
        assert stream.recv(9) == b"!"
        stream.close()
    until(lambda: peer.session.stats().streams == 0)
    peer.send(frame(DATA, SYN | FIN, 1, b"now"))
    with peer.session.accept()[0] as stream:
        assert read_all(stream) == b"now"


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_window_full_of_tiny_frames(raw: Raw, size: int) -> None:
    window = 64 * KIB
    peer = raw(window=window)
    peer.send(frame(DATA, SYN, 3))
    stream, _ = peer.session.accept()
    frames = frame(DATA, 0, 3, b"abc"[:size]) * (window // size)
    with Meter() as meter:
        flood(peer, frames)
        until(lambda: stream._state.buffer.size == window // size * size)
        assert meter.look() <= 3 * window
    assert len(stream.recv(window)) > 0
    stream.close()


def test_tiny_frames_on_every_stream(raw: Raw) -> None:
    """What a stream costs besides its bytes, for as many as there may be."""
    count = 2_000
    peer = raw(accept_backlog=count, max_streams=count)
    opening = b"".join(frame(DATA, SYN, 2 * i + 3) for i in range(count))
    frames = b"".join(frame(DATA, 0, 2 * i + 3, b"ab") for i in range(count)) * 3
    with Meter() as meter:
        flood(peer, opening + frames)
        until(lambda: peer.session.stats().bytes_received == len(opening + frames))
        assert meter.look() < count * 2 * KIB


def test_a_window_over_the_top(raw: Raw, crew: Crew) -> None:
    peer = raw()
    peer.send(frame(DATA, SYN, 3), frame(DATA, SYN, 5))
    stream, other = peer.session.accept()[0], peer.session.accept()[0]
    sending = crew.start(stream.sendall, bytes(MIB))  # more than the window
    waiting(peer.session, 1)
    peer.send(frame(WNDINC, 0, 3, word(2**31 - 1)), frame(WNDINC, 0, 3, word(2**31 - 1)))
    crew.start(drain, peer)
    with pytest.raises(muxado.FlowControlError):
        sending.result()
    peer.send(frame(DATA, FIN, 5, b"fine"))
    assert read_all(other) == b"fine"
    stream.close()
    other.close()


def test_a_frame_of_16_mib_for_nobody(raw: Raw) -> None:
    peer = raw()
    size = 2**24 - 1
    head = frame(DATA, 0, 99, b"")
    head = size.to_bytes(3, "big") + head[3:]
    part, last = bytes(MIB), bytes(MIB - 1)
    with Meter() as meter:
        peer.send(head)
        assert peer.expect(RST, 99).word == ErrorCode.STREAM_CLOSED
        for _ in range(15):
            peer.sock.sendall(part)
        peer.sock.sendall(last)
        until(lambda: peer.session.stats().bytes_received == size + 8)
    assert meter.memory < MIB
    assert peer.session.stats().streams == 0
    peer.send(frame(DATA, SYN | FIN, 3, b"in step"))
    with peer.session.accept()[0] as stream:
        assert read_all(stream) == b"in step"


def test_a_goaway_with_8_mib_of_debug(raw: Raw) -> None:
    peer = raw()
    body = word(0) + word(ErrorCode.INTERNAL_ERROR) + b"debug..." * MIB
    whole = frame(GOAWAY, 0, 0, body)
    with Meter() as meter:
        flood(peer, whole)
        peer.sock.shutdown(socket.SHUT_WR)
        end = peer.session.wait(GUARD)
    assert meter.memory < MIB
    assert end.code is ErrorCode.INTERNAL_ERROR
    assert len(end.debug) == 4096
    assert end.debug == (b"debug..." * 512)


class TestHeadersThatNeverFinish:
    @pytest.mark.parametrize(
        "start",
        [
            frame(DATA, SYN, 5, b"x")[:7],
            frame(RST, 0, 3, word(0))[:11],
            frame(GOAWAY, 0, 0, word(0) * 1000)[:-1],
        ],
        ids=["header", "rst", "goaway"],
    )
    def test_they_hold_up_nothing_else(self, raw: Raw, start: bytes) -> None:
        peer = raw()
        peer.send(frame(DATA, SYN, 3, b"ask"))
        stream, _ = peer.session.accept()
        with Meter() as meter:
            for number in range(len(start)):
                peer.send(start[number : number + 1])
            assert stream.recv(9) == b"ask"
            stream.sendall(b"answer")
            assert peer.expect(DATA, 3).body == b"answer"
        assert meter.memory < 512 * KIB
        stream.close()
        assert peer.expect(DATA, 3).flags == FIN
        peer.session.close()
        assert peer.goaway().word == 3

    def test_they_are_silence(self, raw: Raw) -> None:
        peer = raw(heartbeat_interval=0.05, heartbeat_tolerance=0.1)
        peer.send(frame(DATA, SYN, 3)[:5])
        end = peer.session.wait(GUARD)
        assert isinstance(end.error, muxado.HeartbeatTimeout)


class TestTLSClientsThatNeverSpeak:
    def test_they_take_no_thread_each(self, sessions: Sessions, certificate: Certificate) -> None:
        with muxado.listen_tls(("127.0.0.1", 0), certificate.server_context()) as listening:
            address = listening.getsockname()
            threads = threading.active_count()
            silent = [socket.create_connection(address) for _ in range(60)]
            client = muxado.dial_tls(
                address, certificate.client_context(), server_hostname="localhost", timeout=GUARD
            )
            listening.settimeout(GUARD)
            server, _ = listening.accept()
            sessions.keep(client, server)
            assert threading.active_count() == threads + 4  # two for each session
            for sock in silent:
                sock.close()

    def test_each_has_its_time(
        self, monkeypatch: pytest.MonkeyPatch, certificate: Certificate
    ) -> None:
        monkeypatch.setattr(accepting, "HANDSHAKE_TIMEOUT", 0.05)
        context = certificate.server_context()
        with (
            muxado.listen_tls(("127.0.0.1", 0), context) as listening,
            socket.create_connection(listening.getsockname()) as silent,
        ):
            silent.settimeout(GUARD)
            assert silent.recv(100) == b""

    def test_there_are_only_so_many(
        self, monkeypatch: pytest.MonkeyPatch, certificate: Certificate
    ) -> None:
        """One more, and the one that has had the most time goes."""
        monkeypatch.setattr(accepting, "_MAX_HANDSHAKES", 3)
        with muxado.listen_tls(("127.0.0.1", 0), certificate.server_context()) as listening:
            silent = [socket.create_connection(listening.getsockname()) for _ in range(5)]
            for sock in silent[:2]:
                sock.settimeout(GUARD)
                assert sock.recv(100) == b""
            for sock in silent[2:]:
                sock.setblocking(False)
                with pytest.raises(BlockingIOError):
                    sock.recv(100)
            for sock in silent:
                sock.close()


class TestAPeerThatNeverReads:
    def test_senders_time_out_and_memory_stays(self, raw: Raw, crew: Crew) -> None:
        peer = raw()
        small_send_buffer(peer.session)
        peer.send(*(frame(DATA, SYN, 2 * i + 3) for i in range(50)))
        streams = [peer.session.accept()[0] for _ in range(50)]
        payload = bytes(MIB)
        with Meter() as meter:
            for stream in streams:
                stream.settimeout(0.001)
                with pytest.raises(TimeoutError):
                    stream.sendall(payload)
                stream.setblocking(False)
                with pytest.raises(BlockingIOError):
                    stream.sendall(payload)
        assert meter.memory < 2 * MIB
        peer.session.kill()
        for stream in streams:
            stream.close()

    def test_frames_that_a_sender_gave_up_are_few(self, raw: Raw) -> None:
        """They count as sent and wait for the connection; there is a bound to that."""
        peer = raw()
        small_send_buffer(peer.session)
        peer.send(frame(DATA, SYN, 3), frame(WNDINC, 0, 3, word(2**30)))
        stream, _ = peer.session.accept()
        stream.settimeout(0.001)
        payload = bytes(MIB)
        with Meter() as meter:
            for _ in range(50):
                try:
                    while True:
                        stream.send(payload)
                except TimeoutError:
                    pass
            assert meter.look() < MIB
        assert meter.memory < 2 * MIB
        peer.session.kill()
        stream.close()

    def test_what_it_sends_is_read_all_the_same(self, raw: Raw, crew: Crew) -> None:
        """And what is owed for it is one update for each stream."""
        peer = raw(window=1000, max_window=1000, flood_budget=UNLIMITED)
        small_send_buffer(peer.session)
        peer.send(*(frame(DATA, SYN, 2 * i + 3) for i in range(50)))
        peer.send(frame(WNDINC, 0, 3, word(2**30)))
        streams = [peer.session.accept()[0] for _ in range(50)]
        filling = crew.start(streams[0].sendall, bytes(MIB))  # the connection
        until(lambda: peer.session._engine.writing.jam)
        with Meter() as meter:
            for stream in streams[1:]:
                peer.send(frame(DATA, 0, stream.id, bytes(1000)))
                for _ in range(10):
                    assert len(stream.recv(100)) == 100
            assert meter.look() < 256 * KIB
        assert len(peer.session._engine.core.protocol.pending.grants) == 49
        crew.start(drain, peer)
        filling.result()
        until(lambda: not peer.session._engine.core.protocol.pending.grants)
        peer.session.kill()
        for stream in streams:
            stream.close()


WORK = ["rapid-reset", "empty-data", "window", "window-nobody", "rst-nobody", "unknown"]


@pytest.mark.parametrize("name", WORK)
def test_what_a_flood_costs(raw: Raw, crew: Crew, name: str) -> None:
    """Frame for frame a few times honest traffic at the most, if the budget did not end it."""
    peer = raw(flood_budget=UNLIMITED, max_window=2**24, window=2**24)
    peer.send(frame(DATA, SYN, 1))
    stream, _ = peer.session.accept()
    reading = crew.start(read_all, stream)
    crew.start(drain, peer)
    flooding = list(FLOODS[name]())[:30_000]
    honest = [frame(DATA, 0, 1, bytes(64))] * 30_000
    markers = iter(range(10**6 + 1, 10**6 + 99, 2))

    def work(frames: list[bytes]) -> float:
        data = b"".join(frames) + frame(DATA, SYN | FIN, next(markers))
        before = time.process_time()
        flood(peer, data)
        peer.session.accept()[0].close()  # all that came before it has been dealt with
        return time.process_time() - before

    first, attack, second = work(honest), work(flooding), work(honest)
    assert attack < 8 * max(first, second)
    peer.send(frame(DATA, FIN, 1))
    assert len(reading.result()) == 2 * 30_000 * 64
    stream.close()
