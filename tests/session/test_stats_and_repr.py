"""What a session tells of itself: its counters, and a repr from which a hang can be understood."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable

import pytest

import muxado
from muxado import ErrorCode

from ..helpers.crew import GUARD, Crew
from ..helpers.gates import Plain
from ..helpers.support import (
    DATA,
    FIN,
    GOAWAY,
    RST,
    SYN,
    WNDINC,
    RawPeer,
    Sessions,
    frame,
    small_send_buffer,
    streams,
    until,
    waiting,
    word,
)

Raw = Callable[..., RawPeer]


class TestStats:
    def test_what_is_closed_is_not_in_use_after_the_end_either(self, sessions: Sessions) -> None:
        client, server = sessions.socketpair()
        near, far = streams((client, server))
        client.kill()
        server.wait()
        assert (client.stats().streams, server.stats().streams) == (1, 1)
        near.close()
        far.close()
        assert (client.stats().streams, server.stats().streams) == (0, 0)

    def test_both_ends_agree(self, sessions: Sessions) -> None:
        client, server = sessions.socketpair(heartbeat_interval=None)
        near, far = streams((client, server))
        for number in range(1, 21):
            near.sendall(bytes(number))
            assert len(far.recv(100)) == number
        given_up = client.open()
        given_up.reset(ErrorCode.STREAM_CANCELLED)
        given_up.close()
        near.close()
        assert far.recv(1) == b""
        far.close()
        until(lambda: client.stats().streams == server.stats().streams == 0)
        until(lambda: client.stats().frames_received == 1)
        mine, theirs = client.stats(), server.stats()
        assert (mine.opened, theirs.accepted) == (2, 1)
        assert mine.bytes_sent == theirs.bytes_received
        assert mine.frames_sent == theirs.frames_received == 22  # SYN, FIN
        assert theirs.frames_sent == mine.frames_received == 1
        assert (mine.reset, theirs.reset) == (1, 0)
        assert (mine.stalls, mine.write_wait, mine.refused) == (0, 0.0, 0)
        assert mine.flood_budget == client._engine.core.protocol.config.flood_budget

    @pytest.mark.parametrize("version", [1, 2])
    def test_every_frame_counts_once(self, sessions: Sessions, version: int) -> None:
        client, server = sessions.socketpair(version=version, heartbeat_interval=None)
        opened = [client.open(fin=number % 3 == 0) for number in range(10)]
        opened[4].sendall(b"the first to speak, so that others' SYNs go along")
        accepted = [server.accept()[0] for _ in opened]
        for stream in opened + accepted:
            if stream.id != opened[4].id:
                stream.close()
        accepted[4].close()
        opened[4].close()
        until(lambda: client.stats().streams == server.stats().streams == 0)
        until(lambda: client.stats().frames_sent == server.stats().frames_received)
        until(lambda: server.stats().frames_sent == client.stats().frames_received)
        for engine in (client._engine, server._engine):
            until(lambda: engine.writing.sent == engine.core.protocol.pending.framed)  # noqa: B023

    def test_frames_cut_into_bytes(self, raw: Raw) -> None:
        peer = raw()
        whole = frame(DATA, SYN, 3, b"abc") + frame(WNDINC, 0, 3, word(5))
        whole += frame(DATA, FIN, 3) + frame(9, 0, 0, b"unknown") + frame(RST, 0, 9, word(1))
        for number in range(len(whole)):
            peer.send(whole[number : number + 1])
        until(lambda: peer.session.stats().bytes_received == len(whole))
        assert peer.session.stats().frames_received == 5
        peer.session.accept()[0].close()

    def test_refused_and_reset(self, raw: Raw) -> None:
        peer = raw(accept_backlog=2)
        budget = peer.session._engine.core.protocol.budget
        now = budget._clock()
        budget._clock = lambda: now  # or it may be full again
        peer.send(*(frame(DATA, SYN, number, b"hello") for number in (3, 5, 7, 9, 11)))
        peer.send(frame(RST, 0, 3, word(6)))
        until(lambda: peer.session.stats().reset == 1)
        stats = peer.session.stats()
        assert (stats.refused, stats.backlog, stats.streams) == (3, 1, 1)
        assert stats.buffered == 5
        assert stats.flood_budget == 50_000 - 3 - 5
        with peer.session.accept()[0] as stream:
            stream.recv(9)
            assert peer.session.stats().buffered == 0

    def test_stalls(self, raw: Raw, crew: Crew) -> None:
        peer = raw(window=1000, max_window=1000)
        peer.send(frame(DATA, SYN, 3))
        stream, _ = peer.session.accept()
        sending = crew.start(stream.sendall, bytes(2500))
        until(lambda: peer.session.stats().stalls == 1)
        assert peer.session.stats().stalled == 1
        peer.send(frame(WNDINC, 0, 3, word(1000)))
        until(lambda: peer.session.stats().stalls == 2)
        peer.send(frame(WNDINC, 0, 3, word(1000)))
        sending.result()
        assert peer.session.stats().stalled == 0
        stream.close()

    def test_the_time_that_the_connection_takes_no_more(self, raw: Raw, crew: Crew) -> None:
        peer = raw()
        small_send_buffer(peer.session)
        peer.send(frame(DATA, SYN, 3))
        stream, _ = peer.session.accept()
        assert peer.session.stats().write_wait == 0
        sending = crew.start(stream.sendall, bytes(200_000))
        until(lambda: peer.session.stats().write_wait > 0.01)  # while it still waits
        first = peer.session.stats().write_wait
        while peer.session.stats().bytes_sent < 200_000:
            peer.sock.recv(65536)
        sending.result()
        over = peer.session.stats().write_wait
        assert over >= first
        assert peer.session.stats().write_wait == over
        stream.close()

    def test_heartbeats(self, raw: Raw) -> None:
        peer = raw(client=True, heartbeat_interval=0.02)
        for _ in range(3):
            probe = peer.expect(DATA, 0x7FFFFFFF)
            peer.send(frame(RST, 0, probe.stream_id, word(4)))
        until(lambda: peer.session.stats().heartbeats_answered == 3)
        assert peer.session.stats().heartbeats_sent >= 3


class TestRepr:
    def test_idle(self, sessions: Sessions) -> None:
        client, _ = sessions.tcp(heartbeat_interval=None)
        until(lambda: "the reader thread reads the connection" in repr(client))
        text = repr(client)
        assert re.match(r"<muxado.Session client-\d+ with \('127.0.0.1', \d+\): open, ", text)
        assert "0 streams, 0 to accept" in text
        assert "wait" not in text

    def test_who_waits_for_what(self, sessions: Sessions, crew: Crew) -> None:
        client, server = sessions.socketpair(heartbeat_interval=None)
        near, far = streams((client, server))
        tasks = [crew.start(near.recv, 10) for _ in range(2)]
        tasks.append(crew.start(client.accept))  # type: ignore[arg-type]
        waiting(client, 3)
        pattern = r"(recv\(\) of stream 3|accept\(\)|the reader thread) reads the connection"
        until(lambda: re.search(pattern, repr(client)))
        until(lambda: "callers that wait: 1 in accept(), 2 in recv()" in repr(client))
        assert "the peer has not answered stream 3" in repr(client)
        assert "not answered yet" in repr(near)
        until(lambda: "2 in recv()" in repr(near))
        far.sendall(b"x")
        far.close()
        for task in tasks[:2]:
            task.result()
        assert "not answered" not in repr(client)
        client.close()
        with pytest.raises(muxado.SessionClosed):
            tasks[2].result()
        near.close()

    def test_a_window_that_is_not_granted(self, raw: Raw, crew: Crew) -> None:
        peer = raw(window=1000, max_window=1000, heartbeat_interval=None)
        peer.send(frame(DATA, SYN, 3))
        stream, _ = peer.session.accept()
        sending = crew.start(stream.sendall, bytes(2500))
        until(lambda: "the peer grants no window to stream 3" in repr(peer.session))
        pattern = r"(send\(\) of stream 3|the reader thread) reads the connection"
        until(lambda: re.search(pattern, repr(peer.session)))
        until(lambda: "1 in send()" in repr(peer.session))
        assert "may send 0" in repr(stream)
        assert "1000 of 2500 bytes sent" in repr(stream)
        peer.send(frame(RST, 0, 3, word(6)))
        with pytest.raises(muxado.StreamReset):
            sending.result()
        assert "reset: the peer reset stream 3: STREAM_CANCELLED" in repr(stream)
        stream.close()

    def test_a_connection_that_takes_no_more(self, raw: Raw) -> None:
        peer = raw(heartbeat_interval=None)
        small_send_buffer(peer.session)
        peer.send(frame(DATA, SYN, 3))
        stream, _ = peer.session.accept()

        def send() -> None:
            with pytest.raises(muxado.SessionClosed):
                stream.sendall(bytes(100_000))

        thread = threading.Thread(target=send, name="the-sender")
        thread.start()
        pattern = r"the connection takes no more bytes since \d+\.\d s: the-sender waits with \d+"
        until(lambda: re.search(pattern, repr(peer.session)))
        assert "1 in send()" in repr(peer.session)
        with peer.session._engine.core.lock:
            repr(peer.session)
        peer.session.kill()
        thread.join(GUARD)
        assert "takes no more" not in repr(peer.session)
        stream.close()

    def test_a_peer_that_does_not_answer_heartbeats(self, raw: Raw) -> None:
        peer = raw(heartbeat_interval=0.02)
        pattern = r"heartbeat unanswered for \d+\.\d s"
        until(lambda: re.search(pattern, repr(peer.session)))

    def test_the_end(self, raw: Raw) -> None:
        peer = raw(client=True)
        stream = peer.session.open()
        assert "unknown to the peer yet" in repr(stream)
        peer.expect(DATA, 3)
        peer.send(frame(GOAWAY, 0, 0, word(3) + word(ErrorCode.INTERNAL_ERROR) + b"oops"))
        until(lambda: "the peer is going away (INTERNAL_ERROR)" in repr(peer.session))
        peer.sock.close()
        peer.session.wait(GUARD)
        assert "closed: INTERNAL_ERROR" in repr(peer.session)
        assert "oops" in repr(peer.session)
        assert "its session closed" in repr(stream)
        stream.close()
        assert f"Stream 3 of {peer.session._engine.core.name}: closed" in repr(stream)

    def test_halves(self, sessions: Sessions) -> None:
        near, far = streams(sessions.socketpair())
        assert ": open, " in repr(near)
        near.sendall(b"12345")
        near.shutdown(socket.SHUT_WR)
        assert "no more to be sent" in repr(near)
        until(lambda: "ended by the peer, 5 bytes unread" in repr(far))
        assert "may receive 262139 of 262144" in repr(far)
        far.shutdown(socket.SHUT_RDWR)
        until(lambda: "ended both ways" in repr(near))
        near.close()
        far.close()
        assert ": closed, " in repr(far)

    def test_it_asks_nobody(self, crew: Crew) -> None:
        """No lock is taken, and no object of the user's is called."""
        ours, theirs = socket.socketpair()
        plain = Plain(ours)
        plain.getpeername = lambda: 1 / 0  # type: ignore[attr-defined]
        session = muxado.client(plain)
        stream = session.open()
        locked, leave = threading.Event(), threading.Event()

        def hold() -> None:
            with session._engine.core.lock:
                locked.set()
                leave.wait(GUARD)

        holding = crew.start(hold)
        assert locked.wait(GUARD)
        assert "1 streams" in repr(session)
        assert "open" in repr(stream)
        leave.set()
        holding.result()
        stream.close()
        session.kill()
        theirs.close()

    def test_while_everything_changes(
        self, sessions: Sessions, crew: Crew, frequent_turns: None
    ) -> None:
        client, server = sessions.socketpair()
        over = threading.Event()

        def look() -> int:
            count = 0
            while not over.is_set():
                for session in (client, server):
                    assert "in the middle" not in repr(session)
                    count += 1
            return count

        looking = crew.start(look)

        def serve() -> None:
            for stream in server:
                with stream:
                    stream.sendall(stream.recv(100))

        crew.start(serve)
        for _ in range(300):
            with client.open() as stream:
                stream.sendall(b"hello")
                assert stream.recv(100) == b"hello"
        over.set()
        assert looking.result() > 0
        client.close()
