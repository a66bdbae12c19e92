"""What a learner says about itself: its groups of parameters, its stages, its services and its facts.

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
from adaptive_constraints.support.bounds import Above, AtLeast, Between


@dataclass(frozen=True, kw_only=True)
class Learner(Part, ABC):
    """Base class of learners: override the upper half; the page of defaults below it suits most."""

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
        """What adapters may know of this configured learner."""

    @abstractmethod
    def init(self, spec: Spec, generator: torch.Generator) -> dict[str, Params]:
        """Initial parameters of one seed, by group; all randomness from ``generator``."""

    @abstractmethod
    def stages(self, phase: Phase) -> tuple[Stage, ...]:
        """The stages of one tick in the paper's order."""

    @abstractmethod
    def bootstrap(self, v: View, observation: Tensor, site: str, batch: Mapping[str, Tensor] | None) -> Tensor:
        """Value [N] at states [N, D] inside a TD target; ``batch`` is None for states that are not in the data."""

    @abstractmethod
    def q(self, p: Params, observation: Tensor, action: Tensor) -> Tensor:
        """Values [K, N] of K critics with parameters ``p`` at (observation [N, D], action [N, A])."""

    @abstractmethod
    def sample(self, v: View, p: Params, observation: Tensor, site: str) -> Tensor:
        """Actions [N, A] of the policy with parameters ``p`` as it explores Q; noise from ``v`` under ``site``."""

    @abstractmethod
    def terms(self, p: Params, v: View) -> Terms:
        """The parts of the objective at parameters ``p`` of the constrained group, on the batch."""

    @abstractmethod
    def act(self, v: View, observation: Tensor) -> Tensor:
        """Actions [N, A] in learner space [-1, 1] for evaluation."""

    # -- defaults ---------------------------------------------------------------------------------------------

    def explore(self, v: View, observation: Tensor) -> Tensor:
        """Actions [N, A] in learner space with which it collects rows online."""
        return self.act(v, observation)

    def columns(self) -> tuple[str, ...]:
        """Columns of the data that it reads from ``v.batch`` beside the usual ones; see `Dataset.column`."""
        return ()

    def distribution(self, v: View, p: Params, observation: Tensor) -> Gaussian | Point | None:
        """The policy at states [N, D] in closed form: a density or a point; None where it can only be sampled."""
        return None

    def sample_behavior(self, v: View, observation: Tensor, site: str, count: int) -> Tensor | None:
        """Draws [count, N, A] from the learner's own behaviour model, where it has one."""
        return None

    def value(self, p: Params, observation: Tensor) -> Tensor | None:
        """The learner's own state value [N], where it has one."""
        return None

    def aggregate(self, q: Tensor) -> Tensor:
        """One value [N] from those of the critics [K, N]."""
        return q.amin(0)

    def td_error(self, q: Tensor, target: Tensor) -> Tensor:
        """Loss per row [N] of critics [K, N] against one target [N]."""
        return (q - target).square().sum(0)

    def target(self, v: View) -> Tensor:
        """The in-data TD target [B]: r + discount * (1 - terminal) * bootstrap."""
        return v.r + self.discount * (1 - v.d) * v.bootstrap(v.s2, "target", v.batch)

    def regression(self, p: Params, v: View) -> Tensor:
        """The critics' loss: the TD error on the data and on the rows that adapters add."""
        loss = v.td_weight() * self.td_error(self.q(p, v.s, v.a), self.target(v)).mean()
        for row in v.critic_rows():
            loss = loss + row.weight * self.td_error(self.q(p, row.observation, row.action), row.target).mean()
        return loss

    def constrained_loss(self, p: Params, v: View, k: Tensor) -> tuple[Tensor, Terms]:
        """The constrained group's loss at trade-off ``k`` [] and its terms; ``k`` may enter anywhere."""
        terms = self.terms(p, v)
        constraint = v.weighted(terms.constraint)
        scales_improvement = self.facts().scales == "improvement"
        rows = k * terms.improvement + constraint if scales_improvement else terms.improvement + k * constraint
        return rows.mean(), terms
