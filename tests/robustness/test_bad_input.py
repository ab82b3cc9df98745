"""A peer that breaks the rules: the session ends with the right code, or the stream alone."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

import muxado
from muxado import ErrorCode

from ..helpers.crew import GUARD, Crew
from ..helpers.support import (
    DATA,
    FIN,
    GOAWAY,
    RST,
    SYN,
    WNDINC,
    RawPeer,
    frame,
    read_all,
    small_send_buffer,
    waiting,
    word,
)

FATAL = {
    "rst-size": (frame(RST, 0, 3, b"abc"), ErrorCode.FRAME_SIZE_ERROR),
    "wndinc-size": (frame(WNDINC, 0, 3, b"abcde"), ErrorCode.FRAME_SIZE_ERROR),
    "goaway-size": (frame(GOAWAY, 0, 0, b"abcd"), ErrorCode.FRAME_SIZE_ERROR),
    "rst-0": (frame(RST, 0, 0, word(1)), ErrorCode.PROTOCOL_ERROR),
    "data-0": (frame(DATA, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
    "wndinc-0": (frame(WNDINC, 0, 0, word(1)), ErrorCode.PROTOCOL_ERROR),
    "goaway-3": (frame(GOAWAY, 0, 3, word(0) + word(0)), ErrorCode.PROTOCOL_ERROR),
    "wrong-parity": (frame(DATA, SYN, 4), ErrorCode.PROTOCOL_ERROR),
    "second-syn": (frame(DATA, SYN, 3), ErrorCode.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("name", FATAL)
def test_the_session_ends(raw: Callable[..., RawPeer], crew: Crew, name: str) -> None:
    bad, code = FATAL[name]
    peer = raw()
    peer.send(frame(DATA, SYN, 3, b"before"))
    stream, _ = peer.session.accept()
    accepting = crew.start(peer.session.accept)
    waiting(peer.session, 1)
    peer.send(frame(DATA, 0, 3, b" and after"), bad, frame(DATA, 0, 3, b" too late"))
    with pytest.raises(muxado.SessionClosed) as caught:
        accepting.result()
    assert caught.value.code == code
    assert peer.goaway().body[4:8] == word(code)
    assert peer.session.wait(GUARD).code == code
    assert stream.recv(100) == b"before and after"
    with pytest.raises(muxado.ProtocolError):
        stream.recv(100)
    with pytest.raises(muxado.ProtocolError):
        stream.sendall(b"x")
    stream.close()


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes(raw: Callable[..., RawPeer], crew: Crew, seed: int) -> None:
    peer = raw()
    accepting = crew.start(lambda: list(peer.session))
    peer.send(random.Random(seed).randbytes(3000))
    peer.sock.shutdown(1)
    for stream in accepting.result():
        stream.close()
    peer.session.wait(GUARD)
    peer.goaway()


def test_data_over_the_window_resets_that_stream_alone(raw: Callable[..., RawPeer]) -> None:
    peer = raw(window=1000)
    peer.send(frame(DATA, SYN, 3, bytes(1000)), frame(DATA, SYN, 5))
    over, other = peer.session.accept()[0], peer.session.accept()[0]
    peer.send(frame(DATA, 0, 3, b"x"), frame(DATA, 0, 5, b"fine"))
    got = peer.expect(RST, 3)
    assert got.word == ErrorCode.FLOW_CONTROL_ERROR
    assert other.recv(100) == b"fine"
    with pytest.raises(muxado.FlowControlError) as caught:
        over.recv(1)
    assert caught.value.code == ErrorCode.FLOW_CONTROL_ERROR
    over.close()
    other.close()


def test_a_header_over_the_window_is_enough(raw: Callable[..., RawPeer]) -> None:
    """The reset goes out before the body is there, and the body is dropped as it comes."""
    peer = raw(window=1000)
    whole = frame(DATA, SYN, 3, bytes(2**20))
    peer.send(whole[:8])
    assert peer.expect(RST, 3).word == ErrorCode.FLOW_CONTROL_ERROR
    for start in range(8, len(whole), 65536):
        peer.send(whole[start : start + 65536])
    peer.send(frame(DATA, SYN, 5, b"in step"))
    streams = [peer.session.accept()[0]]
    while streams[-1].id != 5:  # the first may have been handed out before it was reset
        streams.append(peer.session.accept()[0])
    assert streams[-1].recv(100) == b"in step"
    for stream in streams:
        stream.close()


def test_data_for_unknown_streams(raw: Callable[..., RawPeer]) -> None:
    peer = raw()
    peer.send(frame(DATA, 0, 7, bytes(2**21)), frame(DATA, FIN, 9), frame(DATA, 0, 11))
    got = [peer.read(), peer.read()]
    assert got == [(RST, 0, 7, word(4)), (RST, 0, 11, word(4))]
    peer.send(frame(RST, 0, 13, word(0)), frame(WNDINC, 0, 15, word(9)))
    peer.send(frame(DATA, SYN | FIN, 3, b"alive"))
    with peer.session.accept()[0] as stream:
        assert read_all(stream) == b"alive"


def test_unknown_frames_and_flags_are_skipped(raw: Callable[..., RawPeer]) -> None:
    peer = raw()
    peer.send(*(frame(kind, 15, 3, bytes(kind)) for kind in range(4, 16)))
    peer.send(frame(WNDINC, 0, 99, word(0)), frame(DATA, SYN | FIN | 12, 3, b"alive"))
    with peer.session.accept()[0] as stream:
        assert read_all(stream) == b"alive"
    assert peer.session.stats().ignored_frames == 13


def test_the_probe_of_another_muxado_is_answered(raw: Callable[..., RawPeer]) -> None:
    """Its heartbeat is an empty DATA on an id that is never opened, which must draw an RST."""
    peer = raw()
    for _ in range(3):
        peer.send(frame(DATA, 0, 0x7FFFFFFF))
        assert peer.expect(RST, 0x7FFFFFFF).word == ErrorCode.STREAM_CLOSED


def test_resets_that_are_provoked_and_never_read(raw: Callable[..., RawPeer]) -> None:
    """What such a peer makes us owe is bounded; over it the session ends."""
    peer = raw()
    small_send_buffer(peer.session)
    flood = b"".join(frame(DATA, 0, 2 * number + 1, b"") for number in range(1, 60_000))
    try:
        peer.send(flood)
    except OSError:
        pass  # the session has ended under it
    end = peer.session.wait(GUARD)
    assert end.code == ErrorCode.ENHANCE_YOUR_CALM
    assert isinstance(end.error, muxado.EnhanceYourCalm)


def test_ids_may_come_out_of_order(raw: Callable[..., RawPeer]) -> None:
    peer = raw()
    peer.send(frame(DATA, SYN, 9), frame(DATA, SYN, 5), frame(DATA, SYN, 1))
    accepted = [peer.session.accept()[0] for _ in range(3)]
    assert [stream.id for stream in accepted] == [9, 5, 1]
    for stream in accepted:
        stream.close()


def test_data_after_close_draws_a_reset(raw: Callable[..., RawPeer]) -> None:
    peer = raw()
    peer.send(frame(DATA, SYN, 3))
    stream, _ = peer.session.accept()
    stream.close()
    peer.expect(DATA, 3)
    peer.send(frame(DATA, 0, 3, b"anybody there?"))
    assert peer.expect(RST, 3).word == ErrorCode.STREAM_CLOSED


def test_close_with_bytes_unread_resets(raw: Callable[..., RawPeer]) -> None:
    peer = raw()
    peer.send(frame(DATA, SYN, 3, b"unread"))
    stream, _ = peer.session.accept()
    assert stream.recv(2, 2) == b"un"  # MSG_PEEK: it has arrived
    stream.close()
    assert peer.expect(RST, 3).word == ErrorCode.STREAM_CANCELLED


def test_an_update_is_due_at_half_a_window(raw: Callable[..., RawPeer]) -> None:
    peer = raw(window=1000, max_window=1000)
    peer.send(frame(DATA, SYN, 3, bytes(1000)))
    stream, _ = peer.session.accept()
    assert len(stream.recv(499)) == 499
    assert len(stream.recv(1)) == 1
    assert peer.expect(WNDINC, 3).word == 500
    assert len(stream.recv(1000)) == 500
    assert peer.expect(WNDINC, 3).word == 500
    stream.close()
