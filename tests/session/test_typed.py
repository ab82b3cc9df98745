"""Typed streams of version 2: the type is the first four bytes, and heartbeat streams have one."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

import muxado
from muxado import ErrorCode

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
    streams,
    waiting,
    word,
)

Raw = Callable[..., RawPeer]

BEAT = word(0xFFFFFFFF)  # the type of the streams on which heartbeats are asked
TYPES = [0, 1, 0x2A, 0xFFFFFFFE]


def syn(stream_id: int, body: bytes = b"", *, fin: bool = False) -> bytes:
    return frame(DATA, SYN | fin, stream_id, body)


def data(stream_id: int, body: bytes = b"", *, fin: bool = False) -> bytes:
    return frame(DATA, int(fin), stream_id, body)


def lives(peer: RawPeer, stream_id: int) -> None:
    """The session goes on, and this is the next stream that the application sees."""
    peer.send(syn(stream_id, word(1) + b"alive", fin=True))
    peer.session.settimeout(GUARD)
    with peer.session.accept()[0] as stream:
        assert stream.id == stream_id
        assert read_all(stream) == b"alive"


class TestOpening:
    """What goes out for a stream of ours."""

    @pytest.mark.parametrize("kind", TYPES)
    def test_the_type_goes_with_the_first_bytes(self, raw: Raw, kind: int) -> None:
        peer = raw(client=True, typed=True)
        with peer.session.open(stream_type=kind) as stream:
            assert stream.stream_type == kind
            stream.sendall(b"hello")
            assert opening(peer, 9) == word(kind) + b"hello"
            stream.sendall(b"again")
            assert peer.read() == (DATA, 0, 3, b"again"), "once is enough"

    def test_nothing_is_written(self, raw: Raw) -> None:
        peer = raw(client=True, typed=True)
        with peer.session.open(stream_type=7):
            assert peer.read() == (DATA, SYN, 3, word(7))
        assert peer.read() == (DATA, FIN, 3, b"")

    def test_nothing_will_be_written(self, raw: Raw) -> None:
        peer = raw(client=True, typed=True)
        with peer.session.open(stream_type=7, fin=True):
            assert peer.read() == (DATA, SYN, 3, word(7))
            assert peer.read() == (DATA, FIN, 3, b"")

    def test_without_blocking(self, raw: Raw) -> None:
        peer = raw(client=True, typed=True)
        with peer.session.open(stream_type=7) as stream:
            stream.setblocking(False)
            assert stream.send(b"hello") == 5
            assert opening(peer, 9) == word(7) + b"hello"

    def test_the_type_counts_in_the_window(self, raw: Raw, crew: Crew) -> None:
        peer = raw(client=True, typed=True, window=1000)
        with peer.session.open(stream_type=7) as stream:
            sending = crew.start(stream.sendall, bytes(1000))
            assert bodies(peer, 1000) == word(7) + bytes(996)
            peer.send(frame(WNDINC, 0, 3, word(3)))
            assert bodies(peer, 3) == bytes(3)
            peer.send(frame(WNDINC, 0, 3, word(1)))
            sending.result()
            assert bodies(peer, 1) == bytes(1)

    @pytest.mark.parametrize("kind", [1, 0xFFFFFFFF])
    def test_an_untyped_session_carries_none(self, raw: Raw, kind: int) -> None:
        peer = raw(client=True)
        with pytest.raises(ValueError, match="typed"):
            peer.session.open(stream_type=kind)
        with peer.session.open(stream_type=0) as stream:
            stream.sendall(b"hello")
            assert opening(peer, 5) == b"hello"

    @pytest.mark.parametrize("kind", [0xFFFFFFFF, 0x100000000, -1])
    def test_types_that_are_not_the_applications(self, raw: Raw, kind: int) -> None:
        peer = raw(client=True, typed=True)
        with pytest.raises(ValueError):
            peer.session.open(stream_type=kind)
        with peer.session.open(stream_type=0):
            assert peer.read() == (DATA, SYN, 3, word(0)), "nothing of it was sent"

    def test_version_1_has_no_such_choice(self) -> None:
        with pytest.raises(ValueError, match="typed"):
            muxado.Config(version=1, typed=True)


def opening(peer: RawPeer, size: int) -> bytes:
    """The first ``size`` bytes of stream 3. A SYN does not wait long for bytes to go along with."""
    first = peer.expect(DATA, 3)
    assert first.flags == SYN
    return first.body + bodies(peer, size - len(first.body))


def bodies(peer: RawPeer, size: int) -> bytes:
    """The next ``size`` bytes of stream 3, in as many frames as they take."""
    got = b""
    while len(got) < size:
        got += peer.expect(DATA, 3).body
    assert len(got) == size
    return got


class TestAccepting:
    @pytest.mark.parametrize("kind", TYPES)
    @pytest.mark.parametrize("fin", [False, True])
    def test_the_type_comes_with_the_syn(self, raw: Raw, kind: int, fin: bool) -> None:
        peer = raw(typed=True)
        peer.send(syn(3, word(kind) + b"hello", fin=fin))
        with peer.session.accept()[0] as stream:
            assert stream.stream_type == kind
            assert stream.recv(100) == b"hello"
            if fin:
                assert stream.recv(100) == b""

    @pytest.mark.parametrize("fin", [False, True])
    def test_the_type_is_all_there_is(self, raw: Raw, fin: bool) -> None:
        peer = raw(typed=True)
        peer.send(syn(3, word(7), fin=fin))
        with peer.session.accept()[0] as stream:
            assert stream.stream_type == 7
            peer.send(data(3, b"", fin=True))
            assert stream.recv(100) == b""

    @pytest.mark.parametrize("cuts", [(0,), (1,), (2,), (3,), (4,), (1, 2, 3), (0, 0, 2, 2)])
    def test_split_over_frames(self, raw: Raw, cuts: tuple[int, ...]) -> None:
        """The peers send it whole with the SYN; it is no error not to."""
        peer = raw(typed=True)
        whole = word(0x01020304) + b"hello"
        peer.send(syn(3, whole[: cuts[0]]))
        for start, end in zip(cuts, (*cuts[1:], None), strict=True):
            peer.send(data(3, whole[start:end]))
        with peer.session.accept()[0] as stream:
            assert stream.stream_type == 0x01020304
            assert stream.recv(5, socket.MSG_WAITALL) == b"hello"

    def test_split_over_reads(self, raw: Raw) -> None:
        peer = raw(typed=True)
        for byte in syn(3, word(0x01020304) + b"hello"):
            peer.send(bytes([byte]))
        with peer.session.accept()[0] as stream:
            assert stream.stream_type == 0x01020304
            assert stream.recv(5, socket.MSG_WAITALL) == b"hello"

    def test_a_silent_stream_holds_up_no_other(self, raw: Raw, crew: Crew) -> None:
        peer = raw(typed=True)
        accepting = crew.start(peer.session.accept)
        waiting(peer.session, 1)
        peer.send(syn(3), syn(5, b"\0\0"), syn(7, word(1)))
        with accepting.result()[0] as stream:
            assert (stream.id, stream.stream_type) == (7, 1)
        assert peer.session.stats().backlog == 0
        peer.session.setblocking(False)
        with pytest.raises(BlockingIOError):
            peer.session.accept()
        peer.session.settimeout(GUARD)
        peer.send(data(5, b"\0\2"))
        with peer.session.accept()[0] as stream:
            assert (stream.id, stream.stream_type) == (5, 2)
        peer.send(data(3, word(3) + b"at last"))
        with peer.session.accept()[0] as stream:
            assert (stream.id, stream.stream_type) == (3, 3)
            assert stream.recv(100) == b"at last"

    @pytest.mark.parametrize("size", range(4))
    @pytest.mark.parametrize("late", [False, True])
    def test_the_end_comes_before_the_type(self, raw: Raw, size: int, late: bool) -> None:
        """Such a stream is nobody's: it is reset, and the application does not see it."""
        peer = raw(typed=True)
        if late:
            peer.send(syn(3, bytes(size)), data(3, fin=True))
        else:
            peer.send(syn(3, bytes(size), fin=True))
        peer.expect(RST, 3)
        lives(peer, 5)

    def test_reset_before_the_type(self, raw: Raw) -> None:
        peer = raw(typed=True)
        peer.send(syn(3), syn(5, b"\0"), frame(RST, 0, 3, word(6)), frame(RST, 0, 5, word(6)))
        lives(peer, 7)
        peer.send(data(3, word(1)))
        assert peer.expect(DATA, 7).flags == FIN
        assert peer.expect(RST, 3).word == ErrorCode.STREAM_CLOSED

    def test_the_backlog_is_of_typed_streams(self, raw: Raw) -> None:
        peer = raw(typed=True, accept_backlog=1)
        peer.send(syn(3), syn(5, word(1)), data(3, word(1) + b"too late"))
        assert peer.expect(RST, 3).word == ErrorCode.ACCEPT_QUEUE_FULL
        with peer.session.accept()[0] as stream:
            assert stream.id == 5

    def test_silent_streams_are_not_for_free(self, raw: Raw) -> None:
        peer = raw(typed=True, max_streams=2)
        peer.send(syn(3), syn(5), syn(7))
        assert peer.expect(RST, 7).word == ErrorCode.STREAM_REFUSED
        peer.send(frame(RST, 0, 3, word(6)))
        lives(peer, 9)

    def test_the_type_counts_in_the_window(self, raw: Raw) -> None:
        peer = raw(typed=True, window=1000, max_window=1000)
        peer.send(syn(3, word(1) + bytes(996)), syn(5, word(1) + bytes(997)))
        peer.send(syn(7, b"\0"), data(7, bytes(1000)))
        for stream_id in (5, 7):
            assert peer.expect(RST, stream_id).word == ErrorCode.FLOW_CONTROL_ERROR
        with peer.session.accept()[0] as stream:
            assert len(stream.recv(495)) == 495
            assert len(stream.recv(1)) == 1
            assert peer.expect(WNDINC, 3).word == 500
            assert len(stream.recv(500, socket.MSG_WAITALL)) == 500
            assert peer.expect(WNDINC, 3).word == 500

    def test_a_type_that_comes_after_our_goaway(self, raw: Raw) -> None:
        """What the GOAWAY calls not taken the peer sends again elsewhere: it must not be taken."""
        peer = raw(typed=True)
        peer.send(syn(3), syn(5, word(1)))
        accepted, _ = peer.session.accept()
        peer.send(syn(7))
        peer.send(frame(DATA, 0, 99))  # drawn last, so stream 7 has arrived
        peer.expect(RST, 99)
        peer.session.go_away()
        while (got := peer.read()) is not None and got.type != GOAWAY:
            assert got.type == RST, "the two silent ones may be refused right away"
            assert got.stream_id in (3, 7)
        assert got is not None
        last = got.word
        assert last >= accepted.id
        peer.send(data(7, word(1) + b"here I am"), data(5, b"on", fin=True))
        assert accepted.recv(100) == b"on"
        accepted.close()
        peer.session.setblocking(False)
        try:
            late, _ = peer.session.accept()
        except BlockingIOError:
            assert last < 7
        else:
            late.close()
            assert last >= 7


class TestHeartbeatStreams:
    """Streams that ngrok's peers open to hear an echo of every four bytes."""

    def test_every_four_bytes_come_back(self, raw: Raw) -> None:
        peer = raw(typed=True)
        peer.send(syn(3, BEAT))
        for number in range(5):
            peer.send(data(3, word(number)))
            assert peer.read() == (DATA, 0, 3, word(number))
        assert peer.session.stats().streams == 0
        lives(peer, 5)

    def test_the_first_beat_comes_with_the_type(self, raw: Raw) -> None:
        peer = raw(typed=True)
        peer.send(syn(3, BEAT + b"beat"))
        assert peer.read() == (DATA, 0, 3, b"beat")

    def test_however_they_are_cut(self, raw: Raw) -> None:
        peer = raw(typed=True)
        peer.send(syn(3, BEAT[:1]), data(3, BEAT[1:] + b"ab"), data(3), data(3, b"cdefghi"))
        assert bodies(peer, 8) == b"abcdefgh"
        peer.send(data(3, b"jkl"))
        assert bodies(peer, 4) == b"ijkl"

    def test_an_application_that_does_not_accept(self, raw: Raw) -> None:
        peer = raw(typed=True, accept_backlog=1)
        peer.send(syn(3, word(1)), syn(5, BEAT), data(5, b"beat"), syn(7, word(1)))
        assert peer.read() == (DATA, 0, 5, b"beat")
        assert peer.expect(RST, 7).word == ErrorCode.ACCEPT_QUEUE_FULL
        peer.session.accept()[0].close()

    def test_a_listener_sees_nothing(self, raw: Raw, crew: Crew) -> None:
        peer = raw(typed=True)
        accepting = crew.start(peer.session.accept)
        waiting(peer.session, 1)
        peer.send(syn(3, BEAT), data(3, b"beat"), syn(5, BEAT), data(5, b"tick"))
        assert [peer.read(), peer.read()] == [(DATA, 0, 3, b"beat"), (DATA, 0, 5, b"tick")]
        peer.send(syn(7, word(1)))
        with accepting.result()[0] as stream:
            assert stream.id == 7

    def test_for_longer_than_a_window(self, raw: Raw) -> None:
        peer = raw(typed=True, window=64)
        peer.send(syn(3, BEAT))
        left = 60
        for number in range(100):
            left -= 4
            assert left >= 0, "our window is not topped up"
            peer.send(data(3, word(number)))
            while (got := peer.read()) != (DATA, 0, 3, word(number)):
                assert got is not None
                assert (got.type, got.stream_id) == (WNDINC, 3)
                left += got.word
            if number % 8 == 7:
                peer.send(frame(WNDINC, 0, 3, word(32)))

    def test_an_answer_waits_for_window(self, raw: Raw) -> None:
        """The peer reads its echoes late: they come as soon as it lets them."""
        peer = raw(typed=True, window=16)
        peer.send(syn(3, BEAT))
        for number in range(4):
            peer.send(data(3, word(number)))
            while peer.read() != (DATA, 0, 3, word(number)):
                pass
        peer.send(data(3, b"beat"))
        peer.send(frame(DATA, 0, 99))
        while (got := peer.read()) != (RST, 0, 99, word(ErrorCode.STREAM_CLOSED)):
            assert got is not None
            assert got.type == WNDINC, "an echo without window"
        peer.send(frame(WNDINC, 0, 3, word(4)))
        assert peer.read() == (DATA, 0, 3, b"beat")

    @pytest.mark.parametrize("last", [frame(RST, 0, 3, word(6)), data(3, fin=True)])
    def test_its_end(self, raw: Raw, last: bytes) -> None:
        peer = raw(typed=True, max_streams=1)
        peer.send(syn(3, BEAT + b"beat"))
        assert peer.read() == (DATA, 0, 3, b"beat")
        peer.send(last)
        lives(peer, 5)

    def test_answered_while_draining(self, raw: Raw, crew: Crew) -> None:
        peer = raw(typed=True)
        peer.send(syn(3, BEAT), syn(5, word(1)))
        stream, _ = peer.session.accept()
        draining = crew.start(peer.session.drain)
        peer.expect(GOAWAY, 0)
        peer.expect(15, 0)
        peer.send(data(3, b"beat"))
        assert peer.read() == (DATA, 0, 3, b"beat")
        peer.send(data(5, fin=True))
        assert stream.recv(1) == b""
        stream.close()
        assert draining.result(), "the heartbeat is no stream that one could wait for"

    def test_an_untyped_session_knows_none(self, raw: Raw) -> None:
        peer = raw()
        peer.send(syn(3, BEAT + b"data"))
        with peer.session.accept()[0] as stream:
            assert stream.recv(100) == BEAT + b"data"


class TestPairs:
    @pytest.mark.parametrize("version", [1, 2])
    def test_types_both_ways(self, sessions: Sessions, version: int) -> None:
        options = {"version": 1} if version == 1 else {"version": 2, "typed": True}
        kinds = TYPES[:3] if version == 1 else TYPES
        pair = sessions.socketpair(**options)
        for ends in (pair, (pair[1], pair[0])):
            for kind in kinds:
                near, far = streams(ends, stream_type=kind)
                assert near.stream_type == far.stream_type == kind
                near.sendall(b"there")
                assert far.recv(5, socket.MSG_WAITALL) == b"there"
                far.sendall(b"and back")
                assert near.recv(8, socket.MSG_WAITALL) == b"and back"
                near.close_write()
                assert far.recv(1) == b""

    def test_more_than_a_window(self, sessions: Sessions, crew: Crew) -> None:
        near, far = streams(sessions.socketpair(typed=True, window=5000), stream_type=7)
        whole = bytes(range(256)) * 1000

        def send() -> None:
            near.sendall(whole)
            near.close_write()

        sending = crew.start(send)
        assert read_all(far) == whole
        sending.result()

    @pytest.mark.parametrize("fin", [False, True])
    def test_types_of_streams_that_say_nothing(self, sessions: Sessions, fin: bool) -> None:
        pair = sessions.socketpair(typed=True)
        opened = [pair[0].open(stream_type=number, fin=fin) for number in range(50)]
        pair[1].settimeout(GUARD)
        accepted = [pair[1].accept()[0] for _ in opened]
        assert [stream.stream_type for stream in accepted] == list(range(50))
        for stream in (*opened, *accepted):
            stream.close()
