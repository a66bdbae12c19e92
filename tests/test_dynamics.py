"""The dynamics ensemble: its loss against torch's own, what it learns, when its members stop, and which are best."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal

from adaptive_constraints import Dataset, Facts, Preparation, Spec
from adaptive_constraints.adapters.frozen_models import Best, DynamicsFit, Transitions
from adaptive_constraints.data import Preprocessor
from adaptive_constraints.engine import noise
from adaptive_constraints.errors import DatasetError, TrainingError
from adaptive_constraints.networks import dynamics_loss, first_members, init_dynamics, predict_transition
from adaptive_constraints.networks.dynamics import Prediction
from adaptive_constraints.pretraining.preparation import BoundPreparation

FACTS = Facts(constrained="actor", seams=frozenset(), tradeoff=None)
NOISE = torch.tensor([0.1, 0.4, 0.2])
TINY = DynamicsFit(members=3, hidden=8, epochs=3)


pytestmark = pytest.mark.usefixtures("own_cache")


def linear_data(rows: int = 600, rewards: float | None = None, **changes) -> Dataset:
    """s' = s + A s + B a and r = s_0 - a, each with normal noise, in one long episode; or one reward throughout."""
    draw = np.random.default_rng(0)
    s, a = draw.normal(size=(rows, 2)), draw.uniform(-1, 1, size=(rows, 1))
    change = s @ np.array([[0.2, 0.4], [-0.5, 0.1]]) + a @ np.array([[0.5, -0.3]])
    known: dict[str, Any] = {
        "observations": s,
        "actions": a,
        "rewards": s[:, 0] - a[:, 0] + 0.2 * draw.normal(size=rows) if rewards is None else np.full(rows, rewards),
        "next_observations": s + change + draw.normal(size=(rows, 2)) * NOISE[:2].numpy(),
        "terminals": np.zeros(rows, bool),
        "timeouts": np.arange(rows) == rows - 1,
    }
    return Dataset.from_arrays(**(known | changes))


def preparation(data: Dataset, seeds=(0,), **settings) -> Preparation:
    spec = Spec(data.observation_dim, data.action_dim)
    return BoundPreparation(data, Preprocessor.fit(data, **settings), FACTS, spec, tuple(seeds), discount=0.99)


def one(models: dict, seed: int = 0) -> dict:
    return {name: tensor[seed] for name, tensor in models.items()}


def standard(p: dict, data: Dataset) -> torch.Tensor:
    inputs = torch.cat([torch.tensor(data.observations), torch.tensor(data.actions)], 1)
    return (inputs - p["input_mean"]) / p["input_std"]


# -- the networks -----------------------------------------------------------------------------------------------------


def test_the_loss_is_the_likelihood_and_the_decay_of_separate_networks():
    random = torch.Generator().manual_seed(0)
    p = {n: t.double().requires_grad_() for n, t in init_dynamics(3, 2, random, members=2, hidden=16).items()}
    x, y = (torch.randn(2, 9, width, generator=random, dtype=torch.float64) for width in (5, 4))
    expected = 0.01 * (p["largest_log_variance"] - p["smallest_log_variance"]).sum()
    networks = []
    for member in range(2):
        sizes = [5, 16, 16, 16, 16, 8]
        linear = [nn.Linear(i, o, dtype=torch.float64) for i, o in itertools.pairwise(sizes)]
        for layer, module in enumerate(linear):
            module.weight.data.copy_(p[f"weight{layer}"][member].T)
            module.bias.data.copy_(p[f"bias{layer}"][member])
        network = nn.Sequential(*[part for module in linear[:-1] for part in (module, nn.SiLU())], linear[-1])
        networks.append(linear)
        out = network(x[member])
        high, low = p["largest_log_variance"], p["smallest_log_variance"]
        log_variance = high - torch.log1p(torch.exp(high - out[:, 4:]))
        log_variance = low + torch.log1p(torch.exp(log_variance - low))
        log_density = Normal(out[:, :4], torch.exp(log_variance / 2)).log_prob(y[member])
        expected = expected - (2 * log_density + math.log(2 * math.pi)).mean()
        for module, c in zip(linear, (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4), strict=True):
            expected = expected + c * (module.weight**2).sum() / 2
    loss = dynamics_loss(p, x, y)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    loss.backward()
    theirs = [p[name].grad.clone() for name in ("largest_log_variance", "smallest_log_variance")]
    p["largest_log_variance"].grad = p["smallest_log_variance"].grad = None
    expected.backward()
    for mine, name in zip(theirs, ("largest_log_variance", "smallest_log_variance"), strict=True):
        torch.testing.assert_close(p[name].grad, mine, rtol=1e-10, atol=1e-12)
    for member, linear in enumerate(networks):
        for layer, module in enumerate(linear):
            torch.testing.assert_close(p[f"weight{layer}"].grad[member].T, module.weight.grad, rtol=1e-9, atol=1e-12)


def test_the_log_variance_stays_within_its_bounds():
    p = init_dynamics(2, 1, torch.Generator().manual_seed(0), members=2, hidden=8)
    log_variance = predict_transition(p, 1e4 * torch.randn(50, 3)).log_variance
    assert log_variance.min() >= -10 and log_variance.max() <= 0.5 + 1e-4
    assert log_variance.min() < -9.9 and log_variance.max() > 0.4, "the inputs reach both ends"


def test_initial_weights_are_cut_off():
    p = init_dynamics(2, 1, torch.Generator().manual_seed(0))
    std = 1 / (2 * math.sqrt(200))
    assert p["weight1"].abs().max() <= 2 * std and 0.8 * std < p["weight1"].std() < 0.95 * std
    assert all(not tensor.any() for name, tensor in p.items() if name.startswith("bias"))


def test_a_draw_is_one_members_and_all_come_up_alike():
    mean = torch.arange(4.0)[:, None, None].expand(4, 8000, 3)
    prediction = Prediction(mean, torch.full_like(mean, math.log(0.01)))
    normal = torch.randn(8000, 3, generator=torch.Generator().manual_seed(0))
    drawn = prediction.draw(torch.rand(8000, generator=torch.Generator().manual_seed(1)), normal)
    member = (drawn - 0.1 * normal).round()
    torch.testing.assert_close(drawn, member + 0.1 * normal)
    assert (member == member[:, :1]).all()
    counts = member[:, 0].long().bincount(minlength=4)
    assert len(counts) == 4 and counts.min() > 1850 and counts.max() < 2150
    last = prediction.draw(torch.full((8000,), 1 - 2**-24), normal)
    assert (last.round() >= 2).all()


def test_the_deviation_is_the_largest_norm_over_members():
    std = torch.tensor([[[3.0, 4.0], [1.0, 0.0]], [[0.0, 1.0], [2.0, 2.0]]])
    prediction = Prediction(torch.zeros_like(std), 2 * std.log())
    torch.testing.assert_close(prediction.largest_deviation(), torch.tensor([5.0, math.sqrt(8)]))
    torch.testing.assert_close(prediction.first(1).largest_deviation(), torch.tensor([5.0, 1.0]))


def test_the_first_members_alone_predict_the_same():
    p = init_dynamics(2, 1, torch.Generator().manual_seed(0), members=4, hidden=8)
    x = torch.randn(5, 3)
    for fewer, all_of_them in zip(predict_transition(first_members(p, 3), x), predict_transition(p, x), strict=True):
        torch.testing.assert_close(fewer, all_of_them[:3])


# -- what is learned --------------------------------------------------------------------------------------------------


def test_a_linear_system_and_its_noise_are_recovered():
    data = linear_data(3000)
    models = DynamicsFit(members=2, hidden=32, epochs=45, patience=45).run(preparation(data), "t.dynamics")
    p = one(models)
    mean, log_variance = predict_transition(p, standard(p, data))
    s, a = torch.tensor(data.observations), torch.tensor(data.actions)
    change = s @ torch.tensor([[0.2, 0.4], [-0.5, 0.1]]) + a @ torch.tensor([[0.5, -0.3]])
    truth = torch.cat([change, s[:, :1] - a], 1)
    assert (mean - truth).square().mean((0, 1)).sqrt().max() < 0.1
    torch.testing.assert_close((log_variance / 2).exp().mean((0, 1)), NOISE, rtol=0.25, atol=0)


def test_members_come_in_the_order_of_the_error_they_are_kept_with():
    one_fit = preparation(linear_data(), (0, 1))
    models = replace(TINY, epochs=6).run(one_fit, "t.dynamics")
    assert (models["holdout_error"].diff(dim=1) > 0).all()
    rows = Transitions.of(one_fit)
    for seed in range(2):
        mean, _ = predict_transition(one(models, seed), rows.held_inputs)
        by_hand = ((mean - rows.held_target) ** 2).flatten(1).mean(1)
        torch.testing.assert_close(by_hand, models["holdout_error"][seed])


def test_each_member_learns_from_its_own_sample():
    one_fit = preparation(linear_data(), (0, 4))
    rows = Transitions.of(one_fit)
    assert len(rows.held_target) == 120 and len(rows.target) == 480
    fit: Any = TINY.start_fit(one_fit, "t.dynamics", rows, (0, 4), steps=10)
    samples = fit.batches.select(torch.arange(fit.batches.rows))[1]["row"].long()
    assert samples.shape == (2, 480, 3)
    for sample in samples.permute(0, 2, 1).flatten(0, 1):
        assert 0.58 < len(sample.unique()) / 480 < 0.69, "with replacement, 1 - 1/e of the rows are there"
    start = {name: tensor.clone() for name, tensor in fit.params["dynamics"].items()}
    reported = fit.run(1)["dynamics/loss"]
    for position, seed in enumerate((0, 4)):
        key: dict[str, Any] = {"seeds": torch.tensor([seed]), "steps": torch.tensor([1])}
        index = noise.indices(site="t.dynamics/batch", count=256, rows=480, **key)[0, 0]
        drawn = [samples[position, index, member] for member in range(3)]
        x, y = (torch.stack([column[i] for i in drawn]) for column in (rows.inputs, rows.target))
        assert float(dynamics_loss(one(start, position), x, y)) == pytest.approx(reported[position], rel=1e-5)


def test_less_than_one_percent_better_is_no_improvement():
    best = Best({"weight0": torch.zeros(1, 1, 2, 2)}, 1, 1)
    for error, going in ((1.0, True), (0.995, True), (0.991, False)):
        params = {"weight0": torch.full((1, 1, 2, 2), error)}
        assert best.update(params, torch.tensor([[error]]), patience=1) is going
    kept = best.ordered()
    assert float(kept["holdout_error"]) == 1.0 and (kept["weight0"] == 1.0).all()


def test_a_member_is_kept_at_its_best_and_a_seed_stops_alone():
    """Two seeds of two members; a member's weight is the number of the epoch."""
    errors = [
        [[1.0, 5.0], [1.0, 1.0]],
        [[0.995, 4.0], [2.0, 0.5]],
        [[0.9, 4.5], [2.0, 0.6]],
        [[0.8, 4.5], [2.0, 0.6]],
        [[0.8, 4.5], [0.1, 0.1]],  # the second seed has stopped: two epochs without improvement, patience one
        [[0.8, 4.5], [0.1, 0.1]],
        [[math.nan, 4.5], [0.1, 0.1]],
    ]
    best = Best({"weight0": torch.zeros(2, 2, 3, 3), "smallest_log_variance": torch.zeros(2, 3)}, 2, 2)
    going = []
    for epoch, error in enumerate(errors, start=1):
        params = {
            "weight0": torch.full((2, 2, 3, 3), float(epoch)),
            "smallest_log_variance": torch.full((2, 3), float(epoch)),
        }
        going.append(best.update(params, torch.tensor(error), patience=1))
    assert going == [True, True, True, True, True, False, False]
    ordered = best.ordered()
    torch.testing.assert_close(ordered["holdout_error"], torch.tensor([[0.8, 4.0], [0.5, 1.0]]))
    assert ordered["weight0"][..., 0, 0].tolist() == [[4.0, 2.0], [2.0, 1.0]]
    assert ordered["smallest_log_variance"][:, 0].tolist() == [6.0, 4.0]


def test_training_stops_early(monkeypatch):
    ran = []
    monkeypatch.setattr(Best, "update", lambda *_: ran.append(1) or len(ran) < 2)
    with pytest.raises(TrainingError, match=r"t\.dynamics of seeds \[0\] has no finite error"):
        replace(TINY, epochs=9).run(preparation(linear_data()), "t.dynamics")
    assert len(ran) == 2


def test_seeds_together_are_seeds_alone_and_are_kept(own_cache, monkeypatch):
    together = TINY.run(preparation(linear_data(), (0, 5)), "t.dynamics")
    assert not torch.equal(together["weight0"][0], together["weight0"][1])
    first = {file.name: file.read_bytes() for file in own_cache.iterdir()}
    assert len(first) == 2
    for file in own_cache.iterdir():
        file.unlink()
    again = TINY.run(preparation(linear_data(), (0, 5)), "t.dynamics")
    assert all(torch.equal(tensor, again[name]) for name, tensor in together.items()), "retraining gives the same bits"
    for file in own_cache.iterdir():
        file.unlink()
    alone = TINY.run(preparation(linear_data(), (5,)), "t.dynamics")
    for name, tensor in alone.items():
        torch.testing.assert_close(tensor[0], together[name][1], rtol=0, atol=1e-5)
    monkeypatch.setattr(DynamicsFit, "start_fit", None)
    assert torch.equal(TINY.run(preparation(linear_data(), (5,)), "t.dynamics")["weight0"], alone["weight0"])
    with pytest.raises(TypeError):
        replace(TINY, hidden=9).run(preparation(linear_data(), (5,)), "t.dynamics")


def test_a_constant_reward_stays_finite():
    """Its likelihood has no bound, but the log-variance has."""
    data = linear_data(400, rewards=0.0)
    models = replace(TINY, epochs=10).run(preparation(data), "t.dynamics")
    assert all(tensor.isfinite().all() for tensor in models.values())
    p = {name: tensor.clone() for name, tensor in one(models).items() if name[0] not in "ih"}
    p["weight4"][..., [2, 5]], p["bias4"][..., 2], p["bias4"][..., 5] = 0.0, 0.0, -1e6  # certain, and rightly so
    p = {name: tensor.requires_grad_() for name, tensor in p.items()}
    x = standard(one(models), data).expand(3, -1, -1)
    loss = dynamics_loss(p, x, torch.zeros(3, 400, 3))
    loss.backward()
    assert loss.isfinite() and all(tensor.grad.isfinite().all() for tensor in p.values())
    certain = predict_transition(p, x).log_variance[..., 2]
    torch.testing.assert_close(certain, p["smallest_log_variance"][2].expand_as(certain), rtol=0, atol=1e-3)


def test_a_shared_model_is_the_first_seeds():
    models = TINY.run(preparation(linear_data(), (3, 4)), "t.dynamics", shared=True)
    apart = TINY.run(preparation(linear_data(), (3, 4)), "t.dynamics")
    for name, tensor in models.items():
        assert torch.equal(tensor[0], tensor[1]) and torch.equal(tensor[0], apart[name][0])


# -- data -------------------------------------------------------------------------------------------------------------


def test_rows_whose_next_observation_stands_in_are_left_out():
    data = linear_data(50)
    after, ends = data.next_observations.copy(), np.zeros(50, bool)
    ends[[10, 20, 30]] = True
    after[[10, 20]] = data.observations[[10, 20]]
    rows = Transitions.of(preparation(linear_data(50, next_observations=after, terminals=ends)))
    targets = torch.cat([rows.target, rows.held_target])
    assert len(targets) == 48
    assert {round(float(r), 5) for r in targets[:, -1]} == {
        round(float(r), 5) for r in np.delete(data.rewards, [10, 20])
    }


def test_inputs_are_standardised_and_constants_left():
    data = linear_data(300)
    states = data.observations * 50 + 7
    states[:, 1] = 4.0
    rows = Transitions.of(preparation(linear_data(300, observations=states)))
    torch.testing.assert_close(rows.inputs.mean(0), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(rows.inputs.std(0, correction=0), torch.tensor([1.0, 0.0, 1.0]), rtol=0, atol=1e-5)
    assert rows.std[1] == 1


def test_few_rows_are_enough_but_one_is_not():
    models = TINY.run(preparation(linear_data(3)), "t.dynamics")
    assert all(tensor.isfinite().all() for tensor in models.values())
    with pytest.raises(DatasetError, match="too few transitions"):
        TINY.run(preparation(linear_data(1)), "t.dynamics")
