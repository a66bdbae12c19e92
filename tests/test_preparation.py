"""Models trained before tick 1: seeds apart, kept, taken from the cache, made anew where a file is damaged."""

import pytest
import torch

from adaptive_constraints import Adapter, Facts, Preparation, Prepared, Spec, Stage, Update, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.data import Preprocessor
from adaptive_constraints.errors import StackError
from adaptive_constraints.networks import init_mlp, mlp
from adaptive_constraints.testing import made_data

from .helpers import random_data

FACTS = Facts(constrained="actor", seams=frozenset(), tradeoff=None)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAPTIVE_CONSTRAINTS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def preparation(seeds=(0, 1), data=None):
    data = data or random_data()
    spec = Spec(data.observation_dim, data.action_dim)
    return Preparation(data, Preprocessor.fit(data), FACTS, spec, tuple(seeds), discount=0.99)


def reward_model(one: Preparation, seeds):
    """A regression of the reward on noisy observations."""

    def loss(p, v):
        noisy = v.s + 0.1 * v.normal("noise", v.s.shape)
        return (mlp(p, noisy).squeeze(-1) - v.r).square().mean()

    width = one.spec.observation_dim
    return one.fit(
        "test.reward",
        lambda generator: {"model": init_mlp((width, 16, 1), generator)},
        (Stage("model", (Update("model", loss, 1e-3),)),),
        steps=60,
        batch_size=32,
        seeds=seeds,
    )


def trained(one: Preparation, counts=None):
    def train(seeds, progress):
        if counts is not None:
            counts.append(tuple(seeds))
        fit = reward_model(one, seeds)
        fit.run(60)
        return fit.params["model"]

    return one.trained("test.reward", {"width": 16}, train, steps=60)


def test_the_fit_learns_and_reports():
    fit = reward_model(preparation(), (0, 1))
    first, last = fit.run(5)["model/loss"], [fit.run(60) for _ in range(10)][-1]["model/loss"]
    assert all(after < before for before, after in zip(first, last, strict=True))


def test_seeds_together_are_seeds_alone():
    together, alone = trained(preparation((0, 5))), trained(preparation((5,)))
    for name, tensor in together.items():
        torch.testing.assert_close(tensor[1], alone[name][0], rtol=0, atol=1e-6)
        assert not torch.equal(tensor[0], tensor[1])


def test_only_missing_seeds_are_trained_and_the_cache_gives_the_same():
    counts = []
    first = trained(preparation((0, 1)), counts)
    again = trained(preparation((1, 2, 0)), counts)
    assert counts == [(0, 1), (2,)]
    for name, tensor in first.items():
        assert torch.equal(again[name][[2, 0]], tensor)


def test_other_data_and_other_settings_are_trained_apart():
    counts = []
    trained(preparation((0,)), counts), trained(preparation((0,), random_data(rows=180)), counts)
    one = preparation((0,))
    one.trained(
        "test.reward", {"width": 8}, lambda seeds, _: counts.append("other") or {"w": torch.ones(1, 1)}, steps=1
    )
    assert counts == [(0,), (0,), "other"]


def test_a_damaged_file_is_made_anew(cache):
    counts = []
    first = trained(preparation((0,)), counts)
    (file,) = cache.glob("*.npz")
    file.write_bytes(file.read_bytes()[:100])
    again = trained(preparation((0,)), counts)
    assert counts == [(0,), (0,)] and all(torch.equal(again[name], tensor) for name, tensor in first.items())


def test_shared_models_are_those_of_the_first_seed():
    one, counts = preparation((3, 4, 5)), []
    shared = one.trained(
        "test.x", {}, lambda seeds, _: counts.append(list(seeds)) or {"w": torch.randn(1, 2)}, steps=1, shared=True
    )
    assert counts == [[3]] and shared["w"].shape == (3, 2) and torch.equal(shared["w"][0], shared["w"][2])


def test_a_column_of_another_length_is_refused():
    class Short(Adapter):
        def prepare(self, preparation):
            return Prepared(columns={"weight": torch.ones(5)})

    with pytest.raises(StackError, match=r"short: its column 'weight' has 5 rows, the data has 160"):
        wrap(TD3BC(), Short()).fit(made_data(), steps=1, progress=False)
