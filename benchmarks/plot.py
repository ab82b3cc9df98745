"""Draws the ratios of a run, through matplotlib."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from benchmarks.peers import PLAIN
from benchmarks.report import Report, Row, number, rows

#: A colour for each rival, told apart by readers of every kind of sight too (Okabe and Ito).
_COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"]


class PlotError(Exception):
    """There can be no plot; the text is for the user."""


def _matplotlib() -> Any:
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ImportError as error:
        raise PlotError(f"{error} (the extra `bench` installs it)") from error
    matplotlib.use("svg")
    return matplotlib


def plot(report: Report, path: Path) -> None:
    """Write the ratios as SVG: beside plain sockets on the left, the rest on the right.

    The same figures give the same file. Raises ``PlotError`` without matplotlib, or without
    figures.
    """
    matplotlib = _matplotlib()
    pyplot = importlib.import_module("matplotlib.pyplot")
    everything = [row for result in report.results for row in rows(result)]
    if not everything:
        raise PlotError("there is nothing to plot")
    places = list(dict.fromkeys(row.about for row in everything))
    others = list(dict.fromkeys(row.rival for row in everything if row.rival != PLAIN.name))
    groups = [group for group in ([PLAIN.name], others) if group]
    settings = {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "muxado",
        "font.size": 9,
        "font.family": "sans-serif",
        "axes.axisbelow": True,
    }
    with matplotlib.rc_context(settings):
        size = (5.5 + 3.2 * len(groups), 1.2 + 0.24 * len(places))
        figure, panels = pyplot.subplots(1, len(groups), sharey=True, squeeze=False, figsize=size)
        colours = dict(zip([PLAIN.name, *others], _COLOURS, strict=False))
        for panel, group in zip(panels[0], groups, strict=True):
            for index, rival in enumerate(group):
                found = [row for row in everything if row.rival == rival]
                offset = 0.22 * (index - (len(group) - 1) / 2)
                _draw(panel, found, places, offset, colours[rival], label=rival)
            _dress(panel, matplotlib)
            if group == [PLAIN.name]:
                panel.set_title("muxado / plain sockets", fontsize=10)
                for row in everything:
                    if row.rival == PLAIN.name:
                        _note(panel, row, places)
            else:
                panel.set_title("muxado / others", fontsize=10)
                panel.legend(fontsize=8, loc="lower left", framealpha=0.9)
        panels[0][0].set_yticks(range(len(places)), labels=places)
        panels[0][0].set_ylim(len(places) - 0.4, -0.6)
        figure.suptitle(
            "Ratio of time, or of memory, round by round: median and range. "
            "Left of 1, muxado is the better.",
            fontsize=10,
        )
        figure.tight_layout()
        figure.savefig(path, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    # matplotlib leaves blanks at the ends of lines.
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("".join(f"{line.rstrip()}\n" for line in lines), encoding="utf-8")


def _draw(
    panel: Any, found: list[Row], places: list[str], offset: float, colour: str, *, label: str
) -> None:
    middles = [row.median for row in found]
    panel.errorbar(
        middles,
        [places.index(row.about) + offset for row in found],
        xerr=[
            [row.median - min(row.ratios) for row in found],
            [max(row.ratios) - row.median for row in found],
        ],
        fmt="o",
        markersize=4,
        linewidth=1.2,
        color=colour,
        label=label,
    )


def _note(panel: Any, row: Row, places: list[str]) -> None:
    panel.annotate(
        number(row.median),
        (max(row.ratios), places.index(row.about)),
        xytext=(4, 0),
        textcoords="offset points",
        verticalalignment="center",
        fontsize=7,
    )


def _dress(panel: Any, matplotlib: Any) -> None:
    panel.set_xscale("log")
    low, high = panel.get_xlim()
    panel.set_xlim(min(low, 0.4), max(high, 2.5) * 1.6)
    panel.axvline(1, color="black", linewidth=0.8)
    panel.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    panel.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    panel.grid(axis="x", which="major", color="#dddddd", linewidth=0.5)
    panel.grid(axis="y", color="#eeeeee", linewidth=0.5)
    panel.tick_params(axis="y", length=0)
