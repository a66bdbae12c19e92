"""Models trained on the data before step 1 and then frozen: dynamics, behaviour, termination.

Each seed trains its own, all of them at once on the learners' engine; the cache of `Preparation.trained` keeps them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from adaptive_constraints.adapters.termination import termination_logit
from adaptive_constraints.core.preparation import ModelFit, Preparation, Pretraining, generator
from adaptive_constraints.core.types import Params, Stage, Update
from adaptive_constraints.core.view import View
from adaptive_constraints.errors import DatasetError, TrainingError
from adaptive_constraints.networks import (
    VariancePreserving,
    dynamics_loss,
    init_dynamics,
    init_mlp,
    init_noise_network,
    noise_error,
    predict_transition,
)

BATCH_SIZE = 256
LEARNING_RATE = 3e-4
DYNAMICS_LEARNING_RATE = 1e-3
LARGEST_HOLDOUT = 1000
"""Rows kept back to tell when a member of the ensemble no longer improves; at most one in five of all."""


# -- dynamics -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DynamicsFit:
    """Training of the dynamics ensemble of MOPO (arXiv 2005.13239)."""

    members: int = 7
    hidden: int = 200
    epochs: int = 40
    """Largest number of passes over the data."""
    patience: int = 5
    """Training ends after more epochs than this in which no member improved."""

    def run(self, preparation: Preparation, name: str, shared: bool = False) -> Params:
        """Members [S, E, ...] in the order of their error on held-out rows, each as it stood when that was least.

        Beside the networks' parameters: ``input_mean`` and ``input_std`` [S, D + A] that standardise inputs, and the
        members' mean squared error ``holdout_error`` [S, E].
        """
        rows = Transitions.of(preparation)
        per_epoch = math.ceil(len(rows.target) / BATCH_SIZE)

        def train(seeds: Sequence[int], pretraining: Pretraining) -> Params:
            fit = self.start_fit(preparation, name, rows, seeds, self.epochs * per_epoch)
            best = Best(fit.params["dynamics"], len(seeds), self.members)
            first = pretraining.resume(fit, best.state()) // per_epoch
            for epoch in range(first, self.epochs):
                pretraining.run(fit, (epoch + 1) * per_epoch, best.state())
                error = fit.ask(name, lambda v: {"error": rows.holdout_error(v.p["dynamics"])})["error"]
                if not best.update(fit.params["dynamics"], error, self.patience):
                    break
            unlearned = [seed for seed, least in zip(seeds, best.error, strict=True) if not least.isfinite().all()]
            if unlearned:
                raise TrainingError(f"{name} of seeds {unlearned} has no finite error; normalise the observations")
            inputs = {"input_mean": rows.mean, "input_std": rows.std}
            return best.ordered() | {key: t.expand(len(seeds), -1).clone() for key, t in inputs.items()}

        return preparation.trained(name, asdict(self), train, steps=self.epochs * per_epoch, shared=shared)

    def start_fit(
        self, preparation: Preparation, name: str, rows: Transitions, seeds: Sequence[int], steps: int
    ) -> ModelFit:
        """Minibatches are drawn from each member's own bootstrap sample, with replacement.

        (MOPO's code walks through the sample in a new order every epoch.)
        """
        count, spec = len(rows.target), preparation.spec
        samples = [torch.randint(count, (count, self.members), generator=generator(s, f"{name}/rows")) for s in seeds]

        def init(random: torch.Generator) -> dict[str, Params]:
            return {"dynamics": init_dynamics(*spec, random, self.members, self.hidden)}

        def loss(p: Params, v: View) -> Tensor:
            drawn = v.batch["row"].mT.long()
            return dynamics_loss(p, rows.inputs[drawn], rows.target[drawn])

        return preparation.model(
            name,
            init,
            (Stage("dynamics", (Update("dynamics", loss, DYNAMICS_LEARNING_RATE),)),),
            steps=steps,
            batch_size=BATCH_SIZE,
            table={"position": torch.arange(count)},
            seed_columns={"row": torch.stack(samples).int()},
            seeds=seeds,
        )


@dataclass(frozen=True)
class Transitions:
    """Transitions to learn from and rows held out, the same for all seeds."""

    inputs: Tensor
    """(observation, action), standardised; [N, D + A]"""
    target: Tensor
    """(change of the observation, reward); [N, D + 1]"""
    held_inputs: Tensor
    held_target: Tensor
    mean: Tensor
    std: Tensor

    @staticmethod
    def of(preparation: Preparation) -> Transitions:
        """Split the data; a terminal row whose next observation only stands in for the true one is left out."""
        table = {name: column.to(preparation.device) for name, column in preparation.table.items()}
        change = table["next_observation"] - table["observation"]
        real = (table["terminal"] == 0) | (change != 0).any(-1)
        inputs = torch.cat([table["observation"], table["action"]], -1)[real]
        target = torch.cat([change, table["reward"][:, None]], -1)[real]
        held = min(max(1, len(target) // 5), LARGEST_HOLDOUT)
        if len(target) <= held:
            raise DatasetError(f"{preparation.data.name!r} has too few transitions to learn dynamics from")
        order = torch.randperm(len(target), generator=generator(0, "holdout")).to(preparation.device)
        kept, kept_back = order[held:], order[:held]
        mean, std = inputs[kept].mean(0), inputs[kept].std(0, correction=0)
        std = torch.where(std < 1e-12, torch.ones_like(std), std)
        standard = (inputs - mean) / std
        return Transitions(standard[kept], target[kept], standard[kept_back], target[kept_back], mean, std)

    def holdout_error(self, p: Params) -> Tensor:
        """Each member's mean squared error on the rows held out; [E]."""
        return (predict_transition(p, self.held_inputs).mean - self.held_target).square().mean((-2, -1))


class Best:
    """Each seed's members as they stood at their least error, while that seed still trains."""

    def __init__(self, params: Params, seeds: int, members: int) -> None:
        device = next(iter(params.values())).device
        self._params = {name: tensor.clone() for name, tensor in params.items()}
        self._stale = torch.zeros(seeds, dtype=torch.int64, device=device)
        self._training = torch.ones(seeds, dtype=torch.bool, device=device)
        self.error = torch.full((seeds, members), math.inf, device=device)
        """[S, E]"""

    def state(self) -> dict[str, Tensor]:
        """The live tensors, for an interrupted training to go on with."""
        return {"error": self.error, "stale": self._stale, "training": self._training} | self._params

    def update(self, params: Params, error: Tensor, patience: int) -> bool:
        """Keep what improved by more than 1 % of its error [S, E]; False once no seed trains any more."""
        improved = (error < 0.99 * self.error) & self._training[:, None]
        self.error.copy_(torch.where(improved, error, self.error))
        for name, tensor in params.items():
            # The bounds of the log-variance belong to all members and are kept as they stood last.
            take = improved if self._of_members(name) else self._training[:, None]
            take = take.view(*take.shape, *[1] * (tensor.dim() - take.dim()))
            self._params[name].copy_(torch.where(take, tensor, self._params[name]))
        self._stale.copy_(torch.where(improved.any(1), 0, self._stale + 1))
        self._training &= self._stale <= patience
        return bool(self._training.any())

    def ordered(self) -> Params:
        """The members of each seed, least error first."""
        error, order = self.error.sort(dim=1, stable=True)
        seed = torch.arange(len(order), device=order.device)[:, None]
        params = {name: t[seed, order] if self._of_members(name) else t for name, t in self._params.items()}
        return params | {"holdout_error": error}

    @staticmethod
    def _of_members(name: str) -> bool:
        return name.startswith(("weight", "bias"))


# -- behaviour ----------------------------------------------------------------------------------------------------


def fit_behavior(
    preparation: Preparation, name: str, schedule: VariancePreserving, hidden: int, steps: int, shared: bool = False
) -> Params:
    """A diffusion model of the data's actions given observations, by the mean squared error of the noise."""
    spec = preparation.spec

    def init(random: torch.Generator) -> dict[str, Params]:
        return {"behavior": init_noise_network(*spec, random, hidden)}

    def loss(p: Params, v: View) -> Tensor:
        step = schedule.step_at(v.uniform("step", v.r.shape))
        return noise_error(p, schedule, v.a, v.s, step, v.normal("noise", v.a.shape)).mean()

    def train(seeds: Sequence[int], pretraining: Pretraining) -> Params:
        stages = (Stage("behavior", (Update("behavior", loss, LEARNING_RATE),)),)
        fit = preparation.model(name, init, stages, steps=steps, batch_size=BATCH_SIZE, seeds=seeds)
        pretraining.run(fit, steps)
        return _finite(name, fit.params["behavior"], seeds)

    settings = {"hidden": hidden, "steps": steps, "schedule": asdict(schedule)}
    return preparation.trained(name, settings, train, steps=steps, shared=shared)


# -- termination --------------------------------------------------------------------------------------------------


def fit_termination(preparation: Preparation, name: str, steps: int, shared: bool = False) -> Params:
    """A classifier of terminal rows by their next observation: two hidden layers of 256, logistic regression."""
    after = preparation.table["next_observation"]
    mean, std = after.mean(0), after.std(0, correction=0)
    inputs = {"input_mean": mean, "input_std": torch.where(std < 1e-12, torch.ones_like(std), std)}

    def init(random: torch.Generator) -> dict[str, Params]:
        return {"termination": init_mlp((preparation.spec.observation_dim, 256, 256, 1), random), "inputs": inputs}

    def loss(p: Params, v: View) -> Tensor:
        return binary_cross_entropy_with_logits(termination_logit(p | v.p["inputs"], v.s2), v.d)

    def train(seeds: Sequence[int], pretraining: Pretraining) -> Params:
        stages = (Stage("termination", (Update("termination", loss, LEARNING_RATE),)),)
        fit = preparation.model(name, init, stages, steps=steps, batch_size=BATCH_SIZE, seeds=seeds)
        pretraining.run(fit, steps)
        return _finite(name, fit.params["termination"], seeds) | fit.params["inputs"]

    return preparation.trained(name, {"steps": steps}, train, steps=steps, shared=shared)


# -- all three ----------------------------------------------------------------------------------------------------


def _finite(name: str, params: Params, seeds: Sequence[int]) -> Params:
    lost = [seed for i, seed in enumerate(seeds) if not all(t[i].isfinite().all() for t in params.values())]
    if lost:
        raise TrainingError(f"{name} of seeds {lost} is not finite; normalise the observations")
    return params
