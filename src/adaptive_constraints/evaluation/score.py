"""From returns to scores: one record per evaluation, and what a run of them amounts to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.data.references import SUCCESS, ReferenceScore
from adaptive_constraints.errors import EvaluationError
from adaptive_constraints.support.markup import table

#: How many evaluations, counted from the end, `Summary.last_ten` averages.
LAST = 10


@dataclass(frozen=True, repr=False)
class Evaluation:
    """P policies evaluated at one step.

    returns: [P, E] undiscounted returns of E episodes each, in the environment's units of reward.
    reference: the reference returns that scores are measured against; None where the task has none. With `SUCCESS`
        success rates are the scores.
    success: [P, E] success of these episodes; None where the environment does not say.
    """

    step: int
    returns: NDArray[np.float64]
    reference: ReferenceScore | None = None
    success: NDArray[np.bool_] | None = None

    @property
    def mean_return(self) -> NDArray[np.float64]:
        """[P] the mean over episodes; NaN for a policy that failed in one of them."""
        mean: NDArray[np.float64] = self.returns.mean(axis=1)
        return mean

    @property
    def score(self) -> NDArray[np.float64] | None:
        """[P] normalised scores (0: the reference's random policy, 100: its expert); None without a reference."""
        if self.reference is None:
            return None
        if self.reference == SUCCESS:
            return self.success_rate
        return self.reference.score(self.mean_return)

    @property
    def success_rate(self) -> NDArray[np.float64] | None:
        """[P] percentage of the episodes with success; NaN for a policy that failed; None where it is not known."""
        if self.success is None:
            return None
        return np.where(np.isnan(self.mean_return), np.nan, 100.0 * self.success.mean(axis=1))

    @property
    def measure(self) -> Literal["score", "return"]:
        """The name of what `measured` gives."""
        return "return" if self.reference is None else "score"

    @property
    def measured(self) -> NDArray[np.float64]:
        """[P] what policies are compared by: scores, or mean returns where there are none."""
        return self.mean_return if (score := self.score) is None else score

    def means(self, policies: Sequence[int] | None = None) -> str:
        """The means over these policies (None: all) in words, such as "score 55.3, success 40 %"."""
        kept = slice(None) if policies is None else list(policies)
        rate = "" if self.success_rate is None else f", success {self.success_rate[kept].mean():.0f} %"
        return f"{self.measure} {self.measured[kept].mean():.1f}{rate}"

    def __repr__(self) -> str:
        policies, episodes = self.returns.shape
        return f"Evaluation(step={self.step}, {policies} policies of {episodes} episodes: {self.means()} on average)"

    def _repr_html_(self) -> str:
        """A row for each policy, for notebooks."""
        columns = {"return": self.mean_return, "score": self.score, "success %": self.success_rate}
        known = {name: values for name, values in columns.items() if values is not None}
        rows = [[str(i), *(f"{values[i]:.1f}" for values in known.values())] for i in range(len(self.returns))]
        caption = f"evaluated at step {self.step}: {self.returns.shape[1]} episodes each"
        return table(caption, ["policy", *known], rows)


@dataclass(frozen=True)
class Summary:
    """Summary of a run's evaluations, per policy; [P] each, all in one measure.

    measure: "score" where a reference is known, else "return".
    last: at the last evaluation.
    best: the highest of all. Chosen by looking at the evaluations, it flatters; report ``last`` or ``last_ten``.
    last_ten: the mean over the last ten evaluations (over all, if there are fewer).
    success: the success rate in percent at the last evaluation; None where the environment does not say.
    """

    measure: Literal["score", "return"]
    last: NDArray[np.float64]
    best: NDArray[np.float64]
    last_ten: NDArray[np.float64]
    success: NDArray[np.float64] | None = None

    @property
    def columns(self) -> dict[str, NDArray[np.float64]]:
        """The same by the heads of a table."""
        known = {
            f"last {self.measure}": self.last,
            f"best {self.measure}": self.best,
            "mean of last ten": self.last_ten,
        }
        return known if self.success is None else known | {"last success %": self.success}


def summary(evaluations: Sequence[Evaluation]) -> Summary:
    """Summarise a run's evaluations, given in order of steps.

    A policy whose last evaluations are not finite has NaN for ``last`` and ``last_ten``; ``best`` ignores those.
    """
    if not evaluations:
        raise EvaluationError(
            "there is nothing to summarise, since the run was never evaluated: give fit eval_env='auto', the "
            "environment that the data was recorded in, or the id of another one; or call agent.evaluate()"
        )
    scores = [evaluation.score for evaluation in evaluations]
    known = [score for score in scores if score is not None]
    scored = len(known) == len(evaluations)
    values = np.stack(known if scored else [evaluation.mean_return for evaluation in evaluations])
    best, success = np.fmax.reduce(values), evaluations[-1].success_rate
    return Summary("score" if scored else "return", values[-1], best, values[-LAST:].mean(axis=0), success)
