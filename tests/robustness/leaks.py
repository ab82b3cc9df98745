"""``python -m tests.robustness.leaks``: open, use and close a million streams, and see what grows.

Both ends are in this process. Each stream is opened, carries bytes both ways, and is closed, half
closed, reset or left to the garbage collector. The process is measured at regular intervals; from
the first measurement to the last nothing may grow.
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

#: Bytes by which memory may grow, since the allocator does not give back all that is freed.
SLACK = 2 * 2**20


class Sample(NamedTuple):
    """What the process holds."""

    memory: int  #: resident bytes
    threads: int
    descriptors: int
    streams: int  #: in the tables of both sessions


def resident() -> int:
    """Bytes of this process in memory; where the system does not tell, the highest so far."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def descriptors() -> int:
    """How many descriptors are open; 0 where the system does not tell."""
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
        """Open, use and end ``count`` streams, one after the other."""
        for number in range(count):
            stream = self.client.open()
            stream.sendall(b"question")
            if stream.recv(100) != b"question":
                raise AssertionError("the answer differs from the question")
            kind = number % 8
            if kind == 1:
                stream.reset()
            elif kind == 2:
                stream.fileno()
            elif kind == 3:
                stream.close_write()
                if stream.recv(1):
                    raise AssertionError("bytes came behind the answer")
            elif kind == 4:
                continue  # left to the garbage collector
            stream.close()

    def settle(self) -> None:
        """Wait until both ends know that every stream has ended."""
        deadline = time.monotonic() + 30
        while self.client.stats().streams or self.server.stats().streams:
            if time.monotonic() > deadline:
                raise AssertionError(f"streams are left: {self.client!r}, {self.server!r}")
            time.sleep(0.01)

    def sample(self) -> Sample:
        self.settle()
        gc.collect()
        streams = self.client.stats().streams + self.server.stats().streams
        return Sample(resident(), threading.active_count(), descriptors(), streams)

    def close(self) -> None:
        self.client.close()
        self.server.close()
        self._serving.join()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.leaks", description=__doc__)
    parser.add_argument("--streams", type=int, default=1_000_000)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--version", type=int, choices=(1, 2), default=2)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", ResourceWarning)
    churn = Churn(version=arguments.version)
    samples: list[Sample] = []
    print("   streams      seconds      MiB  threads  descriptors  in the tables", flush=True)
    start = time.monotonic()
    for number in range(1, arguments.samples + 1):
        churn.run(arguments.streams // arguments.samples)
        samples.append(sample := churn.sample())
        print(
            f"{number * (arguments.streams // arguments.samples):10,d}"
            f"{time.monotonic() - start:13.1f}{sample.memory / 2**20:9.2f}"
            f"{sample.threads:9d}{sample.descriptors:13d}{sample.streams:15d}",
            flush=True,
        )
    churn.close()
    grown = [
        name
        for name, first, last in zip(Sample._fields, samples[0], samples[-1], strict=True)
        if last > first + (SLACK if name == "memory" else 0)
    ]
    print("grown: " + (", ".join(grown) or "nothing"))
    return bool(grown)


if __name__ == "__main__":
    sys.exit(main())
