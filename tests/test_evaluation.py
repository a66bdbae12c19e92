"""Rolling out, and scoring: common starts, masked ends, honest errors, and what a run amounts to."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from adaptive_constraints.data.references import reference_score
from adaptive_constraints.errors import DependencyError, EvaluationError
from adaptive_constraints.evaluation import Evaluation, Evaluator, Expected, rollout, summary


class Walk(gymnasium.Env[Any, Any]):
    """A point on a line: the reward is the action, the episode ends beyond 1, and the start is random in [0, 0.5]."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float64)
    action_space = Box(-0.25, 0.25, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start anew."""
        super().reset(seed=seed)
        self.place, self.steps, self.done = self.np_random.uniform(0.0, 0.5), 0, False
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move; refuses to go on once done, as an evaluator must not ask for that."""
        assert not self.done
        assert action.dtype == np.float32
        self.place, self.steps = self.place + float(action[0]), self.steps + 1
        self.done = self.place > 1.0 or self.steps >= 20
        return self._observation(), float(action[0]), self.place > 1.0, self.steps >= 20, {}

    def _observation(self) -> NDArray[np.float64]:
        return np.array([self.place, self.steps])


class Counting(Walk):
    """A walk that counts how many of it were made and closed."""

    made = 0
    closed = 0

    def __init__(self) -> None:
        type(self).made += 1

    def close(self) -> None:
        """Count."""
        type(self).closed += 1


def constant(*values: float) -> Any:
    """A policy per value: each always answers its own."""

    def policy(observations: NDArray[Any], step: int) -> NDArray[Any]:
        return np.broadcast_to(np.reshape(values, (-1, 1, 1)), (*observations.shape[:2], 1))

    return policy


def test_episodes_match_a_plain_loop_over_one_environment() -> None:
    result = rollout(Walk, constant(0.2, 0.01), policies=2, episodes=3, seed=5)
    with Evaluator(Walk, 3, seed=5) as evaluator:
        starts = evaluator.reset_seeds
    for p, action in enumerate((0.2, 0.01)):
        for e, seed in enumerate(starts):
            env, total, steps, over = Walk(), 0.0, 0, False
            env.reset(seed=seed)
            while not over:
                _, reward, terminated, truncated, _ = env.step(np.array([action], np.float32))
                total, steps, over = total + reward, steps + 1, terminated or truncated
            assert (result.returns[p, e], result.lengths[p, e]) == (total, steps)
            assert result.terminated[p, e] == terminated
    assert result.terminated[0].all() and not result.terminated[1].any()


def test_policies_share_starts_and_runs_repeat_but_episodes_and_seeds_differ() -> None:
    seen: list[NDArray[Any]] = []

    def policy(observations: NDArray[Any], step: int) -> NDArray[Any]:
        if step == 0:
            seen.append(observations)
        return np.full((*observations.shape[:2], 1), 0.1)

    with Evaluator(Walk, 4, seed=0) as evaluator:
        evaluator.run(policy, 2)
        evaluator.run(policy, 3)
    rollout(Walk, policy, policies=1, episodes=4, seed=1)
    starts = [observations[..., 0] for observations in seen]
    assert starts[0].shape == (2, 4)
    assert (starts[1] == starts[0][0]).all(), "every policy, at every evaluation, starts alike"
    assert len(np.unique(starts[0])) == 4
    assert not np.isin(starts[2], starts[0]).any(), "neighbouring seeds share no episode"


def test_environments_are_kept_between_runs_and_closed_once() -> None:
    Counting.made = Counting.closed = 0
    with Evaluator(Counting, 2) as evaluator:
        for policies in (1, 3, 2):
            evaluator.run(constant(*[0.1] * policies), policies)
        assert Counting.made == 6
    evaluator.close()
    assert Counting.closed == 6
    with pytest.raises(EvaluationError, match="closed"):
        evaluator.run(constant(0.1), 1)


def test_actions_are_clipped_to_the_box() -> None:
    result = rollout(Walk, constant(100.0, -100.0), policies=2, episodes=1)
    np.testing.assert_allclose(result.returns[:, 0] / result.lengths[:, 0], [0.25, -0.25])


def test_a_policy_that_is_lost_ends_alone() -> None:
    result = rollout(Walk, constant(np.nan, 0.1), policies=2, episodes=2)
    assert np.isnan(result.returns[0]).all() and (result.lengths[0] == 0).all()
    np.testing.assert_array_equal(result.returns[1], rollout(Walk, constant(0.1), policies=1, episodes=2).returns[0])


def test_max_steps_cuts_episodes_short() -> None:
    result = rollout(Walk, constant(0.0), policies=1, episodes=2, max_steps=7)
    assert (result.lengths == 7).all() and not result.terminated.any()


def test_the_policy_may_overwrite_what_it_is_given() -> None:
    def vandal(observations: NDArray[Any], step: int) -> NDArray[Any]:
        observations[:] = 99.0
        return np.zeros((*observations.shape[:2], 1))

    assert (rollout(Walk, vandal, policies=1, episodes=1).lengths == 20).all()


def test_global_random_state_is_left_alone() -> None:
    before = np.random.get_state()[1].copy()
    rollout("Hopper-v5", lambda o, step: np.zeros((*o.shape[:2], 3)), policies=1, episodes=1, max_steps=3)
    np.testing.assert_array_equal(before, np.random.get_state()[1])


def test_hopper_is_deterministic_and_reused_environments_carry_nothing_over() -> None:
    def policy(observations: NDArray[Any], step: int) -> NDArray[Any]:
        return np.sin(observations[..., :3] * 3 + step / 5)

    with Evaluator("Hopper-v5", 3, seed=1) as evaluator:
        first, second = evaluator.run(policy, 2), evaluator.run(policy, 2)
    np.testing.assert_array_equal(first.returns, second.returns)
    np.testing.assert_array_equal(first.returns[0], first.returns[1])
    assert first.terminated.all() and len(np.unique(first.returns)) == 3


class Named(Walk):
    """A walk whose actions have no box."""

    action_space = Discrete(2)  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("Hoper-v5", "Did you mean: `Hopper`"),
        ("no_such_module_anywhere:Thing-v0", "no_such_module_anywhere"),
        ("CartPole-v1", "one-dimensional Box"),
        (Named, "action space is Discrete"),
    ],
)
def test_environments_that_do_not_fit_are_refused(source: Any, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        Evaluator(source, 1)


def test_a_missing_gymnasium_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(DependencyError, match=r"adaptive-constraints\[mujoco\]"):
        Evaluator("Hopper-v5", 1)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(EvaluationError, match=r"2 observation and 1 action dimensions.*trained with 11 and 3"):
        Evaluator(Walk, 2, expected=Expected(11, 3, -np.ones(3), np.ones(3)))
    with Evaluator(Walk, 2) as evaluator, pytest.raises(EvaluationError, match=r"shape \(2, 2\), but \(2, 2, 1\)"):
        evaluator.run(lambda o, step: np.zeros((2, 2)), 2)
    for settings in ({"episodes": 0}, {"episodes": 1, "max_steps": 0}):
        with pytest.raises(EvaluationError, match="must be 1 or more"):
            Evaluator(Walk, **settings)


def evaluations(reference: bool, count: int = 12) -> list[Evaluation]:
    """Two policies: one whose return is its step, one that is worth twice as much and lost at the end."""
    hopper = reference_score("hopper") if reference else None
    made = [Evaluation(t, np.array([[t - 1.0, t + 1.0], [2.0 * t, 2.0 * t]]), hopper) for t in range(count)]
    made[-1].returns[1] = np.nan
    return made


def test_scores_are_measured_against_the_reference() -> None:
    hopper = reference_score("hopper")
    assert hopper is not None
    ends = np.array([[hopper.random, hopper.random], [hopper.expert, hopper.expert]])
    score = Evaluation(1, ends, hopper).score
    np.testing.assert_allclose(score, [0.0, 100.0], atol=1e-9)
    assert Evaluation(1, ends).score is None


def test_summary_gives_last_best_and_the_mean_of_the_last_ten() -> None:
    totals = summary(evaluations(reference=False))
    assert totals.measure == "return"
    np.testing.assert_array_equal(totals.last, [11.0, np.nan])
    np.testing.assert_array_equal(totals.best, [11.0, 20.0])
    np.testing.assert_array_equal(totals.last_ten, [6.5, np.nan])
    assert summary(evaluations(reference=True)).measure == "score"
    with pytest.raises(EvaluationError, match="nothing to summarise"):
        summary([])
