"""A learner whose answers have other shapes than are asked is refused where it gives them, by its name."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from adaptive_constraints import ANQ, SSAR, Gaussian, Point, wrap
from adaptive_constraints.baselines import AWAC, IQL, TD3BC
from adaptive_constraints.errors import StackError
from adaptive_constraints.testing import made_data

pytestmark = pytest.mark.usefixtures("own_cache")

SMALL = {"hidden": 8, "batch_size": 16}


@dataclass(frozen=True, kw_only=True)
class Misshapen(TD3BC):
    """TD3+BC with one mistake."""

    mistake: str = ""

    def q(self, p, observation, action):
        q = super().q(p, observation, action)
        return q.unsqueeze(-1) if self.mistake == "q" else q

    def bootstrap(self, v, observation, site, batch):
        value = super().bootstrap(v, observation, site, batch)
        return value.unsqueeze(-1) if self.mistake == "bootstrap" else value

    def td_error(self, q, target):
        return (q - target).square().sum() if self.mistake == "td_error" else super().td_error(q, target)

    def terms(self, p, v):
        terms = super().terms(p, v)
        changes = {
            "value": lambda t: t.value[:, None],
            "improvement": lambda t: t.improvement.mean(),
            "constraint": lambda t: t.constraint.expand(2, -1),
        }
        change = changes.get(self.mistake)
        return terms if change is None else terms._replace(**{self.mistake: change(terms)})

    def regression(self, p, v):
        loss = super().regression(p, v)
        if self.mistake == "loss":
            return loss.expand(3)
        if self.mistake == "detached":
            return loss.detach()
        if self.mistake == "other parameters":
            return super().regression(v.p["critic"], v)
        if self.mistake == "no grad":
            with torch.no_grad():
                return super().regression(p, v)
        return loss

    def act(self, v, observation):
        action = super().act(v, observation)
        return action[:, :1] if self.mistake == "act" else action


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("q", r"Misshapen: its answer to 'q' has the shape \[2, 16, 1\], where \[K, 16\] is asked: squeeze"),
        ("bootstrap", r"Misshapen: its answer to 'bootstrap' has the shape \[16, 1\], where \[16\] is asked: squeeze"),
        ("td_error", r"Misshapen: its answer to 'td_error' has the shape \[\], where \[16\] is asked"),
        ("value", r"comes with value of the shape \[16, 1\], where one number per row, \[16\]"),
        ("improvement", r"Misshapen.constrained_loss, .*'actor', comes with improvement of the shape \[\]"),
        ("constraint", r"constraint of the shape \[2, 16\]"),
        ("loss", r"Misshapen.regression, the loss of the group 'critic', has the shape \[3\], .*: take its mean"),
        ("detached", r"Misshapen.regression, the loss of the group 'critic', has no gradient by them, .* detach\(\)"),
        ("other parameters", r"has no gradient by them, .*not from v\.p\['critic'\]"),
        ("no grad", r"has no gradient by them, .*no_grad\(\)"),
    ],
)
def test_a_wrong_answer_is_refused_in_the_first_step(mistake, said, seeds):
    agent = wrap(Misshapen(mistake=mistake, **SMALL))
    with pytest.raises(StackError, match=said):
        agent.fit(made_data(), steps=2, seeds=seeds, device="cpu", progress=False)


@pytest.mark.parametrize("seeds", [1, 2])
def test_an_action_that_would_broadcast_is_refused(seeds):
    agent = wrap(Misshapen(mistake="act", **SMALL))
    agent.fit(made_data(action_dim=3), steps=1, seeds=seeds, device="cpu", progress=False)
    with pytest.raises(StackError, match=r"act\(\) gives actions of the shape \[1, 1\], not \[1, 3\]"):
        agent.act(made_data(action_dim=3).observations[0])


# -- policies ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Summing(AWAC):
    """A log-density of whole actions, which is what `torch.distributions` users write."""

    def distribution(self, v, p, observation):
        policy = super().distribution(v, p, observation)
        return policy._replace(log_density=lambda action: policy.log_density(action).sum(-1))


@dataclass(frozen=True, kw_only=True)
class Narrow(TD3BC):
    """A point of one dimension for actions of two."""

    def distribution(self, v, p, observation):
        return Point(self.policy(p, observation)[:, :1])


@dataclass(frozen=True, kw_only=True)
class Other(TD3BC):
    """Facts that say point, and a Gaussian."""

    def distribution(self, v, p, observation):
        mean = self.policy(p, observation)
        return Gaussian(mean, torch.ones_like(mean), lambda action: -(action - mean).square())


@pytest.mark.parametrize(
    ("learner", "said"),
    [
        (Summing(**SMALL), r"Summing: its answer to 'distribution, log_density' has the shape \[16\], where \[16, 2\]"),
        (Narrow(**SMALL), r"Narrow: its answer to 'distribution, action' has the shape \[16, 1\], where \[16, 2\]"),
        (Other(**SMALL), r"Other: its facts say distribution='point', .* a Point, not a Gaussian: correct one"),
    ],
    ids=["summed", "narrow", "other"],
)
def test_a_policy_of_another_shape_or_kind_is_refused(learner, said):
    with pytest.raises(StackError, match=said):
        wrap(learner, SSAR(hidden=8)).fit(made_data(), steps=1, seeds=2, device="cpu", progress=False)


# -- adapters and columns ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Looking(SSAR):
    """Reads a column of the data by a name that is not there."""

    reads_data = True

    def margin(self, v) -> Tensor:
        return v.data["observations"].sum() + super().margin(v)


def test_a_column_that_is_not_there_names_those_that_are():
    agent = wrap(TD3BC(**SMALL), Looking(hidden=8))
    with pytest.raises(StackError, match="no column 'observations' of the data; there are observation, action, reward"):
        agent.fit(made_data(), steps=1, device="cpu", progress=False)


def test_right_answers_still_train():
    """A group that some of its tensors are not part of, and a learner whose policy is a Gaussian."""
    for learner, adapters in ((IQL(**SMALL), (ANQ(hidden=8),)), (AWAC(**SMALL), (SSAR(hidden=8),))):
        agent = wrap(replace(learner), *adapters)
        agent.fit(made_data(), steps=2, seeds=2, device="cpu", progress=False)
        assert agent.step == 2
