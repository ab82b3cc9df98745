"""One stream: the bytes it has received, and how far each of its directions has come."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from muxado.errors import Error, ErrorCode
from muxado.protocol.flow import ReceiveWindow, SendWindow

__all__ = ["Failure", "ReceiveBuffer", "SessionEnd", "StreamState"]

#: Received pieces shorter than this are joined to the piece before them, so that a flood of
#: tiny frames costs the memory of its bytes and not of an object each.
_SMALL = 4096


class SessionEnd(NamedTuple):
    """Why a session ended: ``code``, the ``error`` behind it if any, the peer's ``debug`` bytes."""

    code: ErrorCode
    error: BaseException | None
    debug: bytes


class Failure(NamedTuple):
    """What to raise for a stream that failed: a new exception for each caller that asks."""

    kind: type[Error]
    message: str
    code: int
    retryable: bool = False
    cause: BaseException | None = None

    def exception(self) -> Error:
        """A new instance, its cause chained."""
        error = self.kind(self.message, code=self.code, retryable=self.retryable)
        error.__cause__ = self.cause
        return error


class ReceiveBuffer:
    """The bytes of a stream that have arrived and are not read yet."""

    __slots__ = ("_chunks", "_start", "size")

    def __init__(self) -> None:
        #: Bytes that can be read.
        self.size = 0
        # Oldest first. An empty buffer has no list, since most streams are idle most of the time.
        self._chunks: list[bytes | bytearray] | None = None
        self._start = 0  # bytes of the first chunk that were read already

    def push(self, piece: memoryview) -> None:
        """Add a copy of ``piece`` at the end."""
        size = len(piece)
        if not size:
            return
        self.size += size
        chunks = self._chunks
        if chunks is None:
            self._chunks = [bytes(piece)]
            return
        last = chunks[-1]
        if size >= _SMALL or len(last) >= _SMALL:
            chunks.append(bytes(piece))
            return
        if type(last) is bytes:
            chunks[-1] = last = bytearray(last)
        last += piece

    def take(self, count: int) -> bytes:
        """Remove and return up to ``count`` bytes.

        A chunk of bytes that is read whole is returned as it is, without a copy.
        """
        chunks = self._chunks
        if chunks is not None and len(chunks) == 1 and count >= self.size and not self._start:
            self._chunks, self.size = None, 0
            return bytes(chunks[0])
        data = self.peek(count)
        self._drop(len(data))
        return data

    def peek(self, count: int) -> bytes:
        """Return up to ``count`` bytes, which stay."""
        return b"".join(self._parts(count))

    def read_into(self, view: memoryview) -> int:
        """Move bytes into ``view``, as many as fit; returns how many."""
        done = 0
        for part in self._parts(len(view)):
            view[done : done + len(part)] = part
            done += len(part)
        self._drop(done)
        return done

    def _parts(self, count: int) -> list[bytes | bytearray | memoryview]:
        """The first ``count`` bytes in pieces."""
        parts: list[bytes | bytearray | memoryview] = []
        start = self._start
        for chunk in self._chunks or ():
            if not count:
                break
            whole = not start and len(chunk) <= count
            parts.append(chunk if whole else memoryview(chunk)[start : start + count])
            count -= len(parts[-1])
            start = 0
        return parts

    def clear(self) -> None:
        """Forget all bytes."""
        self.size = self._start = 0
        self._chunks = None

    def _drop(self, count: int) -> None:
        """Remove ``count`` bytes; there must be as many."""
        if count == self.size:
            self.clear()
            return
        self.size -= count
        count += self._start
        chunks = self._chunks
        assert chunks is not None
        gone = 0
        while count >= len(chunks[gone]):
            count -= len(chunks[gone])
            gone += 1
        del chunks[:gone]
        self._start = count


@dataclasses.dataclass(eq=False, repr=False, slots=True)
class StreamState:
    """One stream: what was received and not read, both windows, how far it is closed."""

    id: int
    #: Whether this side opened it.
    local: bool
    priority: int
    stream_type: int
    send: SendWindow
    receive: ReceiveWindow
    #: The SYN has been handed to the connection, or came from the peer.
    opened: bool
    #: Where that SYN ends in all the bytes that the session has sent.
    syn_end: int = 0
    #: What was received and is not read yet.
    buffer: ReceiveBuffer = dataclasses.field(default_factory=ReceiveBuffer)
    #: It is one of the application's streams that may still send; see ``Protocol.rank``.
    ranked: bool = False
    #: The peer has sent FIN, and everything before it has arrived.
    fin_in: bool = False
    #: This side takes no more bytes to send: FIN is pending or sent.
    fin_out: bool = False
    #: The application reads no more (``SHUT_RD``): what arrives is dropped.
    read_shut: bool = False
    #: The peer has sent something for it.
    answered: bool = False
    #: The peer opened it, and the application has accepted it.
    accepted: bool = False
    #: The application has closed it.
    closed: bool = False
    #: Why it ended before its time.
    failure: Failure | None = None
    #: The last thing that the application did was to send: the peer probably waits for FIN.
    wrote: bool = False
    # The rest belongs to the engine. The protocol only looks whether there is anybody to tell.
    #: Who waits for something to read.
    readers: Any = None
    #: Who waits for window, or for a turn to write.
    writers: Any = None
    #: The descriptor that polls for this stream, once one was asked for.
    poller: Any = None
    #: The turn whose bytes wait to be sent.
    write: Any = None

    @property
    def stalled(self) -> bool:
        """It has something to send and no window."""
        return self.write is not None and self.send.left <= 0
