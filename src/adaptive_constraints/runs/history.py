"""The course of a run, kept with the agent and in its checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.data.references import ReferenceScore
from adaptive_constraints.engine.metrics import Failure
from adaptive_constraints.errors import EvaluationError
from adaptive_constraints.evaluation import Evaluation, Summary, summary
from adaptive_constraints.runs.plots import Curves, drawn, save_figure
from adaptive_constraints.support.markup import table
from adaptive_constraints.support.typed import check

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(repr=False)
class History:
    """Metrics at log points, evaluations, lost seeds, and the time that training took."""

    seeds: tuple[int, ...] = ()
    """The seeds of the run, in the order of every list with one entry per seed."""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    """Rows {"step": t, name: [S] averages since the row before}."""
    rates: list[float] = field(default_factory=list)
    """Steps per second, as far as was known at each of these rows."""
    evaluations: list[Evaluation] = field(default_factory=list)
    failures: dict[int, Failure] = field(default_factory=dict)
    """By seed: the step and the term that was the first not to be finite. Such a seed no longer counts."""
    adaptive: list[str] = field(default_factory=list)
    """Names of the metrics that adapters diagnose: their adaptive quantities."""
    seconds: float = 0.0
    """Spent in steps, evaluations apart."""
    steps: int = 0
    online_from: int | None = None
    """The step after which the online phase began; None: it did not."""
    unevaluated: int | None = None
    """The step at which an evaluation was broken off, to be made up for when the run goes on; None: at none."""
    advice: list[str] = field(default_factory=list)
    """Doubts about the data, as they were said when the run began."""

    @property
    def steps_per_second(self) -> float:
        """Steps of all seeds together, per second."""
        return self.steps / self.seconds if self.seconds else float("nan")

    def series(self, name: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Steps [T] and values [T, S] of one metric, such as ``aspc/scale``."""
        rows = [row for row in self.metrics if name in row]
        return np.array([row["step"] for row in rows]), np.array([row[name] for row in rows], dtype=np.float64)

    def scores(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Steps [T] and normalised scores [T, S] (mean returns where the task has no reference)."""
        values = [evaluation.measured for evaluation in self.evaluations]
        return np.array([e.step for e in self.evaluations]), np.array(values, dtype=np.float64)

    @property
    def counted(self) -> list[Evaluation]:
        """The evaluations that say how the run went: once it is online, only those of that phase."""
        return [e for e in self.evaluations if self.online_from is None or e.step > self.online_from]

    def summary(self) -> Summary:
        """Last score, best score, mean of the last ten, per seed, of those that count."""
        return summary(self.counted)

    @property
    def living(self) -> list[int]:
        """Positions of the seeds that are not lost."""
        return [position for position, seed in enumerate(self.seeds) if seed not in self.failures]

    # -- showing --------------------------------------------------------------------------------------------------

    @property
    def curves(self) -> Curves:
        """Scores and adaptive quantities over steps, to be drawn."""
        return Curves(*self.scores(), {name: self.series(name) for name in self.adaptive})

    def plot(
        self, path: str | Path | None = None, *, title: str | None = None, own: float | None = None
    ) -> Figure | Path:
        """Draw scores (returns where there are none) and adaptive quantities over steps.

        path: a picture to write (.png, .pdf, .svg), and then to return; None returns the figure, which notebooks show.
        own: the score, or the return, of the data's own episodes, drawn as a level line.

        Raises `EvaluationError` where nothing was evaluated, `DependencyError` without matplotlib (extra ``plots``).
        """
        if not self.evaluations:
            raise EvaluationError("there is nothing to draw: the run was never evaluated; give fit an eval_env")
        unit = "normalised score" if summary(self.evaluations).measure == "score" else "episode return"
        figure = drawn(self.curves, title=title, ylabel=unit, own=own)
        return figure if path is None else save_figure(figure, path)

    def headline(self) -> str:
        """Its seeds, and how they did at last, in one line."""
        count = f"{len(self.seeds)} seed{'' if len(self.seeds) == 1 else 's'}"
        lost = f", {len(self.failures)} lost" if self.failures else ""
        if not self.counted:
            return f"{count}{lost}, not evaluated"
        last = self.counted[-1].means(self.living) if self.living else "none is left"
        return f"{count}{lost}, evaluated {len(self.counted)} times: at last {last}"

    def __repr__(self) -> str:
        return f"History({self.steps} steps of {self.headline()})"

    def html(self, caption: str) -> str:
        """A small table under a caption, seed by seed."""
        columns = self.summary().columns if self.counted else {}
        shown = {name: [f"{value:.1f}" for value in values] for name, values in columns.items()}
        if self.failures:
            lost = [self.failures.get(seed) for seed in self.seeds]
            shown["lost at step"] = ["" if failure is None else str(failure.step) for failure in lost]
        rows = [[str(seed), *(values[i] for values in shown.values())] for i, seed in enumerate(self.seeds)]
        return table(caption, ["seed", *shown], rows)

    def _repr_html_(self) -> str:
        return self.html(f"{self.steps} steps of {self.headline()}")

    def lost(self, seed: int) -> str:
        """Say where a seed was lost; "" for one that is not."""
        failure = self.failures.get(seed)
        return f"lost at step {failure.step}: {failure.term} was not finite" if failure else ""

    # -- saving ---------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """A plain tree that `from_json` reads."""
        return {
            "metrics": self.metrics,
            "rates": self.rates,
            "evaluations": [
                {
                    "step": e.step,
                    "returns": e.returns.tolist(),
                    "reference": e.reference and asdict(e.reference),
                    **({} if e.success is None else {"success": e.success.tolist()}),
                }
                for e in self.evaluations
            ],
            "failures": {str(seed): list(failure) for seed, failure in self.failures.items()},
            "adaptive": self.adaptive,
            "seconds": self.seconds,
            "steps": self.steps,
            "online_from": self.online_from,
            "unevaluated": self.unevaluated,
            "advice": self.advice,
        }

    @staticmethod
    def from_json(tree: Any, seeds: Sequence[int], step: int) -> History:
        """The history that `to_json` described, of a run of these seeds at this step.

        Raises `ValueError` where it can be none.
        """
        check(tree, _Plain, "history", finite=False)
        history = History(
            seeds=tuple(seeds),
            metrics=tree["metrics"],
            rates=tree["rates"],
            evaluations=[
                Evaluation(
                    entry["step"],
                    np.array(entry["returns"], dtype=np.float64),
                    ReferenceScore(**entry["reference"]) if entry["reference"] else None,
                    np.array(entry["success"], dtype=np.bool_) if "success" in entry else None,
                )
                for entry in tree["evaluations"]
            ],
            failures={int(seed): Failure(*failure) for seed, failure in tree["failures"].items()},
            adaptive=tree["adaptive"],
            seconds=tree["seconds"],
            steps=tree["steps"],
            online_from=tree["online_from"],
            unevaluated=tree["unevaluated"],
            advice=tree["advice"],
        )
        history._check(seeds, step)
        return history

    def _check(self, seeds: Sequence[int], step: int) -> None:
        steps = [row.get("step") for row in self.metrics]
        steps += [e.step for e in self.evaluations] + [failure.step for failure in self.failures.values()]
        if not all(type(number) is int and 0 <= number <= step for number in steps):
            raise ValueError(f"its history names steps that are none between 0 and {step}")
        if len(self.rates) != len(self.metrics):
            raise ValueError("its history has not one rate for each row of metrics")
        lists = [values for row in self.metrics for values in row.values() if isinstance(values, list)]
        if any(len(values) != len(seeds) for values in lists):
            raise ValueError(f"its history has metrics of another number of seeds than {len(seeds)}")
        if any(e.returns.ndim != 2 or len(e.returns) != len(seeds) for e in self.evaluations):
            raise ValueError(f"its history has evaluations of another number of seeds than {len(seeds)}")
        if any(e.success is not None and e.success.shape != e.returns.shape for e in self.evaluations):
            raise ValueError("its history has success of other episodes than returns")
        if not set(self.failures) <= set(seeds):
            raise ValueError("its history names lost seeds that it has not")


class _Success(TypedDict, total=False):
    success: list[list[bool]]


class _Evaluation(_Success):
    step: int
    returns: list[list[float]]
    reference: ReferenceScore | None


class _Plain(TypedDict):
    """The tree that `History.to_json` gives."""

    metrics: list[dict[str, float | list[float]]]
    rates: list[float]
    evaluations: list[_Evaluation]
    failures: dict[str, list[int | str]]
    adaptive: list[str]
    seconds: float
    steps: int
    online_from: int | None
    unevaluated: int | None
    advice: list[str]
