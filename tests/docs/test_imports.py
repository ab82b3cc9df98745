"""The import graph is part of the design: a file may import only what stands below it.

``LEVELS`` lists the modules from the bottom to the top, those that may not see each other on one
line. A module that is not in the table fails the test: whoever adds one says where it stands.
Imports for annotations alone (under ``if TYPE_CHECKING:``) are no part of the graph.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "muxado"

LEVELS: list[set[str]] = [
    {"errors"},
    {"config"},
    {"wire"},
    {"transport", "protocol", "readiness", "files", "debug"},
    {"engine"},
    {"arguments"},
    {"stream"},
    {"session", "addresses"},
    {"accepting", "dialing"},
    {"listener"},
    {""},  # muxado/__init__.py: hands the public names on
    {"demo", "tunnel"},
    {"__main__"},
]
LEVEL = {name: number for number, names in enumerate(LEVELS) for name in names}

PURE = {"errors", "config", "wire", "protocol"}
IMPURE_LIBRARIES = {"socket", "ssl", "threading", "_thread", "time", "select", "selectors"}


class Import(NamedTuple):
    target: str  # absolute and dotted
    line: int


class Module(NamedTuple):
    name: str  # dotted, relative to the package; "" is the package itself
    is_package: bool
    source: str

    @property
    def part(self) -> str:
        """The entry of the table that the module belongs to."""
        return self.name.partition(".")[0]


def modules() -> list[Module]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
        is_package = parts[-1] == "__init__"
        if is_package:
            del parts[-1]
        found.append(Module(".".join(parts), is_package, path.read_text(encoding="utf-8")))
    return found


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _nodes(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import that may run, wherever it stands."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and _is_type_checking(child.test):
            for other in child.orelse:
                yield from _nodes(ast.Module(body=[other], type_ignores=[]))
        else:
            yield from _nodes(child)


def imports_of(module: Module, known: set[str]) -> Iterator[Import]:
    """What ``module`` imports; ``known`` are the package's modules, dotted, without ``muxado``."""
    for node in _nodes(ast.parse(module.source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno)
            continue
        base = node.module or ""
        if node.level:
            parts = ["muxado", *module.name.split(".")] if module.name else ["muxado"]
            up = node.level - module.is_package
            parts = parts[: len(parts) - up]
            base = ".".join([*parts, base] if base else parts)
        for alias in node.names:
            # `from package import name` imports the module of that name where there is one.
            dotted = f"{base}.{alias.name}"
            is_module = dotted.partition(".")[2] in known and dotted.startswith("muxado.")
            yield Import(dotted if is_module else base, node.lineno)


def violations(module: Module, known: set[str]) -> list[str]:
    """What is wrong with a module's imports, in words."""
    if module.part not in LEVEL:
        return [f"muxado.{module.name} has no place in the table of tests/docs/test_imports.py"]
    wrong = []

    def say(line: int, text: str) -> None:
        wrong.append(f"muxado.{module.name or '__init__'}, line {line}: {text}")

    for target, line in imports_of(module, known):
        root, _, rest = target.partition(".")
        if root != "muxado":
            if root not in sys.stdlib_module_names:
                say(line, f"imports {target}, which is not of the standard library")
            elif module.part in PURE and root in IMPURE_LIBRARIES:
                say(line, f"imports {target}, but is pure")
            continue
        part = rest.partition(".")[0]
        if part not in LEVEL:
            say(line, f"imports {target}, which has no place in the table")
        elif part != module.part and LEVEL[part] >= LEVEL[module.part]:
            say(line, f"imports {target}, which does not stand below it")
        elif module.part in PURE and part not in PURE:
            say(line, f"imports {target}, which is not pure")
    return wrong


ALL = modules()
KNOWN = {module.name for module in ALL}


@pytest.mark.parametrize("module", ALL, ids=lambda module: module.name or "__init__")
def test_imports_run_downwards(module: Module) -> None:
    assert violations(module, KNOWN) == []


def check(name: str, source: str, *, package: bool = False) -> list[str]:
    known = {name for name in LEVEL if name} | {"wire.v1", "wire.v2", "unheard_of", name}
    return violations(Module(name, package, source), known)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("engine", "from .session import Session"),
        ("engine", "from . import session"),
        ("engine", "import muxado.session"),
        ("engine", "import muxado"),
        ("engine", "from muxado import Session"),
        ("engine", "def f():\n    from muxado.session import Session"),
        ("engine", "try:\n    import numpy\nexcept ImportError:\n    pass"),
        ("engine", "from typing import TYPE_CHECKING\nif not TYPE_CHECKING:\n    import requests"),
        ("engine", "if TYPE_CHECKING:\n    pass\nelse:\n    from .stream import Stream"),
        ("transport", "from .protocol import Protocol"),
        ("protocol", "import threading"),
        ("protocol", "from time import monotonic"),
        ("protocol", "import select as s"),
        ("schedule", "from .transport import Transport"),
        ("wire.v2", "import socket"),
        ("wire.v2", "from ..protocol import Protocol"),
        ("session", "from .unheard_of import x"),
        ("unheard_of", ""),
        ("config", "from .wire import v2"),
        ("errors", "from .config import Config"),
        ("stream", "from .demo import main"),
    ],
)
def test_a_wrong_import_is_found(name: str, source: str) -> None:
    assert len(check(name, source)) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("session", "from . import engine, stream\nfrom .errors import Error\nimport threading"),
        (
            "stream",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .session import S",
        ),
        ("wire.v2", "from . import v1\nfrom ..errors import Error\nimport struct"),
        (
            "protocol",
            "from .wire import v2\nfrom .errors import Error\nfrom .config import Config",
        ),
        ("demo", "import muxado\nfrom muxado import Session\nimport http.client"),
        ("__main__", "from . import demo"),
    ],
)
def test_a_right_import_passes(name: str, source: str) -> None:
    assert check(name, source) == []


def test_the_package_may_import_its_parts() -> None:
    assert check("", "from .session import Session\nfrom . import wire", package=True) == []
    assert check("wire", "from . import v1\nfrom .v2 import Codec", package=True) == []
