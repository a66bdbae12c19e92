"""Print the result files of a folder as a Markdown table, one row per stack and data set, grouped by data set.

python benchmarks/table.py benchmarks/results
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

COLUMNS = ("data", "stack", "ticks", "last", "mean of last ten", "best", "scale at the end", "file")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    rows = [row(path) for path in sorted(parser.parse_args().folder.glob("*.json")) if "stack" in read(path)]
    print(line(COLUMNS))
    print(line(["---"] * len(COLUMNS)))
    for each in sorted(rows):
        print(line(each))


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def row(path: Path) -> list[str]:
    """One result: each number as the mean over seeds and, in brackets, seed by seed."""
    found = read(path)
    scale = next((values[-1] for name, (_, values) in found["series"].items() if name.endswith("/scale")), None)
    return [
        found["data"]["name"],
        found["label"],
        f"{found['tick']:,}",
        *(numbers(found[name]) for name in ("last", "last_ten", "best")),
        numbers(scale) if scale else "-",
        f"`{path.name}`",
    ]


def numbers(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    mean = f"{sum(known) / len(known):.1f}" if known else "lost"
    each = ", ".join("lost" if value is None else f"{value:.1f}" for value in values)
    return f"{mean} ({each})"


def line(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
