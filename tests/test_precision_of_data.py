"""Columns with a large offset keep what float32 would lose: in the data, in learner space, in acting and online."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from adaptive_constraints import load_agent, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.data import Dataset, Preprocessor, advise, check_trainable, doctor, load_dataset, save_npz

COLUMNS: dict[str, Any] = {
    "seconds since 1970": (1.7e9, 300.0),
    "northing in metres": (5.3e6, 40.0),
    "easting in millimetres": (5e8, 1e3),
    "a small spread": (1e4, 1e-2),
}


def made(offset: float, spread: float, rewards: tuple[float, float] = (0.0, 1.0), rows: int = 600) -> Dataset:
    """Episodes of 50 rows whose second observation lies at an offset, with a mean reward and a spread."""
    draw = np.random.default_rng(0)
    states = draw.normal(size=(rows + 1, 3)) * [1, spread, 1] + [0, offset, 0]
    last = np.arange(rows) % 50 == 49
    return Dataset.from_arrays(
        observations=states[:-1],
        next_observations=np.where(last[:, None], states[:-1][::-1], states[1:]),
        actions=draw.uniform(-0.9, 0.9, (rows, 2)),
        rewards=rewards[0] + rewards[1] * draw.normal(size=rows),
        terminals=np.zeros(rows),
        timeouts=last,
    )


@pytest.mark.parametrize("name", COLUMNS)
def test_learner_space_has_what_float64_had(name, tmp_path):
    offset, spread = COLUMNS[name]
    far, near = made(offset, spread), made(0.0, spread)
    assert far.observations.dtype == far.next_observations.dtype == np.float64
    assert near.observations.dtype == np.float32
    fitted = Preprocessor.fit(far, normalize_observations=True)
    table, wanted = fitted.table(far), Preprocessor.fit(near, normalize_observations=True).table(near)
    for column in ("observation", "next_observation"):
        assert table[column].dtype == torch.float32
        torch.testing.assert_close(table[column], wanted[column], atol=1e-5, rtol=1e-5)
    back = fitted.raw_observations(table["observation"])
    torch.testing.assert_close(back, torch.tensor(far.observations), atol=1e-5 * max(spread, 1), rtol=0)
    save_npz(far, tmp_path / "far.npz")
    again = load_dataset(f"npz:{tmp_path / 'far.npz'}")
    assert again.fingerprint == far.fingerprint and again.observations.dtype == np.float64
    assert far.subset(far.episode_ids < 2).observations.dtype == np.float64
    assert "precision" not in [finding.code for finding in advise(far, normalize_observations=True)]
    (told,) = (finding for finding in advise(far) if finding.code == "precision")
    assert "dimension 1 near" in told.message and "normalize_observations=True" in told.remedy


@pytest.mark.parametrize(("mean", "spread"), [(1e9, 1.0), (-3e6, 0.5)])
def test_rewards_with_an_offset_are_centred_first(mean, spread):
    far, near = made(0, 1, (mean, spread)), made(0, 1, (0.0, spread))
    assert far.rewards.dtype == np.float64 and far.observations.dtype == np.float32
    for scale in (1.0, "dataset_std"):
        one, other = (
            Preprocessor.fit(data, reward_scale=scale, reward_shift="dataset_mean").table(data)["reward"]
            for data in (far, near)
        )
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    shifted = Preprocessor.fit(far, reward_shift=-mean).table(far)["reward"]
    torch.testing.assert_close(shifted, Preprocessor.fit(near).table(near)["reward"], atol=1e-6, rtol=1e-5)
    assert "precision" in [finding.code for finding in advise(far)]
    assert "precision" not in [finding.code for finding in advise(far, reward_shift="dataset_mean")]


@pytest.mark.parametrize("given", ["float32", "float64", "integers"])
def test_ordinary_columns_stay_float32(given):
    draw = np.random.default_rng(0)
    values = {
        "float32": (1e9 + 100 * draw.normal(size=(200, 2))).astype(np.float32),
        "float64": np.stack([draw.normal(size=200), np.full(200, 1.7e9), 1e3 + draw.normal(size=200)], 1),
        "integers": draw.integers(0, 255, (200, 4)),
    }[given]
    values[3] = values[0]
    more: dict[str, Any] = {
        "actions": draw.uniform(-1, 1, (200, 1)),
        "rewards": draw.normal(size=200),
        "terminals": np.ones(200),
    }
    data = Dataset.from_arrays(observations=values, **more)
    assert data.observations.dtype == np.float32
    np.testing.assert_array_equal(data.observations, values.astype(np.float32))
    assert ("precision" in doctor(data).codes) == (given == "float32"), "it was lost before it came here"


def test_a_few_absurd_values_do_not_hide_an_offset_nor_make_one():
    draw = np.random.default_rng(0)
    more: dict[str, Any] = {
        "actions": draw.uniform(-1, 1, (200, 1)),
        "rewards": draw.normal(size=200),
        "terminals": np.ones(200),
    }
    for values, wide in ((1.7e9 + 300 * draw.normal(size=(200, 1)), True), (draw.normal(size=(200, 1)), False)):
        for absurd in (0.0, 1e20, np.nan, 1e300):
            values[5] = absurd
            data = Dataset.from_arrays(observations=values, **more)
            assert (data.observations.dtype == np.float64) == wide


class Clock(gymnasium.Env):
    """Observes the time in seconds since 1970, in float64, and a number; rewards nothing."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._seen(), {}

    def step(self, action):
        self.steps += 1
        return self._seen(), 0.0, False, self.steps == 10, {}

    def _seen(self):
        return np.array([self.np_random.normal(), 1.7e9 + self.steps, 0.0])


def test_acting_and_collecting_see_what_training_saw(tmp_path):
    far, near = made(1.7e9, 300.0), made(0.0, 300.0)
    check_trainable(far)
    agents = [wrap(TD3BC(hidden=16, batch_size=32, normalize_observations=True)) for _ in range(2)]
    for agent, data in zip(agents, (far, near), strict=True):
        agent.fit(data, steps=20, traced=False, progress=False)
    there, here = far.observations[:40], near.observations[:40]
    np.testing.assert_allclose(agents[0].act(there), agents[1].act(here), atol=2e-3)
    moved = there.copy()
    moved[:, 1] += 60.0  # less than float32 tells apart there
    assert np.abs(agents[0].act(moved) - agents[0].act(there)).max() > 1e-3
    agents[0].save(tmp_path / "agent.npz")
    np.testing.assert_array_equal(load_agent(tmp_path / "agent.npz").act(there), agents[0].act(there))
    agents[0].finetune(Clock, steps=25, warm_up=5, buffer="all", eval_env=None, traced=False, progress=False)
    trained = agents[0].run
    collected = trained.engine.batches.state()["observation"][0, :, 1]  # type: ignore[attr-defined]
    seen = torch.tensor([[0.0, 1.7e9 + step % 10, 0.0] for step in range(25)], dtype=torch.float64)
    expected = trained.preprocessor.observations(seen)
    torch.testing.assert_close(collected, expected[:, 1])
    assert len(collected[:10].unique()) == 10
