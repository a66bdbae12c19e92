"""Models trained before step 1: seeds apart, kept, resumed, taken from the cache, made anew where damaged."""

import re
import shutil
from dataclasses import replace

import pytest
import torch

from adaptive_constraints import SSAR, Adapter, Facts, Preparation, Prepared, Spec, Stage, Update, wrap
from adaptive_constraints.adapters.frozen_models import DynamicsFit
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.data import Preprocessor
from adaptive_constraints.errors import StackError
from adaptive_constraints.networks import init_mlp, mlp
from adaptive_constraints.pretraining import preparation as kept_models
from adaptive_constraints.pretraining import resume as pretraining
from adaptive_constraints.pretraining.preparation import BoundPreparation
from adaptive_constraints.pretraining.resume import KeptPretraining
from adaptive_constraints.support import checkpoint
from adaptive_constraints.support.stopping import Stopped
from adaptive_constraints.testing import made_data

from .helpers import random_data

FACTS = Facts(constrained="actor", seams=frozenset(), tradeoff=None)


pytestmark = pytest.mark.usefixtures("own_cache")


def preparation(seeds=(0, 1), data=None):
    data = data or random_data()
    spec = Spec(data.observation_dim, data.action_dim)
    return BoundPreparation(data, Preprocessor.fit(data), FACTS, spec, tuple(seeds), discount=0.99)


def reward_model(one: Preparation, seeds):
    """A regression of the reward on noisy observations."""

    def loss(p, v):
        noisy = v.s + 0.1 * v.normal("noise", v.s.shape)
        return (mlp(p, noisy).squeeze(-1) - v.r).square().mean()

    width = one.spec.observation_dim
    return one.model(
        "test.reward",
        lambda generator: {"model": init_mlp((width, 16, 1), generator)},
        (Stage("model", (Update("model", loss, 1e-3),)),),
        steps=60,
        batch_size=32,
        seeds=seeds,
    )


def trained(one: Preparation, counts=None):
    def train(seeds, pretraining):
        fit = reward_model(one, seeds)
        if counts is not None:
            counts.append((*seeds,) if not pretraining.done else f"from {pretraining.done}")
        pretraining.run(fit, 60)
        return fit.params["model"]

    return one.trained("test.reward", {"width": 16}, train, steps=60)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_long_trainings_are_compiled_where_the_run_is_and_go_on_bit_for_bit(monkeypatch, own_cache):
    """Kept apart from those that are not compiled, whose numbers differ by rounding."""
    eager = trained(preparation())
    monkeypatch.setattr(kept_models, "WORTH_COMPILING", 60)
    one = replace(preparation(), compiled=True)
    counts: list = []
    compiled = trained(one, counts)
    assert counts == [(0, 1)] and len(list(own_cache.glob("*.npz"))) == 4
    for name, tensor in eager.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=1e-4, atol=1e-5)
    assert any((compiled[name] != eager[name]).any() for name in eager), "which the compiler rounds otherwise"
    for file in own_cache.glob("*.npz"):
        file.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "asked", lambda: True)
        with pytest.raises(Stopped):
            trained(one)
    again = trained(one, counts)
    assert counts[-1] == "from 50"
    assert all(torch.equal(again[name], compiled[name]) for name in again)


def test_short_trainings_are_not_compiled():
    fit = reward_model(replace(preparation(), compiled=True), (0, 1))
    fit.get_ready(lambda text: pytest.fail(text))


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


def test_a_damaged_file_is_made_anew(own_cache):
    counts = []
    first = trained(preparation((0,)), counts)
    (file,) = own_cache.glob("*.npz")
    file.write_bytes(file.read_bytes()[:100])
    again = trained(preparation((0,)), counts)
    assert counts == [(0,), (0,)] and all(torch.equal(again[name], tensor) for name, tensor in first.items())


@pytest.fixture
def interrupted(monkeypatch):
    """``interrupted(writes, work)`` does some work that is killed after so many writes of a half-trained model."""
    monkeypatch.setattr(pretraining, "PORTION", 7)
    monkeypatch.setattr(pretraining, "SAVE_EVERY", -1.0)
    write = KeptPretraining.save

    def run(writes, work):
        left = [writes]

        def and_die(self, *state):
            write(self, *state)
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(KeptPretraining, "save", and_die)
            with pytest.raises(KeyboardInterrupt):
                work()

    return run


def test_an_interrupted_training_goes_on_to_the_same_bits(own_cache, interrupted):
    whole = trained(preparation())
    for file in own_cache.iterdir():
        file.unlink()
    counts = []
    for _ in range(2):
        interrupted(3, lambda: trained(preparation(), counts))
        assert len(list(own_cache.iterdir())) == 1, "only the half-trained model"
    models = trained(preparation(), counts)
    assert counts == [(0, 1), "from 21", "from 42"]
    assert all(torch.equal(models[name], tensor) for name, tensor in whole.items())
    assert len(list(own_cache.iterdir())) == 2 and not list(own_cache.glob("*half*")), "one file per seed, nothing else"


def test_a_damaged_half_is_trained_from_the_start(own_cache, interrupted):
    whole = trained(preparation((0,)))
    for file in own_cache.iterdir():
        file.unlink()
    interrupted(1, lambda: trained(preparation((0,))))
    (half,) = own_cache.iterdir()
    half.write_bytes(half.read_bytes()[:100])
    counts = []
    models = trained(preparation((0,)), counts)
    assert counts == [(0,)] and all(torch.equal(models[name], tensor) for name, tensor in whole.items())


def test_an_interrupted_ensemble_goes_on_with_the_best_members_so_far(own_cache, interrupted, monkeypatch):
    """Three minibatches an epoch, of which it is killed after the second."""
    monkeypatch.setattr(pretraining, "PORTION", 2)
    one, ensemble = preparation(data=random_data(rows=800)), DynamicsFit(members=3, hidden=8, epochs=6)
    whole = ensemble.run(one, "t.dynamics")
    for file in own_cache.iterdir():
        file.unlink()
    for writes in (1, 3):
        interrupted(writes, lambda: ensemble.run(one, "t.dynamics"))
    (half,) = own_cache.iterdir()
    assert checkpoint.read(half)[0]["done"] == 3 * 3 + 2
    models = ensemble.run(one, "t.dynamics")
    assert all(torch.equal(models[name], tensor) for name, tensor in whole.items())


def test_fit_goes_on_with_the_selection_that_it_was_killed_in(own_cache, interrupted, tmp_path):
    def fit(out):
        stack = wrap(TD3BC(hidden=8), SSAR(select="advantage", selection_steps=40, hidden=8))
        stack.fit(made_data(), steps=3, seeds=(0, 1), progress=False, out=tmp_path / out)

    fit("whole")
    for file in own_cache.iterdir():
        file.unlink()
    interrupted(2, lambda: fit("killed"))
    fit("killed")
    whole, resumed = (checkpoint.read(tmp_path / out / "checkpoint.npz")[1] for out in ("whole", "killed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


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


def test_how_long_it_takes_is_said_before_and_after_the_first_minibatches(monkeypatch, capsys):
    """Once for what is trained, and never for what the cache holds."""
    monkeypatch.setattr(pretraining, "PORTION", 10)
    loud = replace(preparation(), progress=True)
    trained(loud)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("test.reward: training, up to 60 minibatches; kept in the cache")
    assert re.fullmatch(r"test\.reward: at most 40 minibatches to go, about \d+ s", second)
    trained(loud)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "said"), [(0.1, "1 s"), (89.4, "89 s"), (150, "2 min"), (9000, "2.5 h")])
def test_durations_are_said_in_one_unit(seconds, said):
    assert pretraining.duration(seconds) == said
