"""What a session does as a listening socket."""

from __future__ import annotations

import copy
import pickle
import select
import socket
from collections.abc import Callable

import pytest

import muxado
from muxado import ErrorCode

from ..helpers.crew import GUARD, Crew
from ..helpers.support import (
    DATA,
    FIN,
    RST,
    SYN,
    Connector,
    RawPeer,
    Sessions,
    frame,
    read_all,
    streams,
    until,
    waiting,
    word,
)


def test_accept_times_out(sessions: Sessions) -> None:
    _, server = sessions.tcp()
    server.settimeout(0.01)
    assert server.gettimeout() == 0.01
    with pytest.raises(TimeoutError, match="timed out"):
        server.accept()
    server.setblocking(False)
    assert server.timeout == 0
    with pytest.raises(BlockingIOError):
        server.accept()
    server.setblocking(True)
    assert server.gettimeout() is None
    with pytest.raises(ValueError, match="out of range"):
        server.settimeout(-1)


def test_accept_returns_the_peers_address(sessions: Sessions) -> None:
    client, server = sessions.tcp()
    stream = client.open()
    accepted, address = server.accept()
    assert address == server.getpeername() == client.getsockname()
    assert accepted.getpeername() == address
    assert accepted.getsockname() == server.getsockname() == client.getpeername()
    assert (server.family, server.type, server.proto) == (socket.AF_INET, socket.SOCK_STREAM, 0)
    accepted.close()
    stream.close()


def test_both_ends_open_and_accept(connector: Connector) -> None:
    client, server = connector()
    for pair in ((client, server), (server, client)):
        near, far = streams(pair)
        near.sendall(b"ask")
        assert far.recv(3) == b"ask"
        far.sendall(b"answer")
        assert near.recv(6) == b"answer"
    assert client.stats().opened == client.stats().accepted == 1


def test_a_stream_never_written_to_reaches_accept(connector: Connector) -> None:
    client, server = connector()
    opened = [client.open() for _ in range(10)]
    server.settimeout(GUARD)
    accepted = [server.accept()[0] for _ in opened]
    assert [s.id for s in accepted] == [s.id for s in opened]
    for stream in opened + accepted:
        stream.close()


def test_a_server_that_speaks_first(connector: Connector) -> None:
    client, server = connector()
    stream = client.open()
    server.settimeout(GUARD)
    accepted, _ = server.accept()
    accepted.sendall(b"220 ready")
    assert stream.recv(100) == b"220 ready"
    stream.close()
    accepted.close()


def test_what_was_written_before_close_arrives(connector: Connector, crew: Crew) -> None:
    """What was written before close() is read by the peer, for a stream and for a session."""
    client, server = connector()
    reading = []
    for number in range(20):
        near, far = streams((client, server))
        near.sendall(b"last words %d" % number)
        if number % 2:
            near.close()
        reading.append(far)
    client.close()
    for number, far in enumerate(reading):
        text = b"last words %d" % number
        assert far.recv(100) == text
        if number % 2:
            assert far.recv(100) == b""
        else:
            with pytest.raises(muxado.SessionClosed):
                far.recv(100)


def test_much_written_before_close_arrives(sessions: Sessions, crew: Crew) -> None:
    """The same when they fill the connection: close() waits for it to take them."""
    client, server = sessions.tcp(buffers=4096)
    near, far = streams((client, server))
    near.setblocking(False)
    data = bytes(range(256)) * 400
    view = memoryview(data)
    while view:
        try:
            view = view[near.send(view) :]
        except BlockingIOError:
            break
    sent = len(data) - len(view)
    near.close()
    reading = crew.start(read_all, far)
    client.close()
    assert reading.result() == data[:sent]


def test_streams_that_arrived_before_the_end(raw: Callable[..., RawPeer]) -> None:
    """They are handed out after the peer is gone, then comes the end."""
    peer = raw()
    peer.send(*(frame(DATA, SYN | FIN, number, b"request") for number in (3, 5, 7)))
    peer.sock.shutdown(socket.SHUT_WR)
    peer.session.wait(GUARD)
    for number in (3, 5, 7):
        stream, _ = peer.session.accept()
        assert stream.id == number
        assert read_all(stream) == b"request"
        stream.close()
    for _ in range(2):
        with pytest.raises(muxado.SessionClosed):
            peer.session.accept()


def test_iteration_ends_with_the_session(sessions: Sessions, crew: Crew) -> None:
    client, server = sessions.tcp()

    def serve() -> list[int]:
        seen = []
        for stream in server:
            with stream:
                seen.append(len(read_all(stream)))
        return seen

    serving = crew.start(serve)
    for size in (1, 2, 3):
        with client.open() as stream:
            stream.sendall(bytes(size))
    client.close()
    assert serving.result() == [1, 2, 3]


def test_many_acceptors(sessions: Sessions, crew: Crew) -> None:
    client, server = sessions.tcp()
    tasks = [crew.start(server.accept) for _ in range(8)]
    waiting(server, 8)
    opened = [client.open() for _ in tasks]
    accepted = [task.result()[0] for task in tasks]
    assert sorted(s.id for s in accepted) == [s.id for s in opened]
    for stream in opened + accepted:
        stream.close()


def test_polls_readable_while_there_is_a_stream(sessions: Sessions) -> None:
    client, server = sessions.tcp()
    assert select.select([server], [], [], 0)[0] == []
    opened = [client.open(), client.open()]
    accepted = []
    for _ in opened:
        assert select.select([server], [], [], GUARD)[0] == [server]
        accepted.append(server.accept()[0])
    assert select.select([server], [], [], 0)[0] == []
    for stream in opened + accepted:
        stream.close()


def test_polls_the_end_once(sessions: Sessions) -> None:
    """Or a server's loop would spin on a session that is over."""
    client, server = sessions.tcp()
    assert select.select([server], [], [], 0)[0] == []
    client.close()
    assert select.select([server], [], [], GUARD)[0] == [server]
    with pytest.raises(muxado.SessionClosed):
        server.accept()
    assert select.select([server], [], [], 0)[0] == []


def test_backlog(sessions: Sessions) -> None:
    client, server = sessions.tcp(accept_backlog=2)
    opened = [client.open() for _ in range(3)]
    with pytest.raises(muxado.StreamRefused) as caught:
        opened[2].recv(1)
    assert caught.value.code == ErrorCode.ACCEPT_QUEUE_FULL
    assert caught.value.retryable
    for stream in [*opened, server.accept()[0], server.accept()[0]]:
        stream.close()


def test_max_streams(sessions: Sessions) -> None:
    client, server = sessions.tcp(max_streams=1)
    near, far = streams((client, server))
    refused = client.open()
    with pytest.raises(muxado.StreamRefused) as caught:
        refused.recv(1)
    assert caught.value.code == ErrorCode.STREAM_REFUSED
    refused.close()
    near.close()
    far.close()
    near, far = streams((client, server))
    near.sendall(b"room again")
    assert far.recv(100) == b"room again"


def test_close_refuses_what_was_never_accepted(sessions: Sessions, crew: Crew) -> None:
    client, server = sessions.tcp()
    stream = client.open()
    stream.sendall(b"request")
    until(lambda: server.stats().backlog)
    reading = crew.start(stream.recv, 1)
    server.close()
    with pytest.raises(muxado.StreamRefused) as caught:
        reading.result()
    assert caught.value.retryable
    stream.close()


def test_go_away(sessions: Sessions) -> None:
    """No new streams; those under way go on."""
    client, server = sessions.tcp()
    near, far = streams((client, server))
    server.go_away(ErrorCode.ENHANCE_YOUR_CALM, b"enough")
    near.sendall(b"still here")
    assert far.recv(100) == b"still here"
    far.sendall(b"so am I")
    assert near.recv(100) == b"so am I"
    with pytest.raises(muxado.RemoteGoneAway, match="enough") as caught:
        client.open()
    assert caught.value.retryable
    with pytest.raises(muxado.SessionClosed):
        server.open()


def test_drain(sessions: Sessions, crew: Crew) -> None:
    client, server = sessions.tcp()
    near, far = streams((client, server))
    assert not server.drain(0.01)
    draining = crew.start(server.drain)
    waiting(server, 1)
    near.sendall(b"finish")
    near.shutdown(socket.SHUT_WR)
    assert read_all(far) == b"finish"
    far.close()
    assert draining.result() is True
    assert not server.closed


def test_close_is_idempotent_and_from_any_thread(connector: Connector, crew: Crew) -> None:
    client, server = connector()
    for task in [crew.start(session.close) for session in (client, server) * 4]:
        task.result()
    client.close()
    assert client.closed
    assert server.closed


def test_close_from_a_handler(sessions: Sessions, crew: Crew) -> None:
    client, server = sessions.tcp()

    def handle() -> None:
        stream, _ = server.accept()
        with stream:
            stream.recv(1)
            server.close()

    handling = crew.start(handle)
    stream = client.open()
    stream.sendall(b"!")
    handling.result()
    client.wait(GUARD)
    stream.close()


def test_dial_stands_in_for_create_connection(sessions: Sessions) -> None:
    client, _ = sessions.tcp()
    stream = client.dial(("example.invalid", 80), 3.5, source_address=("", 0))
    assert stream.gettimeout() == 3.5
    default = client.dial(("x", 1), socket._GLOBAL_DEFAULT_TIMEOUT, None)  # type: ignore[attr-defined]
    assert default.gettimeout() is None
    stream.close()
    default.close()
    before = client.stats().opened
    for bad in (-1, float("nan")):
        with pytest.raises(ValueError, match="range"):
            client.dial(timeout=bad)
    for huge in (1e300, 10**400):
        with pytest.raises(OverflowError):
            client.dial(timeout=huge)
    assert client.stats().opened == before, "a stream was opened for a call that fails"


def test_born_half_closed(sessions: Sessions) -> None:
    pair = sessions.tcp()
    near, far = streams(pair, fin=True)
    assert far.recv(1) == b""
    with pytest.raises(BrokenPipeError):
        near.send(b"x")
    far.sendall(b"news")
    far.close()
    assert read_all(near) == b"news"


def test_a_stream_of_its_own(sessions: Sessions) -> None:
    pair = sessions.tcp()
    near, far = streams(pair, priority=7)
    assert near.id == far.id == 3
    assert near.session is pair[0]
    assert near.priority == 7
    near.priority = 9
    assert near.priority == 9
    assert near.stream_type == 0
    for bad in (-1, 2**31):
        with pytest.raises(ValueError, match="priority"):
            near.priority = bad
        with pytest.raises(ValueError, match="priority"):
            pair[0].open(priority=bad)
    with pytest.raises(TypeError):
        pair[0].open(priority="high")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="typed"):
        pair[0].open(stream_type=1)
    near.reset(ErrorCode.INTERNAL_ERROR)
    with pytest.raises(muxado.StreamReset) as caught:
        far.recv(1)
    assert caught.value.code == ErrorCode.INTERNAL_ERROR
    assert not caught.value.retryable


def test_options_of_a_listening_socket(sessions: Sessions) -> None:
    client, _ = sessions.tcp()
    client.bind(("", 0))
    client.listen(5)
    client.listen()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    assert "client" in repr(client)
    for copying in (copy.copy, pickle.dumps):
        with pytest.raises(TypeError):
            copying(client)


def test_bad_arguments(sessions: Sessions) -> None:
    near, far = socket.socketpair()
    with near, far:
        with pytest.raises(TypeError):
            muxado.client(near, no_such_option=1)
        with pytest.raises(ValueError, match="version"):
            muxado.client(near, version=3)
        with pytest.raises(ValueError, match="window"):
            muxado.client(near, window=-1)
        assert near.fileno() != -1, "a session that was never made owns nothing"
    with pytest.raises(TypeError, match="recv"):
        muxado.client(object())
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        pytest.raises(TypeError, match="stream socket"),
    ):
        muxado.client(datagrams)
    client, _ = sessions.tcp()
    for bad in (-1, float("nan")):
        with pytest.raises(ValueError, match="out of range"):
            client.wait(bad)


def test_config_is_taken_whole() -> None:
    near, far = socket.socketpair()
    config = muxado.Config(window=1000, linger=0.0)
    with muxado.client(near, config=config) as client, muxado.server(far, config=config):
        assert client._engine.core.protocol.config is config
    near, far = socket.socketpair()
    with near, far, pytest.raises(TypeError, match="Config"):
        muxado.client(near, config={"window": 1})


def test_opening_goes_with_the_first_bytes(raw: Callable[..., RawPeer]) -> None:
    """One frame, and the FIN of the stream before it in the same write."""
    peer = raw(client=True)
    with peer.session.open() as stream:
        stream.sendall(b"hello")
        assert peer.expect(DATA, 3) == (DATA, SYN, 3, b"hello")
        peer.send(frame(DATA, 0, 3, b"reply"))
        assert stream.recv(5) == b"reply"
    assert peer.expect(DATA, 3) == (DATA, FIN, 3, b"")


@pytest.mark.parametrize("how", ["wait", "recv", "poll", "close"])
def test_opening_without_bytes(raw: Callable[..., RawPeer], crew: Crew, how: str) -> None:
    peer = raw(client=True)
    stream = peer.session.open()
    reading = crew.start(stream.recv, 1) if how == "recv" else None
    if how == "poll":
        stream.fileno()
    elif how == "close":
        stream.close()
    got = peer.expect(DATA, 3)
    assert got.flags & SYN
    assert got.body == b""
    peer.send(frame(RST, 0, 3, word(4)))
    if reading is not None:
        with pytest.raises(muxado.StreamReset):
            reading.result()
    stream.close()


def test_reset_before_anything_was_sent(raw: Callable[..., RawPeer]) -> None:
    """The peer never hears of it."""
    peer = raw(client=True)
    engine = peer.session._engine
    with engine.core.lock:  # so that the writer thread cannot be first
        engine.core.writer = True
    stream = peer.session.open()
    stream.reset()
    with engine.core.lock:
        engine.core.writer = False
    with pytest.raises(muxado.StreamReset):
        stream.send(b"x")
    stream.close()
    other = peer.session.open()
    other.sendall(b"x")
    peer.expect(DATA, 5)
    other.close()
