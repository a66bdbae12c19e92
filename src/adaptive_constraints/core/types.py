"""Types that learners, adapters and the engine share: stages, terms, facts, seams."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from torch import Tensor

Params = dict[str, Tensor]
"""The tensors of one group of parameters, by name."""


Schedule = float | Callable[[int, int], float]
"""A learning rate: a number, or a function of (step, horizon), steps counted from 1."""


Phase = Literal["offline", "online"]


TD_SEAMS = frozenset({"bootstrap", "td_weight", "critic_rows"})
"""Seams that `Learner.regression` and `Learner.target` ask."""


IMITATION_SEAMS = frozenset({"behavior_action", "sample_weight"})
"""Seams that a term asks where it imitates the data."""


CONSTRAINT_SEAMS = frozenset({"constraint", "constraint_weight", "constraint_scale", "tradeoff"})
"""Seams that the constrained loss asks: `View.constraint`, `View.weighted` or `View.tempered`, and its trade-off."""


class Terms(NamedTuple):
    """The parts of the constrained group's objective at some parameters; each [B]."""

    value: Tensor
    """Value estimate of the policy's action, in units of return; larger is better."""
    improvement: Tensor
    """Loss that improves the policy, usually the negative normalised value."""
    constraint: Tensor
    """Distance from the data (or from its model): the residual the constraint penalises, before any weight."""


class ExtraRows(NamedTuple):
    """Extra rows of the critic's regression, beside the data's own."""

    weight: Tensor | float
    """Weight of the mean squared error over these rows; scalar."""
    observation: Tensor
    """[N, D]"""
    action: Tensor
    """[N, A]"""
    target: Tensor
    """[N]"""


class Update(NamedTuple):
    """One gradient step of one group of parameters."""

    group: str
    loss: Callable[..., Any]
    """``loss(p, v)``; of the constrained group ``loss(p, v, k)`` -> (loss, Terms), k the trade-off."""
    learning_rate: Schedule = 3e-4
    clip: float | None = None
    """Largest Euclidean norm of the group's gradient, per seed; None leaves it alone."""


class Average(NamedTuple):
    """A Polyak average: target <- (1 - rate) target + rate * parameters."""

    group: str
    rate: float = 0.005
    every: int = 1
    """Runs when the step is a multiple of this (and of its stage's interval)."""
    start: int = 0
    """First step at which it may run."""


class Stage(NamedTuple):
    """Updates evaluated at the same parameters and then stepped together, followed by their averages."""

    name: str
    updates: tuple[Update, ...] = ()
    every: int = 1
    """Runs at steps every, 2 * every, ..."""
    averages: tuple[Average, ...] = ()


class Spec(NamedTuple):
    """Dimensions of the data, which networks are built for."""

    observation_dim: int
    action_dim: int


class Gaussian(NamedTuple):
    """A diagonal (tanh-)Gaussian policy at B states."""

    mean: Tensor
    """[B, A], before the tanh if there is one."""
    std: Tensor
    """[B, A], before the tanh if there is one."""
    log_density: Callable[[Tensor], Tensor]
    """Actions [B, A] -> log-density per dimension [B, A]."""


class Point(NamedTuple):
    """A deterministic policy at B states."""

    action: Tensor
    """[B, A]"""


@dataclass(frozen=True)
class Facts:
    """Properties of a configured learner that adapters may depend on, instead of on its class."""

    constrained: str
    """The group whose update carries the constraint."""
    seams: frozenset[str]
    """The seams this learner asks."""
    tradeoff: float | None
    """The learner's own trade-off; None: there is nothing to scale."""
    scales: Literal["improvement", "constraint", "exponent"] = "improvement"
    """The term that the trade-off multiplies; a larger one loosens the constraint, unless that term is the
    constraint."""
    policy: str = "actor"
    """The group that `Learner.sample` and `Learner.distribution` take as the policy's parameters."""
    normalizes_improvement: bool = True
    """The improvement is divided by the mean size of Q, so that the trade-off means the same on every reward scale."""
    sums_dimensions: bool = False
    """The constraint adds the squares of an action's dimensions up (ReBRAC); False: it averages them (TD3+BC)."""
    learns_tradeoff: bool = False
    """The learner adapts the trade-off itself (CQL's Lagrange multiplier)."""
    distribution: Literal["point", "gaussian", "tanh-gaussian", "generative"] = "point"
    owns_critic: bool = True
    """The learner trains critics, in the group ``critic``; False: there is no Q, and nobody may ask for one."""
    owns_value: bool = False
    """The learner trains a state value V itself, in the group ``value``."""
    owns_behavior: bool = False
    """The learner trains a model of the behaviour that `Learner.sample_behavior` draws from."""
    exponential_weights: bool = False
    """The learner imitates with weights exp(advantage)."""
    imitation_is_constraint: bool = True
    """The constraint imitates the data, so per-row imitation weights belong in the constraint."""
    normalized_critic: bool = False
    """The critics have LayerNorm."""
    reads_policy_action: bool = True
    """Q is read at actions off the data: by the policy, which improves that way, or by another adapter of the stack
    (which the stack adds for `Adapter.check`)."""
    bootstrap_settings: tuple[str, ...] = ()
    """Names of settings that, as configured, act in the learner's own bootstrap only. Where an adapter replaces the
    bootstrap, the stack warns that they have no effect."""
    constrained_every: int = 1
    """Training steps between two updates of the constrained group; set by the stack, which knows the stages."""
    replaced: frozenset[str] = frozenset()
    """Seams that another adapter of the stack replaces; set by the stack for `Adapter.check`."""


Slot = Literal["start", "critic", "with", "end"]


Combine = Literal["product", "composed", "concatenated", "single"]


class Seam(NamedTuple):
    """One seam: the rule that makes one answer of several, and the answer where nobody gives any."""

    combine: Combine
    default: str
    """The answer when no adapter answers, in words (for `explain`)."""
    asked_by_adapters: bool = False
    """Adapters may ask it too, so answering it where the learner does not ask is no mistake."""
    may_swallow: bool = False
    """An answer may do without ``default()`` and need not say so in `Adapter.replaces`."""


SEAMS: Mapping[str, Seam] = {
    "bootstrap": Seam("composed", "the learner's own"),
    "td_weight": Seam("product", "1"),
    "critic_rows": Seam("concatenated", "none"),
    "value_action": Seam("composed", "the data action"),
    "behavior_action": Seam("composed", "the data action"),
    "sample_weight": Seam("product", "1"),
    "query_action": Seam("concatenated", "none", asked_by_adapters=True),
    "constraint": Seam("single", "the learner's own"),
    "conservative_value": Seam("composed", "the critics' own"),
    "constraint_weight": Seam("product", "1"),
    "constraint_scale": Seam("product", "1"),
    "tradeoff": Seam("single", "the learner's own", may_swallow=True),
}
"""Every seam that an adapter may answer, in the order a step meets them."""


class AdapterStage(NamedTuple):
    """A stage of an adapter's own and where in the step it runs."""

    slot: Slot
    """start: before the learner's stages; critic: after the stage that steps the critic; with: its updates join the
    constrained stage; end: after the learner's stages."""
    stage: Stage


class MetaStep(NamedTuple):
    """The outer step of an adapter that learns the trade-off."""

    group: str
    """The adapter's group that the trade-off is a function of."""
    learning_rate: Callable[[int, int], float]
    """(outer steps done before this one, outer steps in the whole run) -> Adam's learning rate."""
    interval: int
    """Outer steps per this many steps of the constrained group."""
    backend: str = "closed_form"
    """closed_form, autograd, torchopt or higher; see `adaptive_constraints.engine.meta_step`."""


class MetaLoss(NamedTuple):
    """An outer loss and the buffers as they stand after the outer step."""

    loss: Tensor
    """[]"""
    buffers: Mapping[str, Tensor] = {}
    metrics: Mapping[str, Tensor] = {}


@dataclass(frozen=True)
class Prepared:
    """Columns and models that an adapter makes of the data before step 1."""

    columns: Mapping[str, Tensor] = field(default_factory=dict)
    """Extra columns [N] or [N, C], the same for every seed; found in ``v.batch`` under '<adapter>.<column>'."""
    seed_columns: Mapping[str, Tensor] = field(default_factory=dict)
    """Extra columns [S, N] or [S, N, C] that differ between seeds; found in the same place."""
    models: Mapping[str, Tensor] = field(default_factory=dict)
    """Frozen tensors [S, ...], found in ``v.frozen['<adapter>']`` without the axis over seeds."""
    online: Mapping[str, float] = field(default_factory=dict)
    """The value a row collected online gets in each column."""
    choices: Mapping[str, str] = field(default_factory=dict)
    """Words that the data decided, the same for all seeds, such as the name of a rule; read by ``v.choice``."""


class Draw(NamedTuple):
    """One draw of noise, which every step makes anew."""

    kind: str
    """normal, uniform, index (row numbers below ``rows``) or fraction (uniform draws that row numbers are made of)."""
    site: str
    """Name of the place that draws; equal names draw equal numbers."""
    shape: tuple[int, ...]
    rows: int = 0
    """Bound of row numbers; 0 for the other kinds."""
