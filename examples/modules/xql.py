"""XQL from Modules: extreme Q-learning (Garg et al., 2023, arXiv 2301.02328).

    python examples/modules/xql.py

V is the soft maximum of Q over the data's actions, by Gumbel regression instead of IQL's expectile; the policy imitates
with weights exp(beta * advantage). Not the algorithm's are the marked lines at the end.
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


class Perceptron(nn.Sequential):
    """Two hidden layers, each with a LayerNorm."""

    def __init__(self, inputs: int, outputs: int, hidden: int) -> None:
        layers = [part for n in (inputs, hidden) for part in (nn.Linear(n, hidden), nn.LayerNorm(hidden), nn.ReLU())]
        super().__init__(*layers, nn.Linear(hidden, outputs))


class Actor(nn.Module):
    """A Gaussian around a tanh, with one learned standard deviation per dimension."""

    def __init__(self, state: int, action: int, hidden: int) -> None:
        super().__init__()
        self.net = Perceptron(state, action, hidden)
        self.log_std = nn.Parameter(torch.zeros(action))

    def forward(self, state: Tensor) -> Normal:
        return Normal(torch.tanh(self.net(state)), self.log_std.clamp(-5, 2).exp())

    def mean(self, state: Tensor) -> Tensor:
        return self(state).mean

    def log_prob(self, state: Tensor, action: Tensor) -> Tensor:
        return self(state).log_prob(action)


class TwinQ(nn.Module):
    """Both critics in one Module, as many write them."""

    def __init__(self, state: int, action: int, hidden: int) -> None:
        super().__init__()
        self.q1 = Perceptron(state + action, 1, hidden)
        self.q2 = Perceptron(state + action, 1, hidden)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        sa = torch.cat([state, action], -1)
        return torch.stack([self.q1(sa).squeeze(-1), self.q2(sa).squeeze(-1)])


def gumbel_rescale_loss(difference: Tensor, alpha: float, max_clip: float) -> Tensor:
    """exp(z) - z - 1 with z = difference / alpha, divided by the largest exp(z) of the minibatch."""
    z = (difference / alpha).clamp(max=max_clip)
    largest = z.detach().amax().clamp(min=-1.0)
    return torch.exp(z - largest) - z * torch.exp(-largest) - torch.exp(-largest)


@dataclass(frozen=True, kw_only=True)
class XQL(ac.Learner):
    """XQL; on MuJoCo tasks, alpha is between 1 and 5."""

    beta: float = 3.0
    """Inverse temperature of the policy's weights."""
    alpha: float = 2.0
    """Temperature of the soft maximum; smaller comes closer to the largest Q."""
    max_clip: float = 7.0
    hidden: int = 256

    @from_modules
    def nets(self, spec: ac.Spec) -> Mapping[str, Any]:
        state, action = spec
        return {
            "value": Perceptron(state, 1, self.hidden),
            "critic": TwinQ(state, action, self.hidden),
            "actor": Actor(state, action, self.hidden),
        }

    def stages(self, phase: ac.Phase) -> tuple[ac.Stage, ...]:
        losses = {"value": self.value_loss, "actor": self.constrained_loss, "critic": self.regression}
        updates = tuple(ac.Update(group, loss, 3e-4) for group, loss in losses.items())
        return (ac.Stage("xql", updates, averages=(ac.Average("critic"),)),)

    def value(self, p: ac.Params, observation: Tensor) -> Tensor:
        return self.nets.value(p, observation).squeeze(-1)

    def q(self, p: ac.Params, observation: Tensor, action: Tensor) -> Tensor:
        return self.nets.critic(p, observation, action)

    def act(self, v: ac.View, observation: Tensor) -> Tensor:
        return self.nets.actor.mean(v.p["actor"], observation)

    def value_loss(self, p: ac.Params, v: ac.View) -> Tensor:
        """Gumbel regression of V(s) on min_j Q'_j(s, a)."""
        q = self.q(v.target["critic"], v.s, v.value_action()).amin(0)
        return gumbel_rescale_loss(q - self.value(p, v.s), self.alpha, self.max_clip).mean()

    def bootstrap(self, v: ac.View, observation: Tensor, site: str, batch: Mapping[str, Tensor] | None) -> Tensor:
        """V(s')."""
        return self.value(v.p["value"], observation)

    def terms(self, p: ac.Params, v: ac.View) -> ac.Terms:
        """min_j Q_j at the policy's mean, and -log pi(a|s) of the data's action."""
        value = self.q(v.p["critic"], v.s, self.nets.actor.mean(p, v.s)).amin(0)
        imitation = -self.nets.actor.log_prob(p, v.s, v.behavior_action()).sum(-1)
        return ac.Terms(value, -value / value.detach().abs().mean(), imitation)

    def constrained_loss(self, p: ac.Params, v: ac.View, k: Tensor) -> tuple[Tensor, ac.Terms]:
        """-log pi(a|s) min(exp(k (min_j Q'_j(s, a) - V(s))), 100), k = beta."""
        terms = self.terms(p, v)
        advantage = self.q(v.target["critic"], v.s, v.behavior_action()).amin(0) - v.value(v.s)
        weight = v.tempered(k * advantage).clamp(max=math.log(100)).exp()
        return (v.sample_weight() * weight * terms.constraint).mean(), terms

    # -- for the toolkit ----------------------------------------------------------------------------------------------

    def init(self, spec: ac.Spec, generator: torch.Generator) -> dict[str, ac.Params]:
        return self.nets.init(spec, generator)

    def facts(self) -> ac.Facts:
        seams = ac.TD_SEAMS | ac.IMITATION_SEAMS | ac.CONSTRAINT_SEAMS - {"constraint"} | {"value_action"}
        kind = {"distribution": "gaussian", "exponential_weights": True, "reads_policy_action": False}
        return ac.Facts("actor", seams, self.beta, "exponent", owns_value=True, normalized_critic=True, **kind)

    def sample(self, v: ac.View, p: ac.Params, observation: Tensor, site: str) -> Tensor:
        policy = self.nets.actor(p, observation)
        return (policy.mean + policy.stddev * v.normal(site, policy.mean.shape)).clamp(-1, 1)

    def distribution(self, v: ac.View, p: ac.Params, observation: Tensor) -> ac.Gaussian:
        policy = self.nets.actor(p, observation)
        return ac.Gaussian(policy.mean, policy.stddev, lambda action: self.nets.actor.log_prob(p, observation, action))


def main(steps: int = 400) -> None:
    for agent in (ac.wrap(XQL()), ac.wrap(XQL(), ac.ANQ())):
        history = agent.fit(ac.load_dataset("bundled:hopper"), steps=steps, seeds=2, eval_env="auto", progress=False)
        print(f"{agent.name}: score {history.summary().last.mean():.1f} after {steps} steps")


if __name__ == "__main__":
    main()
