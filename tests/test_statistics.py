"""The statistics of reports against cases worked out by hand, and how often their intervals hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from adaptive_constraints.reports.statistics import (
    Estimate,
    bootstrap,
    estimate,
    holm,
    interquartile_mean,
    mean_of_means,
    p_value,
    paired_difference,
    paired_improvement,
    pooled_interquartile_mean,
    profile,
    resampled,
)


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ([7], 7),
        ([1, 5], 3),
        ([1, 2, 9], 4),  # three are too few to leave any out
        ([100, 1, 2, 4], 3),  # of four, the lowest and the highest are left out
        ([0, 0, 3, 4, 5, 6, 7, 8, 90, 90], 5.5),  # of ten, two at either end: floor(2.5)
        (range(12), 5.5),
    ],
)
def test_the_interquartile_mean_by_hand(values, mean):
    assert interquartile_mean(list(values)) == pytest.approx(mean)


def test_the_interquartile_mean_goes_along_the_last_axis():
    values = np.array([[[1, 2, 3, 100], [0, 10, 10, 10]]])
    assert interquartile_mean(values) == pytest.approx(np.array([[2.5, 10]]))


def test_no_values_have_no_interquartile_mean():
    with pytest.raises(ValueError, match="at least one"):
        interquartile_mean([])


def test_data_sets_are_pooled_or_count_alike():
    strata = [np.array([0.0, 0.0, 0.0]), np.array([8.0])]
    assert pooled_interquartile_mean(strata) == 0  # 0, 0 of 0, 0, 0, 8
    assert mean_of_means(strata) == 4


def test_profiles_by_hand():
    strata = [np.array([10.0, 20.0]), np.array([20.0, 40.0])]
    assert profile([5, 10, 20, 30, 40])(strata).tolist() == [1, 0.75, 0.25, 0.25, 0]  # strictly above


def test_the_probability_of_improvement_by_hand():
    x, y, once = np.array([1.0, 3.0]), np.array([2.0, 3.0]), np.zeros(2, np.int64)
    # 1 < 2, 1 < 3, 3 > 2, 3 = 3: one win and one tie of four
    assert paired_improvement([x], [y], draws=[once]).value == 0.375
    assert paired_improvement([x, x + 9], [y, y], draws=[once, once]).value == pytest.approx((0.375 + 1) / 2)


def test_seeds_meet_those_of_their_own_draw():
    """Every pair improves by 1, on a draw where all reach 99 and on one where all reach 30."""
    y, draws = np.array([99.0, 99.0, 30.0, 30.0]), np.array([0, 0, 1, 1])
    assert paired_improvement([y + 1], [y], draws=[draws]) == Estimate(1, 1, 1, 4)


def test_two_seeds_give_the_range_between_them():
    # Both draws are the lower one a quarter of the time, far above the 2.5 % that are cut off.
    assert estimate([np.array([10.0, 30.0])]) == Estimate(20, 10, 30, 2)


def test_seeds_are_drawn_within_their_data_set():
    """Data sets far apart stay in every draw: across them, the mean of these would range from 0 to 100."""
    low, high = bootstrap([np.array([0.0, 1.0, 2.0]), np.array([100.0, 101.0, 102.0])], mean_of_means)
    assert 50 <= low < 51 < high <= 52


def test_one_seed_has_no_interval():
    assert estimate([np.array([3.0, 5.0]), np.array([4.0])]) == Estimate(4, None, None, 3)


def test_a_paired_difference_by_hand():
    """Pairs that all differ by two: what a pair shares, however much it varies between pairs, is no uncertainty."""
    without = np.array([10.0, 90.0, 50.0])
    assert paired_difference([without + 2 - without] * 2) == Estimate(2, 2, 2, 6)
    mixed = paired_difference([np.array([1.0, 3.0]), np.array([-4.0, -2.0, 0.0, 2.0])])
    assert mixed.value == pytest.approx(0.5)  # the mean of 2 and -1: data sets count alike
    assert mixed.n == 6
    assert mixed.low < mixed.value < mixed.high


def test_equal_scores_give_equal_intervals():
    scores = [np.random.default_rng(3).normal(size=5)]
    assert estimate(scores) == estimate([array.copy() for array in scores])


@pytest.mark.parametrize(
    ("data_sets", "seeds", "expected"),
    [(1, 2, 0.50), (1, 4, 0.80), (1, 10, 0.90), (4, 2, 0.74), (4, 4, 0.89), (4, 10, 0.93)],
)
def test_how_often_an_interval_holds_the_truth(data_sets, seeds, expected):
    """The shares that the module and docs/reports.md name, on normal scores: few seeds give too narrow intervals."""
    draw = np.random.default_rng(0)
    means = 20.0 * np.arange(data_sets)
    held = []
    for _ in range(400):
        low, high = bootstrap([draw.normal(mean, 5, seeds) for mean in means], mean_of_means, resamples=500)
        held.append(low <= means.mean() <= high)
    assert np.mean(held) == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize(
    ("data_sets", "draws", "expected"),
    [(1, 2, 0.71), (1, 4, 0.79), (1, 10, 0.91), (8, 2, 0.84), (8, 4, 0.91), (8, 10, 0.95)],
)
def test_how_often_an_interval_over_draws_holds_the_truth(data_sets, draws, expected):
    """The shares that docs/reports.md names: eight seeds of each draw, and draws that vary as much as seeds."""
    generator, of, held = np.random.default_rng(0), np.repeat(np.arange(draws), 8), []
    for _ in range(300):
        strata = [generator.normal(size=draws)[of] + generator.normal(size=draws * 8) for _ in range(data_sets)]
        low, high = bootstrap(strata, mean_of_means, draws=[of] * data_sets, resamples=400)
        held.append(low <= 0 <= high)
    assert np.mean(held) == pytest.approx(expected, abs=0.06)


def test_the_interval_of_the_interquartile_mean_holds_it_too():
    draw, held = np.random.default_rng(1), []
    for _ in range(300):
        strata = [draw.normal(10, 3, 10), draw.normal(10, 3, 10), draw.normal(10, 3, 10)]
        low, high = bootstrap(strata, pooled_interquartile_mean, resamples=500)
        held.append(low <= 10 <= high)
    assert 0.88 <= np.mean(held) <= 0.98


# -- several draws of the data ------------------------------------------------------------------------------------


def test_draws_of_the_data_are_drawn_anew_and_then_seeds_within_each():
    """Two draws of 3 and 1 seeds: slots keep their places, whole draws are swapped, and seeds stay in their draw."""
    values, draws = np.array([1.0, 2.0, 3.0, 10.0]), np.array([0, 0, 0, 1])
    seen = resampled([values], lambda strata: strata[0], draws=[draws], resamples=400)
    of_first, of_second = seen[:, :3], seen[:, 3]
    assert set(of_first.ravel()) == {1.0, 2.0, 3.0, 10.0} == set(of_second)
    one_draw_each = (of_first == 10).all(1) | (of_first != 10).all(1)
    assert one_draw_each.all()
    assert (of_first == 10).all(1).mean() == pytest.approx(0.5, abs=0.1)


def test_intervals_of_several_draws_hold_the_truth_where_those_of_seeds_alone_do_not():
    """Scores = effect of the draw (sd 4) + effect of the seed (sd 1); 200 experiments with 6 draws of 4 seeds each."""
    generator = np.random.default_rng(0)
    held = {"draws": 0, "seeds": 0}
    draws = np.repeat(np.arange(6), 4)
    for _ in range(200):
        values = 4 * generator.normal(size=6)[draws] + generator.normal(size=24)
        for name, of in (("draws", [draws]), ("seeds", None)):
            low, high = bootstrap([values], mean_of_means, draws=of, resamples=300)
            held[name] += int(low <= 0 <= high)
    assert held["draws"] > 160 > 140 > held["seeds"]


def test_one_draw_is_as_no_draw():
    strata = [np.array([3.0, 1.0, 4.0, 1.0, 5.0])]
    assert estimate(strata, draws=[np.zeros(5, np.int64)]) == estimate(strata)


def test_p_values_and_their_correction_by_hand():
    assert p_value([np.array([1.0, 2.0, 3.0])]) == 2 / 8  # of eight ways to turn them round, two are as far from 0
    assert p_value([np.array([-1.0, 1.0])]) == 1
    assert p_value([np.array([-1.0, 2.0, 3.0])]) == 4 / 8  # 4 of -6, -4, ..., 6
    assert math.isnan(p_value([np.array([5.0])]))
    many = np.linspace(1, 2, 20)
    assert p_value([many]) == 1 / 2000  # no resample has a mean of 0 or less
    assert p_value([many[:4]], draws=[np.array([0, 0, 1, 1])]) == 1 / 2000
    np.testing.assert_array_equal(holm([0.02, math.nan, 0.03]), [0.04, math.nan, 0.04])
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # 3 x 0.01, 2 x 0.03, and never falling
    assert holm([0.5, 0.9]) == [1.0, 1.0]
