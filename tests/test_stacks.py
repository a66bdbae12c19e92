"""Every learner with every subset of the four adapters, and every part of ours by the conformance suite."""

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch

from adaptive_constraints import A2PR, ASPC, ILQ, PRDC, SPOT, SSAR, WPC, CalQL, wrap
from adaptive_constraints.baselines import AWAC, BC, CQL, EDAC, FQL, IQL, SACN, TD3BC, DiffusionQL, ReBRAC
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.errors import StackError
from adaptive_constraints.testing import check_adapter, check_learner, check_stack, made_data

from .helpers import FOUR, largest_difference, learned, trained

LEARNERS = {
    "TD3BC": TD3BC(hidden=8, batch_size=16),
    "IQL": IQL(hidden=8, batch_size=16),
    "CQL": CQL(hidden=8, batch_size=16, gap_actions=2),
    "DiffusionQL": DiffusionQL(hidden=8, batch_size=16, candidates=3),
    "FQL": FQL(hidden=8, layers=2, batch_size=16, flow_steps=2),
}
ADAPTERS = {adapter.name: adapter for adapter in FOUR}
OTHERS: dict[str, Any] = {
    "wpc": WPC(),
    "a2pr": A2PR(hidden=8),
    "spot": SPOT(hidden=8, steps=20),
    "calql": CalQL(),
    "prdc": PRDC(beta=0.3),
}
MORE = {
    "ReBRAC": ReBRAC(hidden=8, batch_size=16),
    "BC": BC(hidden=8, batch_size=16),
    "SACN": SACN(hidden=8, batch_size=16, critics=3),
    "EDAC": EDAC(hidden=8, batch_size=16, critics=3),
    "AWAC": AWAC(hidden=8, batch_size=16),
}
"""Learners that do not stand in the tables of every subset."""
NO_CONSTRAINT = "no constraint on its policy's action"
NOT_IMITATING = "imitates no action"
REFUSED = {
    **{(learner, "calql"): "pushes no values of Q down" for learner in {**LEARNERS, **MORE} if learner != "CQL"},
    **{(learner, "spot"): NO_CONSTRAINT for learner in ("CQL", "IQL", "SACN", "EDAC", "AWAC")},
    **{(learner, "wpc"): "never asks" for learner in ("CQL", "SACN", "EDAC")},
    **{(learner, "prdc"): NOT_IMITATING for learner in ("CQL", "FQL", "SACN", "EDAC")},
    **{(learner, "a2pr"): NOT_IMITATING for learner in ("SACN", "EDAC")},
    **{("BC", adapter): "needs Q, but BC has no critics" for adapter in ("anq", "ilq", "a2pr")},
    ("BC", "wpc"): "the learner has no critics",
    **{(learner, "ssar"): "has none \\(no trade-off\\)" for learner in ("BC", "SACN")},
    **{(learner, "aspc"): "has none to set" for learner in ("BC", "SACN")},
}
"""What is said of pairs whose facts do not allow them."""
SUBSETS = [names for size in range(5) for names in combinations(ADAPTERS, size)]


@pytest.mark.parametrize("names", SUBSETS, ids=["+".join(names) or "bare" for names in SUBSETS])
@pytest.mark.parametrize("learner", LEARNERS)
def test_every_stack_trains_saves_resumes_and_acts(learner, names):
    check_stack(LEARNERS[learner], *(ADAPTERS[name] for name in names))


@pytest.mark.parametrize("learner", LEARNERS)
def test_all_adapters_at_their_neutral_settings_together_are_the_bare_learner(learner):
    """ANQ only where the learner bootstraps from a V of its own: elsewhere its bootstrap is its point."""
    _, ssar, aspc, ilq = FOUR
    neutral = [replace(ssar, frozen=True, select="all"), replace(aspc, rate=0.0), replace(ilq, eta=1.0)]
    if learner == "IQL":
        neutral.append(replace(FOUR[0], reach=0.0))
    run: dict[str, Any] = {"steps": 6, "dtype": torch.float64}
    bare = learned(trained(LEARNERS[learner], **run))

    def apart(*adapters):
        wrapped = learned(trained(LEARNERS[learner], *adapters, **run))
        return largest_difference(bare, {name: wrapped[name] for name in bare})

    assert apart(*neutral) < 1e-9
    assert apart(replace(ssar, rate=0.1), replace(aspc, rate=0.1), ilq) > 1e-6, "which they are not at work"


@pytest.mark.parametrize("learner", LEARNERS)
def test_every_stack_explains_itself_and_ablates(learner):
    agent = wrap(LEARNERS[learner], *FOUR)
    shown = agent.explain()
    for name in ADAPTERS:
        assert f"  {name} on {learner}: " in shown
    assert "  ilq: 3 dynamics models, up to 2 passes over the data" in shown
    assert ("a diffusion model of the behaviour" in shown) == (learner != "FQL"), "which has a model of its own"
    assert "constraint_weight  ssar (divided by its mean: the trade-off is learned)" in shown
    assert agent.without("aspc", "ilq").name == f"{learner} + anq + ssar"


@pytest.mark.parametrize("adapter", {**ADAPTERS, **OTHERS})
@pytest.mark.parametrize("learner", {**LEARNERS, **MORE})
def test_every_adapter_keeps_the_laws_or_says_why_not(learner, adapter):
    part, base = {**ADAPTERS, **OTHERS}[adapter], {**LEARNERS, **MORE}[learner]
    if (learner, adapter) in REFUSED:
        with pytest.raises(StackError, match=REFUSED[learner, adapter]):
            wrap(base, part)
        return
    check_adapter(part, base)


@pytest.mark.parametrize(
    ("with_it", "without_it", "said"),
    [
        (ReBRAC(), ReBRAC(beta2=0.0), "beta2=0.01"),
        (DiffusionQL(max_q_backup=True), DiffusionQL(), "max_q_backup=True"),
        (CQL(backup_actions=10), CQL(), "backup_actions=10"),
    ],
)
def test_a_setting_of_a_replaced_bootstrap_is_said_to_have_no_effect(with_it, without_it, said):
    anq, warned = FOUR[0], lambda *parts: " ".join(map(str, Stack(parts[0], parts[1:]).resolve().warnings))
    assert f"anq: it replaces the bootstrap, so that {said} of the learner has no effect" in warned(with_it, anq)
    assert "has no effect" not in warned(without_it, anq) + warned(with_it)


@pytest.mark.parametrize("learner", MORE)
def test_further_learners_keep_the_laws_and_take_what_fits(learner):
    fitting = [adapter for adapter in FOUR if (learner, adapter.name) not in REFUSED]
    check_learner(MORE[learner])
    check_stack(MORE[learner], *fitting)
    assert {"ReBRAC": 4, "BC": 0, "SACN": 2, "EDAC": 4, "AWAC": 4}[learner] == len(fitting)


@pytest.mark.parametrize(
    "learner",
    [TD3BC(hidden=8, critic="robust"), CQL(hidden=8, alpha=0), CQL(hidden=8, target_gap=1.0, gap_actions=2)],
    ids=["robust", "no gap", "lagrange"],
)
def test_variants_keep_the_laws(learner):
    check_learner(learner)


# -- data that is unusual -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [{"action_dim": 1}, {"observation_dim": 1}, {"rows": 20}, {"rows": 40}],
    ids=["one action dimension", "one observation dimension", "one episode", "less than a batch"],
)
@pytest.mark.parametrize("learner", LEARNERS)
def test_unusual_data(learner, shape):
    data = made_data(**shape)
    part = replace(LEARNERS[learner], batch_size=64) if len(data) == 40 else LEARNERS[learner]
    check_stack(part, *FOUR, data=data)


def test_nothing_to_scale_is_refused_by_both():
    for adapter, words in ((ASPC(), "sets the trade-off"), (SSAR(), "weighs the learner's constraint")):
        with pytest.raises(StackError, match=words):
            wrap(CQL(alpha=0), ILQ(), adapter)
