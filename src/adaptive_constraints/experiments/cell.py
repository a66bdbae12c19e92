"""One cell of a grid: one stack on one data set, all its seeds together, in a process of its own.

A cell is handed to its process as the file ``cell.json`` in its run folder and leaves its rows there, or the reason why
it failed. It runs anywhere: ``python -m adaptive_constraints.experiments.cell FOLDER DEVICE THREADS`` is what the local
scheduler starts.
"""

from __future__ import annotations

import importlib
import os
import re
import resource
import shlex
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import torch

from adaptive_constraints.agent import Agent
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.data import load_dataset
from adaptive_constraints.errors import AdaptiveConstraintsError, SuiteError, TrainingError
from adaptive_constraints.evaluation import Evaluation
from adaptive_constraints.experiments.rows import FAILED, ResultRow, write_failure, write_rows
from adaptive_constraints.runs.compiling import Compiled
from adaptive_constraints.runs.folder import CHECKPOINT, CONFIG
from adaptive_constraints.runs.history import History
from adaptive_constraints.runs.settings import RunSettings
from adaptive_constraints.support.records import plain, read_record, write_record

CELL, SESSION, LOG = "cell.json", "session.json", "log.txt"
FINISHED_EXIT, FAILED_EXIT = 0, 3
"""How a cell's process ends once its rows, or the reason of its failure, are written; anything else is a lost one."""
_TRACED_FROM = 1_000
"""Steps from which tracing the stages, which takes seconds, pays for itself."""
POINTS = 200
"""Points of a row's series, and of the metrics that they are made from."""
_REGENERATED = re.compile(r"\b(bundled:|scripted:pointmaze/|minari:(regenerated|mujoco)/)")
"""Minari's own MuJoCo sets are recordings anew, too, of what D4RL has."""


@dataclass(frozen=True)
class Cell:
    """One stack to train on one data set; everything in it is plain."""

    id: str
    suite: str
    stack: str
    """Label of the stack, made of the next two."""
    learner: str
    adapters: tuple[str, ...]
    learner_words: tuple[str, ...]
    """As ``train --learner`` takes them."""
    adapter_words: tuple[str, ...]
    spec: dict[str, Any]
    """As `Stack.from_spec` reads it."""
    data: str
    seeds: tuple[int, ...]
    steps: int
    eval_every: int
    eval_episodes: int
    eval_env: str
    imports: tuple[str, ...] = ()
    """Modules that define learners and adapters of the user's own."""
    eval_max_steps: int | None = None
    compiled: str = "auto"
    """Whether steps are compiled, as ``train --compiled`` takes it."""

    def command(self) -> str:
        """The ``train`` command that makes this cell."""
        counted = self.seeds == tuple(range(len(self.seeds)))
        seeds = ["--seeds", str(len(self.seeds))] if counted else ["--seed-list", *map(str, self.seeds)]
        return shlex.join(
            [
                *("adaptive-constraints", "train", "--data", self.data, "--learner", *self.learner_words),
                *(["--adapters", *self.adapter_words] if self.adapter_words else []),
                *("--steps", str(self.steps), *seeds),
                *("--eval-every", str(self.eval_every), "--eval-episodes", str(self.eval_episodes)),
                *([] if self.eval_env == "auto" else ["--eval-env", self.eval_env]),
                *([] if self.eval_max_steps is None else ["--eval-max-steps", str(self.eval_max_steps)]),
                *([] if self.compiled == "auto" else ["--compiled", self.compiled]),
                *(["--imports", *self.imports] if self.imports else []),
            ]
        )

    def write(self, folder: Path) -> None:
        """Into its run folder, for the process that trains it."""
        write_record(folder / CELL, asdict(self))

    @staticmethod
    def read(folder: Path) -> Cell:
        """The cell of a run folder."""
        remedy = "remove its folder, or use another --out"
        try:
            stored: dict[str, Any] = read_record(folder / CELL, Cell, SuiteError, "does not say what to train", remedy)
        except FileNotFoundError as error:
            raise SuiteError(
                f"{folder} is not there on this machine: --out must be a folder that every machine at work sees"
            ) from error
        values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in stored.items()}
        return Cell(**values)


def run_cell(folder: str | Path, device: str | None = None, threads: int = 1) -> bool:
    """Train the cell of a run folder, or go on with it; whether it has rows at the end.

    device: such as "cpu" or "cuda"; None takes CUDA where there is one.
    threads: CPU threads of torch.

    What goes wrong is written to ``failed.json`` rather than raised, and everything said to ``log.txt``.
    """
    folder = Path(folder)
    cell = Cell.read(folder)
    torch.set_num_threads(threads)
    with (folder / LOG).open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        started = time.monotonic()
        try:
            before = _open_session(folder)
            agent = _train(cell, folder, device)
            write_rows(folder, _rows(cell, agent, folder, before + time.monotonic() - started, threads))
        except Exception as error:
            traceback.print_exc()
            write_failure(folder, cell.id, _reason(error), cell.command())
            return False
        (folder / FAILED).unlink(missing_ok=True)
        return True


def _train(cell: Cell, folder: Path, device: str | None) -> Agent:
    for module in cell.imports:
        importlib.import_module(module)
    agent = Agent(Stack.from_spec(cell.spec))
    logging = {"log_every": -(-cell.steps // POINTS), "checkpoint_every": cell.eval_every}
    settings = RunSettings.of(vars(cell), out=folder, **logging)
    traced = cell.steps > _TRACED_FROM
    compiled: Compiled = "auto" if cell.compiled == "auto" else cell.compiled == "on"
    agent.fit(
        load_dataset(cell.data),
        steps=cell.steps,
        seeds=cell.seeds,
        device=device,
        traced=traced,
        compiled=compiled,
        **vars(settings),
    )
    return agent


class _Session(TypedDict):
    before: float
    """Seconds that earlier sessions spent on what is kept of them."""
    began: float


def _open_session(folder: Path) -> float:
    """Note that the cell is at work from now on; seconds that earlier sessions spent on what is kept of them."""
    file, checkpoint, before = folder / SESSION, folder / CHECKPOINT, 0.0
    if file.is_file() and checkpoint.is_file():
        remedy = "remove that file: what it says of earlier seconds is then left out of wall_seconds"
        last: _Session = read_record(file, _Session, TrainingError, "does not say when the cell began", remedy)
        before = last["before"] + max(0.0, checkpoint.stat().st_mtime - last["began"])
    write_record(file, {"before": before, "began": time.time()})
    return before


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, AdaptiveConstraintsError) else f"{type(error).__name__}: {error}"


# -- rows ---------------------------------------------------------------------------------------------------------


def _rows(cell: Cell, agent: Agent, folder: Path, wall_seconds: float, threads: int) -> list[ResultRow]:
    """One per seed."""
    remedy = "run the same bench command again"
    config = read_record(folder / CONFIG, dict[str, Any], TrainingError, "is not of a run of this library", remedy)
    history = agent.history
    reference = history.evaluations[-1].reference
    common = {
        **{name: getattr(cell, name) for name in ("suite", "stack", "learner", "adapters", "spec", "steps")},
        "cell": cell.id,
        "data": {"reference": cell.data, **config["data"], "regenerated": is_regenerated(cell.data)},
        "reference": reference and {name: getattr(reference, name) for name in ("random", "expert", "source")},
        "step": agent.step,
        "measure": history.summary().measure,
        "steps_per_second": history.steps_per_second,
        "seconds": history.seconds,
        "wall_seconds": wall_seconds,
        "peak_memory": _peak_memory(),
        **{name: config[name] for name in ("device", "versions", "commit")},
        "threads": threads,
        "command": cell.command(),
    }
    return [cast(ResultRow, plain(common | _of_seed(history, cell.seeds, i))) for i in range(len(cell.seeds))]


def is_regenerated(reference: str) -> bool:
    """Tell whether data is, or is made of, a set that was recorded anew under a published set's name."""
    return _REGENERATED.search(reference) is not None


def _of_seed(history: History, seeds: Sequence[int], position: int) -> dict[str, Any]:
    """The entries that differ between the rows of a cell."""
    seed, summary = seeds[position], history.summary()
    lost = history.failures.get(seed)
    numbers = {name: getattr(summary, name)[position] for name in ("last", "best", "last_ten")}
    steps, values = history.scores()
    return {
        "seed": seed,
        "lost": lost and lost._asdict(),
        **(dict.fromkeys(numbers) if lost else numbers),
        "evaluations": [
            {"step": step, "value": value, "returns": evaluation.returns[position], **success_of(evaluation, position)}
            for step, value, evaluation in zip(steps, values[:, position], history.evaluations, strict=True)
        ],
        "series": {name: thinned_series(history, name, position) for name in history.adaptive},
    }


def success_of(evaluation: Evaluation, position: int) -> dict[str, float]:
    """The entry of a row's evaluation on success, where the environment says it."""
    rate = evaluation.success_rate
    return {} if rate is None else {"success": rate[position]}


def thinned_series(history: History, name: str, position: int) -> list[Any]:
    """[steps, values] of one seed, evenly thinned to `POINTS`, the last among them."""
    steps, values = history.series(name)
    kept = np.unique(np.linspace(0, len(steps) - 1, min(POINTS, len(steps))).round().astype(int))
    return [steps[kept], values[kept, position]]


def _peak_memory() -> int:
    """Highest resident memory of this process, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


# -- as a process -------------------------------------------------------------------------------------------------


def _end_with_parent() -> None:
    """End this process as soon as the one that started it is gone, however that ended: its end of the pipe closes."""

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)
        os._exit(2)

    threading.Thread(target=wait, daemon=True).start()


def main() -> int:
    """Run the cell that the command line names, as long as the parent process lives."""
    _end_with_parent()
    folder, device, threads = sys.argv[1:]
    return FINISHED_EXIT if run_cell(folder, device or None, int(threads)) else FAILED_EXIT


if __name__ == "__main__":
    sys.exit(main())
