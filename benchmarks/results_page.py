"""Write docs/results.md: the text of results_page.md with tables made from the rows in benchmarks/results.

    python -m benchmarks.results_page           # write it
    python -m benchmarks.results_page --show    # print it

A line ``{{ name words }}`` of the text stands for the table that the function ``name`` of `TABLES` makes.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from adaptive_constraints.experiments.rows import ResultRow, read_rows, read_suite
from adaptive_constraints.reports import claims, markdown
from adaptive_constraints.reports import text as report_text
from adaptive_constraints.reports.findings import find
from adaptive_constraints.reports.grid import Grid, read_grid
from adaptive_constraints.support.files import replacing

from .family import table as of_family
from .ope import read
from .speed import record
from .speed.report import by_name, ratio_table, stack_tables
from .values import table as of_values

HERE = Path(__file__).parent
RESULTS, TEXT, PAGE = HERE / "results", HERE / "results_page.md", HERE.parent / "docs" / "results.md"
ADAPTIVE = {
    "aspc/scale": "trade-off",
    "noisetradeoff/tradeoff": "trade-off",
    "ssar/weight_50": "median weight",
    "anq/displacement": "action moved by",
    "ilq/model_error": "model error",
}
"""Adaptive quantities that the tables show as they stood at the end, in words."""
Cell = Sequence[ResultRow]
"""The rows of one stack on one data set, seed by seed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="print the page instead of writing it")
    if parser.parse_args().show:
        print(page(), end="")
        return
    with replacing(PAGE) as file:
        file.write(page())


def page() -> str:
    """The whole page."""
    filled = re.sub(r"^\{\{ (\w+) ?(.*) \}\}$", _filled, TEXT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return (
        f"<!-- Made by `python -m benchmarks.results_page`: change benchmarks/results_page.md instead. -->\n\n{filled}"
    )


def _filled(marker: re.Match[str]) -> str:
    return "\n".join(TABLES[marker[1]](*marker[2].split()))


@functools.cache
def _rows(folder: str) -> list[ResultRow]:
    return read_rows(RESULTS / folder)


def cells(folder: str, data: str = "") -> list[Cell]:
    """The cells of a folder, on one data set if it is named, in the order of its suite."""
    rows = _rows(folder)
    order = [cell["cell"] for cell in read_suite(RESULTS / folder)["cells"] if data in ("", cell["data"])]
    return [[row for row in rows if row["cell"] == name] for name in order]


# -- tables -------------------------------------------------------------------------------------------------------


def scores(folder: str, data: str) -> list[str]:
    """Scores of every stack on a data set, and the ends of its curves."""
    chosen = cells(folder, data)
    heads = ("stack", "steps", "minutes", "last", "mean of last ten", "best", "value", "constraint", "at the end")
    rows = [
        [
            f"`{cell[0]['stack']}`",
            _steps(cell[0]),
            f"{cell[0]['seconds'] / 60:.0f}",
            *(numbers([row[name] for row in cell]) for name in ("last", "last_ten", "best")),
            *(_ends(cell, f"/{term}") for term in ("value", "constraint")),
            "; ".join(f"{word} {_ends(cell, name)}" for name, word in ADAPTIVE.items() if name in cell[0]["series"]),
        ]
        for cell in chosen
    ]
    return [*_caption(chosen), "", *table(heads, rows)]


def pairs(folder: str, data: str) -> list[str]:
    """Every stack beside the same stack without its last adapter, at the last step that both were evaluated at."""
    chosen = cells(folder, data)
    by_parts = {(cell[0]["learner"], *cell[0]["adapters"]): cell for cell in chosen}
    rows = []
    for parts, cell in by_parts.items():
        twin = by_parts.get(parts[:-1])
        if twin is not None:
            assert [row["seed"] for row in cell] == [row["seed"] for row in twin], f"{folder}, {data}: other seeds"
            step = max(_curve(cell[0]).keys() & _curve(twin[0]).keys())
            ours, theirs = ([_curve(row)[step] for row in side] for side in (cell, twin))
            change = [b - a for a, b in zip(theirs, ours, strict=True)]
            names = (f"`{parts[-1]}`", f"`{' + '.join(parts[:-1])}`", f"{step:,}")
            rows.append([*names, *map(numbers, (theirs, ours, change))])
    return table(("adapter", "on", "step", "without", "with", "difference"), rows)


def claimed(folder: str, *beside: str) -> list[str]:
    """Claims of a suite and what became of them, by the last evaluation of each seed.

    beside: folders that hold what its claims compare with, whose own claims are left out.
    """
    grid = read_grid([RESULTS / name for name in (folder, *beside)])
    own = grid.suites[0].get("claims", [])
    found = [outcome for outcome in claims.outcomes(grid) if outcome.claim in own]
    head = [*_caption(cells(folder)), "", report_text.CLAIMS, *_common(grid)]
    return [*head, *markdown.claims(found, grid)]


def online(folder: str) -> list[str]:
    """Runs that were fine-tuned, by buffer."""
    rows = []
    for cell in cells(folder):
        phase = cell[0]["online"]
        assert phase is not None
        before = [_curve(row)[phase["after step"]] for row in cell]
        collected = _ends(cell, "collect/return")
        shown = (numbers([row[name] for row in cell]) for name in ("last", "last_ten", "best"))
        rows.append([f"`{phase['buffer']}`", f"{phase['steps']:,}", numbers(before), *shown, collected])
    heads = (
        "buffer",
        "environment steps",
        "before",
        "at the end",
        "mean of last ten",
        "best",
        "return while collecting",
    )
    return [*_caption(cells(folder)), "", *table(heads, rows)]


def intervals(folder: str) -> list[str]:
    """Interquartile means with their intervals, as `adaptive-constraints report` has them, and effects of adapters."""
    findings = find(read_grid([RESULTS / folder]), "last_ten")
    columns = [data.label for data in findings.grid.data]
    named = {stack.label: f"`{stack.label}`" for stack in findings.grid.stacks}
    means = [
        [name, *(report_text.estimated(findings.scores.get((label, data))) for data in columns)]
        for label, name in named.items()
    ]
    effects = [
        [
            f"`{effect.adapter}`",
            f"`{effect.base}`",
            *(report_text.changed(effect.by_scope.get(data)) for data in columns),
        ]
        for effect in findings.effects
    ]
    return [
        *_caption(cells(folder)),
        *_common(findings.grid),
        "",
        *table(("stack", *columns), means),
        "",
        "Mean difference of paired seeds, with the adapter and without:",
        "",
        *table(("adapter", "on", *columns), effects),
    ]


def data(*references: str) -> list[str]:
    """The data that was trained on, and the score of its own episodes."""
    lines = (RESULTS / "data.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [
        [
            f"`{entry['reference']}`",
            f"{entry['rows']:,}",
            f"{entry['episodes']:,}",
            f"{entry['return']:.0f}",
            f"{entry['score']:.1f}",
            entry["recorded"],
        ]
        for entry in map(json.loads, lines)
        if entry["reference"] in references or not references
    ]
    return table(("data", "rows", "episodes", "mean return", "score", "recorded"), rows)


def made(folder: str) -> list[str]:
    """How a folder was made, in one line."""
    rows = [row for cell in cells(folder) for row in cell]
    commits = _one(report_text.commit(row["commit"]) for row in rows)
    versions = _one(", ".join(f"{name} {value}" for name, value in row["versions"].items()) for row in rows)
    command = read_suite(RESULTS / folder)["command"]
    return [f"[{folder}](../benchmarks/results/{folder}): `{command}`; commits {commits}; {versions}."]


def commands(folder: str) -> list[str]:
    """The command of each cell of a folder."""
    rows = [
        [f"`{cell[0]['stack']}`", cell[0]["data"]["name"], report_text.commit(cell[0]["commit"]), cell[0]["command"]]
        for cell in cells(folder)
    ]
    return table(("stack", "data", "commit", "command"), [[*row[:3], f"`{row[3]}`"] for row in rows])


def speed(name: str) -> list[str]:
    """Ratios against targets, by number of threads."""
    result = record.read(RESULTS / "speed" / f"{name}.jsonl")
    lines = [f"`{result['command']}`; commit {report_text.commit(result['commit'])}; {result['device']}."]
    for threads, records in result["by_threads"].items():
        lines += ["", f"{report_text.counted(int(threads), 'core')}:", ""]
        rows = ratio_table(by_name(records), result["device_type"])
        lines += [row for row in rows if "not measured" not in row]
    return lines


def stacks(name: str) -> list[str]:
    """Every stack over its own floor, by number of threads and size."""
    result = record.read(RESULTS / "speed" / f"{name}.jsonl")
    lines = [f"`{result['command']}`; commit {report_text.commit(result['commit'])}; {result['device']}."]
    for threads, records in result["by_threads"].items():
        cores = report_text.counted(int(threads), "core")
        tables = stack_tables(by_name(records), result["device_type"])
        lines += [f"{line.removeprefix('### ')}, {cores}:" if line.startswith("### ") else line for line in tables]
    return lines


def family() -> list[str]:
    """One training for all trade-offs, beside fixed ones."""
    about, rows = read(RESULTS / "family.jsonl")
    return [
        f"`{about['command']}`; commit {report_text.commit(about['commit'])}; {about['device']}.",
        "",
        *of_family(rows),
    ]


def values() -> list[str]:
    """What critics say beside what policies return."""
    about, rows = read(RESULTS / "values.jsonl")
    return [f"`{about['command']}`; {about['episodes']} episodes of each policy.", "", *of_values(rows)]


TABLES: dict[str, Callable[..., list[str]]] = {
    function.__name__: function
    for function in (claimed, scores, pairs, online, intervals, data, made, commands, speed, stacks, family, values)
}


# -- words and numbers --------------------------------------------------------------------------------------------


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]


def numbers(values: Sequence[float | None], write: Callable[[float], str] = "{:.1f}".format) -> str:
    """The mean and, in brackets, seed by seed."""
    known = [value for value in values if value is not None]
    by_seed = ", ".join("lost" if value is None else write(value) for value in values)
    return f"{write(sum(known) / len(known)) if known else 'lost'} ({by_seed})"


def _caption(chosen: Sequence[Cell]) -> list[str]:
    """Words to read before the numbers: where from, and how far they carry."""
    rows = [row for cell in chosen for row in cell]
    fewest = min(map(len, chosen))
    words = f"{report_text.counted(fewest, 'seed')} of each stack, on {_one(row['device'] for row in rows)}"
    words += ": no evidence of small differences." if fewest < 5 else "."
    if any(row["data"]["regenerated"] for row in rows):
        words += " Regenerated data: no number here compares with one that was published for D4RL's recordings."
    return [words]


def _common(grid: Grid) -> list[str]:
    """The settings that names of stacks leave out."""
    common = report_text.common(grid)
    return ["", f"Settings of all stacks here: {'; '.join(common)}."] if common else []


def _one(values: Iterable[Any]) -> str:
    return "; ".join(dict.fromkeys(map(str, values)))


def _steps(row: ResultRow) -> str:
    return f"{row['step']:,}" + ("" if row["step"] == row["steps"] else f" of {row['steps']:,}")


def _curve(row: ResultRow) -> dict[int, float]:
    return {point["step"]: point["value"] for point in row["evaluations"] if point["value"] is not None}


def _ends(cell: Cell, name: str) -> str:
    """The last value of a curve whose name ends so, seed by seed."""
    ends = [curve[1][-1] for row in cell for key, curve in row["series"].items() if key.endswith(name)]
    return ", ".join("lost" if value is None else _three(value) for value in ends)


def _three(value: float) -> str:
    """Three significant digits, without an exponent where it is not needed."""
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"


if __name__ == "__main__":
    main()
