"""SPOT: supported policy optimization (arXiv 2202.06239).

The policy may do whatever the behaviour does with some density, however rarely, instead of staying close to each row's
action. A conditional variational autoencoder of the behaviour is trained before step 1, and the learner's constraint
becomes the negative evidence lower bound of log p(a|s) at the policy's action.

Certain (released code and settings): the model, its training, both estimates of the density, the weights in
``presets`` and the cooling. Chosen here: the default weight, the unit in which several draws are measured, and how a
published weight meets learners that scale another term; all three stand with the fields. The released learner is TD3
with dropout of 0.1 in the actor on Gym, and a slower actor with small initial outputs on AntMaze and Adroit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from torch import Tensor

from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.types import Facts, Params, Phase, Prepared, Spec, Stage, Update
from adaptive_constraints.core.view import View
from adaptive_constraints.networks.vae import decode_action, encode_action, init_action_vae, reconstruct
from adaptive_constraints.support.bounds import Above, AtLeast, Between

if TYPE_CHECKING:
    from adaptive_constraints.core.preparation import Preparation, Pretraining


@dataclass(frozen=True, kw_only=True)
class SPOT(Adapter):
    """Replace the learner's constraint by the negative log-density of its action under a model of the behaviour."""

    weight: Annotated[float, Above(0)] = 0.2
    """Published lambda: weight of the constraint against the normalised value. It holds at the learner's own trade-off,
    which is multiplied or divided out: TD3+BC minimises alpha (improvement + weight * constraint). Whatever moves the
    trade-off from there loosens or tightens the constraint. 0.2 is the median of the published Gym settings."""
    samples: Annotated[int, AtLeast(1)] = 1
    """Draws of the latent per action. 1: the evidence lower bound with its divergence in closed form (the released
    default). More: the importance-weighted bound (L in the paper), in the unit of the former; the released code leaves
    it in nats."""
    beta: Annotated[float, Above(0)] = 0.5
    """Weight of the divergence against the squared error, both means over dimensions. It implies that the decoder's
    variance is beta * A / (2 * latent), so that the constraint is beta / latent times the bound in nats."""
    latent: Annotated[int, AtLeast(1)] | None = None
    """Dimensions of the latent; None: twice those of the action."""
    hidden: Annotated[int, AtLeast(1)] = 750
    """Width of the two hidden layers of encoder and decoder."""
    learning_rate: Annotated[float, Above(0)] = 1e-3
    """Adam's learning rate of the model."""
    steps: Annotated[int, AtLeast(1)] = 100_000
    """Minibatches that the model is trained on before step 1."""
    batch_size: Annotated[int, AtLeast(1)] = 256
    """Rows per minibatch of the model's training."""
    online_end: Annotated[float, Between(0, 1)] = 0.2
    """Factor on the constraint at the end of its linear cooling online; 1: no cooling."""
    online_steps: Annotated[int, AtLeast(1)] = 1_000_000
    """Steps online after which a linear cooling would reach 0."""

    paper: ClassVar[str] = "arXiv 2202.06239"
    tested_on: ClassVar[frozenset[str]] = frozenset({"TD3BC"})
    replaces: ClassVar[frozenset[str]] = frozenset({"constraint"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gym": {},
        "halfcheetah-medium": {"weight": 0.05},
        "halfcheetah-medium-replay": {"weight": 0.05},
        "halfcheetah-medium-expert": {"weight": 1.0},
        "hopper-medium": {"weight": 0.1},
        "hopper-medium-replay": {"weight": 0.1},
        "hopper-medium-expert": {"weight": 0.2},
        "walker2d-medium": {"weight": 0.2},
        "walker2d-medium-replay": {"weight": 0.2},
        "walker2d-medium-expert": {"weight": 0.5},
        "antmaze": {"weight": 0.025},
        "antmaze-umaze": {"weight": 0.25},
        "antmaze-umaze-diverse": {"weight": 0.25},
        "antmaze-medium-play": {"weight": 0.05},
        "antmaze-medium-diverse": {"weight": 0.025},
        "antmaze-large-play": {"weight": 0.025},
        "antmaze-large-diverse": {"weight": 0.025},
        # Of CORL's runs from offline to online; the paper has none on Adroit.
        "adroit": {"weight": 1.0, "online_end": 0.5},
        "pen-cloned": {"weight": 0.25},
    }

    def check(self, facts: Facts) -> Sequence[str]:
        self.require(
            "constraint" in facts.seams,
            "the learner has no constraint on its policy's action that a density could replace: "
            "use one that asks 'constraint', or remove the adapter",
        )
        if not facts.normalizes_improvement:
            return ("its published weights are relative to a value divided by its mean size; here they need tuning",)
        return ()

    def answers(self, facts: Facts, phase: Phase) -> frozenset[str]:
        cools = phase == "online" and self.online_end < 1
        return frozenset({"constraint", "constraint_scale"} if cools else {"constraint"})

    # -- the model of the behaviour -------------------------------------------------------------------------------

    def preparations(self, facts: Facts) -> Sequence[str]:
        return (f"an autoencoder of the data's actions, {self.steps:,} minibatches",)

    def prepare(self, preparation: Preparation) -> Prepared:
        """The autoencoder's parameters, trained on the data's states and actions."""
        name, spec, latent = f"{self.name}.behavior", preparation.spec, self._latent(preparation.spec)
        kept = ("beta", "hidden", "learning_rate", "steps", "batch_size")
        settings = {"latent": latent} | {setting: getattr(self, setting) for setting in kept}

        def init(generator: torch.Generator) -> dict[str, Params]:
            return {"vae": init_action_vae(spec.observation_dim, spec.action_dim, latent, self.hidden, generator)}

        def loss(p: Params, v: View) -> Tensor:
            error, divergence = reconstruct(p, v.s, v.a, v.normal("latent", (len(v.a), latent)))
            return (error + self.beta * divergence).mean()

        def train(seeds: Sequence[int], pretraining: Pretraining) -> Params:
            stage = Stage("vae", (Update("vae", loss, self.learning_rate),))
            fit = preparation.model(name, init, (stage,), steps=self.steps, batch_size=self.batch_size, seeds=seeds)
            pretraining.run(fit, self.steps)
            return fit.params["vae"]

        return Prepared(models=preparation.trained(name, settings, train, steps=self.steps))

    def _latent(self, spec: Spec) -> int:
        return self.latent or 2 * spec.action_dim

    # -- the constraint -------------------------------------------------------------------------------------------

    def constraint(self, v: View, action: Tensor, default: Callable[[], Tensor]) -> Tensor:
        """weight * (negative log-density of the action), at the learner's own trade-off."""
        facts, p = v.services.facts, v.frozen[self.name]
        own = 1.0 if facts.tradeoff is None else facts.tradeoff
        weight = self.weight / own if facts.scales == "constraint" else self.weight * own
        noise = v.normal(f"{self.name}/latent", (self.samples, len(action), self._latent(v.spec)))
        return weight * (
            self.elbo(p, v.s, action, noise[0]) if self.samples == 1 else self.bound(p, v.s, action, noise)
        )

    def elbo(self, p: Params, observation: Tensor, action: Tensor, noise: Tensor) -> Tensor:
        """Squared error + beta * divergence [B]; affine in the negative evidence lower bound."""
        error, divergence = reconstruct(p, observation, action, noise)
        return error + self.beta * divergence

    def bound(self, p: Params, observation: Tensor, action: Tensor, noise: Tensor) -> Tensor:
        """-beta / latent * log mean_i p(a|s, z_i) p(z_i) / q(z_i|s, a) [B] over latents from ``noise`` [samples, B, L].

        Up to the constant of p(a|s, z), so that one draw is `elbo` on average.
        """
        posterior, latent = encode_action(p, observation, action), noise.shape[-1]
        error = decode_action(p, observation, posterior.sample(noise)) - action
        variance = self.beta * action.shape[-1] / (2 * latent)
        log_weights = posterior.log_ratio(noise).sum(-1) - error.square().sum(-1) / (2 * variance)
        return -self.beta / latent * (log_weights.logsumexp(0) - math.log(len(noise)))

    def constraint_scale(self, v: View) -> Tensor:
        """max(online_end, 1 - t / online_steps), t training steps into the online phase."""
        return (1 - v.phase_step.to(v.r.dtype) / self.online_steps).clamp(min=self.online_end)
