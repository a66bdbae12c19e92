"""A run folder: what is written there beside the metrics, and which run it is of."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from adaptive_constraints.data.references import own_level
from adaptive_constraints.errors import CheckpointError
from adaptive_constraints.evaluation import Evaluator
from adaptive_constraints.runs.evaluating import described
from adaptive_constraints.runs.identity import Identity
from adaptive_constraints.runs.run import Run
from adaptive_constraints.runs.settings import RunSettings
from adaptive_constraints.support.records import commit, device_name, plain, read_record, versions, write_json
from adaptive_constraints.support.typed import damage

CHECKPOINT, CONFIG, RESULT = "checkpoint.npz", "config.json", "result.json"


def begun(folder: Path) -> Identity | None:
    """The identity of the run that wrote the settings in a folder; None where no run has been.

    Raises `CheckpointError` for a file of that name which no run wrote, or that was changed since, and for what a run
    leaves without its settings.
    """
    file, remedy = folder / CONFIG, "use another folder, or remove that file if a run wrote it"
    what = "is not of a run of this library"
    try:
        config = read_record(file, dict[str, Any], CheckpointError, what, remedy)
    except FileNotFoundError:
        _refuse_orphans(folder)
        return None
    with damage(CheckpointError, f"{file} {what}", remedy):
        return Identity.from_json(config)


def _refuse_orphans(folder: Path) -> None:
    """Raise `CheckpointError` where a folder holds what became of a run, but not which run that was."""
    if (folder / CHECKPOINT).exists():
        return
    for name in (RESULT, "metrics.jsonl", "metrics.csv"):
        if (folder / name).exists() and (folder / name).stat().st_size:
            raise CheckpointError(
                f"{folder} holds {name} of some run, but neither {CHECKPOINT} nor {CONFIG}, which would say of which: "
                "use another folder, or move that file away"
            )


def config_of(run: Run, settings: RunSettings, evaluator: Evaluator | None) -> dict[str, Any]:
    """Say which run it is, on which data, how it is evaluated, and what computes it, in plain values."""
    env = settings.eval_env
    config = run.identity.to_json() | {
        "data": _data(run),
        "evaluation": {
            "env": "a factory" if callable(env) else env,
            "every": settings.eval_every,
            "episodes": settings.eval_episodes,
            "seed": settings.eval_seed,
            **(described(evaluator) if evaluator else {}),  # among them the id, where there is one
        },
        "device": device_name(run.device),
        "products": run.products,
        "versions": versions(),
        "commit": commit(),
        "advice": run.history.advice,
    }
    plain_config: dict[str, Any] = plain(config)
    return plain_config


def _data(run: Run) -> dict[str, Any]:
    """Which data it is of."""
    return {name: getattr(run.data, name) for name in ("name", "fingerprint", "rows", "episodes", "mean_return")}


def write_results(run: Run, folder: Path) -> None:
    """Write the numbers of a run to one file, and its curves as a picture where matplotlib is there."""
    history = run.history
    result: dict[str, Any] = {
        "name": run.stack.name,
        "data": _data(run),
        "step": run.engine.step,
        "steps": run.steps,
        "online_from": history.online_from,
        "seeds": list(run.engine.seeds),
        "failures": {str(seed): failure._asdict() for seed, failure in history.failures.items()},
        "steps_per_second": history.steps_per_second,
        "seconds": history.seconds,
    }
    if history.counted:
        summarized = history.summary()
        result["measure"] = summarized.measure
        result |= {name: getattr(summarized, name).tolist() for name in ("last", "best", "last_ten")}
        result |= {} if summarized.success is None else {"success": summarized.success.tolist()}
    result["evaluations"] = history.to_json()["evaluations"]
    write_json(folder / RESULT, result)
    if len(history.evaluations) > 1:
        picture(run, folder / "curves.png")


def picture(run: Run, path: Path) -> None:
    """Draw a run's curves, where matplotlib is installed."""
    if find_spec("matplotlib") is not None:
        own = own_level(run.data.mean_return, run.history.evaluations[-1].reference)
        run.history.plot(path, title=run.stack.name, own=own)


__all__ = ["CHECKPOINT", "CONFIG", "RESULT", "begun", "config_of", "picture", "write_results"]
