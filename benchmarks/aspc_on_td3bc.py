"""ASPC on TD3+BC, one stack on one data set per call: the numbers behind the README's real-data table.

    python benchmarks/aspc_on_td3bc.py minari:regenerated/hopper/medium-v0 aspc --ticks 100000 --seeds 2

Interrupted, the same command goes on from its checkpoint in --runs. The result file under --results holds the command,
commit, versions, device, seeds, data fingerprint, every episode return, and the scale over time.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from adaptive_constraints import ASPC, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.data import load_dataset
from adaptive_constraints.training.records import write_json

STACKS = {
    "plain": lambda: wrap(TD3BC()),
    "robust": lambda: wrap(TD3BC(critic="robust")),
    "aspc": lambda: wrap(TD3BC(critic="robust"), ASPC()),
    "aspc-scaled": lambda: wrap(TD3BC(critic="robust"), ASPC(rate="scaled")),
    "aspc-published": lambda: wrap(TD3BC(critic="robust"), ASPC(rate="published")),
    "aspc-plain-critic": lambda: wrap(TD3BC(), ASPC()),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="data reference, such as minari:regenerated/hopper/medium-v0")
    parser.add_argument("stack", choices=STACKS)
    parser.add_argument("--ticks", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=2, help="how many, trained together")
    parser.add_argument("--eval-every", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/aspc_on_td3bc"), help="folder of run folders")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    name = f"{options.data.split(':')[-1].replace('/', '-')}-{options.stack}-{options.ticks}"
    out = options.runs / name
    agent = STACKS[options.stack]()
    history = agent.fit(
        load_dataset(options.data),
        steps=options.ticks,
        seeds=options.seeds,
        eval_env="auto",
        eval_every=options.eval_every,
        checkpoint_every=min(5_000, options.eval_every),
        out=out,
    )
    config = json.loads((out / "config.json").read_text())
    result = json.loads((out / "result.json").read_text())
    series = {each: [values.tolist() for values in history.series(each)] for each in history.adaptive}
    command = f"python benchmarks/aspc_on_td3bc.py {' '.join(sys.argv[1:])}"
    record = {"command": command, "label": options.stack, **config, **result, "series": series}
    write_json(options.results / f"{name}.json", record)
    print(f"{agent.name}: {result['measure']} last {result['last']}, best {result['best']}")


if __name__ == "__main__":
    main()
