"""The shape of the engine's critical sections, and the size of the package's parts."""

from __future__ import annotations

import ast
import pathlib
from collections.abc import Iterator

import pytest

import muxado

PACKAGE = pathlib.Path(muxado.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

#: Functions whose sections have another shape, and why.
OTHER_SHAPES = {
    "wait_until": "has a lock of its caller's choice, which need not be a session's",
    "Engine._write": "says that the thread has ended, whatever it has come to",
    "Engine._read": "says that the thread has ended, whatever it has come to",
    "Engine._run": "ends the session because a section has failed",
}

#: How a section begins.
ENTRY = """\
if core.dirty or core.struck:
    core.recover_locked()
core.dirty = True
"""

#: What must not be called while the lock is held: it may wait, or runs the application's code.
FORBIDDEN = {
    *("recv", "recv_into", "send", "sendall", "sendmsg", "wait_readable", "wait_writable"),
    *("poll", "select", "spin", "sleep", "join", "start", "close_quietly", "settle", "sync"),
    *("debug", "info", "warning", "error", "exception", "warn", "print"),
}
LEAVES = ast.Return | ast.Raise | ast.Yield | ast.YieldFrom | ast.Await
LOOPS = ast.For | ast.While
NESTED = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda


def functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every function in ``node`` with its name, the class's before it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            yield prefix + child.name, child
        if isinstance(child, ast.ClassDef | ast.FunctionDef):
            yield from functions(child, f"{prefix}{child.name}.")
        else:
            yield from functions(child, prefix)


def own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """What is executed as part of ``node``: not the bodies of functions that it defines."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, NESTED):
            yield child
            yield from own_nodes(child)


def sections(function: ast.FunctionDef) -> Iterator[ast.With]:
    for node in own_nodes(function):
        if isinstance(node, ast.With) and any(
            ast.unparse(item.context_expr).split(".")[-1] in ("lock", "_lock")
            for item in node.items
        ):
            yield node


def leaves_early(node: ast.AST, *, in_loop: bool = False) -> bool:
    """Whether ``node`` may leave the section that it is in."""
    if isinstance(node, LEAVES) or (isinstance(node, ast.Break | ast.Continue) and not in_loop):
        return True
    if isinstance(node, NESTED):
        return False
    if isinstance(node, ast.Try) and node.handlers:  # what it raises, it catches
        return any(leaves_early(each, in_loop=in_loop) for each in [*node.handlers, *node.orelse])
    in_loop = in_loop or isinstance(node, LOOPS)
    return any(leaves_early(child, in_loop=in_loop) for child in ast.iter_child_nodes(node))


def complaints(section: ast.With) -> Iterator[str]:
    """What is wrong with a section."""
    lock = ast.unparse(section.items[0].context_expr)
    owner = lock.rpartition(".")[0]
    body = section.body
    only_looks = not any(
        isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Delete)
        and any(isinstance(part, ast.Attribute | ast.Subscript) for part in targets(node))
        for statement in body
        for node in [statement, *own_nodes(statement)]
    )
    if only_looks and isinstance(body[-1], ast.Return):
        return
    entry = ast.parse(ENTRY.replace("core", owner)).body
    if [ast.unparse(each) for each in body[:2]] != [ast.unparse(each) for each in entry]:
        yield f"begins with {ast.unparse(body[0])}"
    if ast.unparse(body[-1]) != f"{owner}.dirty = False":
        yield f"ends with {ast.unparse(body[-1])}"
    if any(leaves_early(statement) for statement in body):
        yield "is left before its end"
    for node in own_nodes(section):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in FORBIDDEN:
            yield f"calls {ast.unparse(node.func)}()"


def targets(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.Assign | ast.Delete):
        return node.targets
    assert isinstance(node, ast.AugAssign | ast.AnnAssign)
    return [node.target]


def test_every_section_has_the_one_shape() -> None:
    wrong, count = [], 0
    for path in sorted((PACKAGE / "engine").glob("*.py")):
        for name, function in functions(ast.parse(path.read_text())):
            for section in sections(function):
                count += 1
                if name not in OTHER_SHAPES:
                    where = f"{path.name}:{section.lineno} {name}"
                    wrong += [f"{where} {what}" for what in complaints(section)]
    assert not wrong, "\n".join(wrong)
    assert count > 15, "they are not found"


def section_of(body: str) -> ast.With:
    """A section with this body, in which ``enter`` stands for what each begins with."""
    body = body.replace("enter\n", ENTRY.replace("\n", "\n  ").rstrip() + "\n")
    ((_, function),) = functions(ast.parse(f"def f():\n with core.lock:\n  {body}\n"))
    (section,) = sections(function)
    return section


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("x = 1\n  core.dirty = False", "begins with"),
        ("enter\n  core.x = 1", "ends with"),
        ("enter\n  if core.x: return\n  core.dirty = False", "left before"),
        ("enter\n  for x in y:\n   if x: raise x\n  core.dirty = False", "left before"),
        ("enter\n  sock.send(b'')\n  core.dirty = False", "calls sock.send"),
        ("enter\n  log.debug('')\n  core.dirty = False", "calls log.debug"),
        ("core.x = 1\n  return core.x", "begins with"),
    ],
)
def test_another_shape_is_found(body: str, what: str) -> None:
    assert any(what in each for each in complaints(section_of(body)))


@pytest.mark.parametrize(
    "body",
    [
        "enter\n  x = core.y\n  core.dirty = False",
        "enter\n  for x in y:\n   if x: break\n  core.dirty = False",
        "enter\n  try:\n   raise core.x\n  except E as e:\n   y = e\n  core.dirty = False",
        "return core.x",
        "if core.x:\n   return 1\n  return core.y",
    ],
)
def test_the_one_shape_is_let_pass(body: str) -> None:
    assert not list(complaints(section_of(body)))


def test_the_parts_are_of_a_size_to_be_read() -> None:
    """No file is longer than 400 lines, and no function than 60."""
    long = []
    for path in FILES:
        text = path.read_text()
        if (lines := len(text.splitlines())) > 400:
            long.append(f"{path.relative_to(PACKAGE)} has {lines} lines")
        for name, function in functions(ast.parse(text)):
            assert function.end_lineno is not None
            if (lines := function.end_lineno - function.lineno + 1) > 60:
                long.append(f"{path.relative_to(PACKAGE)} {name} has {lines} lines")
    assert not long, "\n".join(long)


def test_no_class_has_more_than_30_attributes() -> None:
    many = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                names = {
                    target.attr
                    for each in ast.walk(node)
                    if isinstance(each, ast.Assign | ast.AnnAssign | ast.AugAssign)
                    for outer in targets(each)
                    for target in ast.walk(outer)
                    if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self"
                }
                if len(names) > 30:
                    many.append(f"{node.name} has {len(names)}: {sorted(names)}")
    assert not many, "\n".join(many)
