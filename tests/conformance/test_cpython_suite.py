"""CPython's own tests of sockets, run on streams.

Where the running Python ships `test.test_socket`, its cases for connected TCP sockets run here with
their fixtures changed: what listens is a session, and what connects opens a stream of another. The
cases themselves are not touched. Which of them are left out, and why, is said in `LEFT_OUT`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import tempfile
import unittest
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest

from .pipes import tcp_pair
from .streams import import_muxado

NO_DESCRIPTOR = "a stream's descriptor is for polling; its bytes cannot be read from it"
FLAG = "looks at O_NONBLOCK of what is a descriptor for polling"
OWN_SOCKET = "makes a socket of its own and never looks at a stream"
WAITS = "waits for a second; one class runs it, and test_makefile_waiting.py waits less"
SLEEPS = "takes a second; the same is tested in less in"

LEFT_OUT = {
    "BasicTCPTest.testFromFd": NO_DESCRIPTOR,
    "BasicTCPTest.testDup": NO_DESCRIPTOR,
    "BasicTCPTest.testDetach": NO_DESCRIPTOR,
    "BasicTCPTest.testShutdown_overflow": "tests how wide a C int is",
    "UnbufferedFileObjectClassTestCase.testReadAfterTimeout": WAITS,
    "LineBufferedFileObjectClassTestCase.testReadAfterTimeout": WAITS,
    "SmallBufferedFileObjectClassTestCase.testReadAfterTimeout": WAITS,
    "UnicodeReadFileObjectClassTestCase.testReadAfterTimeout": WAITS,
    "UnicodeWriteFileObjectClassTestCase.testReadAfterTimeout": WAITS,
    "UnicodeReadWriteFileObjectClassTestCase.testReadAfterTimeout": WAITS,
    "NonBlockingTCPTests.testSetBlocking": FLAG,
    "NonBlockingTCPTests.testSetBlocking_overflow": FLAG,
    "NonBlockingTCPTests.testInitNonBlocking": OWN_SOCKET,
    "TCPTimeoutTest.testTCPTimeout": f"{SLEEPS} test_accept.py",
    "TCPTimeoutTest.testInterruptedTimeout": "takes SIGALRM; see test_signals.py",
    "SendfileUsingSendTest.testNonRegularFile": "calls os.sendfile's private half of sendfile()",
    "SendfileUsingSendTest.testWithTimeoutTriggeredSend": f"{SLEEPS} test_sendfile.py",
    "SendfileUsingSendTest.test_errors": OWN_SOCKET,
    "ContextManagersTest.testSocketClass": OWN_SOCKET,
    "NetworkConnectionAttributesTest.testSourceAddress": "a stream has no port of its own",
    "NetworkConnectionAttributesTest.testTimeoutNone": (
        "dial(timeout=None) cannot be told from dial()"
    ),
}

CLASSES = (
    "BasicTCPTest",
    "BufferIOTest",
    "ContextManagersTest",
    "FileObjectClassTestCase",
    "UnbufferedFileObjectClassTestCase",
    "LineBufferedFileObjectClassTestCase",
    "SmallBufferedFileObjectClassTestCase",
    "UnicodeReadFileObjectClassTestCase",
    "UnicodeWriteFileObjectClassTestCase",
    "UnicodeReadWriteFileObjectClassTestCase",
    "NetworkConnectionAttributesTest",
    "NonBlockingTCPTests",
    "SendfileUsingSendTest",
    "TCPTimeoutTest",
)


def load_suite() -> Any:
    """Return a private copy of `test.test_socket`, so that changing it changes nothing else."""
    try:
        found = importlib.util.find_spec("test.test_socket")
    except ImportError:
        found = None
    if found is None or found.origin is None:
        pytest.skip("this Python has no test.test_socket", allow_module_level=True)
    spec = importlib.util.spec_from_file_location("cpython_test_socket", found.origin)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            spec.loader.exec_module(module)
        except (ImportError, unittest.SkipTest) as error:
            pytest.skip(f"test.test_socket: {error}", allow_module_level=True)
    return module


def load_muxado() -> Any:
    try:
        return import_muxado()
    except pytest.skip.Exception as skipped:
        pytest.skip(str(skipped), allow_module_level=True)


class SocketModule(ModuleType):
    """The socket module as the suite sees it: `create_connection` dials a stream."""

    def __init__(self) -> None:
        super().__init__("socket")
        self.create_connection: Any = None  # the fixture sets it

    def __getattr__(self, name: str) -> Any:
        return getattr(socket, name)


class Unconnected:
    """What stands where a socket is before `connect()`, and puts a stream in its own place."""

    def __init__(self, test: Any) -> None:
        self.test = test

    def connect(self, address: Any) -> None:
        self.test.cli = self.test.dialler.dial(address)

    def close(self) -> None:
        """There is nothing to close."""


def set_up(self: Any) -> None:
    """For SocketTCPTest.setUp, which makes a listening socket."""
    near, far = tcp_pair()
    self.dialler = muxado.client(near)
    self.serv = muxado.server(far)
    self.port = 0
    suite.socket.create_connection = self.dialler.dial
    # A test's tearDown() may come while the client's half of the test still runs. A listening
    # socket can go then; sessions have to stay until that half is done.
    self.addCleanup(self.dialler.close)
    self.addCleanup(self.serv.close)


def tear_down(self: Any) -> None:
    """For SocketTCPTest.tearDown."""


def client_set_up(self: Any) -> None:
    """For ThreadedTCPSocketTest.clientSetUp, which makes the socket that is to connect."""
    self.cli = Unconnected(self)


class SendfileFixture:
    """Has SendfileUsingSendTest call sendfile() itself, on a file outside the checkout."""

    FILESIZE = 6 * 1024 * 1024  # the suite has 10 MiB, and asks for parts of up to 5
    after_class: contextlib.ExitStack

    @classmethod
    def setUpClass(cls) -> None:
        with contextlib.ExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory())
            path = str(Path(directory, "content"))
            stack.enter_context(mock.patch.object(suite.os_helper, "TESTFN", path))
            super().setUpClass()  # type: ignore[misc]
            cls.after_class = stack.pop_all()

    @classmethod
    def tearDownClass(cls) -> None:
        with cls.after_class:
            super().tearDownClass()  # type: ignore[misc]

    def meth_from_sock(self, sock: Any) -> Any:
        return sock.sendfile


def derive(name: str) -> type:
    """Return the suite's class `name` with the cases marked that are left out."""
    base = getattr(suite, name)
    bases = (SendfileFixture, base) if name == "SendfileUsingSendTest" else (base,)
    namespace: dict[str, Any] = {"__module__": __name__}
    for full_name, reason in LEFT_OUT.items():
        class_name, case = full_name.split(".")
        if class_name == name and hasattr(base, case):  # not every version has every case
            namespace[case] = unittest.skip(reason)(getattr(base, case))
    return type(name, bases, namespace)


muxado = load_muxado()
suite = load_suite()
suite.socket = SocketModule()
suite.SocketTCPTest.setUp = set_up
suite.SocketTCPTest.tearDown = tear_down
suite.ThreadedTCPSocketTest.clientSetUp = client_set_up
# It collects garbage until the count of threads is right again, which takes most of the time.
suite.threading_helper = mock.Mock(wait_threads_exit=contextlib.nullcontext)

globals().update((name, derive(name)) for name in CLASSES)
