"""Whether streams of different priority may send, which decides how much is sent at a time."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from muxado.errors import ErrorCode
from muxado.protocol import Protocol, StreamState
from tests.helpers import version1
from tests.helpers.pure import End


def priorities(protocol: Protocol) -> set[int]:
    """Those of the application's streams that may still send."""
    heartbeats = protocol.heartbeat_streams.streams
    return {
        stream.priority
        for stream in protocol.streams.values()
        if not stream.fin_out and stream not in heartbeats
    }


steps = st.lists(
    st.tuples(
        st.sampled_from(["open", "fin", "accept", "end", "close", "reset", "rst", "prioritise"]),
        st.integers(0, 30),
        st.integers(0, 2),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=150)
@given(steps)
def test_like_a_recount(todo: list[tuple[str, int, int]]) -> None:
    end = End(client=True, version=1, accept_backlog=5)
    protocol = end.protocol
    assert protocol.beat(), "its stream has the highest priority, and competes with none"
    theirs = 0
    for what, index, priority in todo:
        mine: list[StreamState] = [
            stream
            for stream in protocol.streams.values()
            if stream not in protocol.heartbeat_streams.streams
        ]
        if what in ("open", "fin"):
            protocol.open(priority=priority, stream_type=0, fin=what == "fin")
        elif what == "accept":
            theirs += 2
            end.feed(version1.syn(theirs, priority=priority))
        elif mine:
            stream = mine[index % len(mine)]
            if what == "end":
                protocol.end(stream, flush_now=True)
            elif what == "close":
                protocol.close(stream)
            elif what == "reset":
                protocol.reset(stream, ErrorCode.STREAM_CANCELLED)
            elif what == "rst":
                end.feed(version1.rst(stream.id, 7))
            else:
                protocol.prioritise(stream, priority)
        assert protocol.contended == (len(priorities(protocol)) > 1)


def test_a_new_priority_moves_what_waits_to_be_sent() -> None:
    end = End(client=True)
    first, second = (end.open() for _ in range(2))
    for stream in (first, second):
        end.protocol.schedule.add(stream, 0)
    end.protocol.prioritise(second, 5)
    assert second.priority == 5
    assert end.protocol.schedule.first() is second
    idle = end.open()
    end.protocol.prioritise(idle, 9)
    assert idle not in end.protocol.schedule
