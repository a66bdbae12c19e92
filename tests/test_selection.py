"""Choosing by few rollouts: a bandit on recorded returns."""

from __future__ import annotations

import numpy as np
import pytest

from adaptive_constraints.choosing import select
from adaptive_constraints.errors import EvaluationError


def returns(means, episodes=50, spread=1.0, seed=0):
    draw = np.random.default_rng(seed)
    return np.array(means)[:, None] + spread * draw.normal(size=(len(means), episodes))


def plain_bandit(pool, rollouts, draw, exploration=2.0):
    """One trial of UCB1 with the bonus in units of the pooled standard deviation, as its authors write it."""
    order = list(draw.permutation(len(pool)))
    tried = {arm: [] for arm in range(len(pool))}
    unit = np.sqrt(np.mean([np.var(row) for row in pool]))
    chosen = []
    for rollout in range(rollouts):
        untried = [arm for arm in order if not tried[arm]]
        if untried:
            arm = untried[0]
        else:
            bonus = {arm: unit * np.sqrt(exploration * np.log(rollout) / len(tried[arm])) for arm in order}
            arm = max(order, key=lambda arm: np.mean(tried[arm]) + bonus[arm])
        tried[arm].append(pool[arm][draw.integers(len(pool[arm]))])
        known = [arm for arm in order if tried[arm]]
        chosen.append(max(known, key=lambda arm: np.mean(tried[arm])))
    return chosen


def test_it_plays_as_a_plain_bandit_does():
    """Within four standard errors, at every number of rollouts."""
    pool, trials = returns([0.0, 0.5, 1.0, 1.5]), 2_000
    ours = select(pool, 30, trials=trials)
    draw = np.random.default_rng(1)
    theirs = pool.mean(1)[[plain_bandit(pool, 30, draw) for _ in range(trials)]]
    error = np.sqrt(2) * theirs.std(0) / np.sqrt(trials)
    assert (np.abs(ours.expected - theirs.mean(0)) < 4 * error + 1e-9).all()


def test_more_rollouts_choose_better_up_to_the_best():
    pool = returns([0.0, 1.0, 2.0, 5.0])
    result = select(pool, 60)
    assert result.expected.shape == result.low.shape == (60,) and result.chosen.shape == (500, 60)
    assert abs(result.expected[0] - result.typical) < 0.4  # one rollout tells nothing
    assert result.expected[0] < result.expected[2] < result.expected[3] <= result.best
    assert result.expected[-1] > 0.98 * result.best
    assert result.best == pytest.approx(pool.mean(1).max()) and result.typical == pytest.approx(pool.mean())


def test_an_interval_covers_what_other_episodes_give():
    """Of 100 pools of 10 episodes, about 95 % have intervals around the chosen policy's true mean."""
    covered = []
    for seed in range(100):
        result = select(returns([0.0, 10.0], episodes=10, seed=seed), 5, trials=50, seed=seed)
        covered.append(result.low[-1] < 10.0 < result.high[-1])
    assert 0.8 <= np.mean(covered) <= 1.0
    few, many = (select(returns([0.0, 10.0], episodes=n), 5) for n in (5, 500))
    assert few.high[-1] - few.low[-1] > 3 * (many.high[-1] - many.low[-1])


def test_each_trial_may_choose_among_a_part_of_the_policies():
    pool = returns([0.0, 1.0, 2.0, 3.0], spread=0.01)
    assert set(np.unique(select(pool, 20, among=1).chosen)) == {0, 1, 2, 3}
    two = select(pool, 20, among=2, trials=3_000)
    assert two.expected[-1] == pytest.approx(np.mean([1, 2, 3, 2, 3, 3]), abs=0.1)  # the better of two at random


def test_equal_seeds_give_equal_choices_and_the_unit_of_reward_does_not_matter():
    pool = returns([0.0, 1.0])
    one, two, other = select(pool, 9), select(1000 * pool, 9), select(pool, 9, seed=1)
    assert np.array_equal(one.chosen, two.chosen) and not np.array_equal(one.chosen, other.chosen)
    certain = select(np.ones((3, 2)), 5)
    assert (certain.expected == 1).all() and (certain.low == 1).all()


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ([[1.0, np.nan]], "leave out policies that failed"),
        ([1.0, 2.0], r"returns \[policies, episodes\]"),
        (np.zeros((2, 0)), r"shape \[2, 0\]"),
    ],
)
def test_returns_that_are_none_are_refused(bad, said):
    with pytest.raises(EvaluationError, match=said):
        select(bad)
    with pytest.raises(EvaluationError, match="rollouts must be a whole number >= 1"):
        select([[1.0]], 0)
