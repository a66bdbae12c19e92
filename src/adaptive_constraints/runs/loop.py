"""The loop around the engine: when to log, evaluate, save and stop."""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from adaptive_constraints.data import Dataset
from adaptive_constraints.engine.metrics import Failure
from adaptive_constraints.errors import TrainingError
from adaptive_constraints.evaluation import Evaluator
from adaptive_constraints.runs.compiling import remember
from adaptive_constraints.runs.evaluating import evaluate, evaluator_of
from adaptive_constraints.runs.file import write_run
from adaptive_constraints.runs.folder import CHECKPOINT, CONFIG, config_of, write_results
from adaptive_constraints.runs.loggers import FolderLogger, Loggers
from adaptive_constraints.runs.run import Run
from adaptive_constraints.runs.settings import RunSettings
from adaptive_constraints.support.cpu import tuned
from adaptive_constraints.support.files import locked
from adaptive_constraints.support.progress import Progress
from adaptive_constraints.support.records import write_record
from adaptive_constraints.support.stopping import Stopped, asked, explain, stoppable

_ABSURD = 1e4
"""How many times what is usual a number must be for a run that was lost to be put down to it."""


class DataWarning(UserWarning):
    """Something about the data is doubtful; it is trained on all the same."""


class LostSeedWarning(UserWarning):
    """A seed's losses are no longer finite; the others go on."""


_training = threading.RLock()
"""Held by the thread that trains: the tracer, and what `support.cpu` sets, are one for a whole process."""


@contextmanager
def at_work(folder: Path | None) -> Iterator[None]:
    """Keep other threads from training and other processes out of the run folder, and let signals wait.

    Raises `TrainingError` or `FileError` where somebody does already.
    """
    if not _training.acquire(blocking=False):
        raise TrainingError(
            "another thread of this process is training: wait until it has ended, train several seeds at once by "
            "seeds=, or use a process for each run, as `bench` does"
        )
    try:
        with stoppable(saving=folder is not None), nullcontext() if folder is None else locked(folder):
            yield
    finally:
        _training.release()


def fit(run: Run, settings: RunSettings, kept: bool) -> TrainingError | None:
    """Take ``run`` on to where the settings stop it, keeping its history and the run folder up to date.

    kept: it stands as the checkpoint in the run folder has it.

    To be called inside `at_work`. Where a stop is asked for it returns early, with everything saved; so it does where a
    logger fails, whose failure it returns.
    """
    env, episodes, seed = settings.eval_env, settings.eval_episodes, settings.eval_seed
    begun = run.engine.step
    with nullcontext() if env is None else evaluator_of(run, env, episodes, seed, settings.eval_max_steps) as evaluator:
        config = config_of(run, settings, evaluator) if settings.folder or settings.loggers else {}
        own = [] if settings.folder is None else [_open_folder(run, settings, settings.folder, config, kept)]
        loggers = Loggers([*own, *settings.loggers])
        progress = Progress(run.stack.name, run.engine.horizon, run.engine.step, settings.progress)
        try:
            with progress, tuned(run.device, run.products), run.environments() as notes:
                said = [*run.warnings, *(evaluator.notes if evaluator else []), *notes]
                for text in dict.fromkeys(said):
                    progress.say(f"note: {text}")
                run.engine.say = progress.say
                loggers.start(config, run.history)
                if not loggers.stopping:
                    Loop(run, settings, evaluator, loggers, progress).run()
                if loggers.asked and run.engine.step < run.engine.horizon:
                    progress.say(_stopped(run, settings.folder, f", as {loggers.asked} asked for"))
        finally:
            loggers.end(run.history)
    if run.engine.execution.compiled and run.engine.step > begun:
        remember(run.identity)
    if settings.folder is not None:
        write_results(run, settings.folder)
    if asked():
        explain(_stopped(run, settings.folder))
    return loggers.failure(_stopped(run, settings.folder))


def _open_folder(run: Run, settings: RunSettings, folder: Path, config: Mapping[str, Any], kept: bool) -> FolderLogger:
    """Let the run folder say which run it is of and where that stands, and open its metrics."""
    if not kept and run.begun:
        write_run(run, folder / CHECKPOINT)
    write_record(folder / CONFIG, config)
    return FolderLogger(folder, run.history, settings.tensorboard)


def _stopped(run: Run, folder: Path | None, why: str = "") -> str:
    file = None if folder is None else folder / CHECKPOINT
    where = f"in {file}" if file is not None and file.is_file() else "in this agent"
    on = "" if run.engine.step == run.engine.horizon else ", and the same call or command goes on from there"
    return f"stopped at step {run.engine.step} of {run.engine.horizon}{why}: all of it is kept {where}{on}"


def say_advice(advice: Sequence[str], progress: bool) -> None:
    """Say what is doubtful about the data: with the progress, or else as one `DataWarning`."""
    if progress:
        for text in advice:
            print(f"data: {text}", file=sys.stderr, flush=True)
    elif advice:
        warnings.warn(f"doubtful data: {'; '.join(advice)}", DataWarning, stacklevel=5)


class Loop:
    """One call of `fit` at work."""

    def __init__(
        self, run: Run, settings: RunSettings, evaluator: Evaluator | None, loggers: Loggers, progress: Progress
    ) -> None:
        self._run, self._settings, self._evaluator = run, settings, evaluator
        self._loggers, self._progress = loggers, progress
        self._last = run.engine.horizon
        if settings.stop_after is not None:
            warm_up = 0 if run.online is None else run.online.settings.warm_up
            self._last = run.engine.phase_start + settings.stop_after - warm_up

    def run(self) -> None:
        """Take the run on; the loop leaves it saved."""
        engine, settings, history = self._run.engine, self._settings, self._run.history
        self._make_up()
        if engine.step < self._last and not self._stopping() and self._run.online is None:  # online no rows are there
            engine.record_ahead()  # whose time is none of the steps'
        while engine.step < self._last and not self._stopping():
            before, started = engine.step, time.perf_counter()
            self._steps(self._next_stop(before))
            engine.synchronize()
            history.seconds += time.perf_counter() - started
            history.steps = engine.step
            if engine.step == before:  # stopped at once, or while it only collects
                self._save()
                return
            self._note_failures()
            if self._due(settings.log_every):
                self._log_metrics()
            if self._evaluator is not None and self._due(settings.eval_every):
                self._evaluate(self._evaluator)
            if self._due(settings.checkpoint_every) or engine.step == self._last or self._stopping():
                self._save()

    def _stopping(self) -> bool:
        return asked() or self._loggers.stopping

    def _save(self) -> None:
        if self._settings.folder is not None:
            path = self._settings.folder / CHECKPOINT
            write_run(self._run, path)
            self._loggers.checkpoint(self._run.engine.step, path)

    def _make_up(self) -> None:
        """Make up for the evaluation that was broken off where the run stopped."""
        history = self._run.history
        due, history.unevaluated = history.unevaluated == self._run.engine.step, None
        if due and self._evaluator is not None:
            self._evaluate(self._evaluator)
            self._save()

    def _next_stop(self, step: int) -> int:
        """The next step at which something is due; intervals count from the beginning of the phase."""
        first, last = self._run.engine.phase_start, self._run.engine.horizon
        intervals = [self._settings.log_every, self._settings.eval_every, self._settings.checkpoint_every]
        return min([self._last, last, *(first + ((step - first) // i + 1) * i for i in intervals)])

    def _steps(self, target: int) -> None:
        """Run up to ``target`` or to where a stop is asked for, in portions small enough for a smooth bar."""
        engine = self._run.engine
        while engine.step < target and not asked():
            self._run.advance(min(100, target - engine.step), asked)
            self._progress.update(engine.step)

    def _due(self, interval: int) -> bool:
        engine = self._run.engine
        return (engine.step - engine.phase_start) % interval == 0 or engine.step == engine.horizon

    def _note_failures(self) -> None:
        """Lost seeds: by what was logged first of all, otherwise by the parameters themselves."""
        engine, history = self._run.engine, self._run.history
        broken = self._run.not_finite().items()
        failures = {place: Failure(engine.step, name) for name, places in reversed(broken) for place in places}
        for position, failure in (failures | engine.metrics.failures()).items():
            seed = engine.seeds[position]
            if seed not in history.failures:
                history.failures[seed] = failure
                text = f"seed {seed} is lost: {failure.term} was not finite at step {failure.step}; it no longer counts"
                warnings.warn(text, LostSeedWarning, stacklevel=2)
                self._progress.say(text)
        if len(history.failures) == len(engine.seeds):
            raise TrainingError(self._all_lost())

    def _all_lost(self) -> str:
        first = min(self._run.history.failures.values())
        out = self._settings.folder
        kept = out is not None and (out / CHECKPOINT).is_file()
        where = f"the last good checkpoint is {out / CHECKPOINT}" if out and kept else "no checkpoint had been written"
        absurd = [] if self._run.dataset is None else absurd_numbers(self._run.dataset)
        remedy = (
            f"This comes from the data: {'; '.join(absurd)}. Repair or drop such rows"
            if absurd
            else "Try a smaller learning rate, or a larger weight on the constraint"
        )
        return (
            f"all seeds of {self._run.stack.name} are lost, the first at step {first.step}, where {first.term} was "
            f"not finite; {where}. {remedy}"
        )

    def _log_metrics(self) -> None:
        engine, history = self._run.engine, self._run.history
        diagnosed = {name: values.tolist() for name, values in engine.diagnose().items()}
        history.adaptive = list(diagnosed)
        row = engine.metrics.flush() | diagnosed
        if self._run.online is not None:
            row |= self._run.online.collector.flush()
        history.metrics.append({"step": engine.step, **row})
        history.rates.append(history.steps_per_second)
        self._loggers.log(history.metrics[-1] | {"steps_per_second": history.steps_per_second})

    def _evaluate(self, evaluator: Evaluator) -> None:
        run, step = self._run, self._run.engine.step
        try:
            evaluation = evaluate(run, evaluator, stopping=asked)
        except Stopped:  # it changes nothing, so that it can be made up for
            run.history.unevaluated = step
            return
        run.history.evaluations.append(evaluation)
        self._progress.note(evaluation.means(run.history.living))
        self._loggers.evaluation(evaluation)


def absurd_numbers(dataset: Dataset) -> list[str]:
    """Say of each column which number is beyond all measure of the others."""
    absurd = []
    for name in ("rewards", "observations", "next_observations"):
        sizes = np.abs(getattr(dataset, name)).reshape(len(dataset), -1).max(1)
        usual = float(np.median(sizes[sizes > 0])) if sizes.any() else 0.0
        row = int(sizes.argmax())
        if sizes[row] > _ABSURD * max(1.0, usual):
            absurd.append(f"{name} reach {sizes[row]:.3g} in row {row}, where {usual:.3g} is usual")
    return absurd


__all__ = ["DataWarning", "Loop", "LostSeedWarning", "absurd_numbers", "at_work", "fit", "say_advice"]
