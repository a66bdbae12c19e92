"""A policy as a Module and as a file: it acts as its agent does, is a copy, and the file needs nothing of ours."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.onnx._internal.exporter._registration import ONNXRegistry

from adaptive_constraints import ASPC, load_agent, wrap
from adaptive_constraints.agent import Agent
from adaptive_constraints.baselines import AWAC, BC, CQL, EDAC, FQL, IQL, SACN, TD3BC, DiffusionQL, ReBRAC
from adaptive_constraints.cli import main
from adaptive_constraints.engine.metrics import Failure
from adaptive_constraints.errors import DependencyError, EvaluationError, ExportError, FileError, TrainingError
from adaptive_constraints.runs.export import BOUND, METADATA, export

from .agents import fit, make_data
from .sketches import TinyFQL
from .test_conformance import Wild
from .test_modules import small
from .test_precision_of_data import made

ROOT = Path(__file__).resolve().parents[1]
SMALL: dict[str, Any] = {"hidden": 8, "batch_size": 16}
BUNDLED = (
    TD3BC(**SMALL),
    IQL(**SMALL),
    CQL(**SMALL),
    DiffusionQL(candidates=3, diffusion_steps=2, **SMALL),
    FQL(layers=1, **SMALL),
    ReBRAC(**SMALL),
    BC(**SMALL),
    SACN(critics=2, **SMALL),
    EDAC(critics=2, **SMALL),
    AWAC(**SMALL),
)
NOISY, GAUSSIAN = {"DiffusionQL", "FQL"}, {"IQL", "CQL", "SACN", "EDAC", "AWAC"}
"""Whose forward draws noise, and whose sample alone does."""
NAMES = [type(learner).__name__ for learner in BUNDLED]
MODULES = ("dropout", "batch norm", "spectral norm")
OTHERS = (*MODULES, "out of the box", "float64")
ROWS = (1, 2, 257)
IN_ONNX = ("TD3BC", "IQL", "CQL", "DiffusionQL", "FQL", "AWAC", "spectral norm", "float64")
"""Tried as ONNX too, which takes seconds each: the others have the same operations."""


def quick(learner, data=None, **options) -> Agent:
    """An agent of two seeds that hardly learned."""
    agent = wrap(learner, ASPC(interval=1)) if type(learner) is TD3BC else wrap(learner)
    fit(agent, steps=3, dataset=data, **options)
    return agent


@pytest.fixture(scope="module")
def agents(one_thread) -> dict[str, Agent]:
    """One agent of each bundled learner and of others' by name."""
    every = {type(learner).__name__: quick(learner) for learner in BUNDLED}
    every |= {kind: quick(small(kind)) for kind in MODULES}
    return every | {"out of the box": quick(Wild(**SMALL)), "float64": quick(TD3BC(**SMALL), made(1.7e9, 300.0))}


def kinds(name: str) -> tuple[str, ...]:
    """The kinds of files that an agent is tried as."""
    return ("pt2", "onnx") if name in IN_ONNX else ("pt2",)


def some(agent: Agent, rows: int) -> np.ndarray:
    """Observations about those of the data."""
    space, draw = agent.run.preprocessor, torch.Generator().manual_seed(rows)
    return space.raw_observations(torch.randn(rows, agent.run.spec.observation_dim, generator=draw)).numpy()


# -- as a Module ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_a_policy_acts_as_its_agent(agents, name):
    agent = agents[name]
    policy = agent.policy(1)
    assert policy.random == (name in NOISY)
    for rows in ROWS:
        observations = some(agent, rows)
        for step in (0, 7):
            wanted = agent.act(observations, seed=1, step=step).clip(-1, 1)
            np.testing.assert_allclose(policy(torch.tensor(observations), step).numpy(), wanted, atol=1e-5)
    if name in NOISY:
        given = torch.tensor(some(agent, 2))
        assert not torch.equal(policy(given, 0), policy(given, 1))
        assert torch.equal(policy(given, torch.tensor(1)), policy(given, 1))


@pytest.mark.parametrize("name", NAMES)
def test_samples_come_from_a_generator(agents, name):
    policy, given = agents[name].policy(), torch.tensor(some(agents[name], 50))
    one, again, other = (policy.sample(given, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again) and bool((one.abs() <= 1).all())
    assert torch.equal(one, other) == (name not in NOISY | GAUSSIAN)
    if name in GAUSSIAN:  # about the mean
        many = torch.stack([policy.sample(given) for _ in range(400)])
        assert (many.mean(0) - policy(given)).abs().mean() < 0.1 < many.std(0).mean()
    elif name not in NOISY:
        assert torch.equal(one, policy(given))


def test_a_policy_is_a_copy_of_what_it_reads(agents):
    agent = quick(TD3BC(**SMALL))
    policy, given = agent.policy(), torch.tensor(some(agent, 5))
    before = policy(given)
    with torch.no_grad():
        for tensor in agent.run.engine.params["actor"].values():
            tensor.zero_()
    assert torch.equal(policy(given), before)
    assert {name.split("/")[1] for name, _ in policy.named_parameters()} == {"actor"}
    assert not before.requires_grad
    policy.requires_grad_()
    assert policy(given).requires_grad and not policy.observation_mean.requires_grad
    held = {name.rpartition("/")[0] for name in agents["DiffusionQL"].policy().state_dict() if "/" in name}
    assert held == {"params/actor", "targets/critic"}


def test_bounds_and_units_are_the_environments(agents):
    agent = agents["out of the box"]
    given = 100 * some(agent, 50)
    assert np.abs(agent.act(given)).max() > 1 >= agent.policy()(torch.tensor(given)).abs().max()
    data = make_data()
    data = type(data).from_arrays(
        **{name: getattr(data, name) for name in ("observations", "rewards", "terminals", "timeouts")},
        actions=data.actions * 2 + 5, action_low=[2.0, 3.0], action_high=[8.0, 7.0],
    )  # fmt: skip
    agent = quick(BC(**SMALL), data)
    actions = agent.policy()(torch.tensor(1e4 * some(agent, 50))).numpy()
    np.testing.assert_allclose([actions.min(0), actions.max(0)], [[2, 3], [8, 7]], atol=1e-3)


def test_wrong_seeds_and_shapes_are_told(agents, tmp_path):
    agent = quick(TD3BC(**SMALL))
    with pytest.raises(EvaluationError, match=r"shape \[3\]: this policy takes \[N, 3\]"):
        agent.policy()(torch.zeros(3))
    agent.history.failures[0] = Failure(2, "critic/loss")
    assert agent.policy().seed == 1
    for make in (agent.policy, lambda seed: agent.export(tmp_path / "p.pt2", seed)):
        with pytest.raises(EvaluationError, match=r"no seed 9 in this agent"):
            make(9)
        with pytest.raises(EvaluationError, match=r"seed 0 was lost at step 2: critic/loss .*; .* seeds \[1\]"):
            make(0)
    agent.history.failures[1] = Failure(3, "actor/loss")
    with pytest.raises(EvaluationError, match="no other is left"):
        agent.policy()
    for attempt in (wrap(TD3BC()).policy, lambda: wrap(TD3BC()).export(tmp_path / "p.pt2")):
        with pytest.raises(TrainingError, match="not trained yet"):
            attempt()
    assert not list(tmp_path.iterdir())


# -- as a file --------------------------------------------------------------------------------------------------------

ALONE = """
import json, sys
import numpy as np, torch
sys.modules["adaptive_constraints"] = None  # where it is installed: an import of it fails
given, said, results = np.load("given.npz"), {}, {}
for key in given.files:
    name, kind, rows, step = key.split("|")
    file = f"{name}.{kind}"
    if kind == "pt2":
        extra = {"policy.json": ""}
        policy = torch.export.load(file, extra_files=extra).module()
        said[file] = json.loads(extra["policy.json"])
        arguments = {"observations": torch.tensor(given[key]), "step": torch.tensor(int(step))}
        results[key] = policy(*(arguments[one["name"]] for one in said[file]["inputs"])).numpy()
    else:
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(file, options)
        said[file] = json.loads(session.get_modelmeta().custom_metadata_map["policy.json"])
        arguments = {"observations": given[key], "step": np.array(int(step))}
        names = [one["name"] for one in said[file]["inputs"]]
        assert names == [one.name for one in session.get_inputs()]
        (results[key],) = session.run(["actions"], {name: arguments[name] for name in names})
np.savez("results.npz", **results)
json.dump(said, open("said.json", "w"))
"""


@pytest.fixture(scope="module")
def files(agents, tmp_path_factory) -> Path:
    """A folder with a file of each kind and agent, by names that they have in `agents`."""
    folder = tmp_path_factory.mktemp("files")
    with pytest.MonkeyPatch.context() as patch:  # torch reads its library of operators again at each export
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        for name, agent in agents.items():
            for kind in kinds(name):
                done = agent.export(folder / f"{name}.{kind}", 1)
                assert (done.rows, done.unstable) == (260, 0)
                assert done.largest_difference <= BOUND
                assert done.size == done.path.stat().st_size
    return folder


@pytest.mark.slow
def test_files_give_the_same_actions_without_this_package(agents, files):
    given = {
        f"{name}|{kind}|{rows}|{step}": some(agent, rows)
        for name, agent in agents.items()
        for kind in kinds(name)
        for rows, step in ((1, 0), (7, 0), (2, 12))
    }
    np.savez(files / "given.npz", **given)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE], capture_output=True, text=True, cwd=files, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    results, said = np.load(files / "results.npz"), json.loads((files / "said.json").read_text())
    for key, observations in given.items():
        name, kind, _, step = key.split("|")
        wanted = agents[name].act(observations, seed=1, step=int(step)).clip(-1, 1)
        np.testing.assert_allclose(results[key], wanted, atol=1e-5, err_msg=key)
        facts = said[f"{name}.{kind}"]
        assert [one["name"] for one in facts["inputs"]] == ["observations", *["step"] * (name in NOISY)]
        assert facts["inputs"][0]["type"] == ("float64" if name == "float64" else "float32")
    facts = said["TD3BC.onnx"]
    assert facts["learner"].startswith("TD3BC(") and facts["adapters"][0].startswith("ASPC(")
    assert (facts["seed"], facts["step"], facts["data"]) == (1, 3, "made up")
    assert facts["data_fingerprint"] == agents["TD3BC"].run.data.fingerprint
    assert (facts["action_low"], facts["action_high"], facts["env_id"]) == ([-1, -1], [1, 1], None)


def test_no_file_names_a_folder_of_this_machine(files):
    for path in files.glob("*.*"):
        if path.suffix in (".pt2", ".onnx"):
            data = path.read_bytes()
            for folder in (ROOT, Path(torch.__file__).parent, Path.home(), files.parent):
                assert str(folder).encode() not in data, (path.name, folder)


def test_folders_of_data_are_left_out(agents, tmp_path):
    agent = quick(TD3BC(**SMALL), make_data())
    reference = "npz:/home/me/a b/x.npz | mix(d4rl:C:\\data\\y.hdf5, 0.5) | concat(table:t/z.csv#obs=a/b+c,action=d)"
    data = agent.run.data
    agent.run.data = type(data)(**{**vars(data), "name": reference})
    agent.export(tmp_path / "p.pt2")
    extra = {METADATA: ""}
    torch.export.load(tmp_path / "p.pt2", extra_files=extra)
    kept = "npz:x.npz | mix(d4rl:y.hdf5, 0.5) | concat(table:z.csv#obs=a/b+c,action=d)"
    assert json.loads(extra[METADATA])["data"] == kept


def test_a_file_that_would_act_otherwise_is_not_written(agents, tmp_path):
    agent = agents["BC"]
    path, policy = tmp_path / "p.pt2", agent.policy()
    path.write_bytes(b"before")
    with pytest.raises(ExportError, match=r"nothing was written to .*p\.pt2: .* by 0\.01 of half the range"):
        export(policy, agent.run, lambda raw, step: agent.act(raw, seed=0) + np.float32(0.01), path)
    with pytest.raises(ExportError, match="differ from the agent's by nan"):
        export(policy, agent.run, lambda raw, step: agent.act(raw, seed=0) * np.float32(np.nan), path)

    def jumping(raw: np.ndarray, step: int) -> np.ndarray:
        return agent.act(raw, seed=0) + 0.5 * np.sin(1e9 * raw[:, :1])

    with pytest.raises(ExportError, match="jump where observations change by rounding, at .* of 260"):
        export(policy, agent.run, jumping, path)

    def rarely_jumping(raw: np.ndarray, step: int) -> np.ndarray:
        return agent.act(raw, seed=0) + 0.5 * np.sin(1e9 * raw[:, :1]) * (raw[:, :1] > 2)

    done = export(policy, agent.run, rarely_jumping, tmp_path / "q.pt2")
    assert 0 < done.unstable < 15 and done.rows == 260 - done.unstable
    assert path.read_bytes() == b"before"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["p.pt2", "q.pt2"]


def test_a_policy_that_fixes_its_rows_is_told_what_to_write(tmp_path):
    agent = quick(TinyFQL())
    given = some(agent, 4)
    np.testing.assert_allclose(agent.policy()(torch.tensor(given), 3), agent.act(given, step=3), atol=1e-5)
    with pytest.raises(ExportError, match=r"write observation\.shape\[0\] for len\(observation\)"):
        agent.export(tmp_path / "p.pt2")
    assert not list(tmp_path.iterdir())


def test_places_and_kinds_of_files_that_cannot_be(agents, tmp_path, monkeypatch):
    agent = agents["BC"]
    for name in ("policy.pt", "policy", "policy.onnx.txt"):
        with pytest.raises(ExportError, match=r"ends in \.pt2 or \.onnx"):
            agent.export(tmp_path / name)
    with pytest.raises(ExportError, match="export: path must be"):
        agent.export(3)
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(FileError, match="is a folder"):
        agent.export(tmp_path / "folder.pt2")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="is no folder"):
        agent.export(tmp_path / "file" / "p.pt2")
    for module in ("onnxscript", "onnx"):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(DependencyError, match=rf"needs {module}, .* 'adaptive-constraints\[export\]'"):
            agent.export(tmp_path / "p.onnx")
    agent.export(tmp_path / "new" / "p.pt2")  # needs none of them, and makes folders
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder.pt2", "new"]


def test_onnx_is_tried_by_its_reference_where_there_is_no_onnxruntime(agents, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert agents["FQL"].export(tmp_path / "p.onnx").largest_difference <= BOUND


@pytest.mark.filterwarnings("ignore::adaptive_constraints.support.cpu.PrecisionWarning")  # on a CPU without them
def test_products_in_bf16(tmp_path):
    agent = quick(BC(**SMALL), precision="bf16")
    assert agent.export(tmp_path / "p.pt2").largest_difference < 0.05
    with pytest.raises(ExportError, match=r"no products in bfloat16 on a CPU; take \.pt2"):
        agent.export(tmp_path / "p.onnx")


def test_the_command(agents, tmp_path, capsys):
    agents["DiffusionQL"].save(tmp_path / "agent.npz")
    words = ["export", str(tmp_path / "agent.npz"), str(tmp_path / "p.pt2")]
    assert main([*words, "--seed", "1"]) == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert f"{tmp_path / 'p.pt2'}: DiffusionQL at step 3, 0." in said and "at 260 observations" in said
    given, loaded = some(agents["DiffusionQL"], 4), load_agent(tmp_path / "agent.npz", "cpu")
    policy = torch.export.load(tmp_path / "p.pt2").module()
    actions = policy(torch.tensor(given), torch.tensor(5)).numpy()
    np.testing.assert_allclose(actions, loaded.act(given, seed=1, step=5), atol=1e-5)
    for wrong, text in (([*words, "--seed", "7"], "no seed 7"), ([*words[:2], "policy.bin"], "ends in .pt2 or .onnx")):
        assert main(wrong) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and text in captured.err
