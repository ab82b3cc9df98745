"""The command line: ``python -m muxado``, or ``muxado`` once installed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from muxado import demo


def parser() -> argparse.ArgumentParser:
    """Every command, each with its options and the function that runs it."""
    top = argparse.ArgumentParser(
        prog="muxado", description="Many streams over one connection, each of them a socket."
    )
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    demo.add_arguments(
        commands.add_parser(
            "demo",
            help="two processes, one connection, requests both ways: see it work",
            description="Run a server and a client process on this machine. The client dials, "
            "asks the server which application it wants, and serves that to the server over the "
            "same connection while it sends a file of 64 MiB.",
        )
    )
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that ``arguments`` (or the process's own) name; return the exit status."""
    options = parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
