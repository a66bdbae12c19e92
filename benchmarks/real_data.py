"""One stack on one data set: the numbers behind the README's real-data tables.

    python benchmarks/real_data.py minari:regenerated/hopper/medium-v0 TD3BC critic=robust + SSAR preset=hopper-medium

Interrupted, the same command goes on from its checkpoint in --runs; --minutes ends it after that long, whatever tick it
stands at. The result file under --results holds the command, commit, versions, device, seeds, data fingerprint, every
episode return, and over time the value, the constraint and the adaptive quantities.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch

from adaptive_constraints import Agent, wrap
from adaptive_constraints.data import load_dataset
from adaptive_constraints.settings import read_adapters, read_learner
from adaptive_constraints.training.history import History
from adaptive_constraints.training.records import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="data reference, such as minari:regenerated/hopper/medium-v0")
    parser.add_argument("stack", nargs="+", help="a learner, then + and adapters; settings as name=value behind each")
    parser.add_argument("--label", help="names the files; by default made of the stack")
    parser.add_argument("--ticks", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=2, help="how many, trained together")
    parser.add_argument("--minutes", type=float, help="stop at the evaluation after this many minutes of this call")
    parser.add_argument("--eval-every", type=int, default=10_000)
    parser.add_argument("--compiled", action="store_true", help="fuse each tick by torch's inductor")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/real_data"), help="folder of run folders")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    learner, adapters = split(options.stack)
    agent = wrap(read_learner(learner), *read_adapters(adapters))
    label = options.label or "-".join(word.replace("=", "_").lower() for word in learner + adapters)
    name = f"{options.data.split(':')[-1].replace('/', '-')}-{label}-{options.ticks}"
    out = options.runs / name
    train(agent, options, out)
    record = {
        "command": f"python benchmarks/real_data.py {shlex.join(sys.argv[1:])}",
        "label": " ".join(options.stack),
        **json.loads((out / "config.json").read_text()),
        **json.loads((out / "result.json").read_text()),
        "series": series(agent.history),
    }
    write_json(options.results / f"{name}.json", record)
    print(f"{agent.name}: {record['measure']} last {record['last']}, best {record['best']}")


def series(history: History, *others: str) -> dict[str, list[Any]]:
    """Ticks [T] and values [T, S] of the constrained group's terms, of what adapts, and of ``others``."""
    terms = {name for row in history.metrics for name in row if name.endswith(("/value", "/constraint"))}
    names = (*sorted(terms), *history.adaptive, *others)
    return {name: [values.tolist() for values in history.series(name)] for name in names}


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """The learner's words and the adapters', which stand behind a plus."""
    at = words.index("+") if "+" in words else len(words)
    return words[:at], [word for word in words[at:] if word != "+"]


def train(agent: Agent, options: argparse.Namespace, out: Path) -> None:
    """Train to the end, or until the time is up."""
    data, started = load_dataset(options.data), time.monotonic()
    stops = range(options.eval_every, options.ticks + 1, options.eval_every) if options.minutes else (options.ticks,)
    for stop in stops:
        agent.fit(
            data,
            steps=options.ticks,
            stop_after=stop,
            seeds=options.seeds,
            compiled=options.compiled,
            eval_env="auto",
            eval_every=options.eval_every,
            checkpoint_every=min(5_000, options.eval_every),
            out=out,
        )
        if options.minutes and time.monotonic() - started > 60 * options.minutes:
            return


if __name__ == "__main__":
    main()
