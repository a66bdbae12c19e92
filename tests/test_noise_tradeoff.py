"""NoiseTradeoff: the variance of the behaviour around its mean, and the trade-off that it makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from adaptive_constraints import Dataset, NoiseTradeoff, wrap
from adaptive_constraints.adapters.noise import LEAST_NOISE, variance_around
from adaptive_constraints.baselines import CQL, FQL, IQL, TD3BC, ReBRAC
from adaptive_constraints.errors import StackError
from adaptive_constraints.networks import init_mlp, mlp

SMALL: dict[str, Any] = {"hidden": 8, "batch_size": 16}
QUIET: dict[str, Any] = {"progress": False, "device": "cpu", "traced": False}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ADAPTIVE_CONSTRAINTS_CACHE", str(tmp_path))


def noisy(deviations: tuple[float, ...], rows: int = 4000, scale: float = 1.0) -> Dataset:
    """Actions that are a smooth function of the state, and Gaussian noise of a deviation per dimension."""
    draw = np.random.default_rng(1)
    states = draw.uniform(-1, 1, (rows, 3))
    mean = 0.4 * np.sin(states @ draw.normal(size=(3, len(deviations))))
    actions = scale * (mean + np.array(deviations) * draw.normal(size=mean.shape))
    return Dataset.from_arrays(
        observations=states,
        actions=actions,
        rewards=draw.normal(size=rows),
        next_observations=np.roll(states, 1, 0),
        terminals=np.zeros(rows, bool),
        timeouts=np.ones(rows, bool),
        action_low=-2.0 * scale,
        action_high=2.0 * scale,
        name="noisy",
    )


@pytest.mark.parametrize(("deviations", "scale"), [((0.5,), 1.0), ((0.1, 0.3), 1.0), ((0.1, 0.3), 5.0)])
def test_the_noise_is_the_variance_around_the_mean(deviations: tuple[float, ...], scale: float) -> None:
    """In units of the action bound, which is 2 before scaling, averaged over dimensions, whatever the units are."""
    agent = wrap(TD3BC(**SMALL), NoiseTradeoff(factor=10.0, hidden=32, steps=2000))
    history = agent.fit(noisy(deviations, scale=scale), steps=1, seeds=2, **QUIET)
    true = np.mean(np.square(np.array(deviations) / 2))
    noise = history.metrics[-1]["noisetradeoff/noise"]
    assert noise[0] == noise[1] == pytest.approx(true, rel=0.1)
    tradeoff = history.metrics[-1]["noisetradeoff/tradeoff"]
    np.testing.assert_allclose(tradeoff, 10 / len(deviations) * np.asarray(noise), rtol=1e-6)


def test_the_variance_equals_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    nets = [init_mlp((3, 8, 8, 2), generator) for _ in range(2)]
    states, actions = torch.randn(50, 3, generator=generator), torch.rand(50, 2, generator=generator)
    stacked = {name: torch.stack([net[name] for net in nets]) for name in nets[0]}
    found = variance_around(stacked, {"observation": states, "action": actions})
    for net, variance in zip(nets, found, strict=True):
        loop = [float((mlp(net, s) - a).square().mean()) for s, a in zip(states, actions, strict=True)]
        assert float(variance) == pytest.approx(np.mean(loop), rel=1e-5)


def test_the_trade_off_reaches_the_actor() -> None:
    """Training with it is training at that fixed trade-off, to the bit; on ReBRAC and FQL at the inverse."""
    data = noisy((0.4, 0.2), rows=400)
    model = {"hidden": 8, "steps": 20}
    for learner, name, inverse, summed in (
        (TD3BC, "alpha", False, False),
        (FQL, "alpha", True, False),
        (ReBRAC, "beta1", True, True),
    ):
        agent = wrap(learner(**SMALL), NoiseTradeoff(factor=7.0, **model))
        history = agent.fit(data, steps=4, **QUIET)
        factor = 7.0 if summed else 7.0 / 2  # the data has two dimensions of action
        value = float(np.float32(factor) * np.float32(history.metrics[-1]["noisetradeoff/noise"][0]))
        fixed = wrap(learner(**SMALL, **{name: 1 / value if inverse else value}))
        fixed.fit(data, steps=4, **QUIET)
        for group, tensor in fixed.run.learned().items():
            torch.testing.assert_close(agent.run.learned()[group], tensor, rtol=1e-5, atol=1e-7)


def test_a_behaviour_without_noise_has_a_little() -> None:
    agent = wrap(TD3BC(**SMALL), NoiseTradeoff(hidden=32, steps=3000))
    data = noisy((0.0,))
    still = Dataset.from_arrays(**{**data.arrays(), "actions": np.zeros_like(data.actions), "name": "still"})
    history = agent.fit(still, steps=1, **QUIET)
    assert history.metrics[-1]["noisetradeoff/noise"][0] < LEAST_NOISE
    assert history.metrics[-1]["noisetradeoff/tradeoff"][0] == pytest.approx(75 * LEAST_NOISE)


def test_one_model_serves_all_seeds_and_later_runs(monkeypatch) -> None:
    data = noisy((0.4,), rows=200)
    first = wrap(TD3BC(**SMALL), NoiseTradeoff(hidden=8, steps=10))
    first.fit(data, steps=1, seeds=3, **QUIET)
    monkeypatch.setattr("adaptive_constraints.adapters.noise.variance_around", None)  # nothing is trained again
    second = wrap(TD3BC(**SMALL, alpha=1.0), NoiseTradeoff(hidden=8, steps=10, factor=3.0))
    second.fit(data, steps=1, seeds=2, **QUIET)
    assert first.history.metrics[-1]["noisetradeoff/noise"][0] == second.history.metrics[-1]["noisetradeoff/noise"][0]


@pytest.mark.parametrize("learner", [IQL(), CQL()])
def test_learners_without_a_distance_of_actions_are_refused(learner: Any) -> None:
    with pytest.raises(StackError, match="does not weigh a distance between the policy's actions and the data's"):
        wrap(learner, NoiseTradeoff()).explain()


def test_what_is_doubtful_is_said() -> None:
    assert "no squared distance" in wrap(FQL(), NoiseTradeoff()).explain()
    assert "needs tuning" not in wrap(TD3BC(), NoiseTradeoff()).explain()
    assert wrap(ReBRAC(), NoiseTradeoff()).explain()
