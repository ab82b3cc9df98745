"""Small programs in many orders, most with one stop: at every point, for every other thread."""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
from collections.abc import Callable

import muxado
from muxado import ErrorCode

from .link import Cuts, connect
from .run import few_bytes_are_many
from .world import Preemptions, Seeded, World

#: Numbers of the thread that goes on; no program here has more threads that could.
OTHERS = 6


class Ends:
    """Two sessions joined in memory."""

    def __init__(self, world: World, cuts: Cuts) -> None:
        self.world = world
        self.client, self.server = (
            muxado.Session(end, client=number == 0, heartbeat_interval=None)
            for number, end in enumerate(connect(world, cuts))
        )

    def side_by_side(self, *calls: Callable[[], object]) -> None:
        """Make all these calls, each in a thread of its own, and wait for them."""
        threads = [self.world.start(f"call {n}", call) for n, call in enumerate(calls)]
        for thread in threads:
            thread.join()


def stop_everywhere(program: Callable[[Ends], object], cuts: Cuts) -> None:
    """Run ``program`` once for each point and each thread that may go on there."""
    for gap in itertools.count(1):
        for other in range(OTHERS):
            world = World(Preemptions([(gap, other)]), punctual=True)
            with few_bytes_are_many():
                world.run(lambda: program(Ends(world, cuts)))  # noqa: B023  called at once
        if gap > world.steps:
            return


def test_close_cuts_no_frame() -> None:
    """What another thread sends while the session is closed arrives whole, or is refused."""

    def program(ends: Ends) -> None:
        stream = ends.client.open()
        received = bytearray()
        sent = False

        def send() -> None:
            nonlocal sent
            with contextlib.suppress(muxado.SessionClosed):
                stream.sendall(b"12345678")
                sent = True

        def receive() -> None:
            for accepted in ends.server:
                with accepted, contextlib.suppress(muxado.SessionClosed):
                    while part := accepted.recv(100):
                        received.extend(part)

        ends.side_by_side(send, ends.client.close, receive)
        assert ends.server.wait().code == ErrorCode.NO_ERROR
        assert bytes(received) == (b"12345678" if sent else b"")
        stream.close()
        ends.server.close()

    stop_everywhere(program, Cuts(room=3, read=1000, write=1000))


def test_somebody_reads_while_anybody_waits() -> None:
    """Of two calls of ``accept()`` one returns, and the other reads on without being rescued."""

    def program(ends: Ends) -> None:
        def accept() -> None:
            with contextlib.suppress(muxado.SessionClosed):
                ends.server.accept()[0].close()

        acceptors = [ends.world.start(f"accept {number}", accept) for number in range(2)]
        with ends.client.open() as stream:
            stream.sendall(b"hello")
        ends.world.quiet()
        assert ends.server.stats().rescues == 0
        ends.client.close()
        for acceptor in acceptors:
            acceptor.join()
        ends.server.close()

    stop_everywhere(program, Cuts(room=1000, read=1000, write=1000))


def test_callers_read_once_nothing_is_polled() -> None:
    """Whoever closes the last descriptor that was polled hands the seat to a caller.

    It takes more than one stop to get there, so this goes by seeds.
    """

    def program(ends: Ends) -> None:
        def accept() -> None:
            with contextlib.suppress(muxado.SessionClosed):
                ends.server.accept()

        def poll() -> None:
            with ends.server.open() as stream:
                stream.fileno()

        acceptor = ends.world.start("accept", accept)
        ends.side_by_side(poll)
        ends.world.quiet()
        assert ends.server.stats().rescues == 0
        ends.server.close()
        acceptor.join()
        ends.client.close()

    for seed in range(200):
        world = World(Seeded(seed, 5), punctual=True)
        with few_bytes_are_many():
            world.run(lambda: program(Ends(world, Cuts(room=1000, read=1000, write=1000))))  # noqa: B023


def test_what_polls_readable_can_be_read() -> None:
    """A descriptor has forgotten what was read by the time the read returns."""

    def program(ends: Ends) -> None:
        def receive() -> None:
            with ends.server.accept()[0] as stream:
                poller = select.poll()
                poller.register(stream.fileno(), select.POLLIN)
                while True:
                    ends.world.wait(lambda: poller.poll(0))
                    if not stream.recv(100, socket.MSG_DONTWAIT):
                        break

        def send() -> None:
            with ends.client.open() as stream:
                for _ in range(4):
                    stream.sendall(b"hello")

        ends.side_by_side(receive, send)
        ends.client.close()
        ends.server.close()

    for seed in range(200):
        world = World(Seeded(seed, 5))
        with few_bytes_are_many():
            world.run(lambda: program(Ends(world, Cuts(room=1000, read=1000, write=1000))))  # noqa: B023
