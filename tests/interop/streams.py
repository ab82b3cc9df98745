"""What the tests do with streams, whoever is at the other end."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import muxado

from ..helpers.crew import Crew
from ..helpers.support import read_all, until
from .go_peer import Link

Linker = Callable[..., Link]

WINDOW = 65536


def echo(stream: muxado.Stream) -> int:
    """Send back what comes, to its end; returns how much that was."""
    count = 0
    with stream:
        while data := stream.recv(WINDOW):
            stream.sendall(data)
            count += len(data)
        stream.shutdown(socket.SHUT_WR)
    return count


def exchange(stream: muxado.Stream, data: bytes, crew: Crew | None = None) -> bytes:
    """Send ``data``, half-close, read to the end; by two threads if it is more than a window."""
    with stream:
        if crew is None:
            stream.sendall(data)
            stream.shutdown(socket.SHUT_WR)
            return read_all(stream)
        reading = crew.start(read_all, stream)
        stream.sendall(data)
        stream.shutdown(socket.SHUT_WR)
        return reading.result()


def accept(session: muxado.Session, count: int) -> Iterator[muxado.Stream]:
    for _ in range(count):
        stream, _ = session.accept()
        yield stream


def serve_each(session: muxado.Session, count: int, crew: Crew) -> None:
    """Echo on the next ``count`` streams, each in a thread of its own."""
    for task in [crew.start(echo, stream) for stream in accept(session, count)]:
        task.result()


def serve_in_turn(session: muxado.Session, count: int) -> None:
    for stream in accept(session, count):
        echo(stream)


def close(session: muxado.Session) -> None:
    """The streams have left nothing behind."""
    until(lambda: session.stats().streams == 0)
    session.close()
    assert session.wait() == (muxado.ErrorCode.NO_ERROR, None, b"")
