"""The environment of the data: kept whole, rebuilt from what is registered here, and never a way to run code."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers

from adaptive_constraints import Dataset, load_agent, load_dataset
from adaptive_constraints.cli import main
from adaptive_constraints.data import references, save_npz
from adaptive_constraints.data.collecting.collect import collect
from adaptive_constraints.data.references import task_of_spec
from adaptive_constraints.environments import making
from adaptive_constraints.environments.boundary import EnvironmentWarning
from adaptive_constraints.environments.making import RecordedEnv
from adaptive_constraints.environments.specs import alterations, plain_env_spec
from adaptive_constraints.errors import CheckpointError, DatasetError, EvaluationError, SuiteError
from adaptive_constraints.experiments.runner import bench
from adaptive_constraints.experiments.suite import load_suite
from adaptive_constraints.support.records import write_record

from .benching import InlineWorkers
from .foreign import LIMIT, QUIET, Line, line_agent, line_data

LINE = "tests/Line-v0"


def made(limit: int = 17, bonus: float = 1.0) -> gymnasium.Env:
    return gymnasium.make(LINE, max_episode_steps=limit, bonus=bonus)


def same(one: Any, two: Any) -> None:
    np.testing.assert_array_equal(one.returns, two.returns)


@pytest.mark.parametrize(("limit", "bonus"), [(17, 1.0), (30, 0.0), (LIMIT, -2.5)])
def test_auto_is_the_recorded_environment_through_files(tmp_path: Path, limit: int, bonus: float) -> None:
    data = line_data(limit, env_spec=made(limit, bonus).spec)
    assert data.env_id == LINE
    save_npz(data, tmp_path / "data.npz")
    again = load_dataset(f"npz:{tmp_path / 'data.npz'}")
    assert again.env_spec == data.env_spec == again.subset(np.arange(limit)).env_spec
    agent = line_agent(again, eval_env="auto", eval_episodes=1, out=tmp_path / "run")
    wanted = agent.evaluate(lambda: made(limit, bonus), episodes=2)
    same(agent.evaluate(episodes=2), wanted)
    same(load_agent(tmp_path / "run").evaluate("auto", episodes=2), wanted)
    config = json.loads((tmp_path / "run" / "config.json").read_text())["evaluation"]
    assert config["env_spec"] == data.env_spec and config["env"].startswith(LINE)
    online = load_agent(tmp_path / "run")
    online.finetune("auto", steps=limit + 5, warm_up=1, dataset=again, progress=False, traced=False, eval_episodes=1)
    assert online.env_spec == data.env_spec
    settings = online.run.online.settings
    assert str(limit) in settings.env or limit == LIMIT, "what the phase is says more than the id"
    same(online.history.evaluations[-1], online.evaluate(lambda: made(limit, bonus), episodes=1))


def test_data_that_has_an_id_alone_and_agents_of_before_are_evaluated_as_registered(tmp_path: Path) -> None:
    agent = line_agent(line_data(env_id=LINE))
    same(agent.evaluate(episodes=1), agent.evaluate(LINE, episodes=1))
    agent.run.data = replace(agent.run.data, longest=None)
    same(agent.evaluate(episodes=1), agent.evaluate(LINE, episodes=1))
    assert agent.env_spec is None


def test_collecting_records_what_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = collect(f"random:{LINE}", tmp_path / "line.npz", steps=40, keep=40)
    assert data.env_spec == plain_env_spec(gymnasium.make(LINE).spec) and data.env_id == LINE
    assert data.env_spec["max_episode_steps"] == LIMIT and data.env_spec["additional_wrappers"] == []
    assert json.loads((tmp_path / "line.json").read_text())["env_spec"] == data.env_spec


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("evaluated", [False, True])
def test_minari_s_specification_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluated: bool) -> None:
    minari = pytest.importorskip("minari")
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    swing = gymnasium.make("Pendulum-v1", g=3.0, max_episode_steps=13)
    delayed, last = wrappers.StickyAction(swing, 0.25), np.arange(13) == 12
    episode = EpisodeBuffer(
        id=0, observations=np.zeros((14, 3), np.float32), actions=np.zeros((13, 1), np.float32), rewards=np.zeros(13),
        terminations=np.zeros(13, bool), truncations=last, infos={},
    )  # fmt: skip
    other = {"eval_env": gymnasium.make("Pendulum-v1", max_episode_steps=21)} if evaluated else {}
    minari.create_dataset_from_buffers("toy/swing-v0", [episode], env=delayed, **other)
    data = load_dataset("minari:toy/swing-v0")
    if evaluated:
        assert (data.env_spec["kwargs"], data.env_spec["max_episode_steps"]) == ({}, 21)
    else:
        assert data.env_spec == plain_env_spec(delayed.spec)
        rebuilt: Any = RecordedEnv(data.env_id, data.env_spec)()
        assert (rebuilt.unwrapped.g, rebuilt.spec.max_episode_steps) == (3.0, 13)


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_specifications_are_plain_and_read_back_alike() -> None:
    env = wrappers.RescaleAction(made(), np.array([-1.0], np.float32), np.float32(1))
    spec = plain_env_spec(env.spec)
    assert json.loads(json.dumps(spec)) == spec == plain_env_spec(spec) == plain_env_spec(json.loads(json.dumps(spec)))
    pendulum = gymnasium.make("Pendulum-v1", g=2.0).spec
    assert plain_env_spec(json.loads(pendulum.to_json())) == plain_env_spec(pendulum), "as Minari writes it"
    assert (spec["kwargs"], spec["max_episode_steps"], spec["not_plain"]) == ({"bonus": 1.0}, 17, [])
    rebuilt: Any = RecordedEnv(LINE, spec)()
    assert rebuilt.action_space.low == [-1] and rebuilt.unwrapped.bonus == 1.0
    assert plain_env_spec({"id": LINE, "kwargs": {"render_mode": "human"}})["kwargs"] == {}


def deep(levels: int) -> list[Any]:
    """A list in a list in a list ..."""
    tree: list[Any] = []
    for _ in range(levels):
        tree = [tree]
    return tree


@pytest.mark.parametrize("spec", [3, "Line", {}, {"id": 3}, {"id": ""}, {"id": "a", "kwargs": 3}, ["a"],
                                  {"id": "a", "additional_wrappers": [3]}, {"id": "a", "max_episode_steps": "b"},
                                  {"id": "a", "max_episode_steps": float("inf")}, {"id": "a", "max_episode_steps": 5.9},
                                  {"id": "a", "max_episode_steps": "5"}, {"id": "a", "kwargs": {"deep": deep(2000)}},
                                  {"id": "a", "not_plain": 7}])  # fmt: skip
def test_what_is_no_specification_is_refused(spec: Any) -> None:
    with pytest.raises(DatasetError, match="env_spec must be"):
        line_data(env_spec=spec)
    with pytest.raises(EvaluationError, match="env_spec must be"):
        RecordedEnv(LINE, spec)()


def test_a_damaged_specification_in_an_agent_is_a_library_error(tmp_path: Path) -> None:
    agent = line_agent()
    agent.run.data = replace(agent.run.data, env_spec={"id": 7})
    agent.save(tmp_path / "agent.npz")
    with pytest.raises(CheckpointError, match="do not fit together"):
        load_agent(tmp_path / "agent.npz")


def test_an_id_and_a_specification_of_another_are_refused() -> None:
    with pytest.raises(DatasetError, match="env_id is 'Hopper-v5', but env_spec is of 'tests/Line-v0'"):
        line_data(env_id="Hopper-v5", env_spec=made().spec)


# -- what cannot be rebuilt -------------------------------------------------------------------------------------------


class Doubling(gymnasium.RewardWrapper, gymnasium.utils.RecordConstructorArgs):
    """A wrapper that is not Gymnasium's."""

    def __init__(self, env: gymnasium.Env) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self)
        gymnasium.RewardWrapper.__init__(self, env)

    def reward(self, reward: Any) -> float:
        return 2 * reward


@pytest.mark.parametrize(
    ("env", "missing"),
    [
        (lambda: gymnasium.make(LINE, hook=print), r"arguments that no file can hold \(hook\)"),
        (lambda: gymnasium.make(LINE, hook=np.zeros(2)), r"arguments that no file can hold \(hook\)"),
        (lambda: Doubling(made()), r"in the wrapper .*:Doubling, which cannot be rebuilt"),
        (lambda: wrappers.TransformReward(made(), abs), "in the wrapper .*:TransformReward"),
        (lambda: wrappers.NormalizeObservation(made()), "in the wrapper .*:NormalizeObservation"),
    ],
)
def test_what_cannot_be_rebuilt_is_named_with_what_to_pass_instead(env: Any, missing: str) -> None:
    agent = line_agent(line_data(env_spec=env().spec))
    with pytest.raises(EvaluationError, match=f"{missing}.*Pass the environment yourself.*--eval-env"):
        agent.evaluate()
    assert agent.evaluate(env, episodes=1).returns.shape == (1, 1)


def test_an_id_that_is_not_registered_here_is_named() -> None:
    agent = line_agent(line_data(env_id="elsewhere/Thing-v3"))
    with pytest.raises(EvaluationError, match=r"'elsewhere/Thing-v3', which is not registered here.*eval_env="):
        agent.evaluate()
    with pytest.raises(EvaluationError, match="not registered here"):
        agent.finetune("auto", steps=20, progress=False, traced=False)


def test_wrappers_that_only_watch_are_left_out(tmp_path: Path) -> None:
    spec = plain_env_spec(wrappers.RecordEpisodeStatistics(made()).spec)
    video = {"name": "RecordVideo", "entry_point": "gymnasium.wrappers:RecordVideo",
             "kwargs": {"video_folder": str(tmp_path / "chosen")}}  # fmt: skip
    spec["additional_wrappers"].append(video)
    assert type(RecordedEnv(LINE, spec)()) is wrappers.TimeLimit and not (tmp_path / "chosen").exists()


# -- scores -----------------------------------------------------------------------------------------------------------


def test_tasks_are_of_environments_as_they_are_registered() -> None:
    hopper = lambda **options: gymnasium.make("Hopper-v5", **options)  # noqa: E731
    assert task_of_spec(hopper().spec) == task_of_spec(wrappers.ClipAction(hopper()).spec) == "hopper"
    assert task_of_spec(hopper(render_mode="rgb_array").spec) == "hopper"
    for env in (hopper(max_episode_steps=200), hopper(forward_reward_weight=2.0), wrappers.StickyAction(hopper(), 0.1)):
        assert task_of_spec(env.spec) is None and alterations(env.spec)
    assert task_of_spec(None) is None


@pytest.mark.parametrize(
    ("make", "score"),
    [
        (lambda: gymnasium.make(LINE), "good"),
        (lambda: Line(ends=4), "good"),
        (lambda: wrappers.ClipAction(gymnasium.make(LINE)), "good"),
        (lambda: gymnasium.make(LINE, bonus=1.0), "none"),
        (lambda: gymnasium.make(LINE, max_episode_steps=LIMIT - 1), "none"),
        (lambda: wrappers.RepeatAction(gymnasium.make(LINE), 2), "none"),
        (lambda: wrappers.TransformReward(gymnasium.make(LINE), abs), "none"),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_there_is_no_score_in_another_task(make: Any, score: str, known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if known:
        monkeypatch.setitem(references.TASK_OF_ENV, LINE, "hopper")
    agent = line_agent(line_data(task="hopper"))
    if score == "good":
        assert agent.evaluate(make, episodes=1).score is not None
        return
    text = "there is no normalised score" if known else "the normalised score may mean nothing"
    with pytest.warns(EnvironmentWarning, match=f"{text}: its reference returns are of 'hopper', and in .*Line"):
        assert (agent.evaluate(make, episodes=1).score is None) == known


def test_a_shorter_limit_and_another_id_have_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = line_agent(line_data(task="hopper"))
    with pytest.warns(EnvironmentWarning, match="max_steps is 4"):
        assert agent.evaluate(LINE, episodes=1, eval_max_steps=4).score is None
    assert agent.evaluate(LINE, episodes=1, eval_max_steps=LIMIT).score is not None
    monkeypatch.setitem(references.TASK_OF_ENV, LINE, "walker2d")
    with pytest.warns(EnvironmentWarning, match=f"id is {LINE}"):
        assert agent.evaluate(LINE, episodes=1).score is None


def test_references_that_the_data_carries_hold_where_it_is_from() -> None:
    carried = {"ref_min_score": "0", "ref_max_score": "10"}
    agent = line_agent(line_data(17, env_spec=made().spec, provenance=carried))
    assert agent.evaluate(episodes=1).score is not None
    assert agent.evaluate(made, episodes=1).score is not None
    with pytest.warns(EnvironmentWarning, match="there is no normalised score.*bonus is as registered"):
        evaluation = agent.evaluate(lambda: gymnasium.make(LINE, max_episode_steps=17), episodes=1)
    assert evaluation.score is None
    by_id = line_agent(line_data(env_id=LINE, provenance=carried))
    assert by_id.evaluate(episodes=1).score is not None


# -- a file chooses no code -------------------------------------------------------------------------------------------


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The name of a module in the working directory, which must not be imported."""
    (tmp_path / "evil_canary.py").write_text("import gymnasium\nraise SystemExit('imported')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "evil_canary"
    assert "evil_canary" not in sys.modules


WRAPPER: dict[str, Any] = {"name": "FlattenObservation", "entry_point": "evil_canary:FlattenObservation", "kwargs": {}}
HOSTILE: dict[str, Any] = {
    "module of the id": ("evil_canary:Thing-v0", None),
    "module before a known id": ("evil_canary:tests/Nope-v0", {"id": "tests/Nope-v0"}),
    "entry points": (LINE, {"entry_point": "evil_canary:Env", "vector_entry_point": "evil_canary:Env", "kwargs": {}}),
    "wrapper": (LINE, {"additional_wrappers": [WRAPPER]}),
    "wrapper of another name": (LINE, {"additional_wrappers": [WRAPPER | {"name": "evil_canary:FlattenObservation"}]}),
    "path into wrappers": (LINE, {"additional_wrappers": [{**WRAPPER, "name": "utils"}]}),
    "argument": ("GymV21Environment-v0", {"kwargs": {"env_id": "evil_canary:Thing-v0"}}),
    "argument without a name": ("GymV21Environment-v0", {"kwargs": {"env_id": "evil_canary:-Foo"}}),
    "argument and no more": (LINE, {"kwargs": {"hook": "evil_canary:"}}),
    "argument with blanks": (LINE, {"kwargs": {"hook": " evil_canary:Foo v0\n"}}),
    "key of an argument": (LINE, {"kwargs": {"hook": {"evil_canary:Thing-v0": 1}}}),
    "nested argument": (LINE, {"kwargs": {"bonus": [{"a": "evil_canary:Thing"}]}}),
}


def hostile(name: str) -> Dataset:
    env_id, more = HOSTILE[name]
    spec = None if more is None else {"id": env_id, "max_episode_steps": LIMIT, **more}
    return line_data(env_id=env_id, env_spec=spec)


@pytest.mark.parametrize("name", HOSTILE)
def test_no_file_has_a_module_imported(name: str, evil: str, tmp_path: Path, capsys) -> None:
    save_npz(hostile(name), tmp_path / "data.npz")
    data = load_dataset("npz:data.npz")
    main(["doctor", "npz:data.npz"])
    agent = line_agent(data, out=tmp_path / "run")
    agent.save(tmp_path / "agent.npz")
    for path in ("run", "agent.npz"):
        read = load_agent(path)
        for attempt in (
            lambda loaded: loaded.evaluate("auto", episodes=1),
            lambda loaded: loaded.finetune("auto", steps=20, warm_up=1, dataset=data, progress=False, traced=False),
            lambda loaded: loaded.untrained().fit(data, steps=2, eval_env="auto", eval_episodes=1, **QUIET),
        ):
            if name == "entry points":
                attempt(read)  # what is registered here is made, whatever the file says
            else:
                with pytest.raises(EvaluationError, match="Pass the environment yourself"):
                    attempt(read)
    code = main(["evaluate", "agent.npz", "--episodes", "1"])
    assert (code == 0) == (name == "entry points"), capsys.readouterr().err
    assert "evil_canary" not in sys.modules


def test_no_name_of_a_set_has_a_module_imported(evil: str) -> None:
    for reference in (f"ogbench:{evil}:x-play-singletask-v0", f"ogbench:a-play-singletask-{evil}:x-v0"):
        with pytest.raises(DatasetError, match="is no name of a set"):
            load_dataset(reference)


def test_no_suite_has_a_module_imported_that_was_not_allowed(evil: str, tmp_path: Path, capsys) -> None:
    save_npz(hostile("module of the id"), tmp_path / "data.npz")
    text = (
        'about = "x"\nlearners = "TD3BC hidden=8 batch_size=16"\ndata = "npz:data.npz"\nseeds = 1\nsteps = 2\n'
        "evaluation = {{ every = 2, episodes = 1, env = {env!r} }}\n"
    )
    (tmp_path / "own.toml").write_text(text.format(env=f"{evil}:Thing-v0"))
    with pytest.raises(SuiteError, match=f"evaluation.env: .* has the module {evil} imported: allow it by --imports"):
        load_suite("own.toml")
    assert main(["bench", "own.toml"]) == 2 and "--imports" in capsys.readouterr().err
    (tmp_path / "auto.toml").write_text(text.format(env="auto"))
    suite = load_suite("auto.toml")
    (reason,) = bench(suite, suite.cells, tmp_path / "out", InlineWorkers(), progress=False).failed.values()
    assert "which is not registered here" in reason
    (cell,) = (tmp_path / "out").glob("cells/*/cell.json")
    changed = {name: value for name, value in json.loads(cell.read_text()).items() if name != "digest"}
    write_record(cell, changed | {"imports": [evil]})
    with pytest.raises(SuiteError, match="holds other cells: .*imports"):
        bench(suite, suite.cells, tmp_path / "out", InlineWorkers(), progress=False)


def test_known_packages_are_not_taken_from_the_working_directory(
    evil: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "PACKAGES", (evil,))
    for env_id in (f"{evil}:Thing-v0", "Thing-v0"):
        with pytest.raises(EvaluationError, match="not registered here"):
            RecordedEnv(env_id)()
    assert str(tmp_path) in sys.path


def test_what_the_user_writes_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_to_import.py").write_text(
        "import gymnasium\nfrom tests.foreign import Line\ngymnasium.register('Mine-v0', Line, max_episode_steps=5)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    agent = line_agent(line_data(env_id="mine_to_import:Mine-v0"))
    with pytest.raises(EvaluationError, match="not registered here"):
        agent.evaluate()
    first = agent.evaluate("mine_to_import:Mine-v0", episodes=1)
    with pytest.warns(EnvironmentWarning, match="after 5 steps, but the data's longest episode has 10"):
        same(agent.evaluate(episodes=1), first)


def test_packages_that_are_known_are_found_by_id() -> None:
    pytest.importorskip("gymnasium_robotics")
    for env_id in ("AdroitHandPen-v1", "gymnasium_robotics:AdroitHandPen-v1"):
        assert RecordedEnv(env_id)().spec.id == "AdroitHandPen-v1"
