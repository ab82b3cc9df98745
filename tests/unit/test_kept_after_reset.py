"""A reset by the peer keeps what came before it; one by this side does not."""

from __future__ import annotations

import gc

import pytest

from muxado.errors import ErrorCode, StreamReset
from muxado.protocol import StreamState
from tests.helpers.pure import End, data, parse, rst, syn


def test_what_came_before_is_read_and_then_the_error_comes() -> None:
    end = End()
    stream = end.accepted(3, b"answer")
    stream.readers = ["somebody"]
    end.feed(rst(3, ErrorCode.STREAM_CANCELLED))
    assert list(end.protocol.changed) == [stream]
    assert end.read(stream, 3) == b"ans"
    assert end.read(stream, 9) == b"wer"
    assert stream.failure is not None
    assert stream.failure.kind is StreamReset
    assert end.quiet(), "nobody is told of what is read now"


def test_an_end_that_came_before_stays_known() -> None:
    end = End()
    stream = end.accepted(3, b"answer")
    end.feed(data(3, fin=True), rst(3, ErrorCode.STREAM_CLOSED))
    assert end.read(stream, 9) == b"answer"
    assert stream.fin_in


def test_what_waits_to_be_sent_is_given_up() -> None:
    end = End()
    stream = end.accepted(3, b"answer")
    stream.write = "something to send"
    end.protocol.schedule.add(stream, 0)
    end.feed(rst(3, 6))
    assert stream.write is None
    assert not end.protocol.schedule


@pytest.mark.parametrize("way", ["read", "close", "shut_read"])
def test_it_counts_as_buffered_until_it_is_read_or_dropped(way: str) -> None:
    end = End()
    stream = end.accepted(3, b"x" * 100)
    end.feed(rst(3, 6))
    assert (end.protocol.buffered, end.protocol.windows.promised) == (100, 0)
    if way == "read":
        end.read(stream, 60)
        assert end.protocol.buffered == 40
        end.read(stream, 60)
    elif way == "close":
        end.protocol.close(stream)
    else:
        end.protocol.shut_read(stream)
    assert end.protocol.buffered == 0
    assert stream.buffer.size == 0
    end.protocol.close(stream)
    assert end.protocol.buffered == 0
    assert end.quiet()


@pytest.mark.parametrize(("budget", "grows"), [(1_000, True), (380, False)])
def test_no_window_grows_into_the_memory_that_is_kept(budget: int, grows: bool) -> None:
    end = End(window=100, max_window=1_000, max_buffered=budget)
    kept = [end.accepted(number, bytes(100)) for number in (3, 5)]
    end.feed(rst(3, 6), rst(5, 6))
    stream = end.accepted(7)
    other = end.accepted(9)
    for _ in range(4):  # the reader keeps up, and the window is used up each time
        end.now += 0.001
        end.feed(data(7, bytes(stream.receive.left)))
        end.now += 0.0001
        end.read(stream, stream.buffer.size)
        end.sent()
    assert (stream.receive.size > 100) is grows
    assert (other.receive.size, [s.buffer.size for s in kept]) == (100, [100, 100])


def test_a_stream_that_nobody_has_accepted_is_dropped_with_its_bytes() -> None:
    end = End()
    end.feed(syn(3, b"request"), rst(3, 6))
    assert end.protocol.accept() is None
    assert end.protocol.buffered == 0


@pytest.mark.parametrize("code", [ErrorCode.INTERNAL_ERROR, ErrorCode.STREAM_CANCELLED])
def test_our_own_reset_drops_it(code: ErrorCode) -> None:
    end = End()
    stream = end.accepted(3, b"unread")
    end.protocol.reset(stream, code)
    assert (stream.buffer.size, end.protocol.buffered) == (0, 0)


class TestBothDirectionsShut:
    """The peer's writer is told that nobody reads, as by a TCP connection."""

    def shut(self, end: End, stream: StreamState) -> None:
        end.protocol.shut_read(stream)
        end.protocol.end(stream, flush_now=True)

    def test_data_draws_a_reset(self) -> None:
        end = End()
        stream = end.accepted(3)
        self.shut(end, stream)
        assert end.sent() == [("DATA", 3, 0, True, b"")]
        end.feed(data(3, b"more"))
        assert end.sent() == [("RST", 3, ErrorCode.STREAM_CLOSED)]
        assert not end.protocol.streams
        assert (stream.buffer.size, stream.read_shut) == (0, True)
        assert stream.failure is not None
        end.protocol.close(stream)
        assert end.quiet()
        assert end.protocol.peer_streams == 0

    def test_a_frame_that_is_under_way_draws_it_too(self) -> None:
        end = End()
        stream, other = end.accepted(3), end.accepted(5)
        whole = data(3, bytes(100)) + data(5, b"framing is kept")
        end.feed(whole[:50])
        self.shut(end, stream)
        end.sent()
        end.feed(whole[50:])
        assert end.sent() == [("RST", 3, ErrorCode.STREAM_CLOSED)]
        assert end.read(other, 99) == b"framing is kept"

    @pytest.mark.parametrize("first", [8, 9, 60])
    def test_it_is_decided_by_the_header(self, first: int) -> None:
        end = End()
        stream = end.accepted(3)
        self.shut(end, stream)
        end.sent()
        end.feed(data(3, bytes(100))[:first])
        assert end.sent() == [("RST", 3, ErrorCode.STREAM_CLOSED)]
        end.feed(data(3, bytes(100))[first:])
        assert end.quiet()

    def test_our_end_goes_before_the_reset(self) -> None:
        end = End()
        stream = end.accepted(3)
        self.shut(end, stream)
        end.feed(data(3, b"more"), data(3, b"more"))
        assert end.sent() == [("DATA", 3, 0, True, b"")]
        end.feed(data(3, b"and more"))
        assert end.sent() == [("RST", 3, ErrorCode.STREAM_CLOSED)]

    @pytest.mark.parametrize("empty", [data(3), data(3, fin=True)])
    def test_an_empty_frame_is_no_reason(self, empty: bytes) -> None:
        end = End()
        stream = end.accepted(3)
        self.shut(end, stream)
        end.sent()
        end.feed(empty)
        assert stream.failure is None
        assert end.quiet()

    def test_one_direction_is_not_enough(self) -> None:
        end = End()
        deaf, mute = end.accepted(3), end.accepted(5)
        end.protocol.shut_read(deaf)
        end.protocol.end(mute, flush_now=True)
        end.sent()
        end.feed(data(3, b"dropped"), data(5, b"read"))
        assert end.quiet()
        assert end.read(mute, 9) == b"read"


def streams_alive() -> int:
    return sum(type(each) is StreamState for each in gc.get_objects())


@pytest.mark.parametrize("typed", [False, True])
def test_a_stream_that_is_dropped_leaves_nothing_behind(typed: bool) -> None:
    """No entry in any table, and no reference cycle: it is gone without the collector."""
    kind = b"\0\0\0\1" if typed else b""
    end = End(client=False, typed=typed)
    gc.collect()
    before = streams_alive()
    gc.disable()
    try:
        for number, ending in enumerate(("close", "unread", "reset", "peer", "mid-frame", "both")):
            stream_id = 3 + 2 * number
            stream = end.accepted(stream_id, kind + b"x")
            if ending in ("close", "both"):
                end.read(stream, 1)
            end.protocol.schedule.add(stream, 1)
            if ending == "reset":
                end.protocol.reset(stream, 6)
            elif ending == "peer":
                end.feed(rst(stream_id, 6))
            elif ending == "mid-frame":
                end.read(stream, 1)
                end.feed(data(stream_id, bytes(50))[:8])
            elif ending == "both":
                end.protocol.end(stream, flush_now=True)
                end.feed(data(stream_id, fin=True))
            end.protocol.close(stream)
            del stream
            end.sent()
            assert streams_alive() == before, ending
            if ending == "mid-frame":
                end.feed(bytes(50))
        end.protocol.open(0, 0, False)
        end.protocol.close(end.protocol.streams[2])
        assert parse(end.protocol.control_frames(opening=True))
        assert streams_alive() == before
    finally:
        gc.enable()
