"""GOAWAY: which streams the peer's ends, who may try again, and what ours says."""

from __future__ import annotations

import pytest

from muxado.errors import ErrorCode, RemoteGoneAway, SessionClosed
from muxado.protocol import StreamState
from tests.helpers.pure import End, data, goaway, parse, rst, syn, window


def gone(stream: StreamState) -> bool:
    """Whether ``stream`` failed, and with what allows the same bytes to be sent again."""
    if stream.failure is None:
        return False
    error = stream.failure.exception()
    assert type(error) is RemoteGoneAway
    assert error.code is ErrorCode.REMOTE_GONE_AWAY
    assert error.retryable
    return True


def test_streams_above_the_last_id_are_gone() -> None:
    end = End(client=True)
    streams = [end.open() for _ in range(4)]
    theirs = [end.accepted(2), end.accepted(100)]
    end.feed(goaway(5, ErrorCode.NO_ERROR, b"restarting"))
    assert [gone(stream) for stream in streams] == [False, False, True, True]
    assert not any(gone(stream) for stream in theirs)
    assert sorted(end.protocol.streams) == [2, 3, 5, 100]
    assert end.quiet(), "the peer never took them: there is nothing to reset"


def test_streams_under_way_go_on() -> None:
    end = End(client=True)
    stream, theirs = end.open(), end.accepted(2)
    end.feed(goaway(3, 0), data(3, b"answer", fin=True), window(3, 10), data(2, b"more"))
    assert end.read(stream, 9) == b"answer"
    assert stream.fin_in
    assert end.read(theirs, 9) == b"more"
    assert parse(end.write(stream, b"last words")) == [("DATA", 3, 10, False, b"last words")]
    end.feed(syn(4))
    assert end.accept().id == 4


def test_the_syn_of_a_stream_that_is_gone_is_not_sent() -> None:
    end = End(client=True)
    stream = end.open(announced=False)
    ended = end.open(fin=True, announced=False)
    end.feed(goaway(0, 0))
    assert gone(stream)
    assert gone(ended)
    assert end.quiet()


def test_open_says_why() -> None:
    end = End(client=True)
    end.feed(goaway(0, ErrorCode.ENHANCE_YOUR_CALM, b"too many of you"))
    with pytest.raises(RemoteGoneAway, match=r"ENHANCE_YOUR_CALM.*too many of you") as caught:
        end.open()
    assert caught.value.retryable
    assert not end.protocol.streams


def test_debug_bytes_that_are_no_text() -> None:
    end = End(client=True)
    stream = end.open()
    end.feed(goaway(0, 2, b"\xff\xfe\0"))
    assert gone(stream)
    assert end.protocol.goaway == (0, 2, b"\xff\xfe\0")


def test_a_second_goaway() -> None:
    """A reason, once given, stands: peers say NO_ERROR as they close, whatever came before."""
    end = End(client=True)
    first, second = end.open(), end.open()
    end.feed(goaway(5, ErrorCode.INTERNAL_ERROR, b"oops"))
    assert not gone(first)
    assert not gone(second)
    end.feed(goaway(3, ErrorCode.NO_ERROR, b"no error"))
    assert [gone(first), gone(second)] == [False, True]
    assert end.protocol.goaway is not None
    assert end.protocol.goaway[1:] == (ErrorCode.INTERNAL_ERROR, b"oops")


def test_a_reason_that_comes_second() -> None:
    end = End(client=True)
    end.feed(goaway(0, 0), goaway(0, ErrorCode.PEER_EOF, b"read EOF from remote peer"))
    assert end.protocol.goaway == (0, ErrorCode.PEER_EOF, b"read EOF from remote peer")


@pytest.mark.parametrize(
    "answer",
    [data(5, b"answer"), data(5, b"answer", fin=True), data(5, fin=True), window(5, 28)],
    ids=["data", "data and fin", "fin", "window"],
)
def test_a_stream_that_the_peer_has_answered_is_not_gone(answer: bytes) -> None:
    """Its application saw the stream, whatever the GOAWAY says.

    Go names the id whose SYN came last, not the highest: in the recording ``two_streams`` it
    serves 5, then 3, to the end, and says 3. A caller that is told to try again would do its
    work twice; and what was received before the end stays readable.
    """
    end = End(client=True)
    end.open()
    stream = end.open()
    end.feed(answer, goaway(3, ErrorCode.PEER_EOF, b"read EOF from remote peer"))
    assert stream.failure is None or not stream.failure.retryable
    if b"answer" in answer:
        assert stream.buffer.peek(9) == b"answer"


def test_a_stream_that_a_go_peer_may_have_seen_is_not_retryable() -> None:
    """The same with no answer yet: 5 went out before 3, so Go's GOAWAY of 3 is no word on 5."""
    end = End(client=True)
    third, fifth = end.open(announced=False), end.open(announced=False)
    sent = parse(end.write(fifth, b"second opened"), end.write(third, b"first opened"))
    assert [event for event in sent if event[0] == "SYN" and event[1] == 5]
    order = [event[1] for event in sent if event[0] == "SYN"]
    end.feed(goaway(3, 0))
    if order == [5, 3]:
        assert fifth.failure is None or not fifth.failure.retryable
    else:
        assert gone(fifth)  # ids in order leave no doubt


def test_resets_that_come_behind() -> None:
    end = End(client=True)
    kept, lost = end.open(), end.open()
    end.feed(goaway(3, 0), rst(5, ErrorCode.STREAM_REFUSED), rst(3, ErrorCode.STREAM_CANCELLED))
    assert gone(lost)
    assert kept.failure is not None
    assert not kept.failure.retryable
    assert end.quiet()


class TestGoingAway:
    """Our own GOAWAY."""

    def test_it_names_the_highest_stream_that_is_served(self) -> None:
        end = End()
        end.accepted(7)
        end.accepted(3)
        end.feed(syn(9))  # waits for accept(), which goes on handing out
        end.protocol.go_away(ErrorCode.NO_ERROR, b"bye", final=False)
        assert end.protocol.pending.flush_now
        # The empty frame of type 15 behind it is for Go's receiver; see the codec.
        assert end.sent() == [("GOAWAY", 9, 0, b"bye"), ("UNKNOWN", 15)]
        assert end.accept().id == 9
        assert end.quiet()

    def test_the_last_one_names_what_was_accepted(self) -> None:
        end = End()
        end.accepted(7)
        end.accepted(3)
        end.feed(syn(5), syn(9))
        end.protocol.refuse_backlog()
        end.protocol.go_away(ErrorCode.NO_ERROR, b"", final=True)
        *resets, last = end.sent()
        assert sorted(resets) == [("RST", 5, 5), ("RST", 9, 5)]
        assert last == ("GOAWAY", 7, 0, b"")

    def test_the_last_one_of_a_session_that_fails(self) -> None:
        # What waits for accept() is still handed out: its opener must not try it again elsewhere.
        end = End()
        end.accepted(7)
        end.feed(syn(9))
        end.protocol.go_away(ErrorCode.INTERNAL_ERROR, b"oops", final=True)
        assert end.sent() == [("GOAWAY", 9, 2, b"oops")]
        assert end.accept().id == 9

    def test_with_no_stream_at_all(self) -> None:
        for final in (False, True):
            end = End(client=True)
            end.open()
            end.protocol.go_away(ErrorCode.PROTOCOL_ERROR, b"", final=final)
            assert ("GOAWAY", 0, 1, b"") in end.sent()

    def test_no_stream_is_opened_any_more(self) -> None:
        end = End(client=True)
        under_way = end.open()
        end.protocol.go_away(ErrorCode.NO_ERROR, b"", final=False)
        with pytest.raises(SessionClosed) as caught:
            end.open()
        assert caught.value.retryable
        end.feed(data(under_way.id, b"goes on"))
        assert end.read(under_way, 9) == b"goes on"

    def test_it_goes_behind_everything_else(self) -> None:
        end = End()
        stream = end.accepted(3)
        end.protocol.go_away(0, b"", final=True)
        end.protocol.end(stream, flush_now=False)
        end.feed(data(9, b"?"))
        *before, last = [event[0] for event in end.sent()]
        assert sorted(before) == ["DATA", "RST"]
        assert last == "GOAWAY"
