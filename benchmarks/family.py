"""One training for every trade-off, the value chosen afterwards; beside it, the ladder of fixed values chosen alike.

    python -m benchmarks.family                                     # 16 data sets, about two minutes of one core each
    python -m benchmarks.family --show benchmarks/results/family.jsonl

TD3+BC is conditioned on its trade-off, as LION (arXiv 2205.10629) and FamO2O (arXiv 2310.17966) do: each episode of
eight copies of the data gets a trade-off of its own, whose logarithm is one more number of the observation, for policy
and critics. Here that is a transformation of the data and six lines of learner. Acting, the number is appended to what
the environment gives. A value is chosen by a bandit that sees a few rollouts (`choosing.select`). Settings were chosen
on draw 100; the claim was written before draws 0 and 1 were run.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from adaptive_constraints import Agent, Dataset, Params, Terms, View, load_dataset, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.choosing import select
from adaptive_constraints.data.references import reference_score
from adaptive_constraints.experiments.rows import read_rows
from adaptive_constraints.support.records import commit, device_name, versions
from benchmarks.ope import read, write

OUT = Path(__file__).parent / "results" / "family.jsonl"
LADDER = Path(__file__).parent / "results" / "evidence"
RECIPES, DRAWS = ("random", "mixed-5", "mixed", "mixed-30", "slips", "med-exp", "weak", "expert"), (0, 1)
TRADE_OFFS = (0.25, 0.8, 2.5, 8.0, 25.0, 80.0, 250.0)
"""At which policies act: those of the fixed values in the suite evidence."""
SEEDS, STEPS, EPISODES = 8, 9_000, 24
ROLLOUTS = (7, 20, 50)
"""Rollouts in all by which a bandit chooses among the seven."""
MIDDLE, SPREAD = math.log(0.25 * 250.0) / 2, math.log(250.0 / 0.25) / 2 / math.sqrt(3)
"""Mean and deviation of the logarithm that is drawn: normalising observations then leaves it as it is."""
CLAIM = (
    "One training for all trade-offs, of which a bandit chooses by 20 rollouts, is near the best fixed trade-off of "
    "every set. Refuted if its mean score is less than 90 % of theirs."
)


@dataclass(frozen=True, kw_only=True)
class FamilyTD3BC(TD3BC):
    """TD3+BC whose observations end with the trade-off, as `with_trade_offs` appends it."""

    alpha: float = 1.0

    def terms(self, p: Params, v: View) -> Terms:
        """alpha_i times the improvement, once the constraint of row i, over 1 + alpha_i, so that rows count alike."""
        value, improvement, constraint = super().terms(p, v)
        alpha = (MIDDLE + SPREAD * v.s[:, -1]).exp()
        return Terms(value, improvement * alpha / (1 + alpha), constraint / (1 + alpha))


def coordinate(trade_off: float) -> float:
    """What is appended to observations for this trade-off: its logarithm, of mean 0 and deviation 1."""
    return (math.log(trade_off) - MIDDLE) / SPREAD


def with_trade_offs(data: Dataset, copies: int = 8, seed: int = 0) -> Dataset:
    """Copies of the data, in which each episode has a trade-off of its own, in all its observations."""
    draw, parts = np.random.default_rng(seed), []
    for _ in range(copies):
        drawn = draw.uniform(-math.sqrt(3), math.sqrt(3), (data.episodes, 1)).astype(np.float32)[data.episode_ids]
        parts.append([np.concatenate([column, drawn], 1) for column in (data.observations, data.next_observations)])
    observations, following = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Dataset.from_arrays(
        observations=observations,
        next_observations=following,
        actions=np.tile(data.actions, (copies, 1)),
        rewards=np.tile(data.rewards, copies),
        terminals=np.tile(data.terminals, copies),
        timeouts=np.tile(data.timeouts, copies),
        episode_ids=np.concatenate([data.episode_ids + i * data.episodes for i in range(copies)]),
        action_low=data.action_low,
        action_high=data.action_high,
        task=data.task,
        name=f"{data.name}, every trade-off",
    )


class Appended(gymnasium.ObservationWrapper[Any, Any, Any]):
    """An environment whose observations end with a constant."""

    def __init__(self, env: gymnasium.Env[Any, Any], constant: float) -> None:
        super().__init__(env)
        self._constant = np.float32(constant)
        box = env.observation_space
        assert isinstance(box, gymnasium.spaces.Box)
        low, high = (np.append(bound, constant).astype(np.float32) for bound in (box.low, box.high))
        self.observation_space = gymnasium.spaces.Box(low, high, dtype=np.float32)

    def observation(self, observation: NDArray[Any]) -> NDArray[np.float32]:
        return np.append(observation, self._constant).astype(np.float32)


# -- running ------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="file that keeps the rows")
    parser.add_argument("--recipes", nargs="+", default=RECIPES, help="data sets: scripted:pendulum/RECIPE")
    parser.add_argument("--draws", type=int, nargs="+", default=DRAWS, help="draws of each")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--show", type=Path, help="print the figures of kept rows, and run nothing")
    options = parser.parse_args(arguments)
    if options.show is None:
        words = ["python", "-m", "benchmarks.family", *(sys.argv[1:] if arguments is None else arguments)]
        made: dict[str, Any] = {"command": " ".join(words), "commit": commit(), "versions": versions()}
        made |= {"device": device_name("cpu"), "threads": torch.get_num_threads(), "claim": CLAIM}
        rows: list[dict[str, Any]] = []
        for recipe in options.recipes:
            for draw in options.draws:
                rows += of_data(f"scripted:pendulum/{recipe}#draw={draw}", options.seeds)
                write(options.out, made, rows)
    print("\n".join(table(read(options.show or options.out)[1])))


def of_data(reference: str, seeds: int) -> list[dict[str, Any]]:
    """A row for each seed: the returns [7, E] of its policies on a data set."""
    data, started = load_dataset(reference), time.process_time()
    agent = wrap(FamilyTD3BC.preset("pendulum"))
    agent.fit(with_trade_offs(data), steps=STEPS, seeds=seeds, device="cpu", compiled=True, progress=False)
    returns = np.stack([returns_at(agent, value) for value in TRADE_OFFS], 1)
    seconds = round(time.process_time() - started)
    print(f"{reference}: {np.round(returns.mean((0, 2)))}, {seconds} CPU seconds", flush=True)
    about = {"data": {"reference": reference, "fingerprint": data.fingerprint}, "seconds": seconds}
    return [{"seed": seed, "returns": np.round(returns[i], 1), **about} for i, seed in enumerate(agent.seeds)]


def returns_at(agent: Agent, trade_off: float) -> NDArray[np.float64]:
    """[S, E] returns of the policies that act at a trade-off."""
    return agent.evaluate(
        lambda: Appended(gymnasium.make("Pendulum-v1"), coordinate(trade_off)), episodes=EPISODES
    ).returns


# -- figures ------------------------------------------------------------------------------------------------------


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """By data set: scores at each trade-off, and what choosing comes to, as a table in Markdown."""
    heads = [f"{value:g}" for value in TRADE_OFFS]
    chosen = [f"chosen by {number}" for number in ROLLOUTS]
    lines = [f"| data | {' | '.join([*heads, *chosen, 'best fixed value', 'ladder, chosen by 20'])} |"]
    lines.append("| --- " * (len(heads) + len(chosen) + 3) + "|")
    by_data: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_data.setdefault(row["data"]["reference"].partition("#")[0], []).append(row)
    ladder, numbers = of_ladder(), []
    for data, of in by_data.items():
        scores = np.array([[score(float(np.mean(returns))) for returns in row["returns"]] for row in of]).mean(0)
        by_bandit = chosen_by_bandit([row["returns"] for row in of])
        fixed = np.array([[score(float(np.mean(returns))) for returns in seed] for seed in ladder[data]]).mean(0)
        numbers.append([*scores, *by_bandit, fixed.max(), chosen_by_bandit(ladder[data])[1]])
        lines.append(f"| {data} | {' | '.join(f'{number:.1f}' for number in numbers[-1])} |")
    lines.append(f"| mean | {' | '.join(f'{number:.1f}' for number in np.mean(numbers, 0))} |")
    return lines


def chosen_by_bandit(seeds: Sequence[Any]) -> list[float]:
    """Mean scores of what a bandit chooses among each seed's policies by that many rollouts in all."""
    expected = [select(returns, max(ROLLOUTS)).expected for returns in seeds]
    return [float(np.mean([score(float(one[number - 1])) for one in expected])) for number in ROLLOUTS]


def of_ladder() -> dict[str, list[list[list[float]]]]:
    """By data set, for each draw and seed: the returns [7, E] of the policies of fixed trade-offs."""
    found: dict[str, dict[tuple[str, int], dict[float, list[float]]]] = {}
    for row in read_rows(LADDER):
        if row["learner"].startswith("TD3BC") and not row["adapters"]:
            value = float(row["spec"]["learner"]["settings"].get("alpha", TD3BC().alpha))
            data = row["data"]["reference"]
            of = found.setdefault(data.partition("#")[0], {}).setdefault((data, row["seed"]), {})
            of[value] = [float(r) for r in row["evaluations"][-1]["returns"] if r is not None]
    return {data: [[one[value] for value in TRADE_OFFS] for one in of.values()] for data, of in found.items()}


def score(value: float) -> float:
    """Normalised: 0 is a random policy, 100 the controller."""
    reference = reference_score("pendulum")
    assert reference is not None
    return 100 * (value - reference.random) / (reference.expert - reference.random)


if __name__ == "__main__":
    main()
