"""docs/guarantees.rst: every promise names tests, and every test it names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from muxado import Config

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "guarantees.rst").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"``(tests/[\w/]+\.py(?:::\w+)?)``", TEXT)))


def names(path: Path) -> set[str]:
    """The tests, and classes of tests, of a file; assigned ones (a state machine's) too."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize("named", NAMED)
def test_it_is_there(named: str) -> None:
    file, _, name = named.partition("::")
    assert (ROOT / file).is_file()
    if name:
        assert name in names(ROOT / file)
        assert name.lower().startswith("test")


def test_every_promise_names_one() -> None:
    promised = TEXT[: TEXT.index("What is not promised")]
    promises = re.split(r"^\* ", promised, flags=re.MULTILINE)[1:]
    assert len(promises) > 20
    for promise in promises:
        assert "``tests/" in promise, promise
    assert len(NAMED) > 40
    # Nothing that looks like a name of a test escapes the check.
    assert len(re.findall(r"tests/[\w/]+\.py", TEXT)) == len(
        re.findall(r"``tests/[\w/]+\.py(?:::\w+)?``", TEXT)
    )


def test_the_defaults_are_those_of_config() -> None:
    config = Config()
    for name in ("max_streams", "accept_backlog", "flood_budget"):
        assert f"``{name}``, {getattr(config, name):,}" in TEXT
    for name in ("max_window", "max_buffered"):
        assert f"``{name}``, {getattr(config, name) // 2**20} MiB" in TEXT
