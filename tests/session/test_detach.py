"""``detach()`` is refused, but gives up the number of ``fileno()`` to its caller."""

from __future__ import annotations

import errno
import gc
import os
import select
import socket
import ssl
from collections.abc import Callable

import pytest

import muxado

from ..helpers.support import Sessions, streams, until

Polled = muxado.Stream | muxado.Session


@pytest.fixture(params=["stream", "session"])
def polled(request: pytest.FixtureRequest, sessions: Sessions) -> Polled:
    """A stream of a session, or the session itself."""
    pair = sessions.socketpair()
    return streams(pair)[0] if request.param == "stream" else pair[0]


def refused(call: Callable[[], object]) -> None:
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.errno == errno.EOPNOTSUPP


def adopt_and_close(polled: Polled) -> None:
    with socket.socket(fileno=polled.fileno()):
        refused(polled.detach)


def wrap_in_tls(polled: Polled) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    refused(lambda: context.wrap_socket(polled, server_side=True))  # type: ignore[arg-type]
    gc.collect()  # the exception's traceback holds the SSLSocket, whose finalizer closes it


@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
@pytest.mark.parametrize("adopt", [adopt_and_close, wrap_in_tls])
def test_close_leaves_the_number_alone(polled: Polled, adopt: Callable[[Polled], None]) -> None:
    number = polled.fileno()
    adopt(polled)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    null = os.open(os.devnull, os.O_RDONLY)  # most likely it has got that number already
    if null != number:
        os.dup2(null, number)
        os.close(null)
    before = os.fstat(number)
    polled.close()
    assert os.path.samestat(os.fstat(number), before)
    os.close(number)


def test_the_next_descriptor_is_another_one(sessions: Sessions) -> None:
    """It polls as the first one did, and goes when its stream does."""
    pair = sessions.socketpair()
    near, far = streams(pair)
    with socket.socket(fileno=near.fileno()):
        refused(near.detach)
        number = near.fileno()
        far.sendall(b"x")
        until(lambda: socket_is_readable(number))
    assert near.recv(1) == b"x"
    assert not socket_is_readable(number)
    near.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_a_session_is_polled_again(sessions: Sessions) -> None:
    near, far = sessions.socketpair()
    with socket.socket(fileno=far.fileno()):
        refused(far.detach)
        number = far.fileno()
    near.open().close()
    until(lambda: socket_is_readable(number))
    far.accept()[0].close()
    assert not socket_is_readable(number)


def test_without_a_descriptor_there_is_none_to_give_up(polled: Polled) -> None:
    descriptors = len(os.listdir("/dev/fd"))
    for _ in range(3):
        refused(polled.detach)
    assert len(os.listdir("/dev/fd")) <= descriptors  # others may have gone meanwhile
    assert polled.fileno() >= 0


def socket_is_readable(number: int) -> bool:
    poller = select.poll()
    poller.register(number, select.POLLIN)
    return bool(poller.poll(0))
