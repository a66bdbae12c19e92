"""Find the run to go on with: an agent's own, or the one that its run folder holds."""

from __future__ import annotations

from pathlib import Path

import torch

from adaptive_constraints.errors import CheckpointError
from adaptive_constraints.runs.file import read_run
from adaptive_constraints.runs.folder import CHECKPOINT, begun
from adaptive_constraints.runs.identity import Identity
from adaptive_constraints.runs.run import Run


def to_resume(
    own: Run | None, folder: Path | None, wanted: Identity, device: torch.device, remedy: str
) -> tuple[Run | None, bool]:
    """Find the further one of a run as an agent and as a folder has it; and whether that is the folder's.

    remedy: what to do where the agent's own is another than the wanted one, for which there is a `CheckpointError`.
    device: where to read the folder's to.
    """
    if own is not None:
        _refuse_other(own.identity, wanted, "this agent", remedy)
    kept = None if folder is None else _kept(folder, wanted, device)
    if kept is None or (own is not None and own.progress > kept.progress):
        return own, False
    return kept, True


def _kept(folder: Path, wanted: Identity, device: torch.device) -> Run | None:
    """The run that a folder holds, if it holds one; it must be the wanted one, whatever part of it is there."""
    remedy = "use another folder, or remove this one"
    if (settled := begun(folder)) is not None:
        _refuse_other(settled, wanted, str(folder), remedy)
    file = folder / CHECKPOINT
    if not file.is_file():  # it ended before its first checkpoint: it begins anew
        return None
    run = read_run(file, device)
    _refuse_other(run.identity, wanted, str(file), remedy)
    return run


def _refuse_other(identity: Identity, wanted: Identity, where: str, remedy: str) -> None:
    differences = identity.differences(wanted)
    if differences:
        raise CheckpointError(f"{where} holds another training ({'; '.join(differences)}): {remedy}")


__all__ = ["to_resume"]
