"""Fine-tune one offline agent on Hopper-v5 with each of the four buffers, and compare them.

    python examples/finetune.py                                  # a minute or two; too short to say which is better
    python examples/finetune.py --offline-steps 20000 --steps 50000      # hours

The agent is trained offline once, on the bundled data, and saved; each buffer then starts from that file. "Collecting"
is the mean return of the episodes that it learned from while they happened.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from adaptive_constraints import SSAR, load_agent, load_dataset, wrap
from adaptive_constraints.baselines import TD3BC

DATA = "bundled:hopper"
BUFFERS = ("all", "half", "part", "none")


def main(
    offline_steps: int = 1_000, steps: int = 1_000, seeds: int = 1, episodes: int = 5, buffers: Sequence[str] = BUFFERS
) -> None:
    torch.set_num_threads(1)
    data = load_dataset(DATA)
    agent = wrap(TD3BC(critic="robust"), SSAR())
    agent.fit(data, steps=offline_steps, seeds=seeds, progress=False)
    score = np.mean(agent.evaluate(episodes=episodes).score)
    print(f"{agent.name} offline: score {score:.1f} after {offline_steps:,} steps")
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "offline.npz"
        agent.save(saved)
        for buffer in buffers:
            online = load_agent(saved)
            history = online.finetune(
                "Hopper-v5",
                steps=steps,
                buffer=buffer,
                dataset=data,
                eval_every=max(1, steps // 5),
                eval_episodes=episodes,
                log_every=max(1, steps // 10),
                progress=False,
            )
            last, average = history.summary().last.mean(), history.summary().last_ten.mean()
            returns = history.series("collect/return")[1]
            earned = f"{returns[np.isfinite(returns)].mean():.0f}" if len(returns) else "no episode ended"
            print(f"buffer {buffer:<4}  score {last:5.1f} at the end, {average:5.1f} on average; collecting: {earned}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--offline-steps", type=int, default=1_000, help="offline, one minibatch per seed each")
    parser.add_argument("--steps", type=int, default=1_000, help="environment steps of each seed and buffer")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--episodes", type=int, default=5, help="per seed and evaluation")
    parser.add_argument("--buffers", nargs="+", choices=BUFFERS, default=BUFFERS)
    main(**vars(parser.parse_args()))
