"""Plain Modules as groups of parameters: what they give is what torch gives, and buffers and noise have a home."""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from adaptive_constraints import ASPC, Adapter, AdapterStage, Average, Spec, Stage, Update, load_agent, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.errors import StackError
from adaptive_constraints.networks import from_modules, product_precision
from adaptive_constraints.pretraining.model_fit import EngineFit
from adaptive_constraints.testing import check_adapter, check_learner, check_stack, made_data

from .emulation import EmulatedGraph
from .helpers import apart_from_alone, build, different, largest_difference, learned, trained

ROOT = Path(__file__).resolve().parents[1]
QUIET: dict[str, Any] = {"progress": False, "device": "cpu"}
UNIFORM = torch.rand(100_000, generator=torch.Generator().manual_seed(0))
KINDS = ("plain", "dropout", "batch norm", "spectral norm", "old spectral norm")


def layer(kind, inputs, outputs):
    made = nn.Linear(inputs, outputs, bias=kind != "batch norm")  # which takes it away again, but for rounding
    if kind == "spectral norm":
        return parametrizations.spectral_norm(made)
    return nn.utils.spectral_norm(made) if kind == "old spectral norm" else made


class Critic(nn.Module):
    """Two hidden layers, with what a kind adds to them."""

    def __init__(self, state, action, hidden, kind="plain"):
        super().__init__()
        more = {"dropout": lambda: [nn.Dropout(0.1)], "batch norm": lambda: [nn.BatchNorm1d(hidden)]}
        extra = more.get(kind, lambda: [])
        first, second = layer(kind, state + action, hidden), layer(kind, hidden, hidden)
        self.net = nn.Sequential(
            first, *extra(), nn.ReLU(), second, *extra(), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )

    def forward(self, state, action):
        return self.net(torch.cat([state, action], -1)).squeeze(-1)

    def first_layer(self, state, *, action):
        return self.net[0](torch.cat([state, action], -1))


@dataclass(frozen=True, kw_only=True)
class OfModules(TD3BC):
    """TD3+BC from Modules, whose critics learn in training mode."""

    kind: str = field(default="plain")

    @from_modules
    def nets(self, spec):
        state, action = spec
        layers = nn.Linear(state, self.hidden), nn.ReLU(), nn.Linear(self.hidden, action), nn.Tanh()
        return {
            "actor": nn.Sequential(*layers),
            "critic": [Critic(state, action, self.hidden, self.kind) for _ in range(2)],
        }

    def init(self, spec, generator):
        return self.nets.init(spec, generator)

    def policy(self, p, observation):
        return self.nets.actor(p, observation)

    def q(self, p, observation, action):
        return self.nets.critic(p, observation, action)

    def regression(self, p, v):
        loss = v.td_weight() * self.td_error(self.nets.critic.train(v)(p, v.s, v.a), self.target(v)).mean()
        for row in v.critic_rows():
            loss = loss + row.weight * self.td_error(self.q(p, row.observation, row.action), row.target).mean()
        return loss


def small(kind="plain"):
    return OfModules(hidden=8, batch_size=16, kind=kind)


# -- a network alone --------------------------------------------------------------------------------------------------


class View:
    """A view with noise and a place for buffers, as networks need it."""

    def __init__(self):
        self.kept, self.draws = {}, []

    def kept_of(self, p):
        return self.kept.setdefault("net", {})

    def uniform(self, site, shape):
        self.draws.append((site, tuple(shape)))
        return UNIFORM[: math.prod(shape)].view(shape)

    def normal(self, site, shape):
        return self.uniform(site, shape) - 0.5


def networks(make, members=None):
    """The networks of one group ``net``, its parameters, and the same Modules."""

    class Owner:
        @from_modules
        def nets(self, spec):
            return {"net": make() if members is None else [make() for _ in range(members)]}

    owner = Owner()
    p = owner.nets.init(Spec(3, 2), torch.Generator().manual_seed(1))["net"]
    modules = []
    for number in range(members or 1):
        module = make().double()
        module.load_state_dict({n: t if members is None else t[number] for n, t in p.items()}, strict=False)
        modules.append(module)
    return owner.nets.net, {name: tensor.double() for name, tensor in p.items()}, modules


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "dropout"])
@pytest.mark.parametrize("members", [None, 3])
def test_a_network_is_its_module(kind, members):
    """In evaluation and training mode, and so are the buffers that calls one after the other leave."""
    net, p, modules = networks(lambda: Critic(3, 2, 8, kind), members)
    view, draw = View(), torch.Generator().manual_seed(2)
    for _ in range(4):
        s, a = (torch.randn(7, n, generator=draw, dtype=torch.float64) for n in (3, 2))
        for call, training in ((net.train(view), True), (net, False)):
            here = call({**p, **view.kept.get("net", {})}, s, a)
            there = torch.stack([module.train(training)(s, a) for module in modules])
            assert (here - there).abs().max() < 1e-12
            assert here.shape == ((7,) if members is None else (members, 7))
    for name, tensor in view.kept["net"].items():
        other = torch.stack([dict(module.named_buffers())[name].double() for module in modules])
        assert (tensor - other).abs().max() < 1e-12, name
    assert bool(view.kept["net"]) == (kind != "plain")


def test_other_methods_and_keywords_reach_the_module():
    net, p, modules = networks(lambda: Critic(3, 2, 8), 2)
    s, a = torch.ones(5, 3).double(), torch.ones(5, 2).double()
    there = torch.stack([module.first_layer(s, action=a) for module in modules])
    assert (net.first_layer(p, s, action=a) - there).abs().max() < 1e-12
    part = {name: tensor[:1] for name, tensor in p.items()}
    assert torch.equal(net(part, s, a), net(p, s, a)[:1])


def test_a_seed_starts_a_module_alike_and_nothing_else():
    class Owner:
        @from_modules
        def nets(self, spec):
            own = nn.Linear(3, 2)
            own.register_buffer("other", torch.as_tensor(np.random.rand(3)))
            return {"net": own}

    def made(seed):
        return Owner().nets.init(Spec(3, 2), torch.Generator().manual_seed(seed))["net"]

    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    assert not different({f"params/{n}": t for n, t in made(0).items()}, {f"params/{n}": t for n, t in made(0).items()})
    assert all((made(0)[name] != made(1)[name]).any() for name in made(0))
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == np.random.get_state()[1].tolist()


def test_dropout_draws_from_the_view_and_each_member_for_itself():
    net, p, _ = networks(lambda: nn.Sequential(nn.Linear(3, 400, bias=False), nn.Dropout(0.25)), 3)
    x, view = torch.ones(50, 3).double(), View()
    plain, dropped = net(p, x), net.train(view, "here")(p, x)
    assert view.draws == [("here/net/0", (3, 50, 400))]
    kept = dropped != 0
    assert abs(kept.double().mean() - 0.75) < 0.01
    assert torch.allclose(dropped[kept], plain[kept] / 0.75)
    assert (kept[0] != kept[1]).double().mean() > 0.3


class Odd(nn.Module):
    """What authors do: tied, frozen, whole and true-or-false tensors, buffers of their own, noise, distributions."""

    calls: torch.Tensor

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(3, 3)
        self.two = nn.Linear(3, 3)
        self.two.weight = self.one.weight
        self.frozen = nn.Parameter(torch.full((3,), 2.0), requires_grad=False)
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.register_buffer("order", torch.tensor([2, 0, 1]))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("noise", torch.zeros(3), persistent=False)

    def forward(self, x):
        if self.training:
            self.calls += 1
            self.mean.mul_(0.5).add_(0.5 * x.detach().mean(0))
        self.noise.normal_()
        policy = torch.distributions.Normal(self.two(self.one(x)) - self.mean, self.frozen)
        action = policy.rsample() + 0.1 * self.noise + 0.1 * torch.randn_like(x) + 0.1 * torch.rand(3)
        return torch.where(self.mask, action, 0.0)[:, self.order], policy.log_prob(action)


@dataclass(frozen=True, kw_only=True)
class OfOddModules(OfModules):
    """An actor that draws for itself."""

    @from_modules
    def nets(self, spec):
        return {"actor": Odd(), "critic": [Critic(3, 2, self.hidden) for _ in range(2)]}

    def sample(self, v, p, observation, site):
        action, density = self.nets.actor.train(v, site)(p, observation)
        v.log("density", density.mean())
        return torch.tanh(action[:, :2])

    def policy(self, p, observation):
        return torch.tanh(self.nets.actor.one(p, observation)[:, :2])

    def terms(self, p, v):
        action = self.sample(v, p, v.s, "terms")
        q = self.q(v.p["critic"], v.s, action)[0]
        return type(super().terms(v.p["actor"], v))(q, -q, v.constraint(action, lambda: action.square().mean(-1)))


def test_odd_modules_train_alike_however_they_are_run():
    learner = OfOddModules(hidden=8, batch_size=16)
    assert apart_from_alone(learner, seeds=(5, 0, 2), traced=True, steps=6) < 1e-12
    eager, traced = (trained(learner, seeds=(0, 1), traced=traced, steps=6) for traced in (False, True))
    assert not different(learned(eager), learned(traced))
    actor = eager.params["actor"]
    assert actor["calls"].tolist() == [3, 3]  # one for each step of the actor; averages are not its own
    assert (actor["frozen"] == 2).all() and torch.equal(actor["mask"][0], torch.tensor([1.0, 0.0, 1.0]))
    assert (actor["mean"][0] != actor["mean"][1]).all() and (actor["noise"][0] != actor["noise"][1]).all()
    assert "two.weight" not in actor


# -- against a plain loop ---------------------------------------------------------------------------------------------


def test_batch_norm_learns_what_a_plain_loop_learns():
    """A regression in float64: parameters, statistics and predictions after 40 steps of Adam."""
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.sin(2 * x.sum(-1, keepdim=True))

    def make():
        return nn.Sequential(
            nn.Linear(3, 16, bias=False), nn.BatchNorm1d(16, momentum=0.2), nn.ReLU(), nn.Linear(16, 1)
        )

    class Owner:
        @from_modules
        def nets(self, spec):
            return {"net": make()}

    nets = Owner().nets

    def loss(p, v):
        return nn.functional.mse_loss(nets.net.train(v)(p, v.batch["x"]), v.batch["y"])

    fit = EngineFit(
        "regression",
        lambda generator: nets.init(Spec(3, 1), generator),
        (Stage("fit", (Update("net", loss, 1e-2),), averages=(Average("net", 0.1),)),),
        seeds=(3, 4),
        spec=Spec(3, 1),
        table={"x": x.float(), "y": y.float()},
        seed_columns={},
        steps=40,
        batch_size=16,
        device=torch.device("cpu"),
    )
    modules = [make() for _ in fit.params["net"]["0.weight"]]
    for number, module in enumerate(modules):
        module.load_state_dict({name: tensor[number].clone() for name, tensor in fit.params["net"].items()})
    optimizers = [torch.optim.Adam(module.parameters(), 1e-2) for module in modules]
    for _ in range(40):
        fit.run(1)
        for number, (module, optimizer) in enumerate(zip(modules, optimizers, strict=True)):
            batch = {name: column[number] for name, column in fit.ask("batch", lambda v: dict(v.batch)).items()}
            optimizer.zero_grad()
            nn.functional.mse_loss(module(batch["x"]), batch["y"]).backward()
            optimizer.step()
    for number, module in enumerate(modules):
        for name, tensor in module.state_dict().items():
            assert (fit.params["net"][name][number] - tensor).abs().max() < 1e-4, name
    assert (fit.targets["net"]["1.running_mean"] - fit.params["net"]["1.running_mean"]).abs().max() > 1e-3


# -- a learner --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_learners_of_modules_keep_the_laws(kind):
    check_learner(small(kind))


def test_so_do_stacks_of_them():
    check_stack(small("batch norm"), ASPC(interval=1))


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_keep_apart_traced_and_recorded(kind):
    assert apart_from_alone(small(kind), seeds=(4, 0, 7), traced=True) < 1e-12
    eager = learned(trained(small(kind), seeds=(0, 1), dtype=torch.float64))
    recorded = learned(trained(small(kind), seeds=(0, 1), dtype=torch.float64, traced=True, graphs=EmulatedGraph))
    assert largest_difference(eager, recorded) < 1e-12


def test_buffers_are_kept_per_seed_and_only_learned_from_calls_in_training_mode():
    engine = trained(small("batch norm"), seeds=(0, 1), steps=4)
    statistics = engine.params["critic"]["net.1.running_mean"]
    assert statistics.shape == (2, 2, 8)
    assert (statistics[0] != statistics[1]).any() and (statistics[:, 0] != statistics[:, 1]).any()
    assert (engine.params["critic"]["net.1.num_batches_tracked"] == 4).all()
    before = statistics.clone()
    engine.act(torch.zeros(2, 5, 3), 4)
    assert torch.equal(before, engine.params["critic"]["net.1.running_mean"])


@pytest.mark.slow
def test_an_agent_of_modules_is_saved_loaded_and_goes_on(tmp_path):
    """Networks are made again where the file is read by another process."""
    data, options = made_data(), {**QUIET, "steps": 8, "seeds": 3, "compiled": False}
    whole, parted = wrap(small("batch norm")), wrap(small("batch norm"))
    whole.fit(data, **options)
    parted.fit(data, stop_after=4, **options)
    parted.save(tmp_path / "agent.npz")
    loaded = load_agent(tmp_path / "agent.npz")
    rows = data.observations[:9]
    elsewhere = (
        "import sys, numpy as np, tests.test_modules; from adaptive_constraints import load_agent;"
        "np.save(sys.argv[2], load_agent(sys.argv[1]).act(np.load(sys.argv[3])))"
    )
    np.save(tmp_path / "rows.npy", rows)
    files = [str(tmp_path / name) for name in ("agent.npz", "actions.npy", "rows.npy")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    subprocess.run([sys.executable, "-c", elsewhere, *files], check=True, env=environment, timeout=100)
    assert np.array_equal(np.load(tmp_path / "actions.npy"), loaded.act(rows))
    loaded.fit(data, **options)
    for seed in range(3):
        assert np.array_equal(whole.act(rows, seed=seed), loaded.act(rows, seed=seed))


def test_products_of_modules_are_taken_in_the_precision_of_the_run():
    net, p, _ = networks(lambda: Critic(3, 2, 8), 2)
    p = {name: tensor.float() for name, tensor in p.items()}
    s, a = torch.randn(64, 3), torch.randn(64, 2)
    exact = net(p, s, a)
    with product_precision("bf16"):
        rounded = net(p, s, a)
    assert 1e-5 < (exact - rounded).abs().max() < 0.1
    assert rounded.dtype == torch.float32
    assert (
        largest_difference(
            learned(trained(small(), precision="bf16", traced=True)), learned(trained(small(), precision="bf16"))
        )
        == 0
    )


# -- what is refused --------------------------------------------------------------------------------------------------

ONE = nn.Linear(3, 2)
REFUSED = {
    "no Module": (lambda: torch.zeros(3), "must be a Module or a list of Modules"),
    "no member": (lambda: [], "must be a Module or a list of Modules"),
    "one twice": (lambda: [ONE, ONE], "has one Module twice"),
    "other shapes": (lambda: [nn.Linear(3, 2), nn.Linear(3, 3)], "other names or shapes"),
    "lazy": (lambda: nn.LazyLinear(2), "gets its shape at the first call"),
    "nothing to learn": (lambda: nn.ReLU(), "has no parameters"),
    "complex": (lambda: nn.Linear(3, 2, dtype=torch.complex64), "is complex"),
}


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_network_is_refused(name):
    make, words = REFUSED[name]

    class Owner:
        @from_modules
        def nets(self, spec):
            return {"net": make()}

    with pytest.raises(StackError, match=rf"Owner: the network 'net'.* {words}"):
        Owner().nets.init(Spec(3, 2), torch.Generator())


def test_calls_that_cannot_be_answered_say_why():
    net, p, _ = networks(lambda: nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5, inplace=True)))
    x = torch.ones(4, 3).double()
    with pytest.raises(StackError, match="parameters that nets.init did not make for it; its networks are net"):
        net({"weight": torch.zeros(3)}, x)
    drawing, q, _ = networks(Odd)
    with pytest.raises(StackError, match=r"'net' draws noise: call nets\.net\.train\(v, site\)"):
        drawing(q, x)
    assert ((net.train(View())(p, x) == 0).any(), (net(p, x) != 0).all()) == (True, True)


def test_networks_of_equal_shapes_and_other_numbers_are_told_apart():
    class Half(nn.Linear):
        def __init__(self, spec):
            super().__init__(spec.observation_dim + spec.action_dim, 1)
            self.state = spec.observation_dim

    class Owner:
        @from_modules
        def nets(self, spec):
            return {"net": Half(spec)}

    nets = Owner().nets
    owner = copy.copy(nets)
    owner.init(Spec(3, 2), torch.Generator())
    owner.init(Spec(3, 2), torch.Generator())
    with pytest.raises(StackError, match="same shapes for data of .* but holds other numbers"):
        owner.init(Spec(2, 3), torch.Generator())


@dataclass(frozen=True, kw_only=True)
class TwoNews(OfModules):
    """Calls its critics in training mode in two updates of one stage."""

    def stages(self, phase):
        critic, actor = super().stages(phase)
        return (critic._replace(updates=critic.updates + actor.updates, averages=actor.averages),)

    def terms(self, p, v):
        terms = super().terms(p, v)
        value = self.nets.critic.train(v)(v.p["critic"], v.s, self.policy(p, v.s))[0]
        return terms._replace(value=value)


def test_buffers_cannot_get_two_new_values():
    with pytest.raises(StackError, match=r"two updates of one stage, .* 'actor', call nets\.critic in training mode"):
        build(TwoNews(hidden=8, batch_size=16, kind="batch norm")).run(1)
    build(TwoNews(hidden=8, batch_size=16, kind="dropout")).run(1)


# -- an adapter -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Novelty(Adapter):
    """Weighs rows by the error of an autoencoder of Modules, with BatchNorm and dropout, that it trains beside."""

    @from_modules
    def nets(self, spec):
        size = spec.observation_dim
        middle = nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1)
        return {"net": nn.Sequential(nn.Linear(size, 8, bias=False), *middle, nn.Linear(8, size))}

    def init(self, spec, facts, generator):
        return self.nets.init(spec, generator)

    def stages(self, facts, phase):
        return (AdapterStage("end", Stage("novelty", (Update(self.group("net"), self.loss),))),)

    def loss(self, p, v):
        return (self.nets.net.train(v, f"{self.name}/loss")(p, v.s) - v.s).square().mean()

    def sample_weight(self, v):
        return (self.nets.net(v.p[self.group("net")], v.s) - v.s).square().mean(-1)


def test_adapters_may_have_modules_too():
    check_adapter(Novelty(), TD3BC(hidden=8, batch_size=16))
    engine = trained(TD3BC(hidden=8, batch_size=16), Novelty(), steps=4)
    assert engine.params["novelty.net"]["1.num_batches_tracked"].tolist() == [4]
