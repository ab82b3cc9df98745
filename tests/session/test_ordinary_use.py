"""Programs as they are: nobody waits for bytes that nobody reads.

The reader thread counts how often it found that; one rescue costs a caller several milliseconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

import muxado

from ..helpers.crew import GUARD, Crew
from ..helpers.support import Connector, Pair, streams

#: A thread that gets no processor for so long looks like one that has lost its wake-up. That
#: happens now and then on a busy machine, and not each time.
ATTEMPTS = 5


def needs_no_rescue(connector: Connector, use: Callable[[Pair], None]) -> None:
    """Nobody has to be rescued where two sessions are used so."""
    counts = []
    for _ in range(ATTEMPTS):
        pair = connector()
        use(pair)
        counts.append([session.stats().rescues for session in pair])
        for session in pair:
            session.close()
        if counts[-1] == [0, 0]:
            return
    pytest.fail(f"rescues at both ends: {counts}")


def echo(stream: muxado.Stream) -> None:
    with stream:
        while data := stream.recv(4096):
            stream.sendall(data)


def ask(stream: muxado.Stream, questions: int) -> None:
    working = threading.Event()  # never set
    for number in range(questions):
        question = b"%08d" % number
        stream.sendall(question)
        assert stream.recv(100) == question
        if number % 4 == 3:
            working.wait(0.001)


@pytest.mark.parametrize("callers", [1, 4, 16])
def test_callers_on_lasting_streams(connector: Connector, crew: Crew, callers: int) -> None:
    def use(pair: Pair) -> None:
        ends = [streams(pair) for _ in range(callers)]
        echoing = [crew.start(echo, far) for _, far in ends]
        for task in [crew.start(ask, near, 50) for near, _ in ends]:
            task.result()
        for near, _ in ends:
            near.close()
        for task in echoing:
            task.result()

    needs_no_rescue(connector, use)


@pytest.mark.parametrize("callers", [1, 4, 16])
def test_a_stream_and_a_thread_for_each_request(
    connector: Connector, crew: Crew, callers: int
) -> None:
    def use(pair: Pair) -> None:
        client, server = pair
        served = 20 * callers

        def serve() -> None:
            threads = []
            for _ in range(served):
                stream, _ = server.accept()
                threads.append(threading.Thread(target=echo, args=(stream,)))
                threads[-1].start()
            for thread in threads:
                thread.join(GUARD)

        def call() -> None:
            for _ in range(20):
                with client.open() as stream:
                    ask(stream, 3)

        serving = crew.start(serve)
        for task in [crew.start(call) for _ in range(callers)]:
            task.result()
        serving.result()

    needs_no_rescue(connector, use)
