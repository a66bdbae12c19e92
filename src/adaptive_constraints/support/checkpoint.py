"""Files that hold a whole state: named arrays and a JSON header in one .npz, written in one step.

A digest of all its bytes ends a file and is checked before anything else is read, so that no damage passes, wherever it
is. No pickle is involved: reading a file never executes anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptive_constraints.errors import CheckpointError
from adaptive_constraints.support.files import check_seal, replacing, seal
from adaptive_constraints.support.typed import damage

FORMAT = 4
_HEADER = "header.json"
_REMEDY = "use an older checkpoint or train again"


def write(path: str | Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write ``tensors`` and the JSON-able ``header`` to ``path``, which is replaced only once all is on disk."""
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
    text = json.dumps({"format": FORMAT, "arrays": kinds_of(arrays), **header})
    with replacing(path, "wb") as file:
        np.savez(file, allow_pickle=False, **{_HEADER: np.frombuffer(text.encode(), np.uint8)}, **arrays)
        seal(file)


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the tensors of a file that `write` made; `CheckpointError` says what is wrong with any other."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give the path of a saved agent or of a run folder")
    what = f"{path}: not a whole saved agent, so damaged, cut short, or another kind of file"
    with damage(CheckpointError, what, _REMEDY), path.open("rb") as file:
        check_seal(file)
        header, tensors = _content(file)
        written_in, written_by = header["format"], header.get("versions", {}).get("adaptive_constraints", "unknown")
        header.setdefault("arrays", None)
    if written_in != FORMAT:
        raise CheckpointError(
            f"{path}: saved in format {written_in}, this version reads format {FORMAT}; "
            f"load it with the version that wrote it ({written_by})"
        )
    if header["arrays"] != kinds_of({name: tensor.numpy() for name, tensor in tensors.items()}):
        raise CheckpointError(f"{what} (its arrays are not those that its header names): {_REMEDY}")
    return header, tensors


def kinds_of(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Shape and type of each array."""
    return {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()}


def _content(file: IO[bytes]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with np.load(file, allow_pickle=False) as archive:
        header = json.loads(archive[_HEADER].tobytes())
        return header, {name: torch.from_numpy(archive[name]) for name in archive.files if name != _HEADER}
