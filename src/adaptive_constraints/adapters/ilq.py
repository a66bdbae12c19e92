"""ILQ: imagination-limited Q-learning (arXiv 2505.12211).

The critics are regressed not only on the data but also at the policy's own actions. What a learned model of the
dynamics imagines to follow such an action is its target, limited by the best value of any action that the behaviour
might have taken there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from adaptive_constraints.adapters.frozen_models import DynamicsFit, fit_behavior, fit_termination
from adaptive_constraints.adapters.termination import choose_termination, termination_logit, termination_rule
from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.preparation import Preparation
from adaptive_constraints.core.types import ExtraRows, Facts, Params, Phase, Prepared
from adaptive_constraints.core.view import View
from adaptive_constraints.networks import VariancePreserving, denoise, first_members, predict_transition
from adaptive_constraints.support.bounds import AtLeast, Between


class Imagined(NamedTuple):
    """Transitions that the model imagines after N actions."""

    next_observation: Tensor
    """[N, D]"""
    reward: Tensor
    """[N]"""
    terminal: Tensor
    """Probability that the episode truly ends there; [N]."""


@dataclass(frozen=True, kw_only=True)
class ILQ(Adapter):
    """Supervise Q off the data with min(imagined value, best value of the behaviour) + delta; learn the rest as before.

    It trains models before step 1 (dynamics; behaviour, unless the learner has a model of it; perhaps termination) and
    keeps them in the cache. The defaults are the paper's; by data set, see the presets. The paper's own agent is soft
    actor-critic, which is CQL(alpha=0) here.

    >>> from adaptive_constraints import ILQ, wrap
    >>> from adaptive_constraints.baselines import CQL
    >>> agent = wrap(CQL.preset("ilq"), ILQ.preset("hopper-medium"))
    >>> print(agent.explain().splitlines()[3])
      ilq: 7 dynamics models, up to 40 passes over the data
    """

    eta: Annotated[float, Between(0, 1)] = 0.9
    """Weight of the TD error on the data, in [0, 1]; the rows off the data have 1 - eta. 1: ILQ is off."""
    delta: float = 0.0
    """Added to the target off the data, in units of the raw return."""
    samples: Annotated[int, AtLeast(1)] = 10
    """Actions of the behaviour per state, whose best value is the limit (M)."""
    data_action: bool = False
    """The data's action counts among them; inferred: a free candidate that is certainly in support."""
    rows: Annotated[int, AtLeast(1)] | None = None
    """States per minibatch at which Q is supervised off the data; None: all, as published. Policies that are costly to
    sample do with 64 (inferred)."""
    penalty: Annotated[float, AtLeast(0)] = 0.0
    """Taken off the imagined reward per unit of the model's uncertainty, the largest norm of a member's predicted
    standard deviation (kappa). That norm is of observations as the learner has them, so a published kappa means the
    same only on raw ones (``CQL.preset("ilq")``)."""
    imagination: bool = True
    """False: the target is the limit alone (the paper's ablation)."""
    limit: bool = True
    """False: the target is the imagined value alone (the paper's ablation)."""
    termination: str = "auto"
    """Which imagined transitions end their episode. known: by the rule of the data's task. learned: with the
    probability that a classifier of next observations gives, trained before step 1 (inferred; the paper is silent).
    auto: known if there is a rule by which episodes end; otherwise learned, or none where the data has no terminal row.
    Or the name of a rule: hopper, walker2d, ant, none, or one from `register_termination`."""
    warm_up: Annotated[float, Between(0, 1)] = 0.1
    """Fraction of the run during which eta counts as 1 where the behaviour model is the learner's own and still
    training (inferred)."""
    shared_models: bool = False
    """All seeds use the models of the first, which costs less but hides how results vary with the models."""
    model_members: Annotated[int, AtLeast(1)] = 7
    """Networks of the dynamics ensemble (MOPO's number; that ILQ kept it is inferred)."""
    model_elites: Annotated[int, AtLeast(1)] = 5
    """Number of them, the best on held-out rows, that imagine (likewise)."""
    model_hidden: Annotated[int, AtLeast(1)] = 200
    """Width of their four hidden layers."""
    model_epochs: Annotated[int, AtLeast(1)] = 40
    """Largest number of passes over the data when they are trained."""
    model_patience: Annotated[int, AtLeast(0)] = 5
    """Their training ends after more epochs than this without an improvement (MOPO's; likewise)."""
    behavior_steps: Annotated[int, AtLeast(1)] = 300_000
    """Minibatches that the behaviour model is trained for."""
    behavior_hidden: Annotated[int, AtLeast(1)] = 256
    """Width of its three hidden layers."""
    diffusion_steps: Annotated[int, AtLeast(1)] = 5
    """Steps of the chain that makes one of its actions (K)."""
    termination_steps: Annotated[int, AtLeast(1)] = 50_000
    """Minibatches that a learned termination is trained for (inferred)."""

    paper: ClassVar[str] = "arXiv 2505.12211"
    tested_on: ClassVar[frozenset[str]] = frozenset({"CQL"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "halfcheetah-random": {"eta": 0.95, "delta": 2.0},
        "hopper-random": {"eta": 0.9, "delta": 1.0, "penalty": 1.0},
        "walker2d-random": {"eta": 0.7, "delta": 1.0},
        "halfcheetah-medium": {"eta": 0.95, "delta": 1.0},
        "hopper-medium": {"eta": 0.95, "delta": -2.0, "penalty": 2.0},
        "walker2d-medium": {"eta": 0.9, "delta": 0.5, "penalty": 1.0},
        "halfcheetah-medium-replay": {"eta": 0.95, "delta": 2.0},
        "hopper-medium-replay": {"eta": 0.8, "delta": -0.5, "penalty": 1.0},
        "walker2d-medium-replay": {"eta": 0.9, "delta": 1.0, "penalty": 2.0},
        "halfcheetah-medium-expert": {"eta": 0.6, "delta": 1.0},
        "hopper-medium-expert": {"eta": 0.4, "delta": -0.5},
        "walker2d-medium-expert": {"eta": 0.8, "delta": 1.0},
        "maze2d-umaze": {"eta": 0.95, "delta": -0.5},
        "maze2d-umaze-dense": {"eta": 0.95},
        "maze2d-medium": {"eta": 0.95},
        "maze2d-medium-dense": {"eta": 0.95},
        "maze2d-large": {"eta": 0.95},
        "maze2d-large-dense": {"eta": 0.95},
        "pen-human": {"eta": 0.8, "delta": -1.0},
        "pen-cloned": {"eta": 0.8},
        # A whole family, for data sets that the table does not have: the paper's advice, or most of its rows.
        "gym": {},
        "maze2d": {"eta": 0.95},
        "adroit": {"eta": 0.8},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            self.model_elites <= self.model_members,
            f"of {self.model_members} model_members, {self.model_elites} cannot be model_elites",
        )
        self.require(
            self.imagination or self.limit,
            "without imagination and without limit there is no target: switch one on, or take eta=1",
        )

    @property
    def off(self) -> bool:
        """Nothing is trained, drawn or answered."""
        return self.eta == 1

    def was_tested_on(self, learner: str, facts: Facts) -> bool:
        """CQL without its penalty is the soft actor-critic of the paper."""
        return super().was_tested_on(learner, facts) and facts.tradeoff is None

    def answers(self, facts: Facts, phase: Phase) -> frozenset[str]:
        return frozenset() if self.off else super().answers(facts, phase)

    def check(self, facts: Facts) -> Sequence[str]:
        if self.off:
            return ()
        warnings = []
        if not facts.reads_policy_action:
            warnings.append(
                "nobody reads Q off the data here, so its rows reach the policy only through the critics' shared "
                "weights; extract the policy by Q, or add an adapter that reads Q there"
            )
        if facts.constrained == "critic" and facts.tradeoff is not None:
            warnings.append(
                "the critics' constraint and these rows give Q two opposed targets off the data; set the learner's "
                "trade-off to 0 (which is the published ILQ) or to a small value"
            )
        if facts.distribution == "generative" and self.rows is None:
            warnings.append("sampling policy and behaviour at every state is costly here; rows=64 costs less")
        if self.shared_models:
            warnings.append("all seeds share one set of models, so their spread leaves out that of the models")
        return warnings

    # -- models ---------------------------------------------------------------------------------------------------

    def preparations(self, facts: Facts) -> Sequence[str]:
        if self.off:
            return ()
        models = []
        if self.imagination:
            models.append(f"{self.model_members} dynamics models, up to {self.model_epochs} passes over the data")
        if self.imagination and self.termination in ("auto", "learned"):
            text = f"a classifier of terminal states, {self.termination_steps:,} minibatches"
            models.append(text + (", unless a rule is known" if self.termination == "auto" else ""))
        if self.limit and not facts.owns_behavior:
            models.append(f"a diffusion model of the behaviour, {self.behavior_steps:,} minibatches")
        return models

    def prepare(self, preparation: Preparation) -> Prepared | None:
        """Train or fetch what ``v.frozen`` is to hold, a flat dict (``dynamics.``, ``behavior.``, ...)."""
        if self.off:
            return None
        models = {"delta": self.delta * preparation.preprocessor.reward_scale.float().expand(len(preparation.seeds))}
        choices = {}
        if self.imagination:
            rule = choices["termination"] = choose_termination(self.termination, preparation.data)  # it may refuse
            dynamics = DynamicsFit(self.model_members, self.model_hidden, self.model_epochs, self.model_patience)
            models |= _named("dynamics", dynamics.run(preparation, self.group("dynamics"), self.shared_models))
            models |= self.termination_models(rule, preparation)
        if self.limit and not preparation.facts.owns_behavior:
            behavior = fit_behavior(
                preparation,
                self.group("behavior"),
                self._chain,
                self.behavior_hidden,
                self.behavior_steps,
                self.shared_models,
            )
            models |= _named("behavior", behavior)
        return Prepared(models=models, choices=choices)

    def termination_models(self, rule: str, preparation: Preparation) -> Params:
        """Tensors that `terminal` needs: those of a trained classifier, or the map from states back to raw ones.

        rule: the name of a rule, or "learned".
        """
        if rule == "learned":
            name = self.group("termination")
            fitted = fit_termination(preparation, name, self.termination_steps, self.shared_models)
            return _named("termination", fitted)
        seeds, map_ = len(preparation.seeds), preparation.preprocessor
        return {
            "observation_mean": map_.observation_mean.expand(seeds, -1),
            "observation_std": map_.observation_std.expand(seeds, -1),
        }

    @property
    def _chain(self) -> VariancePreserving:
        return VariancePreserving(self.diffusion_steps)

    def imagine(self, v: View, s: Tensor, a: Tensor) -> Imagined:
        """One transition from each (s, a) [N, D], [N, A], drawn from a random elite; kappa times the doubt is paid."""
        models = v.frozen[self.name]
        p = _part(models, "dynamics")
        inputs = (torch.cat([s, a], -1) - p["input_mean"]) / p["input_std"]
        # Members stand in order of their error. The penalty asks all of them, a draw only the elites.
        prediction = predict_transition(p if self.penalty else first_members(p, self.model_elites), inputs)
        member = v.uniform(f"{self.name}/member", (len(s),))
        noise = v.normal(f"{self.name}/transition", (len(s), s.shape[-1] + 1))
        drawn = prediction.first(self.model_elites).draw(member, noise)
        next_observation, reward = s + drawn[:, :-1], drawn[:, -1]
        if self.penalty:
            reward = reward - self.penalty * prediction.largest_deviation()
        rule = v.choice(self.name, "termination")
        return Imagined(next_observation, reward, self.terminal(rule, models, next_observation))

    def terminal(self, rule: str, models: Params, next_observation: Tensor) -> Tensor:
        """Probability [N] that the episode ends at next observations [N, D], by a rule's name or "learned"."""
        if rule == "learned":
            return torch.sigmoid(termination_logit(_part(models, "termination"), next_observation))
        raw = next_observation * models["observation_std"] + models["observation_mean"]
        return termination_rule(rule)(raw).to(raw.dtype)

    def behavior(self, v: View, s: Tensor) -> Tensor:
        """Actions [M, N, A] that the behaviour might have taken at s [N, D]; more samples keep those of fewer."""
        site = f"{self.name}/behavior"
        own = v.services.sample_behavior(s, site, self.samples)
        if own is not None:
            return own
        shape = (self.samples, len(s), v.spec.action_dim)
        start = v.normal(f"{site}/start", shape)
        noises = v.normal(f"{site}/chain", (shape[0], self.diffusion_steps - 1, *shape[1:])).movedim(1, 0)
        return denoise(_part(v.frozen[self.name], "behavior"), self._chain, s, start, noises)

    # -- seams ----------------------------------------------------------------------------------------------------

    def td_weight(self, v: View) -> Tensor | float:
        """eta; 1 while a behaviour model that the learner still trains warms up."""
        if v.phase == "online" or not (self.limit and v.services.facts.owns_behavior):
            return self.eta
        warm = v.step > self.warm_up * v.horizon
        return torch.where(warm, v.r.new_full((), self.eta), v.r.new_full((), 1.0))

    def critic_rows(self, v: View) -> Sequence[ExtraRows]:
        """(1 - eta) (Q(s, a) - y)^2 at actions a off the data (equations 16 to 20)."""
        s, a = self.queried(v)
        return [ExtraRows(1 - self.td_weight(v), s, a, self.target(v, s, a))]

    def queried(self, v: View) -> tuple[Tensor, Tensor]:
        """States [N, D] and the action [N, A] to supervise at each: the policy's, or one at which an adapter reads Q.

        Each has an equal share of the states, so that the number of rows stays what it is.
        """
        s = v.s[: self.rows]
        queries = v.query_action()
        shares = s.tensor_split(len(queries) + 1)
        facts = v.services.facts
        actions = [v.services.sample(v.p[facts.policy], shares[0], f"{self.name}/policy")]
        actions += [query[: len(s)].tensor_split(len(shares))[i] for i, query in enumerate(queries, start=1)]
        return s, torch.cat(actions)

    # -- the target off the data ----------------------------------------------------------------------------------

    def target(self, v: View, s: Tensor, a: Tensor) -> Tensor:
        """min(y_img, y_lmt) + delta; [N]."""
        delta = v.frozen[self.name]["delta"]
        if not self.limit:
            return self.y_img(v, s, a) + delta
        if not self.imagination:
            return self.y_lmt(v, s) + delta
        imagined, limit = self.y_img(v, s, a), self.y_lmt(v, s)
        v.log(f"{self.name}/y_img", imagined.mean())
        v.log(f"{self.name}/y_lmt", limit.mean())
        v.log(f"{self.name}/limited", (limit < imagined).to(limit.dtype).mean())
        return torch.minimum(imagined, limit) + delta

    def y_img(self, v: View, s: Tensor, a: Tensor) -> Tensor:
        """r^ + discount * (1 - d^) * (the value at s^' inside a TD target of this stack); [N]."""
        next_observation, reward, terminal = self.imagine(v, s, a)
        value = v.bootstrap(next_observation, f"{self.name}/next")
        return reward + v.services.discount * (1 - terminal) * value

    def y_lmt(self, v: View, s: Tensor) -> Tensor:
        """min_j max_m Q'_j(s, a_m), a_m of the behaviour, whatever aggregate the learner's own targets take; [N]."""
        actions = self.behavior(v, s)
        if self.data_action:
            actions = torch.cat([actions, v.a[None, : len(s)]])
        q = v.services.q(v.target["critic"], s.repeat(len(actions), 1), actions.flatten(0, 1))
        return q.view(len(q), *actions.shape[:2]).amax(1).amin(0)

    def diagnostics(self, v: View) -> Mapping[str, Tensor]:
        """The elites' mean squared error on held-out rows, a constant of the run."""
        error = v.frozen[self.name].get("dynamics.holdout_error")
        return {} if error is None else {"model_error": error[: self.model_elites].mean()}


def _named(prefix: str, params: Params) -> Params:
    return {f"{prefix}.{name}": tensor for name, tensor in params.items()}


def _part(models: Params, prefix: str) -> Params:
    return {name[len(prefix) + 1 :]: tensor for name, tensor in models.items() if name.startswith(f"{prefix}.")}
