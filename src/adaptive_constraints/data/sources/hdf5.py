"""Data sets in HDF5 files, in the layouts of D4RL and of other libraries."""

from __future__ import annotations

from collections.abc import Sequence

from adaptive_constraints.data.dataset import Dataset
from adaptive_constraints.data.references import task_of_file
from adaptive_constraints.data.sources.files import existing_file, import_extra, open_hdf5
from adaptive_constraints.data.sources.layouts import read_columns


def load_hdf5(file: str, ignore: Sequence[str] = ()) -> Dataset:
    """The data set of an HDF5 file, but for the arrays that ``ignore`` names."""
    import_extra("h5py", "d4rl")
    path = existing_file(file, (".hdf5", ".h5"))
    task, env_id = task_of_file(path.name)
    provenance = {"source": "HDF5 file", "file": path.name}
    with open_hdf5(path) as content:
        columns = read_columns(content, ignore)
        return Dataset.from_arrays(**columns, task=task, env_id=env_id, name=f"d4rl:{file}", provenance=provenance)
