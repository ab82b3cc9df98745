"""What a session tells about itself: its ``repr``, and what it logs.

**repr.** Nothing here takes a lock or raises, so a session can be described in a debugger, in a
signal's handler or beside a deadlock. Figures that change meanwhile may be of different moments.

**Logging.** A handler of ``logging`` runs any code: it may use a stream, even one of the session
that it is told about. So no thread that a session depends on ever calls one. What is to be logged
is put on a queue, in the order in which it happens, and a thread of its own hands it to the
loggers: ``muxado`` for a session's events and ``muxado.frames`` for every frame, both at DEBUG.
Frames are logged only if that logger itself has been given a level: a handler that sends what it
is told over a stream would otherwise, at a root logger's DEBUG, make frames without end. Whether
anything is logged is decided when a session starts.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from muxado import wire
from muxado.errors import ErrorCode

if TYPE_CHECKING:
    from muxado.engine import Engine
    from muxado.engine.keepalive import Keepalive
    from muxado.protocol import Protocol, StreamState

__all__ = ["Log", "describe", "describe_stream", "log_for"]

T = TypeVar("T")

_events = logging.getLogger("muxado")
_frames = logging.getLogger("muxado.frames")

#: Seconds at the interpreter's exit for what is still to be logged.
_EXIT = 0.5


class _LogThread:
    """Hands records to the loggers, in a thread that nobody ever waits for."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        # Its put() may be called at any moment, in a signal's handler or a finalizer too.
        self.records: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="muxado-log", daemon=True)
        self._thread.start()
        atexit.register(self._finish)

    def _run(self) -> None:
        while (item := self.records.get()) is not None:
            logger, when, thread, text, arguments = item
            try:
                if logger.isEnabledFor(logging.DEBUG):
                    record = logger.makeRecord(
                        logger.name, logging.DEBUG, "muxado", 0, text, arguments, None
                    )
                    record.created, record.threadName = when, thread
                    logger.handle(record)
            except Exception:  # a handler's or filter's own
                _events.exception("a record could not be logged")

    def _finish(self) -> None:
        if self.pid == os.getpid():
            self.records.put(None)
            self._thread.join(_EXIT)


_log_thread: _LogThread | None = None


def log_for(name: str, codec: wire.Codec) -> Log | None:
    """What a session called ``name`` tells its events to; ``None`` where nobody listens."""
    frames = _frames.level != logging.NOTSET and _frames.isEnabledFor(logging.DEBUG)
    if not frames and not _events.isEnabledFor(logging.DEBUG):
        return None
    global _log_thread  # noqa: PLW0603  one for the process, once it is needed
    if _log_thread is None or _log_thread.pid != os.getpid():
        _log_thread = _LogThread()
    log = Log(name, _log_thread.records)
    if frames:
        wire.watch(codec, log.frame)
    return log


class Log:
    """Takes what happens in one session; may be called with any lock held."""

    __slots__ = ("_before", "_name", "_records")

    def __init__(self, name: str, records: queue.SimpleQueue[tuple[Any, ...] | None]) -> None:
        self._name = name
        self._records = records
        self._before: tuple[int, int, object] = (0, 0, None)

    def event(self, text: str, *arguments: Any) -> None:
        """An event of the session."""
        self._put(_events, text, arguments)

    def frame(self, text: str, *arguments: Any) -> None:
        """A frame that came or was made."""
        self._put(_frames, text, arguments)

    def _put(self, logger: logging.Logger, text: str, arguments: tuple[Any, ...]) -> None:
        thread = threading.current_thread().name
        item = (logger, time.time(), thread, "%s: " + text, (self._name, *arguments))
        self._records.put(item)

    def news(self, protocol: Protocol, keepalive: Keepalive) -> None:
        """The peer has sent something: tell what concerns the session as a whole."""
        before = self._before
        self._before = (keepalive.answers, protocol.refused, protocol.goaway)
        if keepalive.answers != before[0]:
            self.event("heartbeat answered after %.6f s", keepalive.latency)
        if protocol.refused != before[1]:
            self.event("%d streams of the peer's refused", protocol.refused - before[1])
        if protocol.goaway is not None and protocol.goaway != before[2]:
            last, code, debug = protocol.goaway
            name = ErrorCode.of(code).name
            self.event("the peer is going away: %s, last stream %d, %r", name, last, debug)


def describe(engine: Engine) -> str:
    """The state of a session: its streams, its seats, who waits, what the peer has not done."""
    try:
        return ", ".join(part for part in _parts(engine) if part)
    except Exception as error:  # of two moments that do not fit together
        return f"in the middle of something ({type(error).__name__})"


def describe_stream(engine: Engine, stream: StreamState) -> str:
    """The state of a stream."""
    try:
        return ", ".join(part for part in _stream_parts(engine, stream) if part)
    except Exception as error:
        return f"in the middle of something ({type(error).__name__})"


def _parts(engine: Engine) -> Iterable[str]:
    core, protocol = engine.core, engine.core.protocol
    now = time.monotonic()
    streams = _look(protocol.streams.values())
    yield _state(engine)
    yield f"{protocol.alive} streams"
    yield f"{len(protocol.backlog)} to accept"
    if unread := sum(stream.buffer.size for stream in streams):
        yield f"{unread} bytes unread"
    if core.end is not None:
        return
    yield _reading(engine, streams)
    yield _writing(engine, now)
    yield _waiting(engine, streams)
    if stalled := [s for s in streams if s.stalled]:
        yield f"the peer grants no window to {_ids(stalled)}"
    if silent := [s for s in streams if s.local and s.opened and not s.answered]:
        yield f"the peer has not answered {_ids(silent)}"
    since = engine.keepalive.silent_since
    if since is not None:
        yield f"heartbeat unanswered for {now - since:.1f} s"
    if protocol.goaway is not None:
        yield f"the peer is going away ({ErrorCode.of(protocol.goaway[1]).name})"
    if (broken := engine.writing.broken) is not None:
        yield f"writing failed {now - broken[0]:.1f} s ago ({broken[1]})"
    budget = protocol.budget
    if budget.left * 2 < budget.size:
        yield f"{budget.left} of a flood budget of {budget.size} left"


def _state(engine: Engine) -> str:
    core = engine.core
    end = core.end
    if end is not None:
        cause = "" if end.error is None else f" ({end.error})"
        return f"closed: {end.code.name}{cause}"
    if core.closing:
        return "closing"
    return "going away" if core.protocol.going_away else "open"


def _reading(engine: Engine, streams: list[StreamState]) -> str:
    who = engine.core.leader
    if who is None:
        return "nobody reads the connection"
    if who is engine.core.reader_waiter:
        return "the reader thread reads the connection"
    if who in engine.core.acceptors:
        return "accept() reads the connection"
    for stream in streams:
        if who in (stream.readers or ()):
            return f"recv() of stream {stream.id} reads the connection"
        if who in (stream.writers or ()):
            return f"send() of stream {stream.id} reads the connection"
    return "a caller reads the connection"


def _writing(engine: Engine, now: float) -> str:
    jam = engine.writing.jam
    if jam is not None:
        since, thread, left = jam
        text = f"the connection takes no more bytes since {now - since:.1f} s: "
        return text + f"{thread} waits with {left}"
    text = "somebody writes to the connection" if engine.core.writer else ""
    if unsent := engine.writing.outbox.size:
        text += f"{', ' if text else ''}{unsent} bytes wait for it"
    return text


def _waiting(engine: Engine, streams: list[StreamState]) -> str:
    core = engine.core
    senders = sum(len(stream.writers or ()) for stream in streams)
    queues = [
        ("accept()", len(core.acceptors)),
        ("recv()", sum(len(stream.readers or ()) for stream in streams)),
        ("send()", senders + (1 if engine.writing.jam is not None else 0)),
        ("drain()", len(core.drainers)),
        ("close()", len(core.flushers)),
        ("wait()", len(core.watchers)),
    ]
    text = ", ".join(f"{count} in {name}" for name, count in queues if count)
    return f"callers that wait: {text}" if text else ""


def _stream_parts(engine: Engine, stream: StreamState) -> Iterable[str]:
    if stream.closed:
        yield "closed"
    elif stream.failure is not None:
        yield f"reset: {stream.failure.message}"
    elif engine.core.end is not None:
        yield "its session closed"
    elif stream.fin_in and stream.fin_out:
        yield "ended both ways"
    elif stream.fin_in:
        yield "ended by the peer"
    elif stream.fin_out:
        yield "no more to be sent"
    else:
        yield "open"
    if stream.read_shut:
        yield "shut for reading"
    if stream.local and not stream.opened:
        yield "unknown to the peer yet"
    elif stream.local and not stream.answered:
        yield "not answered yet"
    yield f"{stream.buffer.size} bytes unread"
    yield f"may send {stream.send.left}"
    yield f"may receive {stream.receive.left} of {stream.receive.size}"
    turn = stream.write
    if turn is not None:
        yield f"{turn.sent} of {len(turn.data)} bytes sent"
    if stream.readers:
        yield f"{len(stream.readers)} in recv()"
    if stream in engine.core.orphans:
        yield "bytes of a dropped file to be sent"
    if stream.writers:
        yield f"{len(stream.writers)} in send()"


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
