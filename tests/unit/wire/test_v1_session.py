"""Version 1 where it differs from version 2 for a session: strict ids, types, heartbeat streams."""

from __future__ import annotations

from typing import Any

import pytest

from muxado.config import Config
from muxado.errors import (
    FlowControlError,
    ProtocolError,
    RemoteGoneAway,
    StreamRefused,
    StreamReset,
)
from muxado.protocol import Protocol, StreamState
from tests.helpers.support import Frame
from tests.helpers.version1 import (
    DATA,
    GOAWAY,
    HEARTBEAT,
    RST,
    SYN,
    URGENT,
    WINDOW,
    WNDINC,
    Referee,
    data,
    frame,
    goaway,
    rst,
    syn,
    window,
)

ECHO = syn(3, priority=URGENT, kind=HEARTBEAT)


class End:
    """One end of a session of version 1, watched by a referee."""

    def __init__(self, *, client: bool = False, **options: Any) -> None:
        self.protocol = Protocol(Config(version=1, **options), client=client, clock=lambda: 0.0)
        self.referee = Referee(client=client)

    def feed(self, *frames: bytes) -> None:
        for each in frames:
            self.referee.heard(each)
            self.protocol.feed(memoryview(each))

    def sent(self, *, opening: bool = True) -> list[Frame]:
        """The frames that it owes, which count as sent."""
        return self.referee.saw(self.protocol.control_frames(opening=opening))

    def open(self, *, priority: int = 0, kind: int = 0, fin: bool = False) -> StreamState:
        return self.protocol.open(priority=priority, stream_type=kind, fin=fin)

    def write(self, stream: StreamState, body: bytes) -> list[Frame]:
        return self.referee.saw(self.protocol.data_header(stream, len(body)) + body)

    def accept(self) -> StreamState:
        stream = self.protocol.accept()
        assert stream is not None
        return stream


FATAL: dict[str, tuple[bool, list[bytes]]] = {
    "the same id": (False, [syn(3), syn(3)]),
    "a lower id": (False, [syn(9), syn(5)]),
    "a lower id of a server": (True, [syn(4), syn(2)]),
    "the id of a stream that is over": (False, [syn(3), rst(3, 7), syn(3)]),
    "an id below the first": (False, [syn(1)]),
    "stream 0": (True, [syn(0)]),
    "wrong parity": (False, [syn(2)]),
    "wrong parity of a server": (True, [syn(3)]),
    "data, never opened": (False, [syn(3), data(5, b"abc")]),
    "empty data, never opened": (False, [data(3)]),
    "fin, never opened": (False, [data(3, fin=True)]),
    "data, never opened by us": (False, [data(2, b"abc")]),
    "rst, never opened": (False, [rst(3, 7)]),
    "rst, never opened by us": (True, [rst(3, 7)]),
    "window, never opened": (True, [window(2, 9)]),
    "window, never opened by us": (True, [window(3, 9)]),
    "window of the highest id, the probe of version 2": (False, [data(0x7FFFFFFF)]),
    "priority, which is reserved": (False, [syn(3), frame(5, 0, 3, bytes(4))]),
    "an unknown type": (False, [syn(3), frame(7, 0, 0)]),
    "data on stream 0": (False, [syn(3), data(0, b"abc")]),
}


@pytest.mark.parametrize("name", FATAL)
def test_what_ends_the_session(name: str) -> None:
    client, (*good, bad) = FATAL[name]
    end = End(client=client)
    end.feed(*good)
    with pytest.raises(ProtocolError):
        end.feed(bad)


def test_ids_may_be_skipped() -> None:
    end = End()
    end.feed(syn(3), syn(101), data(101, b"hi"))
    assert end.sent() == []
    # Those between can never be opened any more: they are closed, not unknown.
    for late in (window(5, 9), data(5, fin=True), data(7, b"hi")):
        end.protocol.feed(memoryview(late))
    assert end.protocol.control_frames(opening=True) == rst(7, 4)


def test_late_news_of_a_stream_that_is_over() -> None:
    end = End()
    end.feed(syn(3), data(3, b"all", fin=True))
    stream = end.accept()
    end.protocol.consumed(stream, len(stream.buffer.take(3)))
    end.protocol.close(stream)
    assert [(f.type, f.flags) for f in end.sent()] == [(DATA, 1)]
    end.feed(window(3, 9), data(3, fin=True))
    assert end.sent() == []
    end.feed(data(3, b"more"))
    assert [(f.type, f.stream_id, f.word) for f in end.sent()] == [(RST, 3, 4)]
    end.feed(rst(3, 4), rst(3, 4))
    assert end.sent() == []


def test_priority_and_type() -> None:
    end = End()
    end.feed(
        syn(3),
        syn(5, priority=9),
        syn(7, kind=HEARTBEAT - 1),
        syn(9, priority=0x7FFFFFFF, kind=1, fin=True),
    )
    accepted = [end.accept() for _ in range(4)]
    assert [(s.id, s.priority, s.stream_type, s.fin_in) for s in accepted] == [
        (3, 0, 0, False),
        (5, 9, 0, False),
        (7, 0, HEARTBEAT - 1, False),
        (9, 0x7FFFFFFF, 1, True),
    ]


def test_what_is_sent_of_them() -> None:
    end = End(client=True)
    end.open()
    end.open(priority=9)
    end.open(kind=0x2A, fin=True)
    assert end.sent() == [
        (SYN, 0, 3, b""),
        (SYN, 2, 5, bytes.fromhex("00000009")),
        (SYN, 4, 7, bytes.fromhex("0000002a")),
        (DATA, 1, 7, b""),
    ]


def test_the_syn_goes_with_its_first_bytes() -> None:
    end = End(client=True)
    stream = end.open(kind=7)
    assert end.write(stream, b"hello") == [
        (SYN, 4, 3, bytes.fromhex("00000007")),
        (DATA, 0, 3, b"hello"),
    ]
    assert stream.send.left == WINDOW - 5, "a type is no data here"


@pytest.mark.parametrize("kind", [HEARTBEAT + 1, 0xFFFFFFFF])
def test_other_reserved_types(kind: int) -> None:
    end = End()
    end.feed(syn(3, kind=kind), syn(5))
    assert [(f.type, f.stream_id, f.word) for f in end.sent()] == [(RST, 3, 4)]
    assert end.accept().id == 5
    assert end.protocol.accept() is None
    end.feed(data(3, b"crossed"))
    assert [(f.type, f.stream_id, f.word) for f in end.sent()] == [(RST, 3, 4)]


def test_refusals_have_numbers_of_this_wire() -> None:
    end = End(accept_backlog=1)
    end.feed(syn(3), syn(5))
    assert [(f.stream_id, f.word) for f in end.sent()] == [(5, 6)]
    opener = End(client=True)
    stream = opener.open()
    opener.sent()
    opener.feed(rst(3, 6))
    assert stream.failure is not None
    assert stream.failure.kind is StreamRefused
    assert stream.failure.retryable


def test_more_than_the_window() -> None:
    end = End()
    end.feed(syn(3), syn(5), *[data(3, bytes(16383))] * 4, data(3, bytes(4)))
    stream = end.accept()
    assert stream.buffer.size == WINDOW
    end.feed(data(3, b"x"), data(5, b"fine"))
    assert [(f.type, f.stream_id, f.word) for f in end.sent()] == [(RST, 3, 3)]
    assert stream.failure is not None
    assert stream.failure.kind is FlowControlError
    assert end.accept().buffer.take(9) == b"fine"


@pytest.mark.parametrize("opening", [[syn(3, fin=True)], [syn(3), data(3, fin=True)]])
def test_data_after_fin(opening: list[bytes]) -> None:
    end = End()
    end.feed(*opening)
    stream = end.accept()
    assert stream.fin_in
    end.feed(data(3, b"abc"))
    assert [(f.type, f.stream_id, f.word) for f in end.sent()] == [(RST, 3, 4)]
    assert stream.failure is not None
    assert stream.failure.kind is StreamReset


class TestTheHeartbeatOfThePeer:
    def test_every_four_bytes_come_back(self) -> None:
        end = End()
        end.feed(ECHO)
        for number in range(5):
            body = number.to_bytes(4, "big")
            end.feed(data(3, body))
            assert end.sent() == [(DATA, 0, 3, body)]

    def test_however_they_are_cut(self) -> None:
        end = End()
        end.feed(ECHO, data(3, b"ab"), data(3, b"cdefg"), data(3), data(3, b"hijk"))
        assert b"".join(f.body for f in end.sent()) == b"abcdefgh"
        end.feed(data(3, b"l"))
        assert b"".join(f.body for f in end.sent()) == b"ijkl"

    def test_it_is_nobody_elses(self) -> None:
        end = End(accept_backlog=1)
        end.feed(syn(3), syn(5, kind=HEARTBEAT), data(5, b"beat"), syn(7, priority=1))
        assert [(f.type, f.stream_id) for f in end.sent()] == [(DATA, 5), (RST, 7)]
        assert end.accept().id == 3
        assert end.protocol.accept() is None
        assert end.protocol.alive == 1

    def test_it_goes_on_for_longer_than_a_window(self) -> None:
        end = End()
        end.feed(ECHO)
        beats = WINDOW // 4 + 2000
        left = WINDOW
        for number in range(beats):
            left -= 4
            assert left >= 0, "our window is not topped up"
            end.feed(data(3, number.to_bytes(4, "big")))
            for sent in end.sent():
                if sent.type == WNDINC:
                    left += sent.word
                else:
                    assert sent.body == number.to_bytes(4, "big")
            if number % 1000 == 999:
                end.feed(window(3, 4000))

    def test_its_end_leaves_nothing(self) -> None:
        for last in (rst(3, 7), data(3, fin=True)):
            end = End()
            end.feed(ECHO, data(3, b"ab"), last)
            assert not end.protocol.streams
            assert not end.protocol.heartbeat_streams.streams

    def test_it_is_answered_while_we_are_going_away(self) -> None:
        """The original ends the session, and all that is under way on it, without an answer."""
        end = End()
        end.feed(syn(3))
        end.protocol.go_away(0, b"", final=False)
        assert [f.type for f in end.sent()] == [GOAWAY]
        end.feed(syn(5, priority=URGENT, kind=HEARTBEAT), data(5, b"beat"))
        assert end.sent() == [(DATA, 0, 5, b"beat")]


class TestTheHeartbeatOfOurs:
    def test_one_stream_for_all_of_them(self) -> None:
        end = End(client=True)
        assert end.protocol.beat()
        first, question = end.sent()
        assert first == (SYN, 6, 3, bytes.fromhex("7fffffff fffffeff"))
        assert (question.type, question.stream_id, len(question.body)) == (DATA, 3, 4)
        assert not end.protocol.beat_answered
        end.feed(data(3, question.body))
        assert end.protocol.beat_answered
        assert end.protocol.beat()
        (second,) = end.sent()
        assert (second.type, second.stream_id) == (DATA, 3)
        assert second.body != question.body

    def test_only_its_own_number_is_an_answer(self) -> None:
        end = End()
        end.protocol.beat()
        _, question = end.sent()
        end.feed(data(2, b"odd!"), data(2, question.body[:3]))
        assert not end.protocol.beat_answered
        end.feed(data(2, question.body[3:]))
        assert end.protocol.beat_answered

    @pytest.mark.parametrize("refusal", [rst(3, 6), rst(3, 4), data(3, fin=True)])
    def test_a_peer_that_refuses_it_is_not_asked_again(self, refusal: bytes) -> None:
        end = End(client=True)
        end.protocol.beat()
        end.sent()
        end.feed(refusal)
        for _ in range(3):
            assert not end.protocol.beat()
            assert end.sent() == []

    def test_streams_opened_before_it_go_first(self) -> None:
        end = End(client=True)
        end.open(kind=5)
        end.open(fin=True)
        end.protocol.beat()
        sent = end.sent(opening=False)
        assert [f.stream_id for f in sent if f.type == SYN] == [3, 5, 7]
        assert [f.stream_id for f in sent if f.type == DATA] == [5, 7]
        assert end.sent() == []

    def test_it_is_no_stream_of_the_application(self) -> None:
        end = End(client=True)
        end.protocol.beat()
        assert end.protocol.alive == 0
        assert end.protocol.opened == 0


def test_goaway_of_the_original() -> None:
    """It claims bytes that never come; what it says counts at once."""
    end = End(client=True)
    taken, lost = end.open(), end.open()
    end.sent()
    end.feed(goaway(3, 0, length=8 + 8 + 3))
    assert end.protocol.goaway == (3, 0, b"")
    assert taken.failure is None
    assert lost.failure is not None
    assert lost.failure.retryable
    with pytest.raises(RemoteGoneAway):
        end.open()
    assert not end.protocol.codec.mid_frame


def test_goaway_with_debug_bytes() -> None:
    end = End(client=True)
    stream = end.open()
    end.sent()
    whole = goaway(3, 2, b"because")
    end.feed(whole[:16])
    end.protocol.feed(memoryview(whole[16:19]))
    assert end.protocol.goaway == (3, 2, b"")
    end.protocol.feed(memoryview(whole[19:]))
    assert end.protocol.goaway == (3, 2, b"because")
    end.feed(data(3, b"still here"))
    assert stream.buffer.peek(99) == b"still here"
