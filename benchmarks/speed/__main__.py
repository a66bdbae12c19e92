"""Time a step of TD3+BC side by side: ours, a plain PyTorch loop, d3rlpy and JAX; every learner; every adapter.

    python -m benchmarks.speed                        # the full run: one and two threads on a CPU, some 20 minutes
    python -m benchmarks.speed --quick                # the ratios that matter, under two minutes
    python -m benchmarks.speed --device cuda --out speed-gpu.jsonl --plot speed-gpu.png
    python -m benchmarks.speed --only JAX ours --no-sweeps
    python -m benchmarks.speed --stacks --compile     # compile what the next line times, once
    python -m benchmarks.speed --stacks --plot speed.png   # every learner and adapter over its own floor
    python -m benchmarks.speed --show speed-gpu.jsonl # the tables of an earlier run
    python -m benchmarks.speed --profile              # where a step's time goes, uncompiled and compiled

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

from . import breakdown, inside, record
from .compiling import compile_ahead
from .contestant import Contestant
from .measure import Plan, measure
from .picture import plot
from .report import markdown
from .suites import STACK_SIZES, main_suite, stack_suite, sweep


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.show:
        result = record.read(options.show)
    elif options.profile:
        print(breakdown.report(options.device, options.threads or [1]))
        if options.device == "cpu":
            print(f"\n{inside.report(options.threads or [1])}")
        return
    elif options.compile:
        for plan in _plans(options).values():
            compile_ahead([contestant for group in _groups(options) for contestant in group], plan)
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
    parser.add_argument("--blocks", type=int, help="blocks per contestant; default: 7, 5 with --stacks, 3 with --quick")
    parser.add_argument("--seconds", type=float, help="per block; default: 0.5, or 0.25 with --stacks and --quick")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="contestants whose name has one of these in it")
    parser.add_argument("--quick", action="store_true", help="few contestants, one thread, no sweeps")
    parser.add_argument("--stacks", action="store_true", help="every learner and adapter, each over its own floor")
    parser.add_argument("--sizes", type=int, nargs="+", choices=STACK_SIZES, help="batch and width of --stacks")
    parser.add_argument("--compile", action="store_true", help="compile what is to be timed, on all cores, and stop")
    parser.add_argument("--no-sweeps", action="store_true", help="leave out other batch sizes and widths")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write everything to this file, as JSON Lines")
    parser.add_argument("--plot", type=Path, help="with --stacks: draw them as a PNG")
    parser.add_argument("--show", type=Path, metavar="FILE", help="print the tables of an earlier run and stop")
    parser.add_argument("--profile", action="store_true", help="print where a step's time goes and stop")
    return parser


def _plans(options: argparse.Namespace) -> dict[int, Plan]:
    """How to measure, by number of threads."""
    brief = options.quick or options.stacks
    counts = options.threads or ([1] if options.quick or options.device != "cpu" else [1, 2])
    blocks, seconds = options.blocks or (5 if options.stacks else 3 if brief else 7), options.seconds
    return {threads: Plan(options.device, threads, blocks, seconds or (0.25 if brief else 0.5)) for threads in counts}


def _groups(options: argparse.Namespace) -> list[list[Contestant]]:
    """Contestants who stand side by side, group by group."""
    if options.stacks:
        groups = [stack_suite(options.device, size) for size in options.sizes or STACK_SIZES]
    else:
        groups = [main_suite(options.device, options.quick)]
    return [[contestant for contestant in group if _chosen(contestant, options.only)] for group in groups]


def _run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that was asked for."""
    plans = _plans(options)

    def timed(contestants: Sequence[Contestant], plan: Plan, title: str) -> list[dict[str, Any]]:
        return [timing.to_json() for timing in measure(contestants, plan, title)]

    by_threads = {
        str(threads): [timing for group in _groups(options) for timing in timed(group, plan, f"{threads} thread(s)")]
        for threads, plan in plans.items()
    }
    first, sweeps = next(iter(plans)), {}
    if not (options.quick or options.no_sweeps or options.stacks):
        for what in ("batch", "width"):
            everybody = [contestant for contestants in sweep(what).values() for contestant in contestants]
            chosen = [contestant for contestant in everybody if _chosen(contestant, options.only)]
            sweeps[what] = timed(chosen, plans[first], what)
    return {
        "command": " ".join(["python -m benchmarks.speed", *sys.argv[1:]]),
        "suite": "stacks" if options.stacks else "main",
        "commit": commit(),
        "versions": versions() | _others("jax", "jaxlib", "d3rlpy"),
        "device": device_name(options.device),
        "device_type": options.device,
        "blocks": plans[first].blocks,
        "sweep_threads": str(first),
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
