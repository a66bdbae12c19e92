"""Pendulums in numpy: Gymnasium's dynamics, the recipes of data, evaluation without Gymnasium."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from adaptive_constraints import load_dataset, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.data import list_datasets
from adaptive_constraints.data.references import reference_of, reference_score
from adaptive_constraints.data.sources.pendulum_sets import RECIPES, pendulum_set
from adaptive_constraints.environments.making import RecordedEnv
from adaptive_constraints.environments.pendulum import LENGTH, Pendulums, swing_up, wrapped
from adaptive_constraints.errors import DatasetError
from adaptive_constraints.evaluation.fleet import GymnasiumFleet, TogetherFleet, fleet_of
from adaptive_constraints.evaluation.rollout import Evaluator


def controlled(observations: np.ndarray, step: int) -> np.ndarray:
    """The controller from observations [..., 3], with a torque of its own for each step."""
    angle = np.arctan2(observations[..., 1], observations[..., 0]).astype(np.float64)
    torque = swing_up(angle, observations[..., 2].astype(np.float64)) + 0.3 * np.sin(step)
    return torque[..., None].astype(np.float32)


def test_steps_and_starts_are_those_of_gymnasium() -> None:
    """60 steps under changing torques, too large ones among them: far enough to see every term of the dynamics."""
    gymnasium = pytest.importorskip("gymnasium")
    seeds = [3, 11, 2**31 - 1]
    ours, theirs = Pendulums(), [gymnasium.make("Pendulum-v1") for _ in seeds]
    observed = ours.reset(seeds)
    for row, (env, seed) in enumerate(zip(theirs, seeds, strict=True)):
        np.testing.assert_array_equal(observed[row], env.reset(seed=seed)[0])
    for step in range(60):
        actions = np.float32(2.5 * np.sin(np.arange(3) + step))[:, None]
        observed, rewards, terminated, truncated = ours.step(actions, np.arange(3))
        for row, env in enumerate(theirs):
            observation, reward, *ends, _ = env.step(np.clip(actions[row], -2, 2))
            np.testing.assert_allclose(observed[row], observation, atol=1e-5)
            assert rewards[row] == pytest.approx(reward, abs=1e-9)
            assert ends == [terminated[row], truncated[row]]


def test_an_evaluation_of_all_at_once_is_that_of_one_by_one() -> None:
    pytest.importorskip("gymnasium")
    together = Evaluator("Pendulum-v1", episodes=3, seed=5)
    one_by_one = Evaluator(lambda: __import__("gymnasium").make("Pendulum-v1"), episodes=3, seed=5)
    with together, one_by_one:
        ours, theirs = (evaluator.run(controlled, 2) for evaluator in (together, one_by_one))
    np.testing.assert_allclose(ours.returns, theirs.returns, rtol=1e-3)
    np.testing.assert_array_equal(ours.lengths, theirs.lengths)
    np.testing.assert_array_equal(ours.lengths, np.full((2, 3), LENGTH))
    assert not ours.terminated.any()


def test_only_the_plain_task_is_rolled_out_at_once() -> None:
    pytest.importorskip("gymnasium")
    assert isinstance(fleet_of("Pendulum-v1"), TogetherFleet)
    assert isinstance(fleet_of(RecordedEnv("Pendulum-v1")), TogetherFleet)
    heavier = {"id": "Pendulum-v1", "kwargs": {"g": 9.81}, "max_episode_steps": 200, "additional_wrappers": []}
    assert isinstance(fleet_of(RecordedEnv("Pendulum-v1", heavier)), GymnasiumFleet)


def test_a_policy_that_is_not_finite_ends_its_own_episodes_alone() -> None:
    def policy(observations: np.ndarray, step: int) -> np.ndarray:
        actions = controlled(observations, step)
        if step == 7:
            actions[1, 0] = np.nan
        return actions

    with Evaluator("Pendulum-v1", episodes=2) as evaluator:
        rolled = evaluator.run(policy, 2)
    assert np.isnan(rolled.returns[1, 0]) and rolled.lengths[1, 0] == 7
    assert np.isfinite(rolled.returns[[0, 0, 1], [0, 1, 1]]).all()


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe(recipe: str) -> None:
    """Whole episodes, transitions that follow each other, torques within bounds; another draw is other data."""
    data = load_dataset(f"scripted:pendulum/{recipe}")
    assert f"scripted:pendulum/{recipe}" in list_datasets()
    assert data.episode_lengths().tolist() == [LENGTH] * (len(data) // LENGTH)
    inside = ~data.timeouts
    np.testing.assert_array_equal(data.next_observations[inside], data.observations[1:][inside[:-1]])
    assert np.abs(data.actions).max() <= 2 and not data.terminals.any()
    assert load_dataset(f"scripted:pendulum/{recipe}#draw=0").fingerprint == data.fingerprint
    other = load_dataset(f"scripted:pendulum/{recipe}#draw=1")
    assert other.fingerprint != data.fingerprint and len(other) == len(data)
    assert reference_of(data) == reference_score("pendulum")


def test_recipes_are_what_they_say() -> None:
    """By plain loops over rows: how often the controller's torque was taken, and how far from it."""

    def share_of_the_controller(name: str) -> float:
        data = pendulum_set(name)
        angle = wrapped(np.arctan2(data.observations[:, 1], data.observations[:, 0]).astype(np.float64))
        torque = swing_up(angle, data.observations[:, 2].astype(np.float64))
        return float((np.abs(np.clip(torque, -2, 2) - data.actions[:, 0]) < 0.35).mean())

    assert share_of_the_controller("expert") > 0.97
    assert share_of_the_controller("slips") == pytest.approx(0.5 + 0.5 * 0.15, abs=0.05)
    assert share_of_the_controller("random") < 0.2 < share_of_the_controller("mixed-30")
    scores = {name: pendulum_set(name).episode_returns().mean() for name in RECIPES}
    assert scores["random"] < scores["mixed-5"] < scores["mixed"] < scores["mixed-30"] < scores["expert"]
    assert scores["weak"] < scores["med-exp"]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("scripted:pendulum/mixd", "did you mean 'pendulum/mixed'"),
        ("scripted:pendulum/mixed#draw=-1", "the draw is a whole number from 0"),
        ("scripted:pendulum/mixed#draw=", "the draw is a whole number from 0"),
        ("scripted:cartpole", r"there: pendulum/\{random,"),
    ],
)
def test_sources_that_there_are_not(reference: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        load_dataset(reference)


def test_training_and_evaluating_need_no_gymnasium(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hidden:
        def find_spec(self, name: str, *_: Any) -> None:
            if name.partition(".")[0] == "gymnasium":
                raise ImportError("hidden")

    for name in [name for name in sys.modules if name.partition(".")[0] == "gymnasium"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Hidden(), *sys.meta_path])
    agent = wrap(TD3BC(hidden=8))
    history = agent.fit(
        "scripted:pendulum/expert",
        steps=2,
        traced=False,
        device="cpu",
        progress=False,
        eval_env="auto",
        eval_episodes=2,
    )
    score = history.evaluations[-1].score
    assert score is not None and np.isfinite(score).all()


def test_the_score_counts_only_for_whole_episodes() -> None:
    agent = wrap(TD3BC(hidden=8))
    agent.fit("scripted:pendulum/weak", steps=1, traced=False, device="cpu", progress=False)
    assert agent.evaluate(episodes=1).score is not None
    with pytest.warns(match="max_steps is 50"):
        assert agent.evaluate(episodes=1, eval_max_steps=50).score is None
