"""The map between raw data and learner space: one object in training, evaluation and fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from adaptive_constraints.data.dataset import Dataset
from adaptive_constraints.errors import DatasetError

#: Added to the standard deviation when observations are normalised, as in TD3+BC.
STD_OFFSET = 1e-3


@dataclass(frozen=True, eq=False)
class Preprocessor:
    """Pure affine maps, one tensor operation each; leading batch dimensions are free.

    observation  z = (x - mean) / std
    action       u = (a - center) / half_range, so that [low, high] becomes [-1, 1]; then clipped to +-action_limit
    reward       r' = reward_scale * r + reward_shift
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

        `normalize_observations` uses mean and std + 1e-3 of the observations; off, it is the exact identity.
        `reward_scale` "return_range" is 1000 / (largest - smallest episode return); "dataset_std" is 1 / the standard
        deviation of the rewards.
        `reward_shift` "dataset_mean" makes the mean preprocessed reward 0; a number is added after scaling.
        `action_margin` m > 0 clips data actions to +-(1 - m), away from where a tanh policy has infinite density.
        Raises `DatasetError` for an unknown rule or one that this data cannot answer.
        """
        if not 0.0 <= action_margin < 1.0:
            raise DatasetError(f"action_margin must lie in [0, 1), but is {action_margin}")
        mean, std = _float32([0.0] * dataset.observation_dim), _float32([1.0] * dataset.observation_dim)
        if normalize_observations:
            mean = _float32(dataset.observations.mean(0, dtype="float64"))
            std = _float32(dataset.observations.std(0, dtype="float64") + STD_OFFSET)
        low, high = _float32(dataset.action_low).double(), _float32(dataset.action_high).double()
        scale = _reward_scale(dataset, reward_scale)
        return cls(
            observation_mean=mean,
            observation_std=std,
            action_center=((high + low) / 2).float(),
            action_half_range=((high - low) / 2).float(),
            action_limit=_float32(1.0 - action_margin if action_margin else math.inf),
            reward_scale=_float32(scale),
            reward_shift=_float32(_reward_shift(dataset, reward_shift, scale)),
        )

    def observations(self, raw: Tensor) -> Tensor:
        """[..., D] raw -> learner space."""
        return (raw - self.observation_mean) / self.observation_std

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
        return self.reward_scale * raw + self.reward_shift

    def raw_rewards(self, rewards: Tensor) -> Tensor:
        """[...] learner space -> raw."""
        return (rewards - self.reward_shift) / self.reward_scale

    def table(self, dataset: Dataset, columns: Sequence[str] = ()) -> dict[str, Tensor]:
        """The transitions in learner space, as float32 on this object's device.

        observation and next_observation [N, D], action [N, A], reward [N], terminal [N] (1 = true end, 0 = bootstrap),
        and the ``columns`` of `Dataset.column`: actions in learner space, all others as they are.
        """
        device = self.observation_mean.device
        raw = {key: torch.tensor(array, device=device) for key, array in dataset.arrays().items() if "/" not in key}
        return {
            "observation": self.observations(raw["observations"]),
            "action": self.actions(raw["actions"]),
            "reward": self.rewards(raw["rewards"]),
            "next_observation": self.observations(raw["next_observations"]),
            "terminal": raw["terminals"].float(),
            **{name: self._column(dataset, name) for name in columns},
        }

    def _column(self, dataset: Dataset, name: str) -> Tensor:
        column = torch.tensor(dataset.column(name), dtype=torch.float32, device=self.observation_mean.device)
        return self.actions(column) if name == "next_action" else column

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
