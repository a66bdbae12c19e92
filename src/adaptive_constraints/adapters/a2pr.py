"""A2PR: adaptive advantage-guided policy regularization (arXiv 2405.19909).

A conditional variational autoencoder is trained, beside the critics, on those actions of the data that are better than
average. Imitation then aims at whichever promises more, the action it decodes or the data's, and leaves alone the
states where neither is better than average.

Certain (released code): the filtered autoencoder and its settings, the choice by advantage, the row weights, and the
policy's own action as what is encoded. Inferred: latents drawn a priori, and a threshold other than 0. Different here:
V is the stack's shared value, the mean of the target critics (released: of the smaller of two backups); advantages are
read from the target critics (released: from the first current one); a tie goes to the data; and the decoded action is a
constant to the policy (released: gradient also flows back through the autoencoder). The released learner is deeper than
TD3+BC: three hidden layers in the actor, four in critics and V.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.types import AdapterStage, Facts, Params, Phase, Point, Spec, Stage, Update
from adaptive_constraints.core.view import View
from adaptive_constraints.networks.vae import decode_action, encode_action, init_action_vae, reconstruct
from adaptive_constraints.support.bounds import Above, AtLeast, Between

LARGEST_LATENT = 0.5
"""Latents drawn a priori are clipped to +-this, as in BCQ: near the mode, where the decoder was trained most."""


def _published(imitation_weight: float, reconstruction_weight: float) -> dict[str, float]:
    return {"imitation_weight": imitation_weight, "reconstruction_weight": reconstruction_weight}


@dataclass(frozen=True, kw_only=True)
class A2PR(Adapter):
    """Imitate an autoencoder's action where it has the greater advantage, and nothing where none is positive."""

    proposal: Literal["policy", "prior"] = "policy"
    """The latent that is decoded. policy: the policy's own action, encoded (the released code). prior: a latent drawn a
    priori."""
    threshold: float = 0.0
    """Advantage above which an action is worth imitating (epsilon_A), by autoencoder and policy alike; the released
    code has 0 for both."""
    value_expectile: Annotated[float, Between(0, 1, "()")] = 0.5
    """Expectile of the state value that advantages are relative to; 0.5 is the mean, as in the released code. Unused
    where the learner has a value of its own."""
    imitation_weight: Annotated[float, Above(0)] = 1.0
    """Factor on the imitation of the rows that are imitated (published as ``mask``); in TD3+BC a smaller one acts as a
    larger alpha. The presets belong to alpha = 2.5, those of halfcheetah to alpha = 40."""
    reconstruction_weight: Annotated[float, Above(0)] = 1.0
    """Factor on the squared error of the autoencoder's filtered rows (published as ``vae_weight``)."""
    divergence_weight: Annotated[float, Above(0)] = 0.5
    """Factor on the autoencoder's divergence, which all rows pay."""
    latent: Annotated[int, AtLeast(1)] | None = None
    """Dimensions of the latent; None: twice those of the action."""
    hidden: Annotated[int, AtLeast(1)] = 750
    """Width of the two hidden layers of encoder and decoder."""
    learning_rate: Annotated[float, Above(0)] = 1e-3
    """Adam's learning rate of the autoencoder."""

    paper: ClassVar[str] = "arXiv 2405.19909"
    tested_on: ClassVar[frozenset[str]] = frozenset({"TD3BC"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gym": {},
        # As in the notes on running the released code, some of which set a discount of 0.995.
        "hopper-random": _published(1.5, 1.5),
        "hopper-medium": _published(0.4, 1.0),
        "hopper-medium-replay": _published(0.5, 1.5),
        "hopper-medium-expert": _published(4.0, 1.0),
        "halfcheetah-medium": _published(1.0, 1.0),
        "halfcheetah-medium-replay": _published(0.8, 1.5),
        "halfcheetah-medium-expert": _published(15.0, 1.0),
        "walker2d-medium": _published(1.0, 1.5),
        "walker2d-medium-replay": _published(1.2, 1.5),
        "walker2d-medium-expert": _published(0.8, 1.0),
    }

    def check(self, facts: Facts) -> Sequence[str]:
        self.require(
            "behavior_action" in facts.seams,
            "the learner imitates no action, so there is none to replace: "
            "use one that asks 'behavior_action', or remove the adapter",
        )
        if facts.exponential_weights:
            return (
                "the learner weighs imitation by exp(advantage) already, and its critics are not trained at actions "
                "off the data, such as those decoded",
            )
        return ()

    def answers(self, facts: Facts, phase: Phase) -> frozenset[str]:
        weighs = {"sample_weight"} & facts.seams
        return frozenset({"behavior_action", "query_action"} | weighs)

    def expectile(self, facts: Facts) -> float:
        return self.value_expectile

    # -- the autoencoder of good actions --------------------------------------------------------------------------

    def init(self, spec: Spec, facts: Facts, generator: torch.Generator) -> dict[str, Params]:
        sizes = (spec.observation_dim, spec.action_dim, self._latent(spec), self.hidden)
        return {"vae": init_action_vae(*sizes, generator)}

    def stages(self, facts: Facts, phase: Phase) -> tuple[AdapterStage, ...]:
        update = Update(self.group("vae"), self.vae_loss, self.learning_rate)
        return (AdapterStage("critic", Stage(f"{self.name}.vae", (update,))),)

    def vae_loss(self, p: Params, v: View) -> Tensor:
        """Evidence lower bound whose squared error counts only where A(s, a) > threshold."""
        error, divergence = reconstruct(p, v.s, v.a, self._noise(v, "reconstruct"))
        good = (self.advantage(v, v.a) > self.threshold).to(error.dtype)
        v.log(f"{self.name}/good_rows", good.mean())
        return (self.reconstruction_weight * good * error + self.divergence_weight * divergence).mean()

    def decoded(self, v: View) -> Tensor:
        """The autoencoder's action [B, A]."""
        p = v.p[self.group("vae")]
        noise = self._noise(v, "decode")
        if self.proposal == "prior":
            return decode_action(p, v.s, noise.clamp(-LARGEST_LATENT, LARGEST_LATENT))
        return decode_action(p, v.s, encode_action(p, v.s, self.policy_action(v)).sample(noise))

    def policy_action(self, v: View) -> Tensor:
        """The policy's action [B, A]: its only one, or a draw."""
        p = v.p[v.services.facts.policy]
        policy = v.services.distribution(p, v.s)
        return policy.action if isinstance(policy, Point) else v.services.sample(p, v.s, f"{self.name}/policy")

    def _noise(self, v: View, site: str) -> Tensor:
        return v.normal(f"{self.name}/{site}", (len(v.a), self._latent(v.spec)))

    def _latent(self, spec: Spec) -> int:
        return self.latent or 2 * spec.action_dim

    # -- imitation by advantage -----------------------------------------------------------------------------------

    def q(self, v: View, action: Tensor) -> Tensor:
        """Q'(s, a) [B] of the target critics."""
        return v.services.aggregate(v.services.q(v.target["critic"], v.s, action))

    def advantage(self, v: View, action: Tensor) -> Tensor:
        """A(s, a) = Q'(s, a) - V(s) [B]."""
        return self.q(v, action) - v.value(v.s)

    def behavior_action(self, v: View, default: Callable[[], Tensor]) -> Tensor:
        """The decoded action where its advantage is the greater, else the data's (V cancels)."""
        data, decoded = default(), self.decoded(v)
        better = self.q(v, decoded) > self.q(v, data)
        return torch.where(better.unsqueeze(-1), decoded, data)

    def sample_weight(self, v: View) -> Tensor:
        """imitation_weight where the imitated action has an advantage above the threshold, else 0."""
        advantage = self.advantage(v, v.behavior_action())
        return self.imitation_weight * (advantage > self.threshold).to(advantage.dtype)

    def query_action(self, v: View) -> Sequence[Tensor]:
        """Q is read at the decoded actions."""
        return (self.decoded(v),)

    def diagnostics(self, v: View) -> Mapping[str, Tensor]:
        """Shares of rows that imitate something other than the data's action, and that imitate at all."""
        chosen = v.behavior_action()
        replaced = (chosen != v.a).any(-1).to(chosen.dtype).mean()
        imitated = (self.advantage(v, chosen) > self.threshold).to(chosen.dtype).mean()
        return {"replaced": replaced, "imitated": imitated}
