"""SSAR against plain loops written from the paper's equations, where it is neutral, beside others, its presets."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from adaptive_constraints import ASPC, SSAR, Dataset, FixedTradeoff, wrap
from adaptive_constraints.adapters.ssar_presets import ON_CQL, ON_TD3BC
from adaptive_constraints.baselines import CQL, TD3BC
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.engine.engine import Engine
from adaptive_constraints.errors import StackError
from adaptive_constraints.testing import check_adapter, made_data

from .helpers import build, different, largest_difference, learned, random_data, trained
from .reference.common import beside
from .reference.ssar import THRESHOLD, Coefficient, OnCQL, OnTD3BC
from .selective import prepared
from .sketches import LEARNERS, TinyFQL, TinyIQL, each_learner

pytestmark = pytest.mark.usefixtures("own_cache", "one_thread")

BEARING = replace(LEARNERS["TD3BC"], critic="layernorm")
"""One whose critics bear states without a constraint."""


# -- plain loops ------------------------------------------------------------------------------------------------------


def beside_ssar(loop: type[Coefficient], learner, dtype, loosen_bound: bool, steps: int) -> tuple[Engine, Coefficient]:
    """An engine and a plain loop after the same steps; n grows in between."""
    ssar = SSAR(select="return", return_threshold=THRESHOLD, loosen_bound=loosen_bound, hidden=24, growth_every=20)
    start = learned(build(learner, ssar, seeds=(0,), horizon=steps, data=random_data(1000, 11, 3), dtype=dtype))
    make = lambda engine, data: loop(engine, data, loosen_bound, 20)  # noqa: E731
    engine, plain = beside(make, learner, ssar, steps=steps, seeds=(0,), dtype=dtype)
    assert float(engine.buffers["ssar"]["n"]) == pytest.approx(plain.n) == pytest.approx(1 + 0.2 * min(10, steps // 20))
    moved = {name: float((learned(engine)[name] - start[name]).abs().max()) for name in start}
    assert moved["params/ssar.beta/bias3"] > 1e-3, "the coefficient must have moved for this to say anything"
    return engine, plain


@pytest.mark.parametrize(("loosen_bound", "steps"), [(True, 100), (False, 40)])
def test_equals_a_plain_loop_on_td3bc(loosen_bound, steps):
    engine, plain = beside_ssar(
        OnTD3BC, TD3BC(hidden=64, batch_size=64, critic="layernorm"), torch.float32, loosen_bound, steps
    )
    assert plain.largest_deviation(engine) < 1e-5


@pytest.mark.parametrize(("loosen_bound", "steps"), [(True, 50), (False, 25)])
def test_equals_a_plain_loop_on_cql(loosen_bound, steps):
    engine, plain = beside_ssar(OnCQL, CQL(hidden=16, batch_size=16), torch.float64, loosen_bound, steps)
    assert plain.largest_deviation(engine) < 1e-9


# -- neutral ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("settings", [{"select": "all"}, {"loosen_bound": False, "cap": 1.3}], ids=["all", "bound"])
@each_learner
def test_frozen_is_the_learner_bit_for_bit(learner, settings, dtype):
    options: dict[str, Any] = {"seeds": (0, 1), "dtype": dtype}
    bare, frozen = (
        trained(learner, *adapters, **options) for adapters in ((), (SSAR(frozen=True, hidden=8, **settings),))
    )
    plain, beside = learned(bare), learned(frozen)
    assert not different(plain, {name: beside[name] for name in plain})


def grouped(groups: int) -> Dataset:
    """Twelve episodes whose returns are one group or two, a quarter of them good."""
    made = made_data(rows=240)
    good = np.repeat(np.arange(12) % 4 == 0, 20)
    rewards = 0.1 * made.rewards + (10.0 * good if groups == 2 else 0.0)
    names = ("observations", "actions", "next_observations", "terminals", "timeouts")
    return Dataset.from_arrays(rewards=rewards, **{name: getattr(made, name) for name in names})


@pytest.mark.parametrize("learner", [TD3BC(hidden=8, batch_size=16, critic="layernorm"), CQL(hidden=8, batch_size=16)])
def test_where_episodes_are_one_group_the_default_is_the_learner_bit_for_bit(learner):
    options: dict[str, Any] = {"seeds": (0, 1), "steps": 6}
    fast = SSAR(hidden=8, rate=1e-2)
    for groups, same in ((1, True), (2, False)):
        bare, wrapped = (trained(learner, *with_, data=grouped(groups), **options) for with_ in ((), (fast,)))
        plain, beside = learned(bare), learned(wrapped)
        assert bool(different(plain, {name: beside[name] for name in plain})) != same, groups
    plain = learned(trained(learner, data=grouped(1), **options))
    heard = learned(trained(learner, replace(fast, frozen=False), data=grouped(1), **options))
    assert different(plain, {name: heard[name] for name in plain})


def test_frozen_is_still_selective():
    """Alone, the trust flags leave out rows."""
    frozen = SSAR(select="return", loosen_bound=True, frozen=True, hidden=8)
    one, two = (trained(BEARING, *adapters) for adapters in ((), (frozen,)))
    assert not torch.equal(one.params["actor"]["weight0"], two.params["actor"]["weight0"])


@pytest.mark.parametrize("name", ["TD3BC", "CQL", "FQL"])
def test_the_laws_of_adapters(name):
    """Seeds together as alone, traced as eager, saved and resumed, apart from others, in both phases."""
    check_adapter(SSAR(hidden=8, rate=1e-3, growth_every=1), LEARNERS[name])


def test_resumes_bit_for_bit_where_seeds_trust_other_rows():
    data = made_data()
    ssar = SSAR(select="advantage", selection_steps=5, hidden=8, rate=1e-3, growth_every=2)
    whole, parted = (wrap(LEARNERS["TD3BC"], ssar) for _ in range(2))
    options: dict[str, Any] = {"steps": 8, "seeds": 2, "traced": False, "progress": False, "device": "cpu"}
    whole.fit(data, **options)
    parted.fit(data, stop_after=3, **options)
    parted.fit(data, **options)
    assert not different(learned(whole.run.engine), learned(parted.run.engine))
    assert not torch.equal(*prepared(ssar, data, (0, 1)).seed_columns["trusted"])


# -- beside others ----------------------------------------------------------------------------------------------------


def test_a_learned_trade_off_says_how_much_and_the_weights_where():
    """Mean 1 over the trusted rows, 0 elsewhere, in the proportions of the coefficient."""
    ssar = SSAR(select="return", loosen_bound=True, hidden=8, rate=1e-2)
    engine = trained(BEARING, ASPC(interval=1), ssar, steps=5, seeds=(0, 1))

    def look(v) -> dict[str, Tensor]:
        raw = v.resolved.adapters[1].constraint_weight(v)
        return {"normalised": v.constraint_weight(), "raw": raw, "trusted": v.batch["ssar.trusted"]}

    seen = engine.ask("ssar", look)
    for normalised, raw, trusted in zip(*seen.values(), strict=True):
        assert 0 < float(trusted.mean()) < 1
        assert float(normalised[trusted > 0].mean()) == pytest.approx(1, rel=1e-5)
        assert (normalised[trusted == 0] == 0).all()
        torch.testing.assert_close(normalised, raw / raw[trusted > 0].mean())
        assert float(raw[trusted > 0].std()) > 1e-3


@each_learner
def test_the_meta_gradient_agrees_with_automatic_differentiation(learner):
    options: dict[str, Any] = {"seeds": (0, 1), "horizon": 10, "dtype": torch.float64}
    adapters = [
        (ASPC(interval=1, meta_step=backend), SSAR(hidden=8, rate=1e-2)) for backend in ("closed_form", "autograd")
    ]
    one, two = (build(learner, *pair, **options) for pair in adapters)
    one.run(1), one.metrics.flush()
    two.load({name: tensor.clone() for name, tensor in one.state().items()}, one.step)
    gradients = []
    for engine in (one, two):
        engine.metrics.flush()
        engine.run(1)
        gradients.append(torch.tensor(engine.metrics.flush()["aspc/gradient"], dtype=torch.float64))
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=0)
    assert largest_difference(learned(one), learned(two)) < 1e-9


def test_products_commute_with_other_adapters():
    ssar, scale = SSAR(hidden=8, rate=1e-2), FixedTradeoff(value=4.0)
    one, two = (trained(LEARNERS["TD3BC"], *order) for order in ((ssar, scale), (scale, ssar)))
    assert not different(learned(one), learned(two))


# -- what is refused and what is warned of ----------------------------------------------------------------------------


def warned(learner, ssar: SSAR) -> str:
    return "\n".join(map(str, Stack(learner, (ssar,)).resolve().warnings))


def test_a_learner_without_a_constraint_is_refused():
    with pytest.raises(StackError, match=r"ssar: .*none \(no trade-off\).*configure it.*remove the adapter"):
        Stack(CQL(alpha=0.0), (SSAR(),))
    Stack(CQL(target_gap=5.0), (SSAR(),))  # one that adapts its trade-off is fine: it multiplies


@pytest.mark.parametrize(
    ("learner", "deviation"),
    [
        (TD3BC(), "density"),
        (TinyIQL(), "pre_tanh"),
        (TinyFQL(), "fixed_sigma"),
        (TD3BC(), "surrogate"),
        (CQL(), "model"),
    ],
)
def test_a_deviation_that_is_not_defined_is_refused(learner, deviation):
    with pytest.raises(StackError, match=rf"deviation='{deviation}'.*{learner.facts().distribution}.*'auto'"):
        Stack(learner, (SSAR(deviation=deviation),))


def test_doubts():
    assert "questionable" in warned(TinyIQL(), SSAR())
    assert "multimodal" in warned(TinyFQL(), SSAR(deviation="surrogate"))
    assert "multimodal" not in warned(TinyFQL(), SSAR())
    with pytest.raises(StackError, match=r"ssar: loosen_bound=True .*critic='layernorm' or 'robust'"):
        wrap(TD3BC(), SSAR(loosen_bound=True))
    wrap(TD3BC(), SSAR(loosen_bound=True, select="all"))
    assert not warned(TD3BC(critic="layernorm"), SSAR(loosen_bound=True))
    for ssar in (SSAR(), SSAR(select="all"), SSAR(loosen_bound=False)):
        assert not warned(TD3BC(), ssar)
    assert not warned(TD3BC(critic="robust"), SSAR())


BAD: dict[str, dict] = {
    "sigma": {"sigma": 0.0},
    "samples": {"samples": 0},
    "n_start": {"n_start": 4.0},
    "growth_every": {"growth_every": 0},
    "rate": {"rate": -1.0},
    "cap": {"cap": 1.0},
    "hidden": {"hidden": 0},
    "trusted_fraction": {"trusted_fraction": 0.0},
    "selection_expectile": {"selection_expectile": 1.0},
    "selection_steps": {"selection_steps": 0},
    "annealing_steps": {"annealing_steps": 0},
    "published_steps": {"published_steps": 0},
}


@pytest.mark.parametrize("setting", BAD)
def test_settings_are_checked(setting):
    with pytest.raises(StackError, match=rf"(?i)ssar: {setting}"):
        SSAR(**BAD[setting])


# -- presets ----------------------------------------------------------------------------------------------------------

BEST_RETURNS = {
    "halfcheetah-medium": 5309,
    "halfcheetah-expert": 11252,
    "hopper-medium": 3222,
    "hopper-expert": 3759,
    "walker2d-medium": 4227,
    "walker2d-expert": 5012,
}
"""Of D4RL v2; a medium-expert set holds the expert's episodes too."""


def test_presets_trust_something():
    """The published thresholds of CQL on two halfcheetah sets lie above every return there; ours do not."""
    checked = set()
    for table, (name, settings) in itertools.chain(
        *(zip(itertools.repeat(k), t.items()) for k, t in (("", ON_TD3BC), ("cql-", ON_CQL)))
    ):
        ssar = SSAR.preset(f"{table}{name}")
        if settings["select"] == "return":
            assert ssar.return_threshold < BEST_RETURNS[name.replace("medium-expert", "expert")], name
            checked.add(f"{table}{name}")
    assert {"halfcheetah-medium", "cql-halfcheetah-medium", "cql-halfcheetah-medium-expert"} <= checked
