"""A codec that reports every frame that is received or made, for logging."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from muxado.errors import ErrorCode
from muxado.wire.base import Codec, Handler

__all__ = ["watch"]

#: Takes a text with its arguments, as a logger does.
Note = Callable[..., None]


def watch(codec: Codec, note: Note) -> None:
    """Have ``note`` called for each frame that ``codec`` finds, before it is dealt with, or makes.

    This cannot be undone. A codec that is not watched has no cost.
    """
    codec.handler = _Watched(codec.handler, note)
    for name, describe in _MADE.items():
        setattr(codec, name, _telling(getattr(codec, name), describe, note))


class _Watched:
    """A handler that reports each frame and passes it on."""

    def __init__(self, handler: Handler, note: Note) -> None:
        self._handler = handler
        self._note = note
        self.on_more = handler.on_more

    def on_syn(self, stream_id: int, priority: int, stream_type: int) -> None:
        self._note("received SYN stream=%d%s", stream_id, _extras(priority, stream_type))
        self._handler.on_syn(stream_id, priority, stream_type)

    def on_data(self, stream_id: int, length: int, piece: memoryview, fin: bool) -> None:
        self._note("received DATA stream=%d length=%d%s", stream_id, length, " fin" if fin else "")
        self._handler.on_data(stream_id, length, piece, fin)

    def on_rst(self, stream_id: int, code: int) -> None:
        self._note("received RST stream=%d code=%s", stream_id, _code(code))
        self._handler.on_rst(stream_id, code)

    def on_window(self, stream_id: int, increment: int) -> None:
        self._note("received WNDINC stream=%d increment=%d", stream_id, increment)
        self._handler.on_window(stream_id, increment)

    def on_goaway(self, last_id: int, code: int, debug: bytes) -> None:
        self._note("received GOAWAY last=%d code=%s debug=%r", last_id, _code(code), debug)
        self._handler.on_goaway(last_id, code, debug)

    def on_unknown(self, frame_type: int) -> None:
        self._note("received a frame of type %d, which is skipped", frame_type)
        self._handler.on_unknown(frame_type)


def _telling(make: Callable[..., bytes], describe: Callable[..., Any], note: Note) -> Any:
    def made(*args: Any, **options: Any) -> bytes:
        note(*describe(*args, **options))
        return make(*args, **options)

    return made


def _data(stream_id: int, length: int, fin: bool = False) -> tuple[Any, ...]:
    return "sent DATA stream=%d length=%d%s", stream_id, length, " fin" if fin else ""


def _syn(stream_id: int, length: int, priority: int, stream_type: int) -> tuple[Any, ...]:
    extras = f" length={length}{_extras(priority, stream_type)}"
    return "sent SYN stream=%d%s", stream_id, extras


def _rst(stream_id: int, code: int) -> tuple[Any, ...]:
    return "sent RST stream=%d code=%s", stream_id, _code(code)


def _window(stream_id: int, increment: int) -> tuple[Any, ...]:
    return "sent WNDINC stream=%d increment=%d", stream_id, increment


def _goaway(last_id: int, code: int, debug: bytes, *, final: bool) -> tuple[Any, ...]:
    return "sent GOAWAY last=%d code=%s debug=%r", last_id, _code(code), debug


_MADE: dict[str, Callable[..., tuple[Any, ...]]] = {
    "data": _data,
    "syn": _syn,
    "rst": _rst,
    "window": _window,
    "goaway": _goaway,
}


def _extras(priority: int, stream_type: int) -> str:
    text = f" priority={priority}" if priority else ""
    return text + (f" type={stream_type:#x}" if stream_type else "")


def _code(number: int) -> str:
    code = ErrorCode.of(number)
    return f"{number:#x}" if code is ErrorCode.ERROR_UNKNOWN else code.name
