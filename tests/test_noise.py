"""The counter-based noise: its distribution, its independence, and that nothing but its key decides a number.

Every bound is wide enough for a sound generator (about five standard deviations) and the keys are fixed, so a
failure is a change of the generator and never bad luck.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from adaptive_constraints.engine import noise

COUNT = 50_000
SEEDS = torch.tensor([0, 1, 2, 12345, -1])
STEPS = torch.arange(3)


def chi_square(drawn: Tensor, cells: int) -> float:
    """The statistic of integers in [0, cells) in standard deviations from its mean."""
    counts = torch.bincount(drawn.flatten(), minlength=cells).double()
    expected = drawn.numel() / cells
    degrees = cells - 1
    return float(((counts - expected).square() / expected).sum().sub(degrees) / (2 * degrees) ** 0.5)


def correlation(one: Tensor, two: Tensor) -> float:
    """In standard deviations of the correlation of as many independent pairs."""
    return float(torch.corrcoef(torch.stack([one, two]))[0, 1]) * len(one) ** 0.5


def normal(seeds: Tensor = SEEDS, site: str = "site", steps: Tensor = STEPS, count: int = COUNT) -> Tensor:
    return noise.normal(seeds, site, steps, (count,), torch.float64)


def uniform(seeds: Tensor = SEEDS, site: str = "site", steps: Tensor = STEPS, count: int = COUNT) -> Tensor:
    return noise.uniform(seeds, site, steps, (count,), torch.float64)


# -- distribution -----------------------------------------------------------------------------------------------------


def test_normal_moments():
    draws = normal().flatten(0, 1)
    root = COUNT**0.5
    # moment, value, standard deviation of one draw's contribution
    for power, value, spread in ((1, 0, 1.0), (2, 1, 2**0.5), (3, 0, 15**0.5), (4, 3, 96**0.5)):
        deviations = (draws.pow(power).mean(1) - value) * root / spread
        assert deviations.abs().max() < 5, power


def test_normal_quantiles_are_uniform():
    cells = (torch.special.ndtr(normal()) * 64).long()
    for draws in cells.flatten(0, 1):
        assert abs(chi_square(draws, 64)) < 5


def test_normal_tails():
    """As many draws beyond 4 as the distribution says, and none impossible."""
    draws = normal(torch.arange(10), count=100_000)
    beyond, expected = int((draws.abs() > 4).sum()), draws.numel() * 6.334e-5
    assert abs(beyond - expected) < 5 * expected**0.5
    assert draws.abs().max() < 8


def test_uniform_is_uniform():
    for draws in (uniform() * 256).long().flatten(0, 1):
        assert abs(chi_square(draws, 256)) < 5


@pytest.mark.parametrize("bits", [0, -1, 1, 2**63 - 1, -(2**63)])
def test_extreme_bits_give_possible_draws(monkeypatch, bits):
    """No bit pattern makes a uniform 1, a row number too large or a normal infinite."""
    monkeypatch.setattr(noise, "bits", lambda seeds, site, steps, count: torch.full((1, 1, count), bits))
    zero = torch.zeros(1, dtype=torch.int64)
    for dtype in (torch.float32, torch.float64):
        assert 0 <= float(noise.uniform(zero, "site", zero, (1,), dtype)) < 1
        assert abs(float(noise.normal(zero, "site", zero, (1,), dtype))) < 9
    for rows in (1, 1000, 2**31):
        assert 0 <= int(noise.indices(zero, "site", zero, 1, rows)) < rows


@pytest.mark.parametrize("bit", [0, 7, 31, 32, 63])
def test_every_bit_is_fair(bit):
    ones = (noise.bits(SEEDS, "site", STEPS, COUNT) >> bit) & 1
    deviations = (ones.double().mean(-1) - 0.5) * 2 * COUNT**0.5
    assert deviations.abs().max() < 5


@pytest.mark.parametrize("rows", [1, 7, 1000, 123_456])
def test_indices_are_uniform_over_rows(rows):
    indices = noise.indices(SEEDS, "batch", STEPS, COUNT, rows)
    assert indices.dtype == torch.int64
    assert int(indices.min()) >= 0 and int(indices.max()) < rows
    if rows > 1:
        cells = min(rows, 1000)
        for draws in indices.flatten(0, 1):
            assert abs(chi_square(draws * cells // rows, cells)) < 5


# -- independence -----------------------------------------------------------------------------------------------------


def keys() -> dict[str, tuple[Tensor, Tensor]]:
    """Pairs of streams whose keys differ in one part only."""
    zero, one, large = torch.tensor([0]), torch.tensor([1]), torch.tensor([2**40])
    here: dict[str, Any] = {"seeds": zero, "site": "target", "steps": one}
    others: dict[str, dict[str, Any]] = {
        "seed": {"seeds": one},
        "far seed": {"seeds": large},
        "negative seed": {"seeds": -one},
        "site": {"site": "targets"},
        "act site": {"site": "act/target"},
        "step": {"steps": one + 1},
        "far step": {"steps": large},
        "seed for step": {"seeds": one, "steps": zero},
    }
    return {name: (here, here | other) for name, other in others.items()}


@pytest.mark.parametrize("what", keys())
def test_streams_of_different_keys_are_independent(what):
    one, two = (normal(**key).flatten() for key in keys()[what])
    for first, second in ((one, two), (one.square(), two.square()), (one[1:], two[:-1])):
        assert abs(correlation(first, second)) < 5
    one, two = (noise.bits(**key, count=COUNT).flatten() for key in keys()[what])
    assert not set(one.tolist()) & set(two.tolist())
    flipped = ((one ^ two)[:, None] >> torch.arange(64)) & 1
    assert abs(float(flipped.double().mean() - 0.5)) * 2 * (64 * COUNT) ** 0.5 < 5


def test_normal_and_uniform_draws_of_one_site_are_independent():
    gaussian, flat = normal()[0, 0], uniform()[0, 0]
    half = uniform(count=2 * COUNT)[0, 0][0::2]
    for other in (flat, half):
        assert abs(correlation(gaussian, other)) < 5
        assert abs(correlation(gaussian.square(), other)) < 5


@pytest.mark.parametrize("lag", [1, 2, 3, 256])
def test_neighbours_in_a_stream_are_independent(lag):
    draws = normal().flatten(0, 1)
    for stream in draws:
        assert abs(correlation(stream[lag:], stream[:-lag])) < 5
        assert abs(correlation(stream[lag:].abs(), stream[:-lag].abs())) < 5


def test_one_index_over_steps_is_as_good_as_one_step_over_indices():
    draws = uniform(torch.tensor([3]), steps=torch.arange(50_000), count=2)[:, 0]
    for stream in draws.T:
        assert abs(chi_square((stream * 256).long(), 256)) < 5
        assert abs(correlation(stream[1:], stream[:-1])) < 5
    assert abs(correlation(draws[:, 0], draws[:, 1])) < 5


def test_pairs_of_one_draw_fill_the_square():
    draws = uniform(torch.tensor([3]), steps=torch.tensor([1]), count=2 * COUNT).view(-1, 2)
    cells = (draws * 16).long()
    assert abs(chi_square(cells[:, 0] * 16 + cells[:, 1], 256)) < 5


# -- the key and nothing else -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", [noise.normal, noise.uniform])
def test_a_longer_draw_begins_with_the_shorter_one(draw):
    short = draw(SEEDS, "site", STEPS, (10,), torch.float64)
    long = draw(SEEDS, "site", STEPS, (1000,), torch.float64)
    shaped = draw(SEEDS, "site", STEPS, (2, 5), torch.float64)
    assert torch.equal(long[..., :10], short)
    assert torch.equal(shaped.flatten(2), short)
    assert torch.equal(noise.indices(SEEDS, "b", STEPS, 9, 50)[..., :4], noise.indices(SEEDS, "b", STEPS, 4, 50))


@pytest.mark.parametrize("draw", [noise.normal, noise.uniform])
def test_other_seeds_and_steps_change_nothing(draw):
    together = draw(SEEDS, "site", STEPS, (6,), torch.float64)
    for (i, step), (j, seed) in itertools.product(enumerate(STEPS), enumerate(SEEDS)):
        assert torch.equal(draw(seed[None], "site", step[None], (6,), torch.float64)[0, 0], together[i, j])


def test_float32_is_rounded_float64():
    exact, rounded = (noise.normal(SEEDS, "site", STEPS, (COUNT,), t) for t in (torch.float64, torch.float32))
    assert torch.equal(rounded, exact.float())
    exact, rounded = (noise.uniform(SEEDS, "site", STEPS, (COUNT,), t) for t in (torch.float64, torch.float32))
    assert torch.equal(rounded.double(), exact), "24 bits are exact in float32"


@pytest.mark.parametrize("chunk", [1, 100, noise.AHEAD_ON_CPU])
def test_drawing_ahead_never_changes_a_number(monkeypatch, chunk):
    """Whatever the length of a chunk and the order of steps, the table holds what the functions say."""
    monkeypatch.setattr(noise, "AHEAD_ON_CPU", chunk)
    seeds = [0, 7, 2**64 - 1]
    tables = noise.NoiseTables(seeds, torch.device("cpu"), torch.float32)
    keyed = torch.tensor([0, 7, -1])
    for step in (1, 2, 3, 255, 256, 257, 2, 10**9):
        at = torch.tensor([step])
        assert torch.equal(
            tables.at(step, "normal", "a", (4, 2)), noise.normal(keyed, "a", at, (4, 2), torch.float32)[0]
        )
        assert torch.equal(tables.at(step, "uniform", "a", (3,)), noise.uniform(keyed, "a", at, (3,), torch.float32)[0])
        assert torch.equal(tables.at(step, "index", "batch", (5,), 90), noise.indices(keyed, "batch", at, 5, 90)[0])


def test_the_numbers_themselves():
    """Pinned, so that a saved run goes on with the same noise in a later version."""
    seed, step = torch.tensor([1]), torch.tensor([2])
    draws = noise.normal(seed, "target", step, (3,), torch.float64).flatten().tolist()
    assert noise.bits(seed, "target", step, 2).flatten().tolist() == [7018447655324346798, 1660517296659907706]
    assert draws == pytest.approx([-0.042739777285055236, 0.17180144022411342, 0.20662918487338697], rel=1e-14)
    assert noise.indices(seed, "batch", step, 4, 1000).flatten().tolist() == [523, 886, 385, 316]
