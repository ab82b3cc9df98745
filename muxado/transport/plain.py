"""A stream socket as it is: TCP or Unix, without TLS."""

from __future__ import annotations

import socket

from muxado.transport.base import SocketTransport

__all__ = ["Plain"]


class Plain(SocketTransport):
    """Reads and writes the socket directly."""

    exact = True

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        # The socket's own method, because one more call for each read can be measured.
        self.recv_into = sock.recv_into  # type: ignore[method-assign,assignment]
