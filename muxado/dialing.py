"""Client sessions over new connections."""

from __future__ import annotations

import ssl
import time
from typing import Any

from muxado.addresses import connect, parse
from muxado.config import Config
from muxado.session import Session
from muxado.transport import Secure

__all__ = ["dial", "dial_tls"]


def dial(address: Any, *, timeout: float | None = None, **options: Any) -> Session:
    """A client session over a new TCP (or Unix) connection.

    ``address`` is ``(host, port)``, ``"host:port"``, or that of a Unix socket: a path, or an
    abstract name. ``timeout`` is for connecting, in seconds; ``options`` are the fields of
    ``Config``. Raises what ``socket.create_connection`` raises.
    """
    config = Config.of(options.pop("config", None), options)
    sock = connect(address, timeout)
    try:
        return Session(sock, client=True, config=config)
    except BaseException:
        sock.close()
        raise


def dial_tls(
    address: Any,
    context: ssl.SSLContext | None = None,
    *,
    server_hostname: str | None = None,
    timeout: float | None = None,
    **options: Any,
) -> Session:
    """:func:`dial` over TLS.

    Without a ``context``, ``ssl.create_default_context()``: certificate and host name are
    checked. ``server_hostname`` is the host of ``address`` unless given. ``timeout`` covers the
    handshake too. Raises ``ssl.SSLError`` when it fails.
    """
    config = Config.of(options.pop("config", None), options)
    if context is None:
        context = ssl.create_default_context()
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(f"context must be an ssl.SSLContext, not {type(context).__name__}")
    deadline = None if timeout is None else time.monotonic() + timeout
    if server_hostname is None:
        target = parse(address)
        server_hostname = target[0] if isinstance(target, tuple) else None
    sock = connect(address, timeout)
    try:
        secure = Secure(sock, context, server_side=False, server_hostname=server_hostname)
    except BaseException:
        sock.close()
        raise
    try:
        secure.handshake(deadline)
        return Session(secure, client=True, config=config)
    except BaseException:
        secure.close()
        raise
