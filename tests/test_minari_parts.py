"""Minari's sets whose observations are dictionaries: goals, robots, kitchens; and sets written for Minari."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptive_constraints import load_agent, load_dataset, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.data import Dataset
from adaptive_constraints.data.sources.loaders import check_reference
from adaptive_constraints.environments.making import RecordedEnv
from adaptive_constraints.errors import DatasetError, EvaluationError

from .small_data import make

minari = pytest.importorskip("minari")
gymnasium = pytest.importorskip("gymnasium")
pytest.importorskip("gymnasium_robotics")

from gymnasium.spaces import Box, Dict  # noqa: E402
from minari.data_collector import EpisodeBuffer  # noqa: E402

from adaptive_constraints.environments.flat_observations import FlattenKeys, parts_of  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),  # of Minari, on what a set does not say of itself
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

STEPS = (5, 3)
"""Rows of each recording; the second one is cut by the recorder without a mark."""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Minari's local folder, empty."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


def record(env_id: str, name: str, **kwargs: Any) -> list[list[dict[str, Any]]]:
    """Record random actions in an environment and keep them as a set of Minari; the raw observations."""
    env = gymnasium.make(env_id, **kwargs)
    env.action_space.seed(0)
    raw, buffers = [], []
    for index, steps in enumerate(STEPS):
        seen, columns = [env.reset(seed=index)[0]], {key: [] for key in ("actions", "rewards", "terminations")}
        for _ in range(steps):
            action = env.action_space.sample()
            observation, reward, terminated, *_ = env.step(action)
            seen.append(observation)
            for column, value in zip(columns.values(), (action, reward, terminated), strict=True):
                column.append(value)
        raw.append(seen)
        cut = np.arange(steps) == steps - 1
        buffers.append(
            EpisodeBuffer(id=index, observations=stack(seen), truncations=cut & (index == 0), infos={}, **columns)
        )
    minari.create_dataset_from_buffers(name, buffers, env=env)
    env.close()
    return raw


def stack(seen: list[Any]) -> Any:
    """Arrays of all steps, part by part."""
    if isinstance(seen[0], dict):
        return {key: stack([one[key] for one in seen]) for key in seen[0]}
    return np.stack(seen)


def look(observation: Any, path: str) -> np.ndarray:
    for key in path.split("/"):
        observation = observation[key]
    return np.atleast_1d(observation).ravel()


GOALS = ["achieved_goal", "desired_goal", "observation"]
KITCHEN = [f"{kind}_goal/{task}" for kind in ("achieved", "desired") for task in ("kettle", "microwave")]
SETS = {
    "pointmaze": ("PointMaze_UMaze-v3", {}, GOALS, GOALS[:2] + GOALS[2:]),
    "pointmaze, chosen": ("PointMaze_UMaze-v3", {}, ["observation", "desired_goal"], ["observation", "desired_goal"]),
    "antmaze, as D4RL has it": (
        "AntMaze_UMaze-v5",
        {},
        ["achieved_goal", "observation"],
        ["achieved_goal", "observation"],
    ),
    "fetch": ("FetchReach-v4", {}, GOALS, GOALS),
    "kitchen": (
        "FrankaKitchen-v1",
        {"tasks_to_complete": ["microwave", "kettle"]},
        [],
        [*KITCHEN, "observation"],
    ),
    "kitchen, chosen": (
        "FrankaKitchen-v1",
        {"tasks_to_complete": ["microwave", "kettle"]},
        ["observation", "desired_goal/microwave"],
        ["observation", "desired_goal/microwave"],
    ),
}


@pytest.mark.parametrize("case", SETS)
def test_parts_stand_in_the_order_that_is_said_and_evaluation_joins_them_alike(case, folder):
    env_id, kwargs, keys, order = SETS[case]
    raw = record(env_id, "toy/set-v0", **kwargs)
    reference = "minari:toy/set-v0" + (f"#obs={'+'.join(keys)}" if keys and keys != GOALS else "")
    data = load_dataset(reference)
    vectors = [[np.concatenate([look(one, path) for path in order]) for one in seen] for seen in raw]
    rows = np.concatenate([np.stack(seen[:-1]) for seen in vectors]).astype(np.float32)
    np.testing.assert_array_equal(data.observations, rows)
    following = np.concatenate([np.stack(seen[1:]) for seen in vectors]).astype(np.float32)
    np.testing.assert_array_equal(data.next_observations, following)
    assert data.name == reference and data.episode_lengths().tolist() == list(STEPS)
    assert data.timeouts.tolist() == [row in (4, 7) for row in range(8)]
    begin, text = 0, []
    for path in order:
        end = begin + len(look(raw[0][0], path))
        text.append(f"{path} {begin}:{end}")
        begin = end
    assert data.provenance["observations"] == ", ".join(text)
    env = RecordedEnv(data.env_id, data.env_spec)()
    observation, _ = env.reset(seed=0)
    np.testing.assert_array_equal(observation.astype(np.float32), rows[0])
    assert env.spec.additional_wrappers[-1].kwargs == {"keys": order}
    env.close()


def test_a_learner_trains_on_goals_and_is_evaluated_and_loaded(folder, tmp_path):
    record("PointMaze_UMaze-v3", "toy/goals-v0", max_episode_steps=20)
    data = load_dataset("minari:toy/goals-v0#obs=observation+desired_goal")
    agent = wrap(TD3BC(hidden=8, batch_size=8))
    agent.fit(data, steps=2, seeds=2, eval_env="auto", eval_episodes=2, eval_max_steps=5, progress=False)
    (evaluation,) = agent.history.evaluations
    assert evaluation.success is not None and evaluation.success.shape == (2, 2)
    agent.save(tmp_path / "agent.npz")
    again = load_agent(tmp_path / "agent.npz")
    assert again.evaluate(episodes=2, eval_max_steps=5).returns.tolist() == evaluation.returns.tolist()
    assert again.history.evaluations[0].success.tolist() == evaluation.success.tolist()


def test_the_wrapper_is_known_by_the_specification(folder):
    env = FlattenKeys(gymnasium.make("PointMaze_UMaze-v3"), ["desired_goal", "observation"])
    assert env.observation_space.shape == (6,)
    again = RecordedEnv("PointMaze_UMaze-v3", Dataset.from_arrays(
        observations=np.zeros((2, 6)), actions=np.zeros((2, 2)), rewards=np.zeros(2), terminals=[0, 1],
        env_spec=env.spec,
    ).env_spec)()  # fmt: skip
    np.testing.assert_array_equal(again.reset(seed=3)[0], env.reset(seed=3)[0])
    env.close(), again.close()


def test_a_file_cannot_have_another_module_imported_under_that_name():
    wrapper = {"name": "FlattenKeys", "entry_point": "antigravity:FlattenKeys", "kwargs": {"keys": []}}
    spec = {"id": "PointMaze_UMaze-v3", "kwargs": {}, "max_episode_steps": 9, "additional_wrappers": [wrapper]}
    with pytest.raises(EvaluationError, match="in the wrapper antigravity:FlattenKeys, which cannot be rebuilt"):
        RecordedEnv("PointMaze_UMaze-v3", spec)()
    assert "antigravity" not in sys.modules


SPACE = Dict(
    {
        "camera": Box(0, 255, (4, 4, 3), np.uint8),
        "goal": Dict({"a": Box(-1, 1, (2,)), "b": Box(-1, 1, ())}),
        "mode": gymnasium.spaces.Discrete(3),
        "state": Box(-1, 1, (3,)),
    }
)


def test_parts_of_a_space():
    assert [part.name for part in parts_of(SPACE, ["state", "goal"])] == ["state", "goal/a", "goal/b"]
    assert [part.size for part in parts_of(SPACE, ["goal/b", "state"])] == [1, 3]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ([], r"the part 'camera' of the observations is .*images stay outside.*by #obs=goal/a\+goal/b\+state"),
        (["mode"], "the part 'mode' of the observations is Discrete"),
        (["stat"], "have no part 'stat'; there: camera, goal/a, goal/b, mode, state"),
        (["goal", "goal/a"], "named twice: goal/a"),
    ],
)
def test_parts_that_cannot_be(keys, said):
    with pytest.raises(DatasetError, match=said):
        parts_of(SPACE, keys)


@pytest.mark.parametrize("said", ["#observation", "#obs=", "#keys=a", "#obs=a++b"])
def test_a_reference_that_cannot_be_read(said):
    with pytest.raises(DatasetError, match=r"parts of observations are named by #obs=PART\+PART"):
        check_reference(f"minari:toy/set-v0{said}")


def test_a_vector_has_no_parts(folder):
    make(env_id="Pendulum-v1").to_minari("toy/flat-v0")
    with pytest.raises(DatasetError, match="one vector here, which has no parts: leave #obs= out"):
        load_dataset("minari:toy/flat-v0#obs=observation")


# Writing


def test_what_is_written_is_read_back(folder):
    draw = np.random.default_rng(0)
    spec = gymnasium.make("Hopper-v5", max_episode_steps=70, ctrl_cost_weight=0.5).spec
    data = make(
        env_spec=spec, action_low=[-2, -1], action_high=[2, 1], provenance={"licence": "MIT"},
        rewards=draw.normal(size=12),
    )  # fmt: skip
    data.to_minari("mine/hopper/walk-v3", author="me", algorithm_name="walks")
    again = load_dataset("minari:mine/hopper/walk-v3")
    assert again.fingerprint == data.fingerprint
    assert (again.env_id, again.env_spec) == (data.env_id, data.env_spec)
    assert again.provenance["algorithm_name"] == "walks"
    source = minari.load_dataset("mine/hopper/walk-v3")
    assert source.total_episodes == 3 and source.total_steps == 12
    assert "licence: MIT" in source.storage.metadata["description"]
    with pytest.raises(DatasetError, match="has a local data set 'mine/hopper/walk-v3' already"):
        data.to_minari("mine/hopper/walk-v3")


@pytest.mark.parametrize("details", [{}, {"author": "me", "description": "mine"}])
@pytest.mark.parametrize("env_id", [None, "Pendulum-v1"])
def test_writing_warns_of_nothing_that_nobody_can_mend(folder, env_id, details, recwarn):
    make(env_id=env_id).to_minari("mine/quiet-v0", **details)
    assert [str(warning.message) for warning in recwarn if warning.category is UserWarning] == []


def test_goals_double_precision_and_references_survive(folder):
    record("PointMaze_UMaze-v3", "toy/goals-v0")
    data = load_dataset("minari:toy/goals-v0#obs=desired_goal+observation")
    data.to_minari("toy/flat-v0")
    again = load_dataset("minari:toy/flat-v0")
    assert (again.fingerprint, again.env_spec) == (data.fingerprint, data.env_spec)
    rows = 30
    stamps = Dataset.from_arrays(
        observations=1.7e9 + np.arange(rows)[:, None] * 0.01,
        next_observations=1.7e9 + np.arange(1, rows + 1)[:, None] * 0.01,
        actions=np.zeros((rows, 1)),
        rewards=np.ones(rows),
        terminals=np.arange(rows) == rows - 1,
        env_id="Hopper-v4",
        task="hopper",
    )
    stamps.to_minari("toy/stamps-v0")
    again = load_dataset("minari:toy/stamps-v0")
    assert again.fingerprint == stamps.fingerprint and again.observations.dtype == np.float64
    assert (again.task, again.env_id) == ("hopper", "Hopper-v4")
    assert float(again.provenance["ref_max_score"]) == 3234.3


def test_what_minari_cannot_keep(folder):
    data = make()
    broken = Dataset.from_arrays(
        **{key: getattr(data, key) for key in ("observations", "actions", "rewards", "terminals", "timeouts")},
        next_observations=data.next_observations + 1,
        episode_ids=data.episode_ids,
    )
    with pytest.raises(DatasetError, match="9 rows of 'arrays' do not lead to the following row"):
        broken.to_minari("toy/broken-v0")
    with pytest.raises(DatasetError, match="'no name' is no name of a set of Minari: write NAMESPACE/NAME-v0"):
        data.to_minari("no name")
    with pytest.raises(DatasetError, match="no detail 'colour'; there: author, author_email"):
        data.to_minari("toy/half-v0", colour="red")
    with pytest.raises(DatasetError, match="no detail 'autor'; did you mean 'author'"):
        data.to_minari("toy/half-v0", autor="me")
    with pytest.raises(DatasetError, match="author must be a text, not 3"):
        data.to_minari("toy/half-v0", author=3)
    assert not list(folder.rglob("*half*")) and not list(folder.glob(".writing*")), "nothing is left half-written"
    with pytest.warns(UserWarning, match="environment Nowhere-v7 is not written, so that evaluation has to name it"):
        make(env_id="Nowhere-v7").to_minari("toy/nowhere-v0")
    assert load_dataset("minari:toy/nowhere-v0").env_id is None
