"""Error codes and exceptions.

Three kinds of failure are kept apart: the session ended (:class:`SessionClosed` and its
subclasses), the peer ended one stream (:class:`StreamReset`, :class:`StreamRefused`,
:class:`RemoteGoneAway`), and the caller misused a stream (the plain errors of ``socket``:
``BrokenPipeError``, ``OSError(EBADF)``, ``TimeoutError``, ``BlockingIOError``).
"""

from __future__ import annotations

import enum
import errno
import os

__all__ = [
    "EnhanceYourCalm",
    "Error",
    "ErrorCode",
    "FlowControlError",
    "FrameSizeError",
    "HeartbeatTimeout",
    "ProtocolError",
    "RemoteGoneAway",
    "SessionClosed",
    "StreamRefused",
    "StreamReset",
    "StreamsExhausted",
    "os_error",
]


class ErrorCode(enum.IntEnum):
    """Why a stream was reset or a session ended; the numbers of the version 2 wire."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 4
    STREAM_REFUSED = 5
    STREAM_CANCELLED = 6
    STREAM_RESET = 7
    FRAME_SIZE_ERROR = 8
    ACCEPT_QUEUE_FULL = 9
    ENHANCE_YOUR_CALM = 10
    REMOTE_GONE_AWAY = 11
    STREAMS_EXHAUSTED = 12
    WRITE_TIMEOUT = 13
    SESSION_CLOSED = 14
    PEER_EOF = 15
    ERROR_UNKNOWN = 255

    @classmethod
    def of(cls, number: int) -> ErrorCode:
        """The member for ``number``; numbers that no version defines are ERROR_UNKNOWN."""
        try:
            return cls(number)
        except ValueError:
            return cls.ERROR_UNKNOWN


class Error(OSError):
    """Base of muxado's own errors.

    ``code`` tells the reason. ``retryable`` is true only when the peer's application has
    certainly not seen the stream, so that the same bytes can be sent again on another one.
    """

    _errno = errno.EPROTO
    _code = ErrorCode.ERROR_UNKNOWN
    _retryable = False

    def __init__(
        self, message: str = "", *, code: int | None = None, retryable: bool | None = None
    ) -> None:
        super().__init__(self._errno, message or type(self).__name__)
        self.code = self._code if code is None else ErrorCode.of(code)
        self.retryable = self._retryable if retryable is None else retryable

    def __reduce__(self) -> tuple[object, ...]:
        # OSError would call the class with (errno, message), which is not our signature.
        state = {"code": self.code, "retryable": self.retryable}
        return (type(self), (self.strerror,), state)


class SessionClosed(Error, ConnectionAbortedError):
    """The session is over: this side closed it, or it ended; ``__cause__`` is the first cause."""

    _errno = errno.ECONNABORTED
    _code = ErrorCode.SESSION_CLOSED


class StreamReset(Error, ConnectionResetError):
    """The peer reset the stream."""

    _errno = errno.ECONNRESET
    _code = ErrorCode.STREAM_RESET


class StreamRefused(Error, ConnectionRefusedError):
    """The peer refused the stream before any application saw it; always retryable."""

    _errno = errno.ECONNREFUSED
    _code = ErrorCode.STREAM_REFUSED
    _retryable = True


class RemoteGoneAway(Error, ConnectionRefusedError):
    """The peer is going away and never took this stream; retryable on another session."""

    _errno = errno.ECONNREFUSED
    _code = ErrorCode.REMOTE_GONE_AWAY


class HeartbeatTimeout(SessionClosed):
    """The session ended because the peer fell silent.

    It is no ``TimeoutError``: programs that wait in a loop take one to mean "ask again", and would
    ask a session that has ended for ever.
    """


class ProtocolError(SessionClosed):
    """The session ended because the peer broke a rule of the protocol."""

    _errno = errno.EPROTO
    _code = ErrorCode.PROTOCOL_ERROR


class FrameSizeError(ProtocolError):
    """The session ended because a frame had a length that its type does not allow."""

    _code = ErrorCode.FRAME_SIZE_ERROR


class EnhanceYourCalm(ProtocolError):
    """The session ended because the peer made this side send or keep more than is reasonable."""

    _code = ErrorCode.ENHANCE_YOUR_CALM


class FlowControlError(Error):
    """The peer sent more than the window of a stream allowed; that stream was reset."""

    _code = ErrorCode.FLOW_CONTROL_ERROR


class StreamsExhausted(Error):
    """All stream ids of this session are used up; open a new session."""

    _code = ErrorCode.STREAMS_EXHAUSTED


def os_error(number: int) -> OSError:
    """The ``OSError`` subclass for an errno, with the system's text."""
    return OSError(number, os.strerror(number))
