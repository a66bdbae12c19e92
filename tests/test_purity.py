"""Functions of strangers that draw numbers of their own, or remember: refused at the first step, one seed or several.

A step is traced and repeated, so the first step's numbers would stand in all of them, in silence.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from adaptive_constraints import Adapter, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.errors import StackError, TrainingError
from adaptive_constraints.runs.loop import LostSeedWarning
from adaptive_constraints.testing import made_data

SMALL: dict[str, Any] = {"hidden": 8, "batch_size": 16}
QUIET: dict[str, Any] = {"progress": False, "device": "cpu"}
OWN = np.random.default_rng(0)
CALLS = [0]


def _counted() -> int:
    CALLS[0] += 1
    return CALLS[0]


SOURCES = {
    "torch.rand": lambda x: x * torch.rand_like(x),
    "torch.randn of one number": lambda x: x + 1e-3 * torch.randn(()),
    "dropout": lambda x: torch.nn.functional.dropout(x, 0.5),
    "numpy": lambda x: x * float(np.random.rand()),
    "numpy's own generator": lambda x: x + 1e-3 * OWN.normal(),
    "random": lambda x: x * random.random(),
    "a counter": lambda x: x * _counted(),
    "a rare draw": lambda x: x * (0 if random.random() < 1e-9 else 1),
    "a rare draw of numpy": lambda x: x * (0 if np.random.rand() < 1e-9 else 1),
    "a rare draw of torch": lambda x: torch.where(torch.rand(()) < 1e-9, 0, x),
    "what only the trace sees": lambda x: x * (0 if _counted() % 10 == 3 else 1),
}


@dataclass(frozen=True)
class Strange(TD3BC):
    """Multiplies its critics' errors by what a source gives."""

    source: str = field(default="random")

    def td_error(self, q, target):
        return SOURCES[self.source](super().td_error(q, target))


@dataclass(frozen=True)
class StrangeActor(TD3BC):
    """Acts by what a source gives, and learns as TD3+BC does."""

    source: str = field(default="random")

    def act(self, v, observation):
        return SOURCES[self.source](super().act(v, observation)).clamp(-1, 1)


@dataclass(frozen=True)
class StrangeWeights(Adapter):
    """Weighs rows by what a source gives."""

    source: str = "random"

    def sample_weight(self, v):
        return SOURCES[self.source](torch.ones_like(v.r)).abs()


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("source", SOURCES)
def test_a_learner_that_draws_for_itself_is_refused(source, seeds, traced):
    if source == "what only the trace sees" and not traced:
        pytest.skip("a single call out of many is seen only where it would be repeated")
    CALLS[0] = 0
    agent = wrap(Strange(**SMALL, source=source))
    with pytest.raises(StackError, match=r"v\.normal and v\.uniform|v\.normal or v\.uniform"):
        agent.fit(made_data(), steps=3, seeds=seeds, traced=traced, **QUIET)


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("source", sorted(SOURCES.keys() - {"what only the trace sees"}))
def test_so_is_an_adapter(source, seeds):
    agent = wrap(TD3BC(**SMALL), StrangeWeights(source))
    with pytest.raises(StackError, match=r"v\.normal"):
        agent.fit(made_data(), steps=3, seeds=seeds, **QUIET)


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("source", ["torch.rand", "numpy's own generator", "random"])
def test_so_is_a_policy(source, seeds):
    agent = wrap(StrangeActor(**SMALL, source=source))
    agent.fit(made_data(), steps=1, seeds=seeds, **QUIET)
    with pytest.raises(StackError, match=r"v\.normal"):
        agent.act(np.zeros((4, made_data().observation_dim)))


@dataclass(frozen=True)
class StrangeLog(Adapter):
    """Logs under names that change, or sometimes only."""

    kind: str = "names"

    def sample_weight(self, v):
        number = _counted()
        if self.kind == "names":
            v.log(f"number{number}", v.r.mean())
        elif number % 2:
            v.log("sometimes", v.r.mean())
        return torch.ones_like(v.r)


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("kind", ["names", "sometimes"])
def test_so_is_one_that_logs_now_and_then(kind, seeds):
    with pytest.raises(StackError, match=r"v\.normal"):
        wrap(TD3BC(**SMALL), StrangeLog(kind)).fit(made_data(), steps=3, seeds=seeds, **QUIET)


@dataclass(frozen=True)
class Lawful(TD3BC):
    """Draws by the view, and notes what was asked of it, which changes nothing."""

    log: ClassVar[list[str]] = []

    def td_error(self, q, target):
        self.log.append("asked")
        return super().td_error(q, target)

    def sample(self, v, p, observation, site):
        return self.policy(p, observation) + 0.1 * v.normal(site, (len(observation), v.spec.action_dim))


def test_draws_of_the_view_and_lost_seeds_are_no_reason():
    agent = wrap(Lawful(**SMALL))
    agent.fit(made_data(), steps=3, seeds=2, **QUIET)
    with pytest.warns(LostSeedWarning), pytest.raises(TrainingError, match="all seeds .* are lost"):
        wrap(TD3BC(**SMALL, actor_learning_rate=1e30)).fit(made_data(), steps=9, seeds=2, **QUIET)
