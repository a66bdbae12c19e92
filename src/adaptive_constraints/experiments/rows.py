"""Rows of a bench run: one per (stack, data, seed); and the record of what the suite planned.

A results folder holds ``suite.json`` (the plan, the versions, published figures), ``rows.jsonl`` (one JSON object per
line) and ``cells/<cell id>/`` (the run folder of every cell, with ``failed.json`` where it failed). Both files are
replaced in one step as cells finish.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypedDict

from adaptive_constraints.errors import TrainingError
from adaptive_constraints.support.files import replacing
from adaptive_constraints.support.records import read_record, with_digest, without_digest, write_record
from adaptive_constraints.support.typed import check, damage, parse_json

ROWS, SUITE, CELLS, FAILED = "rows.jsonl", "suite.json", "cells", "failed.json"


class _Behaviour(TypedDict, total=False):
    """What older rows, and data whose episodes are not whole, do not say."""

    mean_return: float | None
    """Mean undiscounted return of the data's own episodes."""


class Data(_Behaviour):
    """The data set of a row."""

    reference: str
    """The reference that `load_dataset` was given, such as ``bundled:hopper``."""
    name: str
    fingerprint: str
    rows: int
    episodes: int
    regenerated: bool
    """Recorded anew under a published set's name, so that published figures are no like for like."""


class Reference(TypedDict):
    """The two undiscounted returns of a normalised score, 0 and 100."""

    random: float
    expert: float
    source: str


class Lost(TypedDict):
    """The place where a seed's losses ceased to be finite."""

    step: int
    term: str


class _Success(TypedDict, total=False):
    success: float | None
    """Percentage of the episodes with success, where the environment says."""


class RowEvaluation(_Success):
    """One evaluation of one seed."""

    step: int
    value: float | None
    """Normalised score, or mean return, as the row's ``measure`` says."""
    returns: list[float | None]
    """[E] undiscounted return of each episode."""


class HowItRan(TypedDict, total=False):
    """How a run computed, as far as its row says it."""

    evaluation: dict[str, Any]
    """Environment, interval in steps, episodes and seed; rows of `bench` say it in their command."""
    online: dict[str, Any] | None
    """The fine-tuning phase: after which step, environment, environment steps, buffer."""
    precision: str
    compiled: bool
    products: str
    """The library of float32 matrix products."""


class ResultRow(HowItRan):
    """One seed of one stack on one data set."""

    suite: str
    cell: str
    """Cell id: the row's run folder is ``cells/<cell>``."""
    stack: str
    """Such as ``TD3BC(critic=robust) + ASPC``: class names with the settings that differ from the defaults."""
    learner: str
    """The learner's part of that label."""
    adapters: list[str]
    """The adapters' parts, in order; empty for the bare learner."""
    spec: dict[str, Any]
    """The stack as `Stack.from_spec` reads it."""
    data: Data
    reference: Reference | None
    """None where no reference returns are known: there is no score then."""
    seed: int
    steps: int
    """Planned."""
    step: int
    """Reached."""
    lost: Lost | None
    measure: Literal["score", "return"]
    last: float | None
    """At the last evaluation; None if the seed is lost."""
    best: float | None
    """Highest of all evaluations; None if the seed is lost."""
    last_ten: float | None
    """Mean of the last ten evaluations; None if the seed is lost."""
    evaluations: list[RowEvaluation]
    series: dict[str, list[list[float | None]]]
    """By name, such as ``aspc/scale``: [steps, values] of this seed's adaptive quantities, at most 200 points."""
    steps_per_second: float
    """Steps per second of the cell, all its seeds together."""
    seconds: float
    """Spent in steps, by the whole cell."""
    wall_seconds: float
    """From the beginning of the cell to its end, preparation and evaluation included."""
    peak_memory: int
    """Highest resident memory of the cell's process, bytes."""
    device: str
    versions: dict[str, str]
    commit: dict[str, str | bool] | None
    threads: int
    command: str
    """The command that makes this cell, all its seeds."""


class Published(TypedDict):
    """A figure that a paper prints."""

    data: str
    """Data reference, as in the cells."""
    stack: str
    """Label as in the cells where we run that stack; the paper's name for a method that we do not."""
    score: float
    spread: float | None
    source: str


class PlannedCell(TypedDict):
    """One stack on one data set, all its seeds."""

    cell: str
    stack: str
    learner: str
    adapters: list[str]
    data: str
    seeds: list[int]
    steps: int


class Claim(TypedDict):
    """What a suite expects to find, written down before it is run; `reports.claims` compares it with the rows."""

    text: str
    """In words, and what would refute it."""
    expect: Literal["nowhere worse", "better", "share of best"]
    stack: str
    """Label of the stack that it is about."""
    against: list[str]
    """Labels of the stacks that it is compared with; one, unless the best of several counts."""
    data: list[str]
    """Data references, draws included."""
    share: float
    """Least part of the best score, for "share of best"; 0 otherwise."""


class Claiming(TypedDict, total=False):
    """A part of a plan that older folders lack."""

    claims: list[Claim]


class SuiteRecord(Claiming):
    """The content of ``suite.json``."""

    suite: str
    about: str
    command: str
    commit: dict[str, str | bool] | None
    versions: dict[str, str]
    published: list[Published]
    cells: list[PlannedCell]


def write_rows(folder: str | Path, rows: Iterable[ResultRow]) -> None:
    """Write ``rows.jsonl`` in one step, sorted by (data reference, stack, seed).

    Each row ends in a digest of itself, its place and the number of rows, so that none can be changed, added or lost
    unnoticed. Without rows, the file is one empty line.
    """
    ordered = sorted(rows, key=_order)
    with replacing(Path(folder) / ROWS) as file:
        for number, row in enumerate(ordered, start=1):
            sealed = with_digest(row, (number, len(ordered)))
            file.write(json.dumps(sealed, allow_nan=False, separators=(",", ":")) + "\n")
        if not ordered:
            file.write("\n")


def read_rows(folder: str | Path) -> list[ResultRow]:
    """The rows of a results folder, in the order in which they stand; none if no cell has finished.

    Raises `TrainingError` for a folder that is no results folder, and for a line that is no row as it was written.
    """
    path = Path(folder) / ROWS
    if not path.is_file():
        read_suite(folder)
        return []
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        raise TrainingError(f"{path} is cut short: run the same bench command again")
    lines = [] if content == b"\n" else content[:-1].split(b"\n")
    return [_parsed(path, (number, len(lines)), line) for number, line in enumerate(lines, start=1)]


def write_suite(folder: str | Path, record: SuiteRecord) -> None:
    """Write ``suite.json`` in one step."""
    write_record(Path(folder) / SUITE, record)


def read_suite(folder: str | Path) -> SuiteRecord:
    """Read what the results folder was planned to hold."""
    path = Path(folder) / SUITE
    remedy = "the same bench command writes it anew once that file is gone"
    try:
        record: SuiteRecord = read_record(path, SuiteRecord, TrainingError, "is not the plan of a bench run", remedy)
    except FileNotFoundError as error:
        raise TrainingError(
            f"{folder} is no folder of bench results ({SUITE} is not there): name what `bench` wrote to with --out"
        ) from error
    return record


class Failed(TypedDict):
    """The content of ``failed.json``."""

    cell: str
    reason: str
    command: str


def write_failure(run: str | Path, cell: str, reason: str, command: str) -> None:
    """Write why the cell of a run folder failed."""
    write_record(Path(run) / FAILED, Failed(cell=cell, reason=reason, command=command))


def read_failure(run: str | Path) -> str | None:
    """Why the cell of a run folder failed when it was last tried; None if it did not."""
    path, what = Path(run) / FAILED, "does not say why a cell failed"
    try:
        failure: Failed = read_record(path, Failed, TrainingError, what, "remove that file")
    except FileNotFoundError:
        return None
    return failure["reason"]


def _order(row: ResultRow) -> tuple[str, str, int]:
    return row["data"]["reference"], row["stack"], row["seed"]


def _parsed(path: Path, place: tuple[int, int], line: bytes) -> ResultRow:
    remedy = "remove it, or run the same bench command again"
    with damage(TrainingError, f"{path}, line {place[0]} is no row of results", remedy):
        row: Any = without_digest(parse_json(line.decode("utf-8")), place)
        check(row, ResultRow)
        for name, pair in row["series"].items():
            if len(pair) != 2 or len(pair[0]) != len(pair[1]):
                raise ValueError(f"series.{name} must be steps and as many values")
        parsed: ResultRow = row
    return parsed


__all__ = [
    "Claim",
    "PlannedCell",
    "Published",
    "ResultRow",
    "RowEvaluation",
    "SuiteRecord",
    "read_failure",
    "read_rows",
    "read_suite",
    "write_failure",
    "write_rows",
    "write_suite",
]
