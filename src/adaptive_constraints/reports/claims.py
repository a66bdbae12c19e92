"""Claims that suites wrote down before they ran, and what the rows say of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.data.sources.scripted import undrawn
from adaptive_constraints.experiments.rows import Claim, ResultRow
from adaptive_constraints.reports.grid import Grid, Score, draw_numbers, seed_value
from adaptive_constraints.reports.statistics import (
    Draws,
    Estimate,
    Strata,
    estimate,
    holm,
    mean_of_means,
    p_value,
    paired_share,
)

Verdict = Literal["holds", "refuted", "undecided"]


@dataclass(frozen=True)
class OnData:
    """A claim on the draws of one data set."""

    label: str
    stack: Estimate
    """Mean score of the stack that the claim is about."""
    rival: str
    """The stack it is compared with; the best of them where there are several."""
    against: Estimate
    """Mean score of that one."""
    difference: Estimate
    """Mean difference of pairs that share draw and seed."""
    wins: int
    """Pairs in which the stack is higher."""
    corrected: float
    """P-value of no difference, corrected for the claim's other data sets (`holm`)."""

    @property
    def verdict(self) -> Verdict:
        """Say whether the stack is better here (holds), worse (refuted), or neither can be told."""
        low, high = self.difference.low, self.difference.high
        if low is None or high is None:
            return "undecided"
        return "refuted" if high < 0 else "holds" if low > 0 else "undecided"


@dataclass(frozen=True)
class Outcome:
    """What became of a claim.

    whole: for "share of best" the share; else the difference, each data set counting alike.
    missing: seeds of the claim that have no number, which leaves it undecided.
    """

    claim: Claim
    verdict: Verdict
    whole: Estimate | None
    on: tuple[OnData, ...]
    missing: int = 0


Paired = Mapping[str, tuple[NDArray[np.float64], NDArray[np.int64]]]
"""By data label: scores [stacks, N] of pairs that share draw and seed, and the draws [N]."""


def outcomes(grid: Grid, score: Score) -> list[Outcome]:
    """Outcomes of the claims of all suites of a grid, each claim once."""
    claims: list[Claim] = []
    for suite in grid.suites:
        claims += [claim for claim in suite.get("claims", []) if claim not in claims]
    return [outcome(claim, grid.rows, score) for claim in claims]


def outcome(claim: Claim, rows: Sequence[ResultRow], score: Score) -> Outcome:
    """Compare one claim with rows.

    "nowhere worse" is refuted by a data set on which the paired interval lies below 0, and "better" by an overall
    interval below 0; it holds where that lies above 0. "share of best" asks for the stack's mean score over
    data sets, divided by the mean of each set's best rival, and is refuted where its interval lies below ``share``.
    """
    paired, missing = _paired(claim, rows, score)
    if missing or not paired:
        return Outcome(claim, "undecided", None, (), missing)
    on = _on_data(claim, paired)
    if claim["expect"] == "share of best":
        whole = _share(claim, paired, on)
        return Outcome(claim, _compared(whole, claim["share"]), whole, on)
    strata, draws = _differences(paired, {part.label: 0 for part in on})
    whole = estimate(strata, mean_of_means, draws=draws)
    if claim["expect"] == "better":
        return Outcome(claim, _compared(whole, 0.0), whole, on)
    worse = any(part.verdict == "refuted" for part in on)
    return Outcome(claim, "refuted" if worse else "holds", whole, on)


def _compared(whole: Estimate, limit: float) -> Verdict:
    if whole.low is None or whole.high is None:
        return "undecided"
    return "holds" if whole.low > limit else "refuted" if whole.high < limit else "undecided"


def _paired(claim: Claim, rows: Sequence[ResultRow], score: Score) -> tuple[Paired, int]:
    """Scores of the claim's stacks where all have one, and how many seeds have none or are not there."""
    stacks, data = [claim["stack"], *claim["against"]], set(claim["data"])
    by_pair: dict[tuple[str, int], dict[str, ResultRow]] = {}
    for row in rows:
        if row["stack"] in stacks and row["data"]["reference"] in data:
            by_pair.setdefault((row["data"]["reference"], row["seed"]), {})[row["stack"]] = row
    found: dict[str, list[dict[str, ResultRow]]] = {}
    missing = len(data - {reference for reference, _ in by_pair})
    for (reference, _), of_stacks in sorted(by_pair.items()):
        values = [seed_value(row, score) for row in of_stacks.values()]
        if len(of_stacks) == len(set(stacks)) and not np.isnan(values).any():
            found.setdefault(undrawn(reference), []).append(of_stacks)
        else:
            missing += 1
    paired = {
        label: (
            np.array([[seed_value(of_stacks[stack], score) for of_stacks in pairs] for stack in stacks]),
            draw_numbers([of_stacks[stacks[0]] for of_stacks in pairs]),
        )
        for label, pairs in found.items()
    }
    return paired, missing


def _on_data(claim: Claim, paired: Paired) -> tuple[OnData, ...]:
    best = {label: int(np.argmax(values[1:].mean(axis=1))) for label, (values, _) in paired.items()}
    parts = {label: _differences({label: paired[label]}, best) for label in paired}
    corrected = holm([p_value(strata, draws=draws) for strata, draws in parts.values()])
    return tuple(
        OnData(
            label,
            estimate([paired[label][0][0]], mean_of_means, draws=draws),
            claim["against"][best[label]],
            estimate([paired[label][0][1 + best[label]]], mean_of_means, draws=draws),
            estimate(strata, mean_of_means, draws=draws),
            int((strata[0] > 0).sum()),
            p,
        )
        for (label, (strata, draws)), p in zip(parts.items(), corrected, strict=True)
    )


def _differences(paired: Paired, rivals: Mapping[str, int]) -> tuple[Strata, Draws]:
    """The stack less a rival of each data set, pair by pair."""
    strata = [values[0] - values[1 + rivals[label]] for label, (values, _) in paired.items()]
    return strata, [draws for _, draws in paired.values()]


def _share(claim: Claim, paired: Paired, on: Sequence[OnData]) -> Estimate:
    """Mean score over data sets / that of each set's best rival; which rival is best is taken as known.

    Not the mean of each set's own share: one set on which even the best is near 0 would decide it.
    """
    best = {part.label: claim["against"].index(part.rival) for part in on}
    ours = [values[0] for values, _ in paired.values()]
    theirs = [values[1 + best[label]] for label, (values, _) in paired.items()]
    return paired_share(ours, theirs, draws=[draws for _, draws in paired.values()])


__all__ = ["OnData", "Outcome", "Verdict", "outcome", "outcomes"]
