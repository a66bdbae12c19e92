"""A policy as a file that needs nothing of this package: torch.export's (.pt2) or ONNX (.onnx).

Both are recorded from the same `Policy`, for any number of rows; loops of sampling are unrolled. The file is tried
before it is written, against the agent that it came from.
"""

from __future__ import annotations

import importlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import Dim, ExportedProgram

from adaptive_constraints.data import Preprocessor
from adaptive_constraints.data.sources.loaders import without_folders
from adaptive_constraints.errors import DependencyError, ExportError
from adaptive_constraints.runs.policy import Policy
from adaptive_constraints.runs.run import Run
from adaptive_constraints.support.files import check_file, replacing
from adaptive_constraints.support.records import versions

Act: TypeAlias = Callable[[NDArray[Any], int], NDArray[np.float32]]
"""Actions [N, A] at observations [N, D] in a step of an episode."""

BOUND = 1e-4
"""Largest difference from the agent's actions, as a share of half the range between the bounds of actions."""
BOUND_BF16 = 5e-2
"""The same where matrix products are rounded to bfloat16."""
TRIED = ((1, 0), (2, 1), (257, 1000))
"""Rows, and steps of an episode, that a file is tried with."""
NUDGE, NUDGES = 1e-6, 8
"""Relative change of observations that is no more than rounding, and how many of them are tried."""
LEFT_OUT = 0.25
"""Largest share of the tried observations at which nothing may be said."""
METADATA = "policy.json"
"""Name of the metadata in either kind of file."""


@dataclass(frozen=True)
class Exported:
    """A file that was written, and how near to the agent it acts."""

    path: Path
    size: int
    """Bytes."""
    largest_difference: float
    """Of an action from `Agent.act`'s, as a share of half the range between the bounds of actions."""
    rows: int
    """Observations at which that was measured."""
    unstable: int
    """Further ones, left out since rounding moves the agent's own action there: a choice between equal candidates."""


def check_target(path: Path) -> None:
    """Raise an error where no policy could be written to a path: `ExportError`, `FileError` or `DependencyError`."""
    if path.suffix not in _KINDS:
        raise ExportError(f"cannot export to {path}: name a file that ends in {' or '.join(_KINDS)}")
    check_file(path)
    if path.suffix == ".onnx":
        for module in ("onnx", "onnxscript"):
            _import(module)


def export(policy: Policy, run: Run, act: Act, path: Path) -> Exported:
    """Write a policy on the CPU to a file, after trying the file against ``act``, the same seed's of the agent."""
    check_target(path)
    rounded = run.engine.execution.precision != "float32"
    if rounded and path.suffix == ".onnx":
        raise ExportError(f"cannot export to {path}: onnxruntime has no products in bfloat16 on a CPU; take .pt2")
    write, read = _KINDS[path.suffix]
    data = write(_recorded(policy), json.dumps(_metadata(policy, run), indent=1))
    bound = BOUND_BF16 if rounded else BOUND
    largest, rows, unstable = _tried(read(data), act, policy, run, bound)
    use = "agent.policy() gives the policy as a Module"
    if not largest <= bound:
        raise ExportError(
            f"nothing was written to {path}: its actions would differ from the agent's by {largest:.2g} of half the "
            f"range of actions, more than {bound:g}; {use}"
        )
    if unstable > LEFT_OUT * (rows + unstable):
        raise ExportError(
            f"nothing was written to {path}: the agent's own actions jump where observations change by rounding, at "
            f"{unstable} of {rows + unstable}, so that the file cannot be tried; {use}"
        )
    with replacing(path, "wb") as file:
        file.write(data)
    return Exported(path, len(data), largest, rows, unstable)


# -- recording --------------------------------------------------------------------------------------------------------


def _recorded(policy: Policy) -> ExportedProgram:
    """The policy as a graph for any number of rows, without lines of code, which would name folders of this machine."""
    observations = policy.observation_mean.new_zeros(3, policy.observation_dim)
    arguments = (observations, torch.tensor(0)) if policy.random else (observations,)
    rows = {0: Dim("rows", min=1)}
    try:
        program = torch.export.export(policy, arguments, dynamic_shapes=(rows, None)[: len(arguments)])
    except RuntimeError as error:
        if "Constraints violated" not in str(error):
            raise
        raise ExportError(
            f"{policy.name} cannot be exported: its policy makes the number of rows a fixed one. In what it calls, "
            "write observation.shape[0] for len(observation), and let nothing branch on the number of rows"
        ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _metadata(policy: Policy, run: Run) -> dict[str, Any]:
    """What a user needs to know of a file; no paths."""
    inputs = [{"name": "observations", "shape": ["rows", policy.observation_dim], "type": _type(policy)}]
    if policy.random:
        inputs.append({"name": "step", "shape": [], "type": "int64"})
    return {
        "learner": repr(run.stack.learner),
        "adapters": [repr(adapter) for adapter in run.stack.adapters],
        "seed": policy.seed,
        "step": policy.step,
        "data": without_folders(run.data.name),
        "data_fingerprint": run.data.fingerprint,
        "env_id": run.data.env_id,
        "inputs": inputs,
        "outputs": [{"name": "actions", "shape": ["rows", policy.action_dim], "type": "float32"}],
        "action_low": policy.action_low.tolist(),
        "action_high": policy.action_high.tolist(),
        "versions": versions(),
    }


def _type(policy: Policy) -> str:
    return str(policy.observation_mean.dtype).removeprefix("torch.")


# -- the two kinds of files -------------------------------------------------------------------------------------------


def _write_torch(program: ExportedProgram, metadata: str) -> bytes:
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={METADATA: metadata})
    return file.getvalue()


def _read_torch(data: bytes) -> Act:
    module = torch.export.load(io.BytesIO(data)).module()
    takes_step = len(module.graph.find_nodes(op="placeholder")) > 1

    def act(observations: NDArray[Any], step: int) -> NDArray[np.float32]:
        arguments = [torch.as_tensor(observations), torch.tensor(step)]
        actions: NDArray[np.float32] = module(*arguments[: 1 + takes_step]).numpy()
        return actions

    return act


def _write_onnx(program: ExportedProgram, metadata: str) -> bytes:
    with _quiet_onnx():
        made = torch.onnx.export(program, dynamo=True, verbose=False, output_names=["actions"])
    assert made is not None
    model = made.model
    model.metadata_props[METADATA] = metadata
    data: bytes = made.model_proto.SerializeToString()
    return data


def _read_onnx(data: bytes) -> Act:
    """By onnxruntime, or where that is not installed by onnx's own reference."""
    try:
        runtime = _import("onnxruntime")
    except DependencyError:
        session = _import("onnx.reference").ReferenceEvaluator(_import("onnx").load_from_string(data))
        names = session.input_names
    else:
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors; else it tells which constants it does not fold
        session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        names = [given.name for given in session.get_inputs()]

    def act(observations: NDArray[Any], step: int) -> NDArray[np.float32]:
        given = {"observations": observations, "step": np.array(step)}
        actions: NDArray[np.float32] = session.run(None, {name: given[name] for name in names})[0]
        return actions

    return act


_KINDS: Mapping[str, tuple[Callable[[ExportedProgram, str], bytes], Callable[[bytes], Act]]] = {
    ".pt2": (_write_torch, _read_torch),
    ".onnx": (_write_onnx, _read_onnx),
}
"""By suffix: how the bytes of a file are made, and how it acts."""


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DependencyError(
            f"exporting to ONNX needs {module}, which is not installed: pip install 'adaptive-constraints[export]'"
        ) from error


@contextmanager
def _quiet_onnx() -> Iterator[None]:
    """Inside, torch's exporter says nothing of operators of packages that no policy has, nor of its own old calls."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        logger.setLevel(before)


# -- trying -----------------------------------------------------------------------------------------------------------


def _tried(exported: Act, act: Act, policy: Policy, run: Run, bound: float) -> tuple[float, int, int]:
    """The largest difference of actions, the rows that it was measured at, and those where the agent is unstable."""
    low, high = (limit.numpy() for limit in (policy.action_low, policy.action_high))
    generator = torch.Generator().manual_seed(0)

    def apart(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
        """Tell by how much the actions of each row differ, in halves of the range; [N]."""
        result: NDArray[Any] = (2 * np.abs(one.clip(low, high) - other.clip(low, high)) / (high - low)).max(1)
        return result

    largest, rows, unstable = 0.0, 0, 0
    for count, step in TRIED:
        observations = _around_the_data(run, policy, count, generator)
        wanted = act(observations, step)
        difference = apart(exported(observations, step), wanted)
        left_out = difference > bound
        if left_out.any():
            nudged = (_nudged(observations, generator) for _ in range(NUDGES))
            left_out &= np.any([apart(act(near, step), wanted) > bound for near in nudged], 0)
        largest = float(np.max(difference[~left_out], initial=largest))
        rows, unstable = rows + int((~left_out).sum()), unstable + int(left_out.sum())
    return largest, rows, unstable


def _around_the_data(run: Run, policy: Policy, count: int, generator: torch.Generator) -> NDArray[Any]:
    """Normal draws [N, D] of the data's mean and standard deviation; without the data, of those that the run knows."""
    space = run.preprocessor.to("cpu")
    if run.dataset is not None:
        space = Preprocessor.fit(run.stack.learner.training_data(run.dataset), normalize_observations=True)
    raw = space.raw_observations(torch.randn(count, policy.observation_dim, generator=generator))
    drawn: NDArray[Any] = raw.to(policy.observation_mean.dtype).numpy()
    return drawn


def _nudged(observations: NDArray[Any], generator: torch.Generator) -> NDArray[Any]:
    """The same but for rounding."""
    factor = 1 + NUDGE * torch.randn(observations.shape, generator=generator, dtype=torch.float64)
    return (observations * factor.numpy()).astype(observations.dtype)


__all__ = ["Exported", "check_target", "export"]
