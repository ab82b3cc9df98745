"""``python -m benchmarks``: run the scenarios and print how muxado compares."""

from __future__ import annotations

import argparse
import fnmatch
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.certificate import NoCertificateError, make_certificate
from benchmarks.others import OTHERS, BuildError
from benchmarks.peers import MUXADO, PLAIN, OtherCheckout, Peer
from benchmarks.plot import PlotError, plot
from benchmarks.report import Report, about_this_run, load, rst, table
from benchmarks.runner import LONGEST, BenchmarkError, Place, Result, measure
from benchmarks.scenarios import SCENARIOS, Scenario

NONE = "none"  # instead of a peer's name, with --against
QUICK_LONGEST = 0.6  # seconds of a round with --quick

HEAD = """\
muxado's time (or memory) divided by its rival's, round by round, and the median of that: below 1
muxado is the better. Then the figures of each, median and range.
"""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Do the same work over muxado streams and over plain connections, in turns, "
        "and print the figures side by side.",
        epilog="scenarios, each over TLS and over a Unix socket too (NAME-tls, NAME-unix):\n"
        + "\n".join(
            f"  {scenario.name:14} {scenario.about}"
            for scenario in SCENARIOS.values()
            if scenario.over == "tcp"
        )
        + "\nWithout --only, a choice of them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every figure there too")
    parser.add_argument(
        "--load",
        metavar="FILE",
        type=Path,
        action="append",
        help="run nothing, show what --json wrote before; several files are put together",
    )
    parser.add_argument(
        "--plot", metavar="FILE", type=Path, help="draw the ratios there as SVG; needs matplotlib"
    )
    parser.add_argument(
        "--rst", metavar="FILE", type=Path, help="write the table there as reStructuredText"
    )
    parser.add_argument(
        "--only",
        metavar="NAME",
        action="append",
        help="run this scenario, or those that match, such as 'open-*'; may be repeated",
    )
    parser.add_argument(
        "--peer",
        metavar="NAME",
        action="append",
        choices=[*(peer.name for peer in (PLAIN, *OTHERS)), NONE],
        help="compare with this peer only, everywhere; may be repeated. One of %(choices)s",
    )
    parser.add_argument(
        "--against",
        metavar="PATH",
        type=Path,
        help="compare with the muxado in this other checkout too, in the same rounds; with "
        f"--peer {NONE}, with nothing else",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="less work in a round, fewer rounds, peers and scenarios: in all, under a minute",
    )
    parser.add_argument(
        "--rounds", metavar="N", type=int, help="so many rounds, instead of each scenario's own"
    )
    options = parser.parse_args(arguments)
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be 1 or more")
    if options.against is not None and not (options.against / "muxado/__init__.py").is_file():
        parser.error(f"no muxado in {options.against}")
    if NONE in (options.peer or ()) and (options.peer != [NONE] or options.against is None):
        parser.error(f"--peer {NONE} is for --against, and excludes other peers")
    for pattern in options.only or ():
        if not fnmatch.filter(SCENARIOS, pattern):
            parser.error(f"no such scenario: {pattern!r}")
    return options


def rounds_of(scenario: Scenario, options: argparse.Namespace) -> int:
    if options.rounds is not None:
        return int(options.rounds)
    return (scenario.rounds + 1) // 2 if options.quick else scenario.rounds


def chosen(options: argparse.Namespace) -> list[Scenario]:
    if not options.only:
        return [
            scenario
            for scenario in SCENARIOS.values()
            if scenario.usual and (scenario.quick or not options.quick)
        ]
    return [
        scenario
        for scenario in SCENARIOS.values()
        if any(fnmatch.fnmatchcase(scenario.name, pattern) for pattern in options.only)
    ]


def wanted(peer: Peer, scenario: Scenario, options: argparse.Namespace) -> bool:
    if isinstance(peer, OtherCheckout):
        return True
    if options.peer:
        return peer.name in options.peer
    if peer is PLAIN:
        return True
    return scenario.everybody_quick if options.quick else scenario.everybody


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


class Run:
    """All scenarios that are wanted, one after another; what is done stays when one fails."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self.results: list[Result] = []
        self.skipped: dict[str, str] = {}

    def __call__(self, directory: Path) -> None:
        options = self._options
        scenarios = chosen(options)
        place = Place(directory)
        if any(scenario.over == "tls" for scenario in scenarios):
            try:
                place = place._replace(certificate=make_certificate(directory))
            except NoCertificateError as error:
                if options.only:
                    raise BenchmarkError(str(error)) from error
                self.skipped["all over TLS"] = str(error)
                scenarios = [scenario for scenario in scenarios if scenario.over != "tls"]
        candidates = [PLAIN, *OTHERS]
        if options.against is not None:
            candidates.insert(0, OtherCheckout(options.against))
        rivals = []
        for peer in candidates:
            if any(wanted(peer, scenario, options) for scenario in scenarios):
                progress(f"{peer.name}: looking for it")
                reason = peer.missing(directory)
                if reason is None:
                    rivals.append(peer)
                else:
                    self.skipped[peer.name] = reason
        for scenario in scenarios:
            peers = [peer for peer in rivals if wanted(peer, scenario, options)]
            self.results.append(
                measure(
                    scenario,
                    [MUXADO, *peers],
                    work=scenario.quick_work if options.quick else scenario.work,
                    rounds=rounds_of(scenario, options),
                    longest=QUICK_LONGEST if options.quick else LONGEST,
                    place=place,
                    progress=progress,
                )
            )


def loaded(options: argparse.Namespace) -> Report:
    """What the files hold, or of that what is named."""
    report = load(options.load)
    names = [scenario.name for scenario in chosen(options)] if options.only else list(SCENARIOS)
    results = [result for result in report.results if result.scenario.name in names]
    return report._replace(results=results)


def run(options: argparse.Namespace) -> tuple[Report, int]:
    work = Run(options)
    status = 0
    # Of a short name: the path of a Unix socket has to fit in 108 bytes.
    with tempfile.TemporaryDirectory(prefix="muxado-") as directory:
        try:
            work(Path(directory))
        except (BenchmarkError, BuildError) as error:
            progress("")
            print(f"error: {error}", file=sys.stderr)
            status = 1
        except KeyboardInterrupt:
            progress("")
            print("interrupted", file=sys.stderr)
            status = 130
    progress("")
    return Report(about_this_run(), work.results, work.skipped), status


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.load:
        report, status = loaded(options), 0
    else:
        report, status = run(options)
    if report.results:
        print(HEAD)
        print(table(report.results))
    for name, reason in report.skipped.items():
        print(f"skipped {name}: {reason}")
    if not status:
        if options.json is not None:
            options.json.write_text(report.to_json(), encoding="utf-8")
        if options.rst is not None:
            options.rst.write_text(rst(report), encoding="utf-8")
        if options.plot is not None:
            try:
                plot(report, options.plot)
            except PlotError as error:
                print(f"error: no plot: {error}", file=sys.stderr)
                status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
