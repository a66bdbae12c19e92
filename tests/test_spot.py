"""SPOT: its model of the behaviour and its density against plain formulas, and TD3+BC under it against a plain loop."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import mse_loss

from adaptive_constraints import SPOT, Adapter, Dataset, FixedTradeoff, Preparation, Spec, load_agent, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.core.preparation import generator
from adaptive_constraints.data import Preprocessor
from adaptive_constraints.errors import StackError
from adaptive_constraints.networks import init_action_vae
from adaptive_constraints.pretraining.preparation import BoundPreparation

from .agents import make_data
from .helpers import (
    build,
    deviation,
    different,
    largest_difference,
    learned,
    meta_gradients,
    random_data,
    resolved_of,
    trained,
)
from .reference.common import draw, minibatch, update
from .reference.spot import PlainSPOT
from .reference.vae import PlainVAE, plain_vae
from .sketches import TinyCQL, TinyFQL, TinyIQL

TINY: dict[str, Any] = {"hidden": 16, "steps": 20, "batch_size": 32}
"""A model that is trained in no time."""
SMALL: dict[str, Any] = {"hidden": 8, "batch_size": 16}


pytestmark = pytest.mark.usefixtures("own_cache")


def a_model(latent: int = 4, width: int = 8, scale: float = 3.0) -> dict[str, Tensor]:
    """Parameters in float64, larger than at the start so that the latent says something."""
    made = init_action_vae(3, 2, latent, width, torch.Generator().manual_seed(0))
    return {name: scale * tensor.double() for name, tensor in made.items()}


def rows(count: int = 6, latent: int = 4, samples: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    made = [torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((count, 3), (count, 2))]
    return made[0], made[1].tanh(), torch.randn(samples, count, latent, generator=draw, dtype=torch.float64)


def preparation(data: Dataset, seeds=(0, 1)) -> Preparation:
    spec = Spec(data.observation_dim, data.action_dim)
    return BoundPreparation(data, Preprocessor.fit(data), TD3BC().facts(), spec, tuple(seeds), discount=0.99)


# -- the model --------------------------------------------------------------------------------------------------------


def test_the_model_is_trained_as_in_a_plain_loop():
    spot, one = SPOT(hidden=16, steps=25, batch_size=32, beta=0.3, learning_rate=3e-3), preparation(random_data())
    models = spot.prepare(one).models
    for position, seed in enumerate(one.seeds):
        model = plain_vae(init_action_vae(3, 2, 4, 16, generator(seed, "spot.behavior")))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for step in range(1, 26):
            index = minibatch(32, 200, seed, step, "spot.behavior/batch")
            s, a = one.table["observation"][index], one.table["action"][index]
            u, divergence = model(s, a, draw("normal", "spot.behavior/latent", (32, 4), seed, step, torch.float32))
            update(optimizer, mse_loss(u, a) + 0.3 * divergence.mean())
        expected = plain_vae({name: tensor[position] for name, tensor in models.items()})
        for ours, theirs in zip(expected.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_seeds_have_models_of_their_own_that_are_kept():
    first, again = (SPOT(**TINY).prepare(preparation(random_data(), seeds)).models for seeds in ((0, 5), (5,)))
    for name, tensor in first.items():
        assert torch.equal(tensor[1], again[name][0])
        assert not torch.equal(tensor[0], tensor[1])


# -- the density ------------------------------------------------------------------------------------------------------


def log_weights(model: PlainVAE, s: Tensor, a: Tensor, draw: Tensor, variance: float) -> tuple[Tensor, Tensor]:
    """log p(a|s, z) p(z) / q(z|s, a) and log p(a|s, z), each [B], in nats."""
    posterior = model.posterior(s, a)
    z = posterior.mean + posterior.stddev * draw
    likelihood = Normal(model.decoder(torch.cat([s, z], 1)), math.sqrt(variance)).log_prob(a).sum(1)
    prior = Normal(torch.zeros_like(z), torch.ones_like(z)).log_prob(z).sum(1)
    return likelihood + prior - posterior.log_prob(z).sum(1), likelihood


@pytest.mark.parametrize(("latent", "beta"), [(4, 0.5), (3, 0.2)])
def test_both_estimates_are_log_densities_but_for_unit_and_constant(latent, beta):
    """With the published beta = 0.5 and twice as many latents as actions, the decoder's variance is beta / 4."""
    p, spot = a_model(latent), SPOT(beta=beta)
    s, a, draws = rows(latent=latent, samples=5)
    variance = beta / 4 if latent == 4 else beta * 2 / (2 * latent)
    model, constant = plain_vae(p), math.log(2 * math.pi * variance)  # A / 2 = 1 of them
    with torch.no_grad():
        divergence = kl_divergence(model.posterior(s, a), Normal(0.0, 1.0)).sum(1)
        elbo = log_weights(model, s, a, draws[0], variance)[1] - divergence
        bound = torch.stack([log_weights(model, s, a, d, variance)[0] for d in draws]).exp().mean(0).log()
        torch.testing.assert_close(spot.elbo(p, s, a, draws[0]), -beta / latent * (elbo + constant))
        torch.testing.assert_close(spot.bound(p, s, a, draws), -beta / latent * (bound + constant))


def test_the_published_loss_and_one_draw_of_the_bound_on_average():
    p, spot = a_model(scale=1.5), SPOT()
    s, a, draws = rows(samples=4000)
    u, divergence = plain_vae(p)(s, a, draws[0])
    expected = (u - a).square().mean(1) + 0.5 * divergence.mean(1)
    torch.testing.assert_close(spot.elbo(p, s, a, draws[0]), expected.detach())
    many_s, many_a, flat = s.repeat(4000, 1), a.repeat(4000, 1), draws.flatten(0, 1)
    average = spot.elbo(p, many_s, many_a, flat).view(4000, 6).mean(0)
    one_draw = spot.bound(p, many_s, many_a, flat[None]).view(4000, 6).mean(0)
    torch.testing.assert_close(one_draw, average, atol=0.03, rtol=0)
    assert (spot.bound(p, s, a, draws) < average).all(), "more draws tighten the bound"


@pytest.mark.parametrize("samples", [1, 3])
def test_gradients_by_the_action_to_second_order(samples):
    p, (s, a, draws) = a_model(), rows(samples=samples)
    spot = SPOT(samples=samples)
    density = (lambda x: spot.elbo(p, s, x, draws[0])) if samples == 1 else lambda x: spot.bound(p, s, x, draws)
    a.requires_grad_()
    assert torch.autograd.gradcheck(density, (a,), eps=1e-6, atol=1e-6)
    assert torch.autograd.gradgradcheck(density, (a,), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("samples", [1, 8])
def test_actions_like_the_datas_cost_less_than_those_between_and_beyond(samples):
    """The data has two modes, at -0.6 and 0.6, whatever the state: no distance to a row's action knows both."""
    draw = np.random.default_rng(0)
    number = 1000
    actions = 0.6 * draw.choice([-1.0, 1.0], size=(number, 1)) + draw.normal(scale=0.03, size=(number, 1))
    data = Dataset.from_arrays(
        observations=draw.normal(size=(number, 1)),
        actions=actions,
        rewards=np.zeros(number),
        next_observations=draw.normal(size=(number, 1)),
        terminals=np.zeros(number, dtype=bool),
        timeouts=np.arange(number) % 20 == 19,
        name="two modes",
    )
    spot = SPOT(hidden=32, steps=300, batch_size=64, learning_rate=3e-3, beta=0.1, samples=samples)
    p = {name: tensor[0] for name, tensor in spot.prepare(preparation(data, seeds=(0,))).models.items()}
    s, draws = torch.zeros(500, 1), torch.randn(samples, 500, 2, generator=torch.Generator().manual_seed(0))

    def cost(action: float) -> float:
        a = torch.full((500, 1), action)
        return float((spot.elbo(p, s, a, draws[0]) if samples == 1 else spot.bound(p, s, a, draws)).mean())

    assert max(cost(-0.6), cost(0.6)) + 0.03 < min(cost(0.0), cost(-1.0), cost(1.0))


# -- on learners ------------------------------------------------------------------------------------------------------


def test_equals_a_plain_loop():
    learner, spot = TD3BC(hidden=64, batch_size=64), SPOT(weight=0.7, **TINY)
    data = random_data(500, 11, 3)
    engine = build(learner, spot, seeds=(3,), data=data, dtype=torch.float64)
    without = trained(learner, seeds=(3,), data=data, dtype=torch.float64, steps=40)
    loop = PlainSPOT(engine, data, 0.7)
    engine.run(40)
    loop.run(40)
    assert loop.largest_deviation(engine) < 1e-12
    assert loop.largest_deviation(without) > 1e-3, "the constraint must have made a difference"


@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("learner", [TD3BC(policy_every=1, **SMALL), TinyFQL()], ids=["TD3BC", "FQL"])
def test_aspcs_gradient_passes_through_the_density(learner, samples):
    closed_form, expected = meta_gradients(learner, SPOT(samples=samples, **TINY), rounds=3, horizon=10)
    assert torch.stack(closed_form).isfinite().all() and torch.stack(closed_form).abs().min() > 0
    assert deviation(closed_form, expected) < 1e-10


def constraint(learner, spot: SPOT) -> Tensor:
    """The constraint of the learner's policy on the first minibatch, over the density."""
    engine = build(learner, spot, dtype=torch.float64)
    engine.set_step(1)

    def answer(v):
        action = v.a.flip(0)
        noise = v.normal("spot/latent", (1, len(action), 4))[0]
        density = spot.elbo(v.frozen["spot"], v.s, action, noise)
        return {"ratio": v.constraint(action, lambda: v.r * torch.nan) / density}

    return engine.ask("test", answer)["ratio"]


def test_the_strength_is_the_published_one_at_the_learners_own_trade_off():
    spot = SPOT(weight=0.05, **TINY)
    for learner, expected in (
        (TD3BC(alpha=2.5, **SMALL), 2.5 * 0.05),
        (TD3BC(alpha=10.0, **SMALL), 10 * 0.05),
        (TinyFQL(alpha=4.0), 0.05 / 4),
    ):
        ratio = constraint(learner, spot)
        torch.testing.assert_close(ratio, torch.full_like(ratio, expected))


def test_a_larger_trade_off_from_elsewhere_loosens_it():
    """Four times the learner's own is a quarter of the weight: Adam's step sees no scale, but for its epsilon."""
    spot, options = SPOT(weight=0.8, **TINY), {"dtype": torch.float64, "steps": 6}
    loosened = trained(TD3BC(**SMALL), spot, FixedTradeoff(value=10.0), **options)
    expected = trained(TD3BC(**SMALL), replace(spot, weight=0.2), **options)
    tight = trained(TD3BC(**SMALL), spot, **options)
    assert largest_difference(learned(loosened), learned(expected)) < 1e-6
    assert largest_difference(learned(loosened), learned(tight)) > 1e-4


def test_seeds_together_and_traced_are_seeds_alone_and_untraced():
    options: dict[str, Any] = {"dtype": torch.float64, "steps": 20}
    stack = (TD3BC(**SMALL), SPOT(samples=2, **TINY))
    together = trained(*stack, seeds=(0, 4), traced=True, **options)
    for position, seed in enumerate((0, 4)):
        alone = trained(*stack, seeds=(seed,), **options)
        assert largest_difference(learned(together, position), learned(alone, 0)) < 1e-12


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path):
    data, options = make_data(), {"steps": 12, "seeds": 2, "device": "cpu", "progress": False, "traced": False}
    whole, half = (wrap(TD3BC(**SMALL), SPOT(**TINY)) for _ in range(2))
    whole.fit(data, **options)
    half.fit(data, stop_after=5, **options)
    half.save(tmp_path / "half.npz")
    rest = load_agent(tmp_path / "half.npz", device="cpu")
    rest.fit(data, **options)
    one, two = (agent.run.engine.state() for agent in (whole, rest))
    assert not different(one, two)
    assert any(name.startswith("frozen") for name in one)


# -- what it says -----------------------------------------------------------------------------------------------------


def test_online_it_cools_linearly_to_its_end():
    spot, facts = SPOT(online_end=0.2, online_steps=100), TD3BC().facts()
    assert spot.answers(facts, "offline") == {"constraint"}
    assert spot.answers(facts, "online") == {"constraint", "constraint_scale"}
    assert SPOT(online_end=1.0).answers(facts, "online") == {"constraint"}
    for step, expected in ((1, 0.99), (50, 0.5), (80, 0.2), (1000, 0.2)):
        v = SimpleNamespace(phase_step=torch.tensor(step), r=torch.zeros(1, dtype=torch.float64))
        assert float(spot.constraint_scale(v)) == pytest.approx(expected)


def test_rows_weights_do_not_reach_the_density():
    """They belong to the imitation that it replaces; `explain` warns of who gives them."""

    @dataclass(frozen=True)
    class Halved(Adapter):
        def sample_weight(self, v):
            return torch.full_like(v.r, 0.5)

    alone, weighted = (build(TD3BC(**SMALL), SPOT(**TINY), *others) for others in ((), (Halved(),)))
    alone.run(4), weighted.run(4)
    assert not different(learned(alone), learned(weighted))
    assert "is not heard by the constraint" in " ".join(map(str, resolved_of(weighted).warnings))


def test_explain_shows_it_at_its_seam():
    text = wrap(TD3BC(), SPOT()).explain()
    assert "constraint         spot" in text
    assert "spot on TD3BC: tested by its paper (arXiv 2202.06239)" in text


@pytest.mark.parametrize("learner", [TinyIQL(), TinyCQL()], ids=["IQL", "CQL"])
def test_learners_without_a_constraint_on_the_action_are_refused(learner):
    with pytest.raises(StackError, match="spot: the learner has no constraint on its policy's action"):
        wrap(learner, SPOT())


def test_values_that_are_not_normalised_are_warned_of():
    facts = replace(TD3BC().facts(), normalizes_improvement=False)
    assert "need tuning" in SPOT().check(facts)[0]
    assert SPOT().check(TD3BC().facts()) == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": 0.0}, "weight must be a number > 0"),
        ({"beta": -1.0}, "beta must be a number > 0"),
        ({"learning_rate": 0.0}, "learning_rate must be a number > 0"),
        ({"samples": 0}, "samples must be a whole number >= 1"),
        ({"latent": 0}, "latent must be a whole number >= 1"),
        ({"steps": 0}, "steps must be a whole number >= 1"),
        ({"online_end": 1.5}, "online_end must be a number in"),
    ],
)
def test_refused_settings(settings, message):
    with pytest.raises(StackError, match=message):
        SPOT(**settings)


def test_presets_are_settings():
    assert SPOT.preset("halfcheetah-medium").weight == 0.05
    assert SPOT.preset("antmaze-umaze", steps=5) == SPOT(weight=0.25, steps=5)
    assert all(isinstance(SPOT.preset(name), SPOT) for name in SPOT.presets)
