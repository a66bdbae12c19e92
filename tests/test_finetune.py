"""The online phase: what is collected, what minibatches are drawn from, what carries over, and going on."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from adaptive_constraints import (
    ASPC,
    SSAR,
    Adapter,
    AdapterStage,
    Average,
    Dataset,
    Prepared,
    Stage,
    Update,
    load_agent,
    wrap,
)
from adaptive_constraints.baselines import CQL, IQL, TD3BC
from adaptive_constraints.engine.batches import Growth, batches_of
from adaptive_constraints.engine.noise import NoiseTables
from adaptive_constraints.environments.specs import environment_text
from adaptive_constraints.errors import CheckpointError, DatasetError, EvaluationError, TrainingError
from adaptive_constraints.runs.beginnings import go_online
from adaptive_constraints.runs.collector import ReplayWarning
from adaptive_constraints.runs.loop import LostSeedWarning

SMALL: dict[str, Any] = {"hidden": 8, "batch_size": 16}
LOW, HIGH = np.array([-2.0, -1.0], np.float32), np.array([1.0, 1.0], np.float32)
EPISODE = 7
"""Steps after which time runs out."""


class Walk(gymnasium.Env):
    """A state that drifts at random; the episode ends truly where it has drifted far, or after seven steps."""

    made: list[Walk]

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64)
        self.action_space = gymnasium.spaces.Box(LOW, HIGH)
        self.log: list[tuple] = []
        self.resets: list[int] = []
        Walk.made.append(self)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.resets.append(seed)
        self.state, self.time = self.np_random.normal(size=3), 0
        return self.state, {}

    def step(self, action):
        assert self.action_space.contains(action)
        before = self.state
        self.time += 1
        self.state = 0.9 * before + 0.3 * np.append(action, 0.0) + self.np_random.normal(size=3) * 0.7
        reward, terminal, timeout = float(self.state[0]), bool(abs(self.state[1]) > 1.6), self.time == EPISODE
        self.log.append((before, action, reward, self.state, terminal, timeout))
        return self.state, reward, terminal, timeout, {}


@pytest.fixture(autouse=True)
def _fresh_log():
    Walk.made = []


def walks() -> list[Walk]:
    """The environments that stepped, in the order in which they were made."""
    return [env for env in Walk.made if env.log]


def make_data(rows: int = 120, shift: float = 0.0) -> Dataset:
    """Random transitions in twelve episodes of ten steps, with returns all over."""
    draw = np.random.default_rng(0)
    ends, states = np.arange(1, rows + 1) % 10 == 0, draw.normal(2.0, 3.0, size=(rows + 1, 3))
    return Dataset.from_arrays(
        observations=states[:-1],
        actions=draw.uniform(LOW, HIGH, size=(rows, 2)),
        rewards=draw.normal(size=rows) + shift,
        next_observations=np.where(ends[:, None], draw.normal(size=(rows, 3)), states[1:]),
        terminals=ends & (np.arange(rows) % 20 < 10),
        timeouts=ends & (np.arange(rows) % 20 >= 10),
        action_low=LOW,
        action_high=HIGH,
        name="made up",
    )


QUIET: dict[str, Any] = {"progress": False, "traced": False, "log_every": 10, "checkpoint_every": 10}


def offline(*adapters, learner=None, steps=6, seeds=2, data=None, **options):
    """A shortly trained agent."""
    agent = wrap(learner or TD3BC(**SMALL), *adapters)
    agent.fit(data or make_data(), steps=steps, seeds=seeds, device="cpu", **{**QUIET, **options})
    return agent


def finetune(agent, env=Walk, steps=40, **options):
    """A short quiet online phase."""
    return agent.finetune(env, steps=steps, **{**QUIET, "eval_env": None, **options})


def engine(agent):
    return agent.run.engine


def state(agent) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in engine(agent).state().items()}


def different(one, two) -> list[str]:
    assert one.keys() == two.keys()
    return [name for name in one if not torch.equal(one[name], two[name])]


def collected(agent) -> dict[str, Tensor]:
    """The collected rows by column, [S, rows, ...]."""
    return engine(agent).batches.state()


# -- what is collected ------------------------------------------------------------------------------------------------


def test_rows_are_what_the_environments_gave_in_learner_space():
    agent = offline(learner=TD3BC(**SMALL, reward_scale=2.0, reward_shift=-1.0))
    finetune(agent, buffer="none")
    rows, data = collected(agent), make_data()
    mean, std = data.observations.mean(0), data.observations.std(0) + 1e-3
    ends = {"true": 0, "time": 0}
    assert int(rows["count"]) == 40 and len(walks()) == 2
    for seed, env in enumerate(walks()):
        before, action, reward, after, terminal, timeout = map(np.array, zip(*env.log, strict=True))
        close = lambda name, wanted: np.testing.assert_allclose(rows[name][seed], wanted, atol=1e-5)  # noqa: B023, E731
        close("observation", (before - mean) / std)
        close("next_observation", (after - mean) / std)
        close("action", 2 * (action - LOW) / (HIGH - LOW) - 1)
        close("reward", 2 * reward - 1)
        assert (rows["terminal"][seed].numpy() == terminal).all()
        ends["true"] += terminal.sum()
        ends["time"] += (timeout & ~terminal).sum()
        assert len(set(env.resets)) == len(env.resets) == (terminal | timeout).sum() + 1
    assert ends["true"] >= 3 and ends["time"] >= 1, "both kinds of ends occur here"
    assert not set(walks()[0].resets) & set(walks()[1].resets), "each seed has starts of its own"


def test_it_acts_as_the_learner_explores_on_noise_of_its_own():
    class Jumpy(TD3BC):
        def act(self, v, observation):
            return 0.99 * torch.tanh(v.normal("jump", (*observation.shape[:-1], 2)))

    agent = offline(learner=Jumpy(**SMALL), seeds=[3])
    finetune(agent, steps=200, buffer="all", warm_up=40, stop_after=50)
    actions = collected(agent)["action"][0]
    assert 0.4 < actions.std() < 0.8 and actions.shape == (50, 2)
    assert len(torch.unique(actions[:, 0])) == 50, "the noise of every step is its own"
    (env,) = walks()
    assert np.abs(agent.act(np.zeros(3), step=7) - env.log[7][1]).max() > 1e-3, "an evaluation draws otherwise"


@pytest.mark.parametrize("learner", [CQL(**SMALL, gap_actions=2), IQL(**SMALL)], ids=["CQL", "IQL"])
def test_gaussian_policies_collect_by_sampling(learner):
    agent = offline(learner=learner, seeds=1)
    finetune(agent, steps=4, warm_up=1, buffer="all")
    (env,) = walks()
    mean = agent.act(np.array([row[0] for row in env.log[:1]], np.float32))
    assert np.abs(mean - env.log[0][1]).max() > 1e-3


def test_the_next_action_is_filled_in_once_it_is_known():
    class Reads(TD3BC):
        def columns(self):
            return ("next_action", "next_action_mask")

    agent = offline(learner=Reads(**SMALL))
    finetune(agent, buffer="all")
    rows = collected(agent)
    space = agent.run.preprocessor
    for seed, env in enumerate(walks()):
        _, actions, _, _, terminal, timeout = map(np.array, zip(*env.log, strict=True))
        last = terminal | timeout | (np.arange(40) == 39)
        following = np.where(last[:, None], 0, np.roll(actions, -1, axis=0)).astype(np.float32)
        assert torch.equal(rows["next_action_mask"][seed], torch.from_numpy(~last).float())
        assert torch.equal(rows["next_action"][seed], space.actions(torch.from_numpy(following)))


def test_columns_that_are_not_known_online_are_refused():
    class Reads(TD3BC):
        def columns(self):
            return ("return",)

    agent = offline(learner=Reads(**SMALL))
    with pytest.raises(TrainingError, match="Reads reads the column 'return' .*next_action and next_action_mask"):
        finetune(agent)


# -- what minibatches are drawn from ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Columns(Adapter):
    """Numbers the rows of the data, for all seeds and for each."""

    online: tuple[float, ...] = (-1.0, -2.0)

    def prepare(self, preparation):
        number = torch.arange(len(preparation.data)).float()
        own = torch.stack([torch.stack([number + 1000 * seed, number], -1) for seed in preparation.seeds])
        names = ("number", "own")
        return Prepared({"number": number}, {"own": own}, online=dict(zip(names, self.online, strict=False)))


def minibatch(agent, step: int) -> dict[str, Tensor]:
    return engine(agent).batches.at(step)


def check_rows(agent, batch: Mapping[str, Tensor], data: Dataset) -> Tensor:
    """Each row is that of the data or of the right seed that it says it is; whether it was collected, [S, B]."""
    table, rows = agent.run.preprocessor.table(data), collected(agent)
    own = batch["columns.number"] < 0
    for seed, name in ((seed, name) for seed in range(len(own)) for name in table):
        number = batch["columns.number"][seed].long()
        old = ~own[seed]
        assert torch.equal(batch[name][seed][old], table[name][number[old]])
        for value in batch[name][seed][own[seed]]:
            assert (value == rows[name][seed]).reshape(len(rows[name][seed]), -1).all(1).any()
        expected = torch.stack([number[old] + 1000.0 * seed, number[old].float()], -1)
        assert torch.equal(batch["columns.own"][seed][old], expected)
        assert (batch["columns.own"][seed][own[seed]] == -2).all()
    return own


@pytest.mark.parametrize(("batch", "half"), [(16, 8), (15, 8)])
def test_half_of_every_minibatch_is_collected(batch, half):
    data, agent = make_data(), offline(Columns(), learner=TD3BC(hidden=8, batch_size=batch))
    finetune(agent, buffer="half", stop_after=30)
    assert engine(agent).step == 6 + 30 - half
    for step in range(100, 120):
        own = check_rows(agent, minibatch(agent, step), data)
        assert (own.sum(1) == half).all() and own[:, batch // 2 :].all()


def test_all_of_the_data_and_what_was_collected():
    data, agent = make_data(), offline(Columns())
    finetune(agent, steps=60, buffer="all", warm_up=0)
    assert engine(agent).step == 66 and len(engine(agent).batches) == 120 + 60
    share = torch.cat([check_rows(agent, minibatch(agent, step), data) for step in range(100, 200)], 1).float().mean(1)
    assert ((share - 1 / 3).abs() < 0.05).all()


def test_the_best_episodes_and_what_was_collected():
    data, agent = make_data(), offline(Columns())
    finetune(agent, buffer="part", part_episodes=3)
    best = set(np.argsort(data.episode_returns())[-3:])
    numbers = torch.cat([minibatch(agent, step)["columns.number"] for step in range(100, 200)], 1)
    assert {int(number) // 10 for number in numbers.unique() if number >= 0} == best
    assert len(numbers.unique()) == 30 + 1
    check_rows(agent, minibatch(agent, 300), data)


def test_nothing_but_what_was_collected():
    agent = offline(Columns())
    finetune(agent, buffer="none")
    assert engine(agent).step == 6 + 40 - 16, "as many steps as a minibatch has rows only collect"
    assert check_rows(agent, minibatch(agent, 100), make_data()).all()
    numbers = torch.cat([minibatch(agent, step)["reward"] for step in range(100, 160)], 1)
    assert all(len(numbers[seed].unique()) == 40 for seed in range(2)), "every row is drawn"


def test_a_full_ring_replaces_the_oldest_and_draws_from_all():
    whole, ring = offline(Columns()), offline(Columns())
    finetune(whole, steps=30, warm_up=29, buffer="all"), finetune(ring, steps=30, warm_up=29, buffer="all", capacity=12)
    all_rows, kept = collected(whole), collected(ring)
    assert kept["reward"].shape == (2, 12) and len(engine(ring).batches) == 120 + 12
    order = [24, 25, 26, 27, 28, 29, 18, 19, 20, 21, 22, 23]
    for name in ("observation", "action", "reward", "next_observation", "terminal"):
        assert torch.equal(kept[name], all_rows[name][:, order])
    drawn = torch.cat([minibatch(ring, step)["reward"] for step in range(100, 200)], 1)
    for seed in range(2):
        assert np.isin(kept["reward"][seed], drawn[seed]).all()
    check_rows(ring, minibatch(ring, 99), make_data())


def test_rows_of_a_step_depend_on_seed_step_and_size_alone():
    def batches(seeds, growth=None):
        cpu, dtype = torch.device("cpu"), torch.float32
        return batches_of({"x": torch.arange(50.0)}, {}, NoiseTables(seeds, cpu, dtype), 8, cpu, dtype, growth)

    def replay(seeds, rows):
        made = batches(seeds, Growth(9, {}))
        for row in range(rows):
            made.add({"x": torch.tensor([100.0 * seed + row for seed in seeds])})
        return made

    long, short, alone = replay((4, 7), 5), replay((4, 7), 3), replay((7,), 5)
    assert torch.equal(long.at(3)["x"][1], alone.at(3)["x"][0])
    assert not torch.equal(long.at(3)["x"], short.at(3)["x"])
    short.add({"x": torch.tensor([403.0, 703.0])}), short.add({"x": torch.tensor([404.0, 704.0])})
    assert torch.equal(long.at(3)["x"], short.at(3)["x"])
    assert torch.equal(replay((4, 7), 0).at(11)["x"], batches((4, 7)).at(11)["x"])


def test_a_column_without_a_value_online_is_refused():
    agent = offline(Columns(online=(1.0,)))
    with pytest.raises(TrainingError, match="adapter 'columns' prepared the column 'own' but does not say which value"):
        finetune(agent)


# -- phases -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clock(Adapter):
    """Keeps what it saw of the time, and trains a network offline only."""

    def init(self, spec, facts, generator):
        return {"net": {"w": torch.ones(3)}}

    def buffers(self, spec, facts):
        return {"seen": torch.zeros(50, 3)}

    def stages(self, facts, phase):
        if phase == "online":
            return ()
        step = Update("clock.net", lambda p, v: (p["w"] - v.s.mean(0)).square().sum(), 0.1)
        return (AdapterStage("end", Stage("clock", (step,), averages=(Average("clock.net", 0.5),))),)

    def advance(self, v):
        now = torch.stack([v.step, v.phase_step, v.horizon]).float()
        at_now = (torch.arange(50) == v.step)[:, None]
        assert v.target["clock.net"]["w"].shape == (3,)
        return {"seen": torch.where(at_now, now, v.buffers["clock"]["seen"])}


def test_the_clock_goes_on_and_the_phase_begins():
    agent = offline(Clock())
    before = state(agent)
    history = finetune(agent, steps=30, warm_up=10)
    seen = engine(agent).buffers["clock"]["seen"][0]
    assert seen[1:7].tolist() == [[step, step, 6] for step in range(1, 7)]
    assert seen[7:27].tolist() == [[6 + step, step, 26] for step in range(1, 21)]
    assert (agent.step, history.online_from, history.steps) == (26, 6, 26)
    assert repr(agent).endswith("at step 26 of 26")
    kept = [name for name in before if "/clock.net/" in name and not name.startswith("metrics/")]
    assert len(kept) == 1 + 1 + 3 and all(torch.equal(before[name], state(agent)[name]) for name in kept)


def test_schedules_stretch_over_both_phases():
    asked = []

    class Scheduled(TD3BC):
        def stages(self, phase):
            critic, actor = super().stages(phase)
            rate = lambda step, horizon: asked.append((step, horizon)) or 1e-3  # noqa: E731
            return critic._replace(updates=(critic.updates[0]._replace(learning_rate=rate),)), actor

    finetune(offline(learner=Scheduled(**SMALL)), steps=20, warm_up=5)
    assert asked == [(step, 6) for step in range(1, 7)] + [(step, 21) for step in range(7, 22)]


def test_everything_learned_carries_over_and_the_offline_run_stays_as_it_was():
    agent = offline(ASPC(interval=2), Clock(), learner=TD3BC(**SMALL, critic="robust"))
    before, run = state(agent), agent.run
    finetune(agent, steps=9, warm_up=8)
    assert not different(before, run.engine.state())
    assert run.history.online_from is None and run.engine.step == 6
    again = go_online(run, agent.run.online.settings, Walk, make_data(), traced=False)
    carried = {name: tensor for name, tensor in again.engine.state().items() if name in before}
    assert {name.partition("/")[0] for name in carried} == {"params", "targets", "buffers", "adam"}
    assert not different(carried, {name: before[name] for name in carried})


def test_aspc_goes_on_learning_its_scale():
    agent = offline(ASPC(interval=2), learner=TD3BC(**SMALL, critic="robust"), steps=8)
    scale = agent.history.series("aspc/scale")[1][-1]
    history = finetune(agent, steps=40, warm_up=4, log_every=12)
    at, values = history.series("aspc/scale")
    assert at.tolist() == [8, 20, 32, 44] and (np.diff(values, axis=0) != 0).all() and (values[-1] != scale).all()
    outer = [row for row in history.metrics if "aspc/gradient" in row]
    assert np.isfinite([row["aspc/gradient"] for row in outer]).all()


def test_ssar_is_frozen_and_anneals():
    agent = offline(SSAR(hidden=8, annealing_steps=40))
    before = state(agent)
    finetune(agent, steps=20, warm_up=10)
    learned = [name for name in before if not name.startswith("metrics/")]
    beta = [name for name in learned if "/ssar.beta/" in name or name.startswith("buffers/ssar")]
    assert len(beta) > 8 and all(torch.equal(before[name], state(agent)[name]) for name in beta)
    scale = engine(agent).ask("test", lambda v: {"scale": v.constraint_scale()})["scale"]
    assert scale.tolist() == [0.75, 0.75]
    assert (collected(agent)["ssar.trusted"] == 1).all()
    assert (minibatch(agent, 50)["ssar.trusted"] == 0).any()


def test_collected_returns_are_logged():
    agent = offline()
    history = finetune(agent, steps=40, warm_up=0, log_every=40)
    (row,) = history.series("collect/return")[1]
    for seed, env in enumerate(walks()):
        ends = [i for i, step in enumerate(env.log) if step[4] or step[5]]
        total = sum(step[2] for step in env.log[: ends[-1] + 1])
        assert row[seed] == pytest.approx(total / len(ends))


def test_evaluations_are_in_environments_of_their_own():
    plain, watched = offline(ASPC(interval=2)), offline(ASPC(interval=2))
    finetune(plain, steps=30)
    collecting = [env.resets for env in walks()]
    Walk.made.clear()
    history = finetune(watched, steps=30, eval_env="auto", eval_every=7, eval_episodes=2)
    assert not different(state(plain), state(watched))
    assert [e.step for e in history.evaluations] == [13, 20, 27, 34, 36]
    by_starts = [env.resets for env in walks()]
    assert all(resets in by_starts for resets in collecting) and len(by_starts) == 2 + 4
    assert not {seed for each in collecting for seed in each} & {
        seed for each in by_starts if each not in collecting for seed in each
    }
    assert history.summary().last.tolist() == history.evaluations[-1].mean_return.tolist()


def test_the_summary_is_of_the_online_phase():
    agent = offline(eval_env=Walk, eval_episodes=1, eval_every=2)
    offline_best = agent.history.summary().best
    history = finetune(agent, eval_env="auto", eval_every=20, eval_episodes=1)
    assert [e.step for e in history.evaluations] == [2, 4, 6, 26, 46]
    returns = np.array([e.mean_return for e in history.evaluations])
    assert history.summary().best.tolist() == returns[3:].max(0).tolist()
    assert offline_best.tolist() == returns[:3].max(0).tolist()


# -- going on ---------------------------------------------------------------------------------------------------------


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
    unfinished = [len(actions) for actions in _unfinished(rest)]
    assert max(unfinished) > 0, "some episode is in its middle"
    finetune(rest, dataset=data, **options, traced=buffer == "all")  # replayed graphs are the same to the bit
    assert not different(state(whole), state(rest))
    assert json.dumps(rest.history.metrics, sort_keys=True) == json.dumps(whole.history.metrics, sort_keys=True)
    for seed, env in enumerate(walks()):
        assert [row[1].tolist() for row in env.log] == steps[seed][30 - unfinished[seed] :]


def _unfinished(agent):
    """The actions of each seed's unfinished episode."""
    episodes = agent.run.online.collector.tensors()
    return [episodes.get(f"actions/{position}", []) for position in range(len(agent.seeds))]


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
    (middle,) = _unfinished(agent)
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
    assert max(map(len, _unfinished(parts))) > 0
    assert np.isfinite(history.evaluations[-1].score).all()
    assert int(collected(whole)["terminal"].sum()) > 0


# -- seeds ------------------------------------------------------------------------------------------------------------


def test_seeds_together_are_seeds_alone():
    together, alone = offline(seeds=[4, 9]), offline(seeds=[9])
    finetune(together, buffer="half"), finetune(alone, buffer="half")
    one, two = collected(together), collected(alone)
    for name in ("observation", "reward", "action"):
        torch.testing.assert_close(one[name][1], two[name][0], rtol=0, atol=1e-4)
    for name, tensor in state(alone).items():
        if name.startswith("params"):
            torch.testing.assert_close(state(together)[name][1], tensor[0], rtol=0, atol=1e-5)


def test_a_lost_seed_leaves_the_others_as_they_were():
    clean, struck = offline(seeds=3), offline(seeds=3)
    for tensor in engine(struck).params["actor"].values():
        tensor[1] = float("nan")
    finetune(clean, steps=30)
    with pytest.warns(LostSeedWarning, match="seed 1 is lost: .* was not finite at step"):
        history = finetune(struck, steps=30)
    assert list(history.failures) == [1]
    for name, tensor in state(clean).items():
        if name.startswith(("params", "replay/r")):
            assert torch.equal(tensor[[0, 2]], state(struck)[name][[0, 2]])
    assert np.isfinite(struck.act(np.zeros(3))).all()


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
    for each in (agent, untouched):
        finetune(each, Broken, stop_after=5)
    Broken.broken = True
    with pytest.raises(EvaluationError, match="its step raised RuntimeError: out of order"):
        finetune(agent, Broken)
    Broken.broken = False
    finetune(agent, Broken), finetune(untouched, Broken)
    assert agent.step == 46 and not different(state(agent), state(untouched))


# -- what goes wrong --------------------------------------------------------------------------------------------------


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
