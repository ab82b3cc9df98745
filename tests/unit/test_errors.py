"""Error codes and exceptions: what callers may rely on when they catch one."""

from __future__ import annotations

import copy
import errno
import pickle
from typing import Any, NamedTuple

import pytest

from muxado import errors
from muxado.errors import Error, ErrorCode, StreamRefused
from muxado.protocol import Failure

# The numbers of the version 2 wire: what a Go or Rust peer sends and expects.
NUMBERS = {
    "NO_ERROR": 0,
    "PROTOCOL_ERROR": 1,
    "INTERNAL_ERROR": 2,
    "FLOW_CONTROL_ERROR": 3,
    "STREAM_CLOSED": 4,
    "STREAM_REFUSED": 5,
    "STREAM_CANCELLED": 6,
    "STREAM_RESET": 7,
    "FRAME_SIZE_ERROR": 8,
    "ACCEPT_QUEUE_FULL": 9,
    "ENHANCE_YOUR_CALM": 10,
    "REMOTE_GONE_AWAY": 11,
    "STREAMS_EXHAUSTED": 12,
    "WRITE_TIMEOUT": 13,
    "SESSION_CLOSED": 14,
    "PEER_EOF": 15,
    "ERROR_UNKNOWN": 255,
}


class Row(NamedTuple):
    kind: type[Error]
    also: type[BaseException]  # what code written for sockets catches it as
    code: ErrorCode | None  # unless told otherwise; None: left open
    number: int | None  # errno, likewise


TABLE = [
    Row(errors.Error, OSError, None, None),
    Row(
        errors.SessionClosed,
        ConnectionAbortedError,
        ErrorCode.SESSION_CLOSED,
        errno.ECONNABORTED,
    ),
    Row(errors.StreamReset, ConnectionResetError, ErrorCode.STREAM_RESET, errno.ECONNRESET),
    Row(
        errors.StreamRefused,
        ConnectionRefusedError,
        ErrorCode.STREAM_REFUSED,
        errno.ECONNREFUSED,
    ),
    Row(
        errors.RemoteGoneAway,
        ConnectionRefusedError,
        ErrorCode.REMOTE_GONE_AWAY,
        errno.ECONNREFUSED,
    ),
    Row(errors.HeartbeatTimeout, ConnectionAbortedError, None, errno.ECONNABORTED),
    Row(errors.ProtocolError, OSError, ErrorCode.PROTOCOL_ERROR, None),
    Row(errors.FlowControlError, OSError, ErrorCode.FLOW_CONTROL_ERROR, None),
    Row(errors.FrameSizeError, OSError, ErrorCode.FRAME_SIZE_ERROR, None),
    Row(errors.EnhanceYourCalm, OSError, ErrorCode.ENHANCE_YOUR_CALM, None),
    Row(errors.StreamsExhausted, OSError, ErrorCode.STREAMS_EXHAUSTED, None),
]
rows = pytest.mark.parametrize("row", TABLE, ids=[row.kind.__name__ for row in TABLE])


def fields(error: Error) -> tuple[Any, ...]:
    """All that a copy of an error must have kept."""
    return (
        type(error),
        error.code,
        type(error.code),
        error.retryable,
        error.errno,
        error.strerror,
        error.args,
        str(error),
    )


def test_codes() -> None:
    assert {code.name: int(code) for code in ErrorCode} == NUMBERS


@pytest.mark.parametrize("number", [*NUMBERS.values()])
def test_a_code_by_its_number(number: int) -> None:
    assert ErrorCode.of(number) == number
    assert type(ErrorCode.of(number)) is ErrorCode


@pytest.mark.parametrize("number", [16, 254, 256, 0xFFFFFFFF, -1])
def test_a_number_that_nobody_defined(number: int) -> None:
    assert ErrorCode.of(number) is ErrorCode.ERROR_UNKNOWN


def test_the_table_is_whole() -> None:
    public = {getattr(errors, name) for name in errors.__all__} - {ErrorCode, errors.os_error}
    assert {row.kind for row in TABLE} == public


@rows
def test_classes(row: Row) -> None:
    error = row.kind("what happened")
    assert isinstance(error, Error)
    assert isinstance(error, OSError)
    assert isinstance(error, row.also)
    if row.code is not None:
        assert error.code is row.code
    assert type(error.code) is ErrorCode
    if row.number is not None:
        assert error.errno == row.number
    assert error.errno, "code that looks at errno finds one"
    assert error.strerror == "what happened"
    assert "what happened" in str(error)


@rows
def test_a_message_is_never_missing(row: Row) -> None:
    assert row.kind.__name__ in str(row.kind())


@rows
def test_code_and_retryable_can_be_told(row: Row) -> None:
    error = row.kind("text", code=2, retryable=True)
    assert error.code is ErrorCode.INTERNAL_ERROR
    assert error.retryable is True
    assert row.kind("text", code=4711).code is ErrorCode.ERROR_UNKNOWN
    assert row.kind("text", code=0).code is ErrorCode.NO_ERROR


@rows
def test_retryable_is_never_assumed(row: Row) -> None:
    # Only where nobody can have seen the stream; RemoteGoneAway may also tell how a session ended.
    if row.kind is not StreamRefused:
        assert row.kind("text").retryable is False


def test_a_refused_stream_is_always_retryable() -> None:
    assert StreamRefused("text").retryable is True


def test_a_failed_heartbeat_is_no_time_out() -> None:
    """Programs catch ``TimeoutError`` in order to try again, which would go on for ever."""
    error = errors.HeartbeatTimeout()
    assert isinstance(error, errors.SessionClosed)
    assert isinstance(error, ConnectionAbortedError)
    assert not isinstance(error, TimeoutError)


def test_sessions_streams_and_misuse_are_told_apart() -> None:
    ends_session = {errors.HeartbeatTimeout, errors.ProtocolError, errors.FrameSizeError}
    ends_session |= {errors.EnhanceYourCalm, errors.SessionClosed}
    for row in TABLE:
        assert issubclass(row.kind, errors.SessionClosed) == (row.kind in ends_session)
        assert not issubclass(row.kind, BrokenPipeError | BlockingIOError)
        if row.kind is not errors.HeartbeatTimeout:
            assert not issubclass(row.kind, TimeoutError), "a time-out leaves a stream usable"


@rows
@pytest.mark.parametrize("code", [None, 9])
def test_pickle(row: Row, code: int | None) -> None:
    """Errors cross process pools as other exceptions do."""
    error = row.kind("what happened", code=code, retryable=True)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert fields(pickle.loads(pickle.dumps(error, protocol))) == fields(error)


@rows
def test_copy(row: Row) -> None:
    error = row.kind("what happened", code=9, retryable=True)
    error.seen_by = "somebody"  # type: ignore[attr-defined]
    for other in (copy.copy(error), copy.deepcopy(error)):
        assert other is not error
        assert fields(other) == fields(error)


class TestFailure:
    """What a stream that failed keeps, to raise for whoever asks."""

    cause = ConnectionResetError(errno.ECONNRESET, "the first cause")

    def test_it_makes_the_error(self) -> None:
        failure = Failure(StreamRefused, "refused", ErrorCode.ACCEPT_QUEUE_FULL, True, self.cause)
        error = failure.exception()
        assert type(error) is StreamRefused
        assert (error.strerror, error.code, error.retryable) == (
            "refused",
            ErrorCode.ACCEPT_QUEUE_FULL,
            True,
        )
        assert error.__cause__ is self.cause

    def test_each_caller_gets_its_own(self) -> None:
        # One instance raised in two threads would collect the frames of both.
        failure = Failure(
            errors.StreamReset, "reset", ErrorCode.STREAM_CANCELLED, False, self.cause
        )
        first, second = failure.exception(), failure.exception()
        assert first is not second
        assert fields(first) == fields(second)
        assert first.__cause__ is second.__cause__ is self.cause

    def test_without_a_cause(self) -> None:
        error = Failure(errors.StreamReset, "reset", 0xDEAD).exception()
        assert error.__cause__ is None
        assert error.retryable is False
        assert error.code is ErrorCode.ERROR_UNKNOWN
