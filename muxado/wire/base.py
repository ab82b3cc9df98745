"""What every version of the wire offers, and what it asks of the one who handles its frames."""

from __future__ import annotations

import abc
from typing import Protocol

__all__ = ["Codec", "Handler"]


class Handler(Protocol):
    """Where a codec delivers the frames it has found, in order.

    A method may raise a ``muxado.Error``; parsing stops there for good.
    """

    def on_syn(self, stream_id: int, priority: int, stream_type: int) -> None:
        """The peer opens a stream. A DATA or an end for the same stream may follow at once."""

    def on_data(self, stream_id: int, length: int, piece: memoryview, fin: bool) -> None:
        """A DATA frame of ``length`` bytes begins; ``piece`` is what has arrived of its body.

        Called as soon as the header is known, so that a frame which breaks its window is turned
        down before its body is read. When ``piece`` is shorter than ``length`` the rest comes
        through :meth:`on_more`. ``fin`` takes effect behind the last byte.
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
        """A frame of a type that this version does not define went by."""


class Codec(abc.ABC):
    """Turns bytes into calls of a :class:`Handler`, and frames into bytes. Pure: no I/O, no lock.

    The parser keeps what a read cut off: nothing of a header, a whole small frame, or the bytes
    of a DATA body still to come. A DATA body is never collected here, whatever its length.
    """

    #: The largest body a DATA frame may have, in bytes.
    max_data: int
    #: Whether a new stream's id must be higher than every one before it.
    ordered_ids: bool
    #: Whether a SYN always tells the stream's type.
    carries_types: bool
    #: The ids that the first stream of a client and of a server get.
    first_id: tuple[int, int]

    @abc.abstractmethod
    def __init__(self, handler: Handler) -> None: ...

    @abc.abstractmethod
    def feed(self, data: memoryview) -> None:
        """Parse ``data``, the next bytes of the connection.

        Raises FrameSizeError or ProtocolError for bytes that no peer may send, and whatever the
        handler raises. Views handed to the handler are valid only during the call.
        """

    @property
    @abc.abstractmethod
    def mid_frame(self) -> bool:
        """Whether the bytes so far end inside a frame."""

    @abc.abstractmethod
    def data(self, stream_id: int, length: int, *, fin: bool = False) -> bytes:
        """The header of a DATA frame whose body of ``length`` bytes follows."""

    @abc.abstractmethod
    def syn(
        self, stream_id: int, length: int, *, fin: bool, priority: int, stream_type: int
    ) -> bytes:
        """What opens a stream with its first ``length`` bytes, which follow; no byte: 0."""

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
