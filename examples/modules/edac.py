"""EDAC from Modules: an ensemble-diversified actor-critic (An et al., 2021, arXiv 2110.01548); SAC-N at eta=0.

    python examples/modules/edac.py

Soft actor-critic whose pessimism is the smallest of N critics; EDAC makes do with fewer by spreading their gradients in
the action. It has no constraint to the data, so adapters that set or weigh one (ASPC, SSAR) refuse it and say so. Not
the algorithm's are the marked lines at the end.
"""

from __future__ import annotations

import itertools
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
    sizes = (inputs, hidden, hidden, hidden)
    layers = [part for n, m in itertools.pairwise(sizes) for part in (nn.Linear(n, m), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(hidden, outputs))


class Actor(nn.Module):
    """A tanh-Gaussian policy that samples, as in any soft actor-critic."""

    def __init__(self, state: int, action: int, hidden: int) -> None:
        super().__init__()
        self.net = perceptron(state, 2 * action, hidden)

    def policy(self, state: Tensor) -> Normal:
        mean, log_std = self.net(state).chunk(2, -1)
        return Normal(mean, log_std.clamp(-5, 2).exp())

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        before = self.policy(state).rsample()
        return torch.tanh(before), self.log_density(state, before).sum(-1)

    def log_density(self, state: Tensor, before: Tensor) -> Tensor:
        """Of the action tanh(before), per dimension."""
        log_slope = 2 * (math.log(2) - before - nn.functional.softplus(-2 * before))
        return self.policy(state).log_prob(before) - log_slope


class Critic(nn.Module):
    """Q(s, a)."""

    def __init__(self, state: int, action: int, hidden: int) -> None:
        super().__init__()
        self.net = perceptron(state + action, 1, hidden)
        nn.init.uniform_(self.net[-1].weight, -3e-3, 3e-3)
        nn.init.uniform_(self.net[-1].bias, -3e-3, 3e-3)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return self.net(torch.cat([state, action], -1)).squeeze(-1)


class Temperature(nn.Module):
    """The entropy's learned weight."""

    def __init__(self) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.zeros(1))

    def forward(self) -> Tensor:
        return self.log_alpha.exp()


@dataclass(frozen=True, kw_only=True)
class ModuleEDAC(ac.Learner):
    """EDAC, and SAC-N at eta=0."""

    critics: int = 10
    eta: float = 1.0
    """Weight of the critics' diversity."""
    hidden: int = 256

    @from_modules
    def nets(self, spec: ac.Spec) -> Mapping[str, Any]:
        state, action = spec
        critics = [Critic(state, action, self.hidden) for _ in range(self.critics)]
        return {"actor": Actor(state, action, self.hidden), "critic": critics, "temperature": Temperature()}

    def stages(self, phase: ac.Phase) -> tuple[ac.Stage, ...]:
        losses = {"temperature": self.temperature_loss, "actor": self.constrained_loss, "critic": self.critic_loss}
        first, second, third = (
            ac.Stage(group, (ac.Update(group, loss, 3e-4),), averages=(ac.Average("critic"),) * (group == "critic"))
            for group, loss in losses.items()
        )
        return first, second, third

    def q(self, p: ac.Params, observation: Tensor, action: Tensor) -> Tensor:
        return self.nets.critic(p, observation, action)

    def draw(self, v: ac.View, p: ac.Params, observation: Tensor, site: str) -> tuple[Tensor, Tensor]:
        """An action of the policy and its log-density."""
        return self.nets.actor.eval(v, site)(p, observation)

    def act(self, v: ac.View, observation: Tensor) -> Tensor:
        return torch.tanh(self.nets.actor.policy(v.p["actor"], observation).mean)

    def temperature_loss(self, p: ac.Params, v: ac.View) -> Tensor:
        _, log_density = self.draw(v, v.p["actor"], v.s, "policy")
        return (-self.nets.temperature(p).log() * (log_density - v.spec.action_dim)).mean()

    def bootstrap(self, v: ac.View, observation: Tensor, site: str, batch: Mapping[str, Tensor] | None) -> Tensor:
        """min_j Q'_j(s', a') - alpha log pi(a'|s')."""
        action, log_density = self.draw(v, v.p["actor"], observation, site)
        entropy = -self.nets.temperature(v.p["temperature"]) * log_density
        return self.q(v.target["critic"], observation, action).amin(0) + entropy

    def critic_loss(self, p: ac.Params, v: ac.View) -> Tensor:
        """The TD errors, and eta times the mean cosine between two critics' gradients in the action."""
        return self.regression(p, v) + (self.eta * self.likeness(p, v) if self.eta else 0.0)

    def likeness(self, p: ac.Params, v: ac.View) -> Tensor:
        actions = v.a.expand(self.critics, -1, -1)
        each = torch.func.vmap(torch.func.grad(lambda a, own: self.q(own, v.s, a).sum()), in_dims=(0, 0))
        gradients = nn.functional.normalize(
            each(actions, {name: t[:, None] for name, t in p.items()}), dim=-1, eps=1e-10
        )
        cosines = torch.einsum("ibd,jbd->bij", gradients, gradients)
        others = 1 - torch.eye(self.critics, dtype=cosines.dtype, device=cosines.device)
        return (cosines * others).sum((1, 2)).mean() / (self.critics - 1)

    def terms(self, p: ac.Params, v: ac.View) -> ac.Terms:
        """min_j Q_j(s, a), a ~ pi; alpha log pi - Q; and the distance to the data, which nothing weighs."""
        action, log_density = self.draw(v, p, v.s, "policy")
        value = self.q(v.p["critic"], v.s, action).amin(0)
        distance = (action - v.a).square().mean(-1)
        return ac.Terms(value, self.nets.temperature(v.p["temperature"]) * log_density - value, distance)

    def constrained_loss(self, p: ac.Params, v: ac.View, k: Tensor) -> tuple[Tensor, ac.Terms]:
        terms = self.terms(p, v)
        return terms.improvement.mean(), terms

    # -- for the toolkit ----------------------------------------------------------------------------------------------

    def init(self, spec: ac.Spec, generator: torch.Generator) -> dict[str, ac.Params]:
        return self.nets.init(spec, generator)

    def facts(self) -> ac.Facts:
        return ac.Facts("actor", ac.TD_SEAMS, tradeoff=None, distribution="tanh-gaussian", normalizes_improvement=False)

    def sample(self, v: ac.View, p: ac.Params, observation: Tensor, site: str) -> Tensor:
        return self.draw(v, p, observation, site)[0]

    def distribution(self, v: ac.View, p: ac.Params, observation: Tensor) -> ac.Gaussian:
        policy = self.nets.actor.policy(p, observation)
        density = lambda action: self.nets.actor.log_density(p, observation, action.clamp(-1 + 1e-6, 1 - 1e-6).atanh())  # noqa: E731
        return ac.Gaussian(policy.mean, policy.stddev, density)


def main(steps: int = 400) -> None:
    for learner in (ModuleEDAC(eta=0.0), ModuleEDAC()):
        agent = ac.wrap(learner)
        history = agent.fit(ac.load_dataset("bundled:hopper"), steps=steps, seeds=2, eval_env="auto", progress=False)
        print(f"{agent.name}, eta={learner.eta}: score {history.summary().last.mean():.1f} after {steps} steps")


if __name__ == "__main__":
    main()
