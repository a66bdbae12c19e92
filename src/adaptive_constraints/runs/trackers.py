"""Runs on a tracker's dashboard: Weights & Biases and trackio, which have the same interface."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.errors import DependencyError, TrainingError
from adaptive_constraints.evaluation import Evaluation
from adaptive_constraints.runs.history import History
from adaptive_constraints.runs.loggers import Logger, evaluation_row
from adaptive_constraints.runs.settings import Tracker


class TrackerLogger(Logger):
    """Shows a run on a dashboard: ``fit(..., loggers=[TrackerLogger("trackio", project="hopper")])``.

    module: "wandb" (extra ``wandb``) or "trackio" (extra ``trackio``), whose ``init``, ``log`` and ``finish`` are used.
    project: under which the tracker keeps the run.
    name: of the run there; None: that of its stack and its data.
    init: further arguments of the module's ``init``, such as ``group=`` or, of Weights & Biases, ``mode="offline"``.

    It logs the config, and each metric and evaluation as the mean over the seeds that are not lost, ``critic/loss``,
    and for each of them, ``critic/loss/seed0``. A run that goes on goes on there as well, under the same project and
    name. Weights & Biases takes no steps that go back: what was logged there before a run was killed, and is trained
    again to the same bits, is left out, but for the last step, which stands there as one more. Raises
    `DependencyError` where the module is not installed.
    """

    def __init__(self, module: Tracker, *, project: str, name: str | None = None, **init: Any) -> None:
        if module not in get_args(Tracker) or not isinstance(project, str) or not project:
            raise TrainingError(
                f"TrackerLogger takes 'wandb' or 'trackio' and the name of a project, not {module!r} and {project!r}"
            )
        self._module = _imported(module)
        self._kind, self._project, self._name, self._init = module, project, name, init
        self._run: Any = None
        self._history = History()
        self._begun = self._next = 0
        """The step at which this part of the run begins, and the first that the tracker has not seen."""

    def on_start(self, config: Mapping[str, Any], history: History) -> None:
        """Begin the tracker's run, or go on with it."""
        self._history, self._begun = history, history.steps
        name = self._name or _name(config)
        goes_on = history.steps > (history.online_from or 0)
        self._run = self._module.init(
            **{"project": self._project, "name": name, "config": dict(config)}
            | self._resuming(name, config, goes_on)
            | self._init
        )
        self._next = getattr(self._run, "step", 0)

    def _resuming(self, name: str, config: Mapping[str, Any], goes_on: bool) -> dict[str, Any]:
        """How to find the run there again: trackio does so by name, Weights & Biases by an id."""
        if self._kind == "trackio":
            return {"resume": "allow" if goes_on else "never"}
        own = [config[entry] for entry in ("stack", "steps", "seeds", "data", "precision", "compiled", "online")]
        text = json.dumps([name, *own], sort_keys=True)
        found = {"id": hashlib.sha256(text.encode()).hexdigest()[:16]}
        return found | {"resume": "allow"} if goes_on else found

    def on_log(self, step: int, metrics: Mapping[str, NDArray[np.float64]]) -> None:
        """Metrics of the seeds that are not lost."""
        self._log(step, metrics)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Scores, returns and success of the seeds that are not lost."""
        self._log(evaluation.step, {name: np.array(values) for name, values in evaluation_row(evaluation).items()})

    def on_end(self, history: History) -> None:
        """Close the tracker's run."""
        if self._run is not None:
            self._run.finish()
            self._run = None

    def _log(self, step: int, metrics: Mapping[str, NDArray[np.float64]]) -> None:
        if self._begun < step < self._next - 1:  # logged before the run was killed
            return
        living, values = self._history.living, dict[str, float]()
        for name, numbers in metrics.items():
            if numbers.ndim == 0:
                values[name] = float(numbers)
            elif living:
                values[name] = float(numbers[living].mean())
                values |= {f"{name}/seed{self._history.seeds[i]}": float(numbers[i]) for i in living}
        self._run.log(values, step=max(step, self._next))


def _imported(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise DependencyError(
            f"logging to {module} was asked for, but it is not installed: pip install 'adaptive-constraints[{module}]'"
        ) from error


def _name(config: Mapping[str, Any]) -> str:
    """Such as "TD3BC + ASPC on bundled:hopper"."""
    stack = config["stack"]
    parts = " + ".join(part["type"] for part in (stack["learner"], *stack["adapters"]))
    phase = "" if config["online"] is None else ", online"
    return f"{parts} on {Path(config['data']['name']).name}{phase}"


__all__ = ["Tracker", "TrackerLogger"]
