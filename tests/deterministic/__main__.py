"""``python -m tests.deterministic``: carry out plan after plan, and print those that fail."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Sequence

from .plans import random_plan
from .run import perform


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.deterministic", description=__doc__)
    parser.add_argument("--first", type=int, default=0, help="number of the first plan")
    parser.add_argument("--count", type=int, default=1000, help="how many")
    parser.add_argument("--lines", action="store_true", help="switch between any two lines, too")
    parser.add_argument("--go-on", action="store_true", help="do not stop at the first failure")
    options = parser.parse_args(arguments)
    failed, points, start = 0, 0, time.perf_counter()
    for seed in range(options.first, options.first + options.count):
        try:
            points += perform(random_plan(seed, lines=options.lines)).steps
        except Exception:
            failed += 1
            print(f"=== plan {seed}")
            traceback.print_exc(file=sys.stdout)
            if not options.go_on:
                break
    seconds = time.perf_counter() - start
    print(f"{options.count} plans, {points} points, {seconds:.1f} s, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
