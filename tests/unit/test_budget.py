"""The budget against floods: what is charged, what is not, and when it is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muxado.errors import EnhanceYourCalm, ErrorCode
from muxado.protocol.limits import Budget
from tests.helpers import version1
from tests.helpers.pure import RST, End, data, frame, goaway, rst, syn, window

SIZE = 50_000  # the default
SMALL = 5_000  # what floods here meet, for they are quicker then


class TestTheBucket:
    def test_it_is_spent_and_refilled(self) -> None:
        now = 100.0
        budget = Budget(1000, lambda: now)
        assert budget.left == 1000
        budget.charge(1000)
        assert budget.left == 0
        with pytest.raises(EnhanceYourCalm):
            budget.charge(1)
        now += 0.25
        assert budget.left == 250
        with pytest.raises(EnhanceYourCalm):
            budget.charge(251)
        budget.charge(250)
        now += 100
        assert budget.left == 1000
        budget.charge(1000)
        with pytest.raises(EnhanceYourCalm):
            budget.charge(1)

    @given(
        st.lists(st.tuples(st.sampled_from([0, 0.125, 0.5, 2.0]), st.integers(1, 64)), max_size=60)
    )
    def test_like_a_bucket(self, steps: list[tuple[float, int]]) -> None:
        now, left = 0.0, 64.0  # powers of two: nothing is rounded
        budget = Budget(64, lambda: now)
        for pause, cost in steps:
            now += pause
            left = min(64.0, left + pause * 64)
            assert budget.left == left
            if cost <= left:
                budget.charge(cost)
                left -= cost
            else:
                with pytest.raises(EnhanceYourCalm):
                    budget.charge(cost)


def rapid_reset() -> Iterator[bytes]:
    for number in range(3, 4 * SMALL, 2):
        yield syn(number) + rst(number, ErrorCode.STREAM_CANCELLED)


def made_to_reset() -> Iterator[bytes]:
    for number in range(3, 4 * SMALL, 2):
        yield syn(number) + window(number, 2**31 - 1)


def data_behind_fin() -> Iterator[bytes]:
    for number in range(3, 4 * SMALL, 2):
        yield syn(number, fin=True) + data(number, b"more")


def repeat(what: bytes) -> Callable[[], Iterator[bytes]]:
    return lambda: (what for _ in range(2 * SMALL))


def syns() -> Iterator[bytes]:
    for number in range(3, 8 * SMALL, 2):
        yield syn(number)


#: Each, at once, is more than a peer may send. Stream 3 is open and the application has it.
FLOODS: dict[str, Callable[[], Iterator[bytes]]] = {
    "rapid-reset": rapid_reset,
    "made-to-reset": made_to_reset,
    "data-behind-fin": data_behind_fin,
    "empty-data": repeat(data(1)),
    "window-1": repeat(window(1, 1)),
    "window-0": repeat(window(1, 0)),
    "window-unknown": repeat(window(99, 1)),
    "fin-unknown": repeat(data(99, fin=True)),
    "rst-unknown": repeat(rst(99, 0)),
    "rst-probe": repeat(rst(0x7FFFFFFE, 0)),
    "data-unknown": repeat(data(99, b"!")),
    "probe": repeat(data(0x7FFFFFFF)),
    "goaway": repeat(goaway(0, 0)),
    "unknown-type": repeat(frame(9, 0, 0)),
    "syn": syns,
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_ends_the_session(name: str) -> None:
    end = End(flood_budget=SMALL)
    end.accepted(1)
    with pytest.raises(EnhanceYourCalm) as caught:
        for frames in FLOODS[name]():
            end.feed(frames)
            end.protocol.control_frames(opening=True)  # it reads what it draws
    assert caught.value.code is ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("name", FLOODS)
def test_the_same_in_its_own_time_is_no_flood(name: str) -> None:
    end = End(flood_budget=SMALL)
    end.accepted(1)
    costs = {
        "rapid-reset": 5,
        "made-to-reset": 5,
        "data-behind-fin": 5,
        "goaway": 100,
        "syn": 2,
        "probe": 2,
    }
    for frames in FLOODS[name]():
        end.now += costs.get(name, 1) / SMALL
        end.feed(frames)
        end.protocol.control_frames(opening=True)
    assert end.protocol.budget.left > SMALL - 1000


def test_a_second_fin_in_a_row() -> None:
    end = End()
    end.accepted(3)
    end.feed(data(3, fin=True))
    with pytest.raises(EnhanceYourCalm):
        end.feed(data(3, fin=True) * (SIZE + 1))


class TestHonestPeers:
    """Nothing of this costs more than it may, for as long as it goes on."""

    def test_small_messages(self) -> None:
        end = End(flood_budget=SMALL)
        stream = end.accepted()
        batch = data(3, bytes(64)) * 1000
        for _ in range(2 * SMALL // 1000):
            end.feed(batch)
            while stream.buffer.size:
                end.read(stream, stream.buffer.size)
            end.sent()
        assert end.protocol.budget.left == SMALL

    def test_streams_opened_and_closed(self) -> None:
        end = End(flood_budget=SMALL)
        for number in range(3, 2 * SMALL + 3, 2):
            end.feed(syn(number, b"hello"), data(number, fin=True))
            stream = end.accept()
            end.read(stream, 5)
            end.protocol.close(stream)
            end.protocol.control_frames(opening=False)
        assert end.protocol.budget.left == SMALL

    def test_an_end_that_comes_behind_ours_is_free_but_once(self) -> None:
        end = End(client=True, flood_budget=SMALL)
        for number in range(3, 2 * SMALL + 103, 2):
            stream = end.open()
            end.write(stream, b"x")
            end.protocol.close(stream)
            end.sent()
            end.feed(data(number, fin=True))
        assert end.protocol.budget.left == SMALL
        end.feed(data(3, fin=True))
        assert end.protocol.budget.left == SMALL - 1

    def test_streams_of_a_go_peer(self) -> None:
        """10,000 a second, second after second; each of them says some things too late."""
        end = End()
        late = window(3, 5) + data(3, fin=True) + data(3, fin=True) + data(3, b"late")
        costs, least = 0, SIZE
        for number in range(3, 40_003, 2):
            end.now += 1 / 10_000
            end.feed(syn(number, b"hello"))
            stream = end.accept()
            end.read(stream, 5)
            end.protocol.close(stream)
            end.protocol.control_frames(opening=False)
            before = end.protocol.budget.left
            end.feed(late.replace(b"\0\0\0\3", number.to_bytes(4, "big")))
            costs = max(costs, before - end.protocol.budget.left)
            end.protocol.control_frames(opening=False)
            least = min(least, end.protocol.budget.left)
        assert end.now > 1.9
        assert costs * 10_000 <= SIZE
        assert least > SIZE - 100

    @pytest.mark.parametrize("client", [True, False], ids=["opens", "accepts"])
    def test_each_close_draws_a_reset(self, client: bool) -> None:
        """As Go's do: 2000 streams in no time at all, then 10,000 a second for two seconds."""
        end = End(client=client)
        for count, pause in ((2_000, 0.0), (20_000, 1 / 10_000)):
            first = end.protocol.next_id if client else 3 + 4_000 * (pause > 0)
            for number in range(first, first + 2 * count, 2):
                end.now += pause
                if client:
                    stream = end.open()
                    end.write(stream, b"hello")
                    end.feed(data(number, b"hello", fin=True))
                else:
                    stream = end.accepted(number, b"hello")
                    end.feed(data(number, fin=True))
                    end.write(stream, b"hello")
                end.read(stream, 5)
                end.protocol.close(stream)
                end.protocol.control_frames(opening=False)
                end.feed(rst(number, ErrorCode.STREAM_CLOSED))
            assert end.protocol.budget.left >= SIZE - 2_000
        assert end.now > 1.9
        assert end.protocol.budget.left > SIZE - 100

    def test_a_window_for_every_read(self) -> None:
        """Go grants what was read at once, however little it was."""
        end = End(client=True, flood_budget=SMALL)
        stream = end.open()
        for _ in range(2 * SMALL):
            end.write(stream, b"x")
            end.feed(window(3, 1))
        assert end.protocol.budget.left == SMALL

    def test_a_window_that_grows(self) -> None:
        end = End(client=True, flood_budget=SMALL)
        stream = end.open()
        size = stream.send.left
        while size < 2**25:
            end.write(stream, bytes(size // 2))
            end.feed(window(3, size // 2 + size))
            size *= 2
        for _ in range(2 * SMALL):
            end.write(stream, b"x")
            end.feed(window(3, 1))
        assert end.protocol.budget.left > SMALL - 20

    def test_a_window_of_data_behind_our_reset(self) -> None:
        end = End()
        stream = end.accepted(3, b"unread")
        end.protocol.close(stream)
        end.sent()
        late = data(3, bytes(64)) * 1000
        for _ in range(262):
            end.feed(late)
            assert end.sent() == [("RST", 3, ErrorCode.STREAM_CLOSED)]
        assert end.protocol.budget.left > SIZE - 300

    def test_updates_for_what_was_sent_before_the_end(self) -> None:
        """Go grants every read of a stream that is over for us; no more than was sent, though."""
        end = End(client=True)
        stream = end.open()
        for _ in range(4):
            end.write(stream, bytes(65536))
        end.protocol.close(stream)
        end.sent()
        end.feed(window(3, 2) * (2 * 65536))
        assert end.protocol.budget.left == SIZE
        with pytest.raises(EnhanceYourCalm):
            end.feed(window(3, 2) * (SIZE + 1))

    def test_a_reset_for_every_frame_that_was_under_way(self) -> None:
        end = End(client=True, flood_budget=SMALL)
        stream = end.open()
        for _ in range(2 * SMALL):
            end.write(stream, b"x")
        end.feed(rst(3, ErrorCode.STREAM_CLOSED) * (2 * SMALL))
        assert end.protocol.budget.left == SMALL
        with pytest.raises(EnhanceYourCalm):
            end.feed(rst(3, ErrorCode.STREAM_CLOSED) * (SMALL + 100))

    def test_every_stream_given_up_at_once(self) -> None:
        """As many as there may be, none of them answered: a proxy whose servers hang."""
        end = End(accept_backlog=10_000)
        for number in range(3, 20_003, 2):
            end.feed(syn(number, b"request"))
            end.accept()
        end.feed(*(rst(number, ErrorCode.STREAM_CANCELLED) for number in range(3, 20_003, 2)))

    def test_streams_broken_off_after_an_answer(self) -> None:
        end = End(flood_budget=SMALL)
        for number in range(3, 4 * SMALL + 3, 2):
            end.feed(syn(number, b"request"))
            stream = end.accept()
            end.write(stream, b"answer")
            end.feed(rst(number, ErrorCode.STREAM_CANCELLED))
            end.protocol.close(stream)
        assert end.protocol.budget.left == SMALL


def test_version_1_has_the_same_budget() -> None:
    end = End(version=1)
    end.feed(version1.syn(3))
    end.accept()
    end.feed(version1.data(3))  # the first may belong to the SYN
    end.feed(version1.data(3) * SIZE)
    with pytest.raises(EnhanceYourCalm):
        end.feed(version1.data(3))


class TestHeldStreams:
    """A stream counts for as long as the application has it."""

    def test_reset_by_the_peer(self) -> None:
        end = End(max_streams=10, accept_backlog=10)
        held = []
        for number in range(3, 23, 2):
            end.feed(syn(number), data(number, b"work"))
            held.append(end.accept())
            end.feed(rst(number, ErrorCode.STREAM_CANCELLED))
        assert not end.protocol.streams
        end.feed(syn(99))
        assert end.sent() == [("RST", 99, ErrorCode.STREAM_REFUSED)]
        end.protocol.close(held.pop())
        end.protocol.close(held.pop())
        end.feed(syn(101), syn(103), syn(105))
        assert end.sent() == [("RST", 105, ErrorCode.STREAM_REFUSED)]
        assert [end.accept().id, end.accept().id] == [101, 103]

    def test_reset_before_it_was_accepted(self) -> None:
        """Nobody holds it."""
        end = End(max_streams=2)
        for number in range(3, 43, 2):
            end.feed(syn(number), rst(number, 0))
        assert end.protocol.peer_streams == 0
        assert end.quiet()

    def test_reset_by_us(self) -> None:
        end = End(max_streams=1)
        stream = end.accepted(3)
        end.protocol.reset(stream, ErrorCode.INTERNAL_ERROR)
        assert end.sent() == [("RST", 3, ErrorCode.INTERNAL_ERROR)]
        end.feed(syn(5))
        assert end.sent() == [("RST", 5, ErrorCode.STREAM_REFUSED)]
        end.protocol.close(stream)
        end.feed(syn(7))
        assert end.accept().id == 7

    @pytest.mark.parametrize("unread", [b"", b"unread"])
    def test_closed_and_not_told(self, unread: bytes) -> None:
        """Or a peer that reads nothing could have streams served without end."""
        end = End(max_streams=1)
        with pytest.raises(EnhanceYourCalm):
            for number in range(3, 60_003, 2):
                end.protocol.close(end.accepted(number, unread))
        owed = len(end.protocol.pending.ending) + len(end.protocol.pending.resets)
        assert owed == 20_001

    @pytest.mark.parametrize("unread", [b"", b"unread"])
    def test_closed_and_told(self, unread: bytes) -> None:
        end = End(max_streams=1)
        for number in range(3, 60_003, 2):
            end.protocol.close(end.accepted(number, unread))
            if number % 10_001 == 0:
                end.sent()
        assert end.protocol.budget.left == SIZE

    def test_closed_twice_counts_once(self) -> None:
        end = End(max_streams=3)
        stream = end.accepted(3)
        end.feed(rst(3, 0))
        end.protocol.close(stream)
        end.protocol.close(stream)
        assert end.protocol.peer_streams == 0

    def test_closed_for_writing_long_before(self) -> None:
        end = End(max_streams=1)
        stream = end.accepted(3)
        end.protocol.end(stream, flush_now=True)
        end.sent()
        end.feed(data(3, fin=True))
        end.protocol.close(stream)
        assert end.quiet()
        assert end.protocol.peer_streams == 0


def test_heartbeat_streams_are_few() -> None:
    """Nothing else bounds them: the application does not see them."""
    end = End(typed=True)
    beat = b"\xff\xff\xff\xff"
    end.feed(*(syn(number, beat) for number in range(3, 203, 2)))
    assert len(end.protocol.heartbeat_streams.streams) == 16
    refused = [event[1] for event in end.sent() if event[0] == "RST"]
    assert refused == list(range(35, 203, 2))
    assert end.protocol.peer_streams == 0
    end.feed(data(3, fin=True), syn(301, beat + b"beat"))
    assert ("DATA", 301, 4, False, b"beat") in end.sent()


def test_heartbeat_streams_one_after_another() -> None:
    end = End(typed=True)
    with pytest.raises(EnhanceYourCalm):
        for number in range(3, 3 + SIZE, 2):
            end.feed(syn(number, b"\xff\xff\xff\xff", fin=True))


def test_a_goaway_is_looked_into_once() -> None:
    """It concerns every stream of ours, so repeating it must not cost every time."""
    end = End(client=True)
    streams = [end.open() for _ in range(100)]
    looked: list[int] = []

    class Looked(dict[int, object]):
        def values(self) -> object:  # type: ignore[override]
            looked.append(1)
            return super().values()

    end.protocol._receiver._streams = Looked(end.protocol.streams)  # type: ignore[assignment]
    for _ in range(400):
        end.feed(goaway(103, 0))
    assert len(looked) == 1
    assert [stream.failure is None for stream in streams] == [i < 51 for i in range(100)]
    end.feed(goaway(3, 0))
    assert [stream.failure is None for stream in streams] == [i < 1 for i in range(100)]


def test_what_is_charged_is_few_calls() -> None:
    """The budget looks at the clock only for what is charged."""
    end = End()
    stream = end.accepted()
    calls: list[int] = []

    def clock() -> float:
        calls.append(1)
        return 0.0

    end.protocol.budget = Budget(SIZE, clock)
    calls.clear()
    end.feed(data(3, b"x") * 10_000, window(3, 5), rst(5, 1), frame(RST, 0, 7, bytes(4)))
    assert stream.buffer.size == 10_000
    assert len(calls) == 3
