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
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from adaptive_constraints import Agent, Dataset, Params, Terms, View, load_dataset, wrap
from adaptive_constraints.baselines import TD3BC
from adaptive_constraints.choosing import select
from adaptive_constraints.data.references import reference_score
from adaptive_constraints.data.sources.scripted import draws_of, undrawn
from adaptive_constraints.experiments.rows import read_rows
from adaptive_constraints.reports.statistics import paired_share
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
WANTED = 0.9
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


class OfData(NamedTuple):
    """What choosing comes to on the draws of one recipe; scores, of N seeds in all."""

    family: NDArray[np.float64]
    """[N, 7] of the one training's policies, by trade-off."""
    chosen: NDArray[np.float64]
    """[N, 3] of what a bandit chooses among them, by number of rollouts."""
    fixed: NDArray[np.float64]
    """[N, 7] of the policies that were trained at each trade-off."""
    chosen_fixed: NDArray[np.float64]
    """[N, 3] of what a bandit chooses among those."""
    draws: NDArray[np.int64]
    """[N]"""


def figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, OfData]:
    """By recipe."""
    ladder, by_recipe = of_ladder(), dict[str, list[tuple[str, Any, Any]]]()
    for row in rows:
        reference = row["data"]["reference"]
        pair = (draws_of(reference), row["returns"], ladder[reference, row["seed"]])
        by_recipe.setdefault(undrawn(reference), []).append(pair)
    found = {}
    for recipe, pairs in by_recipe.items():
        draws, family, fixed = zip(*pairs, strict=True)
        sides = [score(np.array(side)) for side in (family, fixed)]
        means, bandits = [side.mean(2) for side in sides], [np.array(list(map(by_bandit, side))) for side in sides]
        found[recipe] = OfData(means[0], bandits[0], means[1], bandits[1], np.array(draws, np.int64))
    return found


def by_bandit(scores: NDArray[np.float64]) -> list[float]:
    """[3] mean scores of what a bandit chooses among policies [7, E], by number of rollouts."""
    expected = select(scores, max(ROLLOUTS)).expected
    return [float(expected[number - 1]) for number in ROLLOUTS]


def of_ladder() -> dict[tuple[str, int], list[list[float]]]:
    """By data set and seed: the returns [7, E] of the policies of fixed trade-offs."""
    found: dict[tuple[str, int], dict[float, list[float]]] = {}
    for row in read_rows(LADDER):
        if row["learner"].startswith("TD3BC") and not row["adapters"]:
            assert row["lost"] is None, f"{row['cell']}: seed {row['seed']} diverged"
            value = float(row["spec"]["learner"]["settings"]["alpha"])
            returns = [float(r) for r in row["evaluations"][-1]["returns"] if r is not None]
            found.setdefault((row["data"]["reference"], row["seed"]), {})[value] = returns
    return {key: [of[value] for value in TRADE_OFFS] for key, of in found.items()}


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """By recipe: scores at each trade-off, what choosing comes to, and what became of the claim; in Markdown."""
    ladder, there = of_ladder(), {(row["data"]["reference"], row["seed"]) for row in rows}
    if missing := ladder.keys() - there:  # the claim is about all of them
        raise SystemExit(f"{len(missing)} of {len(ladder)} runs of the family are not there: {min(missing)}, ...")
    heads = ["data", *(f"at {value:g}" for value in TRADE_OFFS), *(f"chosen by {n} rollouts" for n in ROLLOUTS)]
    heads += ["best fixed value", f"fixed values, chosen by {ROLLOUTS[1]}"]
    lines, found = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"], figures(rows)
    for recipe, of in found.items():
        numbers = [*of.family.mean(0), *of.chosen.mean(0), of.fixed.mean(0).max(), of.chosen_fixed.mean(0)[1]]
        lines.append(f"| {recipe} | {' | '.join(f'{number:.1f}' for number in numbers)} |")
    ours = [of.chosen[:, 1] for of in found.values()]
    theirs = [of.fixed[:, of.fixed.mean(0).argmax()] for of in found.values()]
    whole = paired_share(ours, theirs, draws=[of.draws for of in found.values()])
    interval = "" if whole.low is None or whole.high is None else f" [{whole.low:.1%}, {whole.high:.1%}]"
    verdict = "Refuted" if whole.value < WANTED else "Holds"
    return [
        *lines,
        "",
        f"**{verdict}: {whole.value:.1%}{interval} of the best, where {WANTED:.0%} are asked for.** {CLAIM}",
    ]


def score(returns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Normalised: 0 is a random policy, 100 the controller."""
    reference = reference_score("pendulum")
    assert reference is not None
    return 100 * (returns - reference.random) / (reference.expert - reference.random)


if __name__ == "__main__":
    main()
