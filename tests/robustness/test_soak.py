"""A short soak, and that the soak test notices what is wrong."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHORT = ["--rounds", "2", "--sessions", "4", "--operations", "12", "--seed", "5"]


def soak(fault: str = "") -> subprocess.CompletedProcess[str]:
    """Run a short soak in a process of its own, after the statements ``fault``."""
    code = f"""
import os, sys, muxado
from tests.robustness import soak
{textwrap.dedent(fault)}
sys.exit(soak.main({SHORT!r}))
"""
    return subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )


def test_nothing_is_wrong() -> None:
    done = soak()
    assert (done.returncode, done.stderr) == (0, "")
    assert "WRONG" not in done.stdout
    assert "at rest" in done.stdout


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        (
            """
            take = muxado.Stream.recv
            def recv(stream, size, flags=0):
                data = take(stream, size, flags)
                return data[:-1] + b"?" if len(data) > 5000 else data
            muxado.Stream.recv = recv
            """,
            "that differ from",
        ),
        (
            """
            close = muxado.Session.close
            def leak(session):
                os.dup(0)
                close(session)
            muxado.Session.close = leak
            """,
            "descriptors, before",
        ),
        (
            """
            kept, make = [], soak.request
            soak.request = lambda stream, *rest: (kept.append(stream), make(stream, *rest))[1]
            """,
            "objects, before",
        ),
    ],
    ids=["a wrong byte", "a descriptor", "a stream"],
)
def test_what_is_wrong_is_noticed(fault: str, complaint: str) -> None:
    done = soak(fault)
    assert done.returncode == 1, done.stderr
    assert any(complaint in line for line in done.stdout.splitlines() if line.startswith("WRONG:"))
