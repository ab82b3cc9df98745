"""Files over a stream, as ``socket.makefile()`` makes them, whose finalizers wait for nothing."""

from __future__ import annotations

import io
import socket
import time
import weakref
from typing import Any, BinaryIO

__all__ = ["StreamIO", "flush_all", "make_file", "send_file"]

#: Every file that buffers what is written to it, with the raw file below it.
_writers: weakref.WeakKeyDictionary[Any, StreamIO] = weakref.WeakKeyDictionary()


#: Bytes that sendfile() reads from a file at a time.
_FILE_PART = 131072


class StreamIO(socket.SocketIO):
    """The raw file below all that ``makefile()`` returns.

    A buffered file that is dropped before it was flushed writes its bytes in its finalizer: in
    whatever thread the collector strikes, inside whatever lock. So what is written then is left
    to the session's own thread.
    """

    _sock: Any
    #: A write is under way, during which the file above is locked.
    writing = False

    def write(self, data: Any) -> int | None:
        self.writing = True
        try:
            return super().write(data)
        finally:
            self.writing = False

    def _dealloc_warn(self, source: object) -> None:
        # What `io` calls before it flushes in a finalizer, for a raw file to warn of its own.
        self.write = self._leave  # type: ignore[method-assign]

    def _leave(self, data: Any) -> int:
        left = bytes(data)
        self._sock._leave(left)
        return len(left)


class _Pair(io.BufferedRWPair):
    """One for both directions, which hands on what it is told by the file above it."""

    def __init__(self, raw: StreamIO, size: int) -> None:
        super().__init__(raw, raw, size)
        self._below = raw

    def _dealloc_warn(self, source: object) -> None:
        self._below._dealloc_warn(source)

    def __del__(self) -> None:
        # For its own finalizer calls nothing of the kind before it flushes.
        if hasattr(self, "_below"):
            self._dealloc_warn(self)
            super().__del__()


def make_file(
    stream: Any,
    mode: str,
    buffering: int | None,
    *,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
) -> Any:
    """What ``stream.makefile()`` returns."""
    if set(mode) - set("rwb"):
        raise ValueError(f"invalid mode {mode!r} (only r, w, b allowed)")
    writes = "w" in mode
    reads = "r" in mode or not writes
    size = -1 if buffering is None else buffering
    if size == 0 and "b" not in mode:
        raise ValueError("unbuffered streams must be binary")
    raw = StreamIO(stream, "r" * reads + "w" * writes)  # type: ignore[arg-type]
    stream._io_refs += 1
    if size == 0:
        return raw
    if size < 0:
        size = io.DEFAULT_BUFFER_SIZE
    file: Any
    if reads and writes:
        file = _Pair(raw, size)
    else:
        file = (io.BufferedReader if reads else io.BufferedWriter)(raw, size)
    if "b" not in mode:
        chosen: str = io.text_encoding(encoding, 3)  # type: ignore[attr-defined]
        file = io.TextIOWrapper(file, chosen, errors, newline)
        file.mode = mode
    if writes:
        _writers[file] = raw
    return file


def flush_all(deadline: float) -> None:
    """At the interpreter's exit: send what is still buffered, until ``deadline`` (monotonic).

    A socket's file does so in its finalizer, but a stream's is finalized too late for that: its
    session has said goodbye by then.
    """
    for reference in _writers.keyrefs():
        file = reference()
        if file is None or file.closed:
            continue
        raw = _writers[file]
        try:
            # Before the look at `writing`: a write that begins after it ends in time.
            raw._sock.settimeout(max(0.001, deadline - time.monotonic()))
            if not raw.writing:
                file.flush()
        except (OSError, ValueError):
            pass  # the stream or its session has ended, or the peer takes no more


def send_file(stream: Any, file: BinaryIO, offset: int, count: int | None) -> int:
    """What ``stream.sendfile()`` does; returns the bytes sent."""
    if "b" not in getattr(file, "mode", "b"):
        raise ValueError("file should be opened in binary mode")
    if count is not None:
        if not isinstance(count, int):
            raise TypeError(f"count must be a positive integer (got {count!r})")
        if count <= 0:
            raise ValueError(f"count must be a positive integer (got {count!r})")
    if stream.gettimeout() == 0:
        raise ValueError("non-blocking sockets are not supported")
    if offset:
        file.seek(offset)
    total = 0
    try:
        while count is None or total < count:
            part = file.read(_FILE_PART if count is None else min(_FILE_PART, count - total))
            if not part:
                break
            view = memoryview(part)
            while view:
                sent = stream.send(view)
                view = view[sent:]
                total += sent
    finally:
        if total and hasattr(file, "seek"):
            file.seek(offset + total)
    return total
