"""FQL against a plain loop and plain figures."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from adaptive_constraints import ASPC, Spec
from adaptive_constraints.baselines import FQL
from adaptive_constraints.data import Preprocessor
from adaptive_constraints.engine import noise
from adaptive_constraints.errors import StackError
from adaptive_constraints.testing import Probe, check_learner

from .helpers import apart_from_alone, build, different, meta_gradients, random_data, resolved_of, trained
from .reference.common import beside
from .reference.fql import PlainFQL

SMALL = FQL(hidden=8, layers=2, batch_size=16, flow_steps=3, normalize_q=True, alpha=3.0)

# -- the plain loop ---------------------------------------------------------------------------------------------------


PLAIN = {
    "mean": FQL(layers=3),
    "min, normalised": FQL(aggregate_q="min", normalize_q=True, alpha=1.0, discount=0.995, layers=2),
}


@pytest.mark.parametrize("case", PLAIN)
def test_equals_a_plain_loop_in_float32(case):
    engine, loop = beside(PlainFQL, replace(PLAIN[case], hidden=64, batch_size=64), steps=100, dtype=torch.float32)
    assert loop.largest_deviation(engine) < 1e-5


def test_the_real_sizes_equal_a_plain_loop():
    engine, loop = beside(PlainFQL, FQL(), steps=2, dtype=torch.float64)
    learner = resolved_of(engine).learner
    assert (learner.hidden, learner.layers, learner.flow_steps, learner.batch_size) == (512, 4, 10, 256)
    assert loop.largest_deviation(engine) < 1e-10


def test_initial_weights_are_xaviers():
    params = build(FQL(hidden=100, layers=3)).params
    inputs = {"critic": 3 + 2, "teacher": 3 + 2 + 1, "student": 3 + 2}
    for group, p in params.items():
        sizes = [inputs[group], 100, 100, 100, 1 if group == "critic" else 2]
        for layer, (wide, narrow) in enumerate(itertools.pairwise(sizes)):
            weight, bound = p[f"weight{layer}"], (6 / (wide + narrow)) ** 0.5
            assert weight.shape[-2:] == (wide, narrow)
            assert 0.9 * bound < weight.abs().max() <= bound
            assert not p[f"bias{layer}"].any()
        assert ("gain0" in p) == (group == "critic")


# -- the learner ------------------------------------------------------------------------------------------------------


def test_it_keeps_the_laws_of_a_learner():
    """Shapes, seams, seeds together and alone, traced and eager, resuming, a loaded agent acting as the saved one."""
    check_learner(SMALL)


def test_seeds_together_are_seeds_alone():
    assert apart_from_alone(replace(SMALL, aggregate_q="min"), ASPC(interval=2), steps=20) <= 1e-12


HEARD = {
    "bootstrap": "critic",
    "td_weight": "critic",
    "critic_rows": "critic",
    "behavior_action": "teacher",
    "sample_weight": "teacher",
    "constraint": "student",
    "constraint_weight": "student",
    "constraint_scale": "student",
    "tradeoff": "student",
}


@pytest.mark.parametrize("seam", HEARD)
def test_every_seam_is_heard_in_one_group(seam):
    assert HEARD.keys() == SMALL.facts().seams
    bare, probed = trained(SMALL, steps=1), trained(SMALL, Probe(seam=seam, by=0.5), steps=1)
    one, two = ({n: t for n, t in engine.state().items() if "exp_avg" in n} for engine in (bare, probed))
    assert {name.split("/")[1] for name in different(one, two)} == {HEARD[seam]}


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
@pytest.mark.parametrize("normalize_q", [True, False])
def test_the_closed_form_agrees_with_automatic_differentiation(normalize_q, seeds):
    learner = replace(SMALL, normalize_q=normalize_q)
    for one, two in zip(*meta_gradients(learner, rounds=2, horizon=10, seeds=seeds), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=0)
        assert (one != 0).all()


def test_facts_follow_the_settings():
    for normalize_q in (True, False):
        facts = FQL(normalize_q=normalize_q, alpha=7.0).facts()
        assert (facts.normalizes_improvement, facts.tradeoff) == (normalize_q, 7.0)


def test_terms_are_on_the_scale_of_q_unless_it_is_normalised():
    """Same parameters and noise: the improvement is -Q, or that over its mean size."""
    for normalize_q in (True, False):
        engine = trained(replace(SMALL, normalize_q=normalize_q), steps=2)
        terms = engine.ask("test", lambda v: v.services.terms(v.p["student"])._asdict())
        scale = terms["value"].abs().mean() if normalize_q else 1.0
        torch.testing.assert_close(terms["improvement"], -terms["value"] / scale)


# -- acting and the behaviour ------------------------------------------------------------------------------------------


def test_it_acts_on_fresh_noise_every_step():
    engine = trained(SMALL, seeds=(0, 1))
    observations = torch.zeros(2, 4, 3)
    first, again, second = (engine.act(observations, step) for step in (0, 0, 1))
    assert torch.equal(first, again) and not torch.isclose(first, second).any()
    z = noise.normal(torch.tensor([0, 1]), "act/student", torch.tensor([1]), (4, 2), torch.float32)[0]
    for seed in range(2):
        p = {name: tensor[seed] for name, tensor in engine.params["student"].items()}
        torch.testing.assert_close(second[seed], SMALL.student(p, observations[seed], z[seed]).clamp(-1, 1))


def test_the_flow_learns_both_modes_where_there_are_two():
    """At s = 0 three in ten actions lie about -0.7 and the others about 0.7, at s = 1 all lie about 0.2."""
    learner, draw, rows = FQL(hidden=64, layers=2), torch.Generator().manual_seed(0), 192
    p = {name: t.requires_grad_() for name, t in learner.init(Spec(1, 1), draw)["teacher"].items()}
    optimizer = torch.optim.Adam(p.values(), lr=8e-3, fused=True)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 800)
    v = SimpleNamespace(
        s=(torch.arange(rows) % 3 == 0).float()[:, None],
        a=torch.zeros(rows, 1),
        p={"teacher": p},
        spec=Spec(1, 1),
        normal=lambda site, shape: torch.randn(shape, generator=draw),
        uniform=lambda site, shape: torch.rand(shape, generator=draw),
        sample_weight=lambda: 1.0,
    )
    for _ in range(800):
        sides = torch.where(torch.rand(rows, 1, generator=draw) < 0.3, -0.7, 0.7)
        actions = torch.where(v.s == 1, 0.2, sides) + 0.1 * torch.randn(rows, 1, generator=draw)
        v.behavior_action = lambda actions=actions: actions
        optimizer.zero_grad()
        learner.flow_matching(p, v).backward()
        optimizer.step(), decay.step()
    with torch.no_grad():
        drawn = learner.sample_behavior(v, torch.tensor([[0.0], [1.0]]), "test", 4000)[..., 0]
    share = {at: float(((drawn[:, 0] - at).abs() < 0.3).float().mean()) for at in (-0.7, 0.0, 0.7)}
    assert share == pytest.approx({-0.7: 0.3, 0.0: 0.0, 0.7: 0.7}, abs=0.1)
    assert ((drawn[:, 1] - 0.2).abs() < 0.3).float().mean() > 0.95


def test_actions_of_the_data_stay_off_the_bounds():
    settings = FQL()
    fitted = Preprocessor.fit(random_data(), action_margin=settings.action_margin)
    actions = fitted.actions(torch.tensor([[-1.0, 0.5]], dtype=torch.float64))
    assert actions[0].tolist() == pytest.approx([-1 + 1e-5, 0.5], abs=1e-7)
    assert actions[0, 0] > -1


# -- settings ---------------------------------------------------------------------------------------------------------

TABLE = """
antmaze-large-navigate       10   min  .99  0
antmaze-giant-navigate       10   min  .995 0
humanoidmaze-medium-navigate 30   mean .995 0
humanoidmaze-large-navigate  30   mean .995 0
antsoccer-arena-navigate     10   mean .995 0
cube-single-play             300  mean .99  0
cube-double-play             300  mean .99  0
scene-play                   300  mean .99  0
puzzle-3x3-play              1000 mean .99  0
puzzle-4x4-play              1000 mean .99  0
antmaze-umaze                10   mean .99  -1
antmaze-umaze-diverse        10   mean .99  -1
antmaze-medium-play          10   mean .99  -1
antmaze-medium-diverse       10   mean .99  -1
antmaze-large-play           3    mean .99  -1
antmaze-large-diverse        3    mean .99  -1
pen-human                    1e4  min  .99  0
pen-cloned                   1e4  min  .99  0
pen-expert                   3e3  min  .99  0
door-human                   3e4  min  .99  0
door-cloned                  3e4  min  .99  0
door-expert                  3e4  min  .99  0
hammer-human                 3e4  min  .99  0
hammer-cloned                1e4  min  .99  0
hammer-expert                3e4  min  .99  0
relocate-human               1e4  min  .99  0
relocate-cloned              3e4  min  .99  0
relocate-expert              3e4  min  .99  0
"""
"""Of the paper: alpha, the targets' Q, discount, and what is added to rewards."""


def test_presets_are_the_papers_table():
    rows = {name: rest for name, *rest in map(str.split, TABLE.strip().splitlines())}
    families = {"antmaze": "antmaze-medium-play", "adroit": "door-human"}
    assert rows.keys() | families.keys() | {"gym", "pendulum"} == FQL.presets.keys()
    for name, (alpha, aggregate, discount, shift) in rows.items():
        expected = FQL(alpha=float(alpha), aggregate_q=aggregate, discount=float(discount), reward_shift=float(shift))
        assert FQL.preset(name) == expected, name
    for family, name in families.items():
        assert FQL.preset(family) == FQL.preset(name)
    assert FQL.preset("gym") == FQL(alpha=1.0, normalize_q=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0.0}, "alpha must be a number > 0, not 0.0"),
        ({"layers": 0}, "layers must be a whole number >= 1, not 0"),
        ({"hidden": 0}, "hidden must be a whole number >= 1"),
        ({"flow_steps": 0}, "flow_steps must be a whole number >= 1"),
        ({"polyak": 0.0}, r"polyak must be a number in \(0, 1\], not 0.0"),
        ({"action_margin": 1.0}, r"action_margin must be a number in \[0, 1\), not 1.0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(StackError, match=f"FQL: {message}"):
        FQL(**settings)
