"""A thread that has nothing to do sleeps, and is not woken for nothing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest

from muxado.engine import writer
from muxado.engine.waiting import Waiter

from ..helpers.crew import GUARD, Crew
from ..helpers.gates import Calls, Gate, after, before
from ..helpers.support import (
    DATA,
    RST,
    SYN,
    RawPeer,
    Sessions,
    frame,
    small_send_buffer,
    streams,
    until,
    waiting,
    word,
)

#: Turns of the writer thread that only one which spins takes.
MANY = 100


def test_a_reset_overtakes_a_grant(
    raw: Callable[..., RawPeer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One read brings the bytes that make a window update due, and the RST that makes it moot.

    Something was to go at once and nothing is left to send: the writer thread must come to rest.
    """
    peer = raw(window=4096)
    engine = peer.session._engine
    peer.send(frame(DATA, SYN, 3))
    stream, _ = peer.session.accept()
    stream.shutdown(socket.SHUT_RD)
    turns = Calls(monkeypatch, engine.keepalive, "look")
    peer.send(frame(DATA, 0, 3, bytes(3000)), frame(RST, 0, 3, word(6)))
    until(lambda: stream._state.failure)
    until(lambda: not engine.core.protocol.pending.flush_now or turns.count > MANY)
    assert turns.count <= MANY
    stream.close()


def test_a_reset_overtakes_a_syn(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A SYN must go at once, another thread is writing, and the stream is reset meanwhile.

    As above, nothing is left to send.
    """
    peer = raw(client=True)
    engine = peer.session._engine
    with Gate() as gate, peer.session.open() as first:
        after(monkeypatch, engine.transport, "send", gate.stop_large)
        sending = crew.start(first.sendall, bytes(10_000))
        gate.reached()
        with peer.session.open() as second:
            with pytest.raises(BlockingIOError):
                second.recv(1, socket.MSG_DONTWAIT)
            second.reset()
            assert engine.core.protocol.pending.flush_now
            turns = Calls(monkeypatch, engine.keepalive, "look")
            gate.open()
            sending.result()
            until(lambda: not engine.core.protocol.pending.flush_now or turns.count > MANY)
            assert turns.count <= MANY


def test_an_open_while_the_connection_is_full(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A SYN waits for a frame to go with, and whoever writes waits for the connection to take more.

    The writer thread can do nothing about it but wait, too, and the SYN leaves all the same.
    """
    peer = raw(client=True, heartbeat_interval=None)
    engine = peer.session._engine
    small_send_buffer(peer.session)
    with peer.session.open() as first:
        jam = crew.start(first.sendall, bytes(100_000))
        waiting(peer.session, 1)
        turns = Calls(monkeypatch, engine.keepalive, "look")
        with peer.session.open() as second:
            until(lambda: turns.count and (engine.writing.parked or turns.count > MANY))
            assert turns.count <= MANY
            while (got := peer.read()) is not None and got.stream_id != second.id:
                assert got.stream_id == first.id
            assert got == (DATA, SYN, second.id, b"")
            jam.result()


def test_a_burst_of_opens_wakes_the_writer_thread_once(
    raw: Callable[..., RawPeer], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Woken for a SYN, it finds another thread writing, which may take it along: it does not park.

    Parked, it would be woken again by the next open, and by the one that writes as it leaves.
    """
    peer = raw(client=True, heartbeat_interval=None)
    engine = peer.session._engine
    until(lambda: engine.writing.parked)
    naps = Calls(monkeypatch, engine.keepalive, "look")
    with Gate() as gate, peer.session.open() as first:
        first.sendall(b"x")
        until(lambda: naps.count and engine.writing.parked)
        monkeypatch.setattr(writer, "_DELAY", GUARD)
        after(monkeypatch, engine.transport, "send", gate.stop_large)
        sending = crew.start(first.sendall, bytes(10_000))
        gate.reached()
        turns = Calls(monkeypatch, engine.keepalive, "look")
        with peer.session.open() as second:
            until(lambda: turns.count)
            with engine.core.lock:
                assert not engine.writing.parked
            with peer.session.open() as third:
                gate.open()
                sending.result()
                assert turns.count == 1
                third.sendall(b"x")
            second.sendall(b"x")


def test_a_wait_for_the_end_is_not_woken_by_writes(
    sessions: Sessions, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write leaves the seat, with nothing to pass on, while somebody waits for the end."""
    pair = sessions.socketpair()
    near, far = streams(pair)
    engine = pair[0]._engine
    task = crew.start(pair[0].wait)
    waiting(pair[0], 1)
    woken = 0

    def count(waiter: Waiter) -> None:
        nonlocal woken
        woken += waiter in engine.core.watchers

    with monkeypatch.context() as patch:
        before(patch, Waiter, "wake", count)
        for _ in range(10):
            near.sendall(b"x")
            assert far.recv(1) == b"x"
    assert woken == 0
    pair[0].kill()
    task.result()


def test_an_open_beside_one_who_writes_without_end(sessions: Sessions, crew: Crew) -> None:
    """Whoever writes takes a SYN without bytes along only after it has waited."""
    pair = sessions.socketpair()
    near, far = streams(pair)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            near.sendall(bytes(100))
        near.close_write()

    def read() -> None:
        while far.recv(65536):
            pass

    busy = [crew.start(read), crew.start(write)]
    pair[1].settimeout(GUARD)
    try:
        for _ in range(20):
            with pair[0].open() as stream:
                accepted, _ = pair[1].accept()
                assert accepted.id == stream.id
                accepted.close()
    finally:
        stop.set()
    for each in busy:
        each.result()
