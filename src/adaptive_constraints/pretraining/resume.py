"""Training of a model before step 1: its bar, and its state on disk, so that an interrupted one goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from adaptive_constraints.core.preparation import ModelFit, Pretraining
from adaptive_constraints.engine.saved import check_like
from adaptive_constraints.engine.state import prefixed, under
from adaptive_constraints.errors import CheckpointError
from adaptive_constraints.support import checkpoint
from adaptive_constraints.support.cpu import Products, fastest_products
from adaptive_constraints.support.progress import Progress
from adaptive_constraints.support.stopping import asked, stop

PORTION = 50
"""Minibatches between two looks at the clock, and for a stop that was asked for."""
SAVE_EVERY = 60.0
"""Seconds between two writes; most models are trained in less and never written half-trained."""


class KeptPretraining(Pretraining):
    """One model on its way: runs its `ModelFit`, shows how far it is, and keeps its state in ``file`` meanwhile."""

    def __init__(self, file: Path, device: torch.device, name: str, steps: int) -> None:
        """``steps``: the largest number of minibatches that it may take; both are for what is said."""
        self._file, self._name, self._most = file, name, steps
        self._portions = 0
        self._saved = _read(file)
        self.done: int = self._saved[0]["done"] if self._saved else 0
        """Minibatches that an interrupted training had kept."""
        self.products: Products = self._saved[0]["products"] if self._saved else fastest_products(device)
        """Whose float32 products this training takes, from its first minibatch to its last; see `support.cpu`."""
        self.progress: Progress | None = None
        self._last_write = time.monotonic()

    def resume(self, fit: ModelFit, beside: Mapping[str, Tensor] | None = None) -> int:
        """Give ``fit``, fresh from `Preparation.model`, and the tensors ``beside`` it the state that was kept, if any.

        Returns the number of minibatches done. `run` calls this itself; call it first where a loop around `run` has to
        know where it goes on.
        """
        if self._saved and fit.step == 0:
            try:
                self._load(self._saved[1], fit, beside or {})
            except ValueError:  # of another model, so that it begins anew
                self.done = 0
            self._saved = None
        return fit.step

    def _load(self, tensors: Mapping[str, Tensor], fit: ModelFit, beside: Mapping[str, Tensor]) -> None:
        saved = under("beside", tensors)
        check_like(beside, saved)
        if self.done > fit.steps:
            raise ValueError("more minibatches are done than there are")
        fit.load(under("fit", tensors), self.done)
        for name, tensor in beside.items():
            tensor.copy_(saved[name])

    def run(self, fit: ModelFit, until: int, beside: Mapping[str, Tensor] | None = None) -> None:
        """Run ``fit`` until it has seen this many minibatches in all.

        beside: tensors of the caller that the training's course depends on, such as the best parameters so far; they
        are kept with the state of ``fit`` and must not change during this call.
        """
        self.resume(fit, beside)
        fit.get_ready(self._say)
        while fit.step < until:
            if asked() and fit.step:
                self.save(fit, beside or {})
                stop(
                    f"stopped while a model was trained: {self._file} keeps it, and the same call or command goes on "
                    "from there"
                )
            started, before = time.monotonic(), fit.step
            losses = fit.run(min(PORTION, until - fit.step))
            self._estimate((time.monotonic() - started) / (fit.step - before), fit.step)
            self._show(fit.step, losses)
            # Not at the end of a call: the caller's tensors are about to change with it.
            if fit.step < until and time.monotonic() - self._last_write > SAVE_EVERY:
                self.save(fit, beside or {})

    def _say(self, text: str) -> None:
        if self.progress is not None:
            self.progress.say(f"{self._name}: {text}")

    def _estimate(self, seconds: float, step: int) -> None:
        """Say once how long it will take, from the second portion on: the first one traces too."""
        self._portions += 1
        if self.progress is not None and self._portions == 2 and step < self._most:
            left = self._most - step
            self.progress.say(f"{self._name}: at most {left:,} minibatches to go, about {duration(left * seconds)}")

    def finish(self) -> None:
        """Remove the half-trained state, once what came of it is kept elsewhere."""
        self._file.unlink(missing_ok=True)

    def _show(self, step: int, metrics: Mapping[str, list[float]]) -> None:
        if self.progress is None:
            return
        losses = [sum(values) / len(values) for name, values in metrics.items() if name.endswith("/loss")]
        self.progress.note("loss " + ", ".join(f"{loss:.4g}" for loss in losses))
        self.progress.update(step)

    def save(self, fit: ModelFit, beside: Mapping[str, Tensor]) -> None:
        tensors = prefixed("fit", fit.state()) | prefixed("beside", beside)
        checkpoint.write(self._file, {"done": fit.step, "products": self.products}, tensors)
        self._last_write = time.monotonic()


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them, such as "3 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Header and arrays of a half-trained model; None where there is none, or a damaged one, which begins anew."""
    try:
        header, tensors = checkpoint.read(file)
    except CheckpointError:
        return None
    fine = type(header.get("done")) is int and header["done"] > 0 and header.get("products") in get_args(Products)
    return (header, tensors) if fine else None
