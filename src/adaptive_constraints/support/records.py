"""Records in a run folder: settings, metrics over steps, and what the run was made with. Standard library only.

Files are readable by anything: JSON (not-a-number and infinities become null), one JSON object per line for metrics,
and the same metrics as CSV once the run closes.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from adaptive_constraints._version import __version__
from adaptive_constraints.errors import AdaptiveConstraintsError, DependencyError, TrainingError
from adaptive_constraints.support.files import replacing
from adaptive_constraints.support.typed import check, damage, parse_json, read_text

if TYPE_CHECKING:
    import torch
    from torch.utils.tensorboard import SummaryWriter

Row: TypeAlias = dict[str, Any]
_Value: TypeAlias = float | str | list[float | str | None] | None

_ALWAYS = ("torch", "numpy")
_IF_INSTALLED = ("gymnasium", "mujoco", "minari")


def write_json(path: str | Path, obj: object) -> None:
    """Write ``obj`` as indented JSON so that a reader finds either the old file or the whole new one.

    Arrays, tensors and tuples become lists, paths become strings, NaN and infinities become null.
    """
    with replacing(path) as file:
        json.dump(plain(obj), file, indent=2, allow_nan=False)
        file.write("\n")


DIGEST = "digest"
"""In what `with_digest` made: the key of the digest of everything else."""


def with_digest(tree: Mapping[str, Any], place: tuple[int, ...] = ()) -> dict[str, Any]:
    """A plain tree and, last in it, a digest by which `without_digest` knows that nothing in it was changed.

    place: where it stands among others, of which the digest is too.
    """
    return {**tree, DIGEST: _digest(tree, place)}


def without_digest(tree: Any, place: tuple[int, ...] = ()) -> dict[str, Any]:
    """The tree that `with_digest` was given; `ValueError` where it is not that any more, or never was."""
    if not isinstance(tree, dict) or DIGEST not in tree:
        raise ValueError(f"it has no {DIGEST}")
    rest = {name: value for name, value in tree.items() if name != DIGEST}
    if tree[DIGEST] != _digest(rest, place):
        raise ValueError(f"its {DIGEST} is of another content: it was changed after it was written")
    return rest


def _digest(tree: Mapping[str, Any], place: tuple[int, ...]) -> str:
    """16 hexadecimal digits; the order of keys does not count."""
    text = json.dumps([tree, *place], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_record(path: str | Path, tree: Mapping[str, Any]) -> None:
    """`write_json` with a digest, for what this package reads again."""
    write_json(path, with_digest(plain(tree)))


def read_record(path: Path, kind: Any, error: type[AdaptiveConstraintsError], what: str, remedy: str) -> Any:
    """Read what `write_record` wrote, which is of the type ``kind``; ``error`` names the file, and says ``what`` it is.

    Raises `FileNotFoundError` where there is none.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    with damage(error, f"{path} {what}", remedy):
        tree = without_digest(parse_json(read_text(path)))
        check(tree, kind)
        return tree


class MetricsLog:
    """Metrics over steps: rows appended to ``metrics.jsonl`` as they come, and ``metrics.csv`` written on close.

    Each row is in the file before ``append`` returns, so a crash costs at most a torn last line. A value is a number,
    a string, or a flat list with one entry per seed; in the CSV and in TensorBoard such a list ``name`` is spread over
    the columns ``name/0``, ``name/1``, ...

    folder: made if missing.
    before: rows that the file begins with, those of the run so far; whatever else it held is gone.
    resumed_step: the step up to which TensorBoard's events of an earlier part count; None: there was none.
    tensorboard: also write TensorBoard events to the folder (extra ``logging``).
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        before: Iterable[Row] = (),
        resumed_step: int | None = None,
        tensorboard: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / "metrics.jsonl"
        self._rows: list[Row] = [plain(row) for row in before]
        self._writer = _tensorboard_writer(self.folder, resumed_step) if tensorboard else None
        with replacing(self.path) as file:
            file.writelines(map(_line, self._rows))

    def append(self, step: int, values: Mapping[str, Any]) -> None:
        """Record ``values`` by name at ``step``."""
        row = plain({"step": step, **values})
        self._rows.append(row)
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(_line(row))
        if self._writer is not None:
            for name, value in _columns(row).items():
                if name != "step" and isinstance(value, (int, float)):
                    self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write ``metrics.csv`` anew from all rows, and the last TensorBoard events."""
        if self._writer is not None:
            self._writer.close()
        rows = [_columns(row) for row in self._rows]
        with replacing(self.folder / "metrics.csv") as file:
            names = list(dict.fromkeys(["step", *(name for row in rows for name in row)]))
            writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def read_metrics(path: str | Path) -> list[Row]:
    """The rows of a ``metrics.jsonl``, oldest first; a torn last line is left out, a missing file has no rows."""
    return list(metrics_backwards(path))[::-1]


def metrics_backwards(path: str | Path) -> Iterator[Row]:
    """The same rows, newest first, each read when it is asked for: the end of a long file costs little."""
    path = Path(path)
    whole = path.read_bytes().split(b"\n")[:-1] if path.exists() else []  # what follows the last newline is torn
    for number in range(len(whole), 0, -1):
        yield _parsed(path, number, whole[number - 1])


def versions() -> dict[str, str]:
    """Versions of Python, this package, torch and numpy, and of the environment packages that are installed."""
    installed = {"python": platform.python_version(), "adaptive_constraints": __version__}
    for package in (*_ALWAYS, *_IF_INSTALLED):
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            if package in _ALWAYS:
                installed[package] = "unknown"
    return installed


def commit(folder: str | Path | None = None) -> dict[str, str | bool] | None:
    """``{"hash": ..., "dirty": ...}`` of the git work tree that tracks ``folder``; None without one, or without git.

    folder: this package's own source by default; installed inside someone's work tree, it is not tracked by it.
    dirty: tracked files differ from the commit, or Python files stand there that it does not have.
    """
    folder = Path(__file__).resolve().parent if folder is None else Path(folder)
    if _git(folder, "ls-files", "--error-unmatch", ".") is None:
        return None
    head, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "--untracked-files=all")
    if head is None or changes is None:
        return None
    lines = [line for line in changes.splitlines() if not line.startswith("??") or line.endswith(".py")]
    return {"hash": head, "dirty": bool(lines)}


def device_name(device: str | torch.device) -> str:
    """The device in words, such as "cuda:0 (NVIDIA H200)" or "cpu (Intel Xeon ...)"."""
    import torch

    device = torch.device(device)
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({_processor()})" if device.type == "cpu" else str(device)


def plain(value: Any) -> Any:
    """``value`` in JSON's own types: arrays, tensors and tuples as lists, paths as text, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if hasattr(value, "tolist"):  # numpy and torch, arrays and scalars
        return plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _line(row: Row) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


def _parsed(path: Path, number: int, line: bytes) -> Row:
    """The row on one line of a metrics file."""
    what = f"{path}, line {number} is not a row of metrics"
    with damage(TrainingError, what, "remove that line, or go on with the run, which writes the file anew"):
        row: Row = parse_json(line.decode("utf-8"))
        check(row, dict[str, _Value])
        if type(row.get("step")) is not int or row["step"] < 0:
            raise ValueError("it has no step")
    return row


def _columns(row: Row) -> Row:
    """The row with every list spread over one column per entry."""
    flat: Row = {}
    for name, value in row.items():
        entries = {f"{name}/{i}": entry for i, entry in enumerate(value)} if isinstance(value, list) else {name: value}
        flat.update(entries)
    return flat


def _tensorboard_writer(folder: Path, resumed_step: int | None) -> SummaryWriter:
    """A writer of TensorBoard events that hides what an earlier run logged after the resumed step, if any."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise DependencyError(
            "TensorBoard logging was asked for, but tensorboard is not installed: "
            "pip install 'adaptive-constraints[logging]'."
        ) from error
    return SummaryWriter(str(folder), purge_step=0 if resumed_step is None else resumed_step + 1)


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of git in ``folder``, or None if it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, env=environment, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    """The processor's model, or its architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
