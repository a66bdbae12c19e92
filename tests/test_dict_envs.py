"""Environments whose observations are dictionaries: data that is flattened, evaluated and fine-tuned in them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from adaptive_constraints import load_agent, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.data import Dataset
from adaptive_constraints.errors import EvaluationError

pytest.importorskip("gymnasium")
import gymnasium
from gymnasium.spaces import Box, Dict

from adaptive_constraints.environments.flat_observations import FlattenKeys

MODULE = """
import gymnasium, numpy as np
from gymnasium.spaces import Box, Dict

class Reach(gymnasium.Env):
    observation_space = Dict({"goal": Box(-9, 9, (1,)), "camera": Box(-9, 9, (3,)), "state": Box(-9, 9, (2,))})
    action_space = Box(-1, 1, (2,))
    def seen(self):
        return {"goal": self.goal.copy(), "camera": np.zeros(3, np.float32), "state": self.state.copy()}
    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.goal, self.state = np.ones(1, np.float32), np.zeros(2, np.float32)
        return self.seen(), {}
    def step(self, action):
        self.state = (self.state + np.asarray(action, np.float32)).clip(-9, 9)
        return self.seen(), float(-abs(self.state[0] - 1)), False, False, {}

gymnasium.register("ours/Reach-v0", Reach, max_episode_steps=6)
"""
KEYS = ["state", "goal"]


@pytest.fixture
def reach(tmp_path, monkeypatch):
    """An environment in a module of its own, forgotten afterwards."""
    (tmp_path / "reach_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "reach_module:ours/Reach-v0"
    gymnasium.registry.pop("ours/Reach-v0", None)
    sys.modules.pop("reach_module", None)


def recorded(env_id: str) -> Dataset:
    env = FlattenKeys(gymnasium.make(env_id), KEYS)
    env.action_space.seed(0)
    names = ("observations", "actions", "rewards", "next_observations", "timeouts")
    rows: dict[str, list] = {name: [] for name in names}
    for _ in range(5):
        observation, cut = env.reset()[0], False
        while not cut:
            action = env.action_space.sample()
            following, reward, _, cut, _ = env.step(action)
            for name, value in zip(names, (observation, action, reward, following, cut), strict=True):
                rows[name].append(value)
            observation = following
    spec = env.spec
    env.close()
    arrays = {name: np.array(values) for name, values in rows.items()}
    return Dataset.from_arrays(**arrays, terminals=np.zeros(30, bool), env_spec=spec)


@pytest.fixture
def agent(reach, tmp_path):
    agent = wrap(TD3BC(hidden=8, batch_size=8))
    agent.fit(recorded(reach), steps=2, progress=False)
    agent.save(tmp_path / "agent.npz")
    return agent


def test_a_named_environment_is_flattened_as_the_data_was(agent, reach):
    wanted = agent.evaluate(episodes=2).returns.tolist()
    assert agent.evaluate(reach, episodes=2).returns.tolist() == wanted
    for wrapper in (lambda env: env, lambda env: FlattenKeys(env, KEYS)):
        made = agent.evaluate(lambda wrapper=wrapper: wrapper(gymnasium.make("ours/Reach-v0")), episodes=2)
        assert made.returns.tolist() == wanted


def test_fit_evaluates_in_a_named_environment(reach):
    agent = wrap(TD3BC(hidden=8, batch_size=8))
    agent.fit(recorded(reach), steps=2, eval_env=reach, eval_episodes=1, progress=False)
    assert np.isfinite(agent.history.evaluations[-1].returns).all()


def test_a_dictionary_with_other_parts_is_refused(agent):
    class Other(gymnasium.Env):
        observation_space, action_space = Dict({"state": Box(-1, 1, (2,))}), Box(-1, 1, (2,))

    with pytest.raises(EvaluationError, match="are not those of the data: observations have no part 'goal'"):
        agent.evaluate(Other, episodes=1)


@pytest.mark.parametrize("named", [True, False])
def test_online_fine_tuning_and_going_on_with_it(named, agent, reach, tmp_path):
    env, data = reach if named else "auto", recorded(reach)
    options = {"steps": 20, "warm_up": 10, "progress": False, "eval_episodes": 1, "eval_every": 10, "dataset": data}
    one, two, three = (load_agent(tmp_path / "agent.npz", "cpu") for _ in range(3))
    one.finetune(env, **options)
    assert one.step == 2 + 10 and np.isfinite(one.history.evaluations[-1].returns).all()
    two.finetune(env, **options, stop_after=14, out=tmp_path / "run")
    three.finetune(env, **options, out=tmp_path / "run")
    seen = np.linspace(-1, 1, 6).reshape(2, 3)
    np.testing.assert_array_equal(load_agent(tmp_path / "run", "cpu").act(seen), one.act(seen))


@pytest.mark.slow
def test_the_command_line_names_imports_and_takes_them(agent, tmp_path):
    def run(*more: str) -> subprocess.CompletedProcess[str]:
        words = (sys.executable, "-m", "adaptive_constraints", "evaluate", "agent.npz", "--episodes", "1", *more)
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)

    bare = run()
    assert bare.returncode == 2 and "--imports" in bare.stderr
    for words in (("--imports", "reach_module"), ("--env", "reach_module:ours/Reach-v0")):
        answer = run(*words)
        assert answer.returncode == 0, answer.stderr
