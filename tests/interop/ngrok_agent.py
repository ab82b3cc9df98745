"""Runs ngrok's Agent SDK; for an interpreter that has it, not for the one that runs the tests.

``python ngrok_agent.py HOST:PORT CA_FILE UPSTREAM_URL`` connects to that server, forwards to that
URL and tells on stdout what happens, one JSON object a line. A line on stdin lets it close its
session and stay, the end of stdin lets it go. The token is made up; nothing but the two addresses
is spoken to.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import threading
from pathlib import Path
from typing import Any

HEARTBEAT_INTERVAL, HEARTBEAT_TOLERANCE = 1, 2  # seconds

_stdout = threading.Lock()  # the SDK calls back from threads of its own


def report(event: str, **values: Any) -> None:
    line = json.dumps({"event": event, **values}) + "\n"
    with _stdout:
        sys.stdout.write(line)
        sys.stdout.flush()


async def run(server: str, ca: bytes, upstream: str) -> None:
    ngrok: Any = importlib.import_module("ngrok")
    builder = (
        ngrok.SessionBuilder()
        .authtoken("test")
        .server_addr(server)
        .ca_cert(bytearray(ca))
        .heartbeat_interval(HEARTBEAT_INTERVAL)
        .heartbeat_tolerance(HEARTBEAT_TOLERANCE)
        .handle_heartbeat(lambda latency: report("heartbeat", milliseconds=latency))
        .handle_disconnection(lambda address, error: report("disconnected", error=error))
    )
    session = await builder.connect()
    report("connected")
    listener = await session.http_endpoint().listen_and_forward(upstream)
    report("listening", id=listener.id(), url=listener.url())
    if await asyncio.to_thread(sys.stdin.readline):
        await listener.close()
        await session.close()
        report("closed")
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    address, ca_file, url = sys.argv[1:]
    asyncio.run(run(address, Path(ca_file).read_bytes(), url))
