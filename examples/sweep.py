"""Search the settings of a stack with Optuna: resumable, pruned, several seeds as one trial's batch (extra `sweep`).

    pip install 'adaptive-constraints[sweep,mujoco]'
    python examples/sweep.py --steps 2000 --trials 6               # a few minutes; too short to choose by
    python examples/sweep.py --steps 100000 --seeds 4 --trials 40

The same command goes on with a sweep that was interrupted: finished trials stand in runs/sweep/study.db, and one that
was cut off goes on from the checkpoint in its run folder. One command at a time: what runs when it starts counts as cut
off. The scores of the trials choose among them and so flatter the best: train that one anew, with other seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import optuna

from adaptive_constraints import ASPC, Adapter, Agent, Dataset, load_dataset, wrap
from adaptive_constraints.baselines import TD3BC

PARTS = 4
"""Evaluations of a trial; after each but the last it may be pruned."""
ADAPTERS: dict[str, tuple[Adapter, ...]] = {"none": (), "ASPC": (ASPC(),)}


def stack(trial: optuna.Trial, hidden: int = 256) -> Agent:
    """What the trial is to train. A setting that another one makes idle is not searched."""
    adapters = ADAPTERS[trial.suggest_categorical("adapter", list(ADAPTERS))]
    alpha = 2.5 if adapters else trial.suggest_float("alpha", 0.5, 50.0, log=True)
    critic = trial.suggest_categorical("critic", ["plain", "layernorm", "robust"])
    return wrap(TD3BC(alpha=alpha, critic=critic, hidden=hidden), *adapters)


def score(trial: optuna.Trial, agent: Agent, data: Dataset, folder: Path, steps: int, seeds: int) -> float:
    """Mean over the seeds of the score at the end; raises `optuna.TrialPruned` where others were better by now."""
    if "folder" not in trial.user_attrs:
        trial.set_user_attr("folder", f"trial-{trial.number}")
    part = max(1, steps // PARTS)
    for stop in (*range(part, steps, part), steps):
        history = agent.fit(
            data,
            steps=steps,
            seeds=seeds,
            stop_after=stop,
            eval_env="auto",
            eval_every=part,
            eval_episodes=5,
            out=folder / trial.user_attrs["folder"],
            progress=False,
        )
        mean = float(history.summary().last.mean())
        trial.report(mean, stop)
        if stop < steps and trial.should_prune():
            raise optuna.TrialPruned
    return mean


def take_up(study: optuna.Study) -> None:
    """Queue again what was running when the last command ended, with its settings and its run folder."""
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)


def main(steps: int, seeds: int, trials: int, out: Path, hidden: int = 256) -> optuna.Study:
    out.mkdir(parents=True, exist_ok=True)
    data = load_dataset("bundled:hopper")
    study = optuna.create_study(
        study_name=f"TD3BC, {steps} steps, {seeds} seeds",
        storage=f"sqlite:///{out / 'study.db'}",
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
    )
    take_up(study)
    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    left = max(0, trials - len(study.get_trials(states=ended)))
    study.optimize(lambda trial: score(trial, stack(trial, hidden), data, out, steps, seeds), n_trials=left)
    best = study.best_trial
    print(f"best of {len(study.get_trials(states=ended))} trials: {best.params}, score {best.value:.1f}")
    print(f"its run folder: {out / best.user_attrs['folder']}")
    return study


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2_000, help="length of each trial's run")
    parser.add_argument("--seeds", type=int, default=2, help="trained together in each trial")
    parser.add_argument("--trials", type=int, default=6, help="in all, those of earlier commands counted")
    parser.add_argument("--out", type=Path, default=Path("runs/sweep"), help="folder of the study and of the runs")
    main(**vars(parser.parse_args()))
