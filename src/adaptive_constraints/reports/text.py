"""The words and numbers of a report, the same in every format."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from adaptive_constraints.data.sources.scripted import draws_of
from adaptive_constraints.experiments.rows import Published, ResultRow
from adaptive_constraints.reports.claims import Outcome
from adaptive_constraints.reports.findings import Difference, Effect
from adaptive_constraints.reports.grid import SCORES, Grid, GridCell, Missing, Score
from adaptive_constraints.reports.statistics import Estimate

MISSING = "\N{EN DASH}"

SECTIONS = {
    "scores": "Scores",
    "effects": "Effects of adapters",
    "profiles": "Performance profiles",
    "curves": "Learning curves",
    "quantities": "Adaptive quantities",
}
"""Captions of figures."""
_QUANTITIES = {
    "aspc/scale": "trade-off, value against constraint",
    "anq/displacement": "mean size of the displacement, action bounds",
    "anq/penalty_factor": "mean factor of the penalty",
    "anq/penalty_factor_bounded": "share of rows that a bound cuts",
    "anq/weight_bounded": "share of rows that a bound cuts",
    "ssar/n": "half-width of the trust interval, standard deviations",
    "ssar/weight": "weight of the constraint",
    "ssar/trusted_margin": "mean margin of trusted rows",
    "ssar/trusted_in_batch": "share of the minibatch",
    "ssar/trusted_share": "share of the data",
    "ilq/model_error": "holdout error, lower is better",
    "noisetradeoff/noise": "variance of the behaviour's actions",
    "noisetradeoff/tradeoff": "trade-off, value against constraint",
}
"""What the adapters of the papers report, and our own."""
COST_NOTES = (None, "higher is better", "lower is better", "lower is better", "lower is better")
"""Beside the heads of `COSTS`."""

REGENERATED = (
    "This data was recorded anew and is not the published data set of a like name. Scores on it do not compare with "
    "figures published for D4RL's v2 recordings."
)


def number(value: float) -> str:
    """One decimal, or none where there are thousands."""
    text = f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.1f}"
    return text.replace("-", "\N{MINUS SIGN}") if text.strip("-0.,") else text.lstrip("-")


def signed(value: float) -> str:
    """With its sign, even if it is a plus; what rounds to zero has none."""
    text = number(value)
    return text if text[0] == "\N{MINUS SIGN}" or not text.strip("0.") else f"+{text}"


def short(value: float) -> str:
    """Four digits at most, as figures show a number."""
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def quantity(name: str) -> str:
    """What an adaptive quantity is, with its unit, for an axis; its name where a stranger's adapter reports it."""
    return _QUANTITIES.get(name.partition(",")[0], name)


def estimated(estimate: Estimate | None) -> str:
    """Such as ``59.8 [53.9, 64.2]``."""
    return MISSING if estimate is None else f"{number(estimate.value)}{_interval(estimate, number)}"


def changed(difference: Difference | None) -> str:
    """Such as ``+6.9 [+2.5, +11.5], n=8``."""
    if difference is None or difference.estimate is None:
        return MISSING
    return f"{signed(difference.estimate.value)}{_interval(difference.estimate, signed)}, n={difference.estimate.n}"


def _interval(estimate: Estimate, write: Callable[[float], str]) -> str:
    return "" if estimate.low is None or estimate.high is None else f" [{write(estimate.low)}, {write(estimate.high)}]"


def lost(count: int, of: int, things: str) -> str | None:
    """Such as ``1 of 4 seeds lost``; None where none is."""
    return f"{count} of {of} {things} lost" if count else None


CLAIMS = (
    "Each claim stood in the suite before it was run. Scores are those of the last evaluation, differences are of "
    "pairs of one data set and seed. Intervals are 95 %, over seeds and draws of the data: of two draws they say "
    "little more than the range between them, of one draw nothing about another. Corrected p-values allow for the "
    "other data sets of a claim, not for other claims."
)
CLAIM_HEADS = ("data", "score", "against", "its score", "difference", "higher in", "corrected p")
CLAIM_WORDS = ("data", "against")
"""Those of them that are no numbers."""


def verdict(outcome: Outcome) -> str:
    """In words, such as ``Refuted: +12.1 [+3.4, +20.2] over all data sets``."""
    unproven = outcome.verdict == "holds" and outcome.claim["expect"] == "nowhere worse"
    said = "Not refuted" if unproven else outcome.verdict.capitalize()
    if outcome.missing:
        return f"{said}: {counted(outcome.missing, 'pair')} not there."
    if outcome.reason:
        return f"{said}: {outcome.reason}."
    if outcome.whole is None:
        return f"{said}."
    if outcome.claim["expect"] == "share of best":
        low, high = outcome.whole.low, outcome.whole.high
        ends = "" if low is None or high is None else f" [{low:.0%}, {high:.0%}]"
        return f"{said}: {outcome.whole.value:.0%}{ends} of the best, where {outcome.claim['share']:.0%} are asked for."
    return f"{said}: {signed(outcome.whole.value)}{_interval(outcome.whole, signed)} over all data sets."


def claim_notes(outcome: Outcome) -> str:
    """What a reader must know of a claim's pairs beside the numbers; "" if nothing."""
    pairs = sum(part.difference.n for part in outcome.on)
    notes = []
    if outcome.lost:
        word = "counts" if outcome.lost == 1 else "count"
        notes.append(f"{counted(outcome.lost, 'seed')} diverged, and {word} as a score of 0.")
    if outcome.apart:
        notes.append(f"In {outcome.apart} of {pairs} pairs the sides ran with another commit or on another machine.")
    return " ".join(notes)


def claim_rows(outcome: Outcome, grid: Grid) -> list[list[str]]:
    """The lines of a claim's table, under `CLAIM_HEADS`."""
    return [
        [
            part.label,
            estimated(part.stack),
            grid.named(part.rival),
            estimated(part.against),
            f"{signed(part.difference.value)}{_interval(part.difference, signed)}",
            f"{part.wins} of {part.difference.n}",
            _p_value(part.corrected),
        ]
        for part in outcome.on
    ]


def _p_value(value: float) -> str:
    if math.isnan(value):
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def seed_name(row: ResultRow) -> str:
    """Such as ``3``, or ``3 (draw 1)`` where the data is a draw of a recipe."""
    draws = draws_of(row["data"]["reference"])
    return f"{row['seed']} (draw {draws})" if draws else str(row["seed"])


def why_lost(row: ResultRow) -> str:
    """Such as ``lost at step 5,000: critic was not finite``."""
    where = row["lost"]
    return "lost" if where is None else f"lost at step {where['step']:,}: {where['term']} was not finite"


def title(effect: Effect) -> str:
    """Such as ``ASPC on TD3BC``."""
    return f"{effect.adapter} on {effect.base}"


def summary(effects: Iterable[Effect], scope: str) -> list[str]:
    """Such as ``ASPC on TD3BC: +6.9 [+2.5, +11.5], n=8``, of each effect in a scope."""
    lines = []
    for effect in effects:
        if scope in effect.by_scope:
            difference = effect.by_scope[scope]
            badge = lost(difference.lost, difference.pairs, "pairs")
            lines.append(f"{title(effect)}: {changed(difference)}" + (f" ({badge})" if badge else ""))
    return lines


def evidence(difference: Difference) -> str | None:
    """How often the adapter was higher, seed by seed and any seed against any."""
    if difference.estimate is None or difference.improvement is None:
        return None
    pairs = f"higher in {difference.higher} of {difference.estimate.n} pairs"
    share = f"{difference.improvement.value:.2f}{_interval(difference.improvement, '{:.2f}'.format)}"
    return f"{pairs}; P(improvement) {share}"


def heading(grid: Grid) -> str:
    """The report's title."""
    return f"Results of {', '.join(_unique(suite['suite'] for suite in grid.suites))}"


def facts(grid: Grid, score: Score) -> list[tuple[str, str]]:
    """Facts of the runs: by which command, with what, on what."""
    rows = grid.rows
    cells = grid.cells.values()
    seeds = _range(_unique(len({row["seed"] for row in cell.rows}) for cell in cells))
    draws = _unique(len({row["data"]["fingerprint"] for row in cell.rows}) for cell in cells)
    on_draws = f", on draws of each data set: {_range(draws)}" if draws != ["1"] else ""
    stacks, data = counted(len(grid.stacks), "stack"), counted(len(grid.data), "data set")
    entries = {
        "Made by": _unique(suite["command"] for suite in grid.suites),
        "Settings of all": common(grid),
        "Grid": [f"{stacks} on {data}, seeds of each: {seeds}{on_draws}"],
        "Length": [f"{_range(_unique(row['steps'] for row in rows))} steps (minibatches per seed)"],
        "Score of a seed": [SCORES[score]],
        "Commit": _unique(commit(row["commit"]) for row in rows),
        "Device": _unique(row["device"] for row in rows),
        "Threads": [_range(_unique(row["threads"] for row in rows))],
        "Versions": _unique(", ".join(f"{name} {value}" for name, value in row["versions"].items()) for row in rows),
    }
    return [(name, "; ".join(values)) for name, values in entries.items() if values]


def common(grid: Grid) -> list[str]:
    """Such as ``TD3BC: critic=robust``, the settings that short names leave out."""
    return [f"{name}: {', '.join(settings)}" for name, settings in grid.names.common.items()]


def commit(record: dict[str, str | bool] | None) -> str:
    """Twelve digits of a commit, and whether the tree differed from it."""
    if record is None:
        return "unknown"
    return f"{str(record['hash'])[:12]}{' with uncommitted changes' if record['dirty'] else ''}"


def warnings(grid: Grid) -> list[str]:
    """Warnings that a reader must know before the numbers."""
    notes = []
    regenerated = [data.label for data in grid.data if data.regenerated]
    if regenerated:
        notes.append(f"{', '.join(regenerated)}: {REGENERATED[0].lower()}{REGENERATED[1:]}")
    fewest = min(len(cell.rows) for cell in grid.cells.values())
    if fewest < 5:
        notes.append(f"Some cells have {counted(fewest, 'seed')}: {_few(fewest)}")
    gone = sum(cell.lost for cell in grid.cells.values())
    if gone:
        notes.append(
            f"{gone} of {len(grid.rows)} seeds were lost (numbers that were not finite). A lost seed counts as a "
            "score of 0, the reference's random policy; where there is no score it is left out and said so."
        )
    if grid.missing:
        notes.append(f"{counted(len(grid.missing), 'planned cell')} not finished: {_named(grid.missing)}.")
    if not grid.all_scored and len(grid.data) > 1:
        notes.append("Some data sets have no reference returns, so nothing is put together over data sets.")
    return notes


def _named(missing: Sequence[Missing]) -> str:
    """The first few, with the reasons of those that failed."""
    reasons = [f", which failed ({cell.reason})" if cell.reason else "" for cell in missing]
    cells = [f"{cell.stack} on {cell.data}{reason}" for cell, reason in zip(missing, reasons, strict=True)]
    return "; ".join([*cells[:5], *(["..."] if len(cells) > 5 else [])])


def _few(seeds: int) -> str:
    if seeds == 1:
        return "one seed says nothing about how seeds vary, so there is no interval."
    share = "half" if seeds == 2 else "four fifths"
    return f"an interval named 95 % then holds the true mean about {share} of the time on one data set."


def published_note(figure: Published, grid: Grid) -> str:
    """Why a published figure and ours may differ, beyond chance."""
    data = next((data for data in grid.data if data.reference == figure["data"]), None)
    return REGENERATED if data is not None and data.regenerated else ""


def published_ours(figure: Published, grid: Grid) -> GridCell | None:
    """The cell that a published figure stands beside."""
    cells = grid.cells.values()
    return next((cell for cell in cells if _stands_beside(cell, figure)), None)


def _stands_beside(cell: GridCell, figure: Published) -> bool:
    return cell.rows[0]["stack"] == figure["stack"] and cell.data.reference == figure["data"]


def printed(figure: Published) -> str:
    """A published figure as it is printed."""
    spread = figure["spread"]
    return number(figure["score"]) + ("" if spread is None else f" ± {number(spread)}")


def cost(cell: GridCell) -> list[tuple[str, float]]:
    """Speed and memory of a cell, all its seeds together, as (text, number)."""
    row = cell.rows[0]
    return [
        (f"{row['steps']:,}", row["steps"]),
        (number(row["steps_per_second"]), row["steps_per_second"]),
        (duration(row["seconds"]), row["seconds"]),
        (duration(row["wall_seconds"]), row["wall_seconds"]),
        (f"{row['peak_memory'] / 2**20:,.0f}", row["peak_memory"]),
    ]


COSTS = ("steps", "steps/s", "training", "in all", "peak memory, MiB")


def duration(seconds: float) -> str:
    """Such as ``2 h 05 min``, ``3 min 20 s`` or ``12 s``."""
    whole = round(seconds)
    if whole >= 3_600:
        return f"{whole // 3_600} h {whole % 3_600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{seconds:.1f} s"


def counted(number: int, thing: str) -> str:
    """Such as ``1 seed`` or ``2 seeds``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _unique(values: Iterable[object]) -> list[str]:
    return list(dict.fromkeys(map(str, values)))


def _range(values: list[str]) -> str:
    return " or ".join(f"{int(value):,}" for value in sorted(values, key=int))
