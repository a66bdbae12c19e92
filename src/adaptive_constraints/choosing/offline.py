"""The values of policies, estimated from data alone, with what speaks for and against the estimates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptive_constraints.choosing.fqe import FQE, Fitted, fit
from adaptive_constraints.choosing.policies import Policies
from adaptive_constraints.data import Dataset, check_trainable
from adaptive_constraints.errors import EvaluationError
from adaptive_constraints.runs.loop import at_work
from adaptive_constraints.support.arguments import checked
from adaptive_constraints.support.bounds import Between
from adaptive_constraints.support.stopping import stoppable

RESAMPLES, LEVEL = 2_000, 0.95
"""Resamples of a bootstrap, and the share of them that an interval holds."""
TRAVELLED = 0.9
"""Share of a far reward's way to the initial states, below which a fit is called short."""
CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False, repr=False)
class OfflineEvaluation:
    """The policies of one training, evaluated on data; [S] is a number for each seed, NaN for one that is lost.

    value: [S] the estimated discounted return from the data's initial states, in the environment's units of reward.
    low, high: [S] ends of its 95 % bootstrap interval over initial states and critics; NaN where there is one state.
        It covers chance in those two, not the error of fitted Q evaluation itself.
    td_error: [S] the root of the mean squared TD error on held-out episodes, in units of reward; NaN where the data
        has one episode, so that none is held out.
    loss: [S] the same on the episodes that were fitted.
    values: [S, K, E] the estimate of each critic at each initial state.
    """

    name: str
    seeds: tuple[int, ...]
    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    td_error: NDArray[np.float64]
    loss: NDArray[np.float64]
    values: NDArray[np.float64]
    discount: float
    data: str
    """Reference of the data."""
    fingerprint: str
    """Of the data."""
    held_out: int
    """Episodes of the data that were held out."""
    fqe: FQE
    lost: Mapping[int, str] = field(default_factory=dict)
    """By seed, why it has no value."""
    notes: tuple[str, ...] = ()
    """What is doubtful about the estimates, in words."""

    def __repr__(self) -> str:
        episodes = self.values.shape[-1]
        lines = [
            f"{self.name} on {self.data}: return discounted by {self.discount:g} from {episodes} initial states, "
            "estimated from data alone (fitted Q evaluation)"
        ]
        for i, seed in enumerate(self.seeds):
            if seed in self.lost:
                lines.append(f"  seed {seed}: no value, {self.lost[seed]}")
                continue
            interval = "" if math.isnan(self.low[i]) else f" [{self.low[i]:.4g}, {self.high[i]:.4g}]"
            held = "nothing" if math.isnan(self.td_error[i]) else f"{self.td_error[i]:.3g}"
            lines.append(
                f"  seed {seed}: {self.value[i]:.4g}{interval}; TD error {held} held out, {self.loss[i]:.3g} fitted"
            )
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


@checked(EvaluationError)
def evaluate_offline(
    policies: Sequence[Policies],
    data: Dataset,
    *,
    discount: Annotated[float, Between(0, 1)] | None = None,
    fqe: FQE | None = None,
    device: torch.device = CPU,
    progress: bool = False,
) -> list[OfflineEvaluation]:
    """Estimate the values of all policies on the same data by fitted Q evaluation, in one stacked fit.

    data: recorded in the policies' environment, by whatever behaviour; its episodes' first observations are the
        initial states.
    discount: per step; None: that of the policies' learners, which must then agree.
    fqe: settings of the fit; None: the defaults.

    A fit is kept in the cache, and so is half of one that Ctrl-C or SIGTERM ended: the same call goes on. Raises
    `DatasetError` for data that cannot be trained on, `EvaluationError` where data and policies do not fit together.

    >>> import numpy as np
    >>> from adaptive_constraints import load_dataset
    >>> from adaptive_constraints.choosing import FQE, Policies, evaluate_offline
    >>> still = Policies("no torque", (0,), lambda observations, part: np.zeros((1, len(observations), 1)))
    >>> data = load_dataset("scripted:pendulum/weak").subset(episodes=slice(4))
    >>> (estimate,) = evaluate_offline([still], data, discount=0.9, fqe=FQE(steps=20, hidden=8))
    >>> estimate.value.shape, estimate.values.shape, estimate.held_out
    ((1,), (1, 2, 4), 1)
    """
    fqe = fqe or FQE()
    check_trainable(data)
    discount = _discount(policies, discount, data)
    held = _held_out(data, fqe)
    everyone = [_acting(each, data) for each in policies]
    known = [acting for acting in everyone if len(acting.positions)]
    estimates: list[_Judged] = []
    if known:
        following = torch.cat([acting.following for acting in known])
        first = torch.cat([acting.first for acting in known])
        alone = _estimates(fqe, data, held, following, first, discount, device, progress)
        ends = intervals(np.stack([estimate.values for estimate in alone]), fqe.seed)
        estimates = list(zip(alone, ends, strict=True))
    results = []
    for each, acting in zip(policies, everyone, strict=True):
        own, estimates = estimates[: len(acting.positions)], estimates[len(acting.positions) :]
        results.append(_result(each, acting, own, data, held, discount, fqe))
    return results


def _discount(policies: Sequence[Policies], given: float | None, data: Dataset) -> float:
    """The discount of all policies; `EvaluationError` where there is none, or none that gives a finite value."""
    own = sorted({each.discount for each in policies})
    if not own:
        raise EvaluationError("there are no policies to evaluate: give one at least")
    if given is None and len(own) > 1:
        listed = ", ".join(f"{each.name} {each.discount:g}" for each in policies)
        raise EvaluationError(
            f"the policies were trained for different discounts ({listed}), whose values cannot be compared: give one "
            "(discount=, on the command line --discount)"
        )
    discount = own[0] if given is None else given
    if discount == 1 and not data.terminals.any():
        raise EvaluationError(
            f"no episode of {data.name!r} truly ends, so that undiscounted returns are infinite: give a discount "
            "below 1"
        )
    return discount


def _held_out(data: Dataset, fqe: FQE) -> NDArray[np.bool_]:
    """[E] the episodes that are not fitted; none where there is one, or where none are asked for."""
    held = np.zeros(data.episodes, np.bool_)
    if fqe.held_out and data.episodes > 1:
        count = min(data.episodes - 1, max(1, round(fqe.held_out * data.episodes)))
        held[np.random.default_rng(fqe.seed).permutation(data.episodes)[:count]] = True
    return held


class _Acting(NamedTuple):
    """The actions of the policies of one training that are not lost."""

    following: Tensor
    """[P, N, A] at the next observations."""
    first: Tensor
    """[P, E, A] at the initial states."""
    positions: list[int]
    """[P] among the seeds."""
    lost: dict[int, str]


def _acting(policies: Policies, data: Dataset) -> _Acting:
    following = policies.at(data.next_observations, data.action_dim)
    first = policies.at(data.observations[data.episode_starts], data.action_dim)
    lost, positions = dict(policies.lost), []
    for position, seed in enumerate(policies.seeds):
        if seed not in lost and not (np.isfinite(following[position]).all() and np.isfinite(first[position]).all()):
            lost[seed] = "its actions are not finite"
        if seed not in lost:
            positions.append(position)
    return _Acting(torch.from_numpy(following[positions]), torch.from_numpy(first[positions]), positions, lost)


class _Estimate(NamedTuple):
    """The estimate of one policy."""

    values: NDArray[np.float64]
    """[K, E]"""
    td_error: float
    loss: float


_Judged: TypeAlias = "tuple[_Estimate, NDArray[np.float64]]"
"""An estimate, and the ends [2] of its interval."""


def _estimates(
    fqe: FQE,
    data: Dataset,
    held: NDArray[np.bool_],
    following: Tensor,
    first: Tensor,
    discount: float,
    device: torch.device,
    progress: bool,
) -> list[_Estimate]:
    """Fit all policies, given their actions [P, N, A] at the next observations and [P, E, A] at the initial states."""
    rows = torch.from_numpy(np.repeat(held, data.episode_lengths()))
    kept = data.subset(episodes=~held) if held.any() else data
    with stoppable(saving=True), at_work(None):
        fitted: Fitted = fit(fqe, kept, following[:, ~rows], discount, device=device, progress=progress)
    values = fitted.values(torch.tensor(data.observations[data.episode_starts]), first).double().numpy()
    loss = fitted.error(kept, following[:, ~rows]).tolist()
    td_error = [math.nan] * len(values)
    if held.any():
        td_error = fitted.error(data.subset(episodes=held), following[:, rows]).tolist()
    return [_Estimate(*parts) for parts in zip(values, td_error, loss, strict=True)]


def _result(
    policies: Policies,
    acting: _Acting,
    estimates: Sequence[_Judged],
    data: Dataset,
    held: NDArray[np.bool_],
    discount: float,
    fqe: FQE,
) -> OfflineEvaluation:
    values = np.full((len(policies.seeds), fqe.critics, data.episodes), np.nan)
    td_error, loss, low, high = (np.full(len(policies.seeds), np.nan) for _ in range(4))
    lost = dict(acting.lost)
    for position, (estimate, ends) in zip(acting.positions, estimates, strict=True):
        values[position], td_error[position], loss[position] = estimate
        low[position], high[position] = ends
        if not np.isfinite(estimate.values).all():
            lost[policies.seeds[position]] = "its fit diverged; a smaller learning_rate or discount may help"
            values[position] = td_error[position] = loss[position] = np.nan
    value = values.mean((1, 2))
    return OfflineEvaluation(
        name=policies.name,
        seeds=policies.seeds,
        value=value,
        low=low,
        high=high,
        td_error=td_error,
        loss=loss,
        values=values,
        discount=discount,
        data=data.name,
        fingerprint=data.fingerprint,
        held_out=int(held.sum()),
        fqe=fqe,
        lost=lost,
        notes=tuple(_notes(value, data, held, discount, fqe)),
    )


def intervals(values: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """Ends [P, 2] of the 95 % percentile bootstrap intervals of the means of [P, K, E].

    Critics K and initial states E are drawn anew, alike for all P policies. NaN where there is one initial state, which
    cannot say how states vary, and where a value is not finite.
    """
    policies, critics, states = values.shape
    if states < 2 or not policies:
        return np.full((policies, 2), math.nan)
    draw = np.random.default_rng(seed)
    of_critics = draw.multinomial(critics, np.full(critics, 1 / critics), size=RESAMPLES) / critics
    chance, means = np.full(states, 1 / states), np.empty((RESAMPLES, policies))
    for number, weights in enumerate(of_critics):
        means[number] = np.tensordot(values, weights, axes=([1], [0])) @ draw.multinomial(states, chance) / states
    return np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0).T


def _notes(
    value: NDArray[np.float64], data: Dataset, held: NDArray[np.bool_], discount: float, fqe: FQE
) -> Iterator[str]:
    if data.pieces:
        yield f"{data.pieces} of the {data.episodes} episodes are pieces of recordings, so initial states are theirs"
    if not held.any():
        yield "no episode is held out, so nothing says whether the critics fit other data" + (
            ": the data has one" if data.episodes == 1 else ""
        )
    travelled = 1 - math.exp(-fqe.target_rate * fqe.steps * (1 - discount))
    if discount < 1 and travelled < TRAVELLED:
        yield (
            f"{fqe.steps:,} steps are few for a discount of {discount:g}: about {travelled:.0%} of a far reward's "
            "worth has reached the initial states; more steps, or a greater target_rate, bring the rest"
        )
    if discount < 1:
        ends = (0.0,) if data.terminals.any() else ()
        lowest, highest = (float(pick([*ends, pick(data.rewards)])) / (1 - discount) for pick in (np.min, np.max))
        beyond = [f"{number:.4g}" for number in value if not np.isnan(number) and not lowest <= number <= highest]
        if beyond:
            yield (
                f"{', '.join(beyond)} lies outside of [{lowest:.4g}, {highest:.4g}], what the data's rewards could "
                "give at all: the fit has diverged, or extrapolates"
            )


__all__ = ["LEVEL", "RESAMPLES", "OfflineEvaluation", "evaluate_offline", "intervals"]
