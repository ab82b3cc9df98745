"""Version 1 of the wire: the first muxado of 2014.

A frame is an 8-byte header, big-endian, and a body::

    length 16 bits (14 used) | flags 8 bits | type 8 bits (5 used) | stream id 32 bits (31 used)

====== === ============================================================================
SYN     1  body: the priority if flag 0x2, then the type if flag 0x4, 4 bytes each
RST     2  body: error code, 4 bytes
DATA    3  the body belongs to the stream
WNDINC  4  body: increment, 4 bytes
GOAWAY  6  stream id 0; body: last stream id, error code, 4 bytes each, debug bytes
====== === ============================================================================

FIN is flag 0x1 on SYN and DATA. Any other type is an error, as it is to the original.
"""

from __future__ import annotations

import struct

from muxado.errors import ErrorCode, FrameSizeError, ProtocolError
from muxado.wire.base import MAX_DEBUG, Codec, Handler, guess_other

__all__ = ["Version1"]

_SYN, _RST, _DATA, _WNDINC, _GOAWAY = 1, 2, 3, 4, 6
_FIN, _HAS_PRIORITY, _HAS_TYPE = 0x1, 0x2, 0x4
_LENGTH, _TYPE, _ID = 0x3FFF, 0x1F, 0x7FFFFFFF

_head = struct.Struct(">HBBI")
_head_word = struct.Struct(">HBBII")
_word = struct.Struct(">I")
_two_words = struct.Struct(">II")

#: What each number on this wire means, in the numbers of version 2.
_CODES = (
    ErrorCode.NO_ERROR,
    ErrorCode.PROTOCOL_ERROR,
    ErrorCode.INTERNAL_ERROR,
    ErrorCode.FLOW_CONTROL_ERROR,
    ErrorCode.STREAM_CLOSED,
    ErrorCode.FRAME_SIZE_ERROR,
    ErrorCode.STREAM_REFUSED,
    ErrorCode.STREAM_CANCELLED,
)
#: And back. The original ends the session over a reset with any other number, so each code that
#: only version 2 has is sent as the one of version 1 that asks the same of the peer.
_NUMBERS = {
    **{code: number for number, code in enumerate(_CODES)},
    ErrorCode.STREAM_RESET: 7,
    ErrorCode.ACCEPT_QUEUE_FULL: 6,
    ErrorCode.REMOTE_GONE_AWAY: 6,
    ErrorCode.STREAMS_EXHAUSTED: 6,
    ErrorCode.WRITE_TIMEOUT: 7,
}


class Version1(Codec):
    """The codec for ``version=1``."""

    version = 1
    max_data = _LENGTH
    strict_ids = True
    carries_types = True
    types_in_data = False
    first_id = (3, 2)
    heartbeat_type = 0xFFFFFEFF
    reserved_types = 0xFFFFFEFF
    asks_by_stream = True
    syn_is_data = False

    def __init__(self, handler: Handler, *, typed: bool = False) -> None:
        super().__init__(handler, typed=typed)
        self._goaway: tuple[int, int, bytearray] | None = None  # its debug bytes are to come

    @property
    def mid_frame(self) -> bool:
        # A GOAWAY of the original promises debug bytes that it never sends.
        return super().mid_frame and self._goaway is None

    def _frames(self, data: memoryview, pos: int, end: int) -> int:
        # Budget: per whole DATA frame one unpack, one slice and one call of the handler.
        on_data = self.handler.on_data
        unpack = _head.unpack_from
        count = 0
        while end - pos >= 8:
            length, flags, kind, stream_id = unpack(data, pos)
            if kind & _TYPE != _DATA:
                pos = self._control(data, pos, end)
                if self._skip_left:
                    break
                continue
            count += 1
            length &= _LENGTH
            stream_id &= _ID
            if not stream_id:
                raise ProtocolError("DATA on stream 0")
            body = pos + 8
            pos = body + length
            if pos > end:
                self.data_left = pos - end
                on_data(stream_id, length, data[body:end], bool(flags & _FIN))
                pos = end
                break
            on_data(stream_id, length, data[body:pos], bool(flags & _FIN))
        else:
            self._partial += data[pos:end]
            pos = end
        self.frames += count
        return pos

    def _wanted(self, partial: bytearray) -> int:
        if len(partial) < 8:
            return 8
        length, flags, kind, _ = _head.unpack_from(partial)
        kind &= _TYPE
        length &= _LENGTH
        if kind == _SYN and length == _syn_length(flags):
            return 8 + int(length)
        if kind in (_RST, _WNDINC) and length == 4:
            return 12
        if kind == _GOAWAY and length >= 8:
            return 16
        return 8

    def _control(self, data: memoryview, pos: int, end: int) -> int:
        """Handle the frame at ``pos``, whose header is whole and which is not DATA."""
        length, flags, kind, stream_id = _head.unpack_from(data, pos)
        length, kind, stream_id = int(length & _LENGTH), kind & _TYPE, stream_id & _ID
        body = pos + 8
        wanted = 8 if kind == _GOAWAY else length
        if kind == _SYN:
            if length != _syn_length(flags):
                raise FrameSizeError(f"SYN of {length} bytes, not {_syn_length(flags)}")
        elif kind in (_RST, _WNDINC):
            if length != 4:
                name = "RST" if kind == _RST else "WNDINC"
                raise FrameSizeError(f"{name} of {length} bytes, not 4")
        elif kind == _GOAWAY:
            if length < 8:
                raise FrameSizeError(f"GOAWAY of {length} bytes, not 8 or more")
        else:
            raise ProtocolError(f"a frame of type {kind}, which version 1 does not know")
        if body + wanted > end:
            self._partial += data[pos:end]
            return end
        self.frames += 1
        handler = self.handler
        if kind == _SYN:
            words = struct.unpack_from(f">{length // 4}I", data, body)
            handler.on_syn(
                stream_id,
                words[0] & _ID if flags & _HAS_PRIORITY else 0,
                words[-1] if flags & _HAS_TYPE else 0,
            )
            if flags & _FIN:
                handler.on_data(stream_id, 0, data[:0], True)
        elif kind == _GOAWAY:
            last_id, number = _two_words.unpack_from(data, body)
            # The debug bytes may never come, so the handler is called before they do.
            self._skip_left = length - 8
            if self._skip_left:
                self._goaway = (last_id & _ID, _code(number), bytearray())
            handler.on_goaway(last_id & _ID, _code(number), b"")
        else:
            (word,) = _word.unpack_from(data, body)
            if kind == _RST:
                handler.on_rst(stream_id, _code(word))
            else:
                handler.on_window(stream_id, word & _ID)
        return body + wanted

    def _skipped(self, piece: memoryview) -> None:
        if self._goaway is None:
            return
        last_id, code, debug = self._goaway
        debug += piece[: MAX_DEBUG - len(debug)]
        if not self._skip_left:
            self._goaway = None
            self.handler.on_goaway(last_id, code, bytes(debug))

    def frame_size(self, head: bytes | bytearray) -> int:
        return 8 + int.from_bytes(head[:2], "big")

    def data(self, stream_id: int, length: int, fin: bool = False) -> bytes:
        return _head.pack(length, fin, _DATA, stream_id)

    def syn(self, stream_id: int, length: int, priority: int, stream_type: int) -> bytes:
        flags, body = 0, b""
        if priority:
            flags |= _HAS_PRIORITY
            body += _word.pack(priority)
        if stream_type:
            flags |= _HAS_TYPE
            body += _word.pack(stream_type)
        frame = _head.pack(len(body), flags, _SYN, stream_id) + body
        return frame + self.data(stream_id, length) if length else frame

    def rst(self, stream_id: int, code: int) -> bytes:
        return _head_word.pack(4, 0, _RST, stream_id, _number(code, 7))

    def window(self, stream_id: int, increment: int) -> bytes:
        return _head_word.pack(4, 0, _WNDINC, stream_id, increment)

    def goaway(self, last_id: int, code: int, debug: bytes, *, final: bool) -> bytes:
        debug = debug[: _LENGTH - 8]
        head = _head.pack(8 + len(debug), 0, _GOAWAY, 0)
        return head + _two_words.pack(last_id, _number(code, 2)) + debug

    def _guess(self, data: bytes) -> str:
        if other := guess_other(data):
            return other
        # Version 2 begins with a DATA or a GOAWAY: 1 or 3 in the upper half of the fourth byte.
        # To version 1 these are types that it does not have.
        if len(data) >= 4 and data[3] & 0xFC in (0x10, 0x30):
            return "a version 2 peer"
        return ""


def _syn_length(flags: int) -> int:
    return 4 * bool(flags & _HAS_PRIORITY) + 4 * bool(flags & _HAS_TYPE)


def _code(number: int) -> ErrorCode:
    return _CODES[number] if number < len(_CODES) else ErrorCode.ERROR_UNKNOWN


def _number(code: int, default: int) -> int:
    return _NUMBERS.get(ErrorCode.of(code), default)
