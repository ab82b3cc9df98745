"""Which transport stands for what the user gave."""

from __future__ import annotations

import socket
import ssl
from typing import Any

from muxado.transport.adapter import Adapted
from muxado.transport.base import Transport
from muxado.transport.plain import Plain
from muxado.transport.tls import wrap_tls

__all__ = ["wrap"]


def wrap(sock: Any) -> Transport:
    """The transport for ``sock``, which it owns from then on.

    ``sock`` is a connected stream socket, an ``ssl.SSLSocket``, or any object with ``recv``,
    ``sendall`` (or ``send``) and ``close``. A TLS handshake that is still to come is done here,
    within the socket's time-out. Raises ``TypeError`` for anything else, and what the handshake
    raises.
    """
    if isinstance(sock, Transport):
        return sock
    if not isinstance(sock, socket.socket):
        return Adapted(sock)
    if sock.type != socket.SOCK_STREAM:
        raise TypeError("a session needs a stream socket")
    return wrap_tls(sock) if isinstance(sock, ssl.SSLSocket) else Plain(sock)
