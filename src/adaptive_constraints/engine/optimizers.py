"""Adam over the stacked parameters of every group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptive_constraints.core.types import Params
from adaptive_constraints.engine.over_seeds import laid_out


@dataclass(frozen=True)
class AdamStep:
    """The settings of an Adam step and its count after the step, as numbers or as float64 tensors []."""

    learning_rate: float | Tensor
    step: float | Tensor
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    @property
    def correction1(self) -> float | Tensor:
        """1 - beta1^step."""
        return 1 - self.beta1**self.step

    @property
    def correction2(self) -> float | Tensor:
        """1 - beta2^step."""
        return 1 - self.beta2**self.step


class Optimizers:
    """One fused Adam per group; its state exists at once, to be saved, restored and captured."""

    def __init__(self, params: Mapping[str, Params], captured: bool = False, written_out: bool = False) -> None:
        """``captured``: learning rates are tensors on the device, which a recorded step reads when it is replayed.

        ``written_out``: steps are lists of elementwise operations, which a compiler fuses, not torch's own kernel.
        """
        self._params, self._written_out = params, written_out
        self._adam = {group: _adam(tensors, captured) for group, tensors in params.items()}
        self._rates: dict[str, float] = {}

    def __getitem__(self, group: str) -> torch.optim.Adam:
        """Torch's optimizer of a group."""
        return self._adam[group]

    def step(self, group: str, gradients: Params) -> None:
        """Step a group; every step of an optimizer goes through here, whatever computed its gradients."""
        if self._written_out:
            self._step(group, gradients)
            return
        for name, tensor in self._params[group].items():
            tensor.grad = laid_out(gradients[name].detach(), tensor)
        self._adam[group].step()

    @torch.no_grad()
    def _step(self, group: str, gradients: Params) -> None:
        """The step of `torch.optim.Adam`, operation by operation."""
        rate = self._adam[group].param_groups[0]["lr"]
        for name, tensor in self._params[group].items():
            state, g = self._adam[group].state[tensor], gradients[name].detach()
            first, second, count = state["exp_avg"], state["exp_avg_sq"], state["step"]
            count.add_(1)
            adam = AdamStep(rate, count.to(torch.float64))
            first.lerp_(g, 1 - adam.beta1)
            second.mul_(adam.beta2).addcmul_(g, g, value=1 - adam.beta2)
            size = torch.as_tensor(rate / adam.correction1).to(tensor.dtype)
            root = torch.as_tensor(adam.correction2**0.5).to(tensor.dtype)
            tensor.sub_(size * first / (second.sqrt() / root + adam.eps))

    def set_rate(self, group: str, rate: float) -> None:
        """Set the learning rate of the next step."""
        if self._rates.get(group) == rate:
            return
        self._rates[group] = rate
        options = self._adam[group].param_groups[0]
        if isinstance(options["lr"], Tensor):
            options["lr"].fill_(rate)
        else:
            options["lr"] = rate

    def moments(self, group: str) -> dict[str, Params]:
        """Adam's first and second moments by parameter name; the live tensors."""
        state, params = self._adam[group].state, self._params[group]
        return {
            "first": {name: state[tensor]["exp_avg"] for name, tensor in params.items()},
            "second": {name: state[tensor]["exp_avg_sq"] for name, tensor in params.items()},
        }

    def last_step(self, group: str) -> AdamStep:
        """The settings of a group's last step."""
        adam = self._adam[group]
        count: Tensor = next(iter(adam.state.values()))["step"]
        return AdamStep(adam.param_groups[0]["lr"], count.to(torch.float64))

    def entries(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the optimizers' state by "group/parameter/entry"; the live tensors."""
        for group, params in self._params.items():
            for name, tensor in params.items():
                for entry, value in self._adam[group].state[tensor].items():
                    yield f"{group}/{name}/{entry}", value


def _adam(params: Params, captured: bool) -> torch.optim.Adam:
    tensors = list(params.values())
    on_cuda = tensors[0].is_cuda
    rate = torch.zeros((), dtype=torch.float32 if on_cuda else torch.float64, device=tensors[0].device)
    optimizer = torch.optim.Adam(tensors, lr=rate if captured else 0.0, fused=True, capturable=captured and on_cuda)
    optimizer._warned_capturable_if_run_uncaptured = True  # steps before the first graph
    for tensor in params.values():
        optimizer.state[tensor] = {
            "step": torch.zeros((), dtype=torch.float32, device=tensor.device),
            "exp_avg": torch.zeros_like(tensor),
            "exp_avg_sq": torch.zeros_like(tensor),
        }
    return optimizer
