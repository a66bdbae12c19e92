"""Three learners as a stranger would write them, a page each: what they ask of the seams is what matters here.

Their networks are tiny and their papers' details left out; the trade-off stands in a different place in each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn.functional import softplus

from adaptive_constraints import Average, Facts, Gaussian, Learner, Params, Phase, Spec, Stage, Terms, Update, View
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.networks import init_mlp, mlp

WIDTH = 8
TD_SEAMS = frozenset({"bootstrap", "td_weight", "critic_rows"})
SHARED_SEAMS = TD_SEAMS | {"behavior_action", "constraint_weight", "constraint_scale", "tradeoff"}


@dataclass(frozen=True)
class Sketch(Learner):
    """What the three have in common: twin critics of Q(s, a)."""

    batch_size: int = 16
    clip: float | None = None
    """Of the constrained group."""

    def critic(self, spec: Spec, generator: torch.Generator) -> Params:
        """Two critics."""
        return init_mlp((spec.observation_dim + spec.action_dim, WIDTH, WIDTH, 1), generator, ensemble=(2,))

    def q(self, p: Params, observation: Tensor, action: Tensor) -> Tensor:
        return mlp(p, torch.cat([observation, action], -1)).squeeze(-1)


@dataclass(frozen=True)
class TinyCQL(Sketch):
    """CQL: the critics are the constrained group and the trade-off scales the constraint."""

    conservatism: float = 5.0
    lagrange: bool = False
    """Learn the conservatism's factor so that the gap is 1."""
    draws: int = 3

    def facts(self) -> Facts:
        return Facts(
            constrained="critic",
            tradeoff=self.conservatism,
            scales="constraint",
            learns_tradeoff=self.lagrange,
            distribution="tanh-gaussian",
            imitation_is_constraint=False,
            seams=SHARED_SEAMS | {"conservative_value"},
        )

    def init(self, spec: Spec, generator: torch.Generator) -> dict[str, Params]:
        actor = init_mlp((spec.observation_dim, WIDTH, 2 * spec.action_dim), generator)
        groups = {"temperature": {"log": torch.zeros(())}, "actor": actor, "critic": self.critic(spec, generator)}
        return groups | ({"multiplier": {"log": torch.zeros(())}} if self.lagrange else {})

    def stages(self, phase: Phase) -> tuple[Stage, ...]:
        updates: tuple[Update, ...] = (
            Update("temperature", self.temperature_loss),
            Update("actor", self.actor_loss),
            Update("critic", self.constrained_loss, clip=self.clip),
        )
        if self.lagrange:
            updates = (*updates, Update("multiplier", self.multiplier_loss))
        return (Stage("cql", updates, averages=(Average("critic"),)),)

    def distribution(self, v: View, p: Params, observation: Tensor) -> Gaussian:
        mean, log_std = mlp(p, observation).chunk(2, -1)
        std = (log_std - 1).clamp(-5, 2).exp()

        def log_density(action: Tensor) -> Tensor:
            before = torch.atanh(action.clamp(-1 + 1e-6, 1 - 1e-6))
            squash = 2 * (math.log(2) - before - softplus(-2 * before))
            return Normal(mean, std, validate_args=False).log_prob(before) - squash

        return Gaussian(mean, std, log_density)

    def sample(self, v: View, p: Params, observation: Tensor, site: str) -> Tensor:
        policy = self.distribution(v, p, observation)
        return torch.tanh(policy.mean + policy.std * v.normal(site, policy.mean.shape))

    def act(self, v: View, observation: Tensor) -> Tensor:
        return torch.tanh(self.distribution(v, v.p["actor"], observation).mean)

    def bootstrap(self, v: View, observation: Tensor, site: str, batch: Mapping[str, Tensor] | None) -> Tensor:
        return self.q(v.target["critic"], observation, self.sample(v, v.p["actor"], observation, site)).amin(0)

    def entropic(self, p: Params, v: View) -> tuple[Tensor, Tensor]:
        """An action at each state [B, A] and its log-density [B]."""
        action = self.sample(v, p, v.s, "policy")
        return action, self.distribution(v, p, v.s).log_density(action).sum(-1)

    def temperature_loss(self, p: Params, v: View) -> Tensor:
        _, log_density = self.entropic(v.p["actor"], v)
        return -(p["log"] * (log_density - v.a.shape[-1])).mean()

    def actor_loss(self, p: Params, v: View) -> Tensor:
        action, log_density = self.entropic(p, v)
        return (v.p["temperature"]["log"].exp() * log_density - self.q(v.p["critic"], v.s, action).amin(0)).mean()

    def gap(self, p: Params, v: View) -> Tensor:
        """R [B]: by how much the soft maximum over actions exceeds the value of the data's action, both critics."""
        shape = (self.draws, *v.a.shape)
        actions, log_densities = [2 * v.uniform("anywhere", shape) - 1], [v.r.new_full(shape[:2], -math.log(2))]
        for states, site in ((v.s, "here"), (v.s2, "after")):
            policy = self.distribution(v, v.p["actor"], states)
            actions.append(torch.tanh(policy.mean + policy.std * v.normal(site, shape)))
            log_densities.append(policy.log_density(actions[-1]).sum(-1))
        candidates = torch.cat(actions)
        q = self.q(p, v.s.repeat(len(candidates), 1), candidates.flatten(0, 1)).view(2, *candidates.shape[:2])
        of_policy = v.conservative_value(q[:, self.draws :], candidates[self.draws :])
        q = torch.cat([q[:, : self.draws], of_policy], 1)
        soft_maximum = (q - torch.cat(log_densities)).logsumexp(1)
        return (soft_maximum - self.q(p, v.s, v.behavior_action())).sum(0)

    def terms(self, p: Params, v: View) -> Terms:
        q = self.q(p, v.s, self.sample(v, v.p["actor"], v.s, "policy")).mean(0)
        return Terms(q, -q / q.detach().abs().mean(), self.gap(p, v))

    def constrained_loss(self, p: Params, v: View, k: Tensor) -> tuple[Tensor, Terms]:
        terms = self.terms(p, v)
        factor = v.p["multiplier"]["log"].exp() if self.lagrange else 1.0
        return self.regression(p, v) + (k * factor * v.weighted(terms.constraint)).mean(), terms

    def multiplier_loss(self, p: Params, v: View) -> Tensor:
        return -p["log"].exp() * (self.gap(v.p["critic"], v).mean() - 1)


@dataclass(frozen=True)
class TinyIQL(Sketch):
    """IQL: it owns a value, and the trade-off stands inside the exponent of the imitation weights."""

    temperature: float = 3.0
    expectile: float = 0.7

    def facts(self) -> Facts:
        return Facts(
            constrained="actor",
            tradeoff=self.temperature,
            scales="exponent",
            distribution="gaussian",
            owns_value=True,
            exponential_weights=True,
            reads_policy_action=False,
            seams=SHARED_SEAMS | {"value_action", "sample_weight"},
        )

    def init(self, spec: Spec, generator: torch.Generator) -> dict[str, Params]:
        actor = init_mlp((spec.observation_dim, WIDTH, spec.action_dim), generator) | {"log_std": torch.zeros(())}
        value = init_mlp((spec.observation_dim, WIDTH, 1), generator)
        return {"value": value, "critic": self.critic(spec, generator), "actor": actor}

    def stages(self, phase: Phase) -> tuple[Stage, ...]:
        updates = (
            Update("value", self.value_loss),
            Update("critic", self.regression),
            Update("actor", self.constrained_loss, clip=self.clip),
        )
        return (Stage("iql", updates, averages=(Average("critic"),)),)

    def distribution(self, v: View, p: Params, observation: Tensor) -> Gaussian:
        mean = torch.tanh(mlp(p, observation))
        std = p["log_std"].exp().expand_as(mean)
        return Gaussian(mean, std, Normal(mean, std, validate_args=False).log_prob)

    def sample(self, v: View, p: Params, observation: Tensor, site: str) -> Tensor:
        policy = self.distribution(v, p, observation)
        return policy.mean + policy.std * v.normal(site, policy.mean.shape)

    def act(self, v: View, observation: Tensor) -> Tensor:
        return self.distribution(v, v.p["actor"], observation).mean

    def value(self, p: Params, observation: Tensor) -> Tensor:
        return mlp(p, observation).squeeze(-1)

    def bootstrap(self, v: View, observation: Tensor, site: str, batch: Mapping[str, Tensor] | None) -> Tensor:
        return self.value(v.p["value"], observation)

    def value_loss(self, p: Params, v: View) -> Tensor:
        difference = self.q(v.target["critic"], v.s, v.value_action()).amin(0) - self.value(p, v.s)
        return ((self.expectile - (difference < 0).to(difference.dtype)).abs() * difference.square()).mean()

    def terms(self, p: Params, v: View) -> Terms:
        policy = self.distribution(v, p, v.s)
        q = self.q(v.p["critic"], v.s, policy.mean).amin(0)
        return Terms(q, -q / q.detach().abs().mean(), -policy.log_density(v.behavior_action()).sum(-1))

    def constrained_loss(self, p: Params, v: View, k: Tensor) -> tuple[Tensor, Terms]:
        terms = self.terms(p, v)
        advantage = self.q(v.target["critic"], v.s, v.behavior_action()).amin(0) - v.value(v.s)
        weight = v.tempered(k * advantage).clamp(max=math.log(100)).exp()
        return (v.sample_weight() * weight * terms.constraint).mean(), terms


@dataclass(frozen=True)
class TinyFQL(Sketch):
    """FQL: a flow imitates the data and a one-step student is held to the flow, so imitation is not the constraint."""

    alpha: float = 3.0
    flow_steps: int = 3

    def facts(self) -> Facts:
        return Facts(
            constrained="student",
            policy="student",
            tradeoff=self.alpha,
            scales="constraint",
            distribution="generative",
            owns_behavior=True,
            imitation_is_constraint=False,
            seams=SHARED_SEAMS | {"sample_weight", "constraint"},
        )

    def policy_groups(self) -> tuple[str, ...]:
        return ("student",)

    def init(self, spec: Spec, generator: torch.Generator) -> dict[str, Params]:
        inputs, outputs = spec.observation_dim + spec.action_dim, spec.action_dim
        teacher = init_mlp((inputs + 1, WIDTH, outputs), generator)
        student = init_mlp((inputs, WIDTH, outputs), generator)
        return {"critic": self.critic(spec, generator), "teacher": teacher, "student": student}

    def stages(self, phase: Phase) -> tuple[Stage, ...]:
        updates = (
            Update("critic", self.regression),
            Update("teacher", self.teacher_loss),
            Update("student", self.constrained_loss, clip=self.clip),
        )
        return (Stage("fql", updates, averages=(Average("critic"),)),)

    def aggregate(self, q: Tensor) -> Tensor:
        return q.mean(0)

    def student(self, p: Params, observation: Tensor, noise: Tensor) -> Tensor:
        """mu(s, z), not clipped."""
        return mlp(p, torch.cat([observation, noise], -1), torch.nn.functional.gelu)

    def sample(self, v: View, p: Params, observation: Tensor, site: str) -> Tensor:
        noise = v.normal(site, (len(observation), v.a.shape[-1]))
        return self.student(p, observation, noise).clamp(-1, 1)

    def act(self, v: View, observation: Tensor) -> Tensor:
        noise = v.normal("act", (len(observation), mlp_outputs(v.p["student"])))
        return self.student(v.p["student"], observation, noise).clamp(-1, 1)

    def sample_behavior(self, v: View, observation: Tensor, site: str, count: int) -> Tensor:
        noise = v.normal(site, (count, len(observation), v.a.shape[-1]))
        return self.flow(v.p["teacher"], observation.expand(count, -1, -1), noise)

    def velocity(self, p: Params, observation: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The flow's field at x [..., B, A] and time t [..., B, 1]."""
        return mlp(p, torch.cat([observation, x, t], -1), torch.nn.functional.gelu)

    def flow(self, p: Params, observation: Tensor, x: Tensor) -> Tensor:
        """The end of the flow that starts at x."""
        for step in range(self.flow_steps):
            t = torch.full_like(x[..., :1], step / self.flow_steps)
            x = x + self.velocity(p, observation, x, t) / self.flow_steps
        return x.clamp(-1, 1)

    def bootstrap(self, v: View, observation: Tensor, site: str, batch: Mapping[str, Tensor] | None) -> Tensor:
        action = self.sample(v, v.p["student"], observation, site)
        return self.aggregate(self.q(v.target["critic"], observation, action))

    def teacher_loss(self, p: Params, v: View) -> Tensor:
        x0, x1 = v.normal("flow/start", v.a.shape), v.behavior_action()
        t = v.uniform("flow/time", (len(x0), 1))
        error = self.velocity(p, v.s, (1 - t) * x0 + t * x1, t) - (x1 - x0)
        return (v.sample_weight() * error.square().mean(-1)).mean()

    def terms(self, p: Params, v: View) -> Terms:
        noise = v.normal("student", v.a.shape)
        action = self.student(p, v.s, noise)
        q = self.aggregate(self.q(v.p["critic"], v.s, action.clamp(-1, 1)))
        taught = self.flow(v.p["teacher"], v.s, noise)
        constraint = v.constraint(action, lambda: (action - taught).square().mean(-1))
        return Terms(q, -q / q.detach().abs().mean(), constraint)


def mlp_outputs(p: Params) -> int:
    """The width of a perceptron's last layer."""
    last = sum(name.startswith("bias") for name in p) - 1
    return p[f"bias{last}"].shape[-1]


LEARNERS = {
    "TD3BC": TD3BC(hidden=8, batch_size=16, policy_every=1),
    "CQL": TinyCQL(),
    "IQL": TinyIQL(),
    "FQL": TinyFQL(),
}
"""A trade-off in each of its places: the three, and a small TD3+BC."""
each_learner = pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS)
ASKED = [(name, seam) for name, learner in LEARNERS.items() for seam in sorted(learner.facts().seams)]
"""Which seams each learner asks."""
