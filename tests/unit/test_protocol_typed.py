"""Typed streams of version 2, and the heartbeat: what the session does without its application.

A typed stream's first four bytes are its type, big-endian. Streams of type 0xFFFFFFFF are a peer's
heartbeat: what comes on them is sent back, four bytes at a time, and no application sees them.
"""

from __future__ import annotations

import itertools
import tracemalloc

import pytest

from muxado.errors import EnhanceYourCalm, ErrorCode
from tests.helpers.pure import RST, End, data, frame, parse, rst, syn, window

BEAT = b"\xff\xff\xff\xff"
TYPE = b"\x01\x02\x03\x04"


def typed(*, client: bool = False, accept_backlog: int = 128) -> End:
    return End(client=client, typed=True, accept_backlog=accept_backlog)


class TestOpening:
    def test_the_type_goes_with_the_syn(self) -> None:
        # Whole, and in the same frame: ngrok's peers insist on it.
        end = typed(client=True)
        alone, with_data, finished = (
            end.protocol.open(priority=0, stream_type=kind, fin=False)
            for kind in (7, 0xFFFFFFFE, 0)
        )
        end.protocol.end(finished, flush_now=True)
        end.protocol.announce(alone)
        sent = end.sent(opening=True)
        assert ("DATA", 3, 4, False, b"\0\0\0\7") in sent
        assert ("DATA", 5, 4, False, b"\xff\xff\xff\xfe") in sent
        assert ("DATA", 7, 4, False, bytes(4)) in sent
        assert ("DATA", 7, 0, True, b"") in sent
        assert parse(end.write(with_data, b"x")) == [("DATA", 5, 1, False, b"x")]
        assert end.quiet()

    def test_the_type_goes_before_the_first_bytes(self) -> None:
        end = typed(client=True)
        stream = end.protocol.open(priority=0, stream_type=0x2A, fin=False)
        assert parse(end.write(stream, b"typed hello")) == [
            ("SYN", 3, 0, 0),
            ("DATA", 3, 15, False, b"\0\0\0\x2atyped hello"),
        ]

    def test_the_type_counts_against_the_window(self) -> None:
        end = typed(client=True)
        stream = end.open()
        assert stream.send.left == 262144 - 4
        end.feed(window(3, 4))  # as the peer reads it
        assert stream.send.left == 262144


class TestAccepting:
    @pytest.mark.parametrize("cuts", [[], [1], [2], [3], [4], [1, 2, 3], [2, 6]], ids=str)
    @pytest.mark.parametrize("bytewise", [False, True])
    def test_the_type_is_not_the_applications(self, cuts: list[int], bytewise: bool) -> None:
        """However many frames, and reads, it comes in."""
        end = typed()
        body = TYPE + b"hello"
        edges = [0, *cuts, len(body)]
        parts = [body[a:b] for a, b in itertools.pairwise(edges)]
        whole = syn(3, parts[0]) + b"".join(data(3, part) for part in parts[1:])
        end.feed(*([whole[i : i + 1] for i in range(len(whole))] if bytewise else [whole]))
        stream = end.accept()
        assert stream.stream_type == 0x01020304
        assert end.read(stream, 99) == b"hello"
        assert stream.receive.left + stream.receive.read == 262144

    def test_it_comes_with_the_end(self) -> None:
        end = typed()
        end.feed(syn(3, TYPE, fin=True))
        stream = end.accept()
        assert (stream.stream_type, stream.buffer.size, stream.fin_in) == (0x01020304, 0, True)

    def test_a_stream_without_its_type_holds_up_no_other(self) -> None:
        end = typed(accept_backlog=1)
        end.feed(syn(3), syn(5, TYPE[:3]), syn(7, TYPE + b"seven"))
        assert end.accept().id == 7
        end.feed(data(5, TYPE[3:]))
        assert end.accept().id == 5
        end.feed(data(3, TYPE))
        assert end.accept().id == 3
        assert end.quiet()

    @pytest.mark.parametrize("prefix", [b"", TYPE[:3]])
    def test_a_stream_that_ends_before_its_type(self, prefix: bytes) -> None:
        end = typed()
        end.feed(syn(3, prefix, fin=True), syn(5), data(5, prefix, fin=True), syn(7, TYPE))
        assert sorted(event[:2] for event in end.sent()) == [("RST", 3), ("RST", 5)]
        assert end.accept().id == 7
        assert sorted(end.protocol.streams) == [7]

    def test_a_full_backlog(self) -> None:
        end = typed(accept_backlog=1)
        end.feed(syn(3, TYPE), syn(5), data(5, TYPE + b"too many"), data(5, b"more"))
        assert end.sent() == [("RST", 5, ErrorCode.ACCEPT_QUEUE_FULL)]
        assert sorted(end.protocol.streams) == [3]

    def test_streams_without_their_type_count_as_open(self) -> None:
        end = End(typed=True, max_streams=2)
        end.feed(syn(3), syn(5), syn(7, TYPE))
        assert end.sent() == [("RST", 7, ErrorCode.STREAM_REFUSED)]

    def test_one_reset_before_its_type_is_forgotten(self) -> None:
        end = typed()
        end.feed(syn(3, TYPE[:2]), rst(3, 6), data(3, TYPE[2:]))
        assert end.protocol.accept() is None
        assert not end.protocol.streams
        assert end.sent() == [("RST", 3, ErrorCode.STREAM_CLOSED)]

    def test_what_a_stream_without_its_type_leaves_behind(self) -> None:
        """Nothing, however it ends: a session sees any number of them."""
        end = typed()

        def run(ids: range) -> None:
            for stream_id in ids:
                opening = syn(stream_id, TYPE[:2])
                ending = rst(stream_id, 6) if stream_id % 4 == 1 else data(stream_id, fin=True)
                end.feed(opening, ending)
                end.sent()

        run(range(3, 203, 2))
        tracemalloc.start()
        try:
            run(range(203, 4203, 2))
            assert tracemalloc.get_traced_memory()[0] < 20_000
        finally:
            tracemalloc.stop()

    def test_one_that_waits_for_its_type_while_we_go_away(self) -> None:
        """Either our GOAWAY names it, or it is refused: its opener may have tried elsewhere."""
        end = typed()
        end.accepted(3, TYPE)
        end.feed(syn(5, TYPE[:2]))
        end.protocol.go_away(0, b"", final=False)
        (last,) = (event[1] for event in end.sent() if event[0] == "GOAWAY")
        end.feed(data(5, TYPE[2:] + b"do it"))
        if end.protocol.accept() is not None:
            assert last >= 5, "told that it was not seen, and then served"
        else:
            assert ("RST", 5, ErrorCode.STREAM_REFUSED) in end.sent()

    def test_one_that_waits_for_its_type_while_we_close(self) -> None:
        # Never accepted, so refused, like those that wait in the backlog. Its id may lie below
        # the last that was accepted, where the GOAWAY alone would call it served.
        end = typed()
        end.feed(syn(3, TYPE[:2]))
        end.accepted(5, TYPE)
        end.protocol.refuse_backlog()
        assert end.sent() == [("RST", 3, ErrorCode.STREAM_REFUSED)]


class TestTheHeartbeatOfAPeer:
    def test_it_is_echoed(self) -> None:
        end = typed()
        end.feed(syn(3, BEAT), data(3, b"\1\2\3\4"))
        assert end.protocol.pending.flush_now
        assert end.sent() == [("DATA", 3, 4, False, b"\1\2\3\4")]
        end.feed(data(3, b"\5\6"))
        assert end.quiet()
        end.feed(data(3, b"\7\x08"), data(3, b"abcdefgh"))
        assert b"".join(event[4] for event in end.sent()) == b"\5\6\7\x08abcdefgh"

    def test_the_application_does_not_see_it(self) -> None:
        end = typed(accept_backlog=1)
        end.feed(syn(3, TYPE), syn(5, BEAT + b"beat"))  # the backlog is full, and no matter
        assert end.sent() == [("DATA", 5, 4, False, b"beat")]
        assert end.accept().id == 3
        assert end.protocol.accept() is None
        assert end.protocol.alive == 1

    def test_it_goes_on_for_ever(self) -> None:
        """The windows of both directions are kept open."""
        end = End(typed=True, window=64, max_window=64)
        end.feed(syn(3, BEAT))
        room = 64 - 4
        for number in range(200):
            beat = number.to_bytes(4, "big")
            end.feed(data(3, beat))
            room -= 4
            for event in end.sent():
                if event[0] == "WNDINC":
                    room += event[2]
                else:
                    assert event == ("DATA", 3, 4, False, beat)
            assert room >= 32
            end.feed(window(3, 4))

    def test_it_waits_for_window(self) -> None:
        end = End(typed=True, window=8, max_window=8)
        end.feed(syn(3, BEAT), data(3, b"1234"))
        end.sent()
        end.feed(data(3, b"5678"))
        end.sent()
        end.feed(data(3, b"abcd"))
        assert [event[0] for event in end.sent() if event[0] == "DATA"] == []
        end.feed(window(3, 4))
        assert ("DATA", 3, 4, False, b"abcd") in end.sent()

    def test_a_peer_that_takes_no_answer(self) -> None:
        end = End(typed=True, window=64, max_window=64)
        end.feed(syn(3, BEAT))
        with pytest.raises(EnhanceYourCalm):
            for _ in range(100_000):
                end.feed(data(3, bytes(16)))
                end.sent()

    @pytest.mark.parametrize("ending", [data(3, fin=True), rst(3, 6)])
    def test_it_ends(self, ending: bytes) -> None:
        end = typed()
        end.feed(syn(3, BEAT), ending)
        assert not end.protocol.streams
        assert end.protocol.peer_streams == 0
        end.feed(syn(5, TYPE))
        assert end.accept().id == 5


class TestTheProbe:
    """Our own heartbeat: an empty frame on an id that is never opened draws a reset."""

    @pytest.mark.parametrize("untyped", [False, True])
    @pytest.mark.parametrize(("client", "probe_id"), [(True, 0x7FFFFFFF), (False, 0x7FFFFFFE)])
    def test_question_and_answer(self, client: bool, probe_id: int, untyped: bool) -> None:
        end = End(client=client, typed=not untyped)
        assert end.protocol.beat()
        assert end.protocol.pending.flush_now
        assert end.protocol.pending
        assert end.sent(opening=False) == [("DATA", probe_id, 0, False, b"")]
        assert end.quiet()
        assert not end.protocol.beat_answered
        end.feed(rst(probe_id, ErrorCode.STREAM_CLOSED))
        assert end.protocol.beat_answered
        assert not end.protocol.streams

    def test_another_muxado_answers(self) -> None:
        asker, other = End(client=True), End()
        for _ in range(3):
            asker.protocol.beat_answered = False
            asker.protocol.beat()
            other.feed(asker.protocol.control_frames(opening=True))
            asker.feed(other.protocol.control_frames(opening=True))
            assert asker.protocol.beat_answered
        assert other.quiet()

    def test_questions_not_yet_sent_are_one(self) -> None:
        end = End(client=True)
        end.protocol.beat()
        end.protocol.beat()
        assert len(end.sent()) == 1

    def test_resets_of_streams_are_no_answer(self) -> None:
        end = End(client=True)
        stream = end.open()
        end.protocol.beat()
        end.feed(rst(stream.id, 4), rst(99, 4), frame(RST, 0, 0x7FFFFFFE, bytes(4)))
        assert not end.protocol.beat_answered
