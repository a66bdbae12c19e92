"""The map into learner space: scales, inverses, clipping, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from adaptive_constraints.data import Preprocessor
from adaptive_constraints.errors import DatasetError

from .small_data import make


def test_preprocessor_by_default_changes_nothing() -> None:
    data = make()
    table = Preprocessor.fit(data).table(data)
    for key, name in {"observation": "observations", "action": "actions", "reward": "rewards"}.items():
        assert table[key].numpy().tobytes() == getattr(data, name).tobytes(), key
    assert {tensor.dtype for tensor in table.values()} == {torch.float32}
    assert table["terminal"].tolist() == data.terminals.astype(float).tolist()


def test_preprocessor_constants() -> None:
    data = make(action_low=[-1.0, 0.0], action_high=[3.0, 1.0], actions=np.tile([1.0, 0.25], (12, 1)))
    fitted = Preprocessor.fit(
        data, normalize_observations=True, reward_scale="return_range", reward_shift="dataset_mean"
    )
    table = fitted.table(data)
    raw = data.observations.astype(np.float64)
    expected = (raw - raw.mean(0)) / (raw.std(0) + 1e-3)
    np.testing.assert_allclose(table["observation"].numpy(), expected, atol=1e-6)
    assert table["action"].tolist() == [[0.0, -0.5]] * 12
    returns = data.episode_returns()
    scale = 1000 / (returns.max() - returns.min())
    np.testing.assert_allclose(table["reward"].numpy(), scale * (data.rewards - data.rewards.mean()), rtol=1e-4)
    assert abs(table["reward"].mean().item()) < 1e-4


def test_preprocessor_inverses_and_state() -> None:
    data = make(action_low=[-1.0, 0.0], action_high=[3.0, 1.0])
    fitted = Preprocessor.fit(data, normalize_observations=True, reward_scale=2.0, reward_shift=-1.0)
    copy = Preprocessor.from_state(fitted.to("cpu").state())
    for raw, there, back in (
        (data.observations, copy.observations, fitted.raw_observations),
        (data.actions, copy.actions, fitted.raw_actions),
        (data.rewards, copy.rewards, fitted.raw_rewards),
    ):
        torch.testing.assert_close(back(there(torch.tensor(raw))), torch.tensor(raw), atol=1e-5, rtol=1e-5)
    assert fitted.rewards(torch.tensor(3.0)).item() == 5.0
    with pytest.raises(DatasetError, match="state needs"):
        Preprocessor.from_state({"observation_mean": torch.zeros(3)})


def test_preprocessor_clips_only_with_a_margin() -> None:
    actions = torch.tensor([[1.0, -1.0], [0.5, 2.0]])
    assert torch.equal(Preprocessor.fit(make()).actions(actions), actions)
    clipped = Preprocessor.fit(make(), action_margin=0.25).actions(actions)
    assert clipped.tolist() == [[0.75, -0.75], [0.5, 0.75]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward_scale": "range"}, "unknown reward_scale 'range'"),
        ({"reward_scale": 0.0}, "must be finite and not 0"),
        ({"reward_shift": "mean"}, "unknown reward_shift 'mean'"),
        ({"action_margin": 1.0}, "action_margin must lie in"),
    ],
)
def test_preprocessor_refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        Preprocessor.fit(make(), **settings)


def test_return_range_needs_different_returns() -> None:
    with pytest.raises(DatasetError, match="different return"):
        Preprocessor.fit(make(rewards=np.zeros(12)), reward_scale="return_range")
