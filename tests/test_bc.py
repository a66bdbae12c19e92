"""Behaviour cloning against a plain loop, of all of the data and of its best episodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from adaptive_constraints import Dataset, load_agent, wrap
from adaptive_constraints.baselines import BC
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.errors import AdaptiveConstraintsError, DatasetError, StackError
from adaptive_constraints.testing import Probe, made_data

from .fine_tuning import Walk, finetune, make_data, minibatch, offline
from .helpers import apart_from_alone, build, different, learned, trained
from .reference.bc import PlainBC
from .reference.common import beside
from .test_capture import states

SMALL: dict[str, Any] = {"hidden": 8, "batch_size": 16}


@pytest.fixture(autouse=True)
def _fresh_log():
    Walk.made = []


def test_equals_a_plain_loop():
    engine, loop = beside(PlainBC, BC(hidden=16, batch_size=32), steps=100, dtype=torch.float64)
    assert loop.largest_deviation(engine) < 1e-10


def test_equals_a_plain_loop_in_float32():
    engine, loop = beside(PlainBC, BC(hidden=32, batch_size=64), steps=100, dtype=torch.float32)
    assert loop.largest_deviation(engine) < 1e-5


def test_seeds_together_and_traced_are_seeds_alone():
    assert apart_from_alone(BC(**SMALL), traced=True, steps=5) < 1e-12


@pytest.mark.parametrize("seam", sorted(BC().facts().seams))
def test_every_seam_is_heard(seam):
    plain, probed = (trained(BC(**SMALL), *probe) for probe in ((), (Probe(seam=seam, by=0.5),)))
    assert different(learned(plain), learned(probed))


# -- the best episodes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "kept"), [(0.01, 1), (0.1, 1), (0.25, 3), (0.5, 6), (1.0, 12)])
def test_the_best_episodes_are_kept_and_at_least_one(share, kept):
    data = make_data()
    chosen = BC(best=share).training_data(data)
    assert chosen.episodes == kept
    assert sorted(chosen.episode_returns()) == pytest.approx(sorted(data.episode_returns())[-kept:])


def test_training_on_them_is_training_on_a_set_that_has_no_others():
    """Normalisation included; the run still knows the whole set for what it is."""
    data, options = made_data(), {"steps": 5, "seeds": 2, "device": "cpu", "traced": False, "progress": False}
    agent, alone = wrap(BC(best=0.5, **SMALL)), wrap(BC(**SMALL))
    agent.fit(data, **options), alone.fit(BC(best=0.5).training_data(data), **options)
    assert not different(states(agent.run.engine), states(alone.run.engine))
    everything = wrap(BC(**SMALL))
    everything.fit(data, **options)
    assert different(states(agent.run.engine), states(everything.run.engine))
    assert agent.run.dataset is data and len(agent.run.engine.batches) == 80


def test_such_a_run_resumes_on_the_whole_set(tmp_path):
    options: dict[str, Any] = {"steps": 6, "seeds": 2, "device": "cpu", "traced": False, "progress": False}
    whole, parted = (wrap(BC(best=0.5, **SMALL)) for _ in range(2))
    whole.fit(made_data(), **options)
    parted.fit(made_data(), stop_after=2, **options)
    parted.save(tmp_path / "agent.npz")
    loaded = load_agent(tmp_path / "agent.npz", device="cpu")
    loaded.fit(made_data(), **options)
    assert not different(states(whole.run.engine), states(loaded.run.engine))


@pytest.mark.parametrize(("buffer", "kept"), [("all", 60), ("part", 20)])
def test_online_the_rows_that_stay_are_theirs(buffer, kept):
    data, agent = make_data(), offline(learner=BC(best=0.5, **SMALL))
    finetune(agent, buffer=buffer, **({"part_episodes": 2} if buffer == "part" else {}))
    assert len(agent.run.engine.batches) == kept + 40
    best = BC(best=0.5 if buffer == "all" else 1 / 6).training_data(data)
    rewards = torch.cat([minibatch(agent, step)["reward"] for step in range(100, 200)], 1)
    of_data = torch.isin(rewards, torch.tensor(data.rewards))
    assert of_data.any() and torch.isin(rewards[of_data], torch.tensor(best.rewards)).all()


def test_returns_that_are_not_known_are_said():
    pieces = Dataset.from_arrays(
        observations=np.zeros((6, 1)),
        actions=np.zeros((6, 1)),
        rewards=np.zeros(6),
        next_observations=np.zeros((6, 1)),
        terminals=np.zeros(6, bool),
        timeouts=np.ones(6, bool),
    )
    with pytest.raises(DatasetError, match="the return of an episode is not known"):
        BC(best=0.5).training_data(pieces)


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "text"), [({"best": 0.0}, "best must be a number in (0, 1], not 0.0"), ({"hidden": 0}, "hidden must")]
)
def test_settings_that_make_no_sense_are_refused(settings, text):
    with pytest.raises(StackError) as refused:
        Stack(BC(**settings))
    assert text in str(refused.value)


def test_who_asks_for_q_is_told():
    engine = build(BC(**SMALL))
    for ask in (lambda v: v.services.q({}, v.s, v.a), lambda v: v.bootstrap(v.s2, "x")):
        with pytest.raises(AdaptiveConstraintsError, match="BC has no critics"):
            engine.run(1), engine.ask("q", lambda v, ask=ask: {"q": ask(v)})
