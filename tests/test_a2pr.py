"""A2PR: its autoencoder and its choice against plain formulas, TD3+BC under it against a plain loop, and a bandit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from adaptive_constraints import A2PR, Adapter, Dataset, View, load_agent, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.engine.engine import Engine
from adaptive_constraints.errors import StackError

from .agents import make_data
from .helpers import build, deviation, different, largest_difference, learned, meta_gradients, random_data, trained
from .reference.a2pr import PlainA2PR
from .reference.vae import plain_vae
from .sketches import TinyCQL, TinyFQL, TinyIQL

SMALL: dict[str, Any] = {"hidden": 8, "batch_size": 16}
PROPOSALS = ("policy", "prior")


# -- the choice -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Peak(TD3BC):
    """A learner whose critics know that the best action is 0.3 in every dimension; V is set by the tests."""

    def q(self, p: Mapping[str, Tensor], observation: Tensor, action: Tensor) -> Tensor:
        return -(action - 0.3).square().sum(-1).expand(2, -1)


def ask(engine: Engine, answer) -> dict[str, Tensor]:
    """What ``answer`` of the first step's view says, of the first seed."""
    if engine.step == 0:
        engine.set_step(1)
    return {name: tensor[0] for name, tensor in engine.ask("test", answer).items()}


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_it_imitates_whichever_action_has_the_greater_advantage(proposal):
    a2pr = A2PR(proposal=proposal, hidden=8)
    engine = build(Peak(**SMALL), a2pr, dtype=torch.float64)
    actions = ask(engine, lambda v: {"chosen": v.behavior_action(), "decoded": a2pr.decoded(v), "data": v.a})
    data, decoded = actions["data"], actions["decoded"]
    better = (decoded - 0.3).square().sum(-1) < (data - 0.3).square().sum(-1)
    assert 0 < int(better.sum()) < len(better), "there must be rows of both kinds"
    for row, chosen in enumerate(actions["chosen"]):
        assert torch.equal(chosen, decoded[row] if better[row] else data[row])


def test_what_is_decoded():
    """The policy's action through the encoder, or a latent near the mode."""
    engine = build(TD3BC(**SMALL), A2PR(hidden=8), dtype=torch.float64)
    policy, prior = (A2PR(proposal=proposal, hidden=8) for proposal in PROPOSALS)

    def answer(v) -> dict[str, Tensor]:
        draw = v.normal("a2pr/decode", (16, 4))
        action = v.resolved.learner.policy(v.p["actor"], v.s)
        return {"policy": policy.decoded(v), "prior": prior.decoded(v), "s": v.s, "a": action, "draw": draw}

    shown = ask(engine, answer)
    model = plain_vae({name: tensor[0] for name, tensor in engine.params["a2pr.vae"].items()})
    with torch.no_grad():
        expected, _ = model(shown["s"], shown["a"], shown["draw"])
        near = model.decoder(torch.cat([shown["s"], shown["draw"].clamp(-0.5, 0.5)], 1))
    torch.testing.assert_close(shown["policy"], expected)
    torch.testing.assert_close(shown["prior"], near)


@dataclass(frozen=True)
class Better(Adapter):
    """Has the best action imitated."""

    def behavior_action(self, v, default):
        return torch.full_like(default(), 0.3)


def test_it_composes_with_what_others_say_and_never_leaves_a_better_action():
    engine = build(Peak(**SMALL), Better(), A2PR(hidden=8), dtype=torch.float64)
    chosen = ask(engine, lambda v: {"chosen": v.behavior_action()})["chosen"]
    assert torch.equal(chosen, torch.full_like(chosen, 0.3))


@pytest.mark.parametrize("threshold", [0.0, 0.15])
def test_rows_are_imitated_where_the_advantage_exceeds_the_threshold(threshold):
    a2pr = A2PR(hidden=8, threshold=threshold, imitation_weight=0.4)
    engine = build(Peak(**SMALL), a2pr, dtype=torch.float64)
    for name, tensor in engine.params["value"].items():
        tensor.zero_() if name != "bias2" else tensor.fill_(-0.3)  # V = -0.3 everywhere
    shown = ask(engine, lambda v: {"weight": v.sample_weight(), "chosen": v.behavior_action()})
    advantage = 0.3 - (shown["chosen"] - 0.3).square().sum(-1)
    expected = 0.4 * (advantage > threshold).double()
    assert 0 < float(expected.mean()) < 0.4, "there must be rows of both kinds"
    assert torch.equal(shown["weight"], expected)
    shares = engine.diagnose()
    assert float(shares["a2pr/imitated"]) == pytest.approx(float(expected.mean()) / 0.4)
    assert 0 < float(shares["a2pr/replaced"]) < 1


# -- the autoencoder --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.0, 0.15])
def test_the_autoencoders_loss(threshold):
    a2pr = A2PR(hidden=8, latent=3, threshold=threshold, reconstruction_weight=1.5, divergence_weight=0.3)
    engine = build(Peak(**SMALL), a2pr, dtype=torch.float64)
    for name, tensor in engine.params["value"].items():
        tensor.zero_() if name != "bias2" else tensor.fill_(-0.5)

    def answer(v: View) -> dict[str, Tensor]:
        draw = v.normal("a2pr/reconstruct", (16, 3))
        return {"loss": a2pr.vae_loss(v.p["a2pr.vae"], v), "s": v.s, "a": v.a, "draw": draw}

    shown = ask(engine, answer)
    model = plain_vae({name: tensor[0] for name, tensor in engine.params["a2pr.vae"].items()})
    u, divergence = model(shown["s"], shown["a"], shown["draw"])
    good = (0.5 - (shown["a"] - 0.3).square().sum(1) > threshold).double()
    assert 0 < float(good.mean()) < 1
    expected = (1.5 * good[:, None] * (u - shown["a"]) ** 2).mean() + 0.3 * divergence.mean()
    torch.testing.assert_close(shown["loss"], expected.detach())


# -- a bandit ---------------------------------------------------------------------------------------------------------


def bandit(rows: int = 1000) -> Dataset:
    """Two arms, -0.5 and 0.5; the second pays."""
    draw, number = np.random.default_rng(0), np.arange(rows)
    arm = np.where(number % 2 == 0, -1.0, 1.0)
    return Dataset.from_arrays(
        observations=draw.normal(size=(rows, 1)),
        actions=(0.5 * arm + draw.normal(scale=0.05, size=rows))[:, None],
        rewards=(arm > 0).astype(float),
        next_observations=draw.normal(size=(rows, 1)),
        terminals=np.ones(rows, dtype=bool),
        timeouts=np.zeros(rows, dtype=bool),
        name="bandit",
    )


def test_on_a_bandit_the_worse_arm_is_imitated_no_more():
    learner = TD3BC(
        hidden=32, batch_size=64, critic_learning_rate=3e-3, actor_learning_rate=3e-3, polyak=0.1, alpha=0.1
    )
    engine = trained(learner, A2PR(hidden=32, learning_rate=3e-3), data=bandit(), steps=150, traced=True)
    shown = ask(engine, lambda v: {"chosen": v.behavior_action(), "weight": v.sample_weight(), "data": v.a})
    bad = shown["data"][:, 0] < 0
    chosen, imitated = shown["chosen"][:, 0], shown["weight"] > 0
    assert (chosen[bad] > 0.3).all(), "where the data took the worse arm, the better one is imitated"
    assert (chosen[~bad] > 0.3).all() and imitated[~bad].float().mean() > 0.9
    decoded = ask(engine, lambda v: {"a": A2PR(proposal="prior", hidden=32).decoded(v)})["a"]
    assert (decoded > 0.3).all(), "the autoencoder has learned the better arm only"
    mean = float(ask(engine, lambda v: {"a": v.resolved.learner.policy(v.p["actor"], v.s)})["a"].mean())
    assert mean > 0.3, "and so has the policy, hardly led by Q"


# -- on learners ------------------------------------------------------------------------------------------------------


def test_equals_a_plain_loop():
    learner = TD3BC(hidden=32, batch_size=64)
    a2pr, data = A2PR(hidden=16, imitation_weight=3.0), random_data(500, 11, 3)
    engine = build(learner, a2pr, seeds=(3,), data=data, dtype=torch.float64)
    without = trained(learner, seeds=(3,), data=data, dtype=torch.float64, steps=30)
    loop = PlainA2PR(engine, data, 3.0)
    engine.run(30)
    loop.run(30)
    replaced, imitated = torch.tensor(loop.shares).mean(0).tolist()
    assert 0.05 < replaced < 0.95 and 0.05 < imitated < 0.95, "rows of all kinds must have been met"
    assert loop.largest_deviation(engine) < 1e-11
    for ours, theirs in zip(
        loop.vae.parameters(),
        plain_vae({n: t[0] for n, t in engine.params["a2pr.vae"].items()}).parameters(),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
    assert loop.largest_deviation(without) > 5e-4


LEARNERS = {"TD3BC": TD3BC(policy_every=1, **SMALL), "IQL": TinyIQL(), "FQL": TinyFQL(), "CQL": TinyCQL()}


@pytest.mark.parametrize("proposal", PROPOSALS)
@pytest.mark.parametrize("learner", LEARNERS)
def test_every_learner_that_imitates_runs_under_it(learner, proposal):
    options: dict[str, Any] = {"seeds": (0, 1), "steps": 5}
    engine = trained(LEARNERS[learner], A2PR(proposal=proposal, hidden=8), **options)
    assert not engine.metrics.failures()
    assert all(tensor.isfinite().all() for tensor in learned(engine).values())
    without = learned(trained(LEARNERS[learner], **options))
    group = {"FQL": "teacher", "CQL": "critic"}.get(learner, "actor")
    params = {name: t for name, t in learned(engine).items() if name.startswith(f"params/{group}/")}
    assert params and different(params, {name: without[name] for name in params})


@pytest.mark.parametrize("learner", LEARNERS)
def test_aspcs_gradient_beside_it(learner):
    closed_form, expected = meta_gradients(LEARNERS[learner], A2PR(hidden=8), rounds=2, horizon=10)
    assert torch.stack(closed_form).isfinite().all() and torch.stack(closed_form).abs().max() > 0
    assert deviation(closed_form, expected) < 1e-10


def test_seeds_together_and_traced_are_seeds_alone_and_untraced():
    options: dict[str, Any] = {"dtype": torch.float64, "steps": 20}
    stack = (TD3BC(**SMALL), A2PR(hidden=8))
    together = trained(*stack, seeds=(0, 4), traced=True, **options)
    for position, seed in enumerate((0, 4)):
        alone = trained(*stack, seeds=(seed,), **options)
        assert largest_difference(learned(together, position), learned(alone, 0)) < 1e-12


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path):
    data, options = make_data(), {"steps": 12, "seeds": 2, "device": "cpu", "progress": False, "traced": False}
    whole, half = (wrap(TD3BC(**SMALL), A2PR(hidden=8)) for _ in range(2))
    whole.fit(data, **options)
    half.fit(data, stop_after=5, **options)
    half.save(tmp_path / "half.npz")
    rest = load_agent(tmp_path / "half.npz", device="cpu")
    rest.fit(data, **options)
    one, two = (agent.run.engine.state() for agent in (whole, rest))
    assert not different(one, two)
    assert "params/a2pr.vae/decoder.weight0" in one and "adam/a2pr.vae/decoder.weight0/exp_avg" in one


# -- what it says -----------------------------------------------------------------------------------------------------


def test_explain_shows_it_at_its_seams():
    text = wrap(TD3BC(), A2PR()).explain()
    for expected in (
        "behavior_action    a2pr",
        "sample_weight      a2pr",
        "query_action       a2pr",
        "update a2pr.vae",
    ):
        assert expected in text
    assert "tested by its paper (arXiv 2405.19909)" in text and "Warnings" not in text
    assert "weighs imitation by exp(advantage) already" in wrap(TinyIQL(), A2PR()).explain()


def test_row_weights_are_left_out_where_nobody_asks_for_them():
    assert "sample_weight" in A2PR().answers(TD3BC().facts(), "offline")
    assert A2PR().answers(TinyCQL().facts(), "offline") == {"behavior_action", "query_action"}


def test_the_learners_own_value_is_used_where_it_has_one():
    assert wrap(TinyIQL(), A2PR()).stack.resolve().shared_value is None
    assert wrap(TD3BC(), A2PR(value_expectile=0.7)).stack.resolve().shared_value.expectile == 0.7


def test_a_learner_that_imitates_nothing_is_refused():
    facts = TD3BC().facts()
    with pytest.raises(StackError, match="a2pr: the learner imitates no action"):
        A2PR().check(replace(facts, seams=facts.seams - {"behavior_action"}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"value_expectile": 1.0}, "value_expectile must be a number in"),
        ({"imitation_weight": 0.0}, "imitation_weight must be a number > 0"),
        ({"divergence_weight": -1.0}, "divergence_weight must be a number > 0"),
        ({"hidden": 0}, "hidden must be a whole number >= 1"),
        ({"latent": 0}, "latent must be a whole number >= 1"),
    ],
)
def test_refused_settings(settings, message):
    with pytest.raises(StackError, match=message):
        A2PR(**settings)


def test_presets_are_settings():
    assert A2PR.preset("hopper-medium") == A2PR(imitation_weight=0.4, reconstruction_weight=1.0)
    assert all(isinstance(A2PR.preset(name), A2PR) for name in A2PR.presets)
