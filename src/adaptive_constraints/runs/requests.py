"""What callers ask of an agent, checked: seeds, device, length, data and environment."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from adaptive_constraints.core.learner import Learner
from adaptive_constraints.data import Dataset, Finding, advise, load_dataset
from adaptive_constraints.environments.making import EnvSource, RecordedEnv, flattened
from adaptive_constraints.errors import EvaluationError, TrainingError
from adaptive_constraints.runs.identity import DataFacts
from adaptive_constraints.runs.run import Run
from adaptive_constraints.runs.settings import AUTO


def advice_on(data: Dataset, learner: Learner) -> Sequence[Finding]:
    """Find what is doubtful about data that this learner is to train on."""
    return advise(
        data,
        reward_scale=learner.reward_scale,
        reward_shift=learner.reward_shift,
        normalize_observations=learner.normalize_observations,
    )


def trained_on(run: Run, dataset: Dataset | str | None) -> Dataset:
    """The data that a run was trained on, which must be given unless it is still at hand."""
    data = load_dataset(dataset) if isinstance(dataset, str) else dataset or run.dataset
    if data is None:
        raise TrainingError(
            f"this buffer begins with the data that the agent was trained on ({run.data.name}), which is not at "
            "hand: pass dataset=, or use buffer='none'"
        )
    if data.fingerprint != run.data.fingerprint:
        raise TrainingError(
            f"{data.name} is not the data that the agent was trained on ({run.data.name}): its fingerprint is "
            f"{data.fingerprint}, not {run.data.fingerprint}"
        )
    return data


def device_of(name: str | torch.device | None) -> torch.device:
    """The device of this name; None: CUDA where there is one. Raises `TrainingError` where it cannot be used."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TrainingError(f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); try 'cpu'") from error
    return device


def refuse_move(there: torch.device, wanted: torch.device) -> None:
    """Raise `TrainingError` where an agent that is on one device is to train on another."""
    if (there.type, there.index or 0) != (wanted.type, wanted.index or 0):
        raise TrainingError(f"this agent is on {there}, not on {wanted}: save it, and load_agent(path, '{wanted}')")


def seeds_of(seeds: int | Sequence[int]) -> tuple[int, ...]:
    """The seeds: 0, 1, ... up to a count, or those named. Raises `TrainingError` for none or repeated ones."""
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(map(int, seeds))
    if not chosen or len(set(chosen)) < len(chosen):
        raise TrainingError(f"seeds must be a count of at least 1 or a list of different numbers, not {seeds!r}")
    return chosen


def check_stop(steps: int, stop_after: int | None) -> None:
    """Raise `TrainingError` unless there are steps, and the stop lies among them."""
    if steps < 1:
        raise TrainingError(f"steps must be at least 1, not {steps}")
    if stop_after is not None and not 1 <= stop_after <= steps:
        raise TrainingError(f"stop_after must lie between 1 and steps = {steps}, not {stop_after}")


def environment_of(source: EnvSource | None, data: Dataset | DataFacts) -> EnvSource | None:
    """Resolve ``"auto"`` to what the data says of its environment, which imports nothing.

    In any other one, dictionaries become vectors as they did in the data.
    """
    if source != AUTO:
        return source and flattened(source, data.env_spec)
    if data.env_id is None:
        raise EvaluationError("the data does not say which environment it comes from: name one, such as 'Hopper-v5'")
    return RecordedEnv(data.env_id, data.env_spec)
