"""The rows that SSAR trusts: by return, rank, success or advantage."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch
from torch.nn.functional import mse_loss

from adaptive_constraints import SSAR, Dataset, Spec
from adaptive_constraints.adapters.trust import by_separation
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.data import Preprocessor
from adaptive_constraints.errors import DatasetError

from .helpers import random_data, trained
from .reference.common import NAMES, Scalar, adam, average, minibatch, take, update_together
from .selective import prepared
from .sketches import LEARNERS

pytestmark = pytest.mark.usefixtures("own_cache", "one_thread")


def episodes(*rewards: list[float]) -> Dataset:
    """One episode per list; every second one is cut off by time."""
    flat = np.concatenate(rewards)
    ends = np.cumsum([len(episode) for episode in rewards]) - 1
    terminals, timeouts = np.zeros(len(flat), bool), np.zeros(len(flat), bool)
    terminals[ends[::2]], timeouts[ends[1::2]] = True, True
    draw = np.random.default_rng(0)
    return Dataset.from_arrays(
        observations=draw.normal(size=(len(flat), 3)),
        actions=draw.uniform(-0.9, 0.9, size=(len(flat), 2)),
        rewards=flat,
        next_observations=draw.normal(size=(len(flat), 3)),
        terminals=terminals,
        timeouts=timeouts,
        name="hand-made",
    )


def test_trusted_by_return():
    """Strictly above, by raw rewards, whole episodes."""
    data = episodes([1, 2, 3], [1, 1], [4], [3, 3, 3])
    for threshold, expected in (
        (4, [1, 1, 1, 0, 0, 0, 1, 1, 1]),
        (3.9, [1, 1, 1, 0, 0, 1, 1, 1, 1]),
        (6, [0, 0, 0, 0, 0, 0, 1, 1, 1]),
    ):
        selection = prepared(SSAR(return_threshold=float(threshold)), data, (0, 1), reward_scale=100.0)
        assert selection.columns["trusted"].tolist() == expected
        assert selection.online == {"trusted": 1.0}
        torch.testing.assert_close(selection.models["trusted_share"], torch.full((2,), sum(expected) / 9))


def test_trusted_by_rank():
    data = episodes([1, 2, 3], [1, 1], [4], [3, 3, 3], [6])  # returns 6, 2, 4, 9, 6
    for fraction, expected in (
        (0.01, [0, 0, 0, 0, 0, 0, 1, 1, 1, 0]),
        (0.2, [0, 0, 0, 0, 0, 0, 1, 1, 1, 0]),
        (0.4, [1, 1, 1, 0, 0, 0, 1, 1, 1, 1]),  # a tie
        (0.8, [1, 1, 1, 0, 0, 1, 1, 1, 1, 1]),
        (1.0, [1] * 10),
    ):
        assert prepared(SSAR(trusted_fraction=fraction), data).columns["trusted"].tolist() == expected


def test_trusted_by_success():
    data = episodes([0, 0, 1], [0, 1, 0], [1], [0, 0])
    selection = prepared(SSAR(select="success"), data, reward_shift=-1.0)
    assert selection.columns["trusted"].tolist() == [1, 1, 1, 0, 0, 0, 1, 0, 0]


def test_one_episode_is_trusted_whole():
    data = episodes([1.0, -2.0, 0.5])
    assert prepared(SSAR(), data).columns["trusted"].tolist() == [1, 1, 1]
    engine = trained(LEARNERS["TD3BC"], SSAR(hidden=8), data=data)
    assert all(tensor.isfinite().all() for tensor in engine.state().values())


def test_all_needs_no_column():
    assert prepared(SSAR(select="all"), episodes([1.0, 2.0])).columns == {}
    engine = trained(LEARNERS["TD3BC"], SSAR(select="all", hidden=8))
    assert float(engine.diagnose()["ssar/trusted_in_batch"]) == 1


def test_nothing_to_trust_is_an_error_that_names_rule_threshold_and_best_return():
    data = episodes([1, 2, 3], [1.5])
    with pytest.raises(DatasetError, match=r"ssar.*'hand-made'.*'return'.*above 6\.0.*best return in the data is 6\b"):
        prepared(SSAR(return_threshold=6.0), data)
    with pytest.raises(DatasetError, match=r"'success'.*episodes that reached the goal.*best return in the data is 3"):
        prepared(SSAR(select="success"), episodes([3.0, 0.0], [1.0, -1.0]))


def test_a_tiny_trusted_share_is_warned_of():
    data = episodes([1.0] * 300, [400.0], [0.0] * 200)
    with pytest.warns(UserWarning, match=r"ssar trusts only 0\.20% of 'hand-made'.*'return'.*above 399"):
        prepared(SSAR(return_threshold=399.0), data)
    with pytest.warns(UserWarning, match=r"only 0\.20%.*the best 0\.10% of episodes"):
        prepared(SSAR(trusted_fraction=0.001), data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepared(SSAR(return_threshold=299.0), data)


def test_the_flag_reaches_the_minibatch_and_the_log():
    data = episodes(*([[float(i % 5 == 0)] * 4 for i in range(20)]))
    engine = trained(TD3BC(hidden=8, batch_size=256), SSAR(return_threshold=0.0, hidden=8), data=data, seeds=(0, 1))
    diagnosed = engine.diagnose()
    torch.testing.assert_close(diagnosed["ssar/trusted_share"], torch.tensor([0.2, 0.2]))
    assert ((diagnosed["ssar/trusted_in_batch"] > 0.1) & (diagnosed["ssar/trusted_in_batch"] < 0.3)).all()
    assert not torch.equal(*diagnosed["ssar/trusted_in_batch"])


def bandit(rows: int = 300) -> Dataset:
    """One-step episodes; the better action's sign is that of the state."""
    draw = np.random.default_rng(0)
    state, action = draw.normal(size=(rows, 1)), draw.choice([-0.5, 0.5], size=(rows, 1))
    return Dataset.from_arrays(
        observations=state,
        actions=action,
        rewards=(np.sign(state) == np.sign(action))[:, 0].astype(float),
        next_observations=state,
        terminals=np.ones(rows, bool),
    )


def test_trusted_by_advantage_is_the_better_half_of_a_bandit(own_cache):
    data, ssar = bandit(), SSAR(select="advantage", selection_steps=80)
    selection = prepared(ssar, data, (3, 5))
    flags = selection.seed_columns["trusted"]
    assert flags.shape == (2, len(data)) and selection.columns == {}
    agreement = (flags == torch.tensor(data.rewards)).float().mean(1)
    assert (agreement > 0.8).all() and not torch.equal(*flags)
    torch.testing.assert_close(selection.models["trusted_share"], flags.mean(1))
    # Kept: a second run reads, seeds alone or in another order.
    files = {file: file.stat().st_mtime_ns for file in own_cache.glob("*.npz")}
    again = prepared(ssar, data, (5, 3)).seed_columns["trusted"]
    assert torch.equal(again, flags.flip(0))
    assert {file: file.stat().st_mtime_ns for file in own_cache.glob("*.npz")} == files and len(files) == 2


def test_the_selecting_critics_are_those_of_implicit_q_learning():
    """A plain loop of 30 minibatches decides the same on every row."""
    data, steps, seed = random_data(), 30, 4
    selection = prepared(SSAR(select="advantage", selection_steps=steps, selection_expectile=0.6), data, (seed,))
    from adaptive_constraints.adapters.trust import Advantage
    from adaptive_constraints.core.preparation import generator

    start = Advantage(0.6, steps, 0.99).init(Spec(3, 2), generator(seed, "ssar.advantage"))
    value, critics = Scalar(3, 256, 256, 1), [Scalar(5, 256, 256, 1) for _ in range(2)]
    targets = [Scalar(5, 256, 256, 1) for _ in range(2)]
    take(value, start["value"])
    for j, networks in itertools.product(range(2), (critics, targets)):
        take(networks[j], {name: tensor[j] for name, tensor in start["critic"].items()})
    optimizers = [adam(value), adam(*critics)]
    table = Preprocessor.fit(data).table(data)
    for step in range(1, steps + 1):
        index = minibatch(256, len(data), seed, step, "ssar.advantage/batch")
        s, a, r, s2, d = (table[name][index] for name in NAMES)
        with torch.no_grad():
            y = r + 0.99 * (1 - d) * value(s2)
            q = torch.min(*(target(s, a) for target in targets))
        u = q - value(s)
        value_loss = torch.where(u > 0, 0.6 * u**2, 0.4 * u**2).mean()
        first, second = (mse_loss(critic(s, a), y) for critic in critics)
        update_together(optimizers, [value_loss, (first + second) / 2])
        average(targets, critics)
    s, a = table["observation"], table["action"]
    with torch.no_grad():
        advantage = torch.min(*(critic(s, a) for critic in critics)) - value(s)
    clear = advantage.abs() > 1e-4
    assert clear.float().mean() > 0.95
    assert torch.equal(selection.seed_columns["trusted"][0][clear], (advantage >= 0).float()[clear])
    assert 0.02 < float((advantage >= 0).float().mean()) < 0.98


def test_length_of_the_selecting_training():
    from adaptive_constraints.adapters.trust import Advantage

    assert [Advantage.steps_for(rows) for rows in (100, 50_000, 202_000, 2_000_000)] == [100_000, 250_000, 10**6, 10**6]


def plain_split(returns: list[float]) -> list[bool]:
    """Every cut by a plain loop: the likeliest pair of normals, then the distance of means in standard deviations."""
    least = 1e-6 * np.var(returns)
    best, cut = np.inf, 0.0
    for limit in sorted(set(returns))[:-1]:
        low, high = [r for r in returns if r <= limit], [r for r in returns if r > limit]
        if min(len(low), len(high)) < max(3, 0.03 * len(returns)):
            continue
        variances = [max(np.var(group), least) for group in (low, high)]
        shares = [len(group) / len(returns) for group in (low, high)]
        logs = [np.log(share) - np.log(v) / 2 - 1 / 2 for share, v in zip(shares, variances, strict=True)]
        likelihood = len(low) * logs[0] + len(high) * logs[1]
        if -likelihood < best:
            best, cut = -likelihood, limit
            apart = np.mean(high) - np.mean(low), np.sqrt(np.mean(variances))
    separate = best < np.inf and apart[0] >= 4.5 * apart[1] and 2 * sum(r > cut for r in returns) <= len(returns)
    return [r > cut if separate else True for r in returns]


@pytest.mark.parametrize("offset", [0.0, 1e6, -3e5])
def test_separate_groups_of_episodes_equal_a_plain_loop(offset: float) -> None:
    """Two groups, one (normal, uniform), a few good ones among many bad, and ties, wherever the returns' zero is."""
    draw = np.random.default_rng(0)
    cases = {
        "two": [*draw.normal(0, 1, 30), *draw.normal(20, 2, 10)],
        "normal": draw.normal(0, 1, 200),
        "uniform": draw.uniform(0, 1, 200),
        "few": [*draw.uniform(0, 10, 60), 15.0, 15.5, 16.0],
        "tight": [*draw.normal(0, 4, 90), *draw.normal(16, 0.5, 5)],
        "mostly good": [*draw.normal(0, 1, 12), *draw.normal(20, 2, 30)],
        "tail": [*draw.normal(0, 1, 300), *draw.normal(20, 1, 8)],
        "outliers": [*draw.uniform(0, 10, 60), 30.0, 31.0],
        "ties": [0.0] * 7 + [5.0] * 3,
    }
    split = {}
    for name, returns in cases.items():
        listed = (np.round(np.asarray(returns, np.float32), 1) + np.float32(offset)).astype(float).tolist()
        rows = by_separation(episodes(*([value] for value in listed))).tolist()
        assert rows == plain_split(listed), name
        split[name] = sum(rows)
    assert split == {
        "two": 10,
        "normal": 200,
        "uniform": 200,
        "few": 3,
        "tight": 5,
        "mostly good": 42,
        "tail": 308,
        "outliers": 62,
        "ties": 3,
    }


def test_returns_that_are_all_equal_are_one_group() -> None:
    for returns in ([3.0] * 9, [1.0, 2.0], [1.0] * 7 + [5.0, 5.1]):
        assert by_separation(episodes(*([value] for value in returns))).all()


def test_the_default_trusts_the_better_of_two_groups_or_everything() -> None:
    mixed, alike = (episodes(*([value] for value in returns)) for returns in ([0, 0.5, 0.2, 9, 9.4, 9.1], range(6)))
    assert prepared(SSAR(), mixed).columns["trusted"].tolist() == [0, 0, 0, 1, 1, 1]
    assert prepared(SSAR(), alike).columns["trusted"].all()
    assert prepared(SSAR(trusted_fraction=0.2), mixed).columns["trusted"].tolist() == [0, 0, 0, 0, 1, 0]
    assert prepared(SSAR(return_threshold=0.3), mixed).columns["trusted"].tolist() == [0, 1, 0, 1, 1, 1]
