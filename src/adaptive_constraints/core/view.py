"""The read-only view ``v`` that losses and answers receive: one seed's state, the learner's services, and the seams.

`View` is abstract here: its methods are the questions that losses may ask, with the shapes of the answers;
`composition.bound_view` combines the answers of the adapters of one stack. Shapes: B rows of a minibatch, D observation
dimensions, A action dimensions, N rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from adaptive_constraints.core.types import Draw, ExtraRows, Facts, Gaussian, Params, Phase, Point, Spec, Terms
from adaptive_constraints.errors import StackError

Inputs = dict[str, Any]
"""The tree a view is made of: params, targets, buffers, frozen, batch, clock; noise and data where they are read."""
DrawNoise = Callable[[Draw], Tensor]
"""Gives the noise of one draw."""


class Services(ABC):
    """Pure functions of the learner that adapters may call; see the methods of `Learner` of the same names."""

    facts: Facts
    discount: float

    @abstractmethod
    def q(self, p: Params, observation: Tensor, action: Tensor) -> Tensor:
        """Values [K, N] of K critics with parameters ``p`` at (observation [N, D], action [N, A])."""

    @abstractmethod
    def aggregate(self, q: Tensor) -> Tensor:
        """One value [N] from those of the critics [K, N]."""

    @abstractmethod
    def td_error(self, q: Tensor, target: Tensor) -> Tensor:
        """Loss per row [N] of critics [K, N] against one target [N]."""

    @abstractmethod
    def sample(self, p: Params, observation: Tensor, site: str) -> Tensor:
        """Actions [N, A] of the policy with parameters ``p`` as it explores Q."""

    @abstractmethod
    def distribution(self, p: Params, observation: Tensor) -> Gaussian | Point | None:
        """The policy at states [N, D] in closed form, or None."""

    @abstractmethod
    def terms(self, p: Params) -> Terms:
        """Value, improvement and constraint [B] at parameters ``p`` of the constrained group, on the batch."""

    @abstractmethod
    def sample_behavior(self, observation: Tensor, site: str, count: int) -> Tensor | None:
        """Draws [count, N, A] from the learner's own behaviour model, or None."""


class Columns(dict[str, Tensor]):
    """Columns of the data by name; asked for one that is not there, it says which are."""

    def __missing__(self, name: str) -> Tensor:
        raise StackError(f"there is no column {name!r} of the data; there are {', '.join(self)}")


class StateView:
    """One seed's state, read-only: parameters, minibatch, noise. No tensor in it carries gradient."""

    def __init__(self, spec: Spec, inputs: Inputs, draw: DrawNoise) -> None:
        self.spec = spec
        """Dimensions of the data."""
        self.p: Mapping[str, Params] = inputs["params"]
        """Parameters of every group, as they stood when the stage began."""
        self.target: Mapping[str, Params] = inputs["targets"]
        """Polyak averages of the groups that have one."""
        self.buffers: Mapping[str, Params] = inputs["buffers"]
        """Adapters' non-gradient state, by adapter name."""
        self.frozen: Mapping[str, Params] = inputs["frozen"]
        """Models prepared before step 1, by adapter name."""
        self.choices: Mapping[str, Mapping[str, str]] = {}
        """Words that the data decided before step 1, by adapter name; see `choice`."""
        self.batch: Mapping[str, Tensor] = Columns(inputs["batch"])
        """Columns of the minibatch, in learner space: observation, action, reward, next_observation, terminal, those
        that the learner's `columns` names, and '<adapter>.<column>' of what an adapter prepared."""
        clock = inputs["clock"]
        self.step: Tensor = clock["step"]
        """This step, from 1; [] int64."""
        self.phase_step: Tensor = clock["phase_step"]
        """This step counted from the start of the phase; [] int64."""
        self.horizon: Tensor = clock["horizon"]
        """The planned number of steps; [] int64."""
        self.metrics: dict[str, Tensor] = {}
        """Scalars recorded by `log`."""
        self.all_rows: Mapping[str, Tensor] | None = None
        """What `data` shows; given by whoever makes the view."""
        self.kept: dict[str, Params] = {}
        """New values of buffers of Modules by group, which the engine keeps when it steps; see `kept_of`."""
        self.stepped: tuple[str, Params] | None = None
        """The group that the loss being evaluated steps, and the parameters that it was given: in an outer loss, the
        constrained group and its parameters after the step."""
        self._draw = draw

    def choice(self, adapter: str, key: str) -> str:
        """The word that an adapter's `Prepared.choices` has under a key; plain text, so that ``if`` may ask it."""
        return self.choices[adapter][key]

    # -- the minibatch --------------------------------------------------------------------------------------------

    @property
    def s(self) -> Tensor:
        """Observations [B, D]."""
        return self.batch["observation"]

    @property
    def a(self) -> Tensor:
        """Actions of the data [B, A]."""
        return self.batch["action"]

    @property
    def r(self) -> Tensor:
        """Rewards [B]."""
        return self.batch["reward"]

    @property
    def s2(self) -> Tensor:
        """Next observations [B, D]."""
        return self.batch["next_observation"]

    @property
    def d(self) -> Tensor:
        """1 where the episode truly ended, never at a time limit; [B]."""
        return self.batch["terminal"]

    # -- all rows of the data -------------------------------------------------------------------------------------

    @property
    def data(self) -> Mapping[str, Tensor]:
        """Columns [N, ...] of all rows of the data in learner space: observation, action, and so on, as in `batch`.

        They are parts of the one table that minibatches are drawn from: the same for all seeds, not copied, never in a
        checkpoint. Online they are the rows of the data that were kept, without those collected. Raises `StackError`
        unless the learner or an adapter declares ``reads_data: ClassVar[bool] = True``.
        """
        if self.all_rows is None:
            raise StackError(
                "v.data was read, but no part of the stack says that it reads it, or there is no data at hand (while "
                "acting): declare reads_data: ClassVar[bool] = True in the class, and read it in training only"
            )
        return Columns(self.all_rows)

    @property
    def row(self) -> Tensor:
        """The number of each row of the minibatch in `data`; [B] int64, N for a row collected online."""
        if "row" not in self.batch:
            raise StackError(
                "v.row was read, but no part of the stack says that it reads the data: declare reads_data: "
                "ClassVar[bool] = True in the class"
            )
        return self.batch["row"]

    # -- noise and records ----------------------------------------------------------------------------------------

    def normal(self, site: str, shape: Sequence[int]) -> Tensor:
        """Standard normal draws of a shape.

        site: name of the place that draws. Draws are a pure function of (seed, site, step, index), so equal sites draw
            equal numbers within a step; an adapter begins its sites with its own name.
        shape: shape of the result, without the axis over seeds.
        """
        return self._draw(Draw("normal", site, tuple(shape)))

    def uniform(self, site: str, shape: Sequence[int]) -> Tensor:
        """Uniform draws in [0, 1), with the arguments of `normal`."""
        return self._draw(Draw("uniform", site, tuple(shape)))

    def kept_of(self, p: Params) -> Params:
        """Values of a group's buffers that earlier calls in this loss have left, to be added to.

        p: the parameters that its Module is called with: those that the loss was given, or a group of ``v.p``. What is
            added for any others (averages, a part of an ensemble) is forgotten.
        """
        groups = [*self.p.items()] if self.stepped is None else [self.stepped, *self.p.items()]
        group = next((name for name, own in groups if own is p), None)
        return {} if group is None else self.kept.setdefault(group, {})

    def log(self, name: str, value: Tensor) -> None:
        """Record a scalar under ``name``, averaged over the steps between two log points; losses need no call."""
        if value.dim():
            raise StackError(f"what is logged under {name!r} must be one number, not of the shape {list(value.shape)}")
        self.metrics[name] = value.detach()


class View(StateView, ABC):
    """One seed's state together with the learner's services and the seams: the ``v`` of losses and answers."""

    phase: Phase
    services: Services
    """The learner's functions."""

    # -- seams ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def bootstrap(self, observation: Tensor, site: str, batch: Mapping[str, Tensor] | None = None) -> Tensor:
        """The value [N] inside a TD target at states [N, D]; ``batch`` is None for states that are not in the data."""

    @abstractmethod
    def td_weight(self) -> Tensor | float:
        """Weight of the in-data TD term; scalar."""

    @abstractmethod
    def critic_rows(self) -> list[ExtraRows]:
        """Extra rows of the critics' regression."""

    @abstractmethod
    def value_action(self) -> Tensor:
        """The action [B, A] at which V regresses on the target critics."""

    @abstractmethod
    def behavior_action(self) -> Tensor:
        """The action [B, A] that imitation takes for the data's."""

    @abstractmethod
    def sample_weight(self) -> Tensor | float:
        """Weight of each row in the imitation term; [B] or 1."""

    @abstractmethod
    def query_action(self) -> list[Tensor]:
        """Off-data actions [B, A] at which adapters read Q."""

    @abstractmethod
    def constraint(self, action: Tensor, default: Callable[[], Tensor]) -> Tensor:
        """The constraint term [B] at ``action`` [B, A]: an adapter's, or the learner's ``default()``."""

    @abstractmethod
    def conservative_value(self, q: Tensor, action: Tensor) -> Tensor:
        """The values [K, M, B] that conservatism pushes down, from the critics' own at actions [M, B, A]."""

    @abstractmethod
    def constraint_weight(self) -> Tensor | float:
        """Weight of the constraint at each state; [B] or 1.

        While an adapter learns the trade-off, these are mean-normalised weights: divided by their mean over the rows
        with a positive weight, so that they say where to constrain, and the trade-off alone says how much.
        """

    @abstractmethod
    def constraint_scale(self) -> Tensor | float:
        """Annealing of the whole constraint; scalar."""

    @abstractmethod
    def tradeoff(self) -> Tensor:
        """The learner's one scalar; []."""

    # -- seams together -----------------------------------------------------------------------------------------------

    @abstractmethod
    def weighted(self, constraint: Tensor) -> Tensor:
        """The constraint [B] under the weights of all seams; the rows' weights only where it imitates the data."""

    @abstractmethod
    def tempered(self, exponent: Tensor) -> Tensor:
        """The exponent [B] of imitation weights exp(exponent), divided by the constraint's weight (at least 1e-3).

        A larger weight of the constraint makes the imitation weights more equal. It is to learners that imitate with
        such weights what `weighted` is to others.
        """

    @abstractmethod
    def value(self, observation: Tensor) -> Tensor:
        """State value [N] at states [N, D]: the learner's own, or the one that the stack trains for its adapters."""


__all__ = ["DrawNoise", "Inputs", "Services", "StateView", "View"]
