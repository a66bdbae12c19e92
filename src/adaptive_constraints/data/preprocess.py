"""The map between raw data and learner space: one object in training, evaluation and fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptive_constraints.data.checks.values import constant_dimensions
from adaptive_constraints.data.columns import chunks
from adaptive_constraints.data.dataset import DERIVED_COLUMNS, Dataset
from adaptive_constraints.errors import DatasetError

#: Added to the standard deviation when observations are normalised, as in TD3+BC.
STD_OFFSET = 1e-3


@dataclass(frozen=True, eq=False)
class Preprocessor:
    """Pure affine maps, one tensor operation each; leading batch dimensions are free.

    observation  z = (x - mean) / std
    action       u = (a - center) / half_range, so that [low, high] becomes [-1, 1]; then clipped to +-action_limit
    reward       r' = reward_scale * r + reward_shift

    Constants are float64 where the data is, so that it is centred before it becomes float32; learner space is float32.
    """

    observation_mean: Tensor  # [D]
    observation_std: Tensor  # [D]
    action_center: Tensor  # [A]
    action_half_range: Tensor  # [A]
    action_limit: Tensor  # [], infinite: no clipping
    reward_scale: Tensor  # []
    reward_shift: Tensor  # []

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        *,
        normalize_observations: bool = False,
        reward_scale: float | str = 1.0,
        reward_shift: float | str = 0.0,
        action_margin: float = 0.0,
    ) -> Preprocessor:
        """Read the constants off a data set.

        `normalize_observations` uses mean and std + 1e-3 of the observations; off, it is the exact identity. A
        dimension that never changes in the data is centred and not scaled: evaluation may change it, by an amount that
        no standard deviation is known for.
        `reward_scale` "return_range" is 1000 / (largest - smallest episode return); "dataset_std" is 1 / the standard
        deviation of the rewards.
        `reward_shift` "dataset_mean" makes the mean preprocessed reward 0; a number is added after scaling.
        `action_margin` m > 0 clips data actions to +-(1 - m), away from where a tanh policy has infinite density.
        Raises `DatasetError` for an unknown rule, one that this data cannot answer, and infinite action bounds.
        """
        if not 0.0 <= action_margin < 1.0:
            raise DatasetError(f"action_margin must lie in [0, 1), but is {action_margin}")
        if not (np.isfinite(dataset.action_low).all() and np.isfinite(dataset.action_high).all()):
            raise DatasetError(
                f"the action bounds of {dataset.name!r} are infinite: give action_low and action_high, which "
                "load_dataset and, on the command line, --action-low and --action-high take"
            )
        mean, std = _float32([0.0] * dataset.observation_dim), _float32([1.0] * dataset.observation_dim)
        if normalize_observations:
            mean, std = (_like(dataset.observations, values) for values in _scaling(dataset.observations))
        low, high = _float32(dataset.action_low).double(), _float32(dataset.action_high).double()
        scale = _reward_scale(dataset, reward_scale)
        return cls(
            observation_mean=mean,
            observation_std=std,
            action_center=((high + low) / 2).float(),
            action_half_range=((high - low) / 2).float(),
            action_limit=_float32(1.0 - action_margin if action_margin else math.inf),
            reward_scale=_like(dataset.rewards, scale),
            reward_shift=_like(dataset.rewards, _reward_shift(dataset, reward_shift, scale)),
        )

    @property
    def observation_type(self) -> type[np.floating[Any]]:
        """How raw observations must be given so that nothing of them is lost: float32, or float64."""
        return np.float64 if self.observation_mean.dtype == torch.float64 else np.float32

    def observations(self, raw: Tensor) -> Tensor:
        """[..., D] raw -> learner space."""
        return _narrow((raw - self.observation_mean) / self.observation_std, self.observation_mean)

    def raw_observations(self, observations: Tensor) -> Tensor:
        """[..., D] learner space -> raw."""
        return observations * self.observation_std + self.observation_mean

    def actions(self, raw: Tensor) -> Tensor:
        """[..., A] raw -> learner space, clipped if a margin was asked for."""
        scaled = (raw - self.action_center) / self.action_half_range
        return torch.clamp(scaled, -self.action_limit, self.action_limit)

    def raw_actions(self, actions: Tensor) -> Tensor:
        """[..., A] learner space -> raw; what an environment takes."""
        return actions * self.action_half_range + self.action_center

    def rewards(self, raw: Tensor) -> Tensor:
        """[...] raw -> learner space."""
        return _narrow(self.reward_scale * raw + self.reward_shift, self.reward_scale)

    def raw_rewards(self, rewards: Tensor) -> Tensor:
        """[...] learner space -> raw."""
        return (rewards - self.reward_shift) / self.reward_scale

    def table(self, dataset: Dataset, columns: Sequence[str] = ()) -> dict[str, Tensor]:
        """The transitions in learner space, as float32 on this object's device.

        observation and next_observation [N, D], action [N, A], reward [N], terminal [N] (1 = true end, 0 = bootstrap),
        and the ``columns`` of `Dataset.column`: actions in learner space, all others as they are.
        """
        device = self.observation_mean.device
        shapes = _shapes(dataset, columns)
        table = {name: torch.empty(len(dataset), *shape, device=device) for name, shape in shapes.items()}
        self._fill(table, dataset, columns)
        return table

    def packed_table(
        self, dataset: Dataset, columns: Sequence[str] = (), more: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The same, and ``more`` columns [N, ...], as parts of one tensor [N, W], which minibatches are drawn from."""
        more = more or {}
        shapes = _shapes(dataset, columns) | {name: tuple(column.shape[1:]) for name, column in more.items()}
        widths = [math.prod(shape) for shape in shapes.values()]
        packed = torch.empty(len(dataset), sum(widths), device=self.observation_mean.device)
        parts = zip(torch.split(packed, widths, 1), shapes.items(), strict=True)
        table = {
            name: part.view(len(dataset), *shape) if len(shape) < 2 else part.unflatten(1, shape)  # type: ignore[no-untyped-call]
            for part, (name, shape) in parts
        }
        self._fill(table, dataset, columns)
        for name, column in more.items():
            table[name].copy_(column)
        return table

    def _fill(self, table: Mapping[str, Tensor], dataset: Dataset, columns: Sequence[str]) -> None:
        """Write the transitions and ``columns`` into a table, some rows at once, so that they are nowhere else."""
        maps = {
            "observation": (dataset.observations, self.observations),
            "action": (dataset.actions, self.actions),
            "reward": (dataset.rewards, self.rewards),
            "next_observation": (dataset.next_observations, self.observations),
            "terminal": (dataset.terminals, _as_it_is),
        }
        maps |= {name: (dataset.column(name), self.actions if name == "next_action" else _as_it_is) for name in columns}
        for name, (array, mapped) in maps.items():
            for part in chunks(len(dataset)):
                table[name][part] = mapped(torch.tensor(array[part], device=table[name].device))

    def to(self, device: torch.device | str) -> Preprocessor:
        """The same maps on another device."""
        return Preprocessor(**{key: value.to(device) for key, value in self.state().items()})

    def state(self) -> dict[str, Tensor]:
        """Every constant by name, for a checkpoint."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Preprocessor:
        """The inverse of `state`. Raises `DatasetError` if the names differ."""
        expected = {entry.name for entry in fields(cls)}
        if set(state) != expected:
            raise DatasetError(f"a preprocessor's state needs {sorted(expected)}, but holds {sorted(state)}")
        return cls(**state)


def _float32(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def _like(array: NDArray[Any], values: object) -> Tensor:
    """Constants as wide as the data that they are of."""
    return torch.tensor(values, dtype=torch.float64 if array.dtype == np.float64 else torch.float32)


def _narrow(values: Tensor, constant: Tensor) -> Tensor:
    """The values as float32 if they were computed with constants in float64, otherwise as they are."""
    return values.float() if constant.dtype == torch.float64 else values


def _as_it_is(values: Tensor) -> Tensor:
    return values


def _shapes(dataset: Dataset, columns: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Shape of one row of every column of a table."""
    state, action = (dataset.observation_dim,), (dataset.action_dim,)
    shapes = {"observation": state, "action": action, "reward": (), "next_observation": state, "terminal": ()}
    return shapes | {name: _shape_of(dataset, name) for name in columns}


def _shape_of(dataset: Dataset, name: str) -> tuple[int, ...]:
    if name in DERIVED_COLUMNS:
        return (dataset.action_dim,) if name == "next_action" else ()
    return dataset.column(name).shape[1:]


def _scaling(observations: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation + 1e-3 of each dimension of [N, D]; 1 for one that never changes."""
    mean = _sums(observations, _as_float64) / len(observations)
    std = np.sqrt(_sums(observations, lambda part: np.square(part - mean)) / len(observations)) + STD_OFFSET
    std[constant_dimensions(observations)] = 1.0
    return mean, std


def _sums(array: NDArray[Any], term: Callable[[NDArray[Any]], NDArray[np.float64]]) -> NDArray[np.float64]:
    """[D] sums over rows of a ``term`` in float64, row after row, as numpy adds them, without a copy of the array."""
    if array.shape[1] == 1:  # numpy adds a single column pairwise
        return term(array).sum(0)
    total = np.zeros((1, array.shape[1]))
    for part in chunks(len(array)):
        total = np.concatenate([total, term(array[part])]).sum(0, keepdims=True)
    return total[0]


def _as_float64(array: NDArray[Any]) -> NDArray[np.float64]:
    return array.astype(np.float64)


def _reward_scale(dataset: Dataset, rule: float | str) -> float:
    if rule == "return_range":
        returns = dataset.episode_returns()
        spread = float(returns.max() - returns.min())
        if spread <= 0.0:
            raise DatasetError(
                f"reward_scale='return_range' needs episodes of different return, but every episode of "
                f"{dataset.name!r} returns {returns[0]:g}; pass a number"
            )
        return 1000.0 / spread
    if rule == "dataset_std":
        if dataset.rewards.min() == dataset.rewards.max():
            raise DatasetError(
                f"reward_scale='dataset_std' needs rewards that differ, but every reward of {dataset.name!r} is "
                f"{dataset.rewards[0]:g}; pass a number"
            )
        return 1.0 / float(dataset.rewards.std(dtype="float64"))
    if isinstance(rule, str):
        raise DatasetError(f"unknown reward_scale {rule!r}; use a number, 'return_range' or 'dataset_std'")
    if not (math.isfinite(rule) and rule != 0.0):
        raise DatasetError(f"reward_scale must be finite and not 0, but is {rule}")
    return float(rule)


def _reward_shift(dataset: Dataset, rule: float | str, scale: float) -> float:
    if rule == "dataset_mean":
        return -scale * float(dataset.rewards.mean(dtype="float64"))
    if isinstance(rule, str):
        raise DatasetError(f"unknown reward_shift {rule!r}; use a number or 'dataset_mean'")
    return float(rule)
