"""A learner of one's own: advantage-weighted actor-critic (arXiv 2006.09359) in its smallest form.

    python examples/own_learner.py

The policy imitates the data's actions with weights exp(k * advantage). ASPC learns the k, though nothing here knows it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

import adaptive_constraints as ac
from adaptive_constraints.networks import init_mlp, mlp


@dataclass(frozen=True)
class AdvantageWeighted(ac.Learner):
    """Advantage-weighted actor-critic with a deterministic policy."""

    k: float = 1.0
    """Inverse temperature of the weights; 0 is plain behaviour cloning. The trade-off."""

    def facts(self) -> ac.Facts:
        seams = ac.TD_SEAMS | ac.IMITATION_SEAMS | ac.CONSTRAINT_SEAMS
        kind = {"exponential_weights": True, "normalized_critic": True, "reads_policy_action": False}
        return ac.Facts("actor", seams, self.k, "exponent", **kind)

    def init(self, spec: ac.Spec, generator: torch.Generator) -> dict[str, ac.Params]:
        state, action = spec
        critic = init_mlp((state + action, 256, 256, 1), generator, ensemble=(2,), norm="before")
        return {"actor": init_mlp((state, 256, 256, action), generator), "critic": critic}

    def stages(self, phase: ac.Phase) -> tuple[ac.Stage, ...]:
        critic = ac.Stage("critic", (ac.Update("critic", self.regression),), averages=(ac.Average("critic"),))
        return critic, ac.Stage("actor", (ac.Update("actor", self.constrained_loss),))

    def q(self, p: ac.Params, observation: Tensor, action: Tensor) -> Tensor:
        return mlp(p, torch.cat([observation, action], -1), norm="before").squeeze(-1)

    def sample(self, v: ac.View, p: ac.Params, observation: Tensor, site: str) -> Tensor:
        return torch.tanh(mlp(p, observation))

    def distribution(self, v: ac.View, p: ac.Params, observation: Tensor) -> ac.Point:
        return ac.Point(self.sample(v, p, observation, "distribution"))

    def act(self, v: ac.View, observation: Tensor) -> Tensor:
        return self.sample(v, v.p["actor"], observation, "act")

    def bootstrap(self, v: ac.View, observation: Tensor, site: str, batch: Mapping[str, Tensor] | None) -> Tensor:
        return self.q(v.target["critic"], observation, self.sample(v, v.p["actor"], observation, site)).amin(0)

    def terms(self, p: ac.Params, v: ac.View) -> ac.Terms:
        action = self.sample(v, p, v.s, "terms")
        value = self.q(v.p["critic"], v.s, action).amin(0)
        distance = v.constraint(action, lambda: (action - v.behavior_action()).square().mean(-1))
        return ac.Terms(value, -value / value.detach().abs().mean(), distance)

    def constrained_loss(self, p: ac.Params, v: ac.View, k: Tensor) -> tuple[Tensor, ac.Terms]:
        terms = self.terms(p, v)
        advantage = self.q(v.p["critic"], v.s, v.behavior_action()).amin(0) - terms.value.detach()
        weight = v.sample_weight() * v.tempered(k * advantage).clamp(max=math.log(100)).exp()
        return (weight * terms.constraint).mean(), terms


def main(steps: int = 400) -> None:
    agent = ac.wrap(AdvantageWeighted(), ac.ASPC())
    print(agent.explain())
    for variant in (agent.without("aspc"), agent):
        history = variant.fit(ac.load_dataset("bundled:hopper"), steps=steps, seeds=2, eval_env="auto", progress=False)
        print(f"{variant.name}: score {history.summary().last.mean():.1f} after {steps} steps")


if __name__ == "__main__":
    main()
