"""The loop around the engine: when to log, evaluate, save and stop."""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.data import Dataset
from adaptive_constraints.engine.metrics import Failure
from adaptive_constraints.environments.specs import EnvSource
from adaptive_constraints.errors import CheckpointError, TrainingError
from adaptive_constraints.evaluation import Evaluation, Evaluator, summary
from adaptive_constraints.runs.evaluating import described, evaluate, evaluator_of
from adaptive_constraints.runs.history import History
from adaptive_constraints.runs.identity import Identity
from adaptive_constraints.runs.reading import not_finite
from adaptive_constraints.runs.run import Trained
from adaptive_constraints.support.cpu import tuned
from adaptive_constraints.support.files import check_folder, locked
from adaptive_constraints.support.progress import Progress
from adaptive_constraints.support.records import (
    MetricsLog,
    commit,
    device_name,
    read_record,
    versions,
    write_json,
    write_record,
)
from adaptive_constraints.support.stopping import Stopped, asked, explain, stoppable
from adaptive_constraints.support.typed import damage

CHECKPOINT, CONFIG, RESULT = "checkpoint.npz", "config.json", "result.json"
AFTER = "after tick"
"""Where an online phase began, in the settings of a run folder."""
_ABSURD = 1e4
"""How many times what is usual a number must be for a run that was lost to be put down to it."""


class DataWarning(UserWarning):
    """Something about the data is doubtful; it is trained on all the same."""


class LostSeedWarning(UserWarning):
    """A seed's losses are no longer finite; the others go on."""


@dataclass(frozen=True)
class Plan:
    """How a run is watched and kept; nothing here changes what is learned.

    Intervals count ticks from the beginning of the phase. Raises `TrainingError` for those below 1, `FileError` for a
    folder that cannot be written to.
    """

    stop_after: int
    """Stop at this tick of the phase."""
    eval_env: EnvSource | None = None
    eval_every: int = 5_000
    eval_episodes: int = 10
    eval_seed: int = 0
    eval_max_steps: int | None = None
    log_every: int = 1_000
    checkpoint_every: int = 10_000
    out: Path | None = None
    tensorboard: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("eval_every", "eval_episodes", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.eval_max_steps is not None and self.eval_max_steps < 1:
            raise TrainingError(f"eval_max_steps must be at least 1, not {self.eval_max_steps}")
        if self.out is not None:
            check_folder(self.out)


_training = threading.RLock()
"""Held by the thread that trains: the tracer, and what `training.cpu` sets, are one for a whole process."""


@contextmanager
def at_work(plan: Plan) -> Iterator[None]:
    """Inside, no other thread of this process trains, nobody else writes to the run folder, and signals wait.

    Raises `TrainingError` or `FileError` where somebody does already.
    """
    if not _training.acquire(blocking=False):
        raise TrainingError(
            "another thread of this process is training: wait until it has ended, train several seeds at once by "
            "seeds=, or use a process for each run, as `bench` does"
        )
    try:
        with stoppable(saving=plan.out is not None), nullcontext() if plan.out is None else locked(plan.out):
            yield
    finally:
        _training.release()


def fit(trained: Trained, plan: Plan, kept: bool) -> None:
    """Run ``trained`` on to where the plan stops, keeping its history and the run folder up to date.

    kept: it stands as the checkpoint in the run folder has it.

    To be called inside `at_work`. Where a stop is asked for it returns early, with everything saved.
    """
    evaluator = None
    if plan.eval_env:
        evaluator = evaluator_of(trained, plan.eval_env, plan.eval_episodes, plan.eval_seed, plan.eval_max_steps)
    try:
        log = None
        if plan.out is not None:
            if not kept and trained.begun:
                trained.write(plan.out / CHECKPOINT)
            write_record(plan.out / CONFIG, _config(trained, plan, evaluator))
            before, tick = _told(trained.history), trained.engine.tick
            log = MetricsLog(plan.out, before=before, resumed_tick=tick, tensorboard=plan.tensorboard)
        progress = Progress(trained.stack.name, trained.engine.horizon, trained.engine.tick, plan.progress)
        try:
            with progress, tuned(trained.device, trained.products), trained.environments() as notes:
                said = [*trained.warnings, *(evaluator.notes if evaluator else []), *notes]
                for text in dict.fromkeys(said):
                    progress.say(f"note: {text}")
                _Loop(trained, plan, evaluator, log, progress).run()
        finally:
            if log is not None:
                log.close()
    finally:
        if evaluator is not None:
            evaluator.close()
    if plan.out is not None:
        _results(trained, plan.out)
    if asked():
        explain(_stopped(trained, plan.out))


def _stopped(trained: Trained, out: Path | None) -> str:
    where = "in this agent" if out is None else f"in {out / CHECKPOINT}"
    at = f"tick {trained.engine.tick} of {trained.engine.horizon}"
    return f"stopped at {at}: all of it is kept {where}, and the same call or command goes on from there"


def say_advice(advice: Sequence[str], progress: bool) -> None:
    """Say what is doubtful about the data: with the progress, or else as one `DataWarning`."""
    if progress:
        for text in advice:
            print(f"data: {text}", file=sys.stderr, flush=True)
    elif advice:
        warnings.warn(f"doubtful data: {'; '.join(advice)}", DataWarning, stacklevel=4)


def begun(folder: Path) -> Identity | None:
    """Which run wrote the settings in a folder; None where no run has been.

    Raises `CheckpointError` for a file of that name which no run wrote, or that was changed since, and for what a run
    leaves without its settings.
    """
    file, remedy = folder / CONFIG, "use another folder, or remove that file if a run wrote it"
    try:
        found = read_record(file, dict[str, Any], CheckpointError, "is not of a run of this library", remedy)
    except FileNotFoundError:
        _refuse_orphans(folder)
        return None
    with damage(CheckpointError, f"{file} is not of a run of this library", remedy):
        online = found["online"] and {name: value for name, value in found["online"].items() if name != AFTER}
        stack, seeds, fingerprint = found["stack"], tuple(found["seeds"]), found["data"]["fingerprint"]
        return Identity(stack, found["steps"], seeds, fingerprint, found["precision"], found["compiled"], online)


def _refuse_orphans(folder: Path) -> None:
    """Raise `CheckpointError` where a folder holds what became of a run, but not which run that was."""
    if (folder / CHECKPOINT).exists():
        return
    for name in (RESULT, "metrics.jsonl", "metrics.csv"):
        if (folder / name).exists() and (folder / name).stat().st_size:
            raise CheckpointError(
                f"{folder} holds {name} of some run, but neither {CHECKPOINT} nor {CONFIG}, which would say of which: "
                "use another folder, or move that file away"
            )


class _Loop:
    def __init__(
        self, trained: Trained, plan: Plan, evaluator: Evaluator | None, log: MetricsLog | None, progress: Progress
    ) -> None:
        self._trained, self._plan, self._evaluator = trained, plan, evaluator
        self._log, self._progress = log, progress
        self._last = trained.engine.phase_start + plan.stop_after

    def run(self) -> None:
        engine, plan, history = self._trained.engine, self._plan, self._trained.history
        self._make_up()
        while engine.tick < self._last and not asked():
            before, started = engine.tick, time.perf_counter()
            self._ticks(self._next_stop(before))
            engine.synchronize()
            history.seconds += time.perf_counter() - started
            history.ticks = engine.tick
            if engine.tick == before:  # stopped at once, or while it only collects
                self._save()
                return
            self._note_failures()
            if self._due(plan.log_every):
                self._log_metrics()
            if self._evaluator is not None and self._due(plan.eval_every):
                self._evaluate(self._evaluator)
            if self._due(plan.checkpoint_every) or engine.tick == self._last or asked():
                self._save()

    def _save(self) -> None:
        if self._plan.out is not None:
            self._trained.write(self._plan.out / CHECKPOINT)

    def _make_up(self) -> None:
        """The evaluation that was broken off where the run stopped."""
        history = self._trained.history
        due, history.unevaluated = history.unevaluated == self._trained.engine.tick, None
        if due and self._evaluator is not None:
            self._evaluate(self._evaluator)
            self._save()

    def _next_stop(self, tick: int) -> int:
        """The next tick at which something is due; intervals count from the beginning of the phase."""
        first, last = self._trained.engine.phase_start, self._trained.engine.horizon
        intervals = [self._plan.log_every, self._plan.eval_every, self._plan.checkpoint_every]
        return min([self._last, last, *(first + ((tick - first) // i + 1) * i for i in intervals)])

    def _ticks(self, target: int) -> None:
        """Up to ``target`` or to where a stop is asked for, in portions small enough for a smooth bar."""
        engine = self._trained.engine
        while engine.tick < target and not asked():
            self._trained.run(min(100, target - engine.tick), asked)
            self._progress.update(engine.tick)

    def _due(self, interval: int) -> bool:
        engine = self._trained.engine
        return (engine.tick - engine.phase_start) % interval == 0 or engine.tick == engine.horizon

    def _note_failures(self) -> None:
        """Lost seeds: by what was logged first of all, otherwise by the parameters themselves."""
        engine, history = self._trained.engine, self._trained.history
        broken = not_finite(engine).items()
        failures = {place: Failure(engine.tick, name) for name, places in reversed(broken) for place in places}
        for position, failure in (failures | engine.metrics.failures()).items():
            seed = engine.seeds[position]
            if seed not in history.failures:
                history.failures[seed] = failure
                text = f"seed {seed} is lost: {failure.term} was not finite at tick {failure.tick}; it no longer counts"
                warnings.warn(text, LostSeedWarning, stacklevel=2)
                self._progress.say(text)
        if len(history.failures) == len(engine.seeds):
            raise TrainingError(self._all_lost())

    def _all_lost(self) -> str:
        first = min(self._trained.history.failures.values())
        out = self._plan.out
        kept = out is not None and (out / CHECKPOINT).is_file()
        where = f"the last good checkpoint is {out / CHECKPOINT}" if out and kept else "no checkpoint had been written"
        absurd = [] if self._trained.dataset is None else absurd_numbers(self._trained.dataset)
        remedy = (
            f"This comes from the data: {'; '.join(absurd)}. Repair or drop such rows"
            if absurd
            else "Try a smaller learning rate, or a larger weight on the constraint"
        )
        return (
            f"all seeds of {self._trained.stack.name} are lost, the first at tick {first.tick}, where {first.term} was "
            f"not finite; {where}. {remedy}"
        )

    def _log_metrics(self) -> None:
        engine, history = self._trained.engine, self._trained.history
        diagnosed = {name: values.tolist() for name, values in engine.diagnose().items()}
        history.adaptive = list(diagnosed)
        row = engine.metrics.flush() | diagnosed
        if self._trained.online is not None:
            row |= self._trained.online.collector.flush()
        history.metrics.append({"tick": engine.tick, **row})
        history.rates.append(history.ticks_per_second)
        if self._log is not None:
            self._log.append(engine.tick, row | {"ticks_per_second": history.ticks_per_second})

    def _evaluate(self, evaluator: Evaluator) -> None:
        trained, tick = self._trained, self._trained.engine.tick
        try:
            evaluation = evaluate(trained, evaluator, stopping=asked)
        except Stopped:  # it changes nothing, so that it can be made up for
            trained.history.unevaluated = tick
            return
        trained.history.evaluations.append(evaluation)
        what, values = _measured(evaluation)
        living = [values[i] for i, seed in enumerate(trained.engine.seeds) if seed not in trained.history.failures]
        self._progress.note(f"{what} {np.mean(living):.1f}")
        if self._log is not None:
            self._log.append(tick, _row(evaluation))


def _measured(evaluation: Evaluation) -> tuple[str, NDArray[np.float64]]:
    """What says how good a policy was, and how good each seed's was: [S]."""
    return ("return", evaluation.mean_return) if evaluation.score is None else ("score", evaluation.score)


def _row(evaluation: Evaluation) -> dict[str, list[float]]:
    what, values = _measured(evaluation)
    return {f"eval/{what}": values.tolist(), "eval/returns": evaluation.mean_return.tolist()}


def _told(history: History) -> list[dict[str, Any]]:
    """What happened before, as it was logged."""
    rated = zip(history.metrics, history.rates, strict=True)
    rows = [row | {"ticks_per_second": rate} for row, rate in rated]
    rows += [{"tick": each.tick, **_row(each)} for each in history.evaluations]
    return sorted(rows, key=lambda row: row["tick"])


def absurd_numbers(dataset: Dataset) -> list[str]:
    """In words, by column: the largest number, where it is beyond all measure of the others."""
    found = []
    for name in ("rewards", "observations", "next_observations"):
        sizes = np.abs(getattr(dataset, name)).reshape(len(dataset), -1).max(1)
        usual = float(np.median(sizes[sizes > 0])) if sizes.any() else 0.0
        row = int(sizes.argmax())
        if sizes[row] > _ABSURD * max(1.0, usual):
            found.append(f"{name} reach {sizes[row]:.3g} in row {row}, where {usual:.3g} is usual")
    return found


def _config(trained: Trained, plan: Plan, evaluator: Evaluator | None) -> dict[str, Any]:
    data = trained.data
    return {
        "stack": trained.stack.to_spec(),
        "steps": trained.steps,
        "seeds": list(trained.engine.seeds),
        "data": {"name": data.name, "fingerprint": data.fingerprint, "rows": data.rows, "episodes": data.episodes},
        "evaluation": {
            "env": "a factory" if callable(plan.eval_env) else plan.eval_env,
            "every": plan.eval_every,
            "episodes": plan.eval_episodes,
            "seed": plan.eval_seed,
            **(described(evaluator) if evaluator else {}),  # among them the id, where there is one
        },
        "online": trained.online and {AFTER: trained.engine.phase_start, **trained.online.identity},
        "device": device_name(trained.device),
        "precision": trained.engine.execution.precision,
        "compiled": trained.engine.execution.compiled,
        "products": trained.products,
        "versions": versions(),
        "commit": commit(),
        "advice": trained.history.advice,
    }


def _results(trained: Trained, out: Path) -> None:
    """The numbers of a run in one file, and its curves as a picture where matplotlib is there."""
    history = trained.history
    result: dict[str, Any] = {
        "name": trained.stack.name,
        "tick": trained.engine.tick,
        "steps": trained.steps,
        "online_from": history.online_from,
        "seeds": list(trained.engine.seeds),
        "failures": {str(seed): failure._asdict() for seed, failure in history.failures.items()},
        "ticks_per_second": history.ticks_per_second,
        "seconds": history.seconds,
    }
    if history.counted:
        found = history.summary()
        result["measure"] = found.measure
        result |= {name: getattr(found, name).tolist() for name in ("last", "best", "last_ten")}
    result["evaluations"] = history.to_json()["evaluations"]
    write_json(out / RESULT, result)
    if len(history.evaluations) > 1:
        picture({trained.stack.name: history}, out / "curves.png")


def picture(runs: Mapping[str, History], path: Path) -> bool:
    """Draw runs' scores and adaptive quantities over ticks to a PNG; False where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        return False
    from adaptive_constraints.runs.plots import Curves, learning_curves

    measures = {summary(history.evaluations).measure for history in runs.values()}
    curves = {
        name: Curves(*history.scores(), {each: history.series(each) for each in history.adaptive})
        for name, history in runs.items()
    }
    learning_curves(curves, path, ylabel="normalised score" if measures == {"score"} else "episode return")
    return True
