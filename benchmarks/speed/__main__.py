"""Time a step of TD3+BC side by side: ours, a plain PyTorch loop, d3rlpy and JAX; every learner; every adapter.

    python -m benchmarks.speed                        # the full run: one and two threads on a CPU, some 20 minutes
    python -m benchmarks.speed --quick                # the ratios that matter, under two minutes
    python -m benchmarks.speed --device cuda --out speed-gpu.jsonl --plot speed-gpu.png
    python -m benchmarks.speed --only JAX ours --no-sweeps
    python -m benchmarks.speed --show speed-gpu.jsonl # the tables of an earlier run
    python -m benchmarks.speed --profile              # where a step's time goes

Ratios are printed first, against their targets; docs/speed.md says how to read them. What is not installed (JAX,
d3rlpy) is skipped by name.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adaptive_constraints.support.records import commit, device_name, versions

from . import breakdown, record
from .contestant import Contestant
from .measure import Plan, measure
from .report import markdown, plot
from .suites import main_suite, sweep


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.show:
        result = record.read(options.show)
    elif options.profile:
        print(breakdown.report(options.device, options.threads or [1]))
        return
    else:
        result = _run(options)
        if options.out:
            record.write(options.out, result)
    print(markdown(result))
    if options.plot:
        plot(result, options.plot)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, nargs="+", help="CPU cores of each contestant; default: 1 and 2")
    parser.add_argument("--blocks", type=int, help="blocks per contestant; default: 7, or 3 with --quick")
    parser.add_argument("--seconds", type=float, help="per block; default: 0.5, or 0.25 with --quick")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="contestants whose name has one of these in it")
    parser.add_argument("--quick", action="store_true", help="few contestants, one thread, no sweeps")
    parser.add_argument("--no-sweeps", action="store_true", help="leave out other batch sizes and widths")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write everything to this file, as JSON Lines")
    parser.add_argument("--plot", type=Path, help="draw the sweeps as a PNG")
    parser.add_argument("--show", type=Path, metavar="FILE", help="print the tables of an earlier run and stop")
    parser.add_argument("--profile", action="store_true", help="print where a step's time goes and stop")
    return parser


def _run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that was asked for."""
    counts = options.threads or ([1] if options.quick or options.device != "cpu" else [1, 2])
    blocks, seconds = options.blocks or (3 if options.quick else 7), options.seconds or (0.25 if options.quick else 0.5)
    plans = {threads: Plan(options.device, threads, blocks, seconds) for threads in counts}

    def timed(contestants: Sequence[Contestant], plan: Plan, title: str) -> list[dict[str, Any]]:
        chosen = [contestant for contestant in contestants if _chosen(contestant, options.only)]
        return [timing.to_json() for timing in measure(chosen, plan, title)]

    suite = main_suite(options.device, options.quick)
    by_threads = {str(threads): timed(suite, plan, f"{threads} thread(s)") for threads, plan in plans.items()}
    sweeps = {}
    if not (options.quick or options.no_sweeps):
        for what in ("batch", "width"):
            everybody = [contestant for contestants in sweep(what).values() for contestant in contestants]
            sweeps[what] = timed(everybody, plans[counts[0]], what)
    return {
        "command": " ".join(["python -m benchmarks.speed", *sys.argv[1:]]),
        "commit": commit(),
        "versions": versions() | _others("jax", "jaxlib", "d3rlpy"),
        "device": device_name(options.device),
        "device_type": options.device,
        "blocks": blocks,
        "sweep_threads": str(counts[0]),
        "by_threads": by_threads,
        "sweeps": sweeps,
    }


def _chosen(contestant: Contestant, only: Sequence[str] | None) -> bool:
    return only is None or any(text.lower() in contestant.name.lower() for text in only)


def _others(*packages: str) -> dict[str, str]:
    installed = {}
    for package in packages:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


if __name__ == "__main__":
    main()
