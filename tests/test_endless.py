"""Episodes end, and where only a default ends them it is said; bounds of actions and time limits are compared."""

from __future__ import annotations

import json
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from adaptive_constraints import load_agent, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.cli import main
from adaptive_constraints.environments.boundary import EnvironmentWarning
from adaptive_constraints.errors import CheckpointError, EvaluationError, TrainingError
from adaptive_constraints.evaluation import Evaluator, Expected, rollout
from adaptive_constraints.evaluation.expected import PATIENCE

from .foreign import LIMIT, QUIET, Line, line_agent, line_data

ENDLESS = "tests/Endless-v0"
ONLINE: dict[str, Any] = {"progress": False, "traced": False, "eval_env": None, "warm_up": 1}


def best(observations, step):
    return np.full((*observations.shape[:2], 1), 1.5)


def expected(longest: int | None = None, time_limit: int | None = None, low: Any = -2.0, high: Any = 2.0) -> Expected:
    return Expected(2, 1, np.array([low]), np.array([high]), longest, time_limit)


def test_an_option_ends_every_episode() -> None:
    episodes = rollout(ENDLESS, best, policies=1, episodes=2, max_steps=10)
    assert episodes.returns.tolist() == [[10.0, 10.0]] and not episodes.terminated.any()
    agent = line_agent(eval_env=ENDLESS, eval_max_steps=3, eval_episodes=1)
    assert agent.history.evaluations[-1].returns.shape == (1, 1)
    assert agent.evaluate(ENDLESS, episodes=1, eval_max_steps=10).returns[0, 0] <= 10.0


@pytest.mark.parametrize("longest", [1, 5, 37])
@pytest.mark.parametrize("truly", [False, True])
def test_without_a_time_limit_the_longest_episode_of_the_data_bounds(longest: int, truly: bool) -> None:
    agent = line_agent(line_data(longest, truly=truly))
    if longest == 1:
        with pytest.raises(EvaluationError, match="nothing says how long an episode is.*eval_max_steps="):
            agent.evaluate(ENDLESS, episodes=1)
        return
    with pytest.warns(EnvironmentWarning, match=f"count up to step {longest}, the length of the data's longest"):
        evaluation = agent.evaluate(ENDLESS, episodes=2)
    alone = agent.evaluate(ENDLESS, episodes=2, eval_max_steps=longest)
    np.testing.assert_array_equal(evaluation.returns, alone.returns)


def test_where_nothing_is_known_a_registered_environment_is_refused_at_once() -> None:
    with pytest.raises(EvaluationError, match=r"Endless-v0 has no time limit.*--eval-max-steps"):
        Evaluator(ENDLESS, 1)
    assert Evaluator("tests/Line-v0", 1).run(best, 1).lengths.tolist() == [[LIMIT]]


@pytest.mark.parametrize("ends", [7, 300])
@pytest.mark.parametrize("longest", [None, 5, 20])
def test_an_environment_of_a_function_that_ends_by_itself_is_not_cut(ends: int, longest: int | None) -> None:
    with Evaluator(lambda: Line(ends=ends), 2, expected=expected(longest)) as evaluator:
        evaluation = evaluator.run(best, 1)
    assert evaluation.returns.tolist() == [[float(ends)] * 2] and evaluation.terminated.all()


def test_an_environment_of_a_function_that_does_not_end_counts_up_to_the_data_s_longest() -> None:
    made = []

    def some_end() -> Line:
        made.append(Line(ends=40 if len(made) % 2 else None))
        return made[-1]

    with Evaluator(some_end, 2, expected=expected(25)) as evaluator:
        with pytest.warns(EnvironmentWarning, match="count up to step 25"):
            evaluation = evaluator.run(best, 1)
        assert evaluation.returns.tolist() == [[25.0, 25.0]] and evaluation.lengths.tolist() == [[25, 25]]
        assert not evaluation.terminated.any(), "one that ends later is cut too, so that episodes are of one kind"
        with pytest.warns(EnvironmentWarning):
            evaluator.run(best, 1)
    assert max(env.time for env in made) == 25, "no more patience the second time"
    with pytest.raises(EvaluationError, match=f"did not end within {PATIENCE} steps"):
        rollout(Line, best, policies=1, episodes=1)


def test_a_run_says_what_bounds_its_episodes(tmp_path, capsys) -> None:
    with pytest.warns(EnvironmentWarning):
        line_agent(eval_env=ENDLESS, eval_episodes=1, out=tmp_path / "run")
    evaluation = json.loads((tmp_path / "run" / "config.json").read_text())["evaluation"]
    assert (evaluation["max_steps"], evaluation["bounded_by"]) == (10, "the data's longest episode")
    assert "has no time limit: its episodes end after 10 steps" in " ".join(evaluation["notes"])
    agent = line_agent(eval_env="tests/Line-v0", eval_episodes=1, out=tmp_path / "other")
    evaluation = json.loads((tmp_path / "other" / "config.json").read_text())["evaluation"]
    assert (evaluation["max_steps"], evaluation["bounded_by"], evaluation["notes"]) == (None, "the environment", [])
    agent.save(tmp_path / "agent.npz")
    assert (
        main(["evaluate", str(tmp_path / "agent.npz"), "--env", ENDLESS, "--eval-max-steps", "4", "--episodes", "1"])
        == 0
    )
    assert main(["evaluate", str(tmp_path / "agent.npz"), "--env", ENDLESS, "--eval-max-steps", "0"]) == 2
    assert "--eval-max-steps must be at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(("source", "options", "length"), [
    (ENDLESS, {}, 10), (ENDLESS, {"eval_max_steps": 6}, 6), (Line, {"eval_max_steps": 6}, 6), ("tests/Line-v0", {}, 10),
    ("tests/Line-v0", {"eval_max_steps": 4}, 4),
])  # fmt: skip
def test_collected_episodes_that_are_cut_are_out_of_time_not_at_their_end(source, options, length) -> None:
    class Reads(TD3BC):
        def columns(self):
            return ("next_action", "next_action_mask")

    agent = wrap(Reads(hidden=8, batch_size=16))
    agent.fit(line_data(), steps=2, **QUIET)
    agent.finetune(source, steps=3 * length, buffer="all", **ONLINE, **options)
    rows = agent.run.engine.batches.state()  # type: ignore[attr-defined]
    assert not rows["terminal"].any()
    ended = np.flatnonzero(rows["next_action_mask"][0, : 3 * length - 1].numpy() == 0)
    assert ended.tolist() == [length - 1, 2 * length - 1]


def test_a_bound_of_collected_episodes_is_part_of_what_the_phase_is(tmp_path, capsys) -> None:
    line_agent().save(tmp_path / "agent.npz")
    options: dict[str, Any] = {**ONLINE, "steps": 20, "dataset": line_data(), "out": tmp_path / "run"}
    load_agent(tmp_path / "agent.npz").finetune(ENDLESS, **options, eval_max_steps=6, stop_after=9)
    with pytest.raises(CheckpointError, match="online max_steps 6 there, None here"):
        load_agent(tmp_path / "agent.npz").finetune(ENDLESS, **options)
    load_agent(tmp_path / "agent.npz").finetune(ENDLESS, **options, eval_max_steps=6)
    load_agent(tmp_path / "agent.npz").finetune(ENDLESS, **options | {"out": None, "progress": True})
    assert "note: tests/Endless-v0 has no time limit: its episodes end after 10 steps" in capsys.readouterr().err
    with pytest.raises(TrainingError, match="eval_max_steps must be at least 1, not 0"):
        line_agent(eval_env=ENDLESS, eval_max_steps=0)


# -- bounds of actions ------------------------------------------------------------------------------------------------


class Bounded(Line):
    """With other bounds, of other types."""

    def __init__(self, low: Any, high: Any, dtype: Any = np.float32) -> None:
        super().__init__(ends=3)
        self.action_space = Box(np.atleast_1d(low).astype(dtype), np.atleast_1d(high).astype(dtype), dtype=dtype)


@pytest.mark.parametrize(
    ("data", "env", "said"),
    [
        ((-1, 1), (-2, 2), r"data \[-1.0\] .. \[1.0\], environment \[-2.0\] .. \[2.0\]"),
        ((-2, 2), (-1, 1), r"data \[-2.0\] .. \[2.0\], environment \[-1.0\] .. \[1.0\]"),
        ((-1, 1), (0, 1), r"environment \[0.0\] .. \[1.0\].*--action-low 0 --action-high 1"),
        ((-1, 1), (-1, 1.001), r"environment \[-1.0\] .. \[1.001\]"),
        ((-1e-4, 1e-4), (-2e-4, 2e-4), "RescaleAction"),
        ((-1, 1), (-np.inf, 2), r"environment \[-inf\] .. \[2.0\]"),
    ],
)
def test_other_bounds_of_actions_are_an_error_that_names_both(data: tuple, env: tuple, said: str) -> None:
    with pytest.raises(EvaluationError, match=said):
        Evaluator(lambda: Bounded(*env), 1, expected=expected(low=data[0], high=data[1]))


@pytest.mark.parametrize(
    ("data", "env", "dtype"),
    [
        ((-2, 2), (-2, 2), np.float32),
        ((np.float32(-np.pi), np.float32(np.pi)), (-np.pi, np.pi), np.float64),
        ((-0.1, 0.3), (-0.1, 0.3), np.float32),
        ((-1, 1), (-np.inf, np.inf), np.float32),
        ((-1, 1), (-np.finfo(np.float32).max, np.finfo(np.float32).max), np.float32),
        ((-1, 1), (-1, np.inf), np.float64),
        ((1e6, 1e6 + 1), (1e6, 1e6 + 1), np.float64),
    ],
)
def test_bounds_that_agree_say_nothing(data: tuple, env: tuple, dtype: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Evaluator(lambda: Bounded(*env, dtype), 1, expected=expected(low=data[0], high=data[1])).run(best, 1)


def test_one_dimension_of_several_is_enough() -> None:
    several = Expected(2, 3, np.array([-1.0, -2.0, -1.0]), np.array([1.0, 2.0, 1.0]))
    low, high = np.array([-1, -2, -np.inf]), np.array([1, 2, np.inf])
    Evaluator(lambda: Bounded(low, high), 1, expected=several)
    with pytest.raises(EvaluationError, match=r"--action-low -1 -2.5 -inf"):
        Evaluator(lambda: Bounded(low - [0, 0.5, 0], high), 1, expected=several)


def test_bounds_are_compared_in_fit_evaluate_finetune_and_on_the_command_line(tmp_path, capsys) -> None:
    wrong = line_data(actions=np.random.default_rng(0).uniform(-1, 1, (120, 1)), action_low=-1.0, action_high=1.0)
    agent, both = line_agent(wrong), r"data \[-1.0\] .. \[1.0\], environment \[-2.0\] .. \[2.0\]"
    for attempt in (
        lambda: line_agent(wrong, eval_env="tests/Line-v0"),
        lambda: agent.evaluate("tests/Line-v0"),
        lambda: agent.finetune("tests/Line-v0", steps=20, **ONLINE),
    ):
        with pytest.raises(EvaluationError, match=both):
            attempt()
    agent.save(tmp_path / "agent.npz")
    assert main(["evaluate", str(tmp_path / "agent.npz"), "--env", "tests/Line-v0"]) == 2
    assert "repair IN OUT --action-low -2 --action-high 2" in capsys.readouterr().err
    one = np.ones(1, np.float32)
    rescaled = lambda: gymnasium.wrappers.RescaleAction(gymnasium.make("tests/Line-v0"), -one, one)  # noqa: E731
    assert agent.evaluate(rescaled, episodes=1).returns.shape == (1, 1)


# -- time limits ------------------------------------------------------------------------------------------------------


def test_a_time_limit_other_than_that_of_the_data_is_said_where_it_is_certain() -> None:
    recorded = gymnasium.make("tests/Line-v0", max_episode_steps=25).spec
    agent = line_agent(line_data(25, env_spec=recorded))
    with pytest.warns(EnvironmentWarning, match="ends episodes after 10 steps, the environment of the data after 25"):
        agent.evaluate("tests/Line-v0", episodes=1)
    agent.evaluate(episodes=1)
    by_id = line_agent(line_data(25, env_id="tests/Line-v0"))
    with pytest.warns(EnvironmentWarning, match="after 10 steps, but the data's longest episode has 25"):
        by_id.evaluate(episodes=1)
    for length in (1, 4, 10):
        line_agent(line_data(length, env_id="tests/Line-v0")).evaluate(episodes=1)
