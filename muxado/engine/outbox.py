"""Frames that were made and not yet written. Pure: bytes, and where their frames begin."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Outbox", "rest_of"]

Buffer = bytes | bytearray | memoryview


class Outbox:
    """What goes out next, in this order, and nothing that is made later may overtake it.

    Heartbeats are the exception: they go before whole frames, but never into one that the
    connection has cut.
    """

    def __init__(self, frame_size: Callable[[bytes | bytearray], int]) -> None:
        #: Bytes in it.
        self.size = 0
        self._bytes = bytearray()
        #: So many bytes at the beginning are the end of a frame whose beginning is written.
        self._cut = 0
        #: The size of the frame that begins with a header.
        self._frame_size = frame_size

    def append(self, frames: bytes, body: bytes | memoryview = b"") -> None:
        """Add whole frames; ``body`` is the rest of the last of them."""
        self._bytes += frames
        self._bytes += body
        self.size = len(self._bytes)

    def take(self, heartbeats: bytes = b"") -> tuple[bytes, int]:
        """Remove and return all, and how many bytes of it end a frame that was begun.

        ``heartbeats`` are whole frames that go before all others.
        """
        cut = self._cut
        if heartbeats:
            self._bytes[cut:cut] = heartbeats
        taken = bytes(self._bytes)
        self._bytes.clear()
        self._cut = self.size = 0
        return taken, cut

    def put_back(self, batch: list[Buffer], cut: int, sent: int) -> None:
        """Keep what the connection has not taken of ``batch``, to go before all else.

        The batch began with the last ``cut`` bytes of a frame; ``sent`` bytes of it are written.
        """
        whole = b"".join(batch)
        end = cut
        while end < sent:
            end += self._frame_size(whole[end : end + 8])
        self._bytes[:0] = whole[sent:]
        self.size = len(self._bytes)
        self._cut = end - sent


def rest_of(buffers: list[Buffer], count: int) -> list[Buffer]:
    """What is left of ``buffers`` after the first ``count`` bytes."""
    gone = 0
    while gone < len(buffers) and count >= len(buffers[gone]):
        count -= len(buffers[gone])
        gone += 1
    rest = buffers[gone:]
    if count:
        rest[0] = memoryview(rest[0])[count:]
    return rest
