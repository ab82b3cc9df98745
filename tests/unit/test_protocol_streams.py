"""The session's state: how streams are opened, refused and reset.

``test_protocol_data.py`` has what flows on a stream, ``test_protocol_goaway.py`` what becomes of
streams when an end goes away, ``test_protocol_pair.py`` two ends at once.
"""

from __future__ import annotations

import struct

import pytest

from muxado.errors import (
    EnhanceYourCalm,
    Error,
    ErrorCode,
    ProtocolError,
    RemoteGoneAway,
    StreamRefused,
    StreamReset,
    StreamsExhausted,
)
from tests.helpers.pure import End, data, frame, goaway, parse, rst, syn, window


class TestThePeerOpens:
    def test_streams_are_accepted_in_the_order_they_arrived(self) -> None:
        # Go takes the id at open and sends the SYN at the first write: ids come in any order.
        end = End()
        end.feed(syn(5, b"five"), syn(3), syn(9, fin=True), syn(7) + syn(1))
        streams = [end.accept() for _ in range(5)]
        assert [stream.id for stream in streams] == [5, 3, 9, 7, 1]
        assert end.protocol.accept() is None
        assert all(not s.local and s.opened and s.failure is None for s in streams)
        assert [s.fin_in for s in streams] == [False, False, True, False, False]
        assert streams[0].buffer.take(100) == b"five"
        assert end.protocol.streams == {s.id: s for s in streams}
        assert end.quiet()

    def test_it_is_said_when_one_arrived(self) -> None:
        end = End()
        assert not end.protocol.arrived
        end.feed(syn(3))
        assert end.protocol.arrived

    @pytest.mark.parametrize(("client", "stream_id"), [(True, 3), (True, 1), (False, 2)])
    def test_an_id_of_the_wrong_parity(self, client: bool, stream_id: int) -> None:
        end = End(client=client)
        with pytest.raises(ProtocolError):
            end.feed(syn(stream_id))
        assert not end.protocol.backlog

    def test_our_own_id_while_the_stream_lives(self) -> None:
        end = End(client=True)
        stream = end.open()
        with pytest.raises(ProtocolError):
            end.feed(syn(stream.id, b"not yours"))
        assert stream.buffer.size == 0

    def test_a_second_syn_while_the_stream_waits(self) -> None:
        end = End()
        end.feed(syn(3))
        with pytest.raises(ProtocolError):
            end.feed(syn(3))

    def test_a_second_syn_after_it_was_accepted(self) -> None:
        end = End()
        stream = end.accepted(3)
        with pytest.raises(ProtocolError):
            end.feed(syn(3, b"again"))
        assert stream.buffer.size == 0

    def test_id_0(self) -> None:
        with pytest.raises(ProtocolError):
            End().feed(syn(0))

    def test_a_stream_reset_before_it_was_accepted_is_not_handed_out(self) -> None:
        end = End()
        end.feed(syn(3) + syn(5) + rst(3, ErrorCode.STREAM_CANCELLED))
        assert end.accept().id == 5
        assert end.protocol.accept() is None


class TestRefusing:
    def test_a_full_backlog(self) -> None:
        end = End(accept_backlog=2)
        end.feed(syn(3, b"a") + syn(5, b"b") + syn(7, b"seven") + data(7, b"more") + data(5, b"B"))
        assert end.sent() == [("RST", 7, ErrorCode.ACCEPT_QUEUE_FULL)]
        assert sorted(end.protocol.streams) == [3, 5]
        assert [end.accept().buffer.take(9), end.accept().buffer.peek(9)] == [b"a", b"bB"]
        end.feed(syn(9))  # there is room again
        assert end.accept().id == 9
        assert end.quiet()

    def test_max_streams(self) -> None:
        end = End(max_streams=2)
        first, second = end.accepted(3), end.accepted(5)
        end.feed(syn(7, b"too many", fin=True))
        assert end.sent() == [("RST", 7, ErrorCode.STREAM_REFUSED)]
        assert end.protocol.accept() is None
        end.protocol.close(first)
        end.feed(syn(9))
        assert end.accept().id == 9
        end.feed(syn(11), rst(5, 6))
        assert ("RST", 11, ErrorCode.STREAM_REFUSED) in end.sent()
        assert second.failure is not None
        end.protocol.close(second)
        end.feed(syn(13))
        assert end.accept().id == 13

    def test_max_streams_does_not_count_our_own(self) -> None:
        end = End(client=True, max_streams=1)
        end.open()
        end.open()
        end.feed(syn(2))
        assert end.accept().id == 2

    def test_streams_that_wait_count(self) -> None:
        end = End(max_streams=2)
        end.feed(syn(3), syn(5), syn(7))
        assert end.sent() == [("RST", 7, ErrorCode.STREAM_REFUSED)]

    def test_while_going_away(self) -> None:
        end = End()
        stream = end.accepted(3)
        end.protocol.go_away(0, b"", final=False)
        end.feed(syn(5, b"late", fin=True) + data(3, b"goes on"))
        assert ("RST", 5, ErrorCode.STREAM_REFUSED) in end.sent()
        assert end.protocol.accept() is None
        assert end.read(stream, 99) == b"goes on"

    def test_the_body_of_a_refused_stream_may_come_in_pieces(self) -> None:
        end = End(accept_backlog=1)
        end.feed(syn(3))
        whole = syn(5, b"refused" * 9, fin=True) + data(3, b"kept")
        end.feed(*[whole[i : i + 5] for i in range(0, len(whole), 5)])
        assert end.sent() == [("RST", 5, ErrorCode.ACCEPT_QUEUE_FULL)]
        assert end.accept().buffer.take(9) == b"kept"

    def test_refuse_backlog(self) -> None:
        end = End()
        kept = end.accepted(3)
        end.feed(syn(5, b"x"), syn(7))
        end.protocol.refuse_backlog()
        assert sorted(end.sent()) == [("RST", i, ErrorCode.STREAM_REFUSED) for i in (5, 7)]
        assert end.protocol.accept() is None
        assert end.protocol.streams == {3: kept}
        assert end.protocol.peer_streams == 1


class TestUnknownStreams:
    @pytest.mark.parametrize("length", [1, 100, 300_000, 2**24 - 1])
    def test_data_draws_one_reset(self, length: int) -> None:
        """Even more than a window of it, and nothing is kept."""
        end = End()
        header, body = data(7, bytes(length))[:8], memoryview(bytes(65_536))
        end.feed(header)
        while length:
            end.protocol.feed(body[: min(length, len(body))])
            length -= min(length, len(body))
        assert end.protocol.pending.resets == {7: ErrorCode.STREAM_CLOSED}
        assert not end.protocol.streams
        assert end.sent() == [("RST", 7, ErrorCode.STREAM_CLOSED)]
        assert end.quiet()

    def test_resets_owed_are_one_per_stream(self) -> None:
        end = End()
        for _ in range(50):
            end.feed(data(7, b"abc") + data(9, b"def", fin=True))
        assert end.sent() == [("RST", 7, 4), ("RST", 9, 4)]
        end.feed(data(7, b"abc"))  # after it was sent, it may be owed again
        assert end.sent() == [("RST", 7, 4)]

    def test_the_heartbeat_probe_is_answered(self) -> None:
        # An empty DATA without flags, on an id that is never opened.
        end = End()
        end.feed(data(0x7FFFFFFF))
        assert end.protocol.pending.flush_now
        assert end.sent() == [("RST", 0x7FFFFFFF, ErrorCode.STREAM_CLOSED)]

    @pytest.mark.parametrize(
        "late", [data(7, fin=True), rst(7, 6), window(7, 5), data(8, fin=True), rst(8, 0)]
    )
    def test_late_news_is_ignored(self, late: bytes) -> None:
        end = End()
        end.feed(late, late)
        assert end.quiet()
        assert not end.protocol.streams
        assert not end.protocol.pending.flush_now

    def test_a_closed_stream_is_unknown(self) -> None:
        end = End()
        stream = end.accepted(3)
        end.protocol.close(stream)
        assert end.sent() == [("DATA", 3, 0, True, b"")]
        end.feed(window(3, 5), data(3, fin=True), rst(3, 0))
        assert end.quiet()
        end.feed(data(3, b"after close"))
        assert end.sent() == [("RST", 3, ErrorCode.STREAM_CLOSED)]

    def test_a_peer_that_provokes_resets_and_takes_none(self) -> None:
        """What we owe is bounded: at some point the peer is told to calm down."""
        end = End()
        with pytest.raises(EnhanceYourCalm) as caught:
            for first in range(3, 200_000, 2_000):
                end.feed(b"".join(data(first + i, b"!") for i in range(0, 2_000, 2)))
        assert caught.value.code == ErrorCode.ENHANCE_YOUR_CALM
        assert 1_000 < len(end.protocol.pending.resets) < 50_000

    def test_a_peer_that_takes_its_resets_may_go_on(self) -> None:
        end = End()
        for first in range(3, 60_000, 2_000):
            end.feed(b"".join(data(first + i, b"!") for i in range(0, 2_000, 2)))
            end.sent()

    def test_frames_of_unknown_types(self) -> None:
        end = End()
        stream = end.accepted(3)
        end.feed(frame(4, 15, 3, b"what") + frame(15, 0, 0) + data(3, b"on"))
        assert stream.buffer.take(9) == b"on"
        assert end.quiet()
        assert end.protocol.ignored_frames == 2


class TestOpening:
    @pytest.mark.parametrize(("client", "ids"), [(True, [3, 5, 7]), (False, [2, 4, 6])])
    def test_ids(self, client: bool, ids: list[int]) -> None:
        end = End(client=client)
        assert [end.open(announced=False).id for _ in ids] == ids
        assert end.sent() == [
            e for i in ids for e in (("SYN", i, 0, 0), ("DATA", i, 0, False, b""))
        ]
        assert end.quiet()

    def test_the_syn_waits_for_the_first_bytes(self) -> None:
        end = End(client=True)
        stream = end.open(announced=False)
        assert not end.protocol.pending.flush_now
        assert end.sent(opening=False) == []
        assert end.protocol.pending
        assert not stream.opened
        assert parse(end.write(stream, b"first")) == [
            ("SYN", 3, 0, 0),
            ("DATA", 3, 5, False, b"first"),
        ]
        assert stream.opened
        assert parse(end.write(stream, b"next")) == [("DATA", 3, 4, False, b"next")]
        assert end.quiet()

    def test_the_syn_does_not_wait_once_announced(self) -> None:
        end = End(client=True)
        stream = end.open(announced=False)
        end.protocol.announce(stream)
        assert end.protocol.pending.flush_now
        assert end.sent(opening=False) == [("SYN", 3, 0, 0), ("DATA", 3, 0, False, b"")]
        end.protocol.announce(stream)
        assert not end.protocol.pending.flush_now
        assert end.quiet()

    def test_what_is_announced_later_waits_again(self) -> None:
        end = End(client=True)
        end.protocol.announce(end.open(announced=False))
        end.sent(opening=False)
        end.open(announced=False)
        assert end.sent(opening=False) == []

    @pytest.mark.parametrize("opening", [False, True])
    def test_fin_goes_right_behind_the_syn(self, opening: bool) -> None:
        end = End(client=True)
        born_finished = end.open(fin=True, announced=False)
        ended = end.open(announced=False)
        end.protocol.end(ended, flush_now=True)
        assert born_finished.fin_out
        assert end.sent(opening=opening) == [
            ("SYN", 3, 0, 0),
            ("DATA", 3, 0, False, b""),
            ("DATA", 3, 0, True, b""),
            ("SYN", 5, 0, 0),
            ("DATA", 5, 0, False, b""),
            ("DATA", 5, 0, True, b""),
        ]
        assert end.quiet()

    def test_syns_leave_in_the_order_of_their_ids(self) -> None:
        """Go's GOAWAY names the SYN that came last: out of order, it would tell nothing."""
        end = End(client=True)
        end.open(announced=False)
        end.open(fin=True, announced=False)
        third, fourth = end.open(announced=False), end.open(announced=False)
        assert parse(end.write(third, b"first to write")) == [
            ("SYN", 3, 0, 0),
            ("DATA", 3, 0, False, b""),
            ("SYN", 5, 0, 0),
            ("DATA", 5, 0, False, b""),
            ("DATA", 5, 0, True, b""),
            ("SYN", 7, 0, 0),
            ("DATA", 7, 14, False, b"first to write"),
        ]
        assert not fourth.opened
        end.protocol.end(fourth, flush_now=True)
        assert end.sent() == [
            ("SYN", 9, 0, 0),
            ("DATA", 9, 0, False, b""),
            ("DATA", 9, 0, True, b""),
        ]
        assert end.quiet()

    def test_a_stream_closed_before_its_syn_is_still_seen(self) -> None:
        # As a TCP server sees a connection that was made and closed.
        end = End(client=True)
        end.protocol.close(end.open(announced=False))
        assert end.sent() == [
            ("SYN", 3, 0, 0),
            ("DATA", 3, 0, False, b""),
            ("DATA", 3, 0, True, b""),
        ]
        assert not end.protocol.streams

    def test_a_stream_reset_before_its_syn_was_never_there(self) -> None:
        end = End(client=True)
        stream = end.open(announced=False)
        end.protocol.announce(stream)
        end.protocol.reset(stream, ErrorCode.STREAM_CANCELLED)
        assert end.quiet()
        assert not end.protocol.streams
        ended = end.open(fin=True, announced=False)
        end.protocol.reset(ended, ErrorCode.STREAM_CANCELLED)
        assert end.quiet()

    @pytest.mark.parametrize("client", [True, False])
    def test_ids_run_out(self, client: bool) -> None:
        """The heartbeat's own id is never handed out; a new session is the way on."""
        end = End(client=client)
        end.protocol.next_id = 0x7FFFFFF0 + client  # 2**30 opens later
        ids = []
        with pytest.raises(StreamsExhausted) as caught:
            for _ in range(20):
                ids.append(end.open().id)  # noqa: PERF401 (the last one raises)
        last = 0x7FFFFFFD if client else 0x7FFFFFFC
        assert ids == list(range(0x7FFFFFF0 + client, last + 1, 2))
        assert caught.value.retryable
        with pytest.raises(StreamsExhausted):
            end.open()

    def test_counters(self) -> None:
        end = End(client=True)
        end.open()
        end.feed(syn(2), syn(4))
        end.accept()
        assert (end.protocol.opened, end.protocol.accepted) == (1, 1)


class TestThePeerResets:
    @pytest.mark.parametrize("local", [True, False])
    def test_what_was_received_before_stays(self, local: bool) -> None:
        end = End(client=local)
        stream = end.open() if local else end.accepted()
        end.feed(data(3, b"unread"), rst(3, ErrorCode.STREAM_CANCELLED))
        assert stream.failure is not None
        error = stream.failure.exception()
        assert type(error) is StreamReset
        assert (error.code, error.retryable) == (ErrorCode.STREAM_CANCELLED, False)
        assert stream.buffer.peek(9) == b"unread"
        assert not end.protocol.streams
        assert end.quiet(), "a reset is not answered"

    @pytest.mark.parametrize("code", [ErrorCode.STREAM_REFUSED, ErrorCode.ACCEPT_QUEUE_FULL])
    def test_refused(self, code: ErrorCode) -> None:
        end = End(client=True)
        stream, other = end.open(), end.open()
        end.feed(rst(stream.id, code))
        assert stream.failure is not None
        error = stream.failure.exception()
        assert type(error) is StreamRefused
        assert (error.code, error.retryable) == (code, True)
        assert other.failure is None

    def test_a_stream_of_the_peers_own_cannot_be_refused_by_it(self) -> None:
        end = End()
        stream = end.accepted()
        end.feed(rst(3, ErrorCode.STREAM_REFUSED))
        assert stream.failure is not None
        assert type(stream.failure.exception()) is StreamReset
        assert not stream.failure.retryable

    def test_a_code_that_nobody_knows(self) -> None:
        end = End()
        stream = end.accepted()
        end.feed(rst(3, 0xDEADBEEF))
        assert stream.failure is not None
        assert stream.failure.exception().code is ErrorCode.ERROR_UNKNOWN

    def test_what_was_owed_on_it_is_not_sent(self) -> None:
        end = End(window=100, max_window=100)
        stream = end.accepted(3, b"x" * 80)
        end.read(stream, 80)
        end.protocol.end(stream, flush_now=True)
        end.feed(rst(3, 6))
        assert end.quiet()


@pytest.mark.parametrize("client", [True, False])
def test_rules_of_framing_end_the_session_too(client: bool) -> None:
    end = End(client=client)
    for bad in (data(0, b"x"), frame(0, 0, 3, b"abc"), frame(3, 0, 3, struct.pack(">II", 0, 0))):
        with pytest.raises(Error) as caught:
            End(client=client).feed(bad)
        assert isinstance(caught.value, ProtocolError)
    end.feed(goaway(0, 0))
    with pytest.raises(RemoteGoneAway):
        end.open()
