"""Fitted Q evaluation of one policy by one critic (arXiv 1903.08738, a step per minibatch as in 2007.09055)."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import Adam

from .common import Scalar, take


class PlainFQE:
    """A critic, its moving average, and Adam."""

    def __init__(
        self, params: Mapping[str, Tensor], sizes: tuple[int, ...], rate: float, average: float, discount: float
    ) -> None:
        self.critic = Scalar(*sizes, norm="before").double()
        take(self.critic, params)
        self.target = copy.deepcopy(self.critic)
        self.adam = Adam(self.critic.parameters(), lr=rate)
        self.average, self.discount = average, discount

    def step(self, rows: Mapping[str, Tensor], policy_action: Tensor) -> None:
        """One minibatch: rows [B, ...] and the policy's actions [B, A] at the next observations."""
        with torch.no_grad():
            goes_on = rows["terminal"] == 0
            following = self.target(rows["next_observation"], policy_action)
            wanted = rows["reward"] + torch.where(goes_on, self.discount * following, 0.0)
        loss = ((self.critic(rows["observation"], rows["action"]) - wanted) ** 2).mean()
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.critic.parameters(), strict=True):
                slow.copy_((1 - self.average) * slow + self.average * fast)
