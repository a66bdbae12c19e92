"""The online phase: going on bit for bit, and only where it began."""

from __future__ import annotations

import json
import re
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from adaptive_constraints import ASPC, load_agent, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.environments.naming import environment_text
from adaptive_constraints.errors import CheckpointError
from adaptive_constraints.runs.collector import ReplayWarning

from .fine_tuning import (
    HIGH,
    LOW,
    QUIET,
    SMALL,
    Columns,
    Walk,
    collected,
    different,
    engine,
    finetune,
    make_data,
    offline,
    state,
    unfinished_episodes,
    walks,
)


@pytest.fixture(autouse=True)
def _fresh_log():
    Walk.made = []


@pytest.mark.parametrize("buffer", ["all", "half", "part", "none"])
def test_stop_save_load_go_on_equals_an_undisturbed_phase(buffer, tmp_path):
    options: dict[str, Any] = {"buffer": buffer, "steps": 40, "capacity": 24, "part_episodes": 4}
    agent = offline(ASPC(interval=2), Columns(), seeds=1 if buffer == "all" else 2)
    agent.save(tmp_path / "offline.npz")
    whole, parts = (load_agent(tmp_path / "offline.npz", "cpu") for _ in range(2))
    data = None if buffer == "none" else make_data()
    finetune(whole, dataset=data, **options)
    steps = [[row[1].tolist() for row in env.log] for env in walks()]
    finetune(parts, dataset=data, **options, stop_after=30)
    assert parts.step == 6 + 30 - parts.run.online.settings.warm_up
    parts.save(tmp_path / "parts.npz")
    Walk.made.clear()
    rest = load_agent(tmp_path / "parts.npz", "cpu")
    observation = np.ones(3)
    np.testing.assert_array_equal(rest.act(observation), parts.act(observation))
    unfinished = [len(actions) for actions in unfinished_episodes(rest)]
    assert max(unfinished) > 0, "some episode is in its middle"
    finetune(rest, dataset=data, **options, traced=buffer == "all")  # replayed graphs are the same to the bit
    assert not different(state(whole), state(rest))
    assert json.dumps(rest.history.metrics, sort_keys=True) == json.dumps(whole.history.metrics, sort_keys=True)
    for seed, env in enumerate(walks()):
        assert [row[1].tolist() for row in env.log] == steps[seed][30 - unfinished[seed] :]


def test_a_run_folder_goes_on_where_it_stood(tmp_path):
    agent = offline(ASPC(interval=2))
    agent.save(tmp_path / "offline.npz")
    for name, stops in (("whole", [None]), ("parts", [25, 41, None])):
        for stop in stops:
            again = load_agent(tmp_path / "offline.npz", "cpu")
            finetune(again, dataset=make_data(), steps=50, warm_up=7, stop_after=stop, out=tmp_path / name)
    one, two = (load_agent(tmp_path / name, "cpu") for name in ("whole", "parts"))
    assert not different(state(one), state(two))
    assert (one.step, two.step) == (49, 49)
    assert not different(state(one), state(again))


def test_going_on_in_the_same_process(tmp_path):
    agent = offline()
    agent.save(tmp_path / "offline.npz")
    whole = load_agent(tmp_path / "offline.npz", "cpu")
    finetune(whole, dataset=make_data())
    finetune(agent, stop_after=19)
    finetune(agent)
    assert not different(state(whole), state(agent))
    complete = state(agent)
    finetune(agent)
    assert not different(complete, state(agent)) and agent.step == 46


def test_an_environment_that_does_not_repeat_itself_begins_a_new_episode():
    class Forgetful(Walk):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=seed + len(Walk.made))

    agent = offline(seeds=1)
    finetune(agent, Forgetful, stop_after=21)
    (middle,) = unfinished_episodes(agent)
    assert len(middle) > 0
    with pytest.warns(ReplayWarning, match="seed 0: the environment did not repeat its unfinished episode"):
        finetune(agent, Forgetful)
    assert agent.step == 46 and torch.isfinite(collected(agent)["observation"]).all()


def test_hopper_goes_on_bit_for_bit(tmp_path):
    agent = wrap(TD3BC(**SMALL))
    agent.fit("bundled:hopper", steps=4, seeds=2, device="cpu", **QUIET)
    agent.save(tmp_path / "offline.npz")
    options: dict[str, Any] = {"steps": 90, "buffer": "part", "dataset": "bundled:hopper"}
    whole, parts = (load_agent(tmp_path / "offline.npz", "cpu") for _ in range(2))
    finetune(whole, "auto", **options)
    finetune(parts, "auto", **options, stop_after=57)
    parts.save(tmp_path / "parts.npz")
    rest = load_agent(tmp_path / "parts.npz", "cpu")
    history = finetune(rest, "auto", **options, eval_env="auto", eval_episodes=1)
    assert not different(state(whole), state(rest))
    assert max(map(len, unfinished_episodes(parts))) > 0
    assert np.isfinite(history.evaluations[-1].score).all()
    assert int(collected(whole)["terminal"].sum()) > 0


def test_another_phase_and_another_run_are_refused(tmp_path):
    agent = offline()
    agent.save(tmp_path / "offline.npz")
    finetune(agent, stop_after=20, out=tmp_path / "run")
    with pytest.raises(CheckpointError, match="this agent .*online buffer all there, half here.*load_agent"):
        finetune(agent, buffer="half")
    with pytest.raises(CheckpointError, match="this agent .*phase online there, offline here"):
        agent.fit(make_data(), steps=6, seeds=2, **QUIET)
    other = load_agent(tmp_path / "offline.npz", "cpu")
    with pytest.raises(CheckpointError, match="online steps 40 there, 50 here.*another folder"):
        finetune(other, steps=50, dataset=make_data(), out=tmp_path / "run")
    engine(other).params["actor"]["weight0"][0, 0] += 1
    with pytest.raises(CheckpointError, match="online began as"):
        finetune(other, dataset=make_data(), out=tmp_path / "run")
    agent.untrained().fit(make_data(), steps=6, seeds=2, out=tmp_path / "first", device="cpu", **QUIET)
    fresh = load_agent(tmp_path / "first", "cpu")
    with pytest.raises(CheckpointError, match="phase offline there, online here.*another folder"):
        finetune(fresh, dataset=make_data(), out=tmp_path / "first")


class Drift(Walk):
    """Another environment of the same sizes, of settings of its own."""

    def __init__(self, speed: float = 1.0) -> None:
        super().__init__()
        self.speed = speed


@pytest.fixture
def registered():
    """Ids of the same sizes, gone afterwards."""
    names = {"Walk-v9": {}, "Drift-v9": {}, "DriftLong-v9": {"max_episode_steps": 90}}
    for name, more in names.items():
        gymnasium.register(name, entry_point=Walk if "Walk" in name else Drift, **more)
    yield
    for name in names:
        del gymnasium.registry[name]


class Halved(gymnasium.RewardWrapper):
    """Half of every reward."""

    def reward(self, reward):
        return reward / 2


def twice(reach: float) -> gymnasium.Env:
    """Rescaled and back, so that the outside is the same."""
    inner = gymnasium.wrappers.RescaleAction(gymnasium.make("Walk-v9"), np.float32(-reach), np.float32(reach))
    return gymnasium.wrappers.RescaleAction(inner, LOW, HIGH)


def unregistered(speed: float) -> gymnasium.Env:
    """Made by a specification that stands in no registry."""
    spec = gymnasium.envs.registration.EnvSpec("Nobody-v9", entry_point=Drift, max_episode_steps=9)
    return gymnasium.make(spec, speed=speed)


ENVIRONMENTS = {
    "an id": ("Walk-v9", "Walk-v9"),
    "the same by a function": (lambda: gymnasium.make("Walk-v9"), "Walk-v9"),
    "another id": (lambda: gymnasium.make("Drift-v9"), "Drift-v9"),
    "a setting": (lambda: gymnasium.make("Drift-v9", speed=2.0), r"Drift-v9 \(speed=2\)"),
    "a time limit": (lambda: gymnasium.make("Drift-v9", max_episode_steps=5), r"\(max_episode_steps=5\)"),
    "a limit of another": (lambda: gymnasium.make("DriftLong-v9"), "DriftLong-v9"),
    "a wrapper": (lambda: Halved(gymnasium.make("Walk-v9")), r"Walk-v9 \(.*Halved"),
    "a wrapper with settings": (
        lambda: gymnasium.wrappers.StickyAction(gymnasium.make("Walk-v9"), 0.5),
        "StickyAction",
    ),
    "other settings": (lambda: gymnasium.wrappers.StickyAction(gymnasium.make("Walk-v9"), 0.4), "StickyAction"),
    "an array": (lambda: gymnasium.make("Drift-v9", speed=np.ones(2)), r"speed=\[1, 1\]"),
    "another array": (lambda: gymnasium.make("Drift-v9", speed=np.array([1, 3.0])), r"speed=\[1, 3\]"),
    "twice wrapped": (lambda: twice(0.1), "RescaleAction.*-0.1.*RescaleAction"),
    "twice wrapped otherwise": (lambda: twice(0.9), "RescaleAction.*-0.89.*RescaleAction"),
    "an id of nobody": (lambda: unregistered(1.5), r"Nobody-v9 \(max_episode_steps=9, speed=1.5\)"),
    "an id of nobody otherwise": (lambda: unregistered(-3), "speed=-3"),
    "a limit by a wrapper": (lambda: gymnasium.wrappers.TimeLimit(Walk(), 5), "max_episode_steps=5"),
    "another limit by a wrapper": (lambda: gymnasium.wrappers.TimeLimit(Walk(), 6), "max_episode_steps=6"),
    "a class": (Walk, "a function that makes .*Walk"),
    "another class": (Drift, "a function that makes .*Drift"),
    "a wrapped class": (lambda: Halved(Walk()), "a function that makes .*Walk in .*Halved"),
}


@pytest.mark.usefixtures("registered")
def test_an_environment_that_a_function_makes_has_a_name_of_its_own():
    names = {what: environment_text(env) for what, (env, _) in ENVIRONMENTS.items()}
    for what, (_, text) in ENVIRONMENTS.items():
        assert re.search(text, names[what]), (what, names[what])
    assert names["an id"] == names["the same by a function"]
    assert len(set(names.values())) == len(names) - 1
    watched = gymnasium.wrappers.RecordEpisodeStatistics
    assert environment_text(lambda: watched(Walk())) == names["a class"]
    assert environment_text(lambda: watched(gymnasium.make("Walk-v9"))) == names["an id"]
    assert environment_text(lambda: unregistered(1.0)) == environment_text(lambda: unregistered(1))


@pytest.mark.usefixtures("registered")
def test_an_online_phase_goes_on_in_its_own_environment_only(tmp_path):
    agent = offline(seeds=1)
    agent.save(tmp_path / "offline.npz")

    def go_on(what: str, place: str) -> None:
        again = load_agent(tmp_path / "offline.npz", "cpu")
        finetune(again, ENVIRONMENTS[what][0], dataset=make_data(), stop_after=20, out=tmp_path / place)

    for there in ("an id", "a setting", "a class"):
        go_on(there, there)
        go_on(there, there)
        for here, (_, text) in ENVIRONMENTS.items():
            if {there, here} <= {"an id", "the same by a function"} or here == there:
                go_on(here, there)
                continue
            with pytest.raises(CheckpointError, match=f"online env .* there, .*{text}.* here.*another folder"):
                go_on(here, there)


def test_a_fine_tuned_agent_is_saved_and_loaded_whole(tmp_path):
    agent = offline()
    history = finetune(agent, eval_env="auto", eval_episodes=1)
    agent.save(tmp_path / "agent.npz")
    loaded = load_agent(tmp_path / "agent.npz", "cpu")
    assert (loaded.step, repr(loaded)) == (46, repr(agent))
    assert loaded.history.to_json() == history.to_json()
    np.testing.assert_array_equal(loaded.act(np.ones((4, 3))), agent.act(np.ones((4, 3))))
    np.testing.assert_array_equal(loaded.evaluate(Walk, episodes=2).returns, agent.evaluate(Walk, episodes=2).returns)
    loaded.save(tmp_path / "again.npz")
    assert not different(state(loaded), state(load_agent(tmp_path / "again.npz", "cpu")))
