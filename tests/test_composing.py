"""What wrap composes: neutral parts, parts taken off, explanations, and what is refused or warned of."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from importlib import import_module

import numpy as np
import pytest
import torch

from adaptive_constraints import ASPC, Adapter, FixedTradeoff, LinearTradeoff, adapters, baselines, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.composition import registry
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.errors import StackError

from .agents import SMALL, aspc_on_td3bc, assert_same, fit, state


@pytest.fixture
def stack():
    return aspc_on_td3bc()


def test_a_class_with_the_name_of_a_bundled_one_is_refused():
    """It would be read back as that one; the name goes on meaning the bundled class meanwhile."""
    foreign = type("TD3BC", (TD3BC,), {"__module__": "mine"})
    with pytest.raises(StackError, match=r"mine\.TD3BC has the name of adaptive_constraints\.baselines\.\S+\.TD3BC"):
        Stack(foreign(**SMALL), ()).to_spec()
    assert registry.learner("TD3BC") is TD3BC
    assert Stack(TD3BC(**SMALL), ()).to_spec()["learner"]["type"] == "TD3BC"


def test_wrap_describes_without_touching_its_parts():
    learner, adapter = TD3BC(), ASPC()
    agent = wrap(learner, adapter)
    assert (agent.learner, agent.adapters) == (learner, (adapter,))
    assert agent.name == "TD3BC + aspc"
    assert repr(agent) == f"wrap({learner!r}, {adapter!r})"


def test_an_adapter_taken_off_is_an_adapter_absent():
    bare, less = wrap(TD3BC(**SMALL)), wrap(TD3BC(**SMALL), ASPC()).without("aspc")
    fit(bare), fit(less)
    assert_same(bare, less)


def test_wrapping_twice_is_wrapping_once():
    class Double(Adapter):
        def constraint_weight(self, v):
            return 2.0

    learner = TD3BC(**SMALL)
    once = wrap(learner, FixedTradeoff(value=3.0), Double(name="double"))
    twice = wrap(wrap(learner, FixedTradeoff(value=3.0)), Double(name="double"))
    fit(once), fit(twice)
    assert once.adapters == twice.adapters
    assert_same(once, twice)


def test_the_learners_own_scale_as_an_adapter_changes_nothing():
    bare, fixed = wrap(TD3BC(**SMALL)), wrap(TD3BC(**SMALL), FixedTradeoff())
    fit(bare), fit(fixed)
    assert_same(bare, fixed)


def test_aspc_at_rate_zero_is_the_learner_to_one_rounding():
    bare, still = (
        wrap(TD3BC(critic="robust", **SMALL)),
        wrap(TD3BC(critic="robust", **SMALL), ASPC(rate=0.0, interval=2)),
    )
    fit(bare), fit(still)
    for name, tensor in state(bare).items():
        if name.startswith(("params", "targets")):
            torch.testing.assert_close(state(still)[name], tensor, rtol=1e-5, atol=1e-6)


def test_linear_tradeoff_ends_where_it_should():
    agent = wrap(TD3BC(**SMALL), LinearTradeoff(start=1.0, end=5.0))
    at, values = fit(agent, steps=40).series("lineartradeoff/tradeoff")
    np.testing.assert_allclose(values, (1 + 4 * at / 40)[:, None].repeat(2, axis=1), rtol=1e-6)


def test_a_stack_survives_its_serialized_form(stack):
    spec = json.loads(json.dumps(stack.stack.to_spec()))
    assert Stack.from_spec(spec) == stack.stack


def test_explain_names_stages_seams_evidence_and_warnings():
    text = wrap(TD3BC(), ASPC()).explain()
    for expected in (
        "every 2 steps",
        "every 20 steps the trade-off by aspc",
        "tradeoff           aspc",
        "arXiv 2508.19900",
    ):
        assert expected in text
    assert "robust critic" in text, "the plain critic is worth a warning under ASPC"
    assert "Warnings" not in wrap(TD3BC(critic="robust"), ASPC()).explain()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((TD3BC,), r"the class TD3BC; write TD3BC\(\)"),
        ((TD3BC(), ASPC), r"the class ASPC; write ASPC\(\)"),
        ((TD3BC(), "aspc"), "must be an adapter"),
        ((TD3BC(), ASPC(), ASPC()), "share one name"),
        ((TD3BC(), ASPC(), FixedTradeoff()), r"ASPC \(name 'aspc'\) and FixedTradeoff .* both decide 'tradeoff'"),
        ((TD3BC(), ASPC(name="No good")), "lower-case"),
    ],
)
def test_stacks_that_cannot_be(parts, message):
    with pytest.raises(StackError, match=message):
        wrap(*parts)


@pytest.mark.parametrize(
    ("part", "settings", "message"),
    [
        (TD3BC, {"critic": "robus"}, "TD3BC: critic must be 'plain', 'layernorm' or 'robust', not 'robus'"),
        (TD3BC, {"hidden": 2.5}, "hidden must be a whole number >= 1, not 2.5"),
        (TD3BC, {"hidden": "256"}, "hidden must be a whole number >= 1, not '256'"),
        (ASPC, {"rate": "fast"}, "ASPC: rate must be 'scaled', 'published' or a number >= 0, not 'fast'"),
    ],
)
def test_settings_are_checked_where_they_are_given(part, settings, message):
    with pytest.raises(StackError, match=message):
        part(**settings)


OURS = [
    part
    for part in [*registry.learners().values(), *registry.adapters().values()]
    if part.__module__.startswith("adaptive_constraints.")
]


@pytest.mark.parametrize("part", OURS, ids=lambda part: part.__name__)
def test_numbers_that_make_no_sense_are_refused(part):
    """Whatever a setting is, it is finite; learning rates, noise and lengths have a sign."""
    numbers = {field.name: field.default for field in fields(part) if isinstance(field.default, float)}
    for name in numbers:
        for value in (math.nan, math.inf, -math.inf):
            with pytest.raises(StackError, match=rf"{name} .*not -?(nan|inf)"):
                part(**{name: value})
    signed = {name for name in numbers if name.endswith("learning_rate") or name in ("policy_noise", "noise_clip")}
    for name in signed | ({"reward_scale"} & numbers.keys()):
        with pytest.raises(StackError, match=rf"{name} .*not -1"):
            part(**{name: -1.0})


def test_a_phase_that_is_none_is_refused(stack):
    with pytest.raises(StackError, match="phase must be 'offline' or 'online', not 'onlin'"):
        stack.explain("onlin")


def test_settings_are_named():
    """A number alone might be meant for any of them."""
    for part in (TD3BC, FixedTradeoff):
        with pytest.raises(TypeError, match="positional"):
            part(0.5)


def test_an_adapter_that_does_nothing_is_noticed():
    class Misspelled(Adapter):
        def sample_wieght(self, v):
            return 2.0

        def helper(self):
            return 0

    class Answering(Misspelled):
        def sample_weight(self, v):
            return 1.0

        def td_weights(self, v):
            return 2.0

    def warned(adapter):
        return tuple(map(str, Stack(TD3BC(), (adapter,)).resolve().warnings))

    idle, near = warned(Misspelled())
    assert "it answers no seam" in idle and "its method sample_wieght(): is sample_weight() meant?" in near
    assert warned(Answering()) == ("answering: nobody calls its method td_weights(): is td_weight() meant?",)


def test_only_parts_that_are_meant_to_be_used_are_listed():
    import_module("adaptive_constraints.testing")  # which defines some for its own ends
    known = {**registry.learners(), **registry.adapters()}
    ours = {name for name, part in known.items() if part.__module__.startswith("adaptive_constraints")}
    assert ours == {*baselines.__all__, *adapters.__all__}


def test_taking_off_what_is_not_there(stack):
    with pytest.raises(StackError, match=r"no adapter named 'anq'.*\['aspc'\]"):
        stack.without("anq")


@pytest.mark.parametrize(
    "settings",
    [{"alpha": 0.0}, {"hidden": 0}, {"policy_every": 0}, {"polyak": 1.5}, {"discount": 1.1}, {"batch_size": 0}],
)
def test_td3_bc_refuses_settings_out_of_range(settings):
    with pytest.raises(StackError, match=f"TD3BC: {next(iter(settings))} must"):
        TD3BC(**settings)


@pytest.mark.parametrize("settings", [{"initial": -1.0}, {"interval": 0}, {"ema": 1.0}, {"rate": -1.0}])
def test_aspc_refuses_settings_out_of_range(settings):
    with pytest.raises(StackError, match=next(iter(settings))):
        ASPC(**settings)
