"""``python -m tests.fuzz --version 2 --seconds 60``: let atheris look for inputs that go wrong.

With ``--keep`` what reached something new goes into the corpus beside this file. An input that goes
wrong is left in the working directory; ``target.run(version, data)`` does the same again.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
from pathlib import Path

from .corpus import read, write

#: Inputs that are kept of those that reached something new: the shortest.
KEPT = 150


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--version", type=int, choices=[1, 2], required=True, help="of the wire")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--keep", action="store_true", help="put what is new into the corpus")
    parser.add_argument("--directory", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="*", help="for libFuzzer")
    options = parser.parse_args()
    if options.directory is not None:
        fuzz(options.version, options.arguments)  # does not return
    with tempfile.TemporaryDirectory(prefix="muxado-fuzz-") as directory:
        known, found = Path(directory, "known"), Path(directory, "found")
        for each in (known, found):
            each.mkdir()
        for number, data in enumerate(read(options.version)):
            (known / str(number)).write_bytes(data)
        command = [sys.executable, "-m", "tests.fuzz", f"--version={options.version}"]
        command += [f"--directory={directory}", "--"]
        limit = f"-max_total_time={options.seconds}"
        quiet = ["-verbosity=0", "-print_final_stats=1", "-artifact_prefix=./fuzz-"]
        status = subprocess.run(
            [*command, limit, "-max_len=4096", "-timeout=10", *quiet, str(found), str(known)],
            check=False,
        ).returncode
        if options.keep and not status:
            new = sorted((path.read_bytes() for path in found.iterdir()), key=len)
            write(options.version, [*read(options.version), *new[:KEPT]])
    return status


def fuzz(version: int, arguments: list[str]) -> None:
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        sys.exit('atheris is missing: pip install -e ".[fuzz]"')
    with atheris.instrument_imports(include=["muxado"]):
        target = importlib.import_module("tests.fuzz.target")
    atheris.Setup(["fuzz", *arguments], lambda data: target.run(version, data))
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
