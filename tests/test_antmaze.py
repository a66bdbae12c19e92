"""D4RL's antmaze: its files, and the environment in which they are evaluated, held to what D4RL's code says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptive_constraints import load_dataset, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.data import doctor, normalized_score, reference_of
from adaptive_constraints.data.references import task_of_file
from adaptive_constraints.environments.making import RecordedEnv

h5py = pytest.importorskip("h5py")
gymnasium = pytest.importorskip("gymnasium")
pytest.importorskip("gymnasium_robotics")

from adaptive_constraints.environments.antmaze_env import AntMaze  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*precision lowered")

# Walls ("#"), starts and goals of D4RL's U_MAZE_TEST, BIG_MAZE_TEST and HARDEST_MAZE_TEST.
D4RL = {
    "umaze": ("#####", "#R..#", "###.#", "#G..#", "#####"),
    "medium": (
        *("########", "#R.##..#", "#..#...#", "##...###"),
        *("#..#...#", "#.#..#.#", "#...#.G#", "########"),
    ),
    "large": (
        *("############", "#R...#.....#", "#.##.#.#.#.#", "#......#...#", "#.####.###.#"),
        *("#..#.#.....#", "##.#.#.#.###", "#..#...#.G.#", "############"),
    ),
}
SCALE = 4.0


def places(maze: str, letter: str) -> set[tuple[float, float]]:
    """x and y of cells, by D4RL's formula: the start is at 0, and y grows with the row."""
    rows = D4RL[maze]
    (start,) = [(i, j) for i, row in enumerate(rows) for j, cell in enumerate(row) if cell == "R"]
    found = [(i, j) for i, row in enumerate(rows) for j, cell in enumerate(row) if cell == letter]
    return {((j - start[1]) * SCALE, (i - start[0]) * SCALE) for i, j in found}


@pytest.fixture(params=D4RL)
def maze(request):
    env = AntMaze(request.param)
    yield request.param, env
    env.close()


def test_walls_stand_where_d4rl_puts_them(maze):
    name, env = maze
    model = env.model
    blocks = [index for index in range(model.ngeom) if (model.geom(index).name or "").startswith("block")]
    offset = env.start
    there = {tuple(np.round(model.geom_pos[index][:2] - offset, 6).tolist()) for index in blocks}
    assert there == places(name, "#")
    for index in blocks:
        np.testing.assert_allclose(model.geom_size[index], [2.0, 2.0, 1.0])
        assert model.geom_pos[index][2] == 1.0


def test_goals_lie_where_d4rl_draws_them(maze):
    name, env = maze
    ((x, y),) = places(name, "G")
    goals = []
    for seed in range(300):
        env.reset(seed=seed)
        goals.append(env.goal - (x, y))
    drawn = np.array(goals)
    low = np.maximum(-np.array([x, y]), 0)  # D4RL moves a goal below 0 to 0
    assert (drawn >= low).all() and (drawn <= 1.5).all()
    np.testing.assert_allclose(drawn.mean(axis=0), [0.75, 0.75], atol=0.06)  # two draws, from [0, 1] and [0, 0.5]
    np.testing.assert_allclose(drawn.var(axis=0), (1 + 0.25) / 12, rtol=0.25)


def test_the_ant_is_d4rls(maze):
    _, env = maze
    model = env.model
    assert model.opt.timestep == 0.02 and model.opt.integrator == 1  # RK4
    ours = [index for index in range(model.ngeom) if not (model.geom(index).name or "").startswith("block")]
    for index in ours:
        np.testing.assert_allclose(model.geom_solref[index], [0.02, 1])
        np.testing.assert_allclose(model.geom_solimp[index][:3], [0.8, 0.8, 0.01])
    np.testing.assert_array_equal(model.actuator_gear[:, 0], 30)
    np.testing.assert_array_equal(model.actuator_ctrlrange, [[-1, 1]] * 8)
    joints = [model.joint(model.actuator_trnid[index, 0]).name for index in range(8)]
    assert joints == ["hip_4", "ankle_4", "hip_1", "ankle_1", "hip_2", "ankle_2", "hip_3", "ankle_3"]
    env.reset(seed=0)
    before = env.data.time
    env.step(np.zeros(8, np.float32))
    assert env.data.time - before == pytest.approx(0.1)


def test_starts_observations_and_determinism(maze):
    _, env = maze
    starts = np.array([env.reset(seed=seed)[0] for seed in range(100)])
    assert starts.shape == (100, 29) and (np.abs(starts[:, :2]) <= 0.1).all()
    np.testing.assert_allclose(starts[:, :2].std(axis=0), 0.2 / 12**0.5, rtol=0.25)
    np.testing.assert_allclose(starts[:, 15:].std(), 0.1, rtol=0.1)
    one = [env.reset(seed=7)[0], *(env.step(np.full(8, 0.3, np.float32))[0] for _ in range(5))]
    goal = env.goal.copy()
    two = [env.reset(seed=7)[0], *(env.step(np.full(8, 0.3, np.float32))[0] for _ in range(5))]
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(goal, env.goal)
    env.reset()
    assert (env.goal != goal).any(), "every episode has its own goal"


def test_the_goal_ends_an_episode_with_a_reward_of_one_and_a_fall_does_not(maze):
    _, env = maze
    state, _ = env.reset(seed=3)
    for offset, near in ((0.3, True), (0.8, False)):
        there = state.copy()
        there[:2] = env.goal + np.array([offset, 0.0])
        there[15:] = 0
        np.testing.assert_allclose(env.set_state(there), there, atol=1e-12)
        _, reward, terminated, truncated, info = env.step(np.zeros(8, np.float32))
        assert (reward, terminated, truncated, info["success"]) == (float(near), near, False, near)
    fallen = state.copy()
    fallen[2], fallen[3:7] = 0.3, (0, 1, 0, 0)  # on its back
    env.set_state(fallen)
    assert env.step(np.zeros(8, np.float32))[2] is False


@pytest.mark.parametrize(
    ("file", "env_id", "limit"),
    [
        ("antmaze-umaze-v2.hdf5", "adaptive_constraints/AntMaze-umaze-v0", 700),
        ("antmaze-umaze-diverse-v0.hdf5", "adaptive_constraints/AntMaze-umaze-v0", 700),
        (
            "Ant_maze_u-maze_noisy_multistart_True_multigoal_True_sparse_fixed.hdf5",
            "adaptive_constraints/AntMaze-umaze-v0",
            700,
        ),
        (
            "Ant_maze_umaze_noisy_multistart_False_multigoal_False_sparse.hdf5",
            "adaptive_constraints/AntMaze-umaze-v0",
            700,
        ),
        ("antmaze-medium-play-v2.hdf5", "adaptive_constraints/AntMaze-medium-v0", 1000),
        (
            "Ant_maze_big-maze_noisy_multistart_True_multigoal_False_sparse_fixed.hdf5",
            "adaptive_constraints/AntMaze-medium-v0",
            1000,
        ),
        ("antmaze-large-diverse-v2.hdf5", "adaptive_constraints/AntMaze-large-v0", 1000),
        (
            "Ant_maze_hardest-maze_noisy_multistart_True_multigoal_True_sparse_fixed.hdf5",
            "adaptive_constraints/AntMaze-large-v0",
            1000,
        ),
    ],
)
def test_files_name_their_environment(file, env_id, limit):
    assert task_of_file(file) == ("antmaze", env_id)
    env = RecordedEnv(env_id)()
    assert env.spec.max_episode_steps == limit
    env.close()


def write_d4rl(path: Path, recordings: int = 3, steps: int = 40) -> dict[str, Any]:
    """A file in the layout of D4RL's antmaze: recording goes on at goals; its last row is a timeout."""
    env = AntMaze("umaze")
    env.action_space.seed(0)
    columns: dict[str, list[Any]] = {key: [] for key in ("observations", "actions", "rewards", "terminals", "timeouts")}
    goals = []
    for number in range(recordings):
        seen, _ = env.reset(seed=number)
        for step in range(steps):
            reached = number > 0 and 20 <= step < 23
            action = env.action_space.sample()
            values = (seen, action, float(reached), reached, step == steps - 1)
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
            goals.append(env.goal)
            seen = env.step(action)[0]
    env.close()
    arrays = {key: np.array(column) for key, column in columns.items()}
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array if array.dtype == bool else array.astype(np.float32)
        file["infos/goal"] = np.array(goals, np.float32)
        file["infos/qpos"] = arrays["observations"][:, :15]
        file["infos/qvel"] = arrays["observations"][:, 15:]
    return arrays


def test_a_file_loads_trains_and_is_scored_by_success(tmp_path, capsys):
    path = tmp_path / "antmaze-umaze-diverse-v2.hdf5"
    arrays = write_d4rl(path)
    data = load_dataset(f"d4rl:{path}")
    assert data.episode_lengths().tolist() == [39, 39, 39], "recordings, whose last row leads nowhere known"
    assert data.terminals.sum() == 6 and data.rewards.sum() == arrays["rewards"].sum() == 6
    assert data.episode_success().tolist() == [False, True, True]
    assert not doctor(data).errors
    assert reference_of(data).expert == 1.0
    agent = wrap(TD3BC(hidden=8, batch_size=8))
    agent.fit(data, steps=2, seeds=2, eval_env="auto", eval_episodes=2, eval_max_steps=700, progress=False)
    (evaluation,) = agent.history.evaluations
    assert evaluation.score.tolist() == normalized_score("antmaze", evaluation.returns.mean(axis=1)).tolist()
    assert evaluation.success_rate.tolist() == evaluation.score.tolist() == [0.0, 0.0]
