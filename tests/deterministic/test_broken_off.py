"""A recorded conversation that breaks off behind any of its bytes, with everybody waiting.

Whoever reads, writes, accepts or waits for the end is told, both threads end, the connection is
given back: if not, the scheduler finds somebody who waits for ever. The last test does the same
over TCP, where a kernel says how it ends.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import struct

import pytest

import muxado
from tests.helpers.crew import GUARD, Crew
from tests.helpers.support import tcp_pair, threads_of, until
from tests.session.test_recorded_peers import Conversation, conversations

from .link import Cuts, Line, Memory
from .world import Preemptions, World

LONGEST = 130
"""Bytes; there is enough to see in the shorter ones."""


def chosen() -> list[Conversation]:
    """For each version and each side a few, the longest of those that are not too long."""
    talks: list[Conversation] = []
    for version in (1, 2):
        for client in (True, False):
            fitting = [
                talk
                for talk in conversations()
                if (talk.version, talk.client) == (version, client)
                and 8 < len(b"".join(talk.said)) <= LONGEST
            ]
            talks += sorted(fitting, key=lambda talk: -len(b"".join(talk.said)))[:3]
    return talks


def name(talk: Conversation) -> str:
    return f"v{talk.version}-{talk.name}-{'client' if talk.client else 'server'}"


def echo(stream: muxado.Stream) -> None:
    with stream, contextlib.suppress(OSError):
        while data := stream.recv(100):
            stream.sendall(data)


def ask(session: muxado.Session) -> None:
    with contextlib.suppress(OSError), session.open() as stream:
        stream.sendall(b"hello")
        while stream.recv(100):
            pass


def pour(session: muxado.Session) -> None:
    with contextlib.suppress(OSError), session.open() as stream:
        stream.sendall(bytes(10_000))
        raise AssertionError("nobody has granted so much")


class Broken:
    """One run, in a world of its own."""

    def __init__(self, world: World, talk: Conversation, offset: int, how: str) -> None:
        self.world, self.talk, self.how = world, talk, how
        self.said = b"".join(talk.said)[:offset]
        # Whether there is room for all that is said, or the connection is soon full.
        self.inward, self.outward = Line(1000), Line(1000 if offset % 2 else 40)

    def __call__(self) -> None:
        world, talk = self.world, self.talk
        end = Memory(world, self.inward, self.outward, Cuts(1000, 7, 1000))
        session = muxado.Session(
            end,
            client=talk.client,
            version=talk.version,
            typed=talk.typed,
            window=100,
            max_window=100,
            heartbeat_interval=None,
        )
        calls = [
            world.start("serve", lambda: self.serve(session)),
            world.start("wait", session.wait),
            world.start("pour", lambda: pour(session)),
            *(world.start("ask", lambda: ask(session)) for _ in range(talk.opens)),
        ]
        self.inward.bytes += self.said
        world.quiet()
        if self.how == "reset":
            self.outward.reset()
            self.inward.broken = True
        else:
            self.inward.ended = True
        for call in calls:
            call.join()
        assert session.closed
        with pytest.raises((muxado.SessionClosed, muxado.RemoteGoneAway)):
            session.open()
        session.close()
        assert end.given_back

    def serve(self, session: muxado.Session) -> None:
        handlers = [self.world.start("echo", functools.partial(echo, stream)) for stream in session]
        for handler in handlers:
            handler.join()


@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize("talk", chosen(), ids=name)
def test_behind_any_byte(talk: Conversation, how: str) -> None:
    for offset in range(len(b"".join(talk.said)) + 1):
        world = World(Preemptions(turns=[offset % 5, offset % 3, offset % 2] * 20))
        world.run(Broken(world, talk, offset, how))


@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize("talk", chosen()[::3], ids=name)
def test_behind_some_bytes_over_tcp(talk: Conversation, how: str, crew: Crew) -> None:
    for offset in range(0, len(b"".join(talk.said)) + 1, 9):
        break_off_over_tcp(talk, offset, how, crew)


def break_off_over_tcp(talk: Conversation, offset: int, how: str, crew: Crew) -> None:
    ours, theirs = tcp_pair()
    session = muxado.Session(
        ours, client=talk.client, version=talk.version, typed=talk.typed, linger=0.1
    )
    waits, asks = crew.start(session.wait, GUARD), crew.start(ask, session)
    theirs.sendall(b"".join(talk.said)[:offset])
    if how == "reset":
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    waits.result()
    asks.result()
    with pytest.raises(muxado.SessionClosed):
        while True:
            session.accept()[0].close()
    until(lambda: not threads_of(session))
    session.close()
    assert ours.fileno() == -1
