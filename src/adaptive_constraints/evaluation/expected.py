"""Expectations of an agent of its environment, and what of them an environment does not keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.errors import EvaluationError
from adaptive_constraints.evaluation.fleet import Described

PATIENCE, TIMES = 10_000, 10
"""An environment that does not say when it ends may take so many steps, or so many times the data's longest episode."""
_UNBOUNDED = 1e30
"""Bounds beyond this are none: float32's largest number is a common way to write so."""
_ROUNDING = 1e-5
"""Relative difference of bounds that means nothing: they go through float32."""


@dataclass(frozen=True)
class Expected:
    """The environment as the data shows it; D observation and A action dimensions."""

    observation_size: int
    action_size: int
    action_low: NDArray[np.float64]
    """[A]"""
    action_high: NDArray[np.float64]
    """[A]"""
    longest: int | None = None
    """Steps of the data's longest episode; None where that says nothing, as of single rows."""
    time_limit: int | None = None
    """Steps after which the recorded environment ended episodes; None where that is not known."""

    def check(self, env: Described) -> None:
        """Raise `EvaluationError` where an environment has other sizes or bounds of actions than the data."""
        wanted, actual = (self.observation_size, self.action_size), (env.observation_size, env.action_size)
        if wanted != actual:
            raise EvaluationError(
                f"{env.name} has {actual[0]} observation and {actual[1]} action dimensions, but the agent was trained "
                f"with {wanted[0]} and {wanted[1]}. Name the environment that its data came from."
            )
        if _differ(self.action_low, env.low) or _differ(self.action_high, env.high):
            low, high = (_option(bounds) for bounds in (env.low, env.high))
            raise EvaluationError(
                f"{env.name} bounds actions otherwise than the agent's data: data {_shown(self.action_low)} .. "
                f"{_shown(self.action_high)}, environment {_shown(env.low)} .. {_shown(env.high)}. Either the data was "
                "loaded without the bounds of its actions: give it action_low and action_high (Dataset.from_arrays, or "
                f"adaptive-constraints repair IN OUT --action-low {low} --action-high {high}) and train again. Or its "
                "actions are rescaled: pass a function that makes the environment in gymnasium.wrappers.RescaleAction"
                f"(env, {_argument(self.action_low)}, {_argument(self.action_high)})."
            )

    def other_time_limit(self, env: Described) -> str:
        """In words, how an environment's time limit differs from that of the data; "" where it does not."""
        limit, recorded = env.time_limit, self.time_limit
        if limit is None or limit == recorded:
            return ""
        if recorded is not None:
            return f"{env.name} ends episodes after {limit} steps, the environment of the data after {recorded}"
        if self.longest is not None and self.longest > limit:
            return f"{env.name} ends episodes after {limit} steps, but the data's longest episode has {self.longest}"
        return ""


def _differ(data: NDArray[Any], env: NDArray[Any]) -> bool:
    """Tell whether finite bounds of an environment [A] are other than the data's."""
    env = np.asarray(env, np.float64)
    finite = np.abs(env) < _UNBOUNDED
    apart = np.abs(data - env)[finite]
    return bool((apart > _ROUNDING * np.maximum(np.abs(data), np.abs(env))[finite]).any())


def _shown(bounds: NDArray[Any]) -> str:
    return str([float(f"{bound:.6g}") for bound in bounds.tolist()])


def _option(bounds: NDArray[Any]) -> str:
    """As an option of the command line takes them: one number where all are alike."""
    values = [f"{bound:g}" for bound in bounds.tolist()]
    return values[0] if len(set(values)) == 1 else " ".join(values)


def _argument(bounds: NDArray[Any]) -> str:
    """As a wrapper takes them: one number where all are alike."""
    return f"{bounds[0]:g}" if (bounds == bounds[0]).all() else f"np.array({_shown(bounds)})"


@dataclass(frozen=True)
class StepLimit:
    """How long an episode may last where an environment does not bound it."""

    steps: int | None
    """Over so many steps episodes are measured at most; None: until the environment ends them."""
    by: str
    """Who says so: "the environment", "the option" or "the data's longest episode"; "" if nobody does."""
    patience: int | None = None
    """Steps within which episodes have to end by themselves; where one does not, ``steps`` counts for all of them."""

    @property
    def end(self) -> int | None:
        """The step at which everything stops; for a run that collects, the length of an episode."""
        return self.steps if self.patience is None else self.patience


OPTION, LONGEST = "the option", "the data's longest episode"
LIMIT_REMEDY = "eval_max_steps= (on the command line --eval-max-steps) bounds it"


def step_limit(env: Described, option: int | None, longest: int | None) -> StepLimit:
    """Say what bounds the episodes of an environment: an option, its own time limit, or the data's longest episode.

    An environment that is registered without a time limit takes the data's longest episode, and is refused
    (`EvaluationError`) where that is not known. One that a function made without being registered may end by itself
    in a way nobody can see beforehand, so it is given patience first.
    """
    if option is not None:
        return StepLimit(option, OPTION)
    if env.time_limit is not None:
        return StepLimit(None, "the environment")
    if env.spec is None:
        return StepLimit(longest, LONGEST if longest else "", max(PATIENCE, TIMES * (longest or 0)))
    if longest is None:
        raise EvaluationError(
            f"{env.name} has no time limit, and nothing says how long an episode is, so it might never end: "
            f"{LIMIT_REMEDY}, or register it with max_episode_steps."
        )
    return StepLimit(longest, LONGEST)


__all__ = ["LIMIT_REMEDY", "LONGEST", "OPTION", "PATIENCE", "Expected", "StepLimit", "step_limit"]
