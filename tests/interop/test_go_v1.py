"""Streams between our sessions and the original muxado for Go, version 1."""

from __future__ import annotations

import itertools
import random
import socket

import pytest

import muxado

from ..helpers.crew import GUARD, Crew
from ..helpers.support import read_all, until, waiting
from .go_peer import CANCEL, INTERNAL_ERROR, KINDS, REFUSED_STREAM, Go
from .streams import WINDOW, Linker, accept, close, echo, exchange, serve_each, serve_in_turn

pytestmark = pytest.mark.timeout(120)  # the first of them builds the Go program

MAX_TYPE = 0xFFFFFEFE  # the last that is not reserved
MAX_PRIORITY = 0x7FFFFFFF


def test_a_mebibyte_echoed(link: Linker, crew: Crew) -> None:
    size = 2**20
    session, go = link("wait", "open", 1, size, 0, 0)
    data = random.Random(1).randbytes(size)
    assert exchange(session.open(), data, crew) == data
    served = go.event("served")
    assert (served["received"], served["sent"], served["error"]) == (size, size, "")
    go.go_on()
    assert echo(session.accept()[0]) == size
    stream = go.event("stream")
    assert (stream["sent"], stream["intact"], stream["error"]) == (size, True, "")
    close(session)


def test_a_hundred_streams_at_once(link: Linker, crew: Crew) -> None:
    """A hundred from either side."""
    count, size = 100, WINDOW
    session, go = link("open", count, size, 0, 0)
    serving = crew.start(serve_each, session, count, crew)
    source = random.Random(2)
    payloads = [source.randbytes(size) for _ in range(count)]
    streams = [session.open() for _ in range(count)]
    tasks = [crew.start(exchange, *pair) for pair in zip(streams, payloads, strict=True)]
    for task, data in zip(tasks, payloads, strict=True):
        assert task.result() == data
    serving.result()
    for served in go.events("served", count):
        assert (served["sent"], served["error"]) == (size, "")
    for stream in go.events("stream", count):
        assert (stream["sent"], stream["intact"], stream["error"]) == (size, True, "")
    close(session)


@pytest.mark.parametrize("link", KINDS[1:3], ids=str, indirect=True)
def test_two_thousand_streams_in_turn(link: Linker) -> None:
    session, go = link()
    for number in range(2000):
        data = b"%d" % number
        assert exchange(session.open(), data) == data
    assert all(served["error"] == "" for served in go.events("served", 2000))
    close(session)


@pytest.mark.parametrize("link", KINDS[1:3], ids=str, indirect=True)
def test_two_thousand_streams_of_theirs_in_turn(link: Linker) -> None:
    session, go = link("turns", 2000, 5)
    serve_in_turn(session, 2000)
    assert go.stepped("turns") == ""
    assert all(stream["intact"] for stream in go.events("stream", 2000))
    close(session)


def test_types_and_priorities(link: Linker) -> None:
    wanted = sorted((t, p) for t in (0, 1, 0x80000000, MAX_TYPE) for p in (0, 1, MAX_PRIORITY))
    steps = [("open", 1, 4, *pair) for pair in wanted]
    session, go = link(*itertools.chain(*steps))
    got = []
    for stream in accept(session, len(wanted)):
        got.append((stream.stream_type, stream.priority))
        assert echo(stream) == 4
    assert sorted(got) == wanted
    assert all(stream["intact"] for stream in go.events("stream", len(wanted)))
    for stream_type, priority in wanted:
        ours = session.open(stream_type=stream_type, priority=priority)
        assert exchange(ours, b"spam") == b"spam"
        # The original cannot tell the priority of a stream that it was opened; it just takes it.
        assert go.event("served")["type"] == stream_type
    close(session)


def test_a_reserved_type_is_refused(link: Linker) -> None:
    session, go = link("open", 1, 4, MAX_TYPE + 2, 0, "wait", "open", 1, 4, 1, 0)
    assert go.event("stream")["error"] == "Stream reset by peer with error 4"
    go.go_on()
    stream, _ = session.accept()
    assert stream.stream_type == 1
    assert echo(stream) == 4
    close(session)


def test_a_stream_born_half_closed(link: Linker) -> None:
    session, go = link()
    with session.open(fin=True, stream_type=5) as stream:
        assert read_all(stream) == b""
    served = go.event("served")
    assert (served["type"], served["received"], served["error"]) == (5, 0, "")
    close(session)


def test_a_stream_of_theirs_born_half_closed(link: Linker) -> None:
    session, go = link("fin", 5)
    with session.accept()[0] as stream:
        assert stream.stream_type == 5
        assert read_all(stream) == b""
    assert go.stepped("fin") == ""
    assert exchange(session.open(), b"spam") == b"spam"
    close(session)


def test_heartbeats_are_not_counted(link: Linker) -> None:
    """The only stream that Go may open is the application's, whichever comes first."""
    session, go = link("open", 1, 4, 0, 0, "wait", "open", 1, 4, 0, 0, max_streams=1)
    for _ in range(2):
        assert echo(session.accept()[0]) == 4
        stream = go.event("stream")
        assert (stream["intact"], stream["error"]) == (True, "")
        go.go_on()
    close(session)


@pytest.mark.parametrize(
    ("code", "number"),
    [
        (muxado.ErrorCode.INTERNAL_ERROR, INTERNAL_ERROR),
        (muxado.ErrorCode.STREAM_REFUSED, REFUSED_STREAM),
        (muxado.ErrorCode.ACCEPT_QUEUE_FULL, REFUSED_STREAM),
        (muxado.ErrorCode.STREAM_CANCELLED, CANCEL),
        (muxado.ErrorCode.ERROR_UNKNOWN, CANCEL),
    ],
)
def test_resets(go: Go, code: muxado.ErrorCode, number: int) -> None:
    session, peer = go.connect(KINDS[0])
    with session.open() as stream:
        stream.sendall(b"spam")
        assert stream.recv(4, socket.MSG_WAITALL) == b"spam"
        stream.reset(code)
    served = peer.event("served")
    assert (served["received"], served["error"]) == (4, f"Stream reset by peer with error {number}")
    assert exchange(session.open(), b"eggs") == b"eggs"
    close(session)


def test_two_hundred_streams_blocked_at_the_window(link: Linker, crew: Crew) -> None:
    session, go = link("-hold", 7, "wait", "release")
    data = random.Random(3).randbytes(WINDOW + 1000)
    streams = [session.open(stream_type=7) for _ in range(200)]
    for stream in streams:
        stream.sendall(data[:WINDOW])
    # The answer comes when Go has read all of it, so it is not the connection that is full.
    assert exchange(session.open(), b"spam") == b"spam"
    for stream in streams:
        stream.setblocking(False)
        with pytest.raises(BlockingIOError):
            stream.send(data[WINDOW:])
        stream.settimeout(GUARD)
    sending = [crew.start(stream.sendall, data[WINDOW:]) for stream in streams]
    waiting(session, len(streams))
    assert exchange(session.open(), b"spam") == b"spam"
    go.go_on()
    for task, stream in zip(sending, streams, strict=True):
        task.result()
        with stream:
            stream.shutdown(socket.SHUT_WR)
            assert read_all(stream) == data
    assert all(served["error"] == "" for served in go.events("served", len(streams) + 2))
    close(session)


def test_two_hundred_streams_of_theirs_blocked_at_the_window(link: Linker) -> None:
    session, go = link("open", 200, WINDOW + 1000, 7, 0, accept_backlog=200)
    streams = list(accept(session, 200))

    def held(stream: muxado.Stream) -> int:
        return len(stream.recv(2 * WINDOW, socket.MSG_PEEK))

    for stream in streams:
        until(lambda stream=stream: held(stream) == WINDOW)  # type: ignore[misc]
    assert exchange(session.open(), b"spam") == b"spam"
    assert {held(stream) for stream in streams} == {WINDOW}
    for stream in streams:
        assert echo(stream) == WINDOW + 1000
    for event in go.events("stream", len(streams)):
        assert (event["intact"], event["error"]) == (True, "")
    close(session)
