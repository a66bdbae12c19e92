"""Writing files so that nobody ever sees half of one, folders that one run at a time writes, and the cache folder.

Locks are those of flock(2): the system takes them back when a process ends, however it ends, so that a dead process's
lock is free at once. Where a file system has none, folders are not locked and leftovers are not swept.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import socket
import struct
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

from adaptive_constraints.errors import FileError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CACHE_VARIABLE = "ADAPTIVE_CONSTRAINTS_CACHE"
"""Environment variable that names the folder of `cache_folder`."""
LOCK = ".lock"
"""In a folder that is being written to: names who does."""
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.partial")
"""Names of files that `replacing` has not put in their place yet."""
_WINDOWS = os.name == "nt"
_POLL = 0.2
"""Seconds between two tries for a lock that another process holds."""


class UnlockedWarning(UserWarning):
    """A file system has no locks."""


# -- writing --------------------------------------------------------------------------------------------------------


@contextmanager
def replacing(path: str | Path, mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """Open a file that takes the place of ``path`` in one step once it is wholly on disk, and never if writing fails.

    mode: "w" for text (UTF-8, newlines as they are written), "wb" for bytes, which can be read back meanwhile. Folders
    that are missing are made.

    Raises `FileError` where the file cannot be written.
    """
    path = Path(path)
    check_name(path)
    temporary: Path | None = None
    encoding, newline = ("utf-8", "") if mode == "w" else (None, None)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, descriptor = _temporary(path)
        with os.fdopen(descriptor, f"{mode}+", encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if not _WINDOWS:  # while it is open and so locked: nobody takes it for a leftover
                temporary.replace(path)
        if _WINDOWS:  # which moves no open file
            temporary.replace(path)
    except BaseException as error:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, FileError):
            raise FileError(f"cannot write {path} ({error.strerror or error}): name another place") from error
        raise


def _temporary(path: Path) -> tuple[Path, int]:
    """A new file beside ``path`` under a name that no other call has, open and locked."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            _take(descriptor, wait=True)
        except OSError:  # no locks here, so that nobody sweeps
            return temporary, descriptor
        if _is_at(descriptor, temporary):
            return temporary, descriptor
        os.close(descriptor)  # swept before it was locked


def sweep(folder: Path) -> None:
    """Remove what killed processes had half written to a folder; what somebody still writes stays, and all else."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if not _TEMPORARY.fullmatch(path.name):
            continue
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDWR)
            try:
                _take(descriptor)
                path.unlink()
            finally:
                os.close(descriptor)


def seal(file: IO[bytes]) -> None:
    """Close a zip archive that was just written to ``file`` by a digest of all its bytes, as the archive's comment."""
    file.seek(-2, os.SEEK_END)  # the length of the comment, which ends the archive
    file.write(struct.pack("<H", _DIGEST))
    file.seek(0)
    file.write(_digest(file).encode())


def check_seal(file: IO[bytes]) -> None:
    """Raise `ValueError` unless ``file``, which is then at its beginning, is as `seal` left it, to the last bit."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _DIGEST))
    said = file.read()
    file.seek(0)
    if _digest(file, size - _DIGEST).encode() != said:
        raise ValueError("its bytes are not those that were written")
    file.seek(0)


_DIGEST = 64


def _digest(file: IO[bytes], size: int | None = None) -> str:
    """Digest of the bytes from here to the end, or of so many."""
    digest, left = hashlib.sha256(), size
    while block := file.read(1 << 20 if left is None else max(0, min(left, 1 << 20))):
        digest.update(block)
        left = None if left is None else left - len(block)
    return digest.hexdigest()


# -- locks ----------------------------------------------------------------------------------------------------------


@contextmanager
def locked(folder: Path, wait: Callable[[str], None] | None = None, *, name: str = LOCK) -> Iterator[None]:
    """While this is open, nobody else who asks for the lock works in the folder, which is made if it is missing.

    wait: None refuses at once where another one holds the lock. A function waits for it, and is called with words that
        say for whom, at first and then a few times a second; what it raises ends the waiting.
    name: of the file that is locked; it is there only meanwhile.

    A folder that was made for this is removed if nothing was put into it. Raises `FileError` that names process and
    machine of the one at work.
    """
    made = not folder.exists()
    file = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(file, wait)
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"cannot write to {folder} ({error.strerror or error}): name another folder") from error
    try:
        sweep(folder)
        yield
    finally:
        with suppress(OSError):  # of Windows, where it is open
            file.unlink(missing_ok=True)  # before others can have it
        os.close(descriptor)
        if made:
            with suppress(OSError):
                folder.rmdir()


def _lock(file: Path, wait: Callable[[str], None] | None) -> int:
    """The descriptor of a lock file that is ours."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _take(descriptor)
            if _is_at(descriptor, file):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, json.dumps(_whoami()).encode())
                return descriptor
            os.close(descriptor)  # whoever had it has just removed it
        except BlockingIOError as error:
            text = f"{file.parent} is in use: {_owner(descriptor)} is writing to it"
            os.close(descriptor)
            if wait is None:
                raise FileError(f"{text}; wait until that has ended, or name another folder") from error
            wait(text)
            time.sleep(_POLL)
        except OSError as error:
            warnings.warn(
                f"{file.parent} cannot be locked ({error.strerror or error}): make sure that no other run writes to it",
                UnlockedWarning,
                stacklevel=4,
            )
            return descriptor


def _take(descriptor: int, wait: bool = False) -> None:
    """Lock an open file; `BlockingIOError` where another one has it, another `OSError` where there are no locks."""
    if fcntl is None:
        raise OSError("this system has no flock")
    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def _is_at(descriptor: int, path: Path) -> bool:
    """Tell whether an open file still stands at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _whoami() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}


def _owner(descriptor: int) -> str:
    """Who holds a lock, as far as its file says."""
    try:
        owner = json.loads(os.pread(descriptor, 1000, 0))
        return f"process {owner['pid']} on {owner['host']} (since {owner['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


# -- places ---------------------------------------------------------------------------------------------------------


def check_name(path: Path) -> None:
    """Raise `FileError` for a name that the system has no place for, or does not let this user look at."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise FileError(
            f"cannot use {str(path)[:100]!r} as a name of a file or folder ({why}): name another"
        ) from error


def check_folder(folder: Path) -> None:
    """Raise `FileError` where no file could be written to a folder, which need not be there yet."""
    check_name(folder)
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise FileError(f"cannot write to {folder}: {nearest} is no folder; name another one")
    if not os.access(nearest, os.W_OK):
        raise FileError(f"cannot write to {folder}: {nearest} is read-only; name another folder")


def check_file(path: Path) -> None:
    """Raise `FileError` where a file could not be written."""
    check_name(path)
    if path.is_dir():
        raise FileError(f"cannot write {path}, which is a folder: name a file in it")
    check_folder(path.parent)


def cache_folder() -> Path:
    """Folder of everything that is kept to be made once: models, collected data, compiled steps.

    It may be deleted at any time. ``ADAPTIVE_CONSTRAINTS_CACHE`` names it; otherwise it is ``adaptive-constraints`` in
    ``XDG_CACHE_HOME``, or in ``~/.cache`` where that is unset or, as the XDG specification says, no absolute path.
    """
    # platformdirs would say as much, but training compiles into this folder and must do with torch and numpy alone.
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "adaptive-constraints"
