"""Shows the figures of a run: as a table, as JSON that can be read back, as reStructuredText."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import muxado
from benchmarks.peers import MUXADO, PLAIN
from benchmarks.runner import Result
from benchmarks.scenarios import SCENARIOS, Metric

SUBJECT = MUXADO.name


class Report(NamedTuple):
    """One run, or several put together."""

    about: dict[str, Any]  # versions, machine, time
    results: list[Result]
    skipped: dict[str, str]  # what was left out, and why

    def to_json(self) -> str:
        scenarios = [
            {
                "name": result.scenario.name,
                "about": result.scenario.about,
                "work": result.amounts,
                "ratios": {
                    metric.name: {
                        row.rival: {"median": row.median, "rounds": row.ratios}
                        for row in rows(result)
                        if row.metric is metric
                    }
                    for metric in result.metrics()
                },
                "figures": result.rounds,
            }
            for result in self.results
        ]
        fields = {**self.about, "skipped": self.skipped, "scenarios": scenarios}
        return json.dumps(fields, indent=2) + "\n"


def about_this_run() -> dict[str, Any]:
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "muxado": muxado.__version__,
        "python": platform.python_version(),
        "machine": platform.platform(),
        "processor": _processor(),
        "processors": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "time": now.isoformat(timespec="seconds"),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def load(paths: Iterable[Path]) -> Report:
    """Put together what :meth:`Report.to_json` wrote; of a scenario, the last file's figures.

    What is not such a file raises ``ValueError`` or ``KeyError``.
    """
    about: dict[str, Any] = {}
    results: dict[str, Result] = {}
    skipped: dict[str, str] = {}
    for path in paths:
        fields = json.loads(path.read_text(encoding="utf-8"))
        for each in fields.pop("scenarios"):
            name = each["name"]
            results[name] = Result(SCENARIOS[name], each["work"], each["figures"])
        skipped.update(fields.pop("skipped"))
        about = fields
    order = list(SCENARIOS)
    return Report(
        about, sorted(results.values(), key=lambda r: order.index(r.scenario.name)), skipped
    )


# Numbers as text --------------------------------------------------------------------------------


def quantity(value: float, unit: str) -> str:
    """``value`` to three figures in a unit that suits."""
    if unit == "B":
        steps = [(2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")]
    else:
        steps = [(1.0, "s"), (1e-3, "ms"), (1e-6, "us")]
    size, name = next((step for step in steps if abs(value) >= step[0]), steps[-1])
    scaled = value / size
    digits = max(0, 2 - len(str(int(abs(scaled)))) + 1)
    return f"{scaled:.{digits}f} {name}"


def number(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


class Row(NamedTuple):
    """One metric of a scenario, beside one rival."""

    result: Result
    metric: Metric
    rival: str
    ratios: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)

    @property
    def spread(self) -> str:
        return f"{number(min(self.ratios))}-{number(max(self.ratios))}"

    @property
    def name(self) -> str:
        label = self.metric.name if self.metric.about else ""
        return f"{self.result.scenario.name} {label}".strip()

    @property
    def about(self) -> str:
        label = f": {self.metric.about}" if self.metric.about else ""
        return f"{self.result.scenario.about}{label}"

    def _shown(self, value: float) -> float:
        return value * (self.metric.per or self.result.amounts[SUBJECT])

    def middle(self, peer: str) -> str:
        """The median as text."""
        value = self.result.median(self.metric, peer)
        return quantity(self._shown(value), self.metric.unit)

    def rate(self, peer: str) -> str:
        value = self.result.median(self.metric, peer)
        if not self.metric.rate or value <= 0:
            return ""
        return f"{self.metric.scale / value:,.0f}{self.metric.rate}"

    def cells(self, peer: str) -> list[str]:
        values = self.result.rounds[self.metric.name][peer]
        low, high = (
            quantity(self._shown(value), self.metric.unit) for value in (min(values), max(values))
        )
        return [self.middle(peer), f"{low} - {high}", self.rate(peer)]


def rows(result: Result) -> list[Row]:
    found = []
    for metric in result.metrics():
        for rival in result.rounds[metric.name]:
            ratios = result.ratios(metric, SUBJECT, rival)
            if rival != SUBJECT and ratios:
                found.append(Row(result, metric, rival, ratios))
    return found


def table(results: Sequence[Result]) -> str:
    """Ratios first: muxado's figure divided by the rival's, round by round."""
    heads = [
        *("scenario", "ratio", "min-max", "peers"),
        *("muxado", "min - max", "rate"),
        *("rival", "min - max", "rate"),
    ]
    lines = [
        [
            *(row.name, number(row.median), row.spread, f"muxado/{row.rival}"),
            *row.cells(SUBJECT),
            *row.cells(row.rival),
        ]
        for result in results
        for row in rows(result)
    ]
    widths = [max(len(line[column]) for line in [heads, *lines]) for column in range(len(heads))]
    left = {0, 3}

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    return "\n".join([line(heads), line(["-" * width for width in widths]), *map(line, lines)])


# reStructuredText -------------------------------------------------------------------------------


def _simple_table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in [heads, *lines]) for i in range(len(heads))]
    rule = "  ".join("=" * width for width in widths)

    def line(cells: Sequence[str]) -> str:
        return "  ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)).rstrip()

    return "\n".join([rule, line(heads), rule, *map(line, lines), rule])


def _figure(row: Row, peer: str) -> str:
    """The rate of bulk data, else the median."""
    return row.rate(peer) if not row.metric.per or row.metric.name == "bulk" else row.middle(peer)


def rst(report: Report) -> str:
    """Two tables: beside plain sockets, and the ratios beside the rest."""
    everything = [row for result in report.results for row in rows(result)]
    parts = [
        "{processor}, {processors} processors, {machine}, Python {python}, {time:.10}.".format(
            **report.about
        ),
        _simple_table(
            ["Work", "Ratio", "Min-max", "muxado", "Plain sockets"],
            [
                [
                    *(row.about, number(row.median), row.spread),
                    *(_figure(row, SUBJECT), _figure(row, PLAIN.name)),
                ]
                for row in everything
                if row.rival == PLAIN.name
            ],
        ),
    ]
    others = list(dict.fromkeys(row.rival for row in everything if row.rival != PLAIN.name))
    if others:
        ratios: dict[str, dict[str, str]] = {}
        for row in everything:
            ratios.setdefault(row.about, {})[row.rival] = number(row.median)
        lines = [
            [about_row, *(of.get(other, "\\-") for other in others)]
            for about_row, of in ratios.items()
            if any(other in of for other in others)
        ]
        parts.append(_simple_table(["Work", *others], lines))
    return "\n\n".join(parts) + "\n"
