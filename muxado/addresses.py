"""Addresses as users write them, and the sockets that they stand for."""

from __future__ import annotations

import operator
import os
import socket
from typing import Any

from muxado.arguments import check_timeout

__all__ = ["bind", "connect", "parse"]

#: Connections that the system completes while nobody accepts them.
_BACKLOG = 128

Target = tuple[str, int] | str | bytes


def parse(address: Any) -> Target:
    """``(host, port)``, or the address of a Unix socket: a path, or an abstract name.

    Linux's abstract names (unix(7)) begin with a null byte, and ``getsockname()`` returns them as
    ``bytes``. Raises ``TypeError`` or ``ValueError`` for what is no address.
    """
    if isinstance(address, tuple):
        if len(address) < 2 or not isinstance(address[0], str):
            raise ValueError(f"an address is (host, port), not {address!r}")
        return address[0], operator.index(address[1])
    if isinstance(address, os.PathLike):
        return os.fsdecode(address)
    if is_abstract(address):
        return address  # type: ignore[no-any-return]
    if not isinstance(address, str):
        raise TypeError(f"an address is (host, port), 'host:port' or a path, not {address!r}")
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in address:
        if int(port) > 65535:
            raise ValueError(f"port {port} is over 65535")
        return host.removeprefix("[").removesuffix("]"), int(port)
    if not address or (colon and "/" not in address):
        raise ValueError(f"an address is 'host:port' or a path, not {address!r}")
    return address


def is_abstract(address: Any) -> bool:
    """Whether ``address`` is an abstract name, which is no file."""
    return (isinstance(address, str) and address.startswith("\0")) or (
        isinstance(address, bytes) and address.startswith(b"\0")
    )


def connect(address: Any, timeout: float | None) -> socket.socket:
    """A socket connected to ``address`` within ``timeout`` seconds."""
    timeout = check_timeout(timeout)
    target = parse(address)
    if isinstance(target, tuple):
        return socket.create_connection(target, timeout)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(target)
    except BaseException:
        sock.close()
        raise
    return sock


def bind(address: Any) -> tuple[socket.socket, str | None]:
    """A socket that listens on ``address``, and the file to remove once it is closed, if any."""
    target = parse(address)
    if isinstance(target, tuple):
        family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
        return socket.create_server(target, family=family, backlog=_BACKLOG), None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(target)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock, target if isinstance(target, str) and not is_abstract(target) else None
