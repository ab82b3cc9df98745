"""Names, options and what else one may ask of a connected socket."""

from __future__ import annotations

import pickle
import socket
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from .pipes import Feature, Pipe


def test_names(pipe: Pipe) -> None:
    """What they are depends on the transport, but asking is never an error."""
    for end in (pipe.near, pipe.far):
        assert isinstance(end.getsockname(), (tuple, str, bytes))
        assert isinstance(end.getpeername(), (tuple, str, bytes))


def test_names_of_the_two_ends_agree(pipe: Pipe) -> None:
    assert pipe.near.getsockname() == pipe.far.getpeername()
    assert pipe.near.getpeername() == pipe.far.getsockname()


def test_type(pipe: Pipe) -> None:
    for end in (pipe.near, pipe.far):
        assert end.type == socket.SOCK_STREAM
        assert end.family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
        assert isinstance(end.proto, int)


def test_options_of_every_socket(pipe: Pipe) -> None:
    end = pipe.near
    assert end.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
    assert end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    assert isinstance(end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), int)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)


def test_options_of_tcp(pipe: Pipe) -> None:
    pipe.needs(Feature.TCP_OPTIONS)
    pipe.near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    assert isinstance(pipe.near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), int)
    pipe.near.sendall(b"spam")
    assert pipe.far.recv(1024) == b"spam"


def test_options_as_bytes(pipe: Pipe) -> None:
    value = pipe.near.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE, 4)
    assert value == int(socket.SOCK_STREAM).to_bytes(4, "little")
    pipe.near.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, b"\1\0\0\0")


@pytest.mark.parametrize("bad", [("1", 1, 1), (1, None, 1), (1, 9, "1"), (1, 9)], ids=repr)
def test_setsockopt_with_wrong_types(pipe: Pipe, bad: Any) -> None:
    with pytest.raises(TypeError):
        pipe.near.setsockopt(*bad)


def test_repr(pipe: Pipe) -> None:
    before = repr(pipe.near)
    assert type(pipe.near).__name__ in before
    pipe.near.close()
    assert repr(pipe.near) != before, "it does not say that it is closed"


def test_repr_in_every_state(pipe: Pipe) -> None:
    acts: list[Callable[[], Any]] = [
        lambda: pipe.near.sendall(b"spam"),
        pipe.near.fileno,
        lambda: pipe.near.shutdown(socket.SHUT_WR),
        pipe.far.close,
        pipe.near.close,
    ]
    for act in acts:
        act()
        assert repr(pipe.near).startswith("<")
        assert repr(pipe.far).startswith("<")


def test_identity(pipe: Pipe) -> None:
    """Ends are keys of the tables that servers and selectors keep."""
    table = {pipe.near: "near", pipe.far: "far"}
    assert table[pipe.near] == "near"
    assert table[pipe.far] == "far"
    assert pipe.near != pipe.far
    assert bool(pipe.near) is True


def test_weak_references(pipe: Pipe) -> None:
    reference = weakref.ref(pipe.near)
    assert reference() is pipe.near


def test_no_pickling(pipe: Pipe) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(pipe.near)
