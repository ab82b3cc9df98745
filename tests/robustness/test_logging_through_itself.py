"""A process whose log goes to another one over a stream of a session, which logs as well."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import muxado

from ..helpers.crew import GUARD

ROOT = Path(muxado.__file__).parent.parent

CODE = """
    import logging, logging.handlers, pickle, socket, threading
    import muxado

    LINES = 100
    near, far = socket.socketpair()
    logging.getLogger().setLevel(logging.DEBUG)
    listening = {listening}

    class Handler(logging.handlers.SocketHandler):
        def makeSocket(self, timeout=1):
            return client.dial()

        def handleError(self, record):
            raise

    handler = Handler("nowhere", 0)
    if listening == "before":  # or else the sessions log nothing
        logging.getLogger().addHandler(handler)
        handler.createSocket = lambda: None  # until there is a session, records are dropped
    client, server = muxado.client(near), muxado.server(far)
    if listening == "before":
        del handler.createSocket
    else:
        logging.getLogger().addHandler(handler)
    received = []

    def receive():
        stream, _ = server.accept()
        with stream, stream.makefile("rb") as file:
            while size := file.read(4):
                received.append(pickle.loads(file.read(int.from_bytes(size, "big"))))

    receiving = threading.Thread(target=receive)
    receiving.start()
    for number in range(LINES):
        logging.info("line %d", number)
    handler.close()
    logging.getLogger().removeHandler(handler)
    receiving.join()
    lines = [each for each in received if each["msg"].startswith("line ")]
    assert len(lines) == LINES, len(lines)
    assert len(received) < 2 * LINES, len(received)
    client.close()
    server.close()
"""


@pytest.mark.parametrize("listening", ["before", "after"])
def test_it_ends(listening: str) -> None:
    """Every line arrives, and the session has little to add: no record makes another one."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CODE).replace("{listening}", repr(listening))],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=GUARD,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
