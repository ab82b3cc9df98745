"""muxado: many streams over one connection, for blocking Python.

A :class:`Session` owns one connection and does what a listening socket does; the
:class:`Stream` objects it opens and accepts do what connected sockets do.
"""

from muxado.config import Config
from muxado.dialing import dial, dial_tls
from muxado.errors import (
    EnhanceYourCalm,
    Error,
    ErrorCode,
    FlowControlError,
    FrameSizeError,
    HeartbeatTimeout,
    ProtocolError,
    RemoteGoneAway,
    SessionClosed,
    StreamRefused,
    StreamReset,
    StreamsExhausted,
)
from muxado.listener import Listener, listen, listen_tls
from muxado.protocol import SessionEnd
from muxado.session import Session, SessionStats, client, server
from muxado.stream import Stream

__all__ = [
    "Config",
    "EnhanceYourCalm",
    "Error",
    "ErrorCode",
    "FlowControlError",
    "FrameSizeError",
    "HeartbeatTimeout",
    "Listener",
    "ProtocolError",
    "RemoteGoneAway",
    "Session",
    "SessionClosed",
    "SessionEnd",
    "SessionStats",
    "Stream",
    "StreamRefused",
    "StreamReset",
    "StreamsExhausted",
    "client",
    "dial",
    "dial_tls",
    "listen",
    "listen_tls",
    "server",
]

__version__ = "0.1.0"
