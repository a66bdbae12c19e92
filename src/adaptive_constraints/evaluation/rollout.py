"""Roll many policies out at once, on common starting states, in Gymnasium environments.

The P policies (one per training seed) and their E episodes advance in lockstep, so that one batched call of the policy
serves all P * E environments. Gymnasium is imported when the first of its environments is made.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.environments.boundary import LARGEST_SEED, EnvironmentWarning
from adaptive_constraints.environments.making import EnvSource, RecordedEnv
from adaptive_constraints.errors import EvaluationError
from adaptive_constraints.evaluation.expected import LIMIT_REMEDY, LONGEST, Expected, StepLimit, step_limit
from adaptive_constraints.evaluation.fleet import Described, Fleet, fleet_of

#: ``policy(observations [P, E, D], step) -> actions [P, E, A]`` in the environment's own action units.
Policy: TypeAlias = Callable[[NDArray[Any], int], NDArray[Any]]


@dataclass(frozen=True)
class Rollout:
    """Returns and lengths of E episodes of each of P policies.

    returns: [P, E] undiscounted sums of rewards; NaN where the policy's action was not finite, which ends the episode.
    lengths: [P, E] environment steps taken.
    terminated: [P, E] True where the environment ended the episode (a fall, a goal), False where time ran out.
    success: [P, E] True where the environment said so in some step (``info["success"]`` or ``info["is_success"]``);
        None where it never says whether there is success.
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    terminated: NDArray[np.bool_]
    success: NDArray[np.bool_] | None = None


class Evaluator:
    """Keeps environments open between evaluations, because making them is slower than many steps.

    Every ``run`` starts episode e of every policy from the same state, a function of (seed, e) alone, so policies, and
    the same policy at different times, are compared on common starts. Use it as a context manager, or call ``close``.

    env: a Gymnasium id, or a function without arguments that makes one environment.
    episodes: E, the episodes of each policy.
    max_steps: end every episode after this many steps. By default the environment's own time limit does, or the data's
        longest episode (`step_limit`).
    expected: what the agent expects of the environment; `EvaluationError` says what it has otherwise.
    """

    def __init__(
        self,
        env: EnvSource,
        episodes: int,
        seed: int = 0,
        max_steps: int | None = None,
        expected: Expected | None = None,
    ) -> None:
        for name, value in (("episodes", episodes), ("max_steps", 1 if max_steps is None else max_steps)):
            if value < 1:
                raise EvaluationError(f"Evaluator: {name} is {value}; it must be 1 or more.")
        if seed < 0:
            raise EvaluationError(f"Evaluator: seed is {seed}; it must be 0 or more.")
        self.source = env
        self.episodes = episodes
        self.reset_seeds = reset_seeds(seed, episodes)
        self._fleet: Fleet | None = fleet_of(env)
        self._one = first = self._fleet.one
        self.observation_size, self.action_size = first.observation_size, first.action_size
        try:
            if expected is not None:
                expected.check(first)
            self.limit: StepLimit = step_limit(first, max_steps, expected.longest if expected else None)
        except BaseException:
            self.close()
            raise
        self.notes: list[str] = []
        """Notes on this environment, in words."""
        self.doubts: list[str] = []
        """Notes which mean that results may not be what they seem."""
        self._compare(first, expected)

    def _compare(self, env: Described, expected: Expected | None) -> None:
        """Note how time limits differ: a doubt where it is certain, or where nobody chose this environment."""
        if expected is not None and (text := expected.other_time_limit(env)):
            certain = expected.time_limit is not None or isinstance(self.source, RecordedEnv)
            (self.doubt if certain else self.notes.append)(text)
        if self.limit.by == LONGEST and self.limit.patience is None:
            self.notes.append(
                f"{env.name} has no time limit: its episodes end after {self.limit.steps} steps, the length of the "
                f"data's longest; {LIMIT_REMEDY}"
            )

    def doubt(self, text: str) -> None:
        """Note something that means that results may not be what they seem."""
        self.notes.append(text)
        self.doubts.append(text)

    def warn(self) -> None:
        """Say what is doubtful as warnings, each once."""
        for text in self.doubts:
            warnings.warn(text, EnvironmentWarning, stacklevel=1)

    @property
    def name(self) -> str:
        """The name of the environment in messages: its id, or the class of what the function made."""
        return self._one.name

    @property
    def spec(self) -> Any:
        """Gymnasium's EnvSpec of the environments; None where they are not registered."""
        return self._one.spec

    def run(self, policy: Policy, policies: int) -> Rollout:
        """Roll ``policies`` policies out for ``episodes`` episodes each.

        policy: ``policy(observations [P, E, D], step) -> actions [P, E, A]``. Finished episodes keep their last
            observation and their actions are ignored; actions are clipped to the environment's box.
        """
        if self._fleet is None:
            raise EvaluationError("This Evaluator is closed; make a new one.")
        shape, count = (policies, self.episodes), policies * self.episodes
        observations = self._fleet.reset(self.reset_seeds * policies)
        returns, lengths = np.zeros(count), np.zeros(count, np.int64)
        terminated, success, says = np.zeros(count, np.bool_), np.zeros(count, np.bool_), False
        early, limit, one = (returns, success), self.limit, self._one
        running, step = np.arange(count), 0
        while running.size and step != limit.end:
            if step == limit.steps:
                early = returns.copy(), success.copy()
            answer = self._checked(policy(observations.reshape(*shape, -1).copy(), step), shape)
            finite = np.isfinite(answer).all(-1)
            returns[running[~finite[running]]] = np.nan
            running = running[finite[running]]
            if not running.size:
                break
            stepped = self._fleet.step(answer.clip(one.low, one.high).astype(one.action_type), running)
            observations[running] = stepped.observations
            returns[running] += stepped.rewards
            lengths[running] += 1
            terminated[running] = stepped.terminated
            if stepped.success is not None:
                says, success[running] = True, success[running] | stepped.success
            running, step = running[~(stepped.terminated | stepped.truncated)], step + 1
        if running.size and limit.patience is not None:
            late = lengths > (steps := self._give_up(limit))
            returns[late], success[late], lengths[late], terminated[late] = early[0][late], early[1][late], steps, False
        if running.size and limit.by == LONGEST:
            self._say_cut()
        said = success.reshape(shape) if says else None
        return Rollout(returns.reshape(shape), lengths.reshape(shape), terminated.reshape(shape), said)

    def _give_up(self, limit: StepLimit) -> int:
        """The length to which all episodes are cut from now on, since one did not end by itself."""
        if limit.steps is None:
            raise EvaluationError(
                f"{self.name}: an episode did not end within {limit.patience} steps, and nothing says how long one is: "
                f"{LIMIT_REMEDY}, or make the environment in gymnasium.wrappers.TimeLimit."
            )
        self.limit = StepLimit(limit.steps, limit.by)
        return limit.steps

    def _say_cut(self) -> None:
        warnings.warn(
            f"{self.name} has no time limit: episodes that were still going on count up to step {self.limit.steps}, "
            f"the length of the data's longest; {LIMIT_REMEDY}",
            EnvironmentWarning,
            stacklevel=3,
        )

    def _checked(self, actions: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
        """The policy's answer laid out as [P * E, A], once its shape has been checked."""
        actions, wanted = np.asarray(actions), (*shape, self.action_size)
        if actions.shape != wanted:
            raise EvaluationError(
                f"{self.name}: the policy answered actions of shape {actions.shape}, but {wanted} "
                "(policies, episodes, action dimensions) is needed."
            )
        return actions.reshape(-1, self.action_size)

    def close(self) -> None:
        """Close the environments; a second call does nothing."""
        if self._fleet is not None:
            self._fleet.close()
        self._fleet = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def rollout(
    env: EnvSource, policy: Policy, *, policies: int, episodes: int, seed: int = 0, max_steps: int | None = None
) -> Rollout:
    """Roll ``policies`` policies out for ``episodes`` episodes each, in environments made for this call alone.

    See `Evaluator` for the arguments; keep an Evaluator where this is wanted more than once.
    """
    with Evaluator(env, episodes, seed, max_steps) as evaluator:
        return evaluator.run(policy, policies)


def reset_seeds(seed: int, episodes: int) -> list[int]:
    """A reset seed for each episode, no two alike: hashes of (seed, episode), so that seeds share no episode either.

    They fit a signed 32-bit integer, which is all that some environments hold.
    """
    seeds: dict[int, None] = {}
    for episode in range(episodes):
        word = int(np.random.SeedSequence([seed, episode]).generate_state(1)[0]) & LARGEST_SEED
        while word in seeds:
            word = (word + 1) & LARGEST_SEED
        seeds[word] = None
    return list(seeds)
