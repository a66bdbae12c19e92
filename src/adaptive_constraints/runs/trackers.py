"""Runs on a tracker's dashboard: Weights & Biases and trackio, which have the same interface."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import import_module
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.data.sources.loaders import without_folders
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
    and for each of them, ``critic/loss/seed0``. A run that goes on goes on there as well: it is found by a digest of
    name, stack, data, seeds and settings, which trackio shows behind the name. The same run trained again from its
    beginning replaces the earlier one at Weights & Biases; trackio keeps both, the later one under a name of its own
    making: pass another ``name`` to tell them apart. Steps that Weights & Biases has already are skipped; the last of
    them is logged once more, one step later. Raises `DependencyError` where the module is not installed.
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
        name, digest = self._name or _name(config), _digest(self._name, config)
        self._run = self._module.init(
            **{"project": self._project, "config": dict(config)}
            | self._found_by(name, digest, goes_on=history.steps > (history.online_from or 0))
            | self._init
        )
        self._next = getattr(self._run, "step", 0)

    def _found_by(self, name: str, digest: str, *, goes_on: bool) -> dict[str, Any]:
        """How to name the run there, and to find it again: trackio does so by name, Weights & Biases by an id."""
        if self._kind == "trackio":
            return {"name": f"{name} ({digest[:6]})", "resume": "allow" if goes_on else "never"}
        return {"name": name, "id": digest} | ({"resume": "allow"} if goes_on else {})

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
    return f"{parts} on {without_folders(config['data']['name'])}{phase}"


def _digest(name: str | None, config: Mapping[str, Any]) -> str:
    """Sixteen digits that tell runs apart: of the name that was given and of what the run is."""
    own = {entry: config[entry] for entry in ("stack", "steps", "seeds", "precision", "compiled", "online")}
    text = json.dumps([name, config["data"]["fingerprint"], own], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


__all__ = ["TrackerLogger"]
