"""Scripted mazes: the environment, the controller, what is recorded of it, and that everything finds it by name."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from adaptive_constraints import load_agent, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.cli import main
from adaptive_constraints.data import doctor, list_datasets, load_dataset, reference_of
from adaptive_constraints.data.collecting.collect import collect, collect_maze, collect_random, default_size
from adaptive_constraints.data.collecting.mazes import WaypointController, next_cells
from adaptive_constraints.environments import maze_tasks
from adaptive_constraints.environments.making import make_environment
from adaptive_constraints.environments.maze_tasks import MAZES, MazeTask, maze_id
from adaptive_constraints.errors import DatasetError, DependencyError
from adaptive_constraints.evaluation import Evaluator

pytest.importorskip("gymnasium_robotics")

UMAZE = maze_id("umaze")


@pytest.fixture(scope="module")
def umaze():
    """Eight episodes of 300 steps."""
    return collect_maze("umaze", 2400, seed=1)


def test_reward_is_for_being_near_the_goal_after_the_step(umaze) -> None:
    assert np.unique(umaze.rewards).tolist() == [0.0, 1.0]
    x, y = umaze.next_observations[:, 0], umaze.next_observations[:, 1]
    near = np.hypot(x + 1, y - 1) <= 0.5  # the corner at the upper left, in cells from the maze's centre
    np.testing.assert_array_equal(umaze.rewards, near)


@pytest.mark.parametrize(
    ("name", "goal", "limit", "free"),
    [("umaze", (-1, 1), 300, 7), ("medium", (2.5, -2.5), 600, 26), ("large", (3.5, -3), 800, 46)],
)
def test_mazes_are_those_of_maze2d(name: str, goal: tuple[float, float], limit: int, free: int) -> None:
    env: Any = make_environment(maze_id(name))
    assert env.unwrapped.goal.tolist() == list(goal)
    assert len(env.unwrapped.free_cells) == free
    assert (env.spec.max_episode_steps, env.observation_space.shape, env.action_space.shape) == (limit, (4,), (2,))
    starts = np.stack([env.reset(seed=seed)[0] for seed in range(100)])
    cells = {env.unwrapped.cell(start[:2]) for start in starts}
    assert cells <= set(env.unwrapped.free_cells) and len(cells) > min(free, 30) - 2
    off = starts[:, :2] - [env.unwrapped.center(env.unwrapped.cell(start[:2])) for start in starts]
    assert 0.08 < np.abs(off).max() <= 0.1
    env.close()


def test_an_episode_is_a_function_of_its_reset_seed() -> None:
    env, other = make_environment(UMAZE), make_environment(UMAZE)
    other.reset(seed=5)
    other.step(other.action_space.sample())
    controller = WaypointController(env.unwrapped)
    (observation, _), (same, _) = env.reset(seed=3), other.reset(seed=3)
    for step in range(300):
        np.testing.assert_array_equal(observation, same)
        action = controller(observation)
        observation, _, terminal, cut, _ = env.step(action)
        same = other.step(action)[0]
        assert not terminal and cut == (step == 299)
    assert not np.array_equal(env.reset(seed=4)[0], env.reset(seed=3)[0])


def test_walls_hold_and_files_are_cleared_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    env: Any = make_environment(UMAZE)
    assert list(tmp_path.iterdir()) == []
    env.reset(options={"state": [-1.0, -1.0, 0.0, 0.0]})  # straight below the goal, with a wall in between
    for _ in range(200):
        observation, reward, *_ = env.step(np.array([0.0, 1.0]))
    assert reward == 0.0 and observation[1] == pytest.approx(-0.6, abs=0.02)  # half a cell, and the ball's radius


def test_next_cells_are_on_shortest_paths() -> None:
    free = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2), (5, 5)]  # a ring, and a cell apart
    following = next_cells(free, (0, 0))
    assert set(following) == set(free) - {(0, 0), (5, 5)}

    def length(cell: tuple[int, int]) -> int:
        return 0 if cell == (0, 0) else 1 + length(following[cell])

    assert [length(cell) for cell in free[:-1]] == [0, 1, 2, 1, 3, 2, 3, 4]


@pytest.mark.parametrize("name", MAZES)
def test_controller_reaches_the_goal_from_every_cell_and_stays(name: str) -> None:
    env: Any = make_environment(maze_id(name)).unwrapped
    controller = WaypointController(env)
    for cell in env.free_cells[:: 1 if name == "umaze" else 7]:
        observation, _ = env.reset(seed=0, options={"state": [*env.center(cell), 0.0, 0.0]})
        steps = 0
        while not controller.arrived(observation):
            observation, _, _, _, _ = env.step(controller(observation))
            steps += 1
            assert steps < MAZES[name].time_limit
        for _ in range(20):
            observation, reward, _, _, _ = env.step(controller(observation))
        assert reward == 1.0 and np.linalg.norm(observation[:2] - env.goal) < 0.3


def test_stream_is_cut_at_the_time_limit_and_goes_on_where_it_was(umaze) -> None:
    assert umaze.episode_lengths().tolist() == [300] * 8
    assert np.flatnonzero(umaze.timeouts).tolist() == list(range(299, 2400, 300))
    assert not umaze.terminals.any()
    np.testing.assert_array_equal(umaze.next_observations[:-1], umaze.observations[1:])  # across the cuts too
    assert umaze.column("next_action_mask").tolist() == (~umaze.timeouts).tolist()  # and yet nothing is read across
    moved = np.linalg.norm(umaze.next_observations[:, :2] - umaze.observations[:, :2], axis=1)
    assert moved.max() < 0.08  # 5 cells/s in each direction, for 0.01 s


def test_data_is_healthy_noisy_and_not_aimed_at_the_goal(umaze) -> None:
    assert not doctor(umaze).errors
    assert np.abs(umaze.actions).max() == 1.0
    assert 0.1 < (np.abs(umaze.actions) == 1.0).mean() < 0.6
    cells = {(round(x), round(y)) for x, y in umaze.observations[:, :2]}
    assert cells == {(-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)}
    assert 0.02 < umaze.rewards.mean() < 0.4  # seven cells, visited alike


def test_the_recipe_declares_that_episodes_go_on_and_is_not_warned_of_it(umaze) -> None:
    assert "next_episode" not in doctor(umaze).codes + doctor(umaze.top(0.5)).codes
    undeclared = dataclasses.replace(umaze, provenance={})
    assert "next_episode" in doctor(undeclared).codes
    assert "next_episode" in doctor(umaze.concat(undeclared)).codes, "declared of a part is not declared of all"


def test_recording_is_reproducible(umaze) -> None:
    short = collect_maze("umaze", 300, seed=1)
    assert short.fingerprint == collect_maze("umaze", 310, seed=1).fingerprint
    np.testing.assert_array_equal(short.observations, umaze.observations[:300])
    assert short.fingerprint != collect_maze("umaze", 300, seed=2).fingerprint


def test_collect_writes_what_it_is(tmp_path: Path) -> None:
    data = collect("pointmaze/medium", tmp_path / "set.npz", steps=1300, keep=600, seed=3)
    again = load_dataset(f"npz:{tmp_path / 'set.npz'}")
    assert again.fingerprint == data.fingerprint and len(again) == 600
    assert "next_episode" not in doctor(again).codes
    assert (again.env_id, again.task) == (maze_id("medium"), "pointmaze-medium")
    manifest = json.loads((tmp_path / "set.json").read_text())
    assert manifest["source"] == again.provenance["source"]
    assert "regenerated, not D4RL's maze2d" in manifest["source"]
    assert manifest["command"].startswith("adaptive-constraints collect pointmaze/medium --steps 1300 --keep 600")
    assert "score_mean" in manifest and manifest["versions"]["gymnasium-robotics"] != "not installed"


def test_command_line_collects_and_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tyro")
    out = tmp_path / "maze.npz"
    assert main(["collect", "pointmaze/umaze", "--steps", "700", "--seed", "1", "--out", str(out)]) == 0
    assert load_dataset(f"npz:{out}").fingerprint == collect_maze("umaze", 700, seed=1).fingerprint  # all are kept
    assert main(["collect", "pointmaze/huge", "--out", str(out)]) == 2
    assert "there: pointmaze/umaze" in capsys.readouterr().err
    assert main(["list"]) == 0
    assert "scripted:pointmaze/umaze" in capsys.readouterr().out


def test_scripted_reference_collects_once_and_keeps_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ADAPTIVE_CONSTRAINTS_CACHE", str(tmp_path))
    monkeypatch.setitem(maze_tasks.MAZES, "umaze", MazeTask("U_MAZE", (1, 1), 300, 600))
    first = load_dataset("scripted:pointmaze/umaze")
    assert "collecting draw 0 of scripted:pointmaze/umaze, 600 steps, once" in capsys.readouterr().err
    assert first.name == "scripted:pointmaze/umaze"
    assert first.fingerprint == collect_maze("umaze", 600).fingerprint
    second = load_dataset("scripted:pointmaze/umaze")
    assert second.fingerprint == first.fingerprint and capsys.readouterr().err == ""
    (file,) = tmp_path.glob("*.npz")
    file.write_bytes(file.read_bytes()[:1000])
    assert load_dataset("scripted:pointmaze/umaze").fingerprint == first.fingerprint


def test_a_draw_of_a_maze_is_another_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw 0 is the one that no number names, and the number is the seed that it is collected with."""
    monkeypatch.setenv("ADAPTIVE_CONSTRAINTS_CACHE", str(tmp_path))
    monkeypatch.setitem(maze_tasks.MAZES, "umaze", MazeTask("U_MAZE", (1, 1), 300, 600))
    sets = [load_dataset(f"scripted:pointmaze/umaze{draw}") for draw in ("", "#draw=0", "#draw=2")]
    assert [data.fingerprint for data in sets] == [collect_maze("umaze", 600, seed).fingerprint for seed in (0, 0, 2)]
    assert [data.name for data in sets][1:] == ["scripted:pointmaze/umaze#draw=0", "scripted:pointmaze/umaze#draw=2"]
    assert len(list(tmp_path.glob("*.npz"))) == 2 and "--seed 2" in sets[2].provenance["command"]
    with pytest.raises(DatasetError, match=r"the draw is a whole number from 0, as in pointmaze/umaze#draw=1"):
        load_dataset("scripted:pointmaze/umaze#draw=two")


def test_scripted_data_is_listed_and_wrong_names_are_told_what_there_is() -> None:
    assert {f"scripted:pointmaze/{name}" for name in MAZES} <= set(list_datasets())
    for reference in ("scripted:pointmaze/huge", "scripted:umaze"):
        with pytest.raises(DatasetError, match=r"there: .*pointmaze/.*umaze, ?.*medium"):
            load_dataset(reference)
    assert default_size("pointmaze/large") == (MAZES["large"].steps,) * 2
    assert default_size("sac:Hopper-v5") == (200_000, 50_000)


def test_missing_robotics_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("gymnasium_robotics", "adaptive_constraints.environments.maze_env"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)  # importing it raises ImportError
    assert not any(reference.startswith("scripted:pointmaze") for reference in list_datasets())
    for attempt in (lambda: make_environment(UMAZE), lambda: collect_maze("umaze", 300)):
        with pytest.raises(DependencyError, match=r"pip install 'adaptive-constraints\[robotics\]'"):
            attempt()


@pytest.mark.parametrize("name", MAZES)
def test_scores_span_random_policy_and_controller(name: str) -> None:
    data = collect_maze(name, MAZES[name].time_limit)
    reference = reference_of(data)
    assert reference is not None and reference.task == f"pointmaze-{name}"
    assert 0 < reference.random < reference.expert < MAZES[name].time_limit
    assert "not D4RL's" in reference.source and "standard error" in reference.source


def test_references_are_what_the_two_policies_get_in_umaze() -> None:
    reference = reference_of(collect_random(UMAZE, 300))
    assert reference is not None
    with Evaluator(UMAZE, episodes=10) as evaluator:
        controller = WaypointController(make_environment(UMAZE).unwrapped)
        episodes = evaluator.run(lambda seen, _: np.apply_along_axis(controller, -1, seen), policies=1)
    assert (episodes.lengths == 300).all() and not episodes.terminated.any()
    assert abs(reference.score(episodes.returns.mean()) - 100) < 40  # the standard error of ten episodes is about 14


def test_an_agent_is_evaluated_finetuned_and_found_again_by_id(
    tmp_path: Path, umaze, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = wrap(TD3BC(critic="robust", batch_size=16))
    agent.fit(umaze, steps=4, eval_env="auto", eval_every=4, eval_episodes=1, out=tmp_path / "run", traced=False)
    assert agent.history.evaluations[-1].score is not None
    monkeypatch.delitem(gymnasium.registry, UMAZE)  # as in a program that has not made one yet
    evaluation = load_agent(tmp_path / "run").evaluate(episodes=1)
    np.testing.assert_array_equal(evaluation.returns, agent.evaluate(episodes=1).returns)
    online = load_agent(tmp_path / "run")
    online.finetune("auto", steps=3, dataset=umaze, warm_up=1, eval_env=None, traced=False)
    assert online.step == 6
