"""Frozen policies to choose among, and what they do at the observations of a data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.data.columns import chunks
from adaptive_constraints.errors import EvaluationError
from adaptive_constraints.runs.run import Run

Acting: TypeAlias = Callable[[NDArray[Any], int], NDArray[Any]]
"""``act(observations [N, D], part) -> actions [S, N, A]``, both raw; ``part`` keys the noise of a random policy."""


@dataclass(frozen=True)
class Policies:
    """The S policies of one training, one per seed, or any others that act together."""

    name: str
    """Such as the path of a run folder."""
    seeds: tuple[int, ...]
    """[S]"""
    act: Acting
    discount: float = 0.99
    """Discount per environment step that the policies were trained for."""
    lost: Mapping[int, str] = field(default_factory=dict)
    """By seed, why it has no policy."""

    def at(self, observations: NDArray[Any], actions: int) -> NDArray[np.float32]:
        """Actions [S, N, A] at raw observations [N, D]; not finite where a lost seed acts.

        actions: A. Raises `EvaluationError` for answers of another shape.
        """
        answers = np.empty((len(self.seeds), len(observations), actions), np.float32)
        for number, part in enumerate(chunks(len(observations))):
            answer = np.asarray(self.act(observations[part], number))
            wanted = (len(self.seeds), len(observations[part]), actions)
            if answer.shape != wanted:
                raise EvaluationError(
                    f"{self.name}: its policies answer actions of shape {answer.shape}, but {wanted} (seeds, "
                    "observations, action dimensions) is needed for this data: name the data that it was trained on"
                )
            answers[:, part] = answer
        return answers


def policies_of(run: Run, name: str) -> Policies:
    """The policies of a run as evaluations roll them out."""
    seeds, sizes, bounds = run.engine.seeds, run.spec, run.expected

    def act(observations: NDArray[Any], part: int) -> NDArray[np.float32]:
        if observations.shape[-1] != sizes.observation_dim:
            raise EvaluationError(
                f"{name} was trained on observations of {sizes.observation_dim} dimensions, but this data has "
                f"{observations.shape[-1]}: name the data that it was trained on, or other data of its environment"
            )
        actions = run.act(observations[None].repeat(len(seeds), axis=0), part)
        return actions.clip(bounds.action_low, bounds.action_high)  # as environments get them

    lost = {seed: run.history.lost(seed) for seed in run.history.failures}
    return Policies(name, seeds, act, run.stack.learner.discount, lost)


__all__ = ["Acting", "Policies", "policies_of"]
