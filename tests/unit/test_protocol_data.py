"""What flows on a stream: data, windows, ends. Frames come by hand; see ``helpers/pure.py``."""

from __future__ import annotations

import pytest

from muxado.errors import ErrorCode, FlowControlError, StreamReset
from muxado.protocol import StreamState
from tests.helpers.pure import End, cut, data, parse, rst, syn, window

WINDOW = 262144
TOP = 2**31 - 1


def error(stream: StreamState) -> tuple[type[BaseException], ErrorCode, bool]:
    assert stream.failure is not None
    raised = stream.failure.exception()
    return type(raised), raised.code, raised.retryable


class TestReceiving:
    def test_in_order_and_to_the_right_stream(self) -> None:
        end = End()
        one, two = end.accepted(3), end.accepted(5)
        end.feed(data(3, b"a") + data(5, b"x") + data(3, b"b"), data(5, b"y"), data(3, b"c"))
        assert end.read(one, 9) == b"abc"
        assert end.read(two, 9) == b"xy"

    def test_a_frame_cut_over_reads(self) -> None:
        whole = data(3, b"0123456789" * 50, fin=True) + data(5, b"after")
        for step in (1, 7, 8, 9, 100):
            end = End()
            one, two = end.accepted(3), end.accepted(5)
            fed = 0
            for piece in cut(whole, range(step, len(whole), step)):
                end.feed(piece)
                fed += len(piece)
                # Bytes can be read as they come, and the end of file not before the last.
                assert one.buffer.size == max(0, min(fed - 8, 500))
                assert one.fin_in == (fed >= 508)
            assert end.read(one, 1000) == b"0123456789" * 50
            assert end.read(two, 9) == b"after"

    def test_empty_data_is_nothing(self) -> None:
        end = End()
        stream = end.accepted()
        end.feed(data(3), data(3))
        assert (stream.buffer.size, stream.fin_in, end.quiet()) == (0, False, True)

    def test_who_waits_is_told(self) -> None:
        end = End()
        silent, waited_for, polled = end.accepted(3), end.accepted(5), end.accepted(7)
        waited_for.readers = ["somebody"]
        polled.poller = "a poller"
        end.feed(data(3, b"x") + data(5, b"y") + data(7, fin=True))
        assert set(end.protocol.changed) == {waited_for, polled}
        end.protocol.changed.clear()
        end.feed(rst(3, 6) + rst(5, 6))
        assert list(end.protocol.changed) == [waited_for]
        assert silent.failure is not None


class TestAfterFin:
    def test_a_second_fin_is_ignored(self) -> None:
        # Go sends one at CloseWrite and one at Close.
        end = End()
        stream = end.accepted()
        end.feed(data(3, b"x", fin=True), data(3, fin=True), data(3, fin=True))
        assert stream.failure is None
        assert end.read(stream, 9) == b"x"
        assert end.quiet()

    @pytest.mark.parametrize("late", [data(3, b"y"), data(3, b"y", fin=True), data(3)])
    def test_data_resets_the_stream(self, late: bytes) -> None:
        end = End()
        stream, other = end.accepted(3), end.accepted(5)
        end.feed(data(3, b"x", fin=True), late, data(5, b"fine"))
        assert error(stream)[:2] == (StreamReset, ErrorCode.STREAM_CLOSED)
        assert end.sent() == [("RST", 3, ErrorCode.STREAM_CLOSED)]
        assert end.read(other, 9) == b"fine"

    def test_it_can_be_answered(self) -> None:
        end = End()
        end.feed(syn(3, b"question", fin=True))
        stream = end.accept()
        assert parse(end.write(stream, b"answer")) == [("DATA", 3, 6, False, b"answer")]
        end.feed(window(3, 6))
        assert stream.send.left == WINDOW


class TestUpdatesThatWait:
    def grown(self, end: End, stream: StreamState) -> int:
        """A window five times as large as it was; the size it had."""
        window = stream.receive
        start = window.size
        end.protocol.windows._resize(window, 5 * start)
        end.feed(data(3, bytes(start)))
        end.read(stream, start)
        assert end.sent() == [("WNDINC", 3, 5 * start)]
        return start

    def test_three_quarters_of_the_first_may_wait_half_of_the_last_must_not(self) -> None:
        end = End()
        stream = end.accepted(3)
        start = self.grown(end, stream)
        end.feed(data(3, bytes(5 * start)))
        total = 0
        for count, granted, urgent in (
            (3 * start // 4 - 1, False, False),
            (1, True, False),
            (7 * start // 4 - 1, True, False),
            (1, True, True),
        ):
            total += len(stream.buffer.take(count))
            end.protocol.consumed(stream, count)
            assert (bool(end.protocol.pending.grants), end.protocol.pending.flush_now) == (
                granted,
                urgent,
            )
            assert bool(end.protocol.pending) is urgent
        assert end.sent() == [("WNDINC", 3, total)]
        assert not end.protocol.pending.grants

    def test_it_goes_along_with_whatever_is_sent(self) -> None:
        end = End()
        stream = end.accepted(3)
        start = self.grown(end, stream)
        end.feed(data(3, bytes(start)))
        stream.buffer.take(start)
        end.protocol.consumed(stream, start)
        assert not end.protocol.pending.flush_now
        end.protocol.pending.reset(5, ErrorCode.STREAM_CANCELLED)
        assert ("WNDINC", 3, start) in end.sent()


class TestReceiveWindow:
    def test_a_frame_may_fill_it(self) -> None:
        end = End()
        stream = end.accepted(3, bytes(WINDOW))
        assert (stream.buffer.size, stream.receive.left) == (WINDOW, 0)
        end.feed(data(3), data(3, fin=True))  # which need none
        assert stream.failure is None

    @pytest.mark.parametrize("step", [0, 1, 3, 50])
    def test_overrun_ends_that_stream_alone(self, step: int) -> None:
        """The body is dropped, in one read or in many, and what stands behind it is found."""
        end = End(window=100, max_window=100)
        stream, other = end.accepted(3, bytes(60)), end.accepted(5)
        whole = data(3, b"x" * 41, fin=True) + data(5, b"framing is kept") + data(3, b"late")
        end.feed(*cut(whole, range(step, len(whole), step) if step else ()))
        assert error(stream) == (FlowControlError, ErrorCode.FLOW_CONTROL_ERROR, False)
        assert stream.buffer.size == 0
        # What comes later for it cannot be more than the one reset that is owed.
        assert end.sent() == [("RST", 3, ErrorCode.FLOW_CONTROL_ERROR)]
        assert end.read(other, 99) == b"framing is kept"
        assert sorted(end.protocol.streams) == [5]

    def test_overrun_is_seen_in_the_header(self) -> None:
        end = End(window=100, max_window=100)
        stream = end.accepted(3)
        end.feed(data(3, bytes(101))[:8])
        assert error(stream)[0] is FlowControlError

    def test_a_frame_counts_whole_from_its_header_on(self) -> None:
        end = End(window=100, max_window=100)
        stream = end.accepted(3)
        whole = data(3, bytes(60))
        end.feed(whole[:20])
        assert (stream.receive.left, stream.buffer.size) == (40, 12)
        end.feed(whole[20:], data(3, bytes(40)))
        assert stream.failure is None
        end.feed(data(3, b"!"))
        assert error(stream)[0] is FlowControlError

    def test_overrun_with_the_syn(self) -> None:
        end = End(window=100, max_window=100)
        end.feed(syn(3, bytes(101)) + syn(5, bytes(100)))
        assert end.accept().id == 5
        assert end.protocol.accept() is None
        assert end.sent() == [("RST", 3, ErrorCode.FLOW_CONTROL_ERROR)]

    def test_grants_come_at_half_a_window_and_for_what_was_read(self) -> None:
        end = End(window=100, max_window=100)
        stream = end.accepted(3, bytes(90))
        end.read(stream, 49)
        assert end.quiet()
        end.read(stream, 1)
        assert end.protocol.pending.flush_now
        assert end.sent() == [("WNDINC", 3, 50)]
        assert (stream.receive.left, stream.buffer.size) == (60, 40)
        end.read(stream, 40)
        assert end.quiet()
        end.feed(data(3, bytes(60)))  # all that was granted, and no more
        assert stream.failure is None
        end.feed(data(3, b"!"))
        assert error(stream)[0] is FlowControlError

    def test_grants_not_yet_sent_are_one(self) -> None:
        end = End(window=100, max_window=100)
        stream = end.accepted(3, bytes(100))
        for _ in range(10):
            end.read(stream, 10)
        assert end.sent() == [("WNDINC", 3, 100)]

    def test_a_peer_that_has_finished_is_granted_nothing(self) -> None:
        end = End(window=100, max_window=100)
        stream = end.accepted(3, bytes(90))
        end.feed(data(3, fin=True))
        end.read(stream, 90)
        assert end.quiet()

    def test_a_grant_that_the_close_of_the_stream_overtakes(self) -> None:
        """The peer's window is used up: it must be able to send, and be told that nobody reads."""
        end = End(window=100, max_window=1000)
        stream = end.accepted(3, bytes(100))
        end.read(stream, 100)
        assert end.protocol.windows.promised == 100
        end.protocol.close(stream)
        assert end.protocol.windows.promised == 0
        assert end.sent() == [("WNDINC", 3, 100), ("DATA", 3, 0, True, b"")]
        assert end.protocol.windows.promised == 0
        end.feed(data(3, b"anybody there?"))
        assert end.sent() == [("RST", 3, ErrorCode.STREAM_CLOSED)]

    def test_no_grant_for_a_stream_that_was_closed(self) -> None:
        end = End(window=100, max_window=100)
        stream = end.accepted(3, bytes(90))
        end.read(stream, 90)
        end.protocol.close(stream)
        assert end.sent() == [("DATA", 3, 0, True, b"")]


class TestSendWindow:
    def test_it_is_spent_and_granted(self) -> None:
        end = End(client=True)
        stream = end.open(announced=False)
        end.write(stream, bytes(1000))
        assert stream.send.left == WINDOW - 1000
        end.feed(window(3, 400), window(3, 600))
        assert stream.send.left == WINDOW

    def test_an_increment_of_0_is_ignored_and_counted(self) -> None:
        # It would kill a Go peer's session; there is no need to be like that.
        end = End()
        stream = end.accepted()
        end.feed(window(3, 0), window(3, 0x80000000), window(99, 0))
        assert stream.failure is None
        assert stream.send.left == WINDOW
        assert end.protocol.ignored_frames == 3
        assert end.quiet()

    def test_as_large_as_can_be(self) -> None:
        end = End()
        stream = end.accepted()
        end.feed(window(3, TOP - WINDOW))
        assert stream.send.left == TOP
        assert stream.failure is None

    @pytest.mark.parametrize("increments", [[TOP], [TOP - WINDOW, 1], [TOP - WINDOW + 1]])
    def test_one_more_resets_the_stream(self, increments: list[int]) -> None:
        end = End()
        stream, other = end.accepted(3), end.accepted(5)
        end.feed(*[window(3, increment) for increment in increments])
        assert error(stream)[:2] == (FlowControlError, ErrorCode.FLOW_CONTROL_ERROR)
        assert end.sent() == [("RST", 3, ErrorCode.FLOW_CONTROL_ERROR)]
        assert other.failure is None

    def test_a_write_that_waits_may_go_on(self) -> None:
        end = End()
        stream, idle = end.accepted(3), end.accepted(5)
        stream.write = "something to send"
        stream.writers = ["somebody"]
        end.feed(window(3, 5), window(5, 5))
        assert stream in end.protocol.schedule
        assert idle not in end.protocol.schedule
        assert list(end.protocol.changed) == [stream]

    def test_a_write_that_waits_is_given_up_with_the_stream(self) -> None:
        for ending in (rst(3, 6), window(3, TOP)):
            end = End()
            stream = end.accepted(3)
            stream.write = "something to send"
            end.protocol.schedule.add(stream, 0)
            end.feed(ending)
            assert stream not in end.protocol.schedule
            assert stream.write is None


class TestEnding:
    def test_fin_is_sent_once_behind_the_last_byte(self) -> None:
        end = End(client=True)
        stream = end.open(announced=False)
        first = end.write(stream, b"all")
        end.protocol.end(stream, flush_now=False)
        end.protocol.end(stream, flush_now=True)
        assert parse(first) + end.sent() == [
            ("SYN", 3, 0, 0),
            ("DATA", 3, 3, False, b"all"),
            ("DATA", 3, 0, True, b""),
        ]
        end.protocol.end(stream, flush_now=True)
        assert end.quiet()

    def test_a_fin_may_wait_for_company(self) -> None:
        end = End()
        one, two = end.accepted(3), end.accepted(5)
        end.protocol.end(one, flush_now=False)
        assert not end.protocol.pending.flush_now
        assert end.protocol.pending
        end.protocol.end(two, flush_now=True)
        assert end.protocol.pending.flush_now

    def test_a_stream_ended_by_both_is_kept_for_its_reader(self) -> None:
        end = End()
        stream = end.accepted()
        end.protocol.end(stream, flush_now=True)
        end.feed(data(3, b"answer", fin=True))
        assert end.protocol.streams == {3: stream}
        assert end.read(stream, 9) == b"answer"
        end.protocol.close(stream)
        assert not end.protocol.streams
        assert end.sent() == [("DATA", 3, 0, True, b"")]

    def test_close_with_everything_read(self) -> None:
        end = End()
        stream = end.accepted(3, b"x")
        end.read(stream, 1)
        end.protocol.close(stream)
        end.protocol.close(stream)
        assert end.sent() == [("DATA", 3, 0, True, b"")]
        assert not end.protocol.streams
        assert end.protocol.peer_streams == 0

    @pytest.mark.parametrize("fin", [False, True])
    def test_close_with_bytes_unread(self, fin: bool) -> None:
        # The peer must not believe that they were read.
        end = End()
        stream = end.accepted(3, b"unread")
        end.feed(data(3, fin=fin))
        end.protocol.end(stream, flush_now=True)
        end.protocol.close(stream)
        assert end.sent() == [("RST", 3, ErrorCode.STREAM_CANCELLED)]
        assert not end.protocol.streams

    @pytest.mark.parametrize("read", [0, 10])
    def test_close_with_a_frame_under_way(self, read: int) -> None:
        """Data that comes after close resets the stream, the rest of a frame too.

        Else a peer whose last frame was cut by our read would believe that all of it arrived.
        """
        end = End()
        whole = data(3, bytes(20), fin=True) + data(5, b"framing is kept")
        stream, other = end.accepted(3), end.accepted(5)
        end.feed(whole[: 8 + read])
        if read:
            end.read(stream, read)
        end.protocol.close(stream)
        sent = end.sent()
        end.feed(whole[8 + read :])
        sent += end.sent()
        assert sent[-1][:2] == ("RST", 3)
        assert end.read(other, 99) == b"framing is kept"
        assert sorted(end.protocol.streams) == [5]

    def test_reset(self) -> None:
        end = End()
        stream = end.accepted(3, b"unread")
        end.protocol.end(stream, flush_now=True)
        end.protocol.reset(stream, ErrorCode.INTERNAL_ERROR)
        end.protocol.reset(stream, ErrorCode.STREAM_CANCELLED)
        end.protocol.close(stream)
        assert error(stream)[:2] == (StreamReset, ErrorCode.INTERNAL_ERROR)
        assert stream.buffer.size == 0
        assert end.sent() == [("RST", 3, ErrorCode.INTERNAL_ERROR)]
        assert not end.protocol.streams
        assert end.quiet()

    def test_reset_in_the_middle_of_a_frame(self) -> None:
        end = End()
        stream, other = end.accepted(3), end.accepted(5)
        whole = data(3, bytes(50)) + data(5, b"framing is kept")
        end.feed(whole[:30])
        end.protocol.reset(stream, ErrorCode.STREAM_CANCELLED)
        end.feed(whole[30:40], whole[40:])
        assert stream.buffer.size == 0
        assert end.sent() == [("RST", 3, ErrorCode.STREAM_CANCELLED)]
        assert end.read(other, 99) == b"framing is kept"

    def test_reset_after_close_is_nothing(self) -> None:
        end = End()
        stream = end.accepted()
        end.protocol.close(stream)
        end.protocol.reset(stream, ErrorCode.INTERNAL_ERROR)
        assert end.sent() == [("DATA", 3, 0, True, b"")]

    def test_our_reset_and_the_peers_cross(self) -> None:
        end = End()
        stream = end.accepted()
        end.protocol.reset(stream, ErrorCode.STREAM_CANCELLED)
        end.feed(rst(3, ErrorCode.STREAM_CLOSED), data(3, fin=True), window(3, 5))
        assert error(stream)[1] is ErrorCode.STREAM_CANCELLED
        assert end.sent() == [("RST", 3, ErrorCode.STREAM_CANCELLED)]


class TestDeaf:
    """SHUT_RD: what comes is dropped, and the peer may go on."""

    def test_what_is_dropped_is_granted_back(self) -> None:
        end = End(window=100, max_window=100)
        stream = end.accepted(3, bytes(80))
        end.protocol.shut_read(stream)
        assert stream.buffer.size == 0
        assert end.sent() == [("WNDINC", 3, 80)]
        total = 0
        for _ in range(50):
            end.feed(data(3, bytes(40)))
            total += sum(event[2] for event in end.sent())
        assert stream.buffer.size == 0
        assert 1960 <= total <= 2000  # all of it, but for less than half a window

    def test_also_in_the_middle_of_a_frame(self) -> None:
        end = End(window=100, max_window=100)
        stream = end.accepted(3)
        whole = data(3, bytes(100), fin=False)
        end.feed(whole[:38])
        end.protocol.shut_read(stream)
        end.feed(whole[38:88], whole[88:])
        assert stream.buffer.size == 0
        assert sum(event[2] for event in end.sent()) == 100

    def test_the_window_still_counts(self) -> None:
        end = End(window=100, max_window=100)
        stream = end.accepted(3)
        end.protocol.shut_read(stream)
        end.feed(data(3, bytes(101)))
        assert error(stream)[0] is FlowControlError

    def test_close_is_not_a_reset(self) -> None:
        end = End()
        stream = end.accepted(3, b"dropped")
        end.protocol.shut_read(stream)
        end.feed(data(3, b"dropped too", fin=True))
        assert stream.fin_in
        end.protocol.close(stream)
        assert end.sent() == [("DATA", 3, 0, True, b"")]
