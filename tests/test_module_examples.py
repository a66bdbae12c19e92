"""Published algorithms written from Modules keep the laws, alone and under the adapters that they can take."""

from __future__ import annotations

import re

import pytest
import torch

from adaptive_constraints.errors import StackError
from adaptive_constraints.testing import check_learner, check_stack

from .helpers import FOUR, trained
from .test_examples import ROOT, load

FOLDER = ROOT / "examples" / "modules"
CLASSES = {"awac": "ModuleAWAC", "xql": "XQL", "edac": "ModuleEDAC", "droq": "DroQ"}
SMALL = {"edac": {"critics": 3}, "droq": {"dropout": 0.1}}
UNCONSTRAINED = {("edac", "ssar"), ("edac", "aspc")}


def learner(name, **settings):
    kind = getattr(load(FOLDER / f"{name}.py", f"example_{name}"), CLASSES[name])
    return kind(hidden=8, batch_size=16, **{**SMALL.get(name, {}), **settings})


@pytest.mark.parametrize("name", CLASSES)
def test_it_keeps_the_laws_of_a_learner(name):
    check_learner(learner(name))


@pytest.mark.parametrize("adapter", FOUR, ids=lambda adapter: adapter.name)
@pytest.mark.parametrize("name", CLASSES)
def test_it_takes_the_four_adapters_or_has_no_constraint(name, adapter):
    if (name, adapter.name) in UNCONSTRAINED:
        with pytest.raises(StackError, match="as configured has none"):
            check_stack(learner(name), adapter)
    else:
        check_stack(learner(name), adapter)


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "edac"])
def test_it_takes_all_four_together(name):
    check_stack(learner(name), *FOUR)


@pytest.mark.parametrize("name", CLASSES)
def test_few_lines_are_not_the_algorithms(name):
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    marked = re.search(r"# -- for the toolkit -+\n(.*?)\n\n\ndef main", text, re.DOTALL)
    assert marked is not None
    assert len([line for line in marked.group(1).splitlines() if line.strip()]) <= 15


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_it_runs(name, capsys):
    load(FOLDER / f"{name}.py", f"example_{name}").main(steps=4)
    assert len(re.findall(r"score -?\d+\.\d after 4 steps", capsys.readouterr().out)) == 2


def test_without_diversity_critics_keep_to_themselves():
    check_learner(learner("edac", eta=0.0))


# -- formulas ---------------------------------------------------------------------------------------------------------


def module_of(make, params, *index):
    """A Module of an example with the parameters of one seed (and member)."""
    own = make().double()
    own.load_state_dict({name: tensor[index] for name, tensor in params.items()})
    return own


def test_the_critics_likeness_is_the_papers():
    """EDAC's equation, by automatic differentiation member by member."""
    edac = learner("edac")
    engine = trained(edac, seeds=(0, 1), dtype=torch.float64, steps=3)
    ours = engine.ask("likeness", lambda v: {"likeness": edac.likeness(v.p["critic"], v)})["likeness"]
    kind = load(FOLDER / "edac.py", "example_edac").Critic
    for seed in range(2):
        s, a = engine.batch["observation"][seed], engine.batch["action"][seed]
        directions = []
        for member in range(3):
            critic, action = module_of(lambda: kind(3, 2, 8), engine.params["critic"], seed, member), a.clone()
            (gradient,) = torch.autograd.grad(critic(s, action.requires_grad_()).sum(), action)
            directions.append(gradient / gradient.norm(dim=-1, keepdim=True))
        pairs = [(directions[i] * directions[j]).sum(-1).mean() for i in range(3) for j in range(3) if i != j]
        assert abs(sum(pairs) / 2 - ours[seed]) < 1e-9


def test_a_gumbel_regression_follows_the_papers_gradient():
    """XQL's exp(z) - z - 1, whose gradient is scaled by the minibatch's largest exp(z)."""
    loss = load(FOLDER / "xql.py", "example_xql").gumbel_rescale_loss
    q = torch.linspace(-3, 9, 13, dtype=torch.float64)
    v = torch.full_like(q, 1.5).requires_grad_()
    (ours,) = torch.autograd.grad(loss(q - v, 2.0, 3.0).sum(), v)
    z = (q - 1.5) / 2
    expected = torch.where(z < 3, (1 - z.exp()) / 2, 0.0) / z.clamp(max=3).exp().max()
    assert torch.allclose(ours, expected)


def test_an_actor_imitates_by_its_advantages():
    """AWAC's loss of the actor, from its Modules."""
    awac = learner("awac", beta=0.5)
    engine = trained(awac, seeds=(0, 1), dtype=torch.float64, steps=3)

    def loss(v):
        noise = v.normal("policy/actor/0", (16, 2))
        return {"loss": awac.constrained_loss(v.p["actor"], v, v.tradeoff())[0], "noise": noise}

    ours, example = engine.ask("loss", loss), load(FOLDER / "awac.py", "example_awac")
    for seed in range(2):
        s, a = engine.batch["observation"][seed], engine.batch["action"][seed]
        actor = module_of(lambda: example.Actor(3, 2, 8), engine.params["actor"], seed)
        critics = [module_of(lambda: example.Critic(3, 2, 8), engine.params["critic"], seed, n) for n in range(2)]
        policy = actor.policy(s)
        drawn = (policy.mean + policy.stddev * ours["noise"][seed]).clamp(-1, 1)
        advantage = torch.min(*(critic(s, a) for critic in critics)) - torch.min(*(c(s, drawn) for c in critics))
        expected = -(policy.log_prob(a).sum(-1) * (advantage / 0.5).exp().clamp(max=100)).mean()
        assert abs(expected - ours["loss"][seed]) < 1e-9
