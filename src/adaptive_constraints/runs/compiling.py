"""The choice whether a run's steps are compiled, where it is left to the library: made before step 1, and kept."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any, Literal

import torch

from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.engine.compiled_step import WORTH_COMPILING
from adaptive_constraints.engine.step_cache import surroundings
from adaptive_constraints.errors import DependencyError, TrainingError
from adaptive_constraints.runs.identity import Identity
from adaptive_constraints.support.cpu import check_compiler
from adaptive_constraints.support.files import cache_folder, replacing

Compiled = Literal["auto"] | bool
"""The choice to compile or not; "auto": by `decide`."""

GAIN = "steps of small networks would take a half to an eighth of their time"


def decide(
    compiled: Compiled,
    wanted: Identity,
    kept: Identity | None,
    device: torch.device,
    *,
    traced: bool,
    stop_after: int | None = None,
    say: bool = False,
) -> bool:
    """Decide whether the wanted run's steps are compiled.

    compiled: what the user says; "auto" compiles on a CPU with a compiler where this call runs `WORTH_COMPILING` steps,
        or where an earlier run like it was compiled, so that the cache has its steps.
    kept: the run that is gone on with, which keeps to its own way; None: there is none.
    say: say what a compiler, which is not here, would gain.
    """
    if compiled != "auto":
        if compiled and not traced:
            raise TrainingError("compiled=True compiles what is traced: leave traced at True")
        return compiled
    if kept is not None:
        if kept.compiled and not traced:
            raise TrainingError("this run was begun with compiled steps, which are traced: leave traced at True")
        return kept.compiled
    if device.type != "cpu" or not traced or not _can_be(Stack.from_spec(wanted.stack)):
        return False
    if _mark(wanted).is_file():
        return True
    if (stop_after or wanted.steps) < WORTH_COMPILING:
        return False
    try:
        check_compiler(device)
    except DependencyError:
        if say:
            print(f"no C++ compiler is here; with one (g++ or clang++), {GAIN}", file=sys.stderr, flush=True)
        return False
    return True


def remember(run: Identity) -> None:
    """Note that the cache has the steps of a run like this one."""
    mark = _mark(run)
    if not mark.is_file():
        mark.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with replacing(mark) as file:
            file.write("")


def _can_be(stack: Stack) -> bool:
    """Tell whether its steps are lists of tensor operations: back-ends that check the meta step are not."""
    meta = stack.resolve().meta
    return meta is None or meta[1].backend == "closed_form"


def _mark(run: Identity) -> Path:
    """The file that says so; runs of the same stack, data, length and number of seeds have the same."""
    alike: dict[str, Any] = run.to_json() | {"seeds": len(run.seeds), "compiled": True, "online": None}
    text = json.dumps([alike, torch.get_num_threads(), *surroundings()], sort_keys=True)
    return cache_folder() / "steps" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.compiled"


__all__ = ["WORTH_COMPILING", "Compiled", "decide", "remember"]
