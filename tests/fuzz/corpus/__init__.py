"""Inputs worth keeping, one a line in hexadecimal: ``v1.txt`` and ``v2.txt``.

They began as the conversations of ``tests/unit/wire/*.json``; the fuzzer has added to them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

__all__ = ["read", "recorded", "write"]

HERE = Path(__file__).parent
WIRE = HERE.parents[1] / "unit" / "wire"


def read(version: int) -> list[bytes]:
    """The inputs for a version of the wire."""
    return [bytes.fromhex(line) for line in _file(version).read_text().splitlines()]


def write(version: int, inputs: Iterable[bytes]) -> None:
    """Replace them, the short ones first."""
    ordered = sorted(set(inputs), key=lambda data: (len(data), data))
    _file(version).write_text("".join(f"{data.hex()}\n" for data in ordered))


def recorded(version: int) -> list[bytes]:
    """Inputs in which the peer says what it said in a recorded conversation."""
    found = []
    for entry in json.loads((WIRE / f"v{version}.json").read_text()):
        for key in ("client_to_server", "server_to_client"):
            said = bytes.fromhex("".join(entry[key]))[:4000]
            # See target.py: the options, three deeds, each of which lets much through.
            options = 4 | (key == "server_to_client") | 2 * ("typed" in entry["name"])
            found.append(bytes([options, 3, 0x07, 0x0F, 0x17]) + said)
    return found


def _file(version: int) -> Path:
    return HERE / f"v{version}.txt"
