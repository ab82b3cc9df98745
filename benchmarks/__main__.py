"""``python -m benchmarks``: run the scenarios and print how muxado compares."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import muxado
from benchmarks.peers import MUXADO, RIVALS, Certificate
from benchmarks.runner import BenchmarkError, Figures, Result, measure
from benchmarks.scenarios import SCENARIOS, Scenario, Unit
from muxado.demo import OpenSSLMissing, make_certificate


def duration(seconds: float) -> str:
    """``seconds`` to three figures in a unit that suits."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds * 1e6:.3g} us"


def speed(unit: Unit, work: int, seconds: float) -> str:
    return f"{work / seconds * unit.scale:,.0f}{unit.rate}"


def spread(values: Sequence[float]) -> str:
    return f"{min(values):.2f}-{max(values):.2f}"


def times(unit: Unit, work: int, figures: Figures) -> list[str]:
    """The cells about one peer: median time, its range, rate at the median."""
    each = work / unit.per if unit.per else 1
    low, middle, high = (
        value / each for value in (min(figures.seconds), figures.median, max(figures.seconds))
    )
    return [
        duration(middle),
        f"{duration(low)} - {duration(high)}",
        speed(unit, work, figures.median),
    ]


def table(results: Sequence[Result]) -> str:
    """Ratios first: how long muxado took, divided by how long the rival took, round by round."""
    heads = [
        *("scenario", "ratio", "min-max", "peers"),
        *("muxado", "min - max", "rate"),
        *("rival", "min - max", "rate"),
    ]
    rows = []
    for result in results:
        unit, work = result.scenario.unit, result.work
        rows += [
            [
                result.scenario.name,
                f"{comparison.median:.2f}",
                spread(comparison.ratios),
                f"muxado/{comparison.rival}",
                *times(unit, work, result.figures[MUXADO.name]),
                *times(unit, work, result.figures[comparison.rival]),
            ]
            for comparison in result.comparisons
        ]
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    left = {0, 3}

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    return "\n".join([line(heads), line(["-" * width for width in widths]), *map(line, rows)])


def as_json(results: Sequence[Result], skipped: dict[str, str]) -> dict[str, Any]:
    return {
        "muxado": muxado.__version__,
        "python": sys.version,
        "machine": platform.platform(),
        "processors": os.cpu_count(),
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "skipped": skipped,
        "scenarios": [
            {
                "name": result.scenario.name,
                "about": result.scenario.about,
                "unit": result.scenario.unit.thing,
                "work": result.work,
                "ratios": {
                    comparison.rival: {"median": comparison.median, "rounds": comparison.ratios}
                    for comparison in result.comparisons
                },
                "seconds": {
                    name: {"median": figures.median, "rounds": figures.seconds}
                    for name, figures in result.figures.items()
                },
            }
            for result in results
        ],
    }


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Do the same work over muxado streams and over plain connections, in turns, "
        "and print the times side by side.",
        epilog="Scenarios: "
        + "; ".join(f"{scenario.name} ({scenario.about})" for scenario in SCENARIOS.values()),
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every figure there too")
    parser.add_argument(
        "--only",
        metavar="NAME",
        action="append",
        choices=list(SCENARIOS),
        help="run this scenario; may be given more than once",
    )
    parser.add_argument("--quick", action="store_true", help="less work in a round, fewer rounds")
    parser.add_argument(
        "--rounds", metavar="N", type=int, help="so many rounds, instead of each scenario's own"
    )
    options = parser.parse_args(arguments)
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be 1 or more")
    return options


def rounds_of(scenario: Scenario, options: argparse.Namespace) -> int:
    if options.rounds is not None:
        return int(options.rounds)
    return (scenario.rounds + 1) // 2 if options.quick else scenario.rounds


def chosen(options: argparse.Namespace) -> list[Scenario]:
    return [SCENARIOS[name] for name in options.only or SCENARIOS]


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    scenarios = chosen(options)
    results: list[Result] = []
    skipped: dict[str, str] = {}
    status = 0
    with tempfile.TemporaryDirectory(prefix="muxado-benchmarks-") as directory:
        certificate: Certificate | None = None
        if any(scenario.tls for scenario in scenarios):
            try:
                certificate = Certificate(*map(str, make_certificate(Path(directory))))
            except OpenSSLMissing as error:
                if options.only:
                    print(f"error: {error}", file=sys.stderr)
                    return 1
                skipped = {scenario.name: str(error) for scenario in scenarios if scenario.tls}
        try:
            for scenario in scenarios:
                if scenario.name in skipped:
                    continue
                rivals = []
                for rival in RIVALS:
                    reason = rival.missing(tls=scenario.tls)
                    if reason is None:
                        rivals.append(rival)
                    else:
                        skipped[f"{scenario.name}: {rival.name}"] = reason
                results.append(
                    measure(
                        scenario,
                        MUXADO,
                        rivals,
                        work=scenario.quick_work if options.quick else scenario.work,
                        rounds=rounds_of(scenario, options),
                        certificate=certificate,
                        progress=progress,
                    )
                )
        except BenchmarkError as error:
            progress("")
            print(f"error: {error}", file=sys.stderr)
            status = 1
        except KeyboardInterrupt:
            progress("")
            print("interrupted", file=sys.stderr)
            status = 130
    progress("")
    if results:
        print(
            "Time of muxado divided by time of its rival, round by round, and the median of that:"
        )
        print("below 1 muxado is the faster. Then the times of each, median and range.\n")
        print(table(results))
    for name, reason in skipped.items():
        print(f"skipped {name}: {reason}")
    if options.json is not None and not status:
        options.json.write_text(
            json.dumps(as_json(results, skipped), indent=2) + "\n",
            encoding="utf-8",
        )
    return status


if __name__ == "__main__":
    sys.exit(main())
