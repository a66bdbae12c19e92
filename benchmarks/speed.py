"""Ticks per second: a plain eager TD3+BC loop, ours, and ours with ASPC, measured side by side in one run.

    python benchmarks/speed.py                          # one and two threads, one and four seeds
    python benchmarks/speed.py --threads 1 --blocks 9 --json benchmarks/results/speed-cpu.json

The plain loop is what common single-file implementations do: separate modules, torch.optim.Adam, loss.backward(). It
runs in a process of its own, so that it gains nothing from our process settings, and so does ours. Blocks of all
contestants take turns, and every ratio is the median over blocks of ratios within one turn, so that a machine whose
speed drifts does not favour anybody. Shapes: 17-dimensional states, 6-dimensional actions, batch 256, width 256.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptive_constraints import ASPC, Spec, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.training.cpu import tuned
from adaptive_constraints.training.engine import Engine
from adaptive_constraints.training.initial import InitialState, initial_state
from adaptive_constraints.training.records import commit, device_name, versions, write_json

STATE, ACTION, BATCH, WIDTH, ROWS = 17, 6, 256, 256, 100_000
WARM_UP = 45
"""Ticks before the first block: two meta ticks, and every stage traced."""
Tick = Callable[[int], None]


def table() -> dict[str, Tensor]:
    """Random transitions; what is in them does not matter to speed."""
    draw = torch.Generator().manual_seed(0)
    return {
        "observation": torch.randn(ROWS, STATE, generator=draw),
        "action": torch.rand(ROWS, ACTION, generator=draw) * 2 - 1,
        "reward": torch.randn(ROWS, generator=draw),
        "next_observation": torch.randn(ROWS, STATE, generator=draw),
        "terminal": torch.zeros(ROWS),
    }


# -- contestants ------------------------------------------------------------------------------------------------------


def plain(robust: bool) -> Tick:
    """TD3+BC as a single-file implementation writes it: one network at a time, one seed."""

    def critic() -> nn.Sequential:
        sizes = [STATE + ACTION] + [WIDTH] * (3 if robust else 2)
        hidden = [
            layer
            for inputs, outputs in itertools.pairwise(sizes)
            for layer in (nn.Linear(inputs, outputs), nn.ReLU(), *([nn.LayerNorm(outputs)] if robust else []))
        ]
        return nn.Sequential(*hidden, nn.Linear(WIDTH, 1))

    actor = nn.Sequential(
        nn.Linear(STATE, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, ACTION), nn.Tanh()
    )
    nets = [critic(), critic(), actor]
    critic1, critic2, _ = nets
    target1, target2, target_actor = targets = [copy.deepcopy(net) for net in nets]
    optimizer1, optimizer2, optimizer_actor = [torch.optim.Adam(net.parameters(), lr=3e-4) for net in nets]
    data = table()
    data |= {name: data[name][:, None] for name in ("reward", "terminal")}

    def tick(number: int) -> None:
        rows = torch.randint(0, ROWS, (BATCH,))
        s, a, r, s2, d = (column[rows] for column in data.values())
        with torch.no_grad():
            noise = (torch.randn_like(a) * 0.2).clamp(-0.5, 0.5)
            inputs2 = torch.cat([s2, (target_actor(s2) + noise).clamp(-1, 1)], 1)
            y = r + (1 - d) * 0.99 * torch.min(target1(inputs2), target2(inputs2))
        inputs = torch.cat([s, a], 1)
        loss = functional.mse_loss(critic1(inputs), y) + functional.mse_loss(critic2(inputs), y)
        optimizer1.zero_grad()
        optimizer2.zero_grad()
        loss.backward()
        optimizer1.step()
        optimizer2.step()
        if number % 2 == 0:
            action = actor(s)
            q = critic1(torch.cat([s, action], 1))
            loss = -2.5 / q.abs().mean().detach() * q.mean() + functional.mse_loss(action, a)
            optimizer_actor.zero_grad()
            loss.backward()
            optimizer_actor.step()
            for net, target in zip(nets, targets, strict=True):
                for source, average in zip(net.parameters(), target.parameters(), strict=True):
                    average.data.copy_(0.005 * source.data + 0.995 * average.data)

    return tick


def ours(robust: bool, seeds: int, aspc: bool, traced: bool = True) -> Tick:
    """The same through the toolkit's engine."""
    learner = TD3BC(critic="robust" if robust else "plain", hidden=WIDTH, batch_size=BATCH)
    resolved = wrap(learner, *([ASPC()] if aspc else []))._stack.resolve()
    initial: InitialState = initial_state(resolved, Spec(STATE, ACTION), range(seeds))
    engine = Engine(resolved, initial, table(), horizon=1_000_000, traced=traced)
    return lambda number: engine.run(1)


CONTESTANTS: dict[str, tuple[int, Callable[[], Tick]]] = {
    "plain loop": (1, lambda: plain(robust=False)),
    "ours, 1 seed": (1, lambda: ours(robust=False, seeds=1, aspc=False)),
    "ours untraced, 1 seed": (1, lambda: ours(robust=False, seeds=1, aspc=False, traced=False)),
    "ours, 4 seeds": (4, lambda: ours(robust=False, seeds=4, aspc=False)),
    "ours + ASPC, 1 seed": (1, lambda: ours(robust=False, seeds=1, aspc=True)),
    "plain loop, robust critic": (1, lambda: plain(robust=True)),
    "ours, robust critic, 1 seed": (1, lambda: ours(robust=True, seeds=1, aspc=False)),
    "ours + ASPC, robust critic, 1 seed": (1, lambda: ours(robust=True, seeds=1, aspc=True)),
}
RATIOS = (
    ("ours, 1 seed", "plain loop", "at least 1.0"),
    ("ours, 4 seeds", "plain loop", "at least 1.1"),
    ("ours untraced, 1 seed", "plain loop", "-"),
    ("ours, robust critic, 1 seed", "plain loop, robust critic", "at least 1.0"),
    ("ours + ASPC, 1 seed", "ours, 1 seed", "at least 0.92"),
    ("ours + ASPC, robust critic, 1 seed", "ours, robust critic, 1 seed", "at least 0.92"),
)


# -- measuring --------------------------------------------------------------------------------------------------------


def serve(name: str, threads: int, pipe: Connection) -> None:
    """A contestant in a process of its own: times a block of ticks whenever it is asked to."""
    torch.set_num_threads(threads)
    tick, number = CONTESTANTS[name][1](), 0
    with tuned(torch.device("cpu" if name.startswith("ours") else "meta")):
        while (ticks := pipe.recv()) is not None:
            started = time.perf_counter()
            for _ in range(ticks):
                number += 1
                tick(number)
            pipe.send(time.perf_counter() - started)


def measure(threads: int, ticks: int, blocks: int) -> dict[str, list[float]]:
    """Seed-ticks per second of each contestant, block by block in turn."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name in CONTESTANTS:
        pipes[name], theirs = context.Pipe()
        process = context.Process(target=serve, args=(name, threads, theirs), daemon=True)
        process.start()
        processes.append(process)
    rates: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for block in range(-1, blocks):
        for name, (seeds, _) in CONTESTANTS.items():
            wanted = WARM_UP if block < 0 else max(20, ticks // seeds)
            pipes[name].send(wanted)
            seconds = pipes[name].recv()
            if block >= 0:
                rates[name].append(seeds * wanted / seconds)
        print(f"{threads} thread(s): block {block + 1} of {blocks}", file=sys.stderr, flush=True)
    for pipe in pipes.values():
        pipe.send(None)
    for process in processes:
        process.join()
    return rates


def report(threads: int, rates: dict[str, list[float]]) -> dict[str, object]:
    """Print ratios first, then rates; return both."""
    print(f"\n{threads} thread(s): ratios of seed-ticks per second, median over blocks [lowest, highest]")
    ratios = {}
    for name, base, wanted in RATIOS:
        pairs = sorted(mine / theirs for mine, theirs in zip(rates[name], rates[base], strict=True))
        ratios[f"{name} / {base}"] = statistics.median(pairs)
        line = f"{statistics.median(pairs):6.2f}  [{pairs[0]:.2f}, {pairs[-1]:.2f}]"
        print(f"  {name:<36}/ {base:<29}{line}   wanted {wanted}")
    print(f"{threads} thread(s): seed-ticks per second, median over blocks")
    for name, values in rates.items():
        print(f"  {name:<36}{statistics.median(values):8.1f}")
    return {"ratios": ratios, "seed_ticks_per_second": rates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--ticks", type=int, default=120, help="ticks per block and seed")
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args()
    found = {
        str(threads): report(threads, measure(threads, options.ticks, options.blocks)) for threads in options.threads
    }
    if options.json:
        about = {
            "command": f"python benchmarks/speed.py {' '.join(sys.argv[1:])}".strip(),
            "commit": commit(),
            "versions": versions(),
            "device": device_name("cpu"),
            "shapes": {"state": STATE, "action": ACTION, "batch": BATCH, "width": WIDTH},
        }
        write_json(options.json, about | {"by_threads": found})


if __name__ == "__main__":
    main()
