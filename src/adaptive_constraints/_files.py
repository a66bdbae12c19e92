"""Writing files so that nobody ever sees half of one, and the folder of what is kept between runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

from adaptive_constraints.errors import FileError

CACHE_VARIABLE = "ADAPTIVE_CONSTRAINTS_CACHE"
"""Environment variable that names the folder of `cache_folder`; by default ~/.cache/adaptive-constraints."""


@contextmanager
def replacing(path: str | Path, mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """Open a file that takes the place of ``path`` in one step once it is wholly on disk, and never if writing fails.

    mode: "w" for text (UTF-8, newlines as they are written), "wb" for bytes. Folders that are missing are made.

    Raises `FileError` where the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    encoding, newline = ("utf-8", "") if mode == "w" else (None, None)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open(mode, encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, FileError):
            raise FileError(f"cannot write {path} ({error.strerror or error}): name another place") from error
        raise


def check_folder(folder: Path) -> None:
    """Raise `FileError` where no file could be written to a folder, which need not be there yet."""
    nearest = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    if not nearest.is_dir():
        raise FileError(f"cannot write to {folder}: {nearest} is no folder; name another one")
    if not os.access(nearest, os.W_OK):
        raise FileError(f"cannot write to {folder}: {nearest} is read-only; name another folder")


def check_file(path: Path) -> None:
    """Raise `FileError` where a file could not be written."""
    if path.is_dir():
        raise FileError(f"cannot write {path}, which is a folder: name a file in it")
    check_folder(path.parent)


def cache_folder() -> Path:
    """Where trained models and collected data are kept; it may be deleted at any time."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "adaptive-constraints"
