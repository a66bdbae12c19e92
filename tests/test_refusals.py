"""What a function may not do is said with class, method, line and remedy, at one seed and at several."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal

from adaptive_constraints import Adapter, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.errors import StackError
from adaptive_constraints.networks import from_modules
from adaptive_constraints.testing import made_data

QUIET: dict[str, Any] = {"progress": False, "device": "cpu", "compiled": False}
SMALL: dict[str, Any] = {"hidden": 8, "batch_size": 16}


def fill(x, v):
    v.r.mul_(2.0)
    return x


def assign(x, v):
    v.batch["reward"][0] = 3.0
    return x


def filled(x, v):
    new = torch.zeros(16)
    new[:] = x
    return new


ALWAYS: dict[str, tuple[Callable[..., Any], str]] = {
    "randn_like": (lambda x, v: x + torch.randn_like(x), r"v\.normal and v\.uniform"),
    "numpy.random": (lambda x, v: x + np.random.rand(), r"v\.normal and v\.uniform"),
    "random": (lambda x, v: x + random.random(), r"v\.normal and v\.uniform"),
    "rsample": (lambda x, v: Normal(x, x * 0 + 1, validate_args=False).rsample(), r"v\.normal and v\.uniform"),
    "dropout": (lambda x, v: nn.functional.dropout(x), r"v\.normal and v\.uniform"),
    "log_prob": (lambda x, v: Normal(x, x * 0 + 1).log_prob(x), "validate_args=False"),
    "item": (lambda x, v: x * x.mean().item(), r"numbers out of a tensor.* v\.log"),
    "float": (lambda x, v: x * float(x.mean()), "numbers out of a tensor"),
    "tolist": (lambda x, v: x * torch.tensor(x.tolist()), "numbers out of a tensor"),
    "numpy": (lambda x, v: x * torch.as_tensor(x.detach().numpy()), "numbers out of a tensor"),
    "if": (lambda x, v: x if x.mean() > 0 else -x, r"branches on a tensor's value.* torch\.where"),
    "max": (lambda x, v: x * max(x[0], x[1]), "branches on a tensor's value"),
    "mask": (lambda x, v: x + x[x > 0].sum(), r"shape depends on values.* torch\.where"),
    "nonzero": (lambda x, v: x + len(torch.nonzero(x > 0)), "shape depends on values"),
    "where": (lambda x, v: x + len(torch.where(x > 0)[0]), "shape depends on values"),
    "in place": (fill, "writes to a tensor in place.* write x = x"),
    "entry": (assign, "writes to a tensor in place"),
}
SEVERAL: dict[str, tuple[Callable[..., Any], str]] = {
    "new tensor": (filled, r"writes to a tensor in place.* torch\.cat"),
    "backward": (lambda x, v: (x.mean().backward(), x)[1], "takes a gradient of its own: return the loss"),
    "requires_grad_": (lambda x, v: x * v.r.requires_grad_(), "asks for a gradient"),
}


@dataclass(frozen=True, kw_only=True)
class Mine(TD3BC):
    """Does something with its values."""

    listed: ClassVar[bool] = False
    case: str = ""

    def terms(self, p, v):
        terms = super().terms(p, v)
        return terms._replace(value={**ALWAYS, **SEVERAL}[self.case][0](terms.value, v))


@pytest.mark.filterwarnings(
    "ignore:Consider using tensor.detach", "ignore:Converting a tensor", "ignore:There is a perf"
)
@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("case", [*ALWAYS, *SEVERAL])
def test_who_where_and_what_to_do(case, seeds):
    if case in SEVERAL and seeds == 1:
        pytest.skip("one seed can do it")
    with pytest.raises(StackError) as caught:
        wrap(Mine(**SMALL, case=case)).fit(made_data(), steps=6, seeds=seeds, **QUIET)
    text = str(caught.value)
    assert {**ALWAYS, **SEVERAL}[case][1].replace("\\", "").split(".*")[0] in text
    caught.match({**ALWAYS, **SEVERAL}[case][1])
    assert "Mine.terms (test_refusals.py, line " in text


@dataclass(frozen=True, kw_only=True)
class MineOfModules(TD3BC):
    """Its actor branches, in a Module."""

    listed: ClassVar[bool] = False

    @from_modules
    def nets(self, spec):
        class Branching(nn.Linear):
            def forward(self, x):
                return super().forward(x) if x.sum() > 0 else -super().forward(x)

        return {"actor": Branching(spec.observation_dim, spec.action_dim)}

    def init(self, spec, generator):
        return super().init(spec, generator) | self.nets.init(spec, generator)

    def policy(self, p, observation):
        return torch.tanh(self.nets.actor(p, observation))


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_line_of_a_module_is_named_with_the_method_that_calls_it(seeds):
    words = r"Branching\.forward \(test_refusals\.py, line \d+.*\), called by MineOfModules\.\w+ \(.*branches on"
    with pytest.raises(StackError, match=words):
        wrap(MineOfModules(**SMALL)).fit(made_data(), steps=6, seeds=seeds, **QUIET)


@dataclass(frozen=True)
class Doubling(Adapter):
    """Writes into the rewards."""

    listed: ClassVar[bool] = False

    def sample_weight(self, v):
        v.r.mul_(1.5)
        return 1.0


def test_so_is_an_adapter():
    with pytest.raises(StackError, match=r"Doubling\.sample_weight .*v\.r\.mul_\(1\.5\).* in place"):
        wrap(TD3BC(**SMALL), Doubling()).fit(made_data(), steps=3, **QUIET)


# -- what init returns ------------------------------------------------------------------------------------------------

GROUPS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "module": (lambda groups: {**groups, "actor": nn.Linear(3, 2)}, "group 'actor': it is a Module.*from_modules"),
    "module in it": (
        lambda groups: {**groups, "more": {"net": nn.Linear(3, 2)}},
        "'net' must be a tensor.*from_modules",
    ),
    "slash": (lambda groups: {**groups, "more/or": groups["actor"]}, "without a slash, not 'more/or'"),
    "slash within": (lambda groups: {**groups, "more": {"a/b": torch.zeros(1)}}, "without a slash, not 'a/b'"),
    "whole numbers": (lambda groups: {**groups, "more": {"n": torch.zeros(1, dtype=torch.int64)}}, "floating-point"),
    "empty": (lambda groups: {**groups, "more": {}}, "with one at least, not an empty one"),
    "number": (lambda groups: {**groups, "more": {"x": 1.0}}, "'x' must be a tensor, not float"),
    "tree": (lambda groups: {**groups, "more": {"x": {"y": torch.zeros(1)}}}, "'x' must be a tensor, not dict"),
    "list": (lambda groups: list(groups.items()), "init must return a dict of groups, not list"),
}


@dataclass(frozen=True, kw_only=True)
class Beginning(TD3BC):
    """Starts from what a case makes of its groups."""

    listed: ClassVar[bool] = False
    case: str = ""

    def init(self, spec, generator):
        return GROUPS[self.case][0](super().init(spec, generator))


@pytest.mark.parametrize("case", GROUPS)
def test_what_init_may_return(case):
    with pytest.raises(StackError, match="^Beginning: .*" + GROUPS[case][1]):
        wrap(Beginning(**SMALL, case=case)).fit(made_data(), steps=2, **QUIET)


@dataclass(frozen=True, kw_only=True)
class Dotted(TD3BC):
    """Keeps its actor under torch's names, as parameters that require gradients."""

    listed: ClassVar[bool] = False

    def init(self, spec, generator):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(spec.observation_dim, spec.action_dim))
        return super().init(spec, generator) | {"actor": dict(net.named_parameters())}

    def policy(self, p, observation):
        return torch.tanh(nn.functional.linear(observation, p["0.weight"], p["0.bias"]))


def test_dots_and_parameters_are_welcome(tmp_path):
    agent = wrap(replace(Dotted(), **SMALL))
    agent.fit(made_data(), steps=4, seeds=2, **QUIET)
    agent.save(tmp_path / "agent.npz")
