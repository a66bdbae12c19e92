"""Where imagined episodes end: known rules, registered rules, learned ends."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from adaptive_constraints import ILQ, load_dataset, register_termination
from adaptive_constraints.adapters import termination
from adaptive_constraints.errors import StackError

from .helpers import random_data
from .imagining import TINY, preparation

pytestmark = pytest.mark.usefixtures("own_cache")


def test_the_known_rules_say_what_the_simulators_say():
    hopper = torch.zeros(6, 11)
    hopper[:, 0] = torch.tensor([1.2, 0.69, 1.2, 1.2, 1.2, float("nan")])
    hopper[2, 1], hopper[3, 7], hopper[4, 1] = -0.21, 101.0, 0.19
    assert termination.hopper(hopper).tolist() == [False, True, True, True, False, True]
    walker = torch.zeros(5, 17)
    walker[:, 0], walker[4, 1] = torch.tensor([1.2, 0.79, 2.01, 1.9, 1.2]), 1.1
    assert termination.walker2d(walker).tolist() == [False, True, True, False, True]
    ant = torch.full((4, 27), 0.5)
    ant[:, 0], ant[3, 20] = torch.tensor([0.5, 0.1, 1.1, 0.5]), math.inf
    assert termination.ant(ant).tolist() == [False, True, True, True]
    assert not termination.never(ant).any()


def test_the_rule_agrees_with_the_bundled_data():
    data = load_dataset("bundled:hopper")
    assert termination.choose_termination("auto", data) == "hopper"
    ends = termination.hopper(torch.tensor(data.next_observations)).numpy()
    assert data.terminals.sum() > 100 and (ends == data.terminals).all()


def made(env_id=None, task=None, ends=False, dims=3):
    data = random_data(60, observation=dims)
    return replace(data, env_id=env_id, task=task, terminals=data.terminals & ends)


@pytest.mark.parametrize(
    ("data", "auto", "known"),
    [
        (made("Hopper-v5", dims=11), "hopper", "hopper"),
        (made(task="walker2d", dims=17), "walker2d", "walker2d"),
        (made("Hopper-v4", dims=12, ends=True), "learned", None),
        (made("HalfCheetah-v5", "halfcheetah"), "none", "none"),
        (made("PointMaze_UMaze-v3"), "none", "none"),
        (made("PointMaze_UMaze-v3", ends=True), "learned", "none"),
        (made(task="maze2d-large"), "none", "none"),
        (made("AdroitHandPen-v1", "pen"), "none", "none"),
        (made(task="antmaze", ends=True), "learned", None),
        (made(ends=True), "learned", None),
        (made(), "none", "none"),
    ],
)
def test_which_rule_holds(data, auto, known):
    assert termination.choose_termination("auto", data) == auto
    if known is not None:
        assert termination.choose_termination("known", data) == known
        return
    with pytest.raises(StackError, match=r"no termination rule is known.*hopper, walker2d.*register_termination"):
        termination.choose_termination("known", data)


def test_rules_are_registered_by_name_or_by_place():
    register_termination("Mine-v3", lambda x: x[:, 0] > 3)
    assert termination.choose_termination("auto", made("Mine-v3", "hopper", dims=11)) == "Mine-v3"
    assert termination.choose_termination("Mine-v3", made()) == "Mine-v3"
    with pytest.raises(StackError, match="'learned' is taken"):
        register_termination("learned", termination.never)
    with pytest.raises(StackError, match=r"named 'hoper': did you mean 'hopper'\?"):
        termination.choose_termination("hoper", made())
    with pytest.raises(StackError, match="has none: use 'none'"):
        termination.choose_termination("learned", made())


def test_a_learned_end_is_a_calibrated_probability():
    """Rows end with probability 0.8 beyond 1, and never elsewhere."""
    draw = np.random.default_rng(0)
    after = draw.normal(size=(2000, 3)) * 5
    ends = (after[:, 0] > 5) & (draw.random(2000) < 0.8)
    data = replace(
        random_data(2000), next_observations=after.astype(np.float32), terminals=ends, timeouts=np.zeros(2000, bool)
    )
    ilq = ILQ(limit=False, **(TINY | {"termination_steps": 150}))
    models = {name: tensor[0] for name, tensor in ilq.prepare(preparation(data)).models.items()}
    probability = ilq.terminal("learned", models, torch.tensor(data.next_observations))
    assert probability[after[:, 0] > 6].mean() == pytest.approx(0.8, abs=0.12)
    assert probability[after[:, 0] < 3].mean() < 0.05
