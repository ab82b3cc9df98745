"""Files over a stream, as ``socket.makefile()`` makes them, whose finalizers wait for nothing."""

from __future__ import annotations

import io
import socket
from typing import Any

__all__ = ["StreamIO", "make_file"]


class StreamIO(socket.SocketIO):
    """The raw file below all that ``makefile()`` returns.

    A buffered file that is dropped before it was flushed writes its bytes in its finalizer: in
    whatever thread the collector strikes, inside whatever lock. So what is written then is left
    to the session's own thread.
    """

    _sock: Any

    def _dealloc_warn(self, source: object) -> None:
        # What `io` calls before it flushes in a finalizer, for a raw file to warn of its own.
        self.write = self._bequeath  # type: ignore[assignment,method-assign]

    def _bequeath(self, data: Any) -> int:
        left = bytes(data)
        self._sock._bequeath(left)
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
    if "b" in mode:
        return file
    chosen: str = io.text_encoding(encoding, 3)  # type: ignore[attr-defined]
    text = io.TextIOWrapper(file, chosen, errors, newline)
    text.mode = mode  # type: ignore[misc]
    return text
