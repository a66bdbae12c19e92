"""Is choosing by fitted Q evaluation any good? Rank correlations with true returns, on data of known behaviour.

    python -m benchmarks.ope                                    # about ten minutes of one core
    python -m benchmarks.ope --recipes weak                     # one data set, a quarter of that
    python -m benchmarks.ope --show benchmarks/results/ope

Policies of different quality (learners, trade-offs, seeds, early and late checkpoints) are trained on each data set of
`scripted:pendulum/...`, rolled out in the vectorised pendulum, and ranked by what needs no rollout: the value by fitted
Q evaluation, its TD error on held-out episodes, and the value that the learner's own critics state. The claims below
were written down before the run that the repository keeps; settings were chosen on draw 7 of the same recipes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from adaptive_constraints import Agent, Dataset, load_agent, load_dataset, wrap
from adaptive_constraints.baselines import BC, IQL, TD3BC
from adaptive_constraints.choosing import FQE, evaluate_offline, policies_of, select
from adaptive_constraints.support.files import replacing
from adaptive_constraints.support.records import commit, device_name, plain, versions

OUT = Path(__file__).parent / "results" / "ope"
RECIPES, DRAW = ("slips", "weak", "med-exp", "mixed"), 0
SEEDS, STEPS = 2, (500, 3_000)
"""Seeds of each stack, and the steps at which their policies are kept."""
EPISODES, ROLLOUTS = 100, 100
"""Rollouts of each policy that its true return is the mean of, and rollouts in all of the bandit."""
DISCOUNT, SETTINGS = 0.97, FQE(steps=4_000, batch_size=64)
ESTIMATES = {"fqe": "value by fitted Q evaluation", "td": "TD error held out (less is better)", "own": "own critics"}
CLAIMS = {
    "broad data": "On slips and mixed, whose behaviour tries all actions, values by fitted Q evaluation rank the "
    "policies: a Spearman correlation of at least 0.5 on both, and its choice returns at most 100 less than the best.",
    "narrow data": "On weak and med-exp, whose behaviour tries few, they do not: below 0.5 on both.",
    "own critics": "Over policies that have critics, they rank better than the learners' own values on all four sets.",
    "TD error": "The TD error on held-out episodes ranks at least as well as 0.4 on all four sets.",
}
"""Written down before the run that is kept, from what draw 7 showed: 0.78 on slips, 0.49 on mixed, -0.08 on weak and
-0.05 on med-exp by fitted Q evaluation; 0.74, 0.54, 0.65 and 0.52 by TD error; -0.30, 0.29, -0.64 and -0.59 by own
critics (with one critic instead of two, and other policies on mixed)."""


def stacks() -> dict[str, Agent]:
    """Untrained agents by label."""
    trade_offs = {f"TD3BC(alpha={alpha:g})": wrap(TD3BC.preset("pendulum", alpha=alpha)) for alpha in (0.25, 2.5, 25.0)}
    return {**trade_offs, "IQL": wrap(IQL.preset("pendulum")), "BC": wrap(BC(hidden=64, batch_size=64))}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="folder that keeps the rows, a file per data set")
    parser.add_argument("--recipes", nargs="+", default=RECIPES, help="data sets: scripted:pendulum/RECIPE")
    parser.add_argument("--draw", type=int, default=DRAW, help="which draw of each data set")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="steps at which policies are kept")
    parser.add_argument("--fqe-steps", type=int, default=SETTINGS.steps, help="minibatches of the fit")
    parser.add_argument("--show", type=Path, help="print the figures of kept rows, and run nothing")
    options = parser.parse_args(arguments)
    if options.show is None:
        words = ["python", "-m", "benchmarks.ope", *(sys.argv[1:] if arguments is None else arguments)]
        made: dict[str, Any] = {
            "command": " ".join(words),
            "commit": commit(),
            "versions": versions(),
            "device": device_name("cpu"),
        }
        made |= {"threads": torch.get_num_threads(), "claims": CLAIMS}
        for recipe in options.recipes:
            reference = f"scripted:pendulum/{recipe}#draw={options.draw}"
            write(options.out / f"{recipe}.jsonl", made, of_data(reference, options.steps, options.fqe_steps))
    show([read(path) for path in sorted((options.show or options.out).glob("*.jsonl"))])


# -- running ------------------------------------------------------------------------------------------------------


def of_data(reference: str, steps: Sequence[int], fqe_steps: int) -> list[dict[str, Any]]:
    """A row for each policy that is trained on a data set."""
    data, started = load_dataset(reference), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        agents = [kept for label, agent in stacks().items() for kept in checkpoints(label, agent, data, steps, folder)]
    true = [agent.evaluate(episodes=EPISODES).returns for _, agent in agents]
    starts = data.observations[data.episode_starts]
    trained = time.process_time() - started
    fqe = replace(SETTINGS, steps=fqe_steps)
    estimates = evaluate_offline(
        [policies_of(agent.run, label) for label, agent in agents], data, discount=DISCOUNT, fqe=fqe
    )
    seconds = {"training": round(trained), "fitting": round(time.process_time() - started - trained)}
    common = {
        "data": {"reference": reference, "fingerprint": data.fingerprint},
        "settings": asdict(fqe),
        "seconds": seconds,
    }
    rows = []
    for (label, agent), returns, estimate in zip(agents, true, estimates, strict=True):
        own = own_values(agent, starts).mean(1)
        for i, seed in enumerate(agent.seeds):
            rows.append(
                {"stack": label, "spec": agent.stack.to_spec(), "step": agent.step, "seed": seed}
                | {"returns": np.round(returns[i], 1), "return": returns[i].mean(), "own": own[i]}
                | {"fqe": estimate.value[i], "interval": [estimate.low[i], estimate.high[i]]}
                | {"td": estimate.td_error[i], "loss": estimate.loss[i], "lost": estimate.lost.get(seed), **common}
            )
    print(f"{reference}: {len(rows)} policies, {seconds} CPU seconds", flush=True)
    return rows


def checkpoints(
    label: str, agent: Agent, data: Dataset, steps: Sequence[int], folder: str
) -> Iterator[tuple[str, Agent]]:
    """The agent as it stands at each of these steps of one training."""
    for step in steps:
        agent.fit(data, steps=max(steps), seeds=SEEDS, stop_after=step, device="cpu", compiled=False, progress=False)
        path = Path(folder) / f"{step}.npz"
        agent.save(path)
        yield label, load_agent(path, "cpu")


def own_values(agent: Agent, observations: NDArray[Any]) -> NDArray[np.float64]:
    """[S, N] what the learner's own critics say of the policy at observations [N, D]; NaN where it has none."""
    run, resolved = agent.run, agent.stack.resolve()
    if not resolved.facts.owns_critic:
        return np.full((len(agent.seeds), len(observations)), np.nan)
    states = run.preprocessor.observations(torch.tensor(observations))

    def value(v: Any) -> dict[str, torch.Tensor]:
        actions = run.engine.program.policies["act"](v, states)
        return {"value": v.services.aggregate(v.services.q(v.p["critic"], states, actions))}

    return run.engine.ask("own value", value)["value"].double().numpy()


# -- figures ------------------------------------------------------------------------------------------------------


def figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rank correlations with the true returns of the policies of one data set, and what choosing by each comes to."""
    true = np.array([row["return"] for row in rows])
    with_critics = np.array([row["own"] is not None for row in rows])
    estimate = {
        "fqe": np.array([row["fqe"] for row in rows]),
        "td": -np.array([row["td"] for row in rows]),
        "own": np.array([row["own"] for row in rows], np.float64),
    }
    bandit = select([row["returns"] for row in rows], ROLLOUTS)
    by_fqe = true[estimate["fqe"].argmax()]
    as_good = np.flatnonzero(bandit.expected >= by_fqe)
    return {
        "policies": len(rows),
        "spearman": {name: spearman(true, values) for name, values in estimate.items() if name != "own"},
        "spearman with critics": {name: spearman(true[with_critics], v[with_critics]) for name, v in estimate.items()},
        "chosen": {name: true[np.nanargmax(values)] for name, values in estimate.items()},
        "best": true.max(),
        "mean": true.mean(),
        "rollouts as good": int(as_good[0]) + 1 if len(as_good) else None,
    }


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation of [N] and [N]; equal numbers share the mean of their ranks.

    >>> from benchmarks.ope import spearman
    >>> round(spearman([1, 2, 3, 4], [10, 20, 30, 30]), 3)
    0.949
    """
    return float(np.corrcoef(_ranks(np.asarray(a)), _ranks(np.asarray(b)))[0, 1])


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    ranks: NDArray[np.float64] = (values[:, None] > values).sum(1) + ((values[:, None] == values).sum(1) - 1) / 2
    return ranks


def show(kept: Sequence[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]]) -> None:
    """Print the figures of each data set, as a table in Markdown."""
    heads = ["data", "policies", "FQE", "TD error", "FQE, with critics", "own critics"]
    heads += ["return of FQE's choice", "of own critics'", "of TD error's", "best", "mean", "rollouts as good as FQE"]
    print(f"\n| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for _, rows in kept:
        f = figures([row for row in rows if row["fqe"] is not None])
        every, some, chosen = f["spearman"], f["spearman with critics"], f["chosen"]
        correlations = [f"{number:.2f}" for number in (every["fqe"], every["td"], some["fqe"], some["own"])]
        returns = [f"{r:.0f}" for r in (chosen["fqe"], chosen["own"], chosen["td"], f["best"], f["mean"])]
        last = f["rollouts as good"] or f"more than {ROLLOUTS}"
        print(
            f"| {' | '.join([rows[0]['data']['reference'], str(f['policies']), *correlations, *returns, str(last)])} |"
        )
    for made, _ in kept:
        print(f"\n{made['command']}; {made['device']}; commit {(made['commit'] or {}).get('hash', 'unknown')}")
    for name, claim in CLAIMS.items():
        print(f"\nclaim {name}: {claim}")


# -- keeping ------------------------------------------------------------------------------------------------------


def write(path: Path, made: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write what made the rows, and a line for each."""
    with replacing(path) as file:
        for line in (made, *rows):
            file.write(json.dumps(plain(line), separators=(",", ":"), allow_nan=False) + "\n")


def read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read what `write` wrote."""
    made, *rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return made, rows


if __name__ == "__main__":
    main()
