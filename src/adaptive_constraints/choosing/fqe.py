"""Fitted Q evaluation: the value of a policy that never acts, from recorded transitions.

Le, Voloshin and Yue (2019, arXiv 1903.08738) regress Q(s, a) on r + discount (1 - d) Q(s', pi(s')) until it is the
policy's own Q, with its action pi(s') in place of a maximum. As Paine et al. (2020, arXiv 2007.09055) do, the
regression is a step per minibatch against an older Q, here a moving average. Rows that end by a timeout are
bootstrapped, since the episode would have gone on; rows that end truly are not.

All policies are fitted at once, stacked along the axis that the engine has for seeds. They begin with the same networks
and see the same minibatches, so that differences between them are of the policies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from adaptive_constraints.core.part import Part
from adaptive_constraints.core.preparation import Pretraining
from adaptive_constraints.core.types import Average, Facts, Params, Spec, Stage, Update
from adaptive_constraints.core.view import StateView
from adaptive_constraints.data import Dataset, Preprocessor
from adaptive_constraints.data.columns import chunks
from adaptive_constraints.data.returns import sums_to_go
from adaptive_constraints.networks import Norm, init_mlp, mlp
from adaptive_constraints.pretraining.preparation import BoundPreparation
from adaptive_constraints.support.bounds import Above, AtLeast, Between

NAME, GROUP, ACTION = "fqe", "q", "policy_action"
"""Name of the fit, its group of parameters, and the column of the policy's action at the next observation."""
NORM: Norm = "before"
"""Where the critics have LayerNorm, which keeps them from diverging at actions that no row has."""
_NUMBERS = 1 << 24
"""Activations that are held at once where Q is evaluated."""


@dataclass(frozen=True, kw_only=True)
class FQE(Part):
    """Settings of fitted Q evaluation.

    >>> from adaptive_constraints.choosing import FQE
    >>> FQE(critics=0)
    Traceback (most recent call last):
    ...
    adaptive_constraints.errors.StackError: FQE: critics must be a whole number >= 1, not 0
    """

    steps: Annotated[int, AtLeast(1)] = 12_000
    """Minibatches that each critic is fitted on."""
    critics: Annotated[int, AtLeast(1)] = 2
    """Critics of each policy, fitted apart from each other; their spread enters the interval."""
    hidden: Annotated[int, AtLeast(1)] = 64
    """Width of the two hidden layers."""
    batch_size: Annotated[int, AtLeast(1)] = 256
    """Rows per minibatch and critic."""
    learning_rate: Annotated[float, Above(0)] = 1e-3
    """Adam's."""
    target_rate: Annotated[float, Between(0, 1, "(]")] = 0.02
    """Step of the moving average that targets, and the values in the end, are taken from."""
    held_out: Annotated[float, Between(0, 1, "[)")] = 0.1
    """Share of the episodes that is not fitted but tells the TD error; at least one, if there are two."""
    seed: Annotated[int, AtLeast(0)] = 0
    """Seed of networks, minibatches, the split and the bootstrap."""

    def __post_init__(self) -> None:
        self.check_settings()

    # -- the fit, for one policy ----------------------------------------------------------------------------------

    def init(self, spec: Spec, generator: torch.Generator) -> dict[str, Params]:
        """Parameters [K, ...] of the K critics of one policy."""
        sizes = (spec.observation_dim + spec.action_dim, self.hidden, self.hidden, 1)
        return {GROUP: init_mlp(sizes, generator, ensemble=(self.critics,), norm=NORM)}

    def stages(self, discount: float) -> tuple[Stage, ...]:
        """The regression of one policy's critics, each on its own part of the minibatch."""

        def loss(p: Params, v: StateView) -> Tensor:
            rows = {name: column.reshape(self.critics, -1, *column.shape[1:]) for name, column in v.batch.items()}
            return td_errors(p, v.target[GROUP], rows, discount).square().mean(-1).sum()

        update = Update(GROUP, loss, self.learning_rate)
        return (Stage("q", (update,), averages=(Average(GROUP, self.target_rate),)),)


def q(p: Params, observation: Tensor, action: Tensor) -> Tensor:
    """Values [..., N] of critics [...] at observations [..., N, D], perhaps shared, and actions [..., N, A]."""
    pairs = torch.cat([observation.expand(*action.shape[:-1], -1), action], -1)
    return mlp(p, pairs, torch.relu, NORM).squeeze(-1)


def td_errors(p: Params, target: Params, rows: Mapping[str, Tensor], discount: float) -> Tensor:
    """Q(s, a) - (r + discount (1 - d) Q(s', pi(s'))) [..., N], the second Q by the parameters ``target``."""
    following = q(target, rows["next_observation"], rows[ACTION])
    wanted = rows["reward"] + discount * (1 - rows["terminal"]) * following
    return q(p, rows["observation"], rows["action"]) - wanted


# -- all policies at once -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fitted:
    """The critics of P policies."""

    params: Params
    """[P, K, ...]"""
    space: Preprocessor
    discount: float

    def values(self, observations: Tensor, actions: Tensor) -> Tensor:
        """[P, K, N] in units of reward, at raw observations [N, D] and the policies' raw actions [P, N, A]."""
        states, own = self.space.observations(observations), self.space.actions(actions)
        parts = [q(self.params, states[rows], own[:, None, rows]) for rows in self._parts(len(states))]
        return torch.cat(parts, -1) / self.space.reward_scale

    def error(self, data: Dataset, actions: Tensor) -> Tensor:
        """[P] the root of the mean squared TD error on data [N], in units of reward, over rows and critics.

        actions: the policies' raw actions [P, N, A] at the next observations.
        """
        table, own = self.space.table(data), self.space.actions(actions)
        squares = torch.zeros(len(own), device=own.device, dtype=torch.float64)
        for part in self._parts(len(data)):
            rows = {name: column[None, None, part] for name, column in table.items()} | {ACTION: own[:, None, part]}
            errors = td_errors(self.params, self.params, rows, self.discount)
            squares += errors.double().square().mean(1).sum(-1)
        return (squares / len(data)).sqrt() / self.space.reward_scale

    def _parts(self, rows: int) -> Iterator[slice]:
        """Some rows at once, so that activations need little memory."""
        policies, critics, width, _ = self.params["weight1"].shape
        return chunks(rows, max(1, _NUMBERS // (policies * critics * width)))


def space_of(data: Dataset, discount: float) -> Preprocessor:
    """Learner space of the fit: observations normalised, and values of the data's own behaviour of about size 1."""
    scale = 1.0
    terminal = torch.tensor(data.terminals | data.episode_ends)
    returns = sums_to_go(torch.tensor(data.rewards).double(), discount * (~terminal).double())
    if (size := float(returns.square().mean().sqrt())) > 0:
        scale = 1.0 / size
    return Preprocessor.fit(data, normalize_observations=True, reward_scale=scale)


def fit(
    fqe: FQE, data: Dataset, actions: Tensor, discount: float, *, device: torch.device, progress: bool = False
) -> Fitted:
    """Fit the critics of P policies in one stacked fit, but for those that the cache holds already.

    actions: [P, N, A] the policies' raw actions at the data's next observations.
    """
    space = space_of(data, discount)
    own = space.actions(actions)
    digests = [int(hashlib.sha256(policy.numpy().tobytes()).hexdigest()[:15], 16) for policy in own]
    places = {digest: place for place, digest in enumerate(digests)}
    spec = Spec(data.observation_dim, data.action_dim)
    preparation = BoundPreparation(
        data, space, Facts(GROUP, frozenset(), None), spec, tuple(digests), discount, device, progress
    )

    def train(missing: Sequence[int], pretraining: Pretraining) -> Params:
        alone = list(dict.fromkeys(missing))
        model = preparation.model(
            NAME,
            partial(fqe.init, spec),
            fqe.stages(discount),
            steps=fqe.steps,
            batch_size=fqe.critics * fqe.batch_size,
            seed_columns={ACTION: own[[places[digest] for digest in alone]]},
            seeds=(fqe.seed,) * len(alone),
        )
        pretraining.run(model, fqe.steps)
        return {
            name: tensor[[alone.index(digest) for digest in missing]] for name, tensor in model.targets[GROUP].items()
        }

    settings = asdict(fqe) | {"discount": discount}
    return Fitted(preparation.trained(NAME, settings, train, steps=fqe.steps), space, discount)


__all__ = ["ACTION", "FQE", "GROUP", "Fitted", "fit", "q", "space_of", "td_errors"]
