"""Damage at random: a file is read to an equal result, made anew, or refused by an error of this library that names it.

A minute's worth of seeded faults by default. ``python -m tests.test_faults 10000`` tries so many and counts what came
of them, by kind of file.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import pytest

from adaptive_constraints.errors import AdaptiveConstraintsError

from .fault_kinds import KINDS, Kind, quick

SECONDS = 2.0
"""For each kind, roughly."""


def outcome(kind: Kind, folder: Path, intact: object, whole: bytes, number: int) -> str:
    """What came of a fault: "equal", "refused", "content" where nobody can tell, or words that say what is wrong."""
    draw = random.Random(f"{kind.name}/{number}")
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(folder / "intact", work)
    what, damaged = draw.choice(kind.ways)(draw, whole)
    (work / kind.file).write_bytes(damaged)
    content = what.startswith(kind.silent) if kind.silent else False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if content:  # other numbers, of which what comes of them may be said
                warnings.simplefilter("ignore", UserWarning)
            result = kind.read(work)
    except AdaptiveConstraintsError as error:
        if kind.anew:
            return f"refused instead of made anew after {what}: {error}"
        name = Path(kind.file).name
        return (
            "refused" if content or name in str(error) else f"an error that does not name {name} after {what}: {error}"
        )
    except Exception as error:
        return f"{type(error).__name__} after {what}: {error}"
    if result == intact:
        return "equal"
    return "content" if content else f"another result after {what}"


def begin(kind: Kind, folder: Path) -> tuple[object, bytes]:
    """Make the files; what reading them comes to, and the bytes that are to be damaged."""
    (folder / "intact").mkdir(parents=True)
    kind.make(folder / "intact")
    shutil.copytree(folder / "intact", folder / "work")
    return kind.read(folder / "work"), (folder / "intact" / kind.file).read_bytes()


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    from adaptive_constraints.runs import folder as run_folder

    for name in ("commit", "picture"):
        monkeypatch.setattr(run_folder, name, lambda *_: None)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_damage_is_never_believed(kind, tmp_path, request):
    intact, whole = begin(kind, tmp_path)
    count = request.config.getoption("--faults") or int(1000 * SECONDS / (5 + kind.cost))
    outcomes = Counter(outcome(kind, tmp_path, intact, whole, number) for number in range(count))
    wrong = [text for text in outcomes if text not in ("equal", "refused", "content")]
    assert not wrong, f"{len(wrong)} of {count}: {wrong[:5]}"
    assert outcomes["refused"] or outcomes["equal"]


def main(total: int, *only: str) -> int:
    """Try so many faults, each kind as often (or ``only`` those kinds); a table, and what was wrong."""
    quick()
    per_kind, wrong = -(-total // len(KINDS)), []
    print(f"{'file':<40} {'faults':>7} {'refused':>8} {'equal':>7} {'content':>8} {'wrong':>6} {'s':>6}", flush=True)
    for kind in [kind for kind in KINDS if not only or kind.name in only]:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            intact, whole = begin(kind, Path(folder))
            outcomes = Counter(outcome(kind, Path(folder), intact, whole, number) for number in range(per_kind))
        bad = {text: count for text, count in outcomes.items() if text not in ("equal", "refused", "content")}
        wrong += bad
        numbers = f"{outcomes['refused']:>8} {outcomes['equal']:>7} {outcomes['content']:>8} {sum(bad.values()):>6}"
        print(f"{kind.name:<40} {per_kind:>7} {numbers} {time.monotonic() - began:>6.0f}", flush=True)
        for text in bad:
            print(f"    {text[:300]}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), *sys.argv[2:]))
