"""Compiling ahead of a measurement: contestants are held to as many cores as they are timed on, compilers are not."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence

from .contestant import Contestant
from .measure import Plan


def compile_ahead(contestants: Sequence[Contestant], plan: Plan) -> None:
    """Put every step that contestants need compiled into the cache of compiled steps."""
    needed = [contestant for contestant in contestants if contestant.compiled]
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(2, os.cpu_count() or 1), maxtasksperchild=1) as pool:
        jobs = [(contestant, plan.device, plan.threads) for contestant in needed]
        for number, (name, seconds) in enumerate(pool.imap_unordered(_compile, jobs), start=1):
            words = f"{number} of {len(jobs)}: {name}, {plan.threads} thread(s): {seconds:.1f} s"
            print(f"compiling: {words}", file=sys.stderr, flush=True)


def _compile(job: tuple[Contestant, str, int]) -> tuple[str, float]:
    """In a process of its own: the contestant's name, and the seconds from its engine to its compiled steps."""
    import torch

    from .ours import compiled

    contestant, device, threads = job
    torch.set_num_threads(threads)
    return contestant.name, compiled(contestant, device)
