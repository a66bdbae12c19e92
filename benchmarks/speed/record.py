"""A measurement as a file: JSON Lines, first how the run was made, then one line per timing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptive_constraints.support.files import replacing

DIGITS = 5
"""Significant digits of seconds; turns differ in the second or third."""
GROUPS = {"by_threads": "threads", "sweeps": "sweep"}
"""Groups of timings in a result, and the entry of a timing's line that names its place in the group."""


def write(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result."""
    lines: list[Mapping[str, Any]] = [{name: value for name, value in result.items() if name not in GROUPS}]
    for group, entry in GROUPS.items():
        lines += [{entry: key, **_rounded(timing)} for key, timings in result[group].items() for timing in timings]
    with replacing(path) as file:
        file.writelines(json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n" for line in lines)


def read(path: Path) -> dict[str, Any]:
    """Read what `write` wrote."""
    first, *lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    result: dict[str, Any] = first | {group: {} for group in GROUPS}
    for line in lines:
        group, entry = next((group, entry) for group, entry in GROUPS.items() if entry in line)
        result[group].setdefault(line.pop(entry), []).append(line)
    return result


def _rounded(timing: Mapping[str, Any]) -> dict[str, Any]:
    seconds = [float(f"{value:.{DIGITS}g}") for value in timing.get("seconds", [])]
    return {**timing, "seconds": seconds} if seconds else dict(timing)
