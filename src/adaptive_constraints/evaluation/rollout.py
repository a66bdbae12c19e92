"""Roll many policies out at once, on common starting states, in Gymnasium environments.

The P policies (one per training seed) and their E episodes advance in lockstep, so that one batched call of the policy
serves all P * E environments. They are stepped in a plain loop rather than by ``gymnasium.vector.SyncVectorEnv``, which
cannot leave a finished episode alone. Gymnasium is imported when the first environment is made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.data.mazes import register_mazes
from adaptive_constraints.errors import DependencyError, EvaluationError

if TYPE_CHECKING:
    import gymnasium

    Environment: TypeAlias = gymnasium.Env[Any, Any]

#: A Gymnasium id ("Hopper-v5", "module_that_registers:Name-v0"), or a function that makes one environment.
EnvSource: TypeAlias = "str | Callable[[], Environment]"

#: ``policy(observations [P, E, D], step) -> actions [P, E, A]`` in the environment's own action units.
Policy: TypeAlias = Callable[[NDArray[Any], int], NDArray[Any]]


@dataclass(frozen=True)
class Rollout:
    """What E episodes of each of P policies came to.

    returns: [P, E] undiscounted sums of rewards; NaN where the policy's action was not finite, which ends the episode.
    lengths: [P, E] environment steps taken.
    terminated: [P, E] True where the environment ended the episode (a fall, a goal), False where time ran out.
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    terminated: NDArray[np.bool_]


class Evaluator:
    """Keeps environments open between evaluations, because making them is slower than many steps.

    Every ``run`` starts episode e of every policy from the same state, a function of (seed, e) alone, so policies, and
    the same policy at different times, are compared on common starts. Use it as a context manager, or call ``close``.

    env: a Gymnasium id, or a function without arguments that makes one environment.
    episodes: E, the episodes of each policy.
    max_steps: end every episode after this many steps. Needed only where the environment has no time limit of its own.
    """

    def __init__(self, env: EnvSource, episodes: int, seed: int = 0, max_steps: int | None = None) -> None:
        for name, value in (("episodes", episodes), ("max_steps", 1 if max_steps is None else max_steps)):
            if value < 1:
                raise EvaluationError(f"Evaluator: {name} is {value}; it must be 1 or more.")
        if seed < 0:
            raise EvaluationError(f"Evaluator: seed is {seed}; it must be 0 or more.")
        self.source = env
        self.episodes = episodes
        self.max_steps = max_steps
        self._reset_seeds = [_reset_seed(seed, episode) for episode in range(episodes)]
        self._environments: list[Environment] = []
        self._describe(self._make())

    def _describe(self, env: Environment) -> None:
        """Keep the first environment, and the shapes, bounds and types that all of them share."""
        import gymnasium

        self._environments.append(env)
        for role, space in (("observation", env.observation_space), ("action", env.action_space)):
            if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
                error = EvaluationError(
                    f"{self.name}: its {role} space is {space}, but a one-dimensional Box is needed. "
                    "Wrap the environment (gymnasium.wrappers.FlattenObservation flattens observations) and pass a "
                    "function that makes it."
                )
                self.close()
                raise error
        self._observation_type, self._action_type = env.observation_space.dtype, env.action_space.dtype
        self.observation_size: int = env.observation_space.shape[0]  # type: ignore[index]
        self.action_size: int = env.action_space.shape[0]  # type: ignore[index]
        self._low, self._high = env.action_space.low, env.action_space.high  # type: ignore[attr-defined]

    @property
    def name(self) -> str:
        """What messages call the environment: its id, or the class of what the function made."""
        if isinstance(self.source, str):
            return self.source
        return repr(self._environments[0]) if self._environments else repr(self.source)

    def check(self, observation_size: int, action_size: int) -> None:
        """Raise EvaluationError unless the environment has an agent's D observation and A action dimensions."""
        wanted, found = (observation_size, action_size), (self.observation_size, self.action_size)
        if wanted != found:
            raise EvaluationError(
                f"{self.name} has {found[0]} observation and {found[1]} action dimensions, but the agent was trained "
                f"with {wanted[0]} and {wanted[1]}. Name the environment that its data came from."
            )

    def run(self, policy: Policy, policies: int) -> Rollout:
        """Roll ``policies`` policies out for ``episodes`` episodes each.

        policy: ``policy(observations [P, E, D], step) -> actions [P, E, A]``. Finished episodes keep their last
            observation and their actions are ignored; actions are clipped to the environment's box.
        """
        shape = (policies, self.episodes)
        envs = self._ensure(policies * self.episodes)
        observations = self._reset(envs)
        returns, lengths = np.zeros(len(envs)), np.zeros(len(envs), np.int64)
        terminated = np.zeros(len(envs), np.bool_)
        running, step = list(range(len(envs))), 0
        while running and step != self.max_steps:
            answer = self._checked(policy(observations.reshape(*shape, -1).copy(), step), shape)
            finite = np.isfinite(answer).all(-1)
            actions = answer.clip(self._low, self._high).astype(self._action_type)
            still = []
            for i in running:
                if not finite[i]:
                    returns[i] = np.nan
                    continue
                observations[i], reward, terminated[i], truncated, _ = envs[i].step(actions[i])
                returns[i] += float(reward)
                lengths[i] += 1
                if not (terminated[i] or truncated):
                    still.append(i)
            running, step = still, step + 1
        return Rollout(returns.reshape(shape), lengths.reshape(shape), terminated.reshape(shape))

    def _ensure(self, count: int) -> list[Environment]:
        """The first ``count`` environments, making those that are missing."""
        if not self._environments:
            raise EvaluationError("This Evaluator is closed; make a new one.")
        while len(self._environments) < count:
            self._environments.append(self._make())
        return self._environments[:count]

    def _reset(self, envs: list[Environment]) -> NDArray[Any]:
        """Start every episode; observations [P * E, D]."""
        observations = np.empty((len(envs), self.observation_size), self._observation_type)
        for i, env in enumerate(envs):
            observations[i], _ = env.reset(seed=self._reset_seeds[i % self.episodes])
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

    def _make(self) -> Environment:
        return make_environment(self.source)

    def close(self) -> None:
        """Close the environments; a second call does nothing."""
        for env in self._environments:
            env.close()
        self._environments = []

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


def make_environment(source: EnvSource) -> Environment:
    """Make one environment, or say which package or spelling is missing.

    Gymnasium's checking wrapper is left out: it costs a tenth of a step and checks what is checked here once.
    """
    try:
        import gymnasium
    except ImportError as error:
        raise DependencyError(
            "Evaluation needs gymnasium, which is not installed: pip install 'adaptive-constraints[mujoco]'."
        ) from error
    if callable(source):
        made = source()
        if not hasattr(made, "observation_space"):
            raise EvaluationError(f"{source!r} made {made!r}, which is no Gymnasium environment.")
        return made
    register_mazes()
    try:
        return gymnasium.make(source, disable_env_checker=True)
    except DependencyError:  # an ImportError too, which would become a misspelt id below
        raise
    except gymnasium.error.DependencyNotInstalled as error:
        raise DependencyError(
            f"{source} needs a package that is not installed ({error}): pip install 'adaptive-constraints[mujoco]'."
        ) from error
    except (gymnasium.error.Error, ImportError) as error:
        raise EvaluationError(
            f"{source} cannot be made: {error} Environments of another package are named 'module:Id', "
            "where importing the module registers the id."
        ) from error


def _reset_seed(seed: int, episode: int) -> int:
    """The reset seed of an episode: a 32-bit hash of the pair, so that neighbouring seeds share no episode."""
    return int(np.random.SeedSequence([seed, episode]).generate_state(1)[0])
