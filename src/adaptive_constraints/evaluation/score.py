"""From returns to scores: one record per evaluation, and what a run of them amounts to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.data.references import SUCCESS, ReferenceScore
from adaptive_constraints.errors import EvaluationError

#: How many evaluations, counted from the end, `Summary.last_ten` averages.
LAST = 10


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Summary:
    """Summary of a run's evaluations, per policy; [P] each, all in one measure.

    measure: "score" where a reference is known, else "return".
    last: at the last evaluation.
    best: the highest of all. Chosen by looking at the evaluations, it flatters; report ``last`` or ``last_ten``.
    last_ten: the mean over the last ten evaluations (over all, if there are fewer).
    """

    measure: Literal["score", "return"]
    last: NDArray[np.float64]
    best: NDArray[np.float64]
    last_ten: NDArray[np.float64]


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
    best = np.fmax.reduce(values)
    return Summary("score" if scored else "return", values[-1], best, values[-LAST:].mean(axis=0))
