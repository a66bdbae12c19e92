"""ILQ on TD3+BC and on soft actor-critic: its target off the data, row by row where that is clearest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from adaptive_constraints import ILQ, Dataset
from adaptive_constraints.engine.engine import Engine

from ..helpers import resolved_of
from .common import draw, network, one, update
from .cql import PlainCQL
from .td3bc import PlainTD3BC


class PlainTargets:
    """The paper's target from separate networks."""

    def __init__(self, adapter: ILQ, models: Mapping[str, Tensor], seed: int) -> None:
        self.ilq, self.seed, self.models = adapter, seed, models
        members = [one(self.part("dynamics."), member) for member in range(adapter.model_members)]
        self.members = [network(member, nn.SiLU) for member in members]
        self.trunk = network(self.part("behavior."), nn.Mish)
        self.time = network(self.part("behavior.time_"), nn.Mish)
        self.shares = 0.0, 0.0
        """Of limited targets and of imagined ends, at the last step."""

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The linear maps whose names begin so."""
        kinds = tuple(f"{prefix}{kind}" for kind in ("weight", "bias"))
        return {name.removeprefix(prefix): t for name, t in self.models.items() if name.startswith(kinds)}

    def draw(self, kind: str, site: str, step: int, *shape: int) -> Tensor:
        return draw(kind, f"ilq/{site}", shape, self.seed, step, torch.float32)

    def __call__(
        self,
        s: Tensor,
        a: Tensor,
        step: int,
        bootstrap: Callable[[Tensor, str], Tensor],
        critic_targets: Iterable[nn.Module],
    ) -> Tensor:
        after, reward = self.imagine(s, a, step)
        ended = ~((after[:, 0] > 0.7) & (after[:, 1].abs() < 0.2) & (after.abs() < 100).all(1))
        y_img = reward + 0.99 * (1 - ended.float()) * bootstrap(after, "ilq/next")
        candidates = self.behavior(s, step)
        y_lmt = torch.min(
            *(torch.stack([q(s, candidate) for candidate in candidates]).max(0).values for q in critic_targets)
        )
        self.shares = float((y_lmt < y_img).float().mean()), float(ended.float().mean())
        return torch.min(y_img, y_lmt) + self.ilq.delta

    @torch.no_grad()
    def imagine(self, s: Tensor, a: Tensor, step: int) -> tuple[Tensor, Tensor]:
        d = s.shape[1]
        x = (torch.cat([s, a], 1) - self.models["dynamics.input_mean"]) / self.models["dynamics.input_std"]
        which = self.draw("uniform", "member", step, len(s))
        normal = self.draw("normal", "transition", step, len(s), d + 1)
        high, low = (self.models[f"dynamics.{end}_log_variance"] for end in ("largest", "smallest"))
        predicted = []
        for member in self.members:
            mean, raw = member(x).split(d + 1, 1)
            raw = high - torch.log(1 + torch.exp(high - raw))
            predicted.append((mean, torch.exp(0.5 * (low + torch.log(1 + torch.exp(raw - low))))))
        after, reward = [], []
        for row in range(len(s)):
            mean, std = predicted[int(float(which[row]) * self.ilq.model_elites)]
            y = mean[row] + std[row] * normal[row]
            after.append(s[row] + y[:d])
            reward.append(y[d] - self.ilq.penalty * max(float(std[row].norm()) for _, std in predicted))
        return torch.stack(after), torch.stack(reward)

    def behavior(self, s: Tensor, step: int) -> list[Tensor]:
        """The reverse chain of Diffusion-QL's model, sample by sample."""
        dims, steps = self.models["behavior.bias3"].shape[0], 5
        t = torch.arange(1, steps + 1, dtype=torch.float64)
        alphas = torch.exp(-0.1 / steps - 0.5 * (10 - 0.1) * (2 * t - 1) / steps**2)
        bars = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(alphas, 0)]).float()
        starts = self.draw("normal", "behavior/start", step, self.ilq.samples, len(s), dims)
        noises = self.draw("normal", "behavior/chain", step, self.ilq.samples, steps - 1, len(s), dims)
        frequencies = torch.exp(-math.log(10000) * torch.arange(8) / 7)
        actions = []
        for x, extra in zip(starts, noises, strict=True):
            for now in range(steps, 0, -1):
                angle = (now - 1) * frequencies
                embedding = self.time(torch.cat([angle.sin(), angle.cos()])).expand(len(s), -1)
                bar, before, alpha = bars[now], bars[now - 1], alphas[now - 1].float()
                eps = self.trunk(x, embedding, s)
                x0 = ((x - (1 - bar).sqrt() * eps) / bar.sqrt()).clamp(-1, 1)
                x = (1 - alpha) * before.sqrt() / (1 - bar) * x0 + (1 - before) * alpha.sqrt() / (1 - bar) * x
                if now > 1:
                    x = x + ((1 - alpha) * (1 - before) / (1 - bar)).sqrt() * extra[steps - now]
            actions.append(x.clamp(-1, 1))
        return actions


def targets_of(engine: Engine, seed: int) -> PlainTargets:
    """From the models that an engine with ILQ alone has."""
    (adapter,) = resolved_of(engine).adapters
    assert isinstance(adapter, ILQ)
    return PlainTargets(adapter, one(engine.frozen["ilq"]), seed)


class ILQOnTD3BC(PlainTD3BC):
    """TD3+BC, with ILQ's critic loss in place of its own."""

    def __init__(self, engine: Engine, data: Dataset) -> None:
        super().__init__(engine, data)
        self.ilq = targets_of(engine, self.seed)

    def critic_step(self, s: Tensor, a: Tensor, r: Tensor, s2: Tensor, d: Tensor) -> None:
        eta = self.ilq.ilq.eta
        with torch.no_grad():
            y_in = r + 0.99 * (1 - d) * self.bootstrap(s2)
            a_oos = self.noisy(self.policy, s, "ilq/policy")
            y_ood = self.ilq(s, a_oos, self.now, self.bootstrap, self.critic_targets)
        for critic, optimizer in zip(self.critics, self.critic_optimizers, strict=True):
            update(optimizer, eta * mse_loss(critic(s, a), y_in) + (1 - eta) * mse_loss(critic(s, a_oos), y_ood))


class ILQOnSAC(PlainCQL):
    """The published agent: soft actor-critic with ILQ's critic loss."""

    def __init__(self, engine: Engine, data: Dataset) -> None:
        super().__init__(engine, data)
        self.ilq = targets_of(engine, self.seed)

    def critic_losses(self, s: Tensor, a: Tensor, r: Tensor, s2: Tensor, d: Tensor) -> list[Tensor]:
        eta = self.ilq.ilq.eta
        with torch.no_grad():
            y_in = r + 0.99 * (1 - d) * self.bootstrap(s2)
            a_oos, _ = self.policy(s, self.draw("normal", "ilq/policy", *a.shape))
            y_ood = self.ilq(s, a_oos, self.now, self.bootstrap, self.targets)
        return [eta * mse_loss(q(s, a), y_in) + (1 - eta) * mse_loss(q(s, a_oos), y_ood) for q in self.critics]
