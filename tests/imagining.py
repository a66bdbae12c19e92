"""ILQ with models that are not trained or in no time, and what a view says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adaptive_constraints import ILQ, Adapter, Dataset, Facts, Preparation, Prepared, Spec
from adaptive_constraints.core.preparation import generator
from adaptive_constraints.data import Preprocessor
from adaptive_constraints.networks import init_dynamics, init_noise_network
from adaptive_constraints.pretraining.preparation import BoundPreparation

SMALL: dict[str, Any] = {"model_hidden": 16, "model_members": 4, "model_elites": 3, "behavior_hidden": 16, "samples": 4}
TINY: dict[str, Any] = {
    "model_hidden": 8,
    "model_members": 3,
    "model_elites": 2,
    "model_epochs": 1,
    "behavior_steps": 3,
    "behavior_hidden": 8,
    "termination_steps": 3,
}


@dataclass(frozen=True)
class Untrained(ILQ):
    """ILQ whose models are as they were initialised, but larger, so that what they say varies."""

    name: str = "ilq"
    rule: str = "none"

    def prepare(self, preparation):
        if self.off:
            return None
        spec, models = preparation.spec, []
        for seed in preparation.seeds:
            random = generator(seed, "models")
            dynamics = init_dynamics(*spec, random, self.model_members, self.model_hidden)
            dynamics |= {"input_mean": torch.randn(sum(spec), generator=random), "input_std": torch.full((5,), 2.0)}
            dynamics |= {"holdout_error": torch.arange(1.0, 1.0 + self.model_members)}
            behavior = init_noise_network(*spec, random, self.behavior_hidden)
            models.append(
                {f"dynamics.{name}": 1.3 * tensor for name, tensor in dynamics.items()}
                | {f"behavior.{name}": tensor for name, tensor in behavior.items()}
                | {"delta": torch.tensor(self.delta)}
                | {"observation_mean": torch.zeros(spec.observation_dim)}
                | {"observation_std": torch.ones(spec.observation_dim)}
            )
        stacked = {name: torch.stack([model[name] for model in models]) for name in models[0]}
        return Prepared(models=stacked, choices={"termination": self.rule})


@dataclass(frozen=True)
class Queries(Adapter):
    """Reads Q at two made-up actions."""

    def query_action(self, v):
        return [v.a / 2, -v.a]


def ask(engine, answer):
    """What ``answer(view)`` says at the engine's last step; a tensor [S, ...] or several."""
    answers = engine.ask("test", lambda v: {str(i): t for i, t in enumerate(_several(answer(v)))})
    return next(iter(answers.values())) if len(answers) == 1 else tuple(answers.values())


def _several(answer):
    return (answer,) if isinstance(answer, Tensor) else tuple(answer)


def preparation(data: Dataset, seeds=(0,), owns_behavior=False, **settings) -> Preparation:
    facts = Facts(constrained="actor", seams=frozenset(), tradeoff=None, owns_behavior=owns_behavior)
    spec = Spec(data.observation_dim, data.action_dim)
    return BoundPreparation(data, Preprocessor.fit(data, **settings), facts, spec, tuple(seeds), discount=0.99)
