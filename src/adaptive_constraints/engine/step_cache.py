"""Compiled steps on disk: made once by a process of their own, found again by all that their code depends on.

A library is native code, so none is loaded that this user did not write, or whose bytes are not those written.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from adaptive_constraints.engine import lowering
from adaptive_constraints.engine.lowering import LIBRARY, OPTIONS, RECORDED, Layout
from adaptive_constraints.errors import DependencyError, FileError
from adaptive_constraints.support.files import cache_folder, locked
from adaptive_constraints.support.stopping import asked, stop

DIGEST = ".sha256"
"""Ending of the file beside a library that holds the digest of its bytes."""
_POLL = 0.05
"""Seconds between two looks at a compiler at work."""
_STALE = 24 * 3600.0
"""Seconds after which what a killed process was compiling is removed."""


class Library:
    """One compiled step in the cache."""

    _queue: list[Library] = []  # noqa: RUF012  # of this process; as many compile at once as there are cores
    _compiling: list[Library] = []  # noqa: RUF012

    def __init__(self, graph: fx.GraphModule, inputs: Sequence[Tensor]) -> None:
        self._graph, self._layouts = graph, [Layout.of(tensor) for tensor in inputs]
        self._threads = torch.get_num_threads()
        long = lowering.long_axes(graph)
        layouts = [_text(layout, long.get(position)) for position, layout in enumerate(self._layouts)]
        text = json.dumps([graph.code, *layouts, self._threads, *surroundings()])
        self._folder = cache_folder() / "steps"
        self._name = hashlib.sha256(text.encode()).hexdigest()[:32]
        self._lock = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._work = self._folder

    def start(self) -> None:
        """Begin to compile what the cache does not have, as soon as a core is free."""
        if self.kept() is None:
            self._queue.append(self)
            _start_queued()

    def load(self) -> Callable[[list[Tensor]], Any]:
        """The function that runs the step, once it is compiled; it takes the inputs in their order.

        Raises `DependencyError` with the compiler's words where it fails.
        """
        if self in self._queue:
            self._queue.remove(self)
            self._compile(lambda text: _stop_if_asked())
        if self._process is not None:
            self._finish(self._process)
        file = self.kept()
        if file is None:  # another process, which was compiling it, gave up, or it was damaged meanwhile
            self._compile(lambda text: _stop_if_asked())
            if self._process is not None:
                self._finish(self._process)
            file = self.kept()
        if file is None:
            raise DependencyError(
                f"{self._folder} does not keep what was compiled: it must be this user's, and others must not be able "
                "to write to it (chmod 700); or leave compiled at False"
            )
        run: Callable[[list[Tensor]], Any] = torch._C._aoti.AOTIModelContainerRunnerCpu(str(file), 1).run
        return run

    # -- compiling ------------------------------------------------------------------------------------------------

    def _compile(self, wait: Callable[[str], None] | None = None) -> None:
        """Start a compiler, unless another process compiles the same or has done so; ``wait``: as `locked` has it."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock.enter_context(locked(self._folder, wait, name=f"{self._name}.lock"))
        except FileError:  # `load` waits for it
            return
        if self.kept() is not None:
            self._lock.close()
            return
        self._work = Path(tempfile.mkdtemp(prefix=f"{self._name}.", dir=self._folder))
        _sweep(self._folder)
        torch.save((self._graph, [tuple(layout) for layout in self._layouts]), self._work / RECORDED)
        (self._work / OPTIONS).write_text(json.dumps({"threads": self._threads}), encoding="utf-8")
        with (self._work / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, lowering.__file__, str(self._work)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(self._folder / "compiler"), "PYTHONSAFEPATH": "1"},
                start_new_session=True,  # Ctrl-C is for the process that trains, which then ends this one
            )
        self._compiling.append(self)

    def _finish(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the compiler, and put what it made into the cache."""
        try:
            while process.poll() is None:
                _start_queued()
                _stop_if_asked()
                time.sleep(_POLL)
            self._keep(process.returncode)
        except BaseException:
            self._queue.clear()
            for library in list(self._compiling):
                library._end()
            raise
        self._end()

    def _end(self) -> None:
        """End the compiler, if it is at work, and leave nothing of it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._compiling.remove(self)
        shutil.rmtree(self._work, ignore_errors=True)
        self._lock.close()

    def _keep(self, failed: int) -> None:
        made = self._work / LIBRARY
        if failed or not made.is_file():
            log = (self._work / "log").read_text(encoding="utf-8", errors="replace").strip()
            raise DependencyError(
                f"a step could not be compiled; leave compiled at False. The compiler said: {log[-800:]}"
            )
        digest = self._work / DIGEST
        digest.write_text(hashlib.sha256(made.read_bytes()).hexdigest(), encoding="ascii")
        for file in (made, digest):
            file.chmod(0o700)  # whatever this user's umask lets others do: `kept` refuses what they may write
        os.replace(made, self._folder / f"{self._name}.so")
        os.replace(digest, self._folder / f"{self._name}{DIGEST}")

    @property
    def running(self) -> bool:
        """The compiler is at work."""
        return self._process is not None and self._process.poll() is None

    # -- reading --------------------------------------------------------------------------------------------------

    def kept(self) -> Path | None:
        """The library in the cache, if this user wrote it and nobody changed it since."""
        file, digest = self._folder / f"{self._name}.so", self._folder / f"{self._name}{DIGEST}"
        try:
            ours = all(_is_ours(path) for path in (self._folder, file, digest))
            whole = ours and hashlib.sha256(file.read_bytes()).hexdigest() == digest.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            return None
        return file if whole else None


def _text(layout: Layout, long_axis: int | None) -> str:
    """A layout in words; of a table of data without its length, which its program does not depend on."""
    if long_axis is None:
        return str(layout)
    shape = list(layout.shape)
    shape[long_axis] = -1
    contiguous = torch.empty(layout.shape, device="meta").stride() == layout.strides
    return f"{shape} {'' if contiguous else layout.strides} {layout.dtype}"


def _start_queued() -> None:
    """Start as many of those that wait as there are cores free."""
    while Library._queue and sum(library.running for library in Library._compiling) < (os.cpu_count() or 1):
        Library._queue.pop(0)._compile()


def _stop_if_asked() -> None:
    if asked():
        stop("stopped while a step was compiled: the same call or command goes on")


def _is_ours(path: Path) -> bool:
    """Whether this user owns it and nobody else may write to it."""
    status = path.stat()
    return not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & 0o022)


def _sweep(folder: Path) -> None:
    """Remove what processes left that were killed while they compiled."""
    for path in folder.glob("*.*/"):
        if time.time() - path.stat().st_mtime > _STALE:
            shutil.rmtree(path, ignore_errors=True)


@cache
def surroundings() -> tuple[str, ...]:
    """What native code depends on beside the step: versions, processor, compiler, and how it is compiled."""
    compiler = os.environ.get("CXX") or "g++"
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        version = ""
    return (
        torch.__version__,
        platform.python_version(),
        platform.machine(),
        torch.backends.cpu.get_cpu_capability(),
        _processor(),
        compiler,
        version,
        Path(lowering.__file__).read_text(encoding="utf-8"),
    )


def _processor() -> str:
    """Model and instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


__all__ = ["Library", "surroundings"]
