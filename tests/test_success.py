"""Success that an environment reports: counted by episode, kept with a run, and the score where nothing else is."""

from __future__ import annotations

import json
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from adaptive_constraints import Dataset, load_agent, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.cli import main
from adaptive_constraints.data.references import SUCCESS, reference_score
from adaptive_constraints.evaluation import Evaluation, Evaluator, Expected
from adaptive_constraints.evaluation.expected import LONGEST
from adaptive_constraints.runs.history import History
from adaptive_constraints.support.records import read_metrics

from .helpers import random_data


class Reach(gymnasium.Env[Any, Any]):
    """Two steps on a line, and success beyond 0.5, which a later step may lose; the start is 0 or 0.1."""

    observation_space = Box(-np.inf, np.inf, (3,), np.float64)
    action_space = Box(-1.0, 1.0, (2,), np.float32)
    key: str | None = "success"
    steps = 4

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.step_number = 0.1 * self.np_random.integers(2), 0
        return np.full(3, self.place), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place, self.step_number = self.place + float(action[0]), self.step_number + 1
        said: Any = {} if self.key is None else {self.key: np.float64(self.place > 0.5)}
        return np.full(3, self.place), -1.0, False, self.step_number >= self.steps, said


def policy(*moves: list[float]):
    """One policy per list: its actions in each step."""

    def act(observations, step):
        episodes = observations.shape[1]
        return np.array([[[move[step], 0.0]] * episodes for move in moves])

    return act


@pytest.mark.parametrize("key", ["success", "is_success"])
def test_success_in_some_step_counts(key, monkeypatch):
    monkeypatch.setattr(Reach, "key", key)
    with Evaluator(Reach, 6) as evaluator:
        rolled = evaluator.run(policy([0.7, -0.7, 0, 0], [0.1, 0, 0, 0], [0.45, 0, 0, 0]), 3)
    starts = np.array([Reach().reset(seed=seed)[0][0] for seed in evaluator.reset_seeds])
    assert 0 < (starts > 0).sum() < 6
    assert rolled.success.tolist() == [[True] * 6, [False] * 6, (starts > 0).tolist()]
    assert Evaluation(1, rolled.returns, None, rolled.success).success_rate[2] == pytest.approx(
        100 * (starts > 0).mean()
    )


def test_an_environment_that_says_nothing_has_no_success(monkeypatch):
    monkeypatch.setattr(Reach, "key", None)
    with Evaluator(Reach, 2) as evaluator:
        assert evaluator.run(policy([1.0] * 4), 1).success is None


def test_success_after_the_step_to_which_episodes_are_cut_does_not_count(monkeypatch):
    monkeypatch.setattr(Reach, "steps", 10**9)
    expected = Expected(3, 2, -np.ones(2), np.ones(2), longest=3)
    moves = [[0.0] * 3 + [1.0] + [0.0] * 10**5, [0.0, 1.0] + [0.0] * 10**5]
    with Evaluator(Reach, 2, expected=expected) as evaluator:
        assert evaluator.limit.by == LONGEST
        with pytest.warns(UserWarning, match="count up to step 3"):
            rolled = evaluator.run(policy(*moves), 2)
    assert rolled.success.tolist() == [[False] * 2, [True] * 2] and rolled.lengths.tolist() == [[3, 3], [3, 3]]


def test_a_policy_that_failed_has_no_rate():
    returns = np.array([[1.0, 2.0], [np.nan, 0.0]])
    success = np.array([[True, False], [False, False]])
    rate = Evaluation(1, returns, SUCCESS, success).score
    np.testing.assert_array_equal(rate, [50.0, np.nan])
    hopper = reference_score("hopper")
    assert Evaluation(1, returns, hopper, success).score[0] == hopper.score(1.5), "reference returns go first"


def test_it_is_kept_with_a_run_and_shown(tmp_path, capsys):
    agent = wrap(TD3BC(hidden=8, batch_size=8))
    options: dict[str, Any] = {"eval_every": 2, "eval_episodes": 3, "progress": False, "out": tmp_path / "run"}
    random = random_data()
    names = ("observations", "actions", "rewards", "terminals", "timeouts")
    data = Dataset.from_arrays(**{name: getattr(random, name) for name in names})
    agent.fit(data, steps=4, seeds=2, eval_env=Reach, **options)
    history = agent.history
    assert [evaluation.success.shape for evaluation in history.evaluations] == [(2, 3)] * 2
    assert history.summary().measure == "score"
    np.testing.assert_array_equal(history.summary().last, history.evaluations[-1].success_rate)
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "eval/success" in row]
    assert [row["eval/success"] for row in rows] == [e.success_rate.tolist() for e in history.evaluations]
    again = load_agent(tmp_path / "run")
    for one, other in zip(again.history.evaluations, history.evaluations, strict=True):
        assert one.success.tolist() == other.success.tolist() and one.reference == SUCCESS
    gymnasium.register("tests/Reach-v0", entry_point=Reach, max_episode_steps=4)
    words = ["evaluate", str(tmp_path / "run"), "--env", "tests/Reach-v0", "--episodes", "3"]
    assert main([*words, "--json", str(tmp_path / "e.json")]) == 0
    said = capsys.readouterr().out
    assert "success" in said and "share of the episodes in which the environment said" in said
    record = json.loads((tmp_path / "e.json").read_text())
    assert np.shape(record["success"]) == (2, 3) and len(record["success_rate"]) == 2


def test_a_history_without_success_is_read_and_one_with_other_episodes_is_not():
    plain = History(evaluations=[Evaluation(1, np.zeros((1, 2)))]).to_json()
    assert History.from_json(plain, [0], 1).evaluations[0].success is None
    plain["evaluations"][0]["success"] = [[True]]
    with pytest.raises(ValueError, match="success of other episodes than returns"):
        History.from_json(plain, [0], 1)
