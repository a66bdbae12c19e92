"""Claims that suites wrote down before they ran, and what the rows say of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from adaptive_constraints.data.sources.scripted import undrawn
from adaptive_constraints.experiments.rows import Claim, PlannedCell, ResultRow
from adaptive_constraints.reports.grid import Grid, Score, draw_numbers, is_lost, seed_value
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
SCORE: Score = "last"
"""The number of a seed that claims are about, whatever else a report shows."""


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
    """P-value of no difference, corrected for the claim's other data sets (`holm`); NaN of a single pair."""

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

    whole: for "share of best" the share; else the difference, each data set counting alike, None where returns of
        several tasks would be averaged.
    missing: planned pairs of the claim that have no number, which leaves it undecided.
    reason: why it is undecided otherwise, where the rows cannot be compared.
    lost: seeds that diverged, and count as `reports.grid.LOST_SCORE`.
    apart: pairs whose sides ran with another commit or on another machine.
    """

    claim: Claim
    verdict: Verdict
    whole: Estimate | None
    on: tuple[OnData, ...]
    missing: int = 0
    reason: str = ""
    lost: int = 0
    apart: int = 0


class Paired(NamedTuple):
    """Pairs of one data set that share draw and seed."""

    scores: NDArray[np.float64]
    """[stacks, N]"""
    draws: NDArray[np.int64]
    """[N]"""


Pair = tuple[str, int]
"""Data reference and seed."""


def outcomes(grid: Grid) -> list[Outcome]:
    """Outcomes of the claims of all suites of a grid, each claim once."""
    claims: list[Claim] = []
    for suite in grid.suites:
        claims += [claim for claim in suite.get("claims", []) if claim not in claims]
    planned = [cell for suite in grid.suites for cell in suite["cells"]]
    return [outcome(claim, grid.rows, planned) for claim in claims]


def outcome(claim: Claim, rows: Sequence[ResultRow], planned: Sequence[PlannedCell] = ()) -> Outcome:
    """Compare one claim with rows, by the last evaluation of each seed.

    planned: cells whose seeds must all be there.

    "nowhere worse" is refuted by a data set on which the paired interval lies below 0, and holds where none does and
    each has one, which is no proof. "better" is refuted by an overall interval below 0, and holds where that lies
    above. "share of best" asks for the stack's mean score over data sets, divided by the mean of each set's best rival,
    and is refuted where its interval lies below ``share``. Undecided is what has too few seeds, or whose rows do not
    compare: other steps, other data under one name, returns of several tasks together.
    """
    stacks = {claim["stack"], *claim["against"]}
    own = [row for row in rows if row["stack"] in stacks and row["data"]["reference"] in claim["data"]]
    if reason := _differ(own):
        return Outcome(claim, "undecided", None, (), reason=reason)
    by_pair: dict[Pair, dict[str, ResultRow]] = {}
    for row in own:
        by_pair.setdefault((row["data"]["reference"], row["seed"]), {})[row["stack"]] = row
    whole_pairs = {
        pair: of
        for pair, of in sorted(by_pair.items())
        if len(of) == len(stacks) and not any(math.isnan(seed_value(row, SCORE)) for row in of.values())
    }
    missing = len(_wanted(claim, stacks, planned, by_pair) - whole_pairs.keys())
    if missing or not whole_pairs:
        return Outcome(claim, "undecided", None, (), missing)
    lost, apart = sum(map(is_lost, own)), sum(map(_apart, whole_pairs.values()))
    judged = _judged(claim, _paired(claim, whole_pairs), all(row["measure"] == "score" for row in own))
    return replace(judged, lost=lost, apart=apart)


def _judged(claim: Claim, paired: Mapping[str, Paired], scored: bool) -> Outcome:
    """What pairs say of a claim."""
    on = _on_data(claim, paired)
    together = scored or len(paired) == 1
    if claim["expect"] != "nowhere worse" and not together:
        return Outcome(claim, "undecided", None, on, reason="returns of several tasks cannot be averaged")
    if claim["expect"] == "share of best":
        share = _share(claim, paired, on)
        if share is None:
            reason = "the best is not surely above 0, so that a share of it says nothing"
            return Outcome(claim, "undecided", None, on, reason=reason)
        return Outcome(claim, _compared(share, claim["share"]), share, on)
    strata, draws = _differences(paired, {part.label: 0 for part in on})
    whole = estimate(strata, mean_of_means, draws=draws)
    if claim["expect"] == "better":
        return Outcome(claim, _compared(whole, 0.0), whole, on)
    verdict: Verdict = "undecided" if whole.low is None else "holds"
    if any(part.verdict == "refuted" for part in on):
        verdict = "refuted"
    return Outcome(claim, verdict, whole if together else None, on)


def _compared(whole: Estimate, limit: float) -> Verdict:
    if whole.low is None or whole.high is None:
        return "undecided"
    return "holds" if whole.low > limit else "refuted" if whole.high < limit else "undecided"


# -- which rows are pairs -----------------------------------------------------------------------------------------


def _differ(rows: Sequence[ResultRow]) -> str:
    """In words, why rows under the names of a claim are no pairs; "" if they are."""
    counts = Counter((row["stack"], row["data"]["reference"], row["seed"]) for row in rows)
    if twice := [stack for (stack, _, _), count in counts.items() if count > 1]:
        return f"{twice[0]} is there more than once: with other steps, or on other data of that name"
    for what, of in (("steps", _steps), ("data", _fingerprint), ("a score", _measure)):
        values: dict[str, set[str]] = {}
        for row in rows:
            values.setdefault(row["data"]["reference"], set()).add(of(row))
        if unlike := [(name, sorted(found)) for name, found in values.items() if len(found) > 1]:
            name, found = unlike[0]
            return f"on {name} its stacks do not share {what}: {', '.join(found)}"
    return ""


def _steps(row: ResultRow) -> str:
    return f"{row['steps']:,}"


def _fingerprint(row: ResultRow) -> str:
    return row["data"]["fingerprint"][:8]


def _measure(row: ResultRow) -> str:
    return row["measure"]


def _wanted(
    claim: Claim, stacks: Collection[str], planned: Sequence[PlannedCell], there: Collection[Pair]
) -> set[Pair]:
    """Pairs that a claim needs: those that any of its stacks has or was planned to have."""
    cells = [cell for cell in planned if cell["stack"] in stacks and cell["data"] in claim["data"]]
    wanted = {*there, *((cell["data"], seed) for cell in cells for seed in cell["seeds"])}
    unknown = set(claim["data"]) - {reference for reference, _ in wanted}
    return wanted | {(reference, 0) for reference in unknown}


def _apart(pair: Mapping[str, ResultRow]) -> bool:
    """Tell whether the sides of a pair ran with another commit or on another machine."""
    return len({(str(row["commit"]), row["device"]) for row in pair.values()}) > 1


def _paired(claim: Claim, pairs: Mapping[Pair, Mapping[str, ResultRow]]) -> dict[str, Paired]:
    """By data label, draws together."""
    stacks, found = [claim["stack"], *claim["against"]], dict[str, list[Mapping[str, ResultRow]]]()
    for (reference, _), of_stacks in pairs.items():
        found.setdefault(undrawn(reference), []).append(of_stacks)
    return {
        label: Paired(
            np.array([[seed_value(of_stacks[stack], SCORE) for of_stacks in of] for stack in stacks]),
            draw_numbers([of_stacks[stacks[0]] for of_stacks in of]),
        )
        for label, of in found.items()
    }


# -- what they say ------------------------------------------------------------------------------------------------


def _on_data(claim: Claim, paired: Mapping[str, Paired]) -> tuple[OnData, ...]:
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


def _differences(paired: Mapping[str, Paired], rivals: Mapping[str, int]) -> tuple[Strata, Draws]:
    """The stack less a rival of each data set, pair by pair."""
    strata = [values[0] - values[1 + rivals[label]] for label, (values, _) in paired.items()]
    return strata, [draws for _, draws in paired.values()]


def _share(claim: Claim, paired: Mapping[str, Paired], on: Sequence[OnData]) -> Estimate | None:
    """Mean score over data sets / that of each set's best rival; None unless the latter is surely above 0.

    Which rival is best is taken as known. Not the mean of each set's own share: one set on which even the best is near
    0 would decide it.
    """
    best = {part.label: claim["against"].index(part.rival) for part in on}
    ours = [values[0] for values, _ in paired.values()]
    theirs = [values[1 + best[label]] for label, (values, _) in paired.items()]
    draws = [draws for _, draws in paired.values()]
    rivals = estimate(theirs, mean_of_means, draws=draws)
    least = rivals.value if rivals.low is None else rivals.low
    return paired_share(ours, theirs, draws=draws) if least > 0 else None


__all__ = ["OnData", "Outcome", "Verdict", "outcome", "outcomes"]
