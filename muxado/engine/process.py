"""What happens to sessions when the process forks, and when the interpreter exits."""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING

from muxado import files
from muxado.engine.core import TAKEN
from muxado.errors import ErrorCode, SessionClosed
from muxado.protocol import SessionEnd

if TYPE_CHECKING:
    from muxado.engine.lifecycle import Engine

__all__ = ["register"]

#: Seconds at the interpreter's exit for what all sessions still have to send.
_EXIT = 0.5

#: The engines of this process, by their ``id()``.
_engines: weakref.WeakValueDictionary[int, Engine] = weakref.WeakValueDictionary()


def register(engine: Engine) -> None:
    """Take care of ``engine`` from now on."""
    _engines[id(engine)] = engine


def _all_engines() -> list[Engine]:
    # Not by iterating over the dictionary, which other threads may be changing.
    engines = [reference() for reference in _engines.valuerefs()]
    return [engine for engine in engines if engine is not None]


def _send_final_goaway(engine: Engine, deadline: float) -> bool:
    """At exit: what was written, GOAWAY, and nothing after it. False if it was said already.

    No waiting thread is woken: a daemon thread would only print the traceback of an error that no
    longer matters. The exit of the process closes the connection.
    """
    core, writing = engine.core, engine.writing
    engine.reading.wait(writing.until_flushed, deadline, reads=False)
    frames = b""
    with core.lock:
        if core.dirty or core.struck:
            core.recover_locked()
        core.dirty = True
        mine = core.end is None and not core.writer
        if mine:
            core.writer = TAKEN
            core.protocol.go_away(ErrorCode.NO_ERROR, b"", final=True)
            frames = writing.outbox.take()[0] + core.protocol.control_frames(opening=True)
        core.dirty = False
    try:
        if mine:
            engine.transport.send([frames])
            engine.transport.finish()
    except (OSError, ValueError):
        pass  # the connection went first
    return mine


def _abandon(engine: Engine) -> None:
    """In the child of a fork: the session is the parent's. Mark it ended, touch nothing else."""
    core = engine.core
    core.lock = threading.RLock()  # a thread of the parent's may have been inside of the old one
    core.dirty = False
    core.struck.clear()
    engine.sender.turns.clear()
    core.silent = core.closing = True
    core.waiting.clear()
    core.followers.clear()
    core.leader, core.writer = None, TAKEN
    for poller in core.pollers_locked():
        poller.abandon()
    if core.end is None:
        error = SessionClosed("the session belongs to the parent process")
        core.end = SessionEnd(ErrorCode.SESSION_CLOSED, error, b"")
    engine.abandon()


def _abandon_all() -> None:
    for engine in _all_engines():
        _abandon(engine)


def _send_final_goaway_to_all() -> None:
    """At the interpreter's exit, when only daemon threads are left: tell every peer, briefly."""
    deadline = time.monotonic() + _EXIT
    files.flush_all(deadline)
    told = [engine for engine in _all_engines() if _send_final_goaway(engine, deadline)]
    for engine in told:
        engine.transport.drain(deadline)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
atexit.register(_send_final_goaway_to_all)
