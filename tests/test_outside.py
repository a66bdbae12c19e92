"""What stays outside is pointed to where somebody brings it: discrete actions, images, sequence models."""

from __future__ import annotations

import numpy as np
import pytest

from adaptive_constraints.cli import main
from adaptive_constraints.composition import registry
from adaptive_constraints.data import doctor
from adaptive_constraints.environments.boundary import CheckedEnv
from adaptive_constraints.errors import DatasetError, EvaluationError, StackError

from .small_data import make

OUTSIDE = "docs/design.md, 'What stays outside'"


@pytest.mark.parametrize(
    "name", ["DecisionTransformer", "decision_transformer", "DT", "COMBO", "DrQ+BC", "DiscreteCQL"]
)
def test_names_of_methods(name, capsys):
    with pytest.raises(StackError) as raised:
        registry.learner(name)
    assert OUTSIDE in str(raised.value) and "did you mean" not in str(raised.value)
    assert main(["explain", "--learner", name]) == 2
    assert OUTSIDE in capsys.readouterr().err


def test_names_that_are_near_to_ours_are_not_outside():
    with pytest.raises(StackError, match="did you mean TD3BC"):
        registry.learner("TD3BCC")


def codes(actions: np.ndarray, high: float) -> tuple[str, ...]:
    return doctor(make(actions=actions, action_low=0.0, action_high=high)).codes


def test_whole_numbers_as_actions_are_doubted():
    draw = np.random.default_rng(0)
    numbers = draw.integers(0, 4, (12, 1))
    assert "discrete_actions" in codes(numbers, 3.0)
    assert "discrete_actions" in codes(np.eye(4)[numbers[:, 0]], 1.0)
    assert "discrete_actions" not in codes(numbers + 0.5, 4.0)
    assert "discrete_actions" not in codes(np.zeros((12, 1)), 3.0)
    assert "discrete_actions" not in doctor(make(actions=np.sign(draw.normal(size=(12, 2))))).codes
    (finding,) = [f for f in doctor(make(actions=numbers)).findings if f.code == "action_bounds"]
    assert OUTSIDE in finding.remedy
    (finding,) = [f for f in doctor(make(actions=3 * draw.normal(size=(12, 1)))).findings if f.code == "action_bounds"]
    assert OUTSIDE not in finding.remedy


@pytest.mark.parametrize("shape", [(12, 8, 8), (12, 3, 8, 8)])
def test_images(shape):
    with pytest.raises(DatasetError, match="if these are images: .*images stay outside"):
        make(observations=np.zeros(shape), next_observations=None)


def test_a_column_of_numbers():
    with pytest.raises(DatasetError, match=r"give actions\[:, None\]. If they are numbers of choices: .*discrete"):
        make(actions=np.zeros(12, int))


def test_environments():
    pytest.importorskip("gymnasium")
    import gymnasium
    from gymnasium import spaces

    class Env(gymnasium.Env):
        def __init__(self, observation, action):
            self.observation_space, self.action_space = observation, action

    flat = spaces.Box(-1, 1, (2,))
    for env in (Env(flat, spaces.Discrete(3)), Env(spaces.Box(0, 255, (8, 8, 3), np.uint8), flat)):
        with pytest.raises(EvaluationError) as raised:
            CheckedEnv(env)
        assert OUTSIDE in str(raised.value)
