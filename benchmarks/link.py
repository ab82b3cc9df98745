"""``python -m benchmarks.link``: what priorities, windows and cheap opening come to on a real link.

Loopback shows none of the three, so this runs over the emulated link of the tests, which takes
root. Each measurement has a connection, and a process for the far end, of its own.
``--draw DIRECTORY`` leaves two pictures there, through matplotlib.

A wire takes no processor's time from its ends. Where there are two processors or more, the relay
that stands for the wire has the last one to itself, and the two ends share the rest: else it meets
one end or the other on the same processor, and which one decides the figures.

Opening is measured with Reno as TCP's congestion control, which every kernel has. It sends as fast
as its window allows. BBR, the default of some systems, paces a burst at the rate it has seen so
far, so that over a link as wide as this one, which the application never fills, a burst takes as
long as the bursts before it, whatever wrote it. The burst is one thread's: it opens a stream, sends
its request, opens the next, and so on, and then reads the replies. It counts warm and cold. Warm: a
session that has just exchanged the same, twice at least, so that TCP's window at both ends has
grown past the burst. Cold: a new session that has exchanged one request, where TCP may send ten
packets at first and needs round trips of its own for more. What one TCP connection takes for the
same bytes, echoed, is told beside both.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import muxado
from tests.helpers.link import Link

URGENT = 1000
#: The first byte of a stream says what its far end is to do.
ECHO, URGENT_ECHO, SOURCE, REPLY = b"e", b"u", b"s", b"r"

#: Little bandwidth: a queue of 32 ms.
NARROW: dict[str, Any] = {"delay": 0.005, "rate": 10e6, "queue": 40_000}
#: Much of it, far away: 1.25 MB in a round trip, and as much in the queue.
LONG: dict[str, Any] = {"delay": 0.025, "rate": 200e6, "queue": 1_250_000, "mtu": 9000}
#: Nothing but distance.
FAR: dict[str, Any] = {"delay": 0.01, "congestion": "reno"}

BULK = 8  # streams beside the urgent one
PAUSE = 0.05  # seconds between its echoes
QUIET = 1.0  # seconds before bulk begins
SETTLED = 2.0  # seconds after which figures count
BIN = 0.2  # seconds that a rate is the mean of
SIZE = 1024  # bytes of a request, and of its reply
BURST = 100  # requests at once

#: Told apart by readers of every kind of sight (Okabe and Ito).
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#888888"]

Connection = socket.socket | muxado.Stream


# The far end.


def serve(connection: Any, data: bytes) -> None:
    what, data = data[:1], data[1:]
    with connection:
        try:
            if what == URGENT_ECHO:
                connection.priority = URGENT
            if what == SOURCE:
                while True:
                    connection.sendall(bytes(65536))
            while data:
                connection.sendall(data)
                data = connection.recv(65536)
        except OSError:
            pass  # the near end has seen enough


def answer(connection: Any) -> None:
    """Short work is done by who accepts; the rest has a thread for each."""
    data = connection.recv(SIZE)
    if data[:1] == REPLY:
        with connection:
            read(connection, SIZE - len(data))
            connection.sendall(bytes(SIZE))
    else:
        threading.Thread(target=serve, args=(connection, data), daemon=True).start()


def read(connection: Connection, size: int) -> None:
    while size:
        data = connection.recv(size)
        if not data:
            raise EOFError("the far end is gone")
        size -= len(data)


def far_end(version: int, descriptor: int) -> None:
    sock = socket.socket(fileno=descriptor)
    arrivals: Any
    if version:
        arrivals = muxado.server(sock, version=version, accept_backlog=2 * BURST)
    else:
        arrivals = (sock.accept()[0] for _ in itertools.count())
    for connection in arrivals:
        answer(connection)


class FarEnd:
    """A process that serves: a session on a connection, or, version 0, what a socket accepts."""

    def __init__(self, sock: socket.socket, version: int) -> None:
        with sock:
            command = [sys.executable, "-m", "benchmarks.link", "--far-end"]
            self._process = subprocess.Popen(
                [*command, str(version), str(sock.fileno())], pass_fds=[sock.fileno()]
            )

    def __enter__(self) -> FarEnd:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


# Priorities.


class Echoes(NamedTuple):
    """An echo every 50 ms, beside bulk."""

    at: list[float]  #: seconds since the start
    took: list[float]  #: seconds
    moved: list[int]  #: bytes of each bulk stream, once settled
    seconds: float  #: in which they were moved

    @property
    def settled(self) -> list[float]:
        return sorted(took for at, took in zip(self.at, self.took, strict=True) if at > SETTLED)

    def percentile(self, percent: int) -> float:
        return self.settled[len(self.settled) * percent // 100]

    @property
    def share(self) -> float:
        """Of the link, for the bytes of bulk alone."""
        rate: float = NARROW["rate"]
        return sum(self.moved) * 8 / self.seconds / rate


def echoes(link: Link, version: int, seconds: float, *, priorities: bool) -> Echoes:
    near, far = link.connect()
    with FarEnd(far, version), muxado.client(near, version=version) as session:
        stream = session.open(priority=URGENT if priorities else 0)
        stream.sendall((URGENT_ECHO if priorities else ECHO) + b"?")
        read(stream, 1)  # the far end is up
        start = time.monotonic()
        moved = [0] * BULK

        def take(index: int) -> None:
            try:
                with session.open() as source:
                    source.sendall(SOURCE)
                    while size := len(source.recv(65536)):
                        if time.monotonic() > start + SETTLED:
                            moved[index] += size
            except OSError:
                pass  # the session is over

        bulk = [threading.Thread(target=take, args=(index,)) for index in range(BULK)]
        result = Echoes([], [], moved, seconds - SETTLED)
        for due in itertools.count():
            time.sleep(max(0.0, start + due * PAUSE - time.monotonic()))
            asked = time.monotonic()
            if asked >= start + seconds:
                break
            if bulk and asked >= start + QUIET:
                while bulk:
                    bulk.pop().start()
            stream.sendall(bytes(64))
            read(stream, 64)
            result.at.append(asked - start)
            result.took.append(time.monotonic() - asked)
        result = result._replace(moved=list(moved), seconds=time.monotonic() - start - SETTLED)
        session.kill()
    return result


# Windows.


def rates(link: Link, version: int, seconds: float, **options: Any) -> list[float]:
    """Bits a second that one stream receives, ``BIN`` by ``BIN``; version 0 is TCP itself."""
    near, far = link.connect()
    if not version:
        listening = link.listen(1)
        near.close()
        far.close()
        near = link.new_socket(0)
        address, far = listening.getsockname(), listening
    with FarEnd(far, version):
        connection: Any
        if version:
            session = muxado.client(near, version=version, **options)
            connection = session.open()
        else:
            near.connect(address)
            connection = near
        connection.sendall(SOURCE)
        connection.recv(1)
        start = time.monotonic()
        bins = [0] * round(seconds / BIN)
        buffer = bytearray(1 << 18)
        while True:
            count = connection.recv_into(buffer)
            index = int((time.monotonic() - start) / BIN)
            if index >= len(bins):
                break
            bins[index] += count
        if version:
            session.kill()
        else:
            near.close()
    return [count * 8 / BIN for count in bins]


# Opening.


class Opening(NamedTuple):
    """Seconds for open, 1 KiB there and back, close."""

    stream: float
    connection: float
    burst: float  #: a hundred streams at once, the last one's end
    cold: float  #: the same, first thing on a session
    plain: float  #: as many bytes over one TCP connection
    plain_cold: float  #: the same, first thing on a connection
    least: float  #: that a burst has taken: what it costs where nothing disturbs the machine


def exchange(connection: Connection) -> None:
    with connection:
        connection.sendall(REPLY + bytes(SIZE - 1))
        read(connection, SIZE)


def burst(session: muxado.Session) -> None:
    streams = []
    for _ in range(BURST):
        streams.append(session.open())
        streams[-1].sendall(REPLY + bytes(SIZE - 1))
    for stream in streams:
        read(stream, SIZE)
        stream.close()


def plain_burst(connection: socket.socket) -> None:
    """As many bytes as in a burst, one way and the other, over a connection that echoes."""
    for _ in range(BURST):
        connection.sendall(bytes(SIZE))
    read(connection, BURST * SIZE)


def timed(function: Callable[..., object], *arguments: Any) -> float:
    start = time.monotonic()
    function(*arguments)
    return time.monotonic() - start


def cold_burst(link: Link) -> float:
    near, far = link.connect()
    with FarEnd(far, 2), muxado.client(near) as session:
        exchange(session.open())
        return timed(burst, session)


def opening(link: Link, rounds: int) -> Opening:
    """Each figure the median of ``rounds``, the cold ones' of a quarter as many."""
    near, far = link.connect()
    listening = link.listen(1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # and so what it accepts
    address = listening.getsockname()

    def connect(sock: socket.socket) -> None:
        sock.connect(address)
        exchange(sock)

    with FarEnd(far, 2), FarEnd(listening, 0), muxado.client(near) as session:
        exchange(session.open())  # both processes are up
        connect(link.new_socket(0))
        streams, connections = [], []
        for _ in range(rounds):
            streams.append(timed(lambda: exchange(session.open())))
            connections.append(timed(connect, link.new_socket(0)))
        # One after another: TCP forgets in a pause how much it may send at once.
        bursts = [timed(burst, session) for _ in range(2 + 3 * rounds)]
        plain_colds = []
        for _ in range(max(1, rounds // 4)):
            plain = link.new_socket(0)
            plain.connect(address)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            plain.sendall(ECHO + b"?")
            read(plain, 1)
            plains = [timed(plain_burst, plain) for _ in range(2 + rounds)]
            plain_colds.append(plains[0])
            plain.close()
    colds = [cold_burst(link) for _ in plain_colds]
    found = (streams, connections, bursts[2:], colds, plains[2:], plain_colds)
    return Opening._make([*map(statistics.median, found), min(bursts)])


# Pictures.


def draw(
    path: Path, panels: Sequence[tuple[str, str, list[tuple[str, list[float], list[float]]]]]
) -> None:
    """Lines over time as SVG: for each panel its title, its axis, and its lines."""
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("svg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": "muxado",
        "font.size": 9,
        "font.family": "sans-serif",
        "path.simplify_threshold": 0.5,
    }
    with matplotlib.rc_context(settings):
        figure, axes = pyplot.subplots(len(panels), 1, squeeze=False, figsize=(7, 3 * len(panels)))
        for axis, (title, unit, lines) in zip(axes[:, 0], panels, strict=True):
            for (label, at, values), colour in zip(lines, COLOURS, strict=False):
                axis.plot(at, values, label=label, color=colour, linewidth=1.4)
            axis.set_title(title, fontsize=10)
            axis.set_ylabel(unit)
            axis.set_xlabel("seconds")
            axis.set_ylim(bottom=0)
            axis.margins(x=0.01)
            axis.grid(color="#dddddd", linewidth=0.5)
            axis.legend(fontsize=8, loc="center right", framealpha=0.9)
        figure.tight_layout()
        figure.savefig(path, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    # matplotlib leaves blanks at the ends of lines.
    lines_of_text = path.read_text(encoding="utf-8").splitlines()
    path.write_text("".join(f"{line.rstrip()}\n" for line in lines_of_text), encoding="utf-8")


# All together.


def set_processor_aside() -> int | None:
    """Leave one to the relay, where there are two; its number. Children are left the rest too."""
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) < 2:
        return None
    os.sched_setaffinity(0, processors[:-1])
    return processors[-1]


def priorities_part(directory: Path | None, seconds: float, processor: int | None) -> None:
    lines = []
    for version, priorities in ((2, False), (2, True), (1, True)):
        with Link(**NARROW, processor=processor) as link:
            found = echoes(link, version, seconds, priorities=priorities)
        idle = statistics.median(
            took for at, took in zip(found.at, found.took, strict=True) if at < QUIET
        )
        mean = statistics.mean(found.moved)
        print(
            f"echo beside {BULK} bulk streams, version {version}, "
            f"{'priority' if priorities else 'no priority'}: "
            f"idle {idle * 1e3:.0f} ms, then median {found.percentile(50) * 1e3:.0f}, "
            f"p95 {found.percentile(95) * 1e3:.0f}, most {found.settled[-1] * 1e3:.0f}; "
            f"bulk has {found.share:.0%} of the link, "
            f"each {min(found.moved) / mean:.2f} to {max(found.moved) / mean:.2f} of its share "
            f"in {found.seconds:.0f} s"
        )
        if version == 2:
            label = f"priority {URGENT}" if priorities else "the same priority as bulk"
            lines.append((label, found.at, [took * 1e3 for took in found.took]))
    if directory:
        title = f"An echo of 64 bytes beside {BULK} bulk streams, 10 Mbit/s, 5 ms each way"
        draw(directory / "link-priority.svg", [(title, "round trip, ms", lines)])


def windows_part(directory: Path | None, seconds: float, processor: int | None) -> None:
    lines = []
    tcp = 0.0
    kinds: list[tuple[str, int, dict[str, Any]]] = [
        ("TCP", 0, {}),
        ("version 2, from 256 KiB", 2, {}),
        ("version 1, from 64 KiB", 1, {}),
        ("version 2, window fixed", 2, {"max_window": 262144}),
    ]
    for label, version, options in kinds:
        with Link(**LONG, processor=processor) as link:
            found = rates(link, version, seconds, **options)
        settled = statistics.mean(found[round(SETTLED / BIN) :])
        tcp = tcp or settled
        late = next(
            (index * BIN for index, rate in enumerate(found) if rate >= 0.8 * tcp), float("nan")
        )
        print(
            f"one stream, {label}: {settled / 1e6:.0f} Mbit/s after {SETTLED:.0f} s, "
            f"{settled / tcp:.2f} of TCP; 0.8 of it first after {late:.1f} s"
        )
        lines.append(
            (label, [BIN * (i + 0.5) for i in range(len(found))], [r / 1e6 for r in found])
        )
    if directory:
        title = "One stream from its start, 200 Mbit/s, 50 ms round trip"
        draw(directory / "link-window.svg", [(title, "Mbit/s", lines)])


def opening_part(rounds: int, processor: int | None) -> None:
    with Link(**FAR, processor=processor) as link:
        found = opening(link, rounds)
    trip = 2 * FAR["delay"]
    print(
        f"open, {SIZE} bytes there and back, close, over a round trip of {trip * 1e3:.0f} ms: "
        f"stream {found.stream * 1e3:.1f} ms, connection {found.connection * 1e3:.1f} ms, "
        f"ratio {found.stream / found.connection:.2f}"
    )
    bursts = (
        (f"{BURST} streams at once", found.burst, found.cold),
        ("as many bytes over TCP", found.plain, found.plain_cold),
    )
    for label, warm, cold in bursts:
        print(
            f"{label}: {warm * 1e3:.1f} ms, {warm / trip:.2f} round trips; "
            f"cold {cold * 1e3:.1f} ms, {cold / trip:.2f}"
        )
    print(f"the quickest burst of streams: {found.least * 1e3:.1f} ms, {found.least / trip:.2f}")


def main() -> None:
    if sys.argv[1:2] == ["--far-end"]:
        far_end(int(sys.argv[2]), int(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.link", description=__doc__)
    parser.add_argument("--draw", type=Path, metavar="DIRECTORY", help="leave the pictures there")
    parser.add_argument("--only", choices=["priorities", "windows", "opening"])
    parser.add_argument("--seconds", type=float, default=12.0, help="of each run (default: 12)")
    options = parser.parse_args()
    if options.seconds <= SETTLED:
        parser.error(f"figures count after {SETTLED:.0f} seconds")
    try:
        Link(**FAR).close()
    except OSError as error:
        sys.exit(f"no emulated link here: {error}")
    processor = set_processor_aside()
    if options.only in (None, "priorities"):
        priorities_part(options.draw, options.seconds, processor)
    if options.only in (None, "windows"):
        windows_part(options.draw, options.seconds, processor)
    if options.only in (None, "opening"):
        opening_part(20, processor)


if __name__ == "__main__":
    main()
