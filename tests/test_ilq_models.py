"""The models of ILQ: trained once, kept, shared, only those that are needed, and what they learn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from adaptive_constraints import ILQ, load_agent, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.errors import StackError
from adaptive_constraints.support import checkpoint
from adaptive_constraints.testing import made_data

from .helpers import build, different, random_data, resolved_of, trained
from .imagining import TINY, ask, preparation
from .sketches import LEARNERS

pytestmark = pytest.mark.usefixtures("own_cache")


def test_models_are_trained_once_per_seed_and_go_on_bit_for_bit(own_cache, tmp_path):
    stack, data = (TD3BC(hidden=8, batch_size=16), ILQ(termination="learned", **TINY)), made_data()
    options: dict[str, Any] = {"steps": 8, "seeds": 2, "progress": False, "traced": False, "device": "cpu"}
    whole, half = wrap(*stack), wrap(*stack)
    whole.fit(data, **options)
    files = {file.name: checkpoint.read(file)[1] for file in own_cache.iterdir()}
    kinds = {"ilq.behavior", "ilq.dynamics", "ilq.termination"}
    assert len(files) == 6 and {name.split("-")[0] for name in files} == kinds
    half.fit(data, stop_after=4, **options)
    half.save(tmp_path / "half.npz")
    for present in (True, False):
        if not present:
            for file in own_cache.iterdir():
                file.unlink()
        resumed = load_agent(tmp_path / "half.npz", device="cpu")
        resumed.fit(data, **options)
        one, two = (agent.run.engine.state() for agent in (whole, resumed))
        assert one.keys() == two.keys() and not different(one, two)
    assert not list(own_cache.iterdir()), "the checkpoint has the models"
    wrap(*stack).fit(data, **options)
    made_anew = {file.name: checkpoint.read(file)[1] for file in own_cache.iterdir()}
    assert made_anew.keys() == files.keys()
    assert not [name for name in files if different(files[name], made_anew[name])], "trained anew, the same bits"


def test_a_termination_that_is_not_known_is_refused_before_anything_is_trained(own_cache):
    agent = wrap(TD3BC(hidden=8, batch_size=16), ILQ(**(TINY | {"termination": "hoper"})))
    with pytest.raises(StackError, match="hoper"):
        agent.fit(made_data(), steps=8, progress=False, device="cpu")
    assert not own_cache.exists()


def test_only_what_is_needed_is_trained(own_cache):
    cases = [
        ({"imagination": False}, False, {"ilq.behavior"}),
        ({"limit": False}, False, {"ilq.dynamics"}),
        ({}, True, {"ilq.dynamics"}),
        ({"termination": "learned"}, True, {"ilq.dynamics", "ilq.termination"}),
    ]
    for settings, owns_behavior, expected in cases:
        for file in own_cache.glob("*"):
            file.unlink()
        ILQ(**(TINY | {"termination": "none"} | settings)).prepare(preparation(random_data(), (0,), owns_behavior))
        assert {file.name.split("-")[0] for file in own_cache.iterdir()} == expected


def test_shared_models_are_the_same_for_all_seeds():
    one = preparation(random_data(), (3, 4))
    models = ILQ(shared_models=True, termination="learned", **TINY).prepare(one).models
    assert all(torch.equal(tensor[0], tensor[1]) for tensor in models.values()) and "behavior.weight0" in models
    assert not torch.equal(*ILQ(**TINY).prepare(one).models["behavior.weight0"])


def test_the_behaviour_model_imitates():
    data = random_data(400)
    taken = 0.5 * np.sign(data.observations[:, :1]) * np.array([1.0, -1.0])
    engine = build(
        LEARNERS["TD3BC"],
        ILQ(imagination=False, behavior_steps=450, behavior_hidden=64),
        data=replace(data, actions=taken.astype(np.float32)),
    )
    engine.run(1)
    (ilq,) = resolved_of(engine).adapters
    drawn, wanted = ask(engine, lambda v: (ilq.behavior(v, v.s), v.a))
    assert drawn.shape == (1, 10, 16, 2)
    assert (drawn * wanted[:, None] > 0).float().mean() > 0.65, "half of them by chance"


def test_small_data_of_one_dimension_and_one_episode():
    data = random_data(10, observation=1, action=1)
    data = replace(data, terminals=np.zeros(10, bool), timeouts=np.arange(10) == 9)
    engine = trained(LEARNERS["TD3BC"], ILQ(**TINY), data=data, steps=2)
    assert not engine.metrics.failures() and engine.choices == {"ilq": {"termination": "none"}}
