"""ANQ: Q-learning within adaptive neighbourhoods of the data's actions (arXiv 2511.02567).

An auxiliary network mu(s, a) moves each action of the data to where the critics like it better, at a price on the
distance that is high where the data's action was good and low where it was bad. V regresses on Q at the refined
actions, the critics' target bootstraps from V, and the policy imitates the refined actions: the best of a small
neighbourhood of each action of the data, found without sampling and without a model of the behaviour.

One step: V (at the refined actions); the critics; every second step mu, then its Polyak average; the learner's policy
(on learners that step critics and policy in one stage, mu comes after both).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.types import AdapterStage, Average, Facts, Params, Phase, Spec, Stage, Update
from adaptive_constraints.core.view import View
from adaptive_constraints.networks import init_mlp, mlp, torch_default, uniform
from adaptive_constraints.support.bounds import Above, AtLeast, Between

Aggregate = Literal["learner", "min", "mean"]


@dataclass(frozen=True, kw_only=True)
class ANQ(Adapter):
    """Refine the data's actions within neighbourhoods; learn V from them, Q from V, and imitate them.

    The penalty's form, the bounds of both weights, the reach and the values of penalty_weight are those of a published
    port, which says that it follows the released code; that code was not available. Presets are as published; the
    default differs in ``smallest_factor`` and, from preset gym, in ``penalty_weight``, to stay near the bare learner.

    >>> from adaptive_constraints import ANQ, wrap
    >>> from adaptive_constraints.baselines import IQL
    >>> agent = wrap(IQL.preset("anq"), ANQ.preset("gym"))
    >>> [line for line in agent.explain().splitlines() if "anq.mu" in line]
    ['  2. anq.mu      every 2 steps   update anq.mu; average anq.mu at 0.005']
    """

    reach: Annotated[float, AtLeast(0)] = 2.0
    """Largest displacement per dimension, in units of the action bound (c); at 2 any action can become any other, at 0
    none moves."""
    penalty_weight: Annotated[float, AtLeast(0)] = 5.0
    """Price of displacement (lambda) against the normalised Q; larger keeps closer to the data. The paper's search set
    is {0.1, 5}. Inferred: 0.1 where the data leaves room to improve (preset gym), 5 on expert data and AntMaze. The
    default is the careful one: at 0.1, Q diverged on IQL with regenerated hopper/medium and halfcheetah/mixed, because
    the factor on the penalty stood at its lower bound for nearly all rows. Try 0.1 where nothing changes."""
    penalty: Literal["squared", "norm"] = "squared"
    """squared: mean square of the displacement over the action's dimensions, the released code's. norm: its Euclidean
    norm, as equation 13 prints it; at a fixed price that is all or nothing."""
    adaptivity: Annotated[float, AtLeast(0)] = 1.0
    """The penalty's factor at a row is exp(adaptivity * advantage of the data's action) (alpha); 0: neighbourhoods of
    one size. Advantages are in units of return, some hundreds on Gym: on a very different scale of rewards rescale
    them (reward_scale of the learner), or bounds cut most factors; the diagnostics say how many."""
    smallest_factor: Annotated[float, Above(0)] = 1.0
    """Lower bound of that factor; published 0.01. At 1 neighbourhoods only shrink around good actions: where they grow
    around bad ones, actions end where Q has seen nothing and is too high (docs/results.md)."""
    largest_factor: Annotated[float, Above(0)] = 30.0
    """Upper bound of that factor."""
    normalize_q: bool = True
    """Divide the value that mu climbs by the mean size of Q, so that the price means the same on every reward scale."""
    value_expectile: Annotated[float, Between(0, 1, "()")] = 0.7
    """Expectile of V; where the learner trains a V of its own, that one and its expectile count."""
    imitate: Literal["refined", "data"] = "refined"
    """refined: the learner imitates refined actions, weighted by exp(advantage of the refined action) where it has no
    such weights of its own. data: its imitation stays as it is."""
    inverse_temperature: Annotated[float, AtLeast(0)] = 3.0
    """Inverse temperature of those weights (beta), in the same units as adaptivity."""
    largest_weight: Annotated[float, Above(0)] = 3.0
    """Bound of those weights."""
    value_aggregate: Aggregate = "learner"
    """Combination of the critics in both advantages; learner: its own way, which is also how V is regressed, whatever
    this says. Inferred: the mean on AntMaze, for which the learner is to take it: ``IQL.preset("anq-antmaze")``."""
    objective_aggregate: Aggregate = "learner"
    """Combination of the critics in what mu climbs. Inferred: the smallest on AntMaze."""
    target_mu: bool = True
    """V regresses at the actions of mu's Polyak average, as in equation 14; false: of mu itself, as in the port."""
    policy_every: Annotated[int, AtLeast(1)] = 2
    """Training steps per update of mu and of its average."""
    learning_rate: Annotated[float, AtLeast(0)] = 3e-4
    """Adam's learning rate of mu, at the start."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Course of that learning rate. cosine: half a cosine, down to 0 over the run."""
    polyak: Annotated[float, Between(0, 1, "(]")] = 0.005
    """Rate of mu's average."""
    hidden: Annotated[int, AtLeast(1)] = 256
    """Width of mu's two hidden layers."""
    output_variance: Annotated[float, AtLeast(0)] = 0.01
    """Variance scale of mu's last layer at the start, so that displacements begin small: weights uniform in
    +-sqrt(3 * output_variance / mean of inputs and outputs), biases 0. The port's; the paper says nothing."""

    paper: ClassVar[str] = "arXiv 2511.02567"
    tested_on: ClassVar[frozenset[str]] = frozenset({"IQL"})
    """IQL in substance: the paper's own agent is like ``IQL.preset("anq")``."""
    replaces: ClassVar[frozenset[str]] = frozenset({"bootstrap"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gym": {"smallest_factor": 0.01, "penalty_weight": 0.1},
        "gym-expert": {"smallest_factor": 0.01},
        "antmaze": {
            "smallest_factor": 0.01,
            "largest_factor": 10.0,
            "value_expectile": 0.9,
            "inverse_temperature": 10.0,
            "largest_weight": 100.0,
            "objective_aggregate": "min",
        },
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            self.smallest_factor <= self.largest_factor,
            f"smallest_factor must be at most largest_factor, but they are {self.smallest_factor} and "
            f"{self.largest_factor}",
        )

    # -- on which learner -----------------------------------------------------------------------------------------

    def answers(self, facts: Facts, phase: Phase) -> frozenset[str]:
        seams = {"value_action", "query_action"}
        if not facts.owns_value:  # a learner with a V of its own already bootstraps from it
            seams.add("bootstrap")
        if self.imitate == "refined":
            seams |= {"behavior_action"} & facts.seams
        if self._weights(facts):
            seams.add("sample_weight")
        return frozenset(seams)

    def _weights(self, facts: Facts) -> bool:
        """Tell whether imitation takes its weights from here: nobody else gives any, and somebody asks."""
        return self.imitate == "refined" and "sample_weight" in facts.seams and not facts.exponential_weights

    def check(self, facts: Facts) -> Sequence[str]:
        if facts.constrained == "critic" and facts.tradeoff is not None:
            return (
                "the learner's constraint pushes Q down at the actions among which a neighbourhood's best is sought, "
                "so that best is biased low: use a small trade-off",
            )
        if facts.reads_policy_action and not facts.exponential_weights:
            return (
                "the critics' target follows V instead of the policy, so nothing trains Q where the policy climbs it "
                "outside the neighbourhoods: keep the constraint strong",
            )
        return ()

    def expectile(self, facts: Facts) -> float:
        return self.value_expectile

    # -- the refined action ---------------------------------------------------------------------------------------

    def init(self, spec: Spec, facts: Facts, generator: torch.Generator) -> dict[str, Params]:
        sizes = (spec.observation_dim + spec.action_dim, self.hidden, self.hidden, spec.action_dim)
        last = uniform((6 * self.output_variance / (self.hidden + spec.action_dim)) ** 0.5, bias=0.0)
        return {"mu": init_mlp(sizes, generator, initializers=(torch_default, torch_default, last))}

    def displacement(self, p: Params, observation: Tensor, action: Tensor) -> Tensor:
        """delta(s, a) = reach * tanh(mu(s, a)): [B, A]."""
        return self.reach * torch.tanh(mlp(p, torch.cat([observation, action], -1)))

    def refined(self, p: Params, observation: Tensor, action: Tensor) -> Tensor:
        """a + delta(s, a), within the action bounds: [B, A]."""
        return (action + self.displacement(p, observation, action)).clamp(-1, 1)

    # -- what learners get of it ----------------------------------------------------------------------------------

    def value_action(self, v: View, default: Callable[[], Tensor]) -> Tensor:
        networks = v.target if self.target_mu else v.p
        return self.refined(networks[self.group("mu")], v.s, default())

    def bootstrap(
        self,
        v: View,
        observation: Tensor,
        site: str,
        batch: Mapping[str, Tensor] | None,
        default: Callable[[], Tensor],
    ) -> Tensor:
        """V(s')."""
        return v.value(observation)

    def behavior_action(self, v: View, default: Callable[[], Tensor]) -> Tensor:
        return self.refined(v.p[self.group("mu")], v.s, default())

    def sample_weight(self, v: View) -> Tensor:
        """G = min(exp(beta * advantage of the imitated action), largest)."""
        return self._weight_exponent(v).clamp(max=math.log(self.largest_weight)).exp()

    def query_action(self, v: View) -> Sequence[Tensor]:
        return [self.refined(v.p[self.group("mu")], v.s, v.a)]

    # -- learning it ----------------------------------------------------------------------------------------------

    def stages(self, facts: Facts, phase: Phase) -> tuple[AdapterStage, ...]:
        mu = self.group("mu")
        averages = (Average(mu, self.polyak),) if self.target_mu else ()
        update = Update(mu, self.loss, self.rate)
        return (AdapterStage("critic", Stage(mu, (update,), every=self.policy_every, averages=averages)),)

    def rate(self, step: int, horizon: int) -> float:
        """Mu's learning rate: with a cosine, whole at its first step and 0 after its last."""
        if self.schedule == "constant":
            return self.learning_rate
        done, total = step // self.policy_every - 1, horizon // self.policy_every
        return self.learning_rate * (1 + math.cos(math.pi * done / total)) / 2

    def loss(self, p: Params, v: View) -> Tensor:
        """-kappa mean Q(s, a~) + lambda mean(W * size of delta), kappa = 1 / sg[mean |Q(s, a~)|], or 1.

        The penalty takes the displacement before the bounds cut it: where they do, Q has no gradient by it.
        """
        delta = self.displacement(p, v.s, v.a)
        q = _aggregate(self.objective_aggregate, v, v.services.q(v.p["critic"], v.s, (v.a + delta).clamp(-1, 1)))
        kappa = 1 / (q.detach().abs().mean() + 1e-6) if self.normalize_q else 1.0
        return -kappa * q.mean() + self.penalty_weight * (self.penalty_factor(v) * self._size(delta)).mean()

    def _size(self, delta: Tensor) -> Tensor:
        """Size that the penalty charges for a displacement; [B]."""
        if self.penalty == "squared":
            return delta.square().mean(-1)
        return (delta.square().sum(-1) + 1e-12).sqrt()  # as the norm, with a gradient at 0

    def penalty_factor(self, v: View) -> Tensor:
        """W = exp(alpha * advantage of the data's action), within bounds: the better it is, the nearer to stay; [B]."""
        return self._factor_exponent(v).clamp(*self._factor_bounds()).exp()

    def _factor_bounds(self) -> tuple[float, float]:
        """Bounds of the exponent."""
        return math.log(self.smallest_factor), math.log(self.largest_factor)

    def _factor_exponent(self, v: View) -> Tensor:
        return self.adaptivity * self._advantage(v, v.a)

    def _weight_exponent(self, v: View) -> Tensor:
        return self.inverse_temperature * self._advantage(v, v.behavior_action())

    def _advantage(self, v: View, action: Tensor) -> Tensor:
        """Q'(s, a) - V(s), Q' the target critics; [B]."""
        return _aggregate(self.value_aggregate, v, v.services.q(v.target["critic"], v.s, action)) - v.value(v.s)

    def diagnostics(self, v: View) -> Mapping[str, Tensor]:
        """Mean |delta|, mean W, and the shares of rows whose W and, where it is from here, whose G a bound cuts."""
        low, high = self._factor_bounds()
        exponent = self._factor_exponent(v)
        quantities = {
            "displacement": self.displacement(v.p[self.group("mu")], v.s, v.a).abs().mean(),
            "penalty_factor": self.penalty_factor(v).mean(),
            "penalty_factor_bounded": _share((exponent < low) | (exponent > high), exponent),
        }
        if self._weights(v.services.facts):
            exponent = self._weight_exponent(v)
            quantities["weight_bounded"] = _share(exponent > math.log(self.largest_weight), exponent)
        return quantities


def _aggregate(how: Aggregate, v: View, q: Tensor) -> Tensor:
    """One value [B] from those of the critics [K, B]."""
    if how == "learner":
        return v.services.aggregate(q)
    return q.amin(0) if how == "min" else q.mean(0)


def _share(rows: Tensor, like: Tensor) -> Tensor:
    """Share of the rows [B] where a condition holds, with the type of ``like``."""
    return rows.to(like.dtype).mean()
