"""Files that hold a whole state: named arrays and a JSON header in one .npz, written in one step.

No pickle is involved, so reading a file never executes anything.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adaptive_constraints._files import replacing
from adaptive_constraints.errors import CheckpointError

FORMAT = 1
_HEADER = "header.json"


def write(path: str | Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write ``tensors`` and the JSON-able ``header`` to ``path``, which is replaced only once all is on disk."""
    text = json.dumps({"format": FORMAT, **header})
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
    with replacing(path, "wb") as file:
        np.savez(file, allow_pickle=False, **{_HEADER: np.frombuffer(text.encode(), np.uint8)}, **arrays)


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the tensors of a file that `write` made; `CheckpointError` says what is wrong with any other."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give the path of a saved agent or of a run folder")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            header = json.loads(archive[_HEADER].tobytes())
            tensors = {name: torch.from_numpy(archive[name]) for name in archive.files if name != _HEADER}
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError) as error:
        raise CheckpointError(
            f"{path}: not a whole saved agent (damaged, cut short, or another kind of file: {error}); "
            "use an older checkpoint or train again"
        ) from error
    if header.get("format") != FORMAT:
        written_by = header.get("versions", {}).get("adaptive_constraints", "unknown")
        raise CheckpointError(
            f"{path}: saved in format {header.get('format')}, this version reads format {FORMAT}; "
            f"load it with the version that wrote it ({written_by})"
        )
    return header, tensors
