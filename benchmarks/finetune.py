"""One offline run, fine-tuned in the environment its data came from: the numbers behind the README's online tables.

    python benchmarks/real_data.py bundled:hopper TD3BC critic=robust + SSAR --ticks 100000 --label ssar
    python benchmarks/finetune.py runs/real_data/hopper-ssar-100000 part --steps 50000

Interrupted, the same command goes on from its checkpoint in --runs; --minutes ends it after that long, whatever step it
stands at. The result file under --results holds the command, commit, versions, device, seeds, data fingerprint, every
episode return of both phases, and over time what was earned while collecting, the value, the constraint and the
adaptive quantities.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

import torch
from real_data import series

from adaptive_constraints import Agent, load_agent
from adaptive_constraints.training.records import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("offline", type=Path, help="run folder of the offline training, or a saved agent")
    parser.add_argument("buffer", choices=("all", "half", "part", "none"))
    parser.add_argument("--steps", type=int, default=50_000, help="environment steps of each seed")
    parser.add_argument("--minutes", type=float, help="end this call after about so many minutes")
    parser.add_argument("--eval-every", type=int, default=5_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/finetune"), help="folder of run folders")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    agent = load_agent(options.offline, "cpu")
    name = f"{options.offline.name.removesuffix('.npz')}-online-{options.buffer}-{options.steps}"
    out = options.runs / name
    finetune(agent, options, out)
    record = {
        "command": f"python benchmarks/finetune.py {shlex.join(sys.argv[1:])}",
        "label": f"{agent.name}, fine-tuned, buffer {options.buffer}",
        **json.loads((out / "config.json").read_text()),
        **json.loads((out / "result.json").read_text()),
        "series": series(agent.history, "collect/return"),
    }
    write_json(options.results / f"{name}.json", record)
    print(f"{agent.name}: {record['measure']} last {record['last']}, best {record['best']}")


def finetune(agent: Agent, options: argparse.Namespace, out: Path) -> None:
    """Fine-tune to the end, or until the time is up."""
    started = time.monotonic()
    stops = range(2 * options.eval_every, options.steps, options.eval_every) if options.minutes else ()
    for stop in (*stops, options.steps):
        agent.finetune(
            "auto",
            steps=options.steps,
            buffer=options.buffer,
            dataset=None if options.buffer == "none" else agent.data_name,
            stop_after=stop,
            eval_every=options.eval_every,
            checkpoint_every=min(5_000, options.eval_every),
            out=out,
        )
        if options.minutes and time.monotonic() - started > 60 * options.minutes:
            return


if __name__ == "__main__":
    main()
