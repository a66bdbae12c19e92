"""The base class of learners: groups of parameters, stages, services and facts.

A learner is a frozen dataclass of settings. Everything it computes is a pure function of *one seed*: it receives
the parameters of the group being stepped (``p``) and a read-only view ``v`` of everything else, and returns values
per sample. The engine maps these functions over seeds, differentiates and steps them; `stack.wrap` decides who
answers when a learner asks a seam (``v.bootstrap(...)``, ``v.constraint_weight()``, ...).

Shapes in docstrings: B rows of a minibatch, D observation dimensions, A action dimensions, K critics, N rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from adaptive_constraints.core.part import Part
from adaptive_constraints.core.types import Facts, Gaussian, Params, Phase, Point, Spec, Stage, Terms
from adaptive_constraints.core.view import View
from adaptive_constraints.data import Dataset
from adaptive_constraints.support.bounds import Above, AtLeast, Between


@dataclass(frozen=True, kw_only=True)
class Learner(Part, ABC):
    """Base class of learners: override the abstract methods; the defaults after them suit most.

    >>> from adaptive_constraints.baselines import TD3BC
    >>> learner = TD3BC(alpha=4.0)
    >>> learner.facts().constrained, learner.facts().tradeoff
    ('actor', 4.0)
    >>> [stage.name for stage in learner.stages("offline")]
    ['critic', 'actor']
    """

    discount: Annotated[float, Between(0, 1)] = 0.99
    """Discount per environment step."""
    batch_size: Annotated[int, AtLeast(1)] = 256
    """Rows per minibatch and seed."""
    normalize_observations: bool = False
    """Shift and scale observations by the data's mean and standard deviation + 1e-3."""
    reward_scale: Annotated[float, Above(0)] | Literal["return_range", "dataset_std"] = 1.0
    """Factor on rewards; return_range is 1000 over the range of episode returns, dataset_std is 1 over the rewards'
    standard deviation."""
    reward_shift: float | Literal["dataset_mean"] = 0.0
    """Added to scaled rewards (-1 on AntMaze); dataset_mean subtracts their mean. Not neutral where episodes
    terminate."""
    action_margin: Annotated[float, Between(0, 1, "[)")] = 0.0
    """The data's actions are clipped to +-(1 - this), away from where a squashed policy's density is infinite."""
    paper: ClassVar[str] = ""

    def __post_init__(self) -> None:
        self.check_settings()

    # -- what every learner says ------------------------------------------------------------------------------

    @abstractmethod
    def facts(self) -> Facts:
        """Properties of this configured learner that adapters may depend on."""

    @abstractmethod
    def init(self, spec: Spec, generator: torch.Generator) -> dict[str, Params]:
        """Initial parameters of one seed, by group.

        spec: dimensions of the data.
        generator: the source of all randomness.
        """

    @abstractmethod
    def stages(self, phase: Phase) -> tuple[Stage, ...]:
        """Stages of one step in the paper's order, offline or online as ``phase`` says."""

    @abstractmethod
    def bootstrap(self, v: View, observation: Tensor, site: str, batch: Mapping[str, Tensor] | None) -> Tensor:
        """Value [N] inside a TD target at states [N, D].

        v: the view of one seed.
        observation: the states.
        site: names the noise of this call; pass it on to every draw.
        batch: columns of the minibatch whose next states these are; None for states that are not in the data.
        """

    @abstractmethod
    def q(self, p: Params, observation: Tensor, action: Tensor) -> Tensor:
        """Values [K, N] of K critics with parameters ``p`` at observations [N, D] and actions [N, A]."""

    @abstractmethod
    def sample(self, v: View, p: Params, observation: Tensor, site: str) -> Tensor:
        """Actions [N, A] at which the policy reads Q, at states [N, D].

        v: the view of one seed.
        p: the policy's parameters.
        observation: the states.
        site: names the noise of this call; pass it on to every draw.
        """

    @abstractmethod
    def terms(self, p: Params, v: View) -> Terms:
        """Value, improvement and constraint [B] on the minibatch, at parameters ``p`` of the constrained group."""

    @abstractmethod
    def act(self, v: View, observation: Tensor) -> Tensor:
        """Actions [N, A] in learner space [-1, 1] for evaluation."""

    # -- defaults ---------------------------------------------------------------------------------------------

    def explore(self, v: View, observation: Tensor) -> Tensor:
        """Actions [N, A] in learner space [-1, 1] for collecting online, at states [N, D]."""
        return self.act(v, observation)

    def training_data(self, data: Dataset) -> Dataset:
        """The rows of the data that it trains on; by default all of them.

        What is normalised, prepared by adapters and kept online is of these rows, too.
        """
        return data

    def columns(self) -> tuple[str, ...]:
        """Names of further columns of the data to be found in ``v.batch``; see `Dataset.column`."""
        return ()

    def distribution(self, v: View, p: Params, observation: Tensor) -> Gaussian | Point | None:
        """The policy at states [N, D] with parameters ``p``, a density or a point; None: it can only be sampled."""
        return None

    def sample_behavior(self, v: View, observation: Tensor, site: str, count: int) -> Tensor | None:
        """Draws [count, N, A] from the learner's own behaviour model at states [N, D]; None where it has none."""
        return None

    def value(self, p: Params, observation: Tensor) -> Tensor | None:
        """The learner's own state value [N] at states [N, D]; None where it has none."""
        return None

    def aggregate(self, q: Tensor) -> Tensor:
        """Combine the critics' values [K, N] into one [N]; by default their minimum."""
        return q.amin(0)

    def td_error(self, q: Tensor, target: Tensor) -> Tensor:
        """Loss per row [N] of critics [K, N] against one target [N]; by default the sum of squared errors."""
        return (q - target).square().sum(0)

    def target(self, v: View) -> Tensor:
        """The in-data TD target [B]: r + discount * (1 - terminal) * bootstrap."""
        return v.r + self.discount * (1 - v.d) * v.bootstrap(v.s2, "target", v.batch)

    def regression(self, p: Params, v: View) -> Tensor:
        """The critics' loss: the TD error on the data and on the rows that adapters add."""
        q, rows = self.answered("q", self.q(p, v.s, v.a), (-1, len(v.s))), v.r.shape
        target = self.answered("target", self.target(v), rows)
        loss = v.td_weight() * self.answered("td_error", self.td_error(q, target), rows).mean()
        for row in v.critic_rows():
            loss = loss + row.weight * self.td_error(self.q(p, row.observation, row.action), row.target).mean()
        return loss

    def constrained_loss(self, p: Params, v: View, k: Tensor) -> tuple[Tensor, Terms]:
        """Loss [] of the constrained group, and its terms.

        p: parameters of the constrained group.
        v: the view of one seed.
        k: the trade-off []; it may enter the loss anywhere.
        """
        terms = self.terms(p, v)
        constraint = v.weighted(terms.constraint)
        scales_improvement = self.facts().scales == "improvement"
        rows = k * terms.improvement + constraint if scales_improvement else terms.improvement + k * constraint
        return rows.mean(), terms
