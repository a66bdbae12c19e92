"""Watching a run: what a logger is told, and how a run passes that on to all of its loggers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.errors import TrainingError
from adaptive_constraints.evaluation import Evaluation
from adaptive_constraints.runs.history import History
from adaptive_constraints.support.records import MetricsLog


class Logger:
    """Watches a run: a subclass overrides the methods that it needs, and `Agent.fit` takes it among its ``loggers``.

    A run of S seeds calls them in its own thread, always between two steps. A logger changes nothing that is learned
    and is no part of what a run is: the same run may go on with other loggers, or with none. One that raises does not
    lose the run: it is saved, then `TrainingError` says which logger and which method it was.

    >>> from adaptive_constraints import Logger, load_dataset, wrap
    >>> from adaptive_constraints.baselines import TD3BC
    >>> class StopEarly(Logger):
    ...     def on_log(self, step, metrics):
    ...         return bool((metrics["critic/loss"] < 1e6).all())
    >>> agent = wrap(TD3BC(hidden=8))
    >>> options = {"steps": 40, "log_every": 10, "seeds": 2, "progress": False}
    >>> history = agent.fit(load_dataset("bundled:hopper"), loggers=[StopEarly()], **options)
    >>> agent.step
    10
    """

    def on_start(self, config: Mapping[str, Any], history: History) -> None:
        """The run begins, or goes on after ``history.steps`` steps.

        config: what ``config.json`` holds, in plain values: stack, seeds, steps, data, evaluation, versions.
        history: of the run so far, seeds among it. It grows with the run: to be read at any time, not to be changed.
        """

    def on_log(self, step: int, metrics: Mapping[str, NDArray[np.float64]]) -> bool | None:
        """Every ``log_every`` steps; True stops the run at this step as Ctrl-C does: the same call goes on from there.

        metrics: name -> [S], a number for each seed: averages since the last time, and the adaptive quantities as they
            stand. ``steps_per_second`` is one number: [].
        """

    def on_evaluation(self, evaluation: Evaluation) -> bool | None:
        """After each evaluation, with the returns [S, E] of E episodes per seed; True stops the run as in `on_log`."""

    def on_checkpoint(self, step: int, path: Path) -> None:
        """Once a checkpoint is written, which happens in runs with a run folder only."""

    def on_end(self, history: History) -> None:
        """The run has ended, stopped or failed: the last call, which comes however it ended."""


class FolderLogger(Logger):
    """Keeps the metrics of a run in its folder: ``metrics.jsonl``, ``metrics.csv``, and TensorBoard's events."""

    def __init__(self, folder: Path, history: History, tensorboard: bool) -> None:
        """``history`` is what the files begin with; `DependencyError` where TensorBoard is wanted and not there."""
        self.folder, step = folder, history.steps
        self._log = MetricsLog(folder, before=_told(history), resumed_step=step, tensorboard=tensorboard)

    def on_log(self, step: int, metrics: Mapping[str, NDArray[np.float64]]) -> None:
        """A row of metrics."""
        self._log.append(step, metrics)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """A row of scores or returns."""
        self._log.append(evaluation.step, evaluation_row(evaluation))

    def on_end(self, history: History) -> None:
        """The table of all rows."""
        self._log.close()


class Loggers:
    """All loggers of a run as one. Whoever fails or asks for a stop ends the run at this step."""

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self._loggers = list(loggers)
        self.asked = ""
        """The method that asked for a stop, such as "StopEarly.on_log"; "" where none did."""
        self._failed = ""
        """What failed first, and how; "" where nothing did."""
        self._cause: Exception | None = None

    @property
    def stopping(self) -> bool:
        """Tell whether the run is to end at this step."""
        return bool(self.asked or self._failed)

    def start(self, config: Mapping[str, Any], history: History) -> None:
        """Tell how the run begins."""
        self._tell("on_start", config, history)

    def log(self, row: Mapping[str, Any]) -> None:
        """Tell of a row of metrics, its step among them."""
        metrics = {name: np.array(values, np.float64) for name, values in row.items() if name != "step"}
        self._tell("on_log", row["step"], metrics)

    def evaluation(self, evaluation: Evaluation) -> None:
        """Tell of an evaluation."""
        self._tell("on_evaluation", evaluation)

    def checkpoint(self, step: int, path: Path) -> None:
        """Tell of a checkpoint."""
        self._tell("on_checkpoint", step, path)

    def end(self, history: History) -> None:
        """Tell that it is over."""
        self._tell("on_end", history)

    def _tell(self, method: str, *told: Any) -> None:
        for logger in self._loggers:
            who = f"{type(logger).__name__}.{method}"
            try:
                answer = getattr(logger, method)(*told)
                if answer is not None and not isinstance(answer, bool | np.bool_):
                    raise TypeError(f"it returned {answer!r}, but True (stop), False or None is needed")
            except Exception as error:
                if not self._failed:
                    self._failed, self._cause = _failure(logger, who, error), error
            else:
                self.asked = self.asked or (who if answer else "")

    def failure(self, stopped: str) -> TrainingError | None:
        """What to raise once the run is saved, with words on where it stopped; None where all went well."""
        if not self._failed:
            return None
        error = TrainingError(f"{self._failed}; the run {stopped}")
        error.__cause__ = self._cause
        return error


def _failure(logger: Logger, who: str, error: Exception) -> str:
    """Say what failed; of our own logger, which users do not know, by the folder, which they do."""
    if isinstance(logger, FolderLogger):
        return f"metrics cannot be written to {logger.folder} ({error})"
    return f"the logger's {who} raised {type(error).__name__}: {error}"


def evaluation_row(evaluation: Evaluation) -> dict[str, list[float]]:
    """The numbers of an evaluation by name, one for each seed."""
    rate = evaluation.success_rate
    success = {} if rate is None else {"eval/success": rate.tolist()}
    return {
        f"eval/{evaluation.measure}": evaluation.measured.tolist(),
        "eval/returns": evaluation.mean_return.tolist(),
        **success,
    }


def _told(history: History) -> list[dict[str, Any]]:
    """Rows that were logged before, in their order."""
    rated = zip(history.metrics, history.rates, strict=True)
    rows = [row | {"steps_per_second": rate} for row, rate in rated]
    rows += [{"step": evaluation.step, **evaluation_row(evaluation)} for evaluation in history.evaluations]
    return sorted(rows, key=lambda row: row["step"])


__all__ = ["FolderLogger", "Logger", "Loggers", "evaluation_row"]
