"""Wrong calls: each ends in one clear message of ours, before anything is trained or written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pytest
import torch

from adaptive_constraints import Dataset, ablate, doctor, load_agent, load_dataset, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.data import save_npz
from adaptive_constraints.data.collecting.collect import collect
from adaptive_constraints.errors import (
    AdaptiveConstraintsError,
    CheckpointError,
    DatasetError,
    EvaluationError,
    FileError,
    StackError,
    TrainingError,
)
from adaptive_constraints.testing import made_data

DATA = made_data()
SHORT: dict[str, Any] = {"steps": 2, "progress": False, "traced": False}
TRAINED = wrap(TD3BC(hidden=8, batch_size=16))


@pytest.fixture(scope="module", autouse=True)
def trained():
    TRAINED.fit(DATA, **SHORT)


def fit(data=DATA, **options):
    return wrap(TD3BC(hidden=8, batch_size=16)).fit(data, **{**SHORT, **options})


WRONG: dict[str, Any] = {
    "text for a number": (lambda: fit(steps="100"), TrainingError, "fit: steps must be a whole number, not '100'"),
    "a fraction": (lambda: fit(steps=1e3), TrainingError, "steps must be a whole number, not 1000.0"),
    "a truth for a number": (lambda: fit(steps=True), TrainingError, "steps must be a whole number, not True"),
    "text for seeds": (
        lambda: fit(seeds="2"),
        TrainingError,
        "seeds must be a whole number or a list of whole numbers, not '2'",
    ),
    "half a seed": (lambda: fit(seeds=[0.5]), TrainingError, r"a list of whole numbers, not \[0.5\]"),
    "no data": (lambda: fit(None), TrainingError, "dataset must be text or a Dataset, not None"),
    "arrays": (lambda: fit(np.zeros((90, 90))), TrainingError, r"not array\(.{80,92}\.\.\.$"),
    "misspelled": (lambda: fit(step=3), TrainingError, "no argument 'step': did you mean 'steps'"),
    "missing": (lambda: TRAINED.fit(DATA), TrainingError, "missing a required argument: 'steps'"),
    "a number for a device": (lambda: fit(device=3), TrainingError, "device must be text, none or a device, not 3"),
    "a number for an environment": (lambda: fit(eval_env=3), TrainingError, "must be text, none or a function"),
    "unknown buffer": (lambda: TRAINED.finetune("Hopper-v5", steps=9, buffer="most"), TrainingError, "'all', 'half'"),
    "nothing to wrap": (wrap, StackError, "wrap: missing a required argument: 'learner'"),
    "a learner for an agent": (lambda: ablate(TD3BC()), StackError, "agent must be an Agent, not TD3BC"),
    "a class for an agent": (lambda: ablate(TD3BC), StackError, r"not the class TD3BC; write TD3BC\(\)"),
    "a number for a preset": (lambda: TD3BC.preset(3), StackError, "family must be text, not 3"),
    "a number for a reference": (lambda: load_dataset(3), DatasetError, "reference must be text, not 3"),
    "a reference for data": (lambda: doctor("bundled:hopper"), DatasetError, "dataset must be a Dataset"),
    "what cannot be saved": (lambda: save_npz(3, "x.npz"), DatasetError, "dataset must be a Dataset, not 3"),
    "no arrays": (lambda: Dataset.from_arrays(), DatasetError, "missing a required argument: 'observations'"),
    "rows by name": (lambda: DATA.subset("a"), DatasetError, "a mask of 160 rows"),
    "a seed below 0": (
        lambda: collect("random:Pendulum-v1", "a.npz", 10, 10, seed=-1),
        DatasetError,
        "seed must be at least 0",
    ),
    "a number for a path": (lambda: load_agent(3), CheckpointError, "path must be text or a path, not 3"),
    "words to act on": (lambda: TRAINED.act("abc"), EvaluationError, "an array of numbers, not 'abc'"),
    "ragged rows": (lambda: TRAINED.act([[1, 2, 3], [1]]), EvaluationError, "an array of numbers"),
    "text for a seed": (lambda: TRAINED.act(np.zeros(3), seed="0"), EvaluationError, "seed must be a whole number or"),
    "text for episodes": (lambda: TRAINED.evaluate(episodes="3"), EvaluationError, "episodes must be a whole number"),
    "starts below 0": (lambda: TRAINED.evaluate("Pendulum-v1", seed=-1), EvaluationError, "seed is -1"),
    "no environment": (lambda: TRAINED.evaluate(lambda: 3), EvaluationError, "made 3, which is no Gymnasium env"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_named_where_they_are_given(case):
    call, error, words = WRONG[case]
    with pytest.raises(error, match=words) as raised:
        call()
    assert type(raised.value) is error and issubclass(error, AdaptiveConstraintsError)


def test_places_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("something")
    with pytest.raises(FileError, match="file is no folder; name another one"):
        fit(out=tmp_path / "file")
    with pytest.raises(FileError, match="file is no folder"):
        fit(out=tmp_path / "file" / "run")
    with pytest.raises(FileError, match=r"cannot write .* \(Is a directory\): name another place"):
        TRAINED.save(tmp_path)
    with pytest.raises(OSError, match=r"cannot write .* \((Not a directory|File exists)\)"):
        TRAINED.save(tmp_path / "file" / "agent.npz")
    with pytest.raises(DatasetError, match="is a folder: name a file in it"):
        load_dataset(f"npz:{tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}.*"))


@pytest.mark.parametrize(
    "seeds",
    [np.int64(2), np.arange(2), range(2), [np.int64(0), 1], (0, 1)],
    ids=["numpy's", "array", "range", "list of numpy's", "tuple"],
)
def test_numbers_of_numpy_and_devices_of_torch_are_fine(seeds, tmp_path):
    agent = wrap(TD3BC(hidden=8, batch_size=16))
    options: dict[str, Any] = {**SHORT, "steps": np.int64(2), "device": torch.device("cpu"), "out": str(tmp_path)}
    agent.fit(DATA, seeds=seeds, **options)
    assert agent.seeds == (0, 1) and all(type(seed) is int for seed in agent.seeds)
    assert load_agent(tmp_path).step == 2


def test_settings_may_carry_metadata_that_cannot_be_hashed():
    @dataclass(frozen=True, kw_only=True)
    class Noted(TD3BC):
        extra: Annotated[int | None, {"unit": "rows"}] = None

    assert Noted(extra=3).extra == 3
    with pytest.raises(AdaptiveConstraintsError, match="extra must be a whole number or none, not 'x'"):
        Noted(extra="x")
