"""Arrays in npz and HDF5 files, by name. Whatever is wrong with a file is a `DatasetError` that names it."""

from __future__ import annotations

import difflib
import importlib
import math
import os
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.errors import AdaptiveConstraintsError, DatasetError, DependencyError

Array = NDArray[Any]

SKIPPED_GROUPS = ("infos", "metadata")
"""Groups of a D4RL file that describe the recording; no learner reads them."""
_DEEPEST = 8
"""Groups within groups that are listed; hard links may lead round in a circle."""

_ZIP_END = struct.Struct("<4s4H2LH")
_MANY_MEMBERS = 0xFFFF
"""Stands where the true number, which is no smaller, does not fit."""


@dataclass(frozen=True)
class ArrayFile:
    """An open file: the names of its arrays (those in groups as "group/name"), and a function that reads one."""

    path: Path
    names: tuple[str, ...]
    read: Callable[[str], Array]


@contextmanager
def reading(source: str | Path, kind: str) -> Iterator[None]:
    """Turn whatever goes wrong inside into a `DatasetError` that names the source.

    Parsers of damaged bytes raise exceptions of every type, so all are caught; `DependencyError` and the like pass.
    Numbers too large for float32 become infinite without numpy's warning: the doctor names their rows.
    """
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            yield
    except DatasetError as error:
        if str(source) in str(error):
            raise
        raise DatasetError(f"{source}: {error}") from error
    except AdaptiveConstraintsError:
        raise
    except Exception as error:
        reason = "it is larger than the free memory" if isinstance(error, MemoryError) else _first_line(error)
        raise DatasetError(f"{source} is not a readable {kind}: {reason}") from error


@contextmanager
def open_npz(path: Path) -> Iterator[ArrayFile]:
    """Open an npz file. Every array is checked against the checksum in the archive; pickled objects are refused."""
    with reading(path, "npz file without pickled objects"):
        if not zipfile.is_zipfile(path):
            raise ValueError(f"it is no zip archive{_hint_of_kind(path)}")
        with zipfile.ZipFile(path) as archive:
            members = {_text(name).removesuffix(".npy"): name for name in archive.namelist()}
            if len(members) != _promised_members(path, archive):
                raise ValueError("its directory is damaged, or it holds two arrays of the same name")
            yield ArrayFile(path, tuple(members), lambda name: _bits(name, _read_npy(archive, members[name])))


def check_npz(path: Path) -> None:
    """Read every array, for a library that then reads the file without regard to its checksums."""
    with open_npz(path) as file:
        for name in file.names:
            file.read(name)


@contextmanager
def open_hdf5(path: Path) -> Iterator[ArrayFile]:
    """Open an HDF5 file. Few writers ask the format for checksums: where none are, damage may pass as other numbers."""
    h5py = import_extra("h5py", "d4rl")
    with reading(path, "HDF5 file"):
        if not h5py.is_hdf5(path):
            raise ValueError(f"its signature is not that of HDF5{_hint_of_kind(path)}")
        with h5py.File(path, "r") as content:
            arrays = dict(_listed(h5py, content))
            yield ArrayFile(path, tuple(arrays), lambda name: _bits(name, _read_hdf5(name, arrays[name])))


def _promised_members(path: Path, archive: zipfile.ZipFile) -> int:
    """How many members the end of a zip file says that it has: `zipfile` does not miss those it passed over."""
    with path.open("rb") as file:
        file.seek(-_ZIP_END.size - len(archive.comment), os.SEEK_END)
        count = int(_ZIP_END.unpack(file.read(_ZIP_END.size))[4])
    return len(archive.namelist()) if count == _MANY_MEMBERS else count


def _read_npy(archive: zipfile.ZipFile, member: str) -> Array:
    with archive.open(member) as file:
        array: Array = np.lib.format.read_array(file, allow_pickle=False)
        if file.read(1):  # which also has the archive compare the checksum: it does so at the end only
            raise ValueError(f"{member} holds more numbers than its header says")
    return array


def _listed(h5py: Any, group: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Every array below a group by its path; None for a link that leads nowhere."""
    for name in group:
        entry, path = group.get(name), prefix + _text(name)
        if isinstance(entry, h5py.Group):
            if depth < _DEEPEST and path not in SKIPPED_GROUPS:
                yield from _listed(h5py, entry, f"{path}/", depth + 1)
        elif not isinstance(entry, h5py.Datatype):
            yield path, entry


def _read_hdf5(name: str, entry: Any) -> Array:
    if entry is None:
        raise DatasetError(f"{name} is a link that leads nowhere")
    if entry.dtype.kind not in "biuf" or entry.shape is None:  # never read text: of a damaged file it may not end
        raise DatasetError(f"{name} must hold numbers, but its type is {entry.dtype}; convert it first")
    if not _is_stored(entry):
        raise DatasetError(f"{name} has shape {list(entry.shape)}, but the file does not hold so many numbers")
    return np.asarray(entry[()])


def _is_stored(entry: Any) -> bool:
    """Tell whether all that the shape promises was written: HDF5 invents zeros for what was not."""
    if entry.is_virtual or entry.external:
        return True
    if entry.chunks is None:
        return bool(entry.id.get_storage_size() >= entry.nbytes)
    chunks = math.prod(-(-rows // size) for rows, size in zip(entry.shape, entry.chunks, strict=True))
    return bool(entry.id.get_num_chunks() >= chunks)


def _bits(name: str, array: Array) -> Array:
    """The array, whose truth values must be 0 or 1: numpy computes with other bytes as if they were numbers."""
    if array.dtype == bool and array.view(np.uint8).max(initial=0) > 1:
        raise DatasetError(f"{name} holds truth values that are neither 0 nor 1")
    return array


def existing_file(file: str, suffixes: tuple[str, ...]) -> Path:
    """The path of a file that is there; otherwise a `DatasetError` that lists files with such suffixes beside it."""
    with reading(file, "file name"):
        path = Path(file).expanduser()
        if path.is_file():
            with path.open("rb"):  # whoever may not read it is told so here
                return path
        if path.is_dir():
            raise DatasetError(f"{path} is a folder: name a file in it")
        if path.exists():
            raise DatasetError(f"{path} is no regular file: copy what it gives to one")
        folder = path.parent
        if not folder.is_dir():
            raise DatasetError(f"no file {path}: the folder {folder} does not exist")
        there = sorted(entry.name for entry in folder.iterdir() if entry.suffix in suffixes)
        raise DatasetError(f"no file {path}; in {folder}, {suggest(path.name, there)}")


def suggest(name: str, there: Iterable[str]) -> str:
    """Say what is there, the closest first."""
    names = list(there)
    if not names:
        return "there is none"
    close = difflib.get_close_matches(name, names, n=3)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}there: {listed(close + [other for other in names if other not in close])}"


def listed(names: Iterable[str], limit: int = 12) -> str:
    """Names with commas between them, the first ones if they are many; "nothing" where there is none."""
    every = list(names)
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return ", ".join(every[:limit]) + more or "nothing"


def import_extra(module: str, extra: str) -> Any:
    """A module that an extra of this package brings; `DependencyError` names the extra where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DependencyError(f'this needs {module}: pip install "adaptive-constraints[{extra}]"') from error


def _hint_of_kind(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(8)
    if start == b"\x89HDF\r\n\x1a\n":
        return f"; it is an HDF5 file: d4rl:{path}"
    return f"; it is an npz file: npz:{path}" if start[:4] == b"PK\x03\x04" else ""


def _text(name: str) -> str:
    """A name that can be printed and written again."""
    name.encode()
    return name


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
