"""Every kind of file that is read: how it is made, and what reading it comes to, to be compared after damage."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from adaptive_constraints import ASPC, Dataset, load_agent, load_dataset, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.core.types import Facts, Spec, Stage, Update
from adaptive_constraints.data import Preprocessor, save_npz
from adaptive_constraints.data.sources import scripted
from adaptive_constraints.experiments import rows as results
from adaptive_constraints.experiments.cell import Cell
from adaptive_constraints.experiments.suite import load_suite
from adaptive_constraints.networks import init_mlp, mlp
from adaptive_constraints.pretraining import resume as pretraining
from adaptive_constraints.pretraining.preparation import BoundPreparation
from adaptive_constraints.reports.grid import read_grid
from adaptive_constraints.runs import folder as run_folder
from adaptive_constraints.support import checkpoint
from adaptive_constraints.support.files import seal
from adaptive_constraints.support.records import read_metrics

from . import faults
from .benching import tiny_suite
from .helpers import random_data
from .synthetic_rows import HOPPER, MAZE, row
from .synthetic_rows import folder as results_folder

Way = Callable[[random.Random, bytes], faults.Fault]


@dataclass(frozen=True)
class Kind:
    """A kind of file, among what else its reader needs."""

    name: str
    file: str
    """To be damaged, in a folder that `make` filled."""
    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    """Something plain that is equal for equal content."""
    ways: tuple[Way, ...]
    silent: tuple[str, ...] = ()
    """Beginnings of what was done, after which another result need not be noticed."""
    anew: bool = False
    """What is damaged is made anew: no error is right either."""
    cost: float = 1.0
    """How long reading takes, roughly in milliseconds."""


NEVER_NOTICED = ("",)
"""Text without a digest: any change is content."""


# -- runs -------------------------------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {"hidden": 4, "batch_size": 4}
QUIET: dict[str, Any] = {"progress": False, "traced": False, "seeds": 2, "steps": 6, "log_every": 2}


def data() -> Dataset:
    """Sixty rows in three episodes, as they would be recorded."""
    random, names = random_data(63), ("observations", "actions", "rewards", "terminals", "timeouts")
    return Dataset.from_arrays(**{name: getattr(random, name) for name in names}, name="few")


def stack():
    return wrap(TD3BC(**SMALL), ASPC(interval=1))


class Drift(gymnasium.Env):
    """Three numbers that decay under the action; four steps."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state, self.time = self.np_random.normal(size=3).astype(np.float32), 0
        return self.state, {}

    def step(self, action):
        self.state = 0.9 * self.state + 0.1 * np.append(action, 0).astype(np.float32)
        self.time += 1
        return self.state, float(self.state[0]), False, self.time == 4, {}


def learned(agent) -> Any:
    """What an agent is, without how long it took."""
    tree = agent.history.to_json() | {"seconds": 0, "rates": len(agent.history.rates)}
    tensors = {name: (str(t.dtype), t.tolist()) for name, t in agent.run.engine.state().items()}
    space = {name: t.tolist() for name, t in agent.run.preprocessor.state().items()}
    return repr(
        (agent.step, agent.seeds, repr(agent), sorted(tensors.items()), sorted(space.items()), sorted(tree.items()))
    )


def make_agent(folder: Path) -> None:
    agent = stack()
    agent.fit(data(), stop_after=3, **QUIET)
    agent.save(folder / "agent.npz")


def make_run(folder: Path) -> None:
    stack().fit(data(), stop_after=3, out=folder / "run", **QUIET)


def go_on(folder: Path) -> Any:
    agent = stack()
    agent.fit(data(), out=folder / "run", **QUIET)
    return learned(agent), files(folder / "run")


ONLINE: dict[str, Any] = {
    "steps": 9,
    "warm_up": 3,
    "buffer": "all",
    "eval_env": None,
    "progress": False,
    "traced": False,
}


def make_online(folder: Path) -> None:
    agent = stack()
    agent.fit(data(), stop_after=2, **QUIET)
    agent.save(folder / "agent.npz")
    agent.finetune(Drift, out=folder / "run", stop_after=6, log_every=2, **ONLINE)


def go_on_online(folder: Path) -> Any:
    agent = load_agent(folder / "agent.npz", "cpu")
    agent.finetune(Drift, dataset=data(), out=folder / "run", log_every=2, **ONLINE)
    return learned(agent), files(folder / "run")


def files(run: Path) -> Any:
    """What a run folder says, less times."""
    rows = [row | {"steps_per_second": 0} for row in read_metrics(run / "metrics.jsonl")]
    config = json.loads((run / "config.json").read_text())
    return repr((rows, sorted(config.items())))


# -- results ----------------------------------------------------------------------------------------------------------


def make_results(folder: Path) -> None:
    made = [
        row("TD3BC", adapters, data, seed) for adapters in ([], ["ASPC"]) for data in (HOPPER, MAZE) for seed in (0, 1)
    ]
    results_folder(folder, made)


def make_cell(folder: Path) -> None:
    tiny_suite(folder).cells[0].write(folder)
    results.write_failure(folder, "a", "because", "a command")


def read_grid_of(folder: Path) -> Any:
    grid = read_grid([folder])
    return repr((grid.suites, grid.rows, grid.missing, [cell.curves() for cell in grid.cells.values()]))


# -- data -------------------------------------------------------------------------------------------------------------


def whole(data: Dataset) -> Any:
    arrays = {name: (str(array.dtype), array.tolist()) for name, array in data.arrays().items()}
    return repr((data.fingerprint, sorted(arrays.items()), data.env_id, data.task, dict(data.provenance)))


def make_npz(folder: Path) -> None:
    save_npz(data(), folder / "data.npz")


def make_foreign_npz(folder: Path) -> None:
    rows = data()
    np.savez(folder / "data.npz", **{n: getattr(rows, n) for n in ("observations", "actions", "rewards", "terminals")})


def make_hdf5(folder: Path) -> None:
    import h5py

    rows = data()
    with h5py.File(folder / "data.hdf5", "w") as file:
        for name in ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations"):
            file[name] = getattr(rows, name)


def make_scripted(folder: Path) -> None:
    rows = data()
    save_npz(rows, folder / "kept.npz")
    (folder / "kept.json").write_text(json.dumps({"fingerprint": rows.fingerprint, "rows": 60}))


def read_scripted(folder: Path) -> Any:
    kept, _ = scripted.what_is_kept(folder / "kept.npz")
    return whole(data() if kept is None else kept)  # which is what would be collected


# -- models trained before step 1 -------------------------------------------------------------------------------------


def model(folder: Path, minibatches: int) -> Any:
    """A small regression, trained or taken from a cache in the folder."""
    rows = data()
    one = BoundPreparation(
        rows, Preprocessor.fit(rows), Facts("actor", frozenset(), None), Spec(3, 2), (0,), discount=0.99
    )  # fmt: skip

    def train(seeds, half):
        fit = one.model(
            "test.model",
            lambda random: {"model": init_mlp((3, 4, 1), random)},
            (Stage("model", (Update("model", lambda p, v: (mlp(p, v.s)[..., 0] - v.r).square().mean(), 1e-3),)),),
            steps=minibatches,
            batch_size=8,
            seeds=seeds,
        )
        best = {"best": torch.zeros(len(seeds))}
        half.resume(fit, best)
        half.run(fit, minibatches, best)
        return fit.params["model"]

    with cache(folder):
        tensors = one.trained("test.model", {"width": 4}, train, steps=minibatches)
    return repr([(name, t.tolist()) for name, t in tensors.items()])


@contextmanager
def cache(folder: Path) -> Iterator[None]:
    import os

    before = os.environ.get("ADAPTIVE_CONSTRAINTS_CACHE")
    os.environ["ADAPTIVE_CONSTRAINTS_CACHE"] = str(folder / "cache")
    try:
        yield
    finally:
        os.environ.pop("ADAPTIVE_CONSTRAINTS_CACHE")
        if before is not None:
            os.environ["ADAPTIVE_CONSTRAINTS_CACHE"] = before


def make_model(folder: Path) -> None:
    model(folder, 6)
    (file,) = (folder / "cache").glob("test.model-*.npz")
    file.rename(folder / "cache" / "damaged")
    (folder / "cache" / "name").write_text(file.name)


def read_model(folder: Path) -> Any:
    kept = folder / "cache"
    shutil.copy(kept / "damaged", kept / (kept / "name").read_text())
    return model(folder, 6)


class Killed(BaseException):
    """In the middle of a training."""


def make_half(folder: Path) -> None:
    write, pretraining.SAVE_EVERY, pretraining.PORTION = pretraining.KeptPretraining.save, -1.0, 3

    def and_die(self, *state):
        write(self, *state)
        raise Killed

    pretraining.KeptPretraining.save = and_die  # type: ignore[method-assign]
    try:
        model(folder, 9)
    except Killed:
        pass
    finally:
        pretraining.KeptPretraining.save, pretraining.SAVE_EVERY, pretraining.PORTION = write, 60.0, 50  # type: ignore[method-assign]
    (half,) = (folder / "cache").glob("*half-trained*")
    half.rename(folder / "cache" / "damaged")
    (folder / "cache" / "name").write_text(half.name)


def read_half(folder: Path) -> Any:
    kept = folder / "cache"
    for model_file in kept.glob("test.model-*.npz"):
        model_file.unlink()
    shutil.copy(kept / "damaged", kept / (kept / "name").read_text())
    return model(folder, 9)


# -- files of ours, with a seal that is right again -----------------------------------------------------------------


def resealed(kinds: tuple[str, ...], said: bool = False) -> Way:
    """Arrays of a sealed file changed, and the file written anew by our own function: what another program may do.

    said: the header goes on to say which arrays there were.
    """

    def way(draw: random.Random, whole: bytes) -> faults.Fault:
        header, arrays = _opened(whole)
        if not said:
            header.pop("arrays")
        what, damaged = faults.in_arrays(draw, arrays, kinds)
        return f"resealed: {what}", _closed(header, damaged)

    return way


def resealed_header(draw: random.Random, whole: bytes) -> faults.Fault:
    """The same of its header."""
    header, arrays = _opened(whole)
    header.pop("arrays")
    what, damaged = faults.in_tree(draw, header)
    return f"resealed header: {what}", _closed(damaged if isinstance(damaged, dict) else {"x": damaged}, arrays)


def _opened(whole: bytes) -> tuple[dict[str, Any], faults.Arrays]:
    with np.load(io.BytesIO(whole), allow_pickle=False) as archive:
        header = json.loads(archive["header.json"].tobytes())
        return header, {name: archive[name] for name in archive.files if name != "header.json"}


def _closed(header: dict[str, Any], arrays: faults.Arrays) -> bytes:
    text = faults.dumps({"arrays": checkpoint.kinds_of(arrays), **header}).encode()
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **{"header.json": np.frombuffer(text, np.uint8)}, **arrays)
    seal(file)
    return file.getvalue()


STRUCTURE = resealed(faults.STRUCTURE[:4])
"""Changes that a reader must see by what it knows of a stack."""
KEPT = resealed(tuple(kind for kind in faults.STRUCTURE if kind != "exchanged"), said=True)
SEALED = (faults.in_bytes, faults.in_npz)
TEXT = (faults.in_bytes, faults.in_json)
RESEALED = (STRUCTURE, resealed((*faults.STRUCTURE, "values")), resealed_header)
CONTENT = ("resealed header", "resealed: values", "resealed: added", "resealed: exchanged", "resealed: type")
"""Changes that make another valid file, which no reader can tell from a true one."""


def read_agent(folder: Path) -> Any:
    return learned(load_agent(folder / "agent.npz", "cpu"))


def read_npz(folder: Path) -> Any:
    return whole(load_dataset(f"npz:{folder / 'data.npz'}"))


def read_hdf5(folder: Path) -> Any:
    return whole(load_dataset(f"d4rl:{folder / 'data.hdf5'}"))


def read_rows_of(folder: Path) -> Any:
    return repr(results.read_rows(folder))


def read_metrics_of(folder: Path) -> Any:
    return repr(read_metrics(folder / "run" / "metrics.jsonl"))


def read_toml(folder: Path) -> Any:
    return repr(load_suite(folder / "tiny.toml", ["fatal_env"]))


STATE, BYTES, BOTH = (*SEALED, *SEALED, *RESEALED), (faults.in_bytes,), (faults.in_bytes, faults.in_npz)
GOING_ON: dict[str, Any] = {"make": make_run, "read": go_on, "ways": TEXT, "cost": 80}
MODEL: dict[str, Any] = {"ways": (*SEALED, *SEALED, KEPT), "anew": True, "cost": 40}

KINDS = (
    Kind("saved agent", "agent.npz", make_agent, read_agent, STATE, CONTENT, cost=15),
    Kind("checkpoint of a run", "run/checkpoint.npz", make_run, go_on, STATE, CONTENT, cost=80),
    Kind("checkpoint of an online run", "run/checkpoint.npz", make_online, go_on_online, STATE, CONTENT, cost=120),
    Kind("config.json", "run/config.json", **GOING_ON),
    Kind("metrics.jsonl of a run that goes on", "run/metrics.jsonl", **GOING_ON),
    Kind("result.json of a run that goes on", "run/result.json", **GOING_ON),
    Kind("metrics.jsonl, read", "run/metrics.jsonl", make_run, read_metrics_of, TEXT, NEVER_NOTICED),
    Kind("rows.jsonl", "rows.jsonl", make_results, read_rows_of, TEXT, cost=5),
    Kind("rows.jsonl, reported", "rows.jsonl", make_results, read_grid_of, TEXT, cost=10),
    Kind("suite.json", "suite.json", make_results, lambda f: repr(results.read_suite(f)), TEXT),
    Kind("cell.json", "cell.json", make_cell, lambda f: repr(Cell.read(f)), TEXT),
    Kind("failed.json", "failed.json", make_cell, lambda f: repr(results.read_failure(f)), TEXT),
    Kind("suite in TOML", "tiny.toml", tiny_suite, read_toml, BYTES, NEVER_NOTICED, cost=5),
    Kind("data, npz", "data.npz", make_npz, read_npz, BYTES, cost=3),
    Kind("data, npz with right sums", "data.npz", make_foreign_npz, read_npz, (faults.in_npz,), NEVER_NOTICED, cost=3),
    Kind("data, HDF5", "data.hdf5", make_hdf5, read_hdf5, BYTES, NEVER_NOTICED, cost=5),
    Kind("scripted data, kept", "kept.npz", make_scripted, read_scripted, BOTH, anew=True, cost=3),
    Kind("manifest of scripted data", "kept.json", make_scripted, read_scripted, TEXT, anew=True, cost=3),
    Kind("trained model", "cache/damaged", make_model, read_model, **MODEL),
    Kind("half-trained model", "cache/damaged", make_half, read_half, **MODEL),
)


def no_commit(*_: object) -> None:
    """In place of `records.commit`, which asks git each time."""


def quick() -> None:
    """Leave out what takes time and is not read."""
    run_folder.commit, run_folder.picture = no_commit, no_commit  # type: ignore[assignment, attr-defined]


__all__ = ["KINDS", "Kind", "quick"]
