"""Floods through full buffers: the classic ways for a multiplexer to lock up."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
from collections.abc import Callable

import pytest

import muxado

from ..helpers.crew import GUARD, Crew
from ..helpers.support import (
    DATA,
    SYN,
    Connector,
    RawPeer,
    Sessions,
    frame,
    read_all,
    small_send_buffer,
    streams,
    waiting,
)

MIB = 2**20


@pytest.mark.parametrize("kind", ["socketpair", "tcp"])
def test_both_sides_flood_on_several_streams(sessions: Sessions, crew: Crew, kind: str) -> None:
    """Every stream carries data both ways at once through 4 KiB buffers, with a thread for each
    direction: if a reader ever waited for a writer, both ends would stop."""
    pair = getattr(sessions, kind)(buffers=4096)
    size = MIB // 2
    digests = []

    def send(stream: muxado.Stream, data: bytes) -> None:
        stream.sendall(data)
        stream.shutdown(socket.SHUT_WR)

    for number in range(4):
        data = random.Random(number).randbytes(size)
        for end in streams(pair):
            crew.start(send, end, data)
            digests.append((crew.start(read_all, end), hashlib.sha256(data).digest()))
    for task, digest in digests:
        assert hashlib.sha256(task.result()).digest() == digest


def test_two_sendalls_that_nobody_reads_at_first(sessions: Sessions, crew: Crew) -> None:
    """Both mains send before either reads: the windows fill, and nothing else must be held up."""
    pair = sessions.tcp(buffers=4096)
    near, far = streams(pair)
    data = bytes(MIB)
    sending = [crew.start(end.sendall, data) for end in (near, far)]
    other_near, other_far = streams(pair)
    for _ in range(50):
        other_near.sendall(b"ping")
        assert other_far.recv(4) == b"ping"
        other_far.sendall(b"pong")
        assert other_near.recv(4) == b"pong"
    readers = [crew.start(end.recv, MIB, socket.MSG_WAITALL) for end in (near, far)]
    assert [task.result() for task in readers] == [data, data]
    for task in sending:
        task.result()


def test_a_peer_that_never_reads_does_not_stop_reading(
    raw: Callable[..., RawPeer], crew: Crew
) -> None:
    """The connection takes nothing more from us; what the peer sends is still received."""
    peer: RawPeer = raw()
    small_send_buffer(peer.session)
    peer.send(frame(DATA, SYN, 3))
    stream, _ = peer.session.accept()
    jam = crew.start(stream.sendall, bytes(200_000))
    waiting(peer.session, 1)
    for number in range(100):
        peer.send(frame(DATA, 0, 3, b"%03d" % number))
        assert stream.recv(3, socket.MSG_WAITALL) == b"%03d" % number
    peer.session.kill()
    with pytest.raises(muxado.SessionClosed):
        jam.result()


def test_a_stream_that_nobody_reads_holds_up_no_other(connector: Connector, crew: Crew) -> None:
    pair = connector()
    stuck, _unread = streams(pair)
    jam = crew.start(stuck.sendall, bytes(MIB))
    near, far = streams(pair)
    crew.start(near.sendall, bytes(4 * MIB))
    assert len(far.recv(4 * MIB, socket.MSG_WAITALL)) == 4 * MIB
    pair[0].kill()
    with pytest.raises(muxado.SessionClosed):
        jam.result()


def test_many_callers_on_one_connection(connector: Connector, crew: Crew) -> None:
    """Thirty callers in turn with one echo thread each: every hand-over of the seats is met."""
    client, server = connector()

    def echo(stream: muxado.Stream) -> None:
        with stream:
            while data := stream.recv(4096):
                stream.sendall(data)

    def serve() -> None:
        for stream in server:
            crew.start(echo, stream)

    def call(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(15):
            with client.open() as stream:
                stream.settimeout(GUARD)
                for _ in range(rng.randrange(4)):
                    data = rng.randbytes(rng.choice([1, 100, 5000, 70000]))
                    writer = threading.Thread(target=stream.sendall, args=(data,))
                    writer.start()
                    assert stream.recv(len(data), socket.MSG_WAITALL) == data
                    writer.join()
                stream.shutdown(socket.SHUT_WR)
                assert stream.recv(1) == b""

    serving = crew.start(serve)
    for task in [crew.start(call, seed) for seed in range(30)]:
        task.result()
    client.close()
    serving.result()


def test_a_sender_with_a_time_out_gives_nothing_twice(sessions: Sessions, crew: Crew) -> None:
    """Sends that time out again and again while others write: each byte arrives once."""
    pair = sessions.tcp(buffers=4096)
    near, far = streams(pair)
    other_near, other_far = streams(pair)
    noise = crew.start(other_near.sendall, bytes(2 * MIB))
    crew.start(other_far.recv, 2 * MIB, socket.MSG_WAITALL)
    data = random.Random(1).randbytes(MIB)
    reading = crew.start(read_all, far)
    near.settimeout(0.001)
    view = memoryview(data)
    while view:
        try:
            view = view[near.send(view[:50_000]) :]
        except TimeoutError:
            continue
    near.shutdown(socket.SHUT_WR)
    assert reading.result() == data
    noise.result()
