"""``python -m benchmarks.leaks``: open, use and close streams by the million, and watch what grows.

Both ends live in this process and everything of a stream's life happens: SYN, bytes both ways,
FIN both ways, or a reset, or an end by the garbage collector. After each part of the work the
process is looked at; from the first look to the last nothing may have grown.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import resource
import socket
import sys
import threading
import time
import warnings
from typing import NamedTuple

import muxado

#: Bytes that the allocator may have come to hold for its own reasons.
SLACK = 2 * 2**20


class Look(NamedTuple):
    """What a process holds."""

    memory: int  #: resident bytes
    threads: int
    descriptors: int
    streams: int  #: in the tables of both sessions


def resident() -> int:
    """Bytes of this process in memory; where the system does not tell, the most there ever were."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def descriptors() -> int:
    """How many descriptors are open."""
    for directory in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            return len(os.listdir(directory))
    return 0


class Churn:
    """A pair of sessions, and streams that come and go between them."""

    def __init__(self, **options: object) -> None:
        near, far = socket.socketpair()
        self.client = muxado.client(near, **options)
        self.server = muxado.server(far, **options)
        self._serving = threading.Thread(target=self._serve, daemon=True)
        self._serving.start()

    def _serve(self) -> None:
        for stream in self.server:
            with contextlib.suppress(muxado.Error), stream:
                while data := stream.recv(100):
                    stream.sendall(data)

    def run(self, count: int) -> None:
        """The whole life of ``count`` streams, one after the other."""
        for number in range(count):
            stream = self.client.open()
            stream.sendall(b"question")
            if stream.recv(100) != b"question":
                raise AssertionError("that was not the answer")
            kind = number % 8
            if kind == 1:
                stream.reset()
            elif kind == 2:
                stream.fileno()
            elif kind == 3:
                stream.close_write()
                if stream.recv(1):
                    raise AssertionError("there was no more to come")
            elif kind == 4:
                continue  # left to the garbage collector
            stream.close()

    def settle(self) -> None:
        """Wait until both ends have heard of the end of every stream."""
        while self.client.stats().streams or self.server.stats().streams:
            time.sleep(0.01)

    def look(self) -> Look:
        self.settle()
        gc.collect()
        streams = self.client.stats().streams + self.server.stats().streams
        return Look(resident(), threading.active_count(), descriptors(), streams)

    def close(self) -> None:
        self.client.close()
        self.server.close()
        self._serving.join()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.leaks", description=__doc__)
    parser.add_argument("--streams", type=int, default=1_000_000)
    parser.add_argument("--looks", type=int, default=10)
    parser.add_argument("--version", type=int, choices=(1, 2), default=2)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", ResourceWarning)
    churn = Churn(version=arguments.version)
    looks: list[Look] = []
    print("   streams      seconds      MiB  threads  descriptors  in the tables", flush=True)
    start = time.monotonic()
    for number in range(1, arguments.looks + 1):
        churn.run(arguments.streams // arguments.looks)
        looks.append(look := churn.look())
        print(
            f"{number * (arguments.streams // arguments.looks):10,d}"
            f"{time.monotonic() - start:13.1f}{look.memory / 2**20:9.2f}"
            f"{look.threads:9d}{look.descriptors:13d}{look.streams:15d}",
            flush=True,
        )
    churn.close()
    grown = [
        name
        for name, first, last in zip(Look._fields, looks[0], looks[-1], strict=True)
        if last > first + (SLACK if name == "memory" else 0)
    ]
    print("grown: " + (", ".join(grown) or "nothing"))
    return bool(grown)


if __name__ == "__main__":
    sys.exit(main())
