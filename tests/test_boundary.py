"""Environments that do not keep Gymnasium's interface: handled, or refused in words, wherever they are stepped."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray

from adaptive_constraints.data.collecting.recording import RecordingEnv
from adaptive_constraints.environments.boundary import CheckedEnv, EnvironmentWarning
from adaptive_constraints.errors import EvaluationError
from adaptive_constraints.evaluation import Evaluator, rollout
from adaptive_constraints.evaluation.rollout import reset_seeds
from adaptive_constraints.runs.collector import Collector, reset_seed

from .foreign import QUIET, Line, line_agent


def env(reset: Any = None, step: Any = None, dimensions: int = 2, base: type = object, **more: Any) -> type:
    """A class of environments of which one method is odd; it need not be one of Gymnasium's."""

    class Odd(base):
        observation_space = Box(-9, 9, (dimensions,), np.float32)
        action_space = Box(-2, 2, (1,), np.float32)
        time = 0

        def reset(self, *, seed=None, options=None):
            self.time = 0
            return np.zeros(dimensions, np.float32), {}

        def step(self, action):
            self.time += 1
            return np.ones(dimensions, np.float32), 1.0, self.time >= 3, False, {}

    for name, value in {"reset": reset, "step": step, **more}.items():
        if value is not None:
            setattr(Odd, name, value)
    return Odd


def answering(position: int, value: Any) -> Any:
    """A step of whose answer one part is odd."""

    def step(self, action):
        self.time += 1
        answer = [np.ones(2, np.float32), 1.0, self.time >= 3, False, {}]
        answer[position] = value(self.time) if callable(value) else value
        return tuple(answer)

    return step


def zero(observations: NDArray[Any], step: int) -> NDArray[Any]:
    return np.zeros((*observations.shape[:2], 1))


def through_evaluator(source: type) -> None:
    rollout(source, zero, policies=2, episodes=2)


def through_collector(source: type) -> None:
    collector = Collector([0, 1])
    collector.open(source)
    for _ in range(4):
        collector.step(zero)
    collector.close()


def through_recording(source: type) -> None:
    made = source()
    made.spec = None
    recording = RecordingEnv(made, 10)
    recording.reset(seed=0)
    for _ in range(3):
        recording.step(np.zeros(1, np.float32))


def refuse(self, *arguments, **options):
    raise KeyError("no such joint")


ODD: dict[str, Any] = {
    "no seed": (env(lambda self: (np.zeros(2), {})), "unexpected keyword argument 'seed'.*shimmy"),
    "bare observation": (env(lambda self, seed=None, options=None: np.zeros(2)), "reset returned array.*shimmy"),
    "bare list": (env(lambda self, seed=None, options=None: [0.0, 0.0]), r"reset returned \[0.0, 0.0\] instead"),
    "reset raises": (env(refuse), "its reset raised KeyError: 'no such joint'"),
    "step raises": (env(step=refuse), "its step raised KeyError: 'no such joint'"),
    "four values": (env(step=lambda self, a: (np.zeros(2), 1.0, True, {})), "4 values instead of five.*shimmy"),
    "nothing": (env(step=lambda self, a: None), "step returned None instead of five"),
    "two rewards": (env(step=answering(1, np.ones(2))), "reward array.*one number is needed"),
    "reward in words": (env(step=answering(1, "much")), "the reward 'much'"),
    "no reward": (env(step=answering(1, None)), "the reward None"),
    "NaN reward": (env(step=answering(1, np.float32("nan"))), "the reward nan"),
    "infinite reward": (env(step=answering(1, float("-inf"))), "the reward -inf"),
    "NaN observation": (env(step=answering(0, np.array([0, np.nan]))), r"not finite \(dimensions \[1\]\)"),
    "NaN start": (env(lambda self, seed=None, options=None: (np.full(2, np.nan), {})), "reset .*not finite"),
    "a row too many": (env(step=answering(0, np.ones((1, 2)))), r"shape \(1, 2\)"),
    "one number for all": (env(step=answering(0, 0.5)), r"shape \(\)"),
    "too long": (env(step=answering(0, np.ones(3))), r"shape \(3,\)"),
    "a dictionary": (env(step=answering(0, {"state": 1})), "type object"),
    "done in words": (env(step=answering(2, "no")), "terminated = 'no'"),
    "done twice": (env(step=answering(3, np.array([True, False]))), "truncated = array"),
    "huge observation": (env(step=answering(0, np.array([0, -1e39]))), r"beyond what float32 holds \(dimensions \[1\]"),
    "huge reward": (env(step=answering(1, 1e39)), r"reward 1e\+39, which is beyond"),
    "reward of a graph": (env(step=answering(1, torch.ones(1, requires_grad=True))), "step raised RuntimeError"),
    "ragged reward": (env(step=answering(1, [[1], [1, 2]])), "step raised ValueError"),
    "ragged flag": (env(step=answering(3, [[1], [1, 2]])), "step raised ValueError"),
    "done NaN": (env(step=answering(2, float("nan"))), "terminated = nan"),
}


@pytest.mark.parametrize("through", [through_evaluator, through_collector])
@pytest.mark.parametrize("name", ODD)
def test_what_breaks_the_interface_is_named_with_a_remedy(name: str, through: Any) -> None:
    source, message = ODD[name]
    with pytest.raises(EvaluationError, match=message) as caught:
        through(source)
    assert "Odd" in str(caught.value) and "pass a function that makes" in str(caught.value)


@pytest.mark.parametrize("through", [through_evaluator, through_collector])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_function_that_returns_one_environment_again_and_again_is_refused(wrapped: bool, through: Any) -> None:
    made = env(base=gymnasium.Env)()
    source = (lambda: gymnasium.wrappers.ClipAction(made)) if wrapped else lambda: made
    with pytest.raises(EvaluationError, match=r"in use already.*make a new one at each call"):
        through(source)
    for _ in range(2):  # one at a time is fine, and nothing is left from before
        assert rollout(source, zero, policies=1, episodes=1).returns.tolist() == [[3.0]]


def test_online_training_and_evaluation_do_not_share_an_environment() -> None:
    made = gymnasium.make("tests/Line-v0")
    agent = line_agent()
    with pytest.raises(EvaluationError, match="in use already"):
        agent.finetune(lambda: made, steps=30, warm_up=10, eval_env=lambda: made, eval_episodes=1, progress=False)


@pytest.mark.parametrize("name", ["no seed", "step raises", "four values", "NaN reward", "a row too many"])
def test_recording_goes_through_the_same_boundary(name: str) -> None:
    source, message = ODD[name]
    with pytest.raises(EvaluationError, match=message):
        through_recording(type("Odd", (source, gymnasium.Env), {}))


ODD_BUT_RIGHT = {
    "one reward in an array": answering(1, lambda time: np.array([1.0])),
    "one reward in rows": answering(1, lambda time: np.array([[1]])),
    "integer reward": answering(1, lambda time: np.int64(1)),
    "boolean reward": answering(1, lambda time: time > 0),
    "numpy ends": answering(2, lambda time: np.bool_(time >= 3)),
    "counted ends": answering(2, lambda time: int(time >= 3)),
    "ends in an array": answering(3, lambda time: np.array([time >= 3])),
    "observation in double precision": answering(0, lambda time: np.ones(2)),
    "observation of bytes": answering(0, lambda time: np.ones(2, np.uint8)),
    "observation in a list": answering(0, lambda time: [1.0, 1.0]),
    "answers in a list": lambda self, action: list(answering(1, 1.0)(self, action)),
}


@pytest.mark.parametrize("name", ODD_BUT_RIGHT)
def test_harmless_oddities_are_taken_for_what_they_mean(name: str) -> None:
    source = env(step=ODD_BUT_RIGHT[name])
    assert rollout(source, zero, policies=1, episodes=2).returns.tolist() == [[3.0, 3.0]]
    through_collector(source)


def test_values_that_the_space_cannot_hold_are_not_cut_off() -> None:
    seen = []

    def policy(observations, step):
        seen.append(observations[0, 0].tolist())
        return zero(observations, step)

    halves: Any = env(step=answering(0, lambda time: np.array([0.5, 200.25])))
    halves.observation_space = Box(0, 255, (2,), np.uint8)
    rollout(halves, policy, policies=1, episodes=1)
    assert seen[1] == [0.5, 200.25]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"action_space": Box(-2, 2, (1,), np.int64)}, "real numbers, which would be cut off"),
        ({"action_space": "wide"}, "action space is wide"),
        ({"observation_space": Box(0, 1, (2, 2), np.float32)}, "FlattenObservation"),
        ({"observation_space": type("Box", (), {"__module__": "gym.spaces.box", "shape": (2,)})()}, "shimmy"),
    ],
)
def test_spaces_that_do_not_fit_are_refused(space: dict[str, Any], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        Evaluator(env(**space), 1)


def test_environments_that_cannot_be_made_or_closed_are_named() -> None:
    with pytest.raises(EvaluationError, match="ZeroDivisionError"):
        Evaluator(lambda: 1 / 0, 1)
    with pytest.raises(EvaluationError, match="no Gymnasium environment"):
        Evaluator(lambda: SimpleNamespace(observation_space=1), 1)
    with pytest.warns(EnvironmentWarning, match="closing it raised KeyError"):
        rollout(env(close=refuse), zero, policies=1, episodes=1)


@pytest.mark.parametrize("seed", [0, 3, 2**31, 2**40])
def test_reset_seeds_fit_an_int32_and_no_two_are_alike(seed: int) -> None:
    seeds = reset_seeds(seed, 3000)
    assert len(set(seeds)) == 3000 and min(seeds) >= 0 and max(seeds) < 2**31
    assert seeds[:5] == reset_seeds(seed, 5)
    assert all(0 <= reset_seed(seed, number) < 2**31 for number in range(200))
    assert not set(seeds) & set(reset_seeds(seed + 1, 100))


def test_two_hashes_that_meet_are_moved_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    same = SimpleNamespace(generate_state=lambda count: np.array([2**32 - 1], np.uint32))
    monkeypatch.setattr(np.random, "SeedSequence", lambda pair: same)
    assert reset_seeds(0, 3) == [2**31 - 1, 0, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("shape", "at"), [((2,), (1,)), ((3, 2), (2, 0))])
def test_act_refuses_observations_that_are_not_finite(bad: float, shape: tuple, at: tuple) -> None:
    observations, agent = np.zeros(shape), line_agent()
    observations[at] = bad
    with pytest.raises(EvaluationError, match=r"must be finite numbers, but that at \["):
        agent.act(observations)
    assert np.isfinite(agent.act(np.zeros(shape, np.uint8))).all()


def test_the_boundary_holds_in_fit_and_finetune() -> None:
    four = ODD["four values"][0]
    with pytest.raises(EvaluationError, match="4 values"):
        line_agent(eval_env=four, eval_episodes=1)
    with pytest.raises(EvaluationError, match="4 values"):
        line_agent().finetune(four, steps=30, eval_env=None, **{k: v for k, v in QUIET.items() if k != "device"})


def test_a_checked_environment_keeps_what_it_wraps() -> None:
    checked = CheckedEnv(gymnasium.make("tests/Line-v0"))
    assert (checked.observation_size, checked.action_size, checked.time_limit) == (2, 1, 10)
    assert checked.reset(seed=1)[1] == {} and checked.step(np.ones(1, np.float32))[1:4] == (0.5, False, False)
    assert CheckedEnv(Line()).time_limit is None
