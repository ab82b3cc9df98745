"""A reader that takes the bytes of a long frame from the connection itself."""

from __future__ import annotations

from muxado.errors import ErrorCode
from muxado.protocol import StreamState
from tests.helpers.pure import End, data


def begun(end: End, length: int, *, fin: bool = False) -> StreamState:
    """A stream with the header of a frame, of which ``length`` bytes are to come."""
    stream = end.accepted(3)
    end.feed(data(3, bytes(length), fin=fin)[:8])
    assert end.protocol.under_way is stream
    assert end.protocol.codec.data_left == length
    return stream


def test_to_the_end_of_the_frame() -> None:
    end = End(window=100, max_window=100)
    stream = begun(end, 80, fin=True)
    stream.readers = ["somebody else"]
    assert end.protocol.read_directly(stream, 30)
    assert not stream.fin_in
    end.protocol.changed.clear()
    assert end.protocol.read_directly(stream, 50)
    assert stream.fin_in
    assert list(end.protocol.changed) == [stream], "who waits learns of the end"
    assert end.protocol.under_way is None
    assert stream.buffer.size == 0


def test_it_counts_as_read() -> None:
    end = End(window=100, max_window=100)
    stream = begun(end, 80)
    assert end.protocol.read_directly(stream, 60)
    assert end.sent() == [("WNDINC", 3, 60)]
    end.feed(bytes(20) + data(3, b"next"))
    assert end.read(stream, 99) == bytes(20) + b"next"


def test_nobody_wants_it_after_a_reset() -> None:
    end = End()
    stream = begun(end, 80)
    end.protocol.reset(stream, ErrorCode.STREAM_CANCELLED)
    assert end.protocol.under_way is None
    assert not end.protocol.read_directly(stream, 80)
    other = end.accepted(5, b"framing is kept")
    assert end.read(other, 99) == b"framing is kept"


def test_nobody_wants_it_once_reading_is_shut() -> None:
    end = End(window=100, max_window=100)
    stream = begun(end, 80, fin=True)
    end.protocol.shut_read(stream)
    assert end.protocol.under_way is None
    assert not end.protocol.read_directly(stream, 60)
    assert end.sent() == [("WNDINC", 3, 60)], "the peer may go on"
    assert not end.protocol.read_directly(stream, 20)
    assert stream.fin_in
