"""The same cells on a Ray cluster, one that is there or one of this machine's own (extra ``ray``).

Ray's usage statistics are switched off and no dashboard is started. A cell runs in a Ray worker of its own and is
handed over as its run folder, so the results folder must be one that every machine of the cluster sees.
"""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path
from types import ModuleType
from typing import Any

from adaptive_constraints.errors import DependencyError, TrainingError
from adaptive_constraints.experiments.cell import Cell, run_cell
from adaptive_constraints.experiments.runner import RETRIES, import_path


class RayWorkers:
    """Cells as Ray tasks; Ray decides where and how many at a time. A task whose worker is lost begins again."""

    def __init__(
        self, address: str | None = None, *, threads: int = 1, gpus: float = 0.0, device: str | None = None
    ) -> None:
        """Connect to the cluster at ``address`` ("auto": the one of this machine), or start a local one if it is None.

        threads: CPUs that each cell takes, and uses as torch's threads.
        gpus: GPUs that each cell takes; a fraction lets cells share one.
        """
        self._ray = _connected(address)
        self._device, self._threads = device, threads
        resources = {"num_cpus": threads, "num_gpus": gpus, "max_calls": 1, "max_retries": RETRIES}
        self._task = self._ray.remote(**resources)(run_cell)
        self._running: dict[Any, Cell] = {}
        self._check_room(threads, gpus)

    @property
    def room(self) -> bool:
        """Always: Ray keeps what it has no room for."""
        return True

    @property
    def busy(self) -> bool:
        """Tell whether anything runs or waits for Ray."""
        return bool(self._running)

    def start(self, cell: Cell, folder: Path) -> None:
        """Hand a cell to Ray."""
        self._running[self._task.remote(str(folder.resolve()), self._device, self._threads)] = cell

    def ended(self, seconds: float) -> list[tuple[Cell, str]]:
        """Cells that ended, each with how its worker was lost for good ("" if it was not)."""
        done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=seconds)
        return [(self._running.pop(reference), self._end_of(reference)) for reference in done]

    def close(self) -> None:
        """End everything that runs, and leave the cluster (which ends if it is our own)."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running.clear()
        self._ray.shutdown()

    def _end_of(self, reference: Any) -> str:
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return f"Ray lost its worker {RETRIES + 1} times, or could not run it: {error}".strip()
        return ""

    def _check_room(self, threads: int, gpus: float) -> None:
        there = self._ray.cluster_resources()
        for name, wanted in (("CPU", threads), ("GPU", gpus)):
            if wanted > there.get(name, 0):
                self.close()
                raise TrainingError(f"each cell is to take {wanted:g} {name}s, but Ray has {there.get(name, 0):g}")


def _connected(address: str | None) -> ModuleType:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
    except ImportError as error:
        text = "--ray needs ray, which is not installed: pip install 'adaptive-constraints[ray]'"
        raise DependencyError(text) from error
    try:
        if address is not None:
            _knock(address)
        ray.init(
            address or "local",
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env=None if address else {"env_vars": {"PYTHONPATH": import_path()}},
        )
    except (OSError, ValueError, RuntimeError) as error:
        text = f"there is no Ray cluster at {address} ({error}): start one, or leave the address out for a local one"
        raise TrainingError(text) from error
    return ray


def _knock(address: str) -> None:
    """Raise `OSError` at once where nobody listens; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


__all__ = ["RayWorkers"]
