"""The online phase: what carries over from training, what is logged, and seeds apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from adaptive_constraints import ASPC, SSAR, Adapter, AdapterStage, Average, Stage, Update
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.runs.beginnings import go_online
from adaptive_constraints.runs.loop import LostSeedWarning

from .fine_tuning import (
    SMALL,
    Walk,
    collected,
    different,
    engine,
    finetune,
    make_data,
    minibatch,
    offline,
    state,
    walks,
)


@pytest.fixture(autouse=True)
def _fresh_log():
    Walk.made = []


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
    assert "at step 26 of 26: History(26 steps of" in repr(agent)
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
    agent = offline(SSAR(select="return", hidden=8, annealing_steps=40))
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
    assert not {seed for resets in collecting for seed in resets} & {
        seed for resets in by_starts if resets not in collecting for seed in resets
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
