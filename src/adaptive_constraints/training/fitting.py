"""The loop around the engine: when to log, evaluate, save and stop."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints._files import check_folder
from adaptive_constraints.data.environments import EnvSource
from adaptive_constraints.errors import CheckpointError, TrainingError
from adaptive_constraints.evaluation import Evaluation, Evaluator, summary
from adaptive_constraints.training.cpu import tuned
from adaptive_constraints.training.evaluating import described, evaluate, evaluator_of
from adaptive_constraints.training.history import History
from adaptive_constraints.training.progress import Progress
from adaptive_constraints.training.records import MetricsLog, commit, device_name, versions, write_json
from adaptive_constraints.training.trained import Identity, Trained

CHECKPOINT, CONFIG = "checkpoint.npz", "config.json"
AFTER = "after tick"
"""Where an online phase began, in the settings of a run folder."""


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


def fit(trained: Trained, plan: Plan) -> None:
    """Run ``trained`` on to where the plan stops, keeping its history and the run folder up to date."""
    evaluator = None
    if plan.eval_env:
        evaluator = evaluator_of(trained, plan.eval_env, plan.eval_episodes, plan.eval_seed, plan.eval_max_steps)
    try:
        log = None
        if plan.out is not None:
            log = MetricsLog(plan.out, resumed_tick=trained.engine.tick, tensorboard=plan.tensorboard)
            if log.path.stat().st_size == 0:  # a folder that the run has not been in before
                _tell(log, trained.history)
            write_json(plan.out / CONFIG, _config(trained, plan, evaluator))
        progress = Progress(trained.stack.name, trained.engine.horizon, trained.engine.tick, plan.progress)
        try:
            with progress, tuned(trained.device, trained.products), trained.environments() as notes:
                said = [*trained.engine.resolved.warnings, *(evaluator.notes if evaluator else []), *notes]
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
        if not (plan.out / CHECKPOINT).is_file():  # a run that was complete before it got this folder
            trained.write(plan.out / CHECKPOINT)
        _results(trained, plan.out)


def begun(folder: Path) -> Identity | None:
    """Which run wrote the settings in a folder; None where there are none.

    Raises `CheckpointError` for a file of that name which no run wrote.
    """
    file = folder / CONFIG
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        online = found["online"] and {name: value for name, value in found["online"].items() if name != AFTER}
        stack, seeds, fingerprint = found["stack"], tuple(found["seeds"]), found["data"]["fingerprint"]
        return Identity(stack, found["steps"], seeds, fingerprint, found["precision"], found["compiled"], online)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file} is not of a run of this library: use another folder") from error


class _Loop:
    def __init__(
        self, trained: Trained, plan: Plan, evaluator: Evaluator | None, log: MetricsLog | None, progress: Progress
    ) -> None:
        self._trained, self._plan, self._evaluator = trained, plan, evaluator
        self._log, self._progress = log, progress
        self._last = trained.engine.phase_start + plan.stop_after

    def run(self) -> None:
        engine, plan, history = self._trained.engine, self._plan, self._trained.history
        while engine.tick < self._last:
            target = self._next_stop(engine.tick)
            started = time.perf_counter()
            self._ticks(target)
            engine.synchronize()
            history.seconds += time.perf_counter() - started
            history.ticks = engine.tick
            self._note_failures()
            if self._due(plan.log_every):
                self._log_metrics()
            if self._evaluator is not None and self._due(plan.eval_every):
                self._evaluate(self._evaluator)
            if plan.out is not None and (self._due(plan.checkpoint_every) or engine.tick == self._last):
                self._trained.write(plan.out / CHECKPOINT)

    def _next_stop(self, tick: int) -> int:
        """The next tick at which something is due; intervals count from the beginning of the phase."""
        first, last = self._trained.engine.phase_start, self._trained.engine.horizon
        intervals = [self._plan.log_every, self._plan.eval_every, self._plan.checkpoint_every]
        return min([self._last, last, *(first + ((tick - first) // i + 1) * i for i in intervals)])

    def _ticks(self, target: int) -> None:
        """Up to ``target``, in portions small enough for a smooth bar."""
        engine = self._trained.engine
        while engine.tick < target:
            self._trained.run(min(100, target - engine.tick))
            self._progress.update(engine.tick)

    def _due(self, interval: int) -> bool:
        engine = self._trained.engine
        return (engine.tick - engine.phase_start) % interval == 0 or engine.tick == engine.horizon

    def _note_failures(self) -> None:
        engine, history = self._trained.engine, self._trained.history
        for position, failure in engine.metrics.failures().items():
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
        return (
            f"all seeds of {self._trained.stack.name} are lost, the first at tick {first.tick}, where {first.term} was "
            f"not finite; {where}. Try a smaller learning rate, or a larger weight on the constraint"
        )

    def _log_metrics(self) -> None:
        engine, history = self._trained.engine, self._trained.history
        diagnosed = {name: values.tolist() for name, values in engine.diagnose().items()}
        history.adaptive = list(diagnosed)
        row = engine.metrics.flush() | diagnosed
        if self._trained.online is not None:
            row |= self._trained.online.collector.flush()
        history.metrics.append({"tick": engine.tick, **row})
        if self._log is not None:
            self._log.append(engine.tick, row | {"ticks_per_second": history.ticks_per_second})

    def _evaluate(self, evaluator: Evaluator) -> None:
        trained, tick = self._trained, self._trained.engine.tick
        evaluation = evaluate(trained, evaluator)
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


def _tell(log: MetricsLog, history: History) -> None:
    """Write down what happened before."""
    rows = [*history.metrics, *({"tick": each.tick, **_row(each)} for each in history.evaluations)]
    for row in sorted(rows, key=lambda row: row["tick"]):
        log.append(row["tick"], row)


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
    write_json(out / "result.json", result)
    if len(history.evaluations) > 1:
        picture({trained.stack.name: history}, out / "curves.png")


def picture(runs: Mapping[str, History], path: Path) -> bool:
    """Draw runs' scores and adaptive quantities over ticks to a PNG; False where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        return False
    from adaptive_constraints.training.plots import Curves, learning_curves

    measures = {summary(history.evaluations).measure for history in runs.values()}
    curves = {
        name: Curves(*history.scores(), {each: history.series(each) for each in history.adaptive})
        for name, history in runs.items()
    }
    learning_curves(curves, path, ylabel="normalised score" if measures == {"score"} else "episode return")
    return True
