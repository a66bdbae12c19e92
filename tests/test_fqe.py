"""Fitted Q evaluation: against a plain loop, against exact values, and on data and policies that are awkward."""

from __future__ import annotations

import re
import signal
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from adaptive_constraints import Dataset, load_dataset, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.choosing import FQE, Policies, evaluate_offline, policies_of
from adaptive_constraints.choosing.fqe import ACTION, GROUP
from adaptive_constraints.choosing.fqe import fit as fit_critics
from adaptive_constraints.choosing.offline import intervals
from adaptive_constraints.core.preparation import generator
from adaptive_constraints.core.program import Program
from adaptive_constraints.core.types import Spec
from adaptive_constraints.core.view import StateView
from adaptive_constraints.data import Preprocessor
from adaptive_constraints.engine.engine import Engine
from adaptive_constraints.engine.metrics import Failure
from adaptive_constraints.engine.state import InitialState, stack_seeds
from adaptive_constraints.errors import DatasetError, EvaluationError, StackError, TrainingError
from adaptive_constraints.pretraining.model_fit import EngineFit

from .agents import SMALL, fit, make_data
from .helpers import largest_difference, random_data
from .reference.common import give, one
from .reference.fqe import PlainFQE

TINY = FQE(steps=30, hidden=8, batch_size=16)

pytestmark = pytest.mark.usefixtures("own_cache", "one_thread")


def policies(name: str, *actions: float, size: int = 2, **options) -> Policies:
    """A policy per seed that always does the same."""

    def act(observations, part):
        return np.stack([np.full((len(observations), size), action) for action in actions])

    return Policies(name, tuple(range(len(actions))), act, **options)


# -- against a plain loop -----------------------------------------------------------------------------------------


def test_all_critics_of_all_policies_are_those_of_plain_loops():
    data, spec, draw = random_data(), Spec(3, 2), torch.Generator().manual_seed(0)
    fqe = FQE(critics=2, hidden=8, batch_size=16, learning_rate=0.01, target_rate=0.1)
    actions = torch.rand(3, len(data), 2, generator=draw, dtype=torch.float64) * 2 - 1
    alike = fqe.init(spec, generator(0, "fqe"))
    initial = InitialState((0, 0, 0), spec, stack_seeds([alike] * 3), {}, {}, {}, {ACTION: actions})
    engine = Engine(
        Program(fqe.stages(0.9), fqe.critics * fqe.batch_size, partial(StateView, spec)),
        initial,
        Preprocessor.fit(data).table(data),
        horizon=8,
        dtype=torch.float64,
    )
    plain = [
        [PlainFQE(one({k: t.double() for k, t in alike[GROUP].items()}, critic), (5, 8, 8, 1), 0.01, 0.1, 0.9)]
        for _ in range(3)
        for critic in range(2)
    ]
    for _ in range(8):
        engine.run(1)
        for number, (loop,) in enumerate(plain):
            policy, critic = divmod(number, 2)
            part = slice(16 * critic, 16 * (critic + 1))
            rows = {name: column[policy, part] for name, column in engine.batch.items()}
            loop.step(rows, rows[ACTION])
    for tree, which in ((engine.params, "critic"), (engine.targets, "target")):
        for number, (loop,) in enumerate(plain):
            ours = give(one(tree[GROUP], *divmod(number, 2)))
            theirs = [tensor.detach() for tensor in getattr(loop, which).parameters()]
            named = ({str(i): tensor for i, tensor in enumerate(tensors)} for tensors in (ours, theirs))
            assert largest_difference(*named) < 1e-12
    assert torch.equal(engine.batch["reward"][0], engine.batch["reward"][2])  # all policies see the same rows
    assert not torch.equal(engine.batch["reward"][0, :16], engine.batch["reward"][0, 16:])  # their critics do not


# -- against exact values -----------------------------------------------------------------------------------------

STATES, SLIP, DISCOUNT = 5, 0.2, 0.9
ONE_HOT = np.eye(STATES + 1)[:, :STATES]


def chain_step(state: int, action: float, slips: bool) -> tuple[int, float, bool]:
    """The next state, the reward, and whether the episode ends: at the right end, with a reward of 1."""
    following = state + (1 if (action > 0) != slips else -1)
    following = max(following, 0)
    return following, (1.0 if following == STATES else -0.1), following == STATES


def exact_values(action_of) -> list[float]:
    """V of a policy, state by state, by applying Bellman's equation until nothing changes."""
    values = [0.0] * STATES
    for _ in range(2_000):
        fresh = []
        for state in range(STATES):
            total = 0.0
            for slips, chance in ((False, 1 - SLIP), (True, SLIP)):
                following, reward, ends = chain_step(state, action_of(state), slips)
                total += chance * (reward + (0.0 if ends else DISCOUNT * values[following]))
            fresh.append(total)
        values = fresh
    return values


def chain_data(copies: int = 3) -> Dataset:
    """Every state, action and slip in exactly its proportion; each row a recording of one step."""
    rows = []
    for state in range(STATES):
        for action in (-1.0, 1.0):
            for slips in [False] * round(10 * (1 - SLIP)) + [True] * round(10 * SLIP):
                following, reward, ends = chain_step(state, action, slips)
                rows.append((ONE_HOT[state], [action], reward, ONE_HOT[following], ends, not ends))
    names = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")
    columns = dict(zip(names, map(np.array, zip(*rows * copies, strict=True)), strict=True))
    return Dataset.from_arrays(**columns, episode_ids=np.arange(copies * len(rows)))


def chain_policies(*rules) -> Policies:
    """Policies of the chain, from functions of the state's number."""

    def act(observations, part):
        states = observations.argmax(1)
        return np.array([[[rule(state)] for state in states] for rule in rules])

    return Policies("chain", tuple(range(len(rules))), act, DISCOUNT)


def test_values_of_a_chain_are_those_that_bellmans_equation_gives():
    """Every state's within 0.04 and their mean within 0.02, where they lie between -1 and 1."""
    rules = [lambda state: 1.0, lambda state: -1.0, lambda state: 1.0 if state > 1 else -1.0]
    data = chain_data()
    fqe = FQE(steps=2_000, critics=1, hidden=16, batch_size=128, target_rate=0.03, held_out=0.0)
    (estimate,) = evaluate_offline([chain_policies(*rules)], data, fqe=fqe)
    starts = data.observations.argmax(1)
    for seed, rule in enumerate(rules):
        exact = np.array(exact_values(rule))[starts]
        assert np.abs(estimate.values[seed, 0] - exact).max() < 0.04
        assert estimate.value[seed] == pytest.approx(exact.mean(), abs=0.02)
        assert estimate.low[seed] < exact.mean() < estimate.high[seed]
    assert list(np.argsort(estimate.value)) == [1, 2, 0]
    assert [note[:9] for note in estimate.notes] == ["270 of th", "no episod"]


@pytest.mark.parametrize(("end", "exact"), [("timeouts", 10.0), ("terminals", (1 - 0.9**5) / 0.1)])
def test_timeouts_are_bootstrapped_and_terminals_are_not(end, exact):
    """A reward of 1 in each of five steps, and then an end: of the recording, or of the episode."""
    clock, last = np.tile(np.eye(5), (20, 1)), np.arange(100) % 5 == 4
    marks = {"terminals": np.zeros(100, bool)} | {end: last}
    draw = np.random.default_rng(0)
    data = Dataset.from_arrays(
        observations=clock,
        next_observations=np.roll(clock, -1, 0),
        actions=draw.uniform(-1, 1, (100, 1)),
        rewards=np.ones(100),
        episode_ids=np.arange(100) // 5,
        **marks,
    )
    fqe = FQE(steps=1_000, critics=1, hidden=16, batch_size=64, learning_rate=3e-3, target_rate=0.1)
    (estimate,) = evaluate_offline([policies("still", 0.0, size=1, discount=0.9)], data, fqe=fqe)
    assert estimate.value[0] == pytest.approx(exact, rel=0.03)


def test_a_value_does_not_depend_on_who_is_evaluated_beside_it(tmp_path, monkeypatch):
    data, b = make_data(), policies("b", -0.5, 0.1)
    both = evaluate_offline([policies("a", 0.5), b], data, fqe=TINY)
    assert [estimate.name for estimate in both] == ["a", "b"]
    assert len({*both[0].value, *both[1].value}) == 3
    monkeypatch.setenv("ADAPTIVE_CONSTRAINTS_CACHE", str(tmp_path / "another"))
    (alone,) = evaluate_offline([b], data, fqe=TINY)
    assert np.allclose(alone.values, both[1].values, rtol=1e-5, atol=1e-6)
    (other,) = evaluate_offline([b], data, fqe=replace(TINY, seed=1))
    assert np.abs(other.value - alone.value).min() > 1e-3


# -- the cache ----------------------------------------------------------------------------------------------------


def test_what_is_fitted_is_kept_and_one_more_policy_is_fitted_alone(own_cache, monkeypatch):
    data = make_data()
    (first,) = evaluate_offline([policies("a", 0.5, 0.5, -0.5)], data, fqe=TINY)
    assert first.value[0] == first.value[1] != first.value[2]
    files = {path.name for path in own_cache.glob("*.npz")}
    assert len(files) == 2  # of equal policies one is fitted
    runs = []
    original = Engine.run
    monkeypatch.setattr(Engine, "run", lambda self, steps: (runs.append(len(self.seeds)), original(self, steps))[1])
    (again,) = evaluate_offline([policies("b", -0.5, 0.5)], data, fqe=TINY)
    assert runs == [] and np.array_equal(again.value, first.value[[2, 0]])
    evaluate_offline([policies("c", 0.5, 0.2)], data, fqe=TINY)
    assert set(runs) == {1}
    assert files < {path.name for path in own_cache.glob("*.npz")}


@pytest.fixture
def ctrl_c():
    """Ctrl-C is handled as in a terminal, wherever the tests run."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_a_fit_that_is_interrupted_goes_on_and_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    data, fqe = make_data(), replace(TINY, steps=120)
    original = EngineFit.run

    def interrupted(self, steps):
        signal.raise_signal(signal.SIGINT)
        return original(self, steps)

    with monkeypatch.context() as patch:
        patch.setattr(EngineFit, "run", interrupted)
        with pytest.raises(KeyboardInterrupt, match="keeps it, and the same call or command goes on"):
            evaluate_offline([policies("a", 0.5)], data, fqe=fqe)
    done = []
    monkeypatch.setattr(EngineFit, "run", lambda self, steps: (done.append(steps), original(self, steps))[1])
    (resumed,) = evaluate_offline([policies("a", 0.5)], data, fqe=fqe)
    assert sum(done) == 120 - 50
    monkeypatch.setenv("ADAPTIVE_CONSTRAINTS_CACHE", str(tmp_path / "another"))
    (whole,) = evaluate_offline([policies("a", 0.5)], data, fqe=fqe)
    assert np.array_equal(resumed.values, whole.values)


# -- intervals ----------------------------------------------------------------------------------------------------


def test_the_interval_is_that_of_the_mean_over_states_and_critics():
    draw = np.random.default_rng(0)
    states = draw.normal(size=400)
    ((low, high),) = intervals(states[None, None])
    assert (high - low) / 2 == pytest.approx(1.96 / 20, rel=0.1) and low < states.mean() < high
    (apart,) = intervals(np.stack([states, states + 10])[None])
    assert apart[0] < 0.5 and apart[1] > 9.5  # two critics give the range between them
    assert np.isnan(intervals(states[None, None, :1])).all()


# -- awkward data and policies ------------------------------------------------------------------------------------


def test_rewards_that_are_all_zero_have_a_value_near_zero():
    data = replace(make_data(), rewards=np.zeros(400, np.float32))
    (estimate,) = evaluate_offline([policies("a", 0.5)], data, fqe=replace(TINY, steps=200, target_rate=0.1))
    assert abs(estimate.value[0]) < 0.2 and estimate.loss[0] < 0.2


def test_one_episode_has_no_interval_and_nothing_held_out():
    data = make_data().subset(episodes=[0])
    (estimate,) = evaluate_offline([policies("a", 0.5)], data, fqe=TINY)
    assert np.isfinite(estimate.value).all() and np.isfinite(estimate.loss).all() and estimate.held_out == 0
    assert np.isnan([estimate.low, estimate.high, estimate.td_error]).all()
    assert "TD error nothing held out" in repr(estimate) and "the data has one" in repr(estimate)


def test_two_episodes_are_split():
    (estimate,) = evaluate_offline([policies("a", 0.5)], make_data().subset(episodes=[0, 1]), fqe=TINY)
    assert estimate.held_out == 1 and np.isfinite(estimate.td_error).all()


def test_without_a_true_end_there_is_no_undiscounted_value():
    pendulum = load_dataset("scripted:pendulum/weak").subset(episodes=slice(3))
    still = policies("still", 0.0, size=1)
    (estimate,) = evaluate_offline([still], pendulum, discount=0.9, fqe=TINY)
    assert np.isfinite(estimate.value).all()
    with pytest.raises(EvaluationError, match="no episode of .* truly ends, so that undiscounted returns are infinite"):
        evaluate_offline([still], pendulum, discount=1.0, fqe=TINY)
    assert np.isfinite(evaluate_offline([policies("a", 0.5)], make_data(), discount=1.0, fqe=TINY)[0].value).all()


def test_seeds_that_are_lost_have_no_value_and_others_do():
    lost = policies("a", 0.5, -0.5, np.nan, lost={1: "lost at step 7"})
    (estimate,) = evaluate_offline([lost], make_data(), fqe=TINY)
    assert list(np.isnan(estimate.value)) == [False, True, True]
    assert estimate.lost == {1: "lost at step 7", 2: "its actions are not finite"}
    assert "seed 1: no value, lost at step 7" in repr(estimate)
    (alone,) = evaluate_offline([policies("a", np.nan)], make_data(), fqe=TINY)
    assert np.isnan(alone.value).all()


def test_a_fit_that_diverges_has_no_value_and_says_so():
    def broken(*arguments, **options):
        fitted = fit_critics(*arguments, **options)
        bias = fitted.params["bias2"].clone()
        bias[0] = torch.nan
        return replace(fitted, params=fitted.params | {"bias2": bias})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adaptive_constraints.choosing.offline.fit", broken)
        (estimate,) = evaluate_offline([policies("a", 0.5, -0.5)], make_data(), fqe=TINY)
    assert list(np.isnan(estimate.value)) == [True, False]
    assert list(estimate.lost) == [0] and "its fit diverged" in estimate.lost[0]
    assert np.isnan(estimate.low[0]) and np.isfinite(estimate.low[1])


def test_policies_are_valued_at_the_actions_that_environments_get():
    agent = wrap(TD3BC(**SMALL))
    fit(agent, steps=2)
    low, high = agent.run.expected.action_low, agent.run.expected.action_high
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            type(agent.run), "act", lambda run, observations, step: 10 * np.ones((2, len(observations[0]), 2))
        )
        answers = policies_of(agent.run, "a").at(make_data().observations, 2)
    np.testing.assert_array_equal(answers, np.broadcast_to(high.astype(np.float32), answers.shape))
    assert (low < high).all()


def test_what_is_doubtful_is_said():
    few = evaluate_offline([policies("a", 0.5)], make_data(), fqe=TINY)[0].notes
    assert any(re.search(r"30 steps are few for a discount of 0\.99: about 1%", note) for note in few)
    far = replace(make_data(), rewards=np.full(400, 1.0, np.float32))
    assert "outside" not in " ".join(few)
    data = replace(far, terminals=np.zeros(400, bool), timeouts=far.terminals | far.timeouts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adaptive_constraints.choosing.offline.fit", lambda *a, **k: shifted(fit_critics(*a, **k)))
        (estimate,) = evaluate_offline([policies("a", 0.5)], data, discount=0.5, fqe=TINY)
    assert any("lies outside of [2, 2], what the data's rewards could give" in note for note in estimate.notes)


def shifted(fitted):
    """Critics that say far too much."""
    return replace(fitted, params=fitted.params | {"bias2": fitted.params["bias2"] + 100.0})


def test_data_and_policies_that_do_not_fit_are_refused():
    agent = wrap(TD3BC(**SMALL))
    with pytest.raises(TrainingError, match="not trained yet"):
        agent.evaluate_offline(make_data())
    fit(agent, steps=2)
    wider = replace(
        make_data(), **{name: np.zeros((400, 4), np.float32) for name in ("observations", "next_observations")}
    )
    with pytest.raises(EvaluationError, match="trained on observations of 3 dimensions, but this data has 4"):
        agent.evaluate_offline(wider, progress=False)
    narrower = replace(make_data(), actions=np.zeros((400, 1), np.float32), action_low=[-1], action_high=[1])
    with pytest.raises(EvaluationError, match=r"actions of shape \(2, 400, 2\), but \(2, 400, 1\)"):
        agent.evaluate_offline(narrower, progress=False)
    with pytest.raises(EvaluationError, match=r"discount must be a number in \[0, 1\] or none, not 2"):
        agent.evaluate_offline(make_data(), discount=2, progress=False)
    with pytest.raises(StackError, match="FQE: steps must be a whole number >= 1, not 0"):
        agent.evaluate_offline(make_data(), steps=0, progress=False)
    with pytest.raises(EvaluationError, match="no argument 'step'"):
        agent.evaluate_offline(make_data(), step=2)
    bad = replace(make_data(), rewards=np.full(400, np.nan, np.float32))
    with pytest.raises(DatasetError, match="rewards has NaN"):
        agent.evaluate_offline(bad, progress=False)
    with pytest.raises(EvaluationError, match=r"different discounts \(a 0.9, b 0.99\)"):
        evaluate_offline([policies("a", 0.1, discount=0.9), policies("b", 0.1)], make_data())
    with pytest.raises(EvaluationError, match="there are no policies"):
        evaluate_offline([], make_data())


def test_an_agent_evaluates_its_own_seeds(capsys):
    agent = wrap(TD3BC(**SMALL, discount=0.9))
    fit(agent, steps=4, seeds=(3, 5))
    agent.history.failures[5] = Failure(2, "critic/loss")
    estimate = agent.evaluate_offline(make_data(), steps=60, hidden=8, critics=3, held_out=0.2)
    assert estimate.seeds == (3, 5) and estimate.discount == 0.9 and estimate.values.shape == (2, 3, 20)
    assert estimate.held_out == 4 and estimate.fqe.steps == 60
    assert np.isfinite(estimate.value[0]) and estimate.lost == {5: "lost at step 2: critic/loss was not finite"}
    assert repr(estimate).startswith("TD3BC on made up: return discounted by 0.9 from 20 initial states")
    assert "fqe" in capsys.readouterr().err
