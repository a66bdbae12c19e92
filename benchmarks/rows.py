r"""Keep results in the repository: the rows of run folders and of `bench`, compact, one line per (stack, data, seed).

    adaptive-constraints bench quick
    python -m benchmarks.rows runs/bench/quick --into benchmarks/results/quick

    adaptive-constraints bench evidence
    python -m benchmarks.rows runs/bench/evidence --into benchmarks/results/evidence --last-only

    adaptive-constraints finetune runs/first --steps 20000 --buffer half --out runs/online
    python -m benchmarks.rows runs/online --into benchmarks/results/online \
        --command "adaptive-constraints finetune runs/first --steps 20000 --buffer half --out runs/online"

A folder is what `bench` wrote or one run folder. Rows are those of `adaptive_constraints.experiments.rows`. Curves
are thinned to `POINTS`, numbers rounded; `--last-only`, for suites of many cells, keeps their ends alone, and the
returns of single episodes for the last evaluation alone. Rows of the same stack, data and seed that `--into` holds
already are replaced.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from adaptive_constraints import load_agent
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.composition.text import plain as as_text
from adaptive_constraints.experiments.cell import is_regenerated, success_of
from adaptive_constraints.experiments.rows import (
    CELLS,
    SUITE,
    PlannedCell,
    ResultRow,
    RowEvaluation,
    SuiteRecord,
    read_rows,
    read_suite,
    write_rows,
    write_suite,
)
from adaptive_constraints.experiments.stacks import NamedStack, read_stack
from adaptive_constraints.experiments.suite import list_suites, load_suite
from adaptive_constraints.support.records import plain, read_metrics

POINTS = 100
"""Most points of a curve: as many as a picture shows."""
DIGITS = 6
CURVE_DIGITS = 4
"""Significant digits that are kept."""
_TERM = re.compile(r"\w+/(value|constraint)|collect/return")
"""Curves beside the adaptive quantities: value and constraint of the constrained update, returns while collecting."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="results folders of bench, or run folders")
    parser.add_argument("--into", type=Path, required=True, help="results folder that keeps them")
    parser.add_argument("--command", default="", help="what made the run folders")
    parser.add_argument("--stack", help="their stack in words; default: the settings that differ from the defaults")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads that they ran on")
    parser.add_argument(
        "--last-only", action="store_true", help="ends of curves, and single returns of the last evaluation only"
    )
    options = parser.parse_args(arguments)
    rows: list[ResultRow] = []
    for folder in options.folders:
        if (folder / SUITE).is_file():
            rows += read_rows(folder) if options.last_only else _of_bench(folder)
        else:
            rows += of_run(folder, options.into.name, options.command, options.stack, options.threads)
    if options.last_only:
        rows = [row | {"evaluations": _of_last(row), "series": _ends(row)} for row in rows]
    keep(options.into, rows, _suite(options))


def _of_last(row: ResultRow) -> list[RowEvaluation]:
    """Evaluations without the returns of single episodes, but for the last."""
    *before, last = row["evaluations"]
    return [*(evaluation | {"returns": []} for evaluation in before), last]


def _ends(row: ResultRow) -> dict[str, list[list[float | None]]]:
    """What adapters learned, such as a trade-off, as it stood at the end."""
    return {name: [steps[-1:], values[-1:]] for name, (steps, values) in row["series"].items()}


def _of_bench(folder: Path) -> list[ResultRow]:
    """The rows of a results folder, with the terms that its cells have logged."""
    rows = read_rows(folder)
    seeds = {cell["cell"]: cell["seeds"] for cell in read_suite(folder)["cells"]}
    for row in rows:
        row["series"] |= terms(folder / CELLS / row["cell"], seeds[row["cell"]].index(row["seed"]))
    return rows


def of_run(folder: Path, suite: str, command: str, stack: str | None = None, threads: int = 1) -> list[ResultRow]:
    """The rows of one run folder, one per seed.

    stack: its label in words, such as "TD3BC preset=antmaze + ASPC"; ValueError if that is another stack.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    history = load_agent(folder, "cpu").history
    common = _common(config, result, stack) | {"suite": suite, "command": command, "threads": threads}
    rows = []
    for position, seed in enumerate(config["seeds"]):
        lost = result["failures"].get(str(seed))
        scores = {name: None if lost else result[name][position] for name in ("last", "best", "last_ten")}
        evaluations = [
            {"step": step, "value": value, "returns": evaluation.returns[position], **success_of(evaluation, position)}
            for step, value, evaluation in zip(*_of_seed(history.scores(), position), history.evaluations, strict=True)
        ]
        adaptive = {name: _of_seed(history.series(name), position) for name in history.adaptive}
        own = {"seed": seed, "lost": lost, "evaluations": evaluations, "series": adaptive | terms(folder, position)}
        rows.append(cast(ResultRow, plain(common | own | scores)))
    return rows


def _common(config: dict[str, Any], result: dict[str, Any], stack: str | None) -> dict[str, Any]:
    """The entries that the rows of a run share; a run folder does not know memory and time in all."""
    named, data = _named(config["stack"], stack), config["data"]
    phase = config["online"]
    online = phase and {"after step": phase["start"], **phase["settings"], "began as": phase["origin"]}
    label = named.label + (f", online from buffer {online['buffer']}" if online else "")
    reference = result["evaluations"][-1]["reference"]
    of_config = ("device", "versions", "commit", "evaluation", "precision", "compiled", "products")
    return {
        **{"cell": cell_name(data["name"], label), "stack": label, "spec": config["stack"]},
        **{"learner": named.learner, "adapters": list(named.adapters)},
        "data": {"reference": data["name"], **data, "regenerated": is_regenerated(data["name"])},
        "reference": reference and {name: reference[name] for name in ("random", "expert", "source")},
        "steps": config["steps"] + (online["steps"] - online["warm_up"] if online else 0),
        **{name: result[name] for name in ("step", "measure", "steps_per_second", "seconds")},
        **{name: config[name] for name in of_config},
        "online": online,
        **{"wall_seconds": 0.0, "peak_memory": 0},
    }


def _of_seed(curves: tuple[Any, Any], position: int) -> tuple[Any, Any]:
    """Steps [T] and values [T] of one seed, out of values [T, S]."""
    return curves[0], curves[1][:, position]


def terms(folder: Path, position: int) -> dict[str, list[list[float | None]]]:
    """Curves [steps, values] of one seed from a run folder's metrics: value, constraint, return while collecting."""
    curves: dict[str, list[list[float | None]]] = {}
    for row in read_metrics(folder / "metrics.jsonl"):
        for name in filter(_TERM.fullmatch, row):
            steps, values = curves.setdefault(name, [[], []])
            steps.append(row["step"])
            values.append(row[name][position])
    return curves


def keep(folder: Path, rows: Sequence[ResultRow], suite: SuiteRecord) -> None:
    """Write rows and plan, beside those that the folder has."""
    has = (folder / SUITE).is_file()
    there, planned = (read_rows(folder), read_suite(folder)["cells"]) if has else ([], [])
    lengths = {(row["cell"], row["seed"]): row["steps"] for row in there}
    for row in rows:
        if lengths.setdefault((row["cell"], row["seed"]), row["steps"]) != row["steps"]:
            raise SystemExit(f"{row['cell']} is there with other steps: keep only one length in {folder}")
    kept = {_key(row): shortened(row) for row in [*there, *rows]}
    plan = {cell["cell"]: cell for cell in [*planned, *_plan(list(kept.values()))]}
    write_suite(folder, suite | {"cells": list(plan.values())})
    write_rows(folder, kept.values())


def shortened(row: ResultRow) -> ResultRow:
    """The row with thinner curves and fewer digits."""
    names = ("last", "best", "last_ten", "evaluations", "steps_per_second", "seconds", "wall_seconds")
    rounded = {name: _rounded(row[name], DIGITS) for name in names}  # type: ignore[literal-required]
    curves = {name: _rounded(_thinned(curve), CURVE_DIGITS) for name, curve in row["series"].items()}
    data = row["data"] | {"regenerated": is_regenerated(row["data"]["reference"])}
    return cast(ResultRow, row | rounded | {"series": curves, "data": data})


def _thinned(curve: list[list[float | None]]) -> list[list[float | None]]:
    """Evenly, the last point among those that stay."""
    last = len(curve[0]) - 1
    if last < POINTS:
        return curve
    kept = [round(i * last / (POINTS - 1)) for i in range(POINTS)]
    return [[part[i] for i in kept] for part in curve]


def _rounded(value: Any, digits: int) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(entry, digits) for name, entry in value.items()}
    if isinstance(value, list):
        return [_rounded(entry, digits) for entry in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def _named(spec: dict[str, Any], words: str | None) -> NamedStack:
    stack = Stack.from_spec(spec)
    named = read_stack(words or " + ".join(_words(part) for part in (stack.learner, *stack.adapters)))
    if named.stack.to_spec() != stack.to_spec():
        raise ValueError(f"the run's stack is not {words}, but {stack.to_spec()}")
    return named


def _words(part: Any) -> str:
    """Such as ``TD3BC critic=robust``: the settings that differ from the defaults."""
    usual = type(part)()
    changed = [(field.name, getattr(part, field.name)) for field in fields(part)]
    return " ".join(
        [type(part).__name__, *(f"{name}={as_text(it)}" for name, it in changed if it != getattr(usual, name))]
    )


def _suite(options: argparse.Namespace) -> SuiteRecord:
    """The record of the whole folder: as it stands there, else as `bench` wrote it; claims are those of the suite."""
    for folder in (options.into, *options.folders):
        if (folder / SUITE).is_file():
            return as_it_ships(read_suite(folder))
    about = "Runs of train and finetune. Memory and time in all are 0 where a run folder does not say them."
    return cast(
        SuiteRecord,
        {"suite": options.into.name, "about": about, "command": options.command, "commit": None, "versions": {}}
        | {"published": [], "cells": []},
    )


def as_it_ships(record: SuiteRecord) -> SuiteRecord:
    """The record with purpose and claims of the whole suite of that name, if it ships: parts of it know only theirs."""
    if record["suite"] not in list_suites():
        return record
    suite = load_suite(record["suite"])
    return record | {"about": suite.about, "claims": list(suite.claims)}


def _plan(rows: Sequence[ResultRow]) -> list[PlannedCell]:
    seeds: dict[str, list[int]] = {}
    for row in rows:
        seeds.setdefault(row["cell"], []).append(row["seed"])
    cells = {row["cell"]: row for row in rows}
    names = ("cell", "stack", "learner", "adapters", "steps")
    return [
        cast(
            PlannedCell,
            {name: row[name] for name in names}  # type: ignore[literal-required]
            | {"data": row["data"]["reference"], "seeds": seeds[cell]},
        )
        for cell, row in cells.items()
    ]


def _key(row: ResultRow) -> tuple[str, str, int, int]:
    return row["data"]["reference"], row["stack"], row["steps"], row["seed"]


def cell_name(data: str, label: str) -> str:
    """A name for the folder of a stack on a data set, as `bench` makes them."""
    short = label.replace(" + ", "+").replace(", ", ",").replace("(", ",").replace(")", "").replace(" ", "-")
    return re.sub(r"[:/]", "-", data) + f"-{short}"


if __name__ == "__main__":
    main()
