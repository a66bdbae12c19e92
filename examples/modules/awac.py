"""AWAC from Modules: advantage-weighted actor-critic (Nair et al., 2020, arXiv 2006.09359).

    python examples/modules/awac.py

The Modules are as one writes them in plain PyTorch. Not the algorithm's are the marked lines at the end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal

import adaptive_constraints as ac
from adaptive_constraints.networks import from_modules


def perceptron(inputs: int, outputs: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
    )


class Actor(nn.Module):
    """A Gaussian around a perceptron's output, with one learned standard deviation per dimension."""

    def __init__(self, state: int, action: int, hidden: int) -> None:
        super().__init__()
        self.mean = perceptron(state, action, hidden)
        self.log_std = nn.Parameter(torch.zeros(action))

    def policy(self, state: Tensor) -> Normal:
        return Normal(self.mean(state), self.log_std.clamp(-20, 2).exp())

    def log_prob(self, state: Tensor, action: Tensor) -> Tensor:
        return self.policy(state).log_prob(action)

    def forward(self, state: Tensor) -> Tensor:
        return self.policy(state).rsample().clamp_(-1, 1)


class Critic(nn.Module):
    """Q(s, a)."""

    def __init__(self, state: int, action: int, hidden: int) -> None:
        super().__init__()
        self.net = perceptron(state + action, 1, hidden)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return self.net(torch.cat([state, action], -1)).squeeze(-1)


@dataclass(frozen=True, kw_only=True)
class ModuleAWAC(ac.Learner):
    """AWAC with twin critics."""

    beta: float = 1.0
    """Temperature of the weights exp(advantage / beta)."""
    hidden: int = 256
    largest_weight: float = 100.0

    @from_modules
    def nets(self, spec: ac.Spec) -> Mapping[str, Any]:
        state, action = spec
        critics = [Critic(state, action, self.hidden) for _ in range(2)]
        return {"actor": Actor(state, action, self.hidden), "critic": critics}

    def stages(self, phase: ac.Phase) -> tuple[ac.Stage, ...]:
        critic = ac.Stage("critic", (ac.Update("critic", self.regression, 3e-4),), averages=(ac.Average("critic"),))
        return critic, ac.Stage("actor", (ac.Update("actor", self.constrained_loss, 3e-4),))

    def q(self, p: ac.Params, observation: Tensor, action: Tensor) -> Tensor:
        return self.nets.critic(p, observation, action)

    def sample(self, v: ac.View, p: ac.Params, observation: Tensor, site: str) -> Tensor:
        return self.nets.actor.eval(v, site)(p, observation)

    def act(self, v: ac.View, observation: Tensor) -> Tensor:
        return self.nets.actor.mean(v.p["actor"], observation).clamp(-1, 1)

    def bootstrap(self, v: ac.View, observation: Tensor, site: str, batch: Mapping[str, Tensor] | None) -> Tensor:
        """min_j Q'_j(s', a'), a' ~ pi(.|s')."""
        action = self.sample(v, v.p["actor"], observation, site)
        return self.q(v.target["critic"], observation, action).amin(0)

    def terms(self, p: ac.Params, v: ac.View) -> ac.Terms:
        """min_j Q_j at an action of the policy, and -log pi(a|s) of the data's action."""
        value = self.q(v.p["critic"], v.s, self.sample(v, p, v.s, "policy")).amin(0)
        imitation = -self.nets.actor.log_prob(p, v.s, v.behavior_action()).sum(-1)
        return ac.Terms(value, -value / value.detach().abs().mean(), imitation)

    def constrained_loss(self, p: ac.Params, v: ac.View, k: Tensor) -> tuple[Tensor, ac.Terms]:
        """-log pi(a|s) exp(k A(s, a)), k = 1 / beta."""
        terms = self.terms(p, v)
        advantage = self.q(v.p["critic"], v.s, v.behavior_action()).amin(0) - terms.value.detach()
        weight = v.tempered(k * advantage).clamp(max=math.log(self.largest_weight)).exp()
        return (v.sample_weight() * weight * terms.constraint).mean(), terms

    # -- for the toolkit ----------------------------------------------------------------------------------------------

    def init(self, spec: ac.Spec, generator: torch.Generator) -> dict[str, ac.Params]:
        return self.nets.init(spec, generator)

    def facts(self) -> ac.Facts:
        seams = ac.TD_SEAMS | ac.IMITATION_SEAMS | ac.CONSTRAINT_SEAMS - {"constraint"}
        kind = {"distribution": "gaussian", "exponential_weights": True, "reads_policy_action": False}
        return ac.Facts("actor", seams, 1 / self.beta, "exponent", **kind)

    def distribution(self, v: ac.View, p: ac.Params, observation: Tensor) -> ac.Gaussian:
        policy = self.nets.actor.policy(p, observation)
        return ac.Gaussian(policy.mean, policy.stddev, lambda action: self.nets.actor.log_prob(p, observation, action))


def main(steps: int = 400) -> None:
    for agent in (ac.wrap(ModuleAWAC()), ac.wrap(ModuleAWAC(), ac.ASPC())):
        history = agent.fit(ac.load_dataset("bundled:hopper"), steps=steps, seeds=2, eval_env="auto", progress=False)
        print(f"{agent.name}: score {history.summary().last.mean():.1f} after {steps} steps")


if __name__ == "__main__":
    main()
