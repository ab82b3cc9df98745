"""What a session is doing, in words: for whoever asks why a program hangs.

Nothing here takes a lock or raises, so that it can be asked from a debugger, a signal handler or
beside a deadlock. Figures that change meanwhile may be of slightly different moments.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

from muxado.errors import ErrorCode

if TYPE_CHECKING:
    from muxado.engine.shared import Shared
    from muxado.protocol import StreamState

__all__ = ["describe", "describe_stream"]

T = TypeVar("T")


def describe(engine: Shared) -> str:
    """The state of a session: its streams, its seats, who waits, what the peer owes."""
    try:
        return ", ".join(part for part in _parts(engine) if part)
    except Exception as error:  # of two moments that do not fit together
        return f"in the middle of something ({type(error).__name__})"


def describe_stream(engine: Shared, stream: StreamState) -> str:
    """The state of a stream."""
    try:
        return ", ".join(part for part in _stream_parts(engine, stream) if part)
    except Exception as error:
        return f"in the middle of something ({type(error).__name__})"


def _parts(engine: Shared) -> Iterable[str]:
    protocol = engine.protocol
    now = time.monotonic()
    streams = _look(protocol.streams.values())
    yield _state(engine)
    yield f"{protocol.alive} streams"
    yield f"{len(protocol.backlog)} to accept"
    if unread := sum(stream.buffered for stream in streams):
        yield f"{unread} bytes unread"
    if engine.death is not None:
        return
    yield _reading(engine, streams)
    yield _writing(engine, now)
    yield _waiting(engine, streams)
    if stalled := [s for s in streams if s.write is not None and s.send.left <= 0]:
        yield f"the peer grants no window to {_ids(stalled)}"
    if silent := [s for s in streams if s.local and s.opened and not s.answered]:
        yield f"the peer has not answered {_ids(silent)}"
    since = engine._waits_since
    if since is not None:
        yield f"heartbeat unanswered for {now - since:.1f} s"
    if protocol.goaway is not None:
        yield f"the peer is going away ({ErrorCode.of(protocol.goaway[1]).name})"
    if (broken := engine._broken) is not None:
        yield f"writing failed {now - broken[0]:.1f} s ago ({broken[1]})"
    budget = protocol.budget
    if budget.left * 2 < budget.size:
        yield f"{budget.left} of a flood budget of {budget.size} left"


def _state(engine: Shared) -> str:
    death = engine.death
    if death is not None:
        cause = "" if death.error is None else f" ({death.error})"
        return f"closed: {death.code.name}{cause}"
    if engine._closing:
        return "closing"
    return "going away" if engine.protocol.going_away else "open"


def _reading(engine: Shared, streams: list[StreamState]) -> str:
    who, leading = engine._reading, engine._leading
    if who is None:
        return "nobody reads the connection"
    if who is engine._reader_waiter:
        return "the reader thread reads the connection"
    if who in engine._acceptors:
        return "accept() reads the connection"
    for stream in streams:
        if who in (stream.readers or ()):
            return f"recv() of stream {stream.id} reads the connection"
        if who in (stream.writers or ()):
            return f"send() of stream {stream.id} reads the connection"
    if isinstance(who, list) and leading is not None:  # see ReadSeat.read()
        return f"recv() of stream {leading.id} reads the connection"
    return "a caller reads the connection"


def _writing(engine: Shared, now: float) -> str:
    jam = engine._jam
    if engine._jammed and jam is not None:
        since, thread, left = jam
        text = f"the connection takes no more bytes since {now - since:.1f} s: "
        return text + f"{thread} waits with {left}"
    text = "somebody writes to the connection" if engine._writing else ""
    if unsent := len(engine._unsent):
        text += f"{', ' if text else ''}{unsent} bytes wait for it"
    return text


def _waiting(engine: Shared, streams: list[StreamState]) -> str:
    senders = sum(len(stream.writers or ()) for stream in streams)
    crowds = [
        ("accept()", len(engine._acceptors)),
        ("recv()", sum(len(stream.readers or ()) for stream in streams)),
        ("send()", senders + (1 if engine._jammed else 0)),
        ("drain()", len(engine._drainers)),
        ("close()", len(engine._flushers)),
        ("wait()", len(engine._watchers)),
    ]
    if isinstance(engine._reading, list):
        crowds[1] = ("recv()", crowds[1][1] + 1)
    text = ", ".join(f"{count} in {name}" for name, count in crowds if count)
    return f"callers that wait: {text}" if text else ""


def _stream_parts(engine: Shared, stream: StreamState) -> Iterable[str]:
    if stream.closed:
        yield "closed"
    elif stream.failure is not None:
        yield f"reset: {stream.failure.message}"
    elif engine.death is not None:
        yield "its session closed"
    elif stream.fin_in and stream.fin_out:
        yield "ended both ways"
    elif stream.fin_in:
        yield "ended by the peer"
    elif stream.fin_out:
        yield "no more to be sent"
    else:
        yield "open"
    if stream.deaf:
        yield "shut for reading"
    if stream.local and not stream.opened:
        yield "unknown to the peer yet"
    elif stream.local and not stream.answered:
        yield "not answered yet"
    yield f"{stream.buffered} bytes unread"
    yield f"may send {stream.send.left}"
    yield f"may receive {stream.receive.left} of {stream.receive.size}"
    write = stream.write
    if write is not None:
        yield f"{write.sent} of {len(write.data)} bytes sent"
    readers = len(stream.readers or ())
    if isinstance(engine._reading, list) and engine._leading is stream:
        readers += 1
    if readers:
        yield f"{readers} in recv()"
    writers = len(stream.writers or ())
    if stream in engine._wills:
        yield "bytes of a dropped file to be sent"
        writers -= 1
    if writers > 0:
        yield f"{writers} in send()"


def _ids(streams: list[StreamState]) -> str:
    """``stream 5``, ``streams 5, 7``, or how many where they are more."""
    if len(streams) == 1:
        return f"stream {streams[0].id}"
    if len(streams) > 5:
        return f"{len(streams)} streams"
    return "streams " + ", ".join(str(stream.id) for stream in streams)


def _look(items: Iterable[T]) -> list[T]:
    """What is in there, though others may be changing it."""
    for _ in range(10):
        try:
            return list(items)
        except RuntimeError:
            continue
    return []
