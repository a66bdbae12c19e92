"""Published settings, typed again from the papers' tables and the released configurations, row by row."""

from __future__ import annotations

from typing import Any

import pytest

from adaptive_constraints import ANQ, ILQ, SSAR, baselines
from adaptive_constraints.adapters import frozen_models
from adaptive_constraints.baselines import AWAC, BC, CQL, EDAC, FQL, IQL, SACN, TD3BC, DiffusionQL, ReBRAC, cql, sac_n
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.core.part import Part

# eta, delta, kappa
IMAGINATION: dict[str, Any] = {
    "halfcheetah-random": (0.95, 2, 0),
    "hopper-random": (0.9, 1, 1),
    "walker2d-random": (0.7, 1, 0),
    "halfcheetah-medium": (0.95, 1, 0),
    "hopper-medium": (0.95, -2, 2),
    "walker2d-medium": (0.9, 0.5, 1),
    "halfcheetah-medium-replay": (0.95, 2, 0),
    "hopper-medium-replay": (0.8, -0.5, 1),
    "walker2d-medium-replay": (0.9, 1, 2),
    "halfcheetah-medium-expert": (0.6, 1, 0),
    "hopper-medium-expert": (0.4, -0.5, 0),
    "walker2d-medium-expert": (0.8, 1, 0),
    "maze2d-umaze": (0.95, -0.5, 0),
    "maze2d-umaze-dense": (0.95, 0, 0),
    "maze2d-medium": (0.95, 0, 0),
    "maze2d-medium-dense": (0.95, 0, 0),
    "maze2d-large": (0.95, 0, 0),
    "maze2d-large-dense": (0.95, 0, 0),
    "pen-human": (0.8, -1, 0),
    "pen-cloned": (0.8, 0, 0),
}

# The rule and its number on TD3+BC, n at the end, likewise on CQL. The published 6000 of two CQL rows trusts nothing.
SELECTION: dict[str, Any] = {
    "halfcheetah-medium": ("return", 5200, 3.0, "return", 5200, 3.0),
    "halfcheetah-medium-replay": ("advantage", 0.7, 3.0, "advantage", 0.7, 3.0),
    "halfcheetah-medium-expert": ("advantage", 0.7, 1.5, "return", 11000, 3.0),
    "halfcheetah-expert": ("return", 10500, 1.5, "return", 11000, 3.0),
    "hopper-medium": ("return", 1800, 3.0, "return", 2500, 3.0),
    "hopper-medium-replay": ("advantage", 0.7, 3.0, "advantage", 0.7, 3.0),
    "hopper-medium-expert": ("advantage", 0.5, 1.5, "advantage", 0.5, 1.5),
    "hopper-expert": ("return", 3500, 1.5, "return", 3500, 1.5),
    "walker2d-medium": ("return", 2500, 3.0, "return", 3600, 3.0),
    "walker2d-medium-replay": ("advantage", 0.7, 3.0, "advantage", 0.7, 3.0),
    "walker2d-medium-expert": ("advantage", 0.7, 1.5, "advantage", 0.7, 3.0),
    "walker2d-expert": ("return", 4500, 1.5, "return", 4800, 3.0),
}

# n at the start and at the end, whether the constraint is annealed online, steps per update of TD3+BC's policy there
MAZES: dict[str, Any] = {
    "antmaze-umaze": (1.0, 5.0, True, None),
    "antmaze-umaze-diverse": (1.0, 3.0, True, None),
    "antmaze-medium-play": (5.0, 5.0, False, 30),
    "antmaze-medium-diverse": (5.0, 5.0, False, 20),
    "antmaze-large-play": (5.0, 5.0, False, 100),
    "antmaze-large-diverse": (5.0, 5.0, False, 100),
}

# Critics of SAC-N, critics and eta of EDAC, by CORL's configurations; None where it has none.
ENSEMBLES: dict[str, Any] = {
    "halfcheetah-medium": (10, 10, 1.0),
    "halfcheetah-medium-replay": (10, 10, 1.0),
    "halfcheetah-medium-expert": (10, 10, 5.0),
    "hopper-medium": (500, 50, 1.0),
    "hopper-medium-replay": (200, 50, 1.0),
    "hopper-medium-expert": (200, 50, 1.0),
    "walker2d-medium": (20, 10, 1.0),
    "walker2d-medium-replay": (20, 10, 1.0),
    "walker2d-medium-expert": (20, 10, 5.0),
    "maze2d": (25, 10, 0.1),
    "antmaze": (25, 10, 1.0),
    "adroit": (100, 50, 200.0),
    "pen-human": (100, 20, 1000.0),
    "pen-cloned": (100, 20, 10.0),
    "pen-expert": (100, 20, 10.0),
}


def preset_of(learner: type[Part], data: str) -> Any:
    """The preset of a data set, or the one of its family."""
    family = data if data in learner.presets else data.partition("-")[0]
    return learner.preset(family if family in learner.presets else "adroit")


@pytest.mark.parametrize("data", ENSEMBLES)
def test_ensembles(data):
    sac, edac = preset_of(SACN, data), preset_of(EDAC, data)
    assert (sac.critics, edac.critics, edac.eta) == ENSEMBLES[data]
    for learner in (sac, edac):
        assert (learner.batch_size, learner.hidden, learner.discount, learner.polyak) == (256, 256, 0.99, 0.005)
        assert not learner.normalize_observations and (learner.reward_scale, learner.reward_shift) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("family", "temperature", "shift"),
    [("gym", 0.3333, 0.0), ("maze2d", 0.1, 0.0), ("antmaze", 0.1, -1.0), ("adroit", 0.1, 0.0)],
)
def test_advantage_weights(family, temperature, shift):
    learner = AWAC.preset(family)
    assert learner.beta == pytest.approx(1 / temperature, rel=1e-3)
    assert learner.reward_shift == shift
    assert (learner.batch_size, learner.hidden, learner.polyak, learner.largest_weight) == (256, 256, 0.005, 100.0)
    assert learner.normalize_observations and learner.reward_scale == 1.0


def test_cloning():
    assert set(BC.presets) - {"10%"} == {"gym", "maze2d", "antmaze", "adroit"}
    shares = {name: BC.preset(name).best for name in BC.presets}
    assert shares == {"gym": 1.0, "maze2d": 1.0, "antmaze": 1.0, "adroit": 1.0, "10%": 0.1}
    assert (BC().batch_size, BC().hidden, BC().normalize_observations) == (256, 256, True)


@pytest.mark.parametrize("data", IMAGINATION)
def test_imagination_limited(data):
    preset = ILQ.preset(data)
    assert (preset.eta, preset.delta, preset.penalty) == IMAGINATION[data]


@pytest.mark.parametrize("data", SELECTION)
def test_state_adaptive_on_locomotion(data):
    on_td3bc, on_cql = SSAR.preset(data), SSAR.preset(f"cql-{data}")
    expected = SELECTION[data]
    for preset, (rule, number, n_end) in ((on_td3bc, expected[:3]), (on_cql, expected[3:])):
        chosen = preset.return_threshold if rule == "return" else preset.selection_expectile
        assert (preset.select, chosen, preset.n_start, preset.n_end) == (rule, number, 1.0, n_end)
        assert preset.published_steps == 1_000_000
    assert on_td3bc.loosen_bound == (data != "halfcheetah-medium-expert") and on_cql.loosen_bound
    assert (on_td3bc.annealing, on_cql.annealing) == ("linear", "cosine")


@pytest.mark.parametrize("data", MAZES)
def test_state_adaptive_in_mazes(data):
    n_start, n_end, annealed, online_policy_every = MAZES[data]
    for preset in (SSAR.preset(data), SSAR.preset(f"cql-{data}")):
        assert (preset.select, preset.n_start, preset.n_end, preset.loosen_bound) == ("success", n_start, n_end, False)
        assert preset.published_steps == 2_000_000
    assert (SSAR.preset(data).annealing == "linear") == annealed
    learner = TD3BC.preset(f"ssar-{data}")
    assert (learner.critic, learner.reward_shift, learner.policy_every) == ("layernorm", -1.0, 2)
    assert learner.online_policy_every == online_policy_every
    offline, online = (learner.stages(phase)[1].every for phase in ("offline", "online"))
    assert (offline, online) == (2, online_policy_every or 2)


def test_what_adapters_stand_on():
    soft = CQL.preset("ssar-antmaze")
    assert soft == CQL.preset("antmaze", critic="robust", actor_imitation=0.5)
    assert (soft.alpha, soft.target_gap, soft.smallest_gap, soft.backup_actions) == (5.0, 0.8, -200.0, 10)
    assert (soft.actor_learning_rate, soft.reward_scale, soft.reward_shift) == (1e-4, 10.0, -5.0)
    large = IQL.preset("anq-antmaze-large")
    assert large == IQL.preset("anq-antmaze", normalize_observations=False)
    assert (large.critics, large.aggregate_q, large.beta, large.expectile) == (4, "mean", 10.0, 0.9)
    mazes = ReBRAC.preset("maze2d")
    assert (mazes.batch_size, mazes.actor_learning_rate, mazes.critic_learning_rate) == (256, 3e-4, 3e-4)


# Which optimizer steps at which rate, as the released code builds them: in general, and where a data set differs. A
# rate in a paper's table may be meant for one network alone.
ADAM: dict[type[Part], tuple[dict[str, float], dict[str, dict[str, float]]]] = {
    TD3BC: ({"critic": 3e-4, "actor": 3e-4}, {"pendulum": {"critic": 1e-3, "actor": 1e-3}}),
    IQL: (
        {"value": 3e-4, "critic": 3e-4, "actor": 3e-4},
        {"pendulum": {"value": 1e-3, "critic": 1e-3, "actor": 1e-3}},
    ),
    CQL: (
        {"temperature": 3e-5, "actor": 3e-5, "critic": 3e-4},
        {
            "maze2d": {"multiplier": 3e-4},
            "antmaze": {"temperature": 1e-4, "actor": 1e-4, "multiplier": 3e-4},
            "adroit": {"temperature": 1e-4, "actor": 1e-4},
            "ssar-antmaze": {"temperature": 1e-4, "actor": 1e-4, "multiplier": 3e-4},
            "calql-antmaze": {"temperature": 1e-4, "actor": 1e-4, "multiplier": 3e-4},
            "calql-adroit": {"temperature": 1e-4, "actor": 1e-4},
            "ilq": {"temperature": 3e-4, "actor": 3e-4, "critic": 5e-4},
            "ilq-hopper-random": {"temperature": 1e-4, "actor": 1e-4},
            "ilq-hopper-medium-replay": {"temperature": 1e-4, "actor": 1e-4},
            "ilq-walker2d-medium-replay": {"temperature": 1e-4, "actor": 1e-4},
            "ilq-adroit": {"temperature": None, "actor": 1e-4},
            "pendulum": {"temperature": 1e-3, "actor": 1e-3, "critic": 1e-3},
        },
    ),
    DiffusionQL: (
        {"critic": 3e-4, "actor": 3e-4},
        {
            "antmaze-medium-play": {"actor": 1e-3},
            "pen-human": {"actor": 3e-5},
            "pen-cloned": {"actor": 3e-5},
            "adroit": {"actor": 3e-5},
            "pendulum": {"critic": 1e-3, "actor": 1e-3},
        },
    ),
    BC: ({"actor": 3e-4}, {}),
    SACN: ({"temperature": 3e-4, "actor": 3e-4, "critic": 3e-4}, {}),
    EDAC: ({"temperature": 3e-4, "actor": 3e-4, "critic": 3e-4}, {}),
    AWAC: ({"critic": 3e-4, "actor": 3e-4}, {}),
    FQL: (
        {"critic": 3e-4, "teacher": 3e-4, "student": 3e-4},
        {"pendulum": {"critic": 1e-3, "teacher": 1e-3, "student": 1e-3}},
    ),
    ReBRAC: (
        {"critic": 1e-3, "actor": 1e-3},
        {
            "antmaze": {"critic": 5e-5, "actor": 3e-4},
            "maze2d": {"critic": 3e-4, "actor": 3e-4},
            "adroit": {"critic": 3e-4, "actor": 3e-4},
        },
    ),
}
PRESETS = [(learner, name) for learner in ADAM for name in learner.presets]


def rates_at_the_start(*parts):
    """The first learning rate of each group's optimizer, in a run of a million steps."""
    updates = [update for stage in Stack(parts[0], parts[1:]).resolve().stages for update in stage.updates]
    return {u.group: u.learning_rate(1, 10**6) if callable(u.learning_rate) else u.learning_rate for u in updates}


@pytest.mark.parametrize(("learner", "name"), PRESETS, ids=lambda value: getattr(value, "__name__", value))
def test_every_preset_gives_its_rates_to_the_optimizers_they_are_meant_for(learner, name):
    general, special = ADAM[learner]
    expected = {group: rate for group, rate in (general | special.get(name, {})).items() if rate is not None}
    assert rates_at_the_start(learner.preset(name)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", DiffusionQL.presets)
def test_a_bound_on_gradients_holds_for_both_networks(name):
    learner = DiffusionQL.preset(name)
    bounds = {update.clip for stage in learner.stages("offline") for update in stage.updates}
    assert bounds == {learner.gradient_clip}


def test_the_rates_of_adapters_reach_their_own_groups_alone():
    learner: Any = IQL.preset("anq")
    bare = rates_at_the_start(learner)
    for name in ANQ.presets:
        assert rates_at_the_start(learner, ANQ.preset(name)) == pytest.approx(bare | {"anq.mu": 3e-4}, rel=1e-9)
    for family, base, published in (("ssar", TD3BC, 3e-8), ("ssar", CQL, 1e-8)):
        learner = base.preset(family)
        names = [preset for preset in SSAR.presets if preset.startswith("cql-") == (base is CQL)]
        assert names
        for name in names:
            # The rate is for a million steps of the code, or two; ours keeps rate * steps of any length.
            rates = dict(rates_at_the_start(learner, SSAR.preset(name)))
            beta, steps = rates.pop("ssar.beta"), SSAR.preset(name).published_steps
            assert rates == rates_at_the_start(learner), name
            assert beta == pytest.approx(published * steps / 10**6, rel=1e-9), name


def test_numbers_that_no_preset_has():
    assert (frozen_models.DYNAMICS_LEARNING_RATE, frozen_models.LEARNING_RATE) == (1e-3, 3e-4)
    assert (ILQ().samples, ILQ().behavior_steps, ILQ().model_epochs, ILQ().diffusion_steps) == (10, 300_000, 40, 5)
    assert (ILQ().model_members, ILQ().model_elites, ILQ().model_hidden, ILQ().model_patience) == (7, 5, 200, 5)
    assert cql.LOG_STD == (-20.0, 2.0) and sac_n.LOG_STD == (-5.0, 2.0)
    assert all(getattr(baselines, name)().discount == 0.99 for name in ("TD3BC", "IQL", "CQL", "DiffusionQL", "FQL"))
