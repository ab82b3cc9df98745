"""Exceptions of signal handlers, from real signals at random moments; see ``strikes.py``."""

from __future__ import annotations

import subprocess
import sys


def test_a_strike_hangs_nobody_and_leaves_nothing() -> None:
    command = [sys.executable, "-m", "tests.engine.strikes", "--trials", "75", "--live-on", "0.6"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=55, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
