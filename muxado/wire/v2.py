"""Version 2 of the wire: what ngrok's peers in Go and Rust speak.

A frame is an 8-byte header, big-endian, and a body::

    length 24 bits | type 4 bits | flags 4 bits | stream id 32 bits (31 used)

====== === ======================================================================
RST     0  body: error code, 4 bytes
DATA    1  flags FIN 0x1 and SYN 0x2; the body belongs to the stream
WNDINC  2  body: increment, 4 bytes, 1 to 0x7FFFFFFF
GOAWAY  3  stream id 0; body: last stream id, error code, 4 bytes each, debug bytes
====== === ======================================================================

A stream is opened by SYN on its first DATA. Other types are skipped, as the Go peer does.
"""

from __future__ import annotations

import struct

from muxado.errors import FrameSizeError, ProtocolError
from muxado.wire.base import MAX_DEBUG, Codec, Handler, guess_other

__all__ = ["Version2"]

_RST, _DATA, _WNDINC, _GOAWAY = range(4)
_PAD = 15  # a type that no version defines
_FIN, _SYN = 0x1, 0x2
_ID = 0x7FFFFFFF

_head = struct.Struct(">II")  # length << 8 | type << 4 | flags, stream id
_head_word = struct.Struct(">III")  # the same with a body of one word
_word = struct.Struct(">I")
_two_words = struct.Struct(">II")

_RST_HEAD = 4 << 8 | _RST << 4
_WNDINC_HEAD = 4 << 8 | _WNDINC << 4
_DATA_HEAD = _DATA << 4


class Version2(Codec):
    """The codec for ``version=2``."""

    version = 2
    max_data = 0xFFFFFF
    strict_ids = False
    first_id = (3, 2)
    asks_by_stream = False
    reserved_types = 0xFFFFFFFF
    syn_is_data = True

    def __init__(self, handler: Handler, *, typed: bool = False) -> None:
        super().__init__(handler, typed=typed)
        self.carries_types = self.types_in_data = typed
        self.heartbeat_type = 0xFFFFFFFF if typed else None

    def _frames(self, data: memoryview, pos: int, end: int) -> int:
        # Budget: per whole DATA frame one unpack, one slice and one call of the handler.
        handler = self.handler
        on_data = handler.on_data
        unpack = _head.unpack_from
        count, last = 0, end - 8
        while pos <= last:
            head, stream_id = unpack(data, pos)
            if head & 0xF0 != _DATA_HEAD:
                pos = self._control(data, pos, end)
                if self._skip_left:
                    break
                continue
            count += 1
            stream_id &= _ID
            if not stream_id:
                raise ProtocolError("DATA on stream 0")
            if head & _SYN:
                handler.on_syn(stream_id, 0, 0)
            length = head >> 8
            body = pos + 8
            pos = body + length
            if pos > end:
                self.data_left = pos - end
                on_data(stream_id, length, data[body:end], head & _FIN != 0)
                pos = end
                break
            on_data(stream_id, length, data[body:pos], head & _FIN != 0)
        else:
            if pos < end:
                self._partial += data[pos:end]
                pos = end
        self.frames += count
        return pos

    def _wanted(self, partial: bytearray) -> int:
        if len(partial) < 8:
            return 8
        head: int
        head, stream_id = _head.unpack_from(partial)
        kind, length, stream_id = head >> 4 & 0xF, head >> 8, stream_id & _ID
        # A header that is wrong is judged at once, whatever it says of a body.
        if kind in (_RST, _WNDINC) and length == 4 and stream_id:
            return 12
        if kind == _GOAWAY and length >= 8 and not stream_id:
            return 8 + min(length, 8 + MAX_DEBUG)
        return 8

    def _control(self, data: memoryview, pos: int, end: int) -> int:
        """Handle the frame at ``pos``, whose header is whole and which is not DATA."""
        head: int
        head, stream_id = _head.unpack_from(data, pos)
        kind, length, stream_id = head >> 4 & 0xF, head >> 8, stream_id & _ID
        body = pos + 8
        if kind in (_RST, _WNDINC):
            name = "RST" if kind == _RST else "WNDINC"
            if length != 4:
                raise FrameSizeError(f"{name} of {length} bytes, not 4")
            if not stream_id:
                raise ProtocolError(f"{name} on stream 0")
            if body + 4 > end:
                self._partial += data[pos:end]
                return end
            self.frames += 1
            (word,) = _word.unpack_from(data, body)
            if kind == _RST:
                self.handler.on_rst(stream_id, word)
            else:
                self.handler.on_window(stream_id, word & _ID)
            return body + 4
        if kind == _GOAWAY:
            if length < 8:
                raise FrameSizeError(f"GOAWAY of {length} bytes, not 8 or more")
            if stream_id:
                raise ProtocolError(f"GOAWAY on stream {stream_id}, not 0")
            kept = min(length, 8 + MAX_DEBUG)
            if body + kept > end:
                self._partial += data[pos:end]
                return end
            self.frames += 1
            last_id, code = _two_words.unpack_from(data, body)
            self._skip_left = length - kept
            self.handler.on_goaway(last_id & _ID, code, bytes(data[body + 8 : body + kept]))
            return body + kept
        self.frames += 1
        self._skip_left = length
        self.handler.on_unknown(kind)
        return body

    def frame_size(self, head: bytes | bytearray) -> int:
        return 8 + int.from_bytes(head[:3], "big")

    def data(self, stream_id: int, length: int, fin: bool = False) -> bytes:
        return _head.pack(length << 8 | _DATA_HEAD | fin, stream_id)

    def syn(self, stream_id: int, length: int, priority: int, stream_type: int) -> bytes:
        if self._typed:
            head = length + 4 << 8 | _DATA_HEAD | _SYN
            return _head_word.pack(head, stream_id, stream_type)
        return _head.pack(length << 8 | _DATA_HEAD | _SYN, stream_id)

    def rst(self, stream_id: int, code: int) -> bytes:
        return _head_word.pack(_RST_HEAD, stream_id, code)

    def window(self, stream_id: int, increment: int) -> bytes:
        return _head_word.pack(_WNDINC_HEAD, stream_id, increment)

    def goaway(self, last_id: int, code: int, debug: bytes, *, final: bool) -> bytes:
        frame = _head.pack(8 + len(debug) << 8 | _GOAWAY << 4, 0)
        frame += _two_words.pack(last_id, code) + debug
        # Go's receiver swallows 8 bytes after a GOAWAY; an empty frame of no known type is
        # exactly that long, and is ignored by a receiver that counts correctly.
        return frame if final else frame + _head.pack(_PAD << 4, 0)

    def _guess(self, data: bytes) -> str:
        if other := guess_other(data):
            return other
        # Version 1 begins with a SYN or a GOAWAY: type 1 or 6 in the fourth byte. In version 2
        # that is an RST, whose length is 4.
        if len(data) >= 4 and data[3] in (1, 6) and data[:3] != b"\0\0\4":
            return "a version 1 peer"
        return ""
