"""SSAR: selective state-adaptive regularization (arXiv 2505.19923).

The constraint's one coefficient becomes a network beta(s). It falls at states where the data's action already lies
within n standard deviations of the policy and rises where it does not; n widens during training. Only a trusted part of
the data has a say in this, and usually only that part is constrained at all.

The learner goes on to scale its own term by its own trade-off, so what this adapter answers is beta(s) / beta_0, the
*relative* coefficient, which starts near 1. Online, beta stays as it is and the whole constraint is annealed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from adaptive_constraints.adapters.deviation import TrustInterval, natural_kind
from adaptive_constraints.adapters.ssar_presets import PRESETS
from adaptive_constraints.adapters.trust import Advantage, by_rank, by_return, by_separation, by_success
from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.preparation import Preparation
from adaptive_constraints.core.types import AdapterStage, Facts, Params, Phase, Prepared, Schedule, Spec, Stage, Update
from adaptive_constraints.core.view import View
from adaptive_constraints.errors import DatasetError
from adaptive_constraints.networks import init_mlp, mlp, xavier
from adaptive_constraints.support.bounds import Above, AtLeast, Between

PUBLISHED_RATE_OF_A_POINT, PUBLISHED_RATE = 3e-8, 1e-8
"""Learning rates of beta: on TD3+BC and on CQL."""
PUBLISHED_EVERY_OF_A_POINT, PUBLISHED_EVERY = 2, 1
"""Training steps per update of beta, likewise."""
PUBLISHED_GROWTH_EVERY, GROWTHS = 50_000, 10
"""Training steps after which n grows once more, and how often it does."""
PUBLISHED_ANNEALING = 400_000 / 250_000
"""Length of the annealing in lengths of the online run."""
GRADIENT_CLIP = 0.5
USUAL_FRACTION = 0.3
"""The best episodes that "return" trusts where nothing else is said."""
FEW = 0.01
"""A trusted share of the data below this is warned of."""


@dataclass(frozen=True, kw_only=True)
class SSAR(Adapter):
    """Learn where to constrain: a coefficient per state, lower where the policy already covers trusted data.

    >>> from adaptive_constraints import SSAR, wrap
    >>> from adaptive_constraints.baselines import TD3BC
    >>> agent = wrap(TD3BC.preset("ssar"), SSAR(select="all"))
    >>> [line for line in agent.explain().splitlines() if "constraint_weight" in line]
    ['  constraint_weight  ssar']
    """

    select: Literal["auto", "all", "return", "success", "advantage"] = "auto"
    """The trusted subset D^. auto: the better of two groups of episodes, where returns fall into two separate ones (a
    mixture of good and bad behaviour), else everything: where nothing says who deserves trust, trusting a part costs
    more than it gains. The paper's rules are the others, and its ``presets`` name them. return: episodes of a high
    return. success: episodes that reached the goal, as `Dataset.episode_success` says (sparse rewards). advantage:
    rows with min Q(s, a) >= V(s) under critics of implicit Q-learning, trained before step 1, per seed, and kept. all:
    everything; switches selection off."""
    return_threshold: float | None = None
    """The raw episode return that must be exceeded. None: under "auto" the gap between two groups of returns, under
    "return" ``trusted_fraction`` says."""
    trusted_fraction: Annotated[float, Between(0, 1, "(]")] | None = None
    """The best episodes by return that are trusted, as a fraction of all, where no threshold is given; None: 0.3 under
    "return". Inferred; the paper has a threshold per data set."""
    selection_expectile: Annotated[float, Between(0, 1, "()")] = 0.7
    """For "advantage": the expectile of V; the paper has 0.5 or 0.7 per data set."""
    selection_steps: Annotated[int, AtLeast(1)] | None = None
    """For "advantage": minibatches that V and Q are trained on. None: five per row, at least 100,000 and at most
    1,000,000; inferred: the paper always has 1,000,000, and so has this on all data sets that it uses the rule on."""
    loosen_bound: bool | None = None
    """Rows that are not trusted are not constrained at all; otherwise they merely have no say in beta. Where imitation
    is weighted by exp(advantage), improvement and constraint in one, such rows are not imitated (inferred). None: so
    unless the policy climbs critics without LayerNorm, whose values diverge at states without a constraint, and on
    which true is refused; the published settings say true."""

    deviation: Literal["auto", "density", "pre_tanh", "fixed_sigma", "surrogate", "model"] = "auto"
    """Measure of the deviation of the data's action from the policy. density: by the Gaussian policy's own
    standard deviation, as log-density of the action (after the tanh, if there is one; actions near the bounds gain by
    that). pre_tanh: likewise but before the tanh (inferred, not in the paper). fixed_sigma: by the squared distance to
    the policy's mean action, as if its standard deviation were ``sigma``. The rest is for policies that can only be
    sampled and is inferred. surrogate: that distance to the nearest of a few draws; where the data have several modes,
    a draw of another mode counts as far. model: the distance to the learner's own model of the behaviour, which is
    what the coefficient weighs there. auto: fixed_sigma for a deterministic policy, density for a Gaussian, model where
    there is one, else surrogate."""
    sigma: Annotated[float, Above(0)] = 0.1
    """The fixed standard deviation, in units of the action bound. In a squashed policy, n times this is also the
    largest half-width of the interval in action space."""
    samples: Annotated[int, AtLeast(1)] = 4
    """For "surrogate": draws per state. Inferred."""
    n_start: Annotated[float, Above(0)] = 1.0
    """Half-width of the trust interval at the start, in standard deviations."""
    n_end: Annotated[float, Above(0)] = 3.0
    """Half-width at which it stops growing."""
    growth_every: Annotated[int, AtLeast(1)] | None = None
    """Training steps between two of the ten rises from ``n_start`` to ``n_end``; None: 50,000 of the published run."""

    rate: Literal["scaled", "published"] | Annotated[float, AtLeast(0)] = "scaled"
    """Adam's learning rate of beta. published: 3e-8 on a deterministic policy, 1e-8 on others, meant for the published
    run length. scaled: that times the published number of beta's updates over this run's: Adam moves a weight by about
    its rate per update, whatever the gradient, so that beta otherwise would not move in a shorter run (inferred). Beta
    is updated with the constrained group, in the published runs at every second step on a deterministic policy. A
    number: that rate."""
    published_steps: Annotated[int, AtLeast(1)] = 1_000_000
    """Steps of the published run (2,000,000 on AntMaze), which ``rate`` and ``growth_every`` are scaled from."""
    cap: Annotated[float, Above(1)] = 1.5
    """The largest coefficient, over the initial one."""
    hidden: Annotated[int, AtLeast(1)] = 512
    """Width of each of the three hidden layers of beta."""
    frozen: bool | None = None
    """Beta is exactly beta_0 at every state and stays so: selection alone, or with select="all" the bare learner. None:
    beta is learned, but where "auto" finds one group of episodes it is not heard, which leaves the bare learner there:
    on eight kinds of small data (docs/results.md) a learned coefficient gained nothing, and cost up to a point. It is
    trained there all the same; True spares that time where one group is known to be found."""

    annealing: Literal["linear", "cosine", "none"] = "linear"
    """Annealing of the constraint online, down to 0. linear: the paper. cosine: a quarter wave, its code on CQL."""
    annealing_steps: Annotated[int, AtLeast(1)] | None = 400_000
    """Online steps until 0; None: 1.6 times the planned steps, the published ratio (inferred)."""

    paper: ClassVar[str] = "arXiv 2505.19923"
    tested_on: ClassVar[frozenset[str]] = frozenset({"TD3BC", "CQL"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.n_start <= self.n_end, f"n_start must not exceed n_end, but {self.n_start} > {self.n_end}")

    def check(self, facts: Facts) -> Sequence[str]:
        self.require(
            facts.tradeoff is not None,
            "it weighs the learner's constraint, but the learner as configured has none (no trade-off): "
            "configure it with a constraint, or remove the adapter",
        )
        interval = self._interval(facts)
        self.require(
            interval.fits(facts),
            f"deviation={self.deviation!r} is not defined on this learner, whose policy is {facts.distribution!r}: "
            "leave it at 'auto'",
        )
        self.require(
            not self.loosen_bound or self.select == "all" or _bears_loosening(facts),
            "loosen_bound=True leaves untrusted states without a constraint, where critics without LayerNorm diverge: "
            "use the learner's critic='layernorm' or 'robust', or loosen_bound=False",
        )
        doubts = []
        if facts.exponential_weights:
            doubts.append(
                "the learner imitates by exp(advantage) and never leaves the data, so that a lower coefficient only "
                "sharpens its weights: a gain is questionable"
            )
        if interval.kind == "surrogate" and facts.distribution == "generative":
            doubts.append(
                "the policy has no density, so the deviation is the distance to the nearest of a few draws, to which "
                "a right action of another mode is far: doubtful on multimodal data"
            )
        if interval.kind == "model" and "constraint" in facts.replaced:
            doubts.append(
                "the distance to the learner's own behaviour model is read off its constraint, which another adapter "
                "replaces: set deviation='surrogate'"
            )
        return doubts

    def answers(self, facts: Facts, phase: Phase) -> frozenset[str]:
        annealed = {"constraint_scale"} if phase == "online" and self.annealing != "none" else set()
        selective = {"sample_weight"} if self._drops_rows(facts) else set()
        return frozenset({"constraint_weight"} | annealed | selective)

    def _drops_rows(self, facts: Facts) -> bool:
        """Untrusted rows leave the imitation: a weight of 0 would not loosen exp(advantage) but make it extreme."""
        asked = facts.exponential_weights and "sample_weight" in facts.seams
        return asked and self._loosens(facts) and self.select != "all"

    def _loosens(self, facts: Facts) -> bool:
        return _bears_loosening(facts) if self.loosen_bound is None else self.loosen_bound

    # -- the trusted subset D^ ------------------------------------------------------------------------------------

    def preparations(self, facts: Facts) -> Sequence[str]:
        if self.select != "advantage":
            return ()
        steps = f"{self.selection_steps:,}" if self.selection_steps else "100,000 to 1,000,000"
        return (f"critics to select trusted rows by, {steps} minibatches",)

    def prepare(self, preparation: Preparation) -> Prepared | None:
        """The flag m of every row, 1 where it is trusted, and what share of the data that is."""
        if self.select == "all":
            return None
        trusted = self._select(preparation)
        share = trusted.float().mean(-1).expand(len(preparation.seeds)).clone()
        self._check_share(float(share.min()), preparation)
        heard = torch.full_like(share, 0.0 if self.frozen is None and self._by_groups and trusted.all() else 1.0)
        per_seed = {"trusted": trusted.float()} if trusted.dim() == 2 else {}
        shared = {"trusted": trusted.float()} if trusted.dim() == 1 else {}
        return Prepared(shared, per_seed, models={"trusted_share": share, "heard": heard}, online={"trusted": 1.0})

    def _select(self, preparation: Preparation) -> Tensor:
        """[N], or [S, N] where it differs between seeds; bool."""
        data = preparation.data
        if self.select == "success":
            return by_success(data)
        if self.select == "advantage":
            steps = self.selection_steps or Advantage.steps_for(len(data))
            rule = Advantage(self.selection_expectile, steps, preparation.discount)
            return rule.select(preparation, f"{self.name}.advantage")
        if self.return_threshold is not None:
            return by_return(data, self.return_threshold)
        return by_separation(data) if self._by_groups else by_rank(data, self._fraction)

    @property
    def _by_groups(self) -> bool:
        """Nothing is said of which episodes are good: groups of returns decide."""
        return self.select == "auto" and self.return_threshold is None and self.trusted_fraction is None

    @property
    def _fraction(self) -> float:
        return USUAL_FRACTION if self.trusted_fraction is None else self.trusted_fraction

    def _check_share(self, share: float, preparation: Preparation) -> None:
        data, select = preparation.data, "return" if self.select == "auto" else self.select
        given = self.return_threshold is not None or self.trusted_fraction is not None
        best = f"the best {self._fraction:.2%} of episodes by return"
        best = best if self.select == "return" or given else "the better of two groups of episodes by return"
        above = f"episodes of a return above {self.return_threshold}"
        rule = {
            "return": best if self.return_threshold is None else above,
            "success": "episodes that reached the goal (a positive reward at their end or at a terminal row)",
            "advantage": f"rows with min Q(s, a) >= V(s) at expectile {self.selection_expectile}",
        }[select]
        if share == 0:
            remedy = {
                "return": "lower return_threshold",
                "success": "rewards that are never positive at an episode's end want select='return'",
                "advantage": "lower selection_expectile",
            }[select]
            raise DatasetError(
                f"{self.name} would trust nothing in {data.name!r}: select={select!r} keeps {rule}, and the best "
                f"return in the data is {data.episode_returns().max():g}; {remedy}"
            )
        if share < FEW:
            text = f"{self.name} trusts only {share:.2%} of {data.name!r}: select={select!r} keeps {rule}"
            warnings.warn(text, UserWarning, stacklevel=2)

    def trusted(self, v: View) -> Tensor:
        """m [B]."""
        return torch.ones_like(v.r) if self.select == "all" else v.batch[f"{self.name}.trusted"]

    # -- the coefficient ------------------------------------------------------------------------------------------

    def init(self, spec: Spec, facts: Facts, generator: torch.Generator) -> dict[str, Params]:
        sizes = (spec.observation_dim, *[self.hidden] * 3, 1)
        beta = init_mlp(sizes, generator, initializers=xavier())
        if self.frozen:
            beta["weight3"].zero_()
        return {"beta": beta}

    def heard_weight(self, v: View) -> Tensor:
        """beta(s) / beta_0 [B] on the minibatch, or 1 where nothing is heard of beta on this data."""
        weight = self.weight(v.p[self.group("beta")], v.s)
        if self.select == "all":
            return weight
        return torch.where(v.frozen[self.name]["heard"] > 0, weight, torch.ones_like(weight))

    def weight(self, p: Params, observation: Tensor) -> Tensor:
        """beta(s) / beta_0 = cap * sigmoid(x - log(cap - 1)), x the network's output; [N] in (0, cap).

        Written so that x = 0 gives 1 to the last bit, whatever the cap; no exponential here can overflow.
        """
        share = torch.sigmoid(mlp(p, observation).squeeze(-1))
        return 2 * self.cap * share / (self.cap + (2 - self.cap) * (2 * share - 1))

    def beta_0(self, facts: Facts) -> float:
        """The constraint's coefficient at the learner's own trade-off, where improvement has the coefficient 1."""
        assert facts.tradeoff is not None  # check() saw to it
        return facts.tradeoff if facts.scales == "constraint" else 1 / facts.tradeoff

    def constraint_weight(self, v: View) -> Tensor:
        weight = self.heard_weight(v)
        loosened = self._loosens(v.services.facts) and not self._drops_rows(v.services.facts)
        return self.trusted(v) * weight if loosened else weight

    def sample_weight(self, v: View) -> Tensor:
        return self.trusted(v)

    def constraint_scale(self, v: View) -> Tensor:
        """Annealing online; never below 0, which would push away from the data."""
        planned = v.horizon - v.step + v.phase_step
        steps = PUBLISHED_ANNEALING * planned if self.annealing_steps is None else self.annealing_steps
        done = (v.phase_step.to(v.r.dtype) / steps).clamp(max=1)
        return (1 - done if self.annealing == "linear" else torch.cos(done * math.pi / 2)).clamp(min=0)

    # -- learning it ----------------------------------------------------------------------------------------------

    def stages(self, facts: Facts, phase: Phase) -> tuple[AdapterStage, ...]:
        if phase == "online" or self.frozen:
            return ()
        update = Update(self.group("beta"), self.loss, self._rate(facts), clip=GRADIENT_CLIP)
        return (AdapterStage("with", Stage(self.name, (update,))),)

    def _rate(self, facts: Facts) -> Schedule:
        point = facts.distribution == "point"
        published = PUBLISHED_RATE_OF_A_POINT if point else PUBLISHED_RATE
        published_every = PUBLISHED_EVERY_OF_A_POINT if point else PUBLISHED_EVERY
        if self.rate == "published":
            return published
        if self.rate == "scaled":
            rarer = facts.constrained_every / published_every
            return lambda step, horizon: published * rarer * self.published_steps / horizon
        return self.rate

    def loss(self, p: Params, v: View) -> Tensor:
        """L_beta = mean of w beta(s) m, over all rows of the minibatch and not only the trusted ones.

        The policy in w is the one from before its update in this step, as in the paper's code on TD3+BC; on CQL, that
        code takes the one from after it.
        """
        beta = self.beta_0(v.services.facts) * self.weight(p, v.s)
        return (self.margin(v) * beta * self.trusted(v)).mean()

    def margin(self, v: View) -> Tensor:
        """w_n(s, a) [B]: positive where the data's action lies within n standard deviations of the policy."""
        return self._interval(v.services.facts).margin(v, v.buffers[self.name]["n"])

    def _interval(self, facts: Facts) -> TrustInterval:
        kind = natural_kind(facts) if self.deviation == "auto" else self.deviation
        return TrustInterval(kind, self.sigma, self.samples, f"{self.name}/draws")

    # -- the schedule of n ----------------------------------------------------------------------------------------

    def buffers(self, spec: Spec, facts: Facts) -> Params:
        return {"n": torch.tensor(self.n_start), "growing": torch.tensor(1.0)}

    def advance_every(self, facts: Facts, horizon: int) -> int:
        return self.growth_every or max(1, round(PUBLISHED_GROWTH_EVERY * horizon / self.published_steps))

    def advance(self, v: View) -> Mapping[str, Tensor]:
        """n grows until, on the trusted rows of a minibatch, the policy covers the data on average; then never again.

        A minibatch without trusted rows says nothing. The policy is the one after its update in this step, while beta's
        loss read the one before it.
        """
        if v.phase == "online":  # beta learns no more, and n says only what it learned from
            return {}
        n, growing = v.buffers[self.name]["n"], v.buffers[self.name]["growing"]
        growing = torch.where(self._trusted_margin(v) > 0, torch.zeros_like(growing), growing)
        grown = (n + (self.n_end - self.n_start) / GROWTHS).clamp(max=self.n_end)
        heard = self.trusted(v).sum() > 0
        return {"n": torch.where(heard & (growing > 0), grown, n), "growing": growing}

    def _trusted_margin(self, v: View) -> Tensor:
        """Mean of w over the trusted rows, 0 where there are none; []."""
        trusted = self.trusted(v)
        return (trusted * self.margin(v)).sum() / trusted.sum().clamp(min=1)

    def diagnostics(self, v: View) -> Mapping[str, Tensor]:
        weight = self.heard_weight(v)
        ordered, last = weight.sort().values, len(weight) - 1
        quantities = {
            "n": v.buffers[self.name]["n"],
            **{f"weight_{percent}": ordered[round(percent / 100 * last)] for percent in (10, 50, 90)},
            "trusted_margin": self._trusted_margin(v),
            "trusted_in_batch": self.trusted(v).mean(),
        }
        return quantities | dict(v.frozen[self.name])


def _bears_loosening(facts: Facts) -> bool:
    """Tell whether values stay sane at states without a constraint."""
    return facts.normalized_critic or facts.constrained == "critic" or facts.exponential_weights
