"""One end of a peer written in Python, as a process of its own.

How a worker and the process that measures talk, a line of JSON each, is what a peer in any other
language has to do as well. Both ends are told a job, JSON again: what kind of work, how many
streams at once, how many waiting workers (0: a new thread for each connection), over what, and
where files are.

* a server writes ``{"address": [host, port]}``, or the path of a Unix socket, once it listens,
  serves until its standard input ends, and then exits with status 0;
* a client writes ``{"ready": true}`` once it is connected; for every line ``{"work": amount}`` on
  its standard input it does so much and answers with its figures, ``{"seconds": time}`` as a rule;
  when its input ends it leaves in an orderly manner and exits with status 0;
* the client of a ``start`` job connects, has one byte echoed, writes a line with figures, if any,
  and leaves;
* each ends with another status, and the reason on standard error, when anything goes wrong.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import traceback
from typing import NoReturn

from benchmarks.others import PEERS
from benchmarks.parts import Connection, Handler
from benchmarks.peers import Accept, Address, Job, PythonPeer, allow_many_files
from benchmarks.work import KINDS


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
        except BaseException:
            fail()
        handle(handler, connection)


def run_server(peer: PythonPeer, job: Job) -> None:
    kind = KINDS[job.kind]
    address, accept = peer.listen(job)
    say(address=address)
    threading.Thread(target=exit_at_end_of_input).start()
    for _ in range(job.workers - 1):
        arguments = (accept, kind.handler)
        threading.Thread(target=accept_and_handle, args=arguments, daemon=True).start()
    if job.workers:
        accept_and_handle(accept, kind.handler)
    while True:
        connection = accept()
        if kind.inline:
            kind.handler(connection)
        else:
            arguments_of_one = (kind.handler, connection)
            threading.Thread(target=handle, args=arguments_of_one, daemon=True).start()


def run_client(peer: PythonPeer, job: Job, address: Address) -> None:
    client = KINDS[job.kind].client
    connect, leave = peer.dial(job, address)
    say(ready=True)
    for line in sys.stdin:
        say(**client(connect, json.loads(line)["work"], job.streams))
    leave()


def main(arguments: list[str]) -> None:
    faulthandler.enable()  # the parent sends SIGABRT to one that hangs: all stacks on stderr
    allow_many_files()
    role, job_text, *address_text = arguments
    job = Job.from_json(job_text)
    peer = PEERS[job.peer]
    if not isinstance(peer, PythonPeer):
        raise SystemExit(f"{peer.name} is not run by this module")
    try:
        if role == "server":
            run_server(peer, job)
        else:
            address = json.loads(address_text[0])
            run_client(peer, job, address if isinstance(address, str) else tuple(address))
    except BaseException:
        fail()


if __name__ == "__main__":
    main(sys.argv[1:])
