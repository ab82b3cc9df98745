"""Arguments as ``socket`` takes them: checked here, and refused with the errors it has."""

from __future__ import annotations

import errno
import operator
import socket
from typing import Any

from muxado.errors import os_error

__all__ = [
    "MSG_DONTWAIT",
    "MSG_PEEK",
    "MSG_WAITALL",
    "RECV_FLAGS",
    "SEND_FLAGS",
    "bytes_of",
    "check_flags",
    "check_int",
    "check_option",
    "check_timeout",
    "option",
    "release",
    "writable_bytes_of",
]

# Plain ints: an operation on the enum's members costs more than all the rest of a send.
MSG_DONTWAIT = int(getattr(socket, "MSG_DONTWAIT", 0x40))
MSG_PEEK, MSG_WAITALL = int(socket.MSG_PEEK), int(socket.MSG_WAITALL)
#: What a send, and what a receive understands.
SEND_FLAGS = MSG_DONTWAIT | int(getattr(socket, "MSG_NOSIGNAL", 0))
RECV_FLAGS = SEND_FLAGS | MSG_PEEK | MSG_WAITALL

#: Seconds in the 2**63 nanoseconds that a time-out of CPython's may have.
_MAX_TIMEOUT = 2**63 / 1e9


def check_int(name: str, value: int, most: int) -> int:
    """``value``, if it is an int from 0 to ``most``."""
    number = operator.index(value)
    if not 0 <= number <= most:
        raise ValueError(f"{name} must be from 0 to {most:#x}, not {number}")
    return number


def check_timeout(value: float | None) -> float | None:
    """A time-out as ``socket.settimeout`` takes it."""
    if value is None:
        return None
    if not isinstance(value, (int, float)) and not hasattr(value, "__float__"):
        raise TypeError(f"'{type(value).__name__}' object cannot be interpreted as a number")
    seconds = float(value)
    if seconds > _MAX_TIMEOUT:
        raise OverflowError("timestamp too large to convert to C PyTime_t")
    if not seconds >= 0:
        raise ValueError("Timeout value out of range")
    return seconds


def check_option(level: int, optname: int, value: tuple[Any, ...]) -> None:
    """Complain as ``setsockopt`` does about arguments of the wrong kind."""
    operator.index(level)
    operator.index(optname)
    if len(value) == 2 and value[0] is None:
        operator.index(value[1])
    elif len(value) != 1:
        raise TypeError(f"setsockopt takes 3 or 4 arguments, not {2 + len(value)}")
    elif not isinstance(value[0], (bytes, bytearray, memoryview)):
        operator.index(value[0])


def option(sock: Any, level: int, optname: int, buflen: int, *, listening: bool) -> int | bytes:
    """``getsockopt`` where there is no socket below: what is true of any stream, else 0."""
    value = 0
    if level == socket.SOL_SOCKET:
        if optname == socket.SO_TYPE:
            value = socket.SOCK_STREAM
        elif optname == getattr(socket, "SO_ACCEPTCONN", -1):
            value = int(listening)
        elif optname == getattr(socket, "SO_DOMAIN", -1):
            value = int(sock.family)
    return value.to_bytes(4, "little")[:buflen] if buflen else value


def bytes_of(data: Any) -> memoryview:
    """The bytes of a bytes-like object, which the caller releases.

    An exception that is kept would otherwise keep the owner of the bytes from resizing them.
    """
    if isinstance(data, str):
        raise TypeError("a bytes-like object is required, not 'str'")
    view = memoryview(data)
    if view.format == "B" and view.ndim == 1 and view.contiguous:
        return view
    with view:
        if not view.c_contiguous:
            raise BufferError("memoryview: underlying buffer is not C-contiguous")
        # A view without bytes cannot be cast if it has several dimensions.
        return view.cast("B") if view.nbytes else memoryview(b"")


def writable_bytes_of(buffer: Any) -> memoryview:
    """The bytes of an object that can be written to, which the caller releases."""
    with memoryview(buffer) as view:
        if view.readonly or not view.c_contiguous:
            raise TypeError("recv_into() argument must be a read-write bytes-like object")
        return view.cast("B") if view.nbytes else memoryview(b"")


def release(view: bytes | memoryview) -> None:
    """Let go of ``view`` before an exception is raised that somebody may keep."""
    if isinstance(view, memoryview):
        view.release()


def check_flags(flags: int, known: int) -> None:
    """``OSError(EOPNOTSUPP)`` for flags that are not ``known``."""
    if flags & ~known:
        raise os_error(errno.EOPNOTSUPP)
