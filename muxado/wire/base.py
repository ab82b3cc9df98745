"""The interface of every version's codec, and that of the object which handles its frames."""

from __future__ import annotations

import abc
from typing import Protocol

from muxado.errors import ProtocolError

__all__ = ["HEADER", "MAX_DEBUG", "Codec", "Handler", "guess_other"]

#: Bytes of a frame's header, in every version.
HEADER = 8

#: Debug bytes are for people; what a peer sends beyond this is dropped, not collected.
MAX_DEBUG = 4096

_HTTP = (b"GET ", b"POST", b"HEAD", b"PUT ", b"OPTI", b"DELE", b"PATC", b"CONN", b"TRAC", b"PRI ")


def guess_other(data: bytes) -> str:
    """What ``data``, a connection's first bytes, look like if not like muxado; else ``""``."""
    if data.startswith(_HTTP):
        return "an HTTP request"
    if data.startswith(b"HTTP"):
        return "an HTTP response"
    if data[:2] == b"\x16\x03":
        return "a TLS handshake"
    if data[:2] == b"\x15\x03":
        return "a TLS alert"
    if data.startswith(b"SSH-"):
        return "an SSH connection"
    return ""


class Handler(Protocol):
    """Where a codec delivers the frames it has found, in order.

    A method may raise a ``muxado.Error``; parsing stops there for good.
    """

    def on_syn(self, stream_id: int, priority: int, stream_type: int) -> None:
        """The peer opens a stream. A DATA or an end for the same stream may follow at once."""

    def on_data(self, stream_id: int, length: int, piece: memoryview, fin: bool) -> None:
        """A DATA frame of ``length`` bytes begins; ``piece`` is what has arrived of its body.

        Called as soon as the header is known, so that a frame which exceeds its window is
        rejected before its body is read. When ``piece`` is shorter than ``length`` the rest comes
        through :meth:`on_more`. ``fin`` takes effect after the last byte.
        """

    def on_more(self, piece: memoryview, last: bool) -> None:
        """The next bytes of the DATA frame under way; ``last`` when it is complete."""

    def on_rst(self, stream_id: int, code: int) -> None:
        """The peer resets a stream; ``code`` is an ``ErrorCode`` number."""

    def on_window(self, stream_id: int, increment: int) -> None:
        """The peer grants ``increment`` more bytes on a stream."""

    def on_goaway(self, last_id: int, code: int, debug: bytes) -> None:
        """The peer takes no stream of ours above ``last_id`` any more."""

    def on_unknown(self, frame_type: int) -> None:
        """A frame of a type that this version does not define was skipped."""


class Codec(abc.ABC):
    """Turns bytes into calls of a :class:`Handler`, and frames into bytes. Pure: no I/O, no lock.

    The parser keeps what is incomplete after a read: part of a header or of a small frame, or the
    count of the bytes of a body still to come. A DATA body is never collected here, whatever its
    length.
    """

    #: The number of the version, as ``Config.version`` has it.
    version: int
    #: The largest body a DATA frame may have, in bytes.
    max_data: int
    #: Whether a new stream's id must be higher than every one before it, and a frame for an id
    #: that was never opened is an error.
    strict_ids: bool
    #: Whether a stream has a type on this session.
    carries_types: bool
    #: Whether the type is the first four bytes of the stream's data.
    types_in_data: bool
    #: The ids that the first stream of a client and of a server get.
    first_id: tuple[int, int]
    #: The type of the streams whose bytes are echoed as heartbeats, and whether this side must
    #: open one to ask for a sign of life.
    heartbeat_type: int | None
    asks_by_stream: bool
    #: Types from here on are not the application's.
    reserved_types: int
    #: Whether the frame that opens a stream carries its first bytes.
    syn_is_data: bool

    def __init__(self, handler: Handler, *, typed: bool = False) -> None:
        #: The object that is called with each frame.
        self.handler = handler
        #: Frames found since the start.
        self.frames = 0
        self._typed = typed
        self._first: bytearray | None = bytearray()  # of the connection, until there are 4 bytes
        self._partial = bytearray()  # a header, or a whole short frame, whose rest is still to come
        #: Bytes still to come of the DATA body under way.
        self.data_left = 0
        self._skip_left = 0  # bytes still to come of a body that is skipped

    @property
    def mid_frame(self) -> bool:
        """Whether the bytes so far end inside a frame."""
        return bool(self._partial or self.data_left or self._skip_left)

    def passed(self, count: int) -> bool:
        """``count`` bytes of the body under way are read elsewhere; true when it is complete."""
        self.data_left -= count
        return not self.data_left

    def feed(self, data: memoryview) -> None:
        """Parse ``data``, the next bytes of the connection.

        Raises FrameSizeError or ProtocolError for bytes that no peer may send, and whatever the
        handler raises. Views handed to the handler are valid only during the call.
        """
        if self._first is not None:
            self._check_first(data)
        pos, end = 0, len(data)
        while pos < end:
            if self._partial:
                pos = self._complete(data, pos, end)
            elif self.data_left:
                stop = min(pos + self.data_left, end)
                self.data_left -= stop - pos
                self.handler.on_more(data[pos:stop], not self.data_left)
                pos = stop
            elif self._skip_left:
                stop = min(pos + self._skip_left, end)
                self._skip_left -= stop - pos
                self._skipped(data[pos:stop])
                pos = stop
            else:
                pos = self._frames(data, pos, end)

    def _check_first(self, data: memoryview) -> None:
        """Whether the peer speaks muxado at all, judged by its first four bytes.

        Most other protocols would break a rule at once, but with an error that helps nobody, and
        some would be taken for the header of a long frame to skip.
        """
        assert self._first is not None
        self._first += data[:4]
        if len(self._first) >= 4:
            guess = self._guess(bytes(self._first[:4]))
            self._first = None
            if guess:
                self._partial.clear()  # these bytes begin no frame
                raise ProtocolError(
                    f"this looks like {guess}, not like a peer with version={self.version}"
                )

    def _complete(self, data: memoryview, pos: int, end: int) -> int:
        """Go on with the frame that an earlier read began; returns where ``data`` goes on."""
        partial = self._partial
        for _ in range(2):  # the header first, which tells how much more is wanted
            want = self._wanted(partial) - len(partial)
            if want > 0:
                stop = min(pos + want, end)
                partial += data[pos:stop]
                pos = stop
        if len(partial) >= self._wanted(partial):
            self._partial = bytearray()
            with memoryview(bytes(partial)) as whole:
                self._frames(whole, 0, len(whole))
        return pos

    @abc.abstractmethod
    def _wanted(self, partial: bytearray) -> int:
        """How many bytes must be together before a frame that begins so can be handled."""

    @abc.abstractmethod
    def _frames(self, data: memoryview, pos: int, end: int) -> int:
        """Handle frames from ``pos``, of which none is under way; returns where it stopped.

        It stops at ``end``, what is cut off put into ``_partial`` or counted in ``data_left``,
        or after a frame that leaves bytes to skip.
        """

    def _skipped(self, piece: memoryview) -> None:  # noqa: B027  a hook, not a duty
        """Bytes of a body that is skipped have come."""

    @abc.abstractmethod
    def frame_size(self, head: bytes | bytearray) -> int:
        """Bytes of a frame of ours, header and body, that begins with these 8 bytes."""

    @abc.abstractmethod
    def data(self, stream_id: int, length: int, fin: bool = False) -> bytes:
        """The header of a DATA frame whose body of ``length`` bytes follows."""

    @abc.abstractmethod
    def syn(self, stream_id: int, length: int, priority: int, stream_type: int) -> bytes:
        """What opens a stream, whose first ``length`` bytes follow; 0 if none do.

        There is no FIN in it: the original of either version ends its own direction when it gets
        SYN and FIN in one frame, so FIN is sent in a frame of its own.
        """

    @abc.abstractmethod
    def rst(self, stream_id: int, code: int) -> bytes:
        """A frame that resets a stream."""

    @abc.abstractmethod
    def window(self, stream_id: int, increment: int) -> bytes:
        """A frame that grants ``increment`` bytes, 1 to 2**31 - 1."""

    @abc.abstractmethod
    def goaway(self, last_id: int, code: int, debug: bytes, *, final: bool) -> bytes:
        """A frame that says this side takes no stream above ``last_id`` any more.

        ``final`` promises that no frame follows.
        """

    @abc.abstractmethod
    def _guess(self, data: bytes) -> str:
        """What a peer's first bytes look like if not like this version; else ``""``."""
