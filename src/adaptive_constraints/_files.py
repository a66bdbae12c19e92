"""Writing files so that nobody ever sees half of one, and the folder of what is kept between runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

CACHE_VARIABLE = "ADAPTIVE_CONSTRAINTS_CACHE"
"""Environment variable that names the folder of `cache_folder`; by default ~/.cache/adaptive-constraints."""


@contextmanager
def replacing(path: str | Path, mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """Open a file that takes the place of ``path`` in one step once it is wholly on disk, and never if writing fails.

    mode: "w" for text (UTF-8, newlines as they are written), "wb" for bytes. Folders that are missing are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    encoding, newline = ("utf-8", "") if mode == "w" else (None, None)
    try:
        with temporary.open(mode, encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def cache_folder() -> Path:
    """Where trained models and collected data are kept; it may be deleted at any time."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "adaptive-constraints"
