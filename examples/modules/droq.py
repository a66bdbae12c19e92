"""DroQ's critics from Modules: dropout and LayerNorm (Hiraoka et al., 2021, arXiv 2110.02034), under TD3+BC's actor.

    python examples/modules/droq.py

The paper trains online, with a soft actor-critic; on a fixed data set its policy needs a hold on the data, which is
TD3+BC's here (arXiv 2106.06860). Dropout acts in the critics' losses and in their targets, as in the paper, and draws
from the view: a run can be resumed to the bit. Not the algorithm's are the marked lines at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import adaptive_constraints as ac
from adaptive_constraints.networks import from_modules


class Actor(nn.Sequential):
    """A deterministic policy."""

    def __init__(self, state: int, action: int, hidden: int) -> None:
        first, second, last = nn.Linear(state, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, action)
        super().__init__(first, nn.ReLU(), second, nn.ReLU(), last, nn.Tanh())


class DropoutQ(nn.Module):
    """Q(s, a): each hidden layer is a linear one, dropout, a LayerNorm and a ReLU."""

    def __init__(self, state: int, action: int, hidden: int, rate: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(part for n in (state + action, hidden) for part in self.layer(n, hidden, rate)), nn.Linear(hidden, 1)
        )

    @staticmethod
    def layer(inputs: int, outputs: int, rate: float) -> tuple[nn.Module, ...]:
        return nn.Linear(inputs, outputs), nn.Dropout(rate), nn.LayerNorm(outputs), nn.ReLU()

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return self.net(torch.cat([state, action], -1)).squeeze(-1)


@dataclass(frozen=True, kw_only=True)
class DroQ(ac.Learner):
    """Dropout critics, offline."""

    alpha: float = 2.5
    """Weight of the normalised value against imitation."""
    dropout: float = 0.01
    hidden: int = 256

    @from_modules
    def nets(self, spec: ac.Spec) -> Mapping[str, Any]:
        state, action = spec
        critics = [DropoutQ(state, action, self.hidden, self.dropout) for _ in range(2)]
        return {"actor": Actor(state, action, self.hidden), "critic": critics}

    def stages(self, phase: ac.Phase) -> tuple[ac.Stage, ...]:
        critic = ac.Stage("critic", (ac.Update("critic", self.regression, 3e-4),), averages=(ac.Average("critic"),))
        return critic, ac.Stage("actor", (ac.Update("actor", self.constrained_loss, 3e-4),))

    def regression(self, p: ac.Params, v: ac.View) -> Tensor:
        """The TD error of critics with dropout, and of rows that adapters add."""
        critic = self.nets.critic.train(v, "loss")
        loss = v.td_weight() * self.td_error(critic(p, v.s, v.a), self.target(v)).mean()
        for row in v.critic_rows():
            loss = loss + row.weight * self.td_error(critic(p, row.observation, row.action), row.target).mean()
        return loss

    def bootstrap(self, v: ac.View, observation: Tensor, site: str, batch: Mapping[str, Tensor] | None) -> Tensor:
        """min_j Q'_j(s', pi(s')), with dropout."""
        action = self.nets.actor(v.p["actor"], observation)
        return self.nets.critic.train(v, site)(v.target["critic"], observation, action).amin(0)

    def terms(self, p: ac.Params, v: ac.View) -> ac.Terms:
        """mean_j Q_j(s, pi(s)) with dropout; its negative, normalised; the squared error to the data's action."""
        action = self.nets.actor(p, v.s)
        q = self.nets.critic.train(v, "policy")(v.p["critic"], v.s, action).mean(0)
        distance = v.constraint(action, lambda: (action - v.behavior_action()).square().mean(-1))
        return ac.Terms(q, -q / q.detach().abs().mean(), distance)

    def act(self, v: ac.View, observation: Tensor) -> Tensor:
        return self.nets.actor(v.p["actor"], observation)

    # -- for the toolkit ----------------------------------------------------------------------------------------------

    def init(self, spec: ac.Spec, generator: torch.Generator) -> dict[str, ac.Params]:
        return self.nets.init(spec, generator)

    def facts(self) -> ac.Facts:
        seams = ac.TD_SEAMS | ac.IMITATION_SEAMS | ac.CONSTRAINT_SEAMS
        return ac.Facts("actor", seams, self.alpha, normalized_critic=True)

    def q(self, p: ac.Params, observation: Tensor, action: Tensor) -> Tensor:
        return self.nets.critic(p, observation, action)

    def sample(self, v: ac.View, p: ac.Params, observation: Tensor, site: str) -> Tensor:
        return self.nets.actor(p, observation)

    def distribution(self, v: ac.View, p: ac.Params, observation: Tensor) -> ac.Point:
        return ac.Point(self.nets.actor(p, observation))


def main(steps: int = 400) -> None:
    for agent in (ac.wrap(DroQ()), ac.wrap(DroQ(), ac.ASPC())):
        history = agent.fit(ac.load_dataset("bundled:hopper"), steps=steps, seeds=2, eval_env="auto", progress=False)
        print(f"{agent.name}: score {history.summary().last.mean():.1f} after {steps} steps")


if __name__ == "__main__":
    main()
