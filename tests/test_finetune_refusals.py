"""The online phase: environments that break and options that make no sense."""

from __future__ import annotations

import pytest

from adaptive_constraints import load_agent, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.errors import DatasetError, EvaluationError, TrainingError

from .fine_tuning import SMALL, Walk, different, finetune, make_data, offline, state


@pytest.fixture(autouse=True)
def _fresh_log():
    Walk.made = []


def test_an_environment_that_breaks_leaves_the_agent_where_it_was():
    class Broken(Walk):
        broken = True

        def step(self, action):
            if self.broken and len(self.log) == 9:
                raise RuntimeError("out of order")
            return super().step(action)

        def close(self):
            closed.append(self)

    closed: list[Broken] = []
    agent = offline()
    before = state(agent)
    with pytest.raises(EvaluationError, match="its step raised RuntimeError: out of order"):
        finetune(agent, Broken)
    assert not different(before, state(agent)) and agent.step == 6 and agent.history.online_from is None
    assert len(closed) == len(Walk.made)
    untouched = offline()
    Broken.broken = False
    for stopped in (agent, untouched):
        finetune(stopped, Broken, stop_after=5)
    Broken.broken = True
    with pytest.raises(EvaluationError, match="its step raised RuntimeError: out of order"):
        finetune(agent, Broken)
    Broken.broken = False
    finetune(agent, Broken), finetune(untouched, Broken)
    assert agent.step == 46 and not different(state(agent), state(untouched))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, TrainingError, "steps must be at least 1, not 0"),
        ({"buffer": "most"}, TrainingError, "buffer must be 'all', 'half', 'part' or 'none', not 'most'"),
        ({"warm_up": 40}, TrainingError, "steps must be more than warm_up, the 40 steps"),
        ({"buffer": "none", "steps": 16}, TrainingError, "steps must be more than warm_up, the 16 steps"),
        ({"buffer": "none", "warm_up": 15}, TrainingError, "warm_up is 15, .* needs 16 collected rows"),
        ({"buffer": "half", "warm_up": 7}, TrainingError, "warm_up is 7, .* needs 8 collected rows"),
        ({"part_episodes": 0}, TrainingError, "part_episodes must be at least 1"),
        ({"capacity": 0}, TrainingError, "capacity must be at least 1"),
        ({"warm_up": 10, "stop_after": 10}, TrainingError, r"stop_after must lie between 11 \(after warm_up\) and 40"),
        ({"stop_after": 41}, TrainingError, "stop_after must lie between"),
        ({"log_every": 0}, TrainingError, "log_every"),
        ({"env": "auto"}, EvaluationError, "does not say which environment"),
        ({"env": "Nope-v0"}, EvaluationError, "Nope-v0 cannot be made"),
        ({"env": "Pendulum-v1"}, EvaluationError, "Pendulum-v1 has 3 observation and 1 action dimensions"),
        ({"env": "CartPole-v1"}, EvaluationError, "its action space is Discrete"),
        ({"dataset": make_data(shift=1.0)}, TrainingError, "made up is not the data .* fingerprint is .*, not"),
        ({"dataset": "bundled:hoper"}, DatasetError, "did you mean 'hopper'"),
    ],
)
def test_options_that_make_no_sense(options, error, message, tmp_path):
    agent = offline(seeds=1)
    with pytest.raises(error, match=message):
        finetune(agent, **{"env": Walk, "out": tmp_path / "run", **options})
    assert agent.step == 6 and not (tmp_path / "run" / "checkpoint.npz").exists()


def test_an_untrained_agent_says_so():
    with pytest.raises(TrainingError, match="not trained yet"):
        finetune(wrap(TD3BC(**SMALL)))


def test_a_loaded_agent_needs_its_data_unless_the_buffer_is_empty(tmp_path):
    offline().save(tmp_path / "agent.npz")
    agent = load_agent(tmp_path / "agent.npz", "cpu")
    with pytest.raises(TrainingError, match=r"trained on \(made up\), .*pass dataset=, or use buffer='none'"):
        finetune(agent)
    finetune(agent, buffer="none")
    assert agent.step == 6 + 24
