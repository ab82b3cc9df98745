"""One end of a peer written in Python, as a process of its own.

How a worker and the process that measures talk, a line of JSON each, is what a peer in any other
language has to do as well:

* a server writes ``{"address": [host, port]}`` once it listens, serves until its standard input
  ends, and then exits with status 0;
* a client writes ``{"ready": true}`` once it is connected; for every line ``{"work": amount}`` on
  its standard input it does so much and answers ``{"seconds": time}``; when its input ends it
  leaves in an orderly manner and exits with status 0;
* either ends with another status, and the reason on standard error, when anything goes wrong.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import traceback
from typing import NoReturn

from benchmarks.peers import PEERS, Accept, Address, Finished, Job, PythonPeer
from benchmarks.scenarios import SCENARIOS, Connection, Handler


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def fail() -> NoReturn:
    """End the process, from whatever thread, with the reason."""
    traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)


def handle(handler: Handler, connection: Connection) -> None:
    try:
        handler(connection)
        connection.close()
    except BaseException:
        fail()


def exit_at_end_of_input() -> None:
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(0)


def accept_and_handle(accept: Accept, handler: Handler) -> None:
    """What a waiting worker does."""
    while True:
        try:
            connection = accept()
        except Finished:
            return
        except BaseException:
            fail()
        handle(handler, connection)


def run_server(peer: PythonPeer, job: Job) -> None:
    scenario = SCENARIOS[job.scenario]
    address, accept = peer.listen(job.certificate)
    say(address=address)
    until_told = threading.Thread(target=exit_at_end_of_input)
    until_told.start()
    if scenario.workers:
        for _ in range(scenario.workers):
            arguments = (accept, scenario.handler)
            threading.Thread(target=accept_and_handle, args=arguments, daemon=True).start()
    else:
        while True:
            try:
                connection = accept()
            except Finished:
                break
            arguments_of_one = (scenario.handler, connection)
            threading.Thread(target=handle, args=arguments_of_one, daemon=True).start()
    until_told.join()


def run_client(peer: PythonPeer, job: Job, address: Address) -> None:
    scenario = SCENARIOS[job.scenario]
    connect, leave = peer.dial(address, job.certificate)
    say(ready=True)
    for line in sys.stdin:
        say(seconds=scenario.client(connect, json.loads(line)["work"]))
    leave()


def main(arguments: list[str]) -> None:
    faulthandler.enable()  # the parent sends SIGABRT to one that hangs: all stacks on stderr
    role, job_text, *address = arguments
    job = Job.from_json(job_text)
    peer = PEERS[job.peer]
    if not isinstance(peer, PythonPeer):
        raise SystemExit(f"{peer.name} is not run by this module")
    try:
        if role == "server":
            run_server(peer, job)
        else:
            run_client(peer, job, (address[0], int(address[1])))
    except BaseException:
        fail()


if __name__ == "__main__":
    main(sys.argv[1:])
