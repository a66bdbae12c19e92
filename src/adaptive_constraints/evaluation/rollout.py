"""Roll many policies out at once, on common starting states, in Gymnasium environments.

The P policies (one per training seed) and their E episodes advance in lockstep, so that one batched call of the policy
serves all P * E environments. They are stepped in a plain loop rather than by ``gymnasium.vector.SyncVectorEnv``, which
cannot leave a finished episode alone. Gymnasium is imported when the first environment is made.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.environments.boundary import LARGEST_SEED, CheckedEnv, EnvironmentWarning
from adaptive_constraints.environments.specs import EnvSource, RecordedEnv, make_environment
from adaptive_constraints.errors import EvaluationError
from adaptive_constraints.evaluation.expected import LIMIT_REMEDY, LONGEST, Expected, StepLimit, step_limit

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
        self._environments: list[CheckedEnv] = []
        first = self._make()
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

    def _compare(self, env: CheckedEnv, expected: Expected | None) -> None:
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
        return self._environments[0].name if self._environments else str(self.source)

    @property
    def spec(self) -> Any:
        """Gymnasium's EnvSpec of the environments; None where they are not registered."""
        return self._environments[0].spec if self._environments else None

    def run(self, policy: Policy, policies: int) -> Rollout:
        """Roll ``policies`` policies out for ``episodes`` episodes each.

        policy: ``policy(observations [P, E, D], step) -> actions [P, E, A]``. Finished episodes keep their last
            observation and their actions are ignored; actions are clipped to the environment's box.
        """
        shape = (policies, self.episodes)
        envs = self._ensure(policies * self.episodes)
        observations = self._reset(envs)
        returns, lengths = np.zeros(len(envs)), np.zeros(len(envs), np.int64)
        terminated, success = np.zeros(len(envs), np.bool_), np.zeros(len(envs), np.bool_)
        says = False
        early, limit = (returns, success), self.limit
        low, high, action_type = envs[0].low, envs[0].high, envs[0].action_type
        running, step = list(range(len(envs))), 0
        while running and step != limit.end:
            if step == limit.steps:
                early = returns.copy(), success.copy()
            answer = self._checked(policy(observations.reshape(*shape, -1).copy(), step), shape)
            finite = np.isfinite(answer).all(-1)
            actions = answer.clip(low, high).astype(action_type)
            still = []
            for i in running:
                if not finite[i]:
                    returns[i] = np.nan
                    continue
                observations[i], reward, terminated[i], truncated, info = envs[i].step(actions[i])
                returns[i] += reward
                lengths[i] += 1
                if (reached := _success(info)) is not None:
                    says, success[i] = True, success[i] or reached
                if not (terminated[i] or truncated):
                    still.append(i)
            running, step = still, step + 1
        if running and limit.patience is not None:
            late = lengths > (steps := self._give_up(limit))
            returns[late], success[late], lengths[late], terminated[late] = early[0][late], early[1][late], steps, False
        if running and limit.by == LONGEST:
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

    def _ensure(self, count: int) -> list[CheckedEnv]:
        """The first ``count`` environments, making those that are missing."""
        if not self._environments:
            raise EvaluationError("This Evaluator is closed; make a new one.")
        while len(self._environments) < count:
            self._make()
        return self._environments[:count]

    def _reset(self, envs: list[CheckedEnv]) -> NDArray[Any]:
        """Start every episode; observations [P * E, D]."""
        observations = np.empty((len(envs), self.observation_size), envs[0].observation_type)
        for i, env in enumerate(envs):
            observations[i], _ = env.reset(seed=self.reset_seeds[i % self.episodes])
        return observations

    def _checked(self, actions: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
        """The policy's answer laid out as [P * E, A], once its shape has been checked."""
        actions, wanted = np.asarray(actions), (*shape, self.action_size)
        if actions.shape != wanted:
            raise EvaluationError(
                f"{self.name}: the policy answered actions of shape {actions.shape}, but {wanted} "
                "(policies, episodes, action dimensions) is needed."
            )
        return actions.reshape(-1, self.action_size)

    def _make(self) -> CheckedEnv:
        """Make one more environment and keep it."""
        named = str(self.source) if isinstance(self.source, str | RecordedEnv) else ""
        made = make_environment(self.source)
        try:
            self._environments.append(CheckedEnv(made, named))
        except BaseException:
            getattr(made, "close", lambda: None)()
            raise
        return self._environments[-1]

    def close(self) -> None:
        """Close the environments; a second call does nothing."""
        for env in self._environments:
            env.close()
        self._environments = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _success(info: Any) -> bool | None:
    """What a step says of success, by Gymnasium's robots' name for it too; None: nothing."""
    if not info or not isinstance(info, Mapping):
        return None
    said = info.get("success", info.get("is_success"))
    return None if said is None else bool(np.any(said))


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
