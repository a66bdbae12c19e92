"""Columns of tables: the order of time, columns that are for nothing, forgotten ends, and names in other layouts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from adaptive_constraints.cli import main
from adaptive_constraints.data import doctor, load_dataset
from adaptive_constraints.data.checks.provenance import columns_text
from adaptive_constraints.data.repair.repairs import Repairs
from adaptive_constraints.errors import DatasetError

pa = pytest.importorskip("pyarrow")
from pyarrow import csv, parquet  # noqa: E402

EPISODES, STEPS = 4, 6
ROWS = EPISODES * STEPS
TIME = np.tile(np.arange(STEPS), EPISODES)
ENDS = TIME == STEPS - 1
DRAW = np.random.default_rng(5)
BASE = {
    "o0": np.arange(ROWS) * 1.0,
    "o1": DRAW.normal(size=ROWS),
    "a0": DRAW.uniform(-1, 1, ROWS),
    "r": DRAW.normal(size=ROWS),
    "ep": np.repeat([7, 3, 9, 1], STEPS),
}
SHUFFLED = np.concatenate([begin + DRAW.permutation(STEPS) for begin in range(0, ROWS, STEPS)])
assert (np.diff(SHUFFLED) < 0).any()
MAP = "obs=o*,action=a0,reward=r,episode=ep"
IN_ORDER = [float(row) for row in range(ROWS) if not ENDS[row]]  # last rows have no following one


def load(folder: Any, columns: dict[str, Any], mapped: str = MAP, order: Any = None, kind: str = "csv") -> Any:
    """The data set of a table of these columns, whose rows stand in this order."""
    table, path = pa.table(BASE | columns), folder / f"log.{kind}"
    table = table if order is None else table.take(pa.array(order))
    csv.write_csv(table, path) if kind == "csv" else parquet.write_table(table, path)
    return load_dataset(f"table:{path}#{mapped}")


def told(data: Any) -> list[float]:
    return data.observations[:, 0].tolist()


# Order


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("name", ["t", "frame_index", "step", "Time Step", "timestamp", "info.step", "", "index"])
def test_shuffled_rows_are_put_into_the_order_of_what_counts_steps(name, kind, tmp_path):
    data = load(tmp_path, {name: 3 + 2 * TIME}, order=SHUFFLED, kind=kind)
    assert told(data) == IN_ORDER
    assert "rows_sorted" in doctor(data).codes
    assert json.loads(data.provenance["columns"])["time"] == [name or "Unnamed: 0"]


@pytest.mark.parametrize("clock", [1.7e9 + 0.05 * TIME, (TIME * 10**9).astype("datetime64[ns]")])
def test_even_clocks_count_steps(clock, tmp_path):
    assert told(load(tmp_path, {"time": clock}, order=SHUFFLED, kind="parquet")) == IN_ORDER


def test_episodes_that_alternate(tmp_path):
    order = np.random.default_rng(1).permutation(ROWS)
    data = load(tmp_path, {"step": TIME}, order=order)
    first = list(dict.fromkeys(BASE["ep"][order].tolist()))
    wanted = [float(row) for number in first for row in np.flatnonzero(BASE["ep"] == number) if not ENDS[row]]
    assert told(data) == wanted
    assert told(load(tmp_path, {"step": TIME}, MAP + ",time=step", order=order)) == wanted


UNEVEN = np.cumsum(np.random.default_rng(2).uniform(0.1, 0.2, ROWS))
HOLED = np.where(np.arange(ROWS) == 8, np.nan, TIME)
DOUBTFUL = {
    "a clock that is not even": (
        UNEVEN,
        SHUFFLED,
        r"'t' looks like .*row \d+ is earlier than row \d+\): write time=t to",
    ),
    "a temperature": (DRAW.normal(size=ROWS), None, "or time=none if they are in order as they are"),
    "a countdown": (STEPS - TIME, None, "falls from each row to the next"),
    "ties": (TIME // 2, SHUFFLED, r"the same in rows \d+ and \d+: mend it, or give episodes different names"),
    "holes": (HOLED, SHUFFLED, r"NaN or missing in 1 rows"),
}


@pytest.mark.parametrize("case", DOUBTFUL)
def test_rows_out_of_an_order_that_nothing_proves_are_refused(case, tmp_path):
    values, order, said = DOUBTFUL[case]
    with pytest.raises(DatasetError, match=said):
        load(tmp_path, {"t": values}, order=order, kind="parquet")
    as_they_stand = load(tmp_path, {"t": values}, MAP + ",time=none", order=order, kind="parquet")
    stand = np.arange(ROWS) if order is None else order
    assert told(as_they_stand) == [float(stand[row]) for row in range(ROWS) if not ENDS[row]]
    assert "time" not in as_they_stand.provenance["columns"]


@pytest.mark.parametrize("values", [TIME, UNEVEN, TIME // 2, HOLED, np.zeros(ROWS)])
def test_rows_in_order_stay_as_they_are(values, tmp_path):
    data = load(tmp_path, {"t": values}, kind="parquet")
    assert told(data) == IN_ORDER and "rows_sorted" not in doctor(data).codes


def test_a_column_that_is_observed_too(tmp_path):
    seen = MAP.replace("obs=o*", "obs=o*+t")
    assert told(load(tmp_path, {"t": TIME}, seen, order=SHUFFLED)) == IN_ORDER
    assert told(load(tmp_path, {"t": DRAW.normal(size=ROWS)}, seen)) == IN_ORDER, "a temperature that is observed"
    assert told(load(tmp_path, {"t": STEPS - TIME}, seen)) == IN_ORDER, "the time that is left"


@pytest.mark.parametrize(
    ("values", "mapped", "said"),
    [
        (TIME // 2, MAP, r"the time 't' is the same in rows 0 and 1 of one episode"),
        (HOLED, MAP, r"the time 't' is NaN or infinite in 1 rows \(the first: 8\)"),
        (TIME, "obs=o*,action=a0,reward=r", r"the same in rows 0 and 6 of the table, and no episodes are named"),
    ],
)
def test_a_time_that_is_named_must_put_rows_into_order(values, mapped, said, tmp_path):
    with pytest.raises(DatasetError, match=said):
        load(tmp_path, {"t": values}, f"{mapped},time=t", kind="parquet")


def test_without_names_of_episodes_time_may_go_back_at_ends_only(tmp_path):
    mapped = "obs=o*,action=a0,reward=r"
    assert load(tmp_path, {"t": TIME, "done": ENDS.astype(int)}, mapped).episodes == EPISODES
    with pytest.raises(DatasetError, match=r"goes back from row 5 to row 6, where no end is marked"):
        load(tmp_path, {"t": TIME}, mapped)
    with pytest.raises(DatasetError, match="goes back from row"):
        load(tmp_path, {"t": TIME, "done": ENDS.astype(int)}, mapped, order=SHUFFLED)


# Columns that are for nothing


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("term", "terminal"), ("isTerminal", "terminal"), ("crashed", "terminal"), ("info.failure", "terminal"),
        ("trunc", "timeout"), ("is_last", "done"), ("Done", "done"), ("episode_end", "done"),
    ],
)  # fmt: skip
def test_a_forgotten_end_is_warned_of_with_the_remedy(name, role, tmp_path, capsys):
    ends = (ENDS & np.isin(BASE["ep"], [7, 9])) | (TIME == 2 if role == "timeout" else False)
    data = load(tmp_path, {name: ends.astype(int), "weight": np.ones(ROWS)})
    (finding,) = [finding for finding in doctor(data).findings if finding.code == "forgotten_end"]
    assert finding.severity == "warning" and f"write {role}={name} in the reference" in finding.remedy
    main(["doctor", data.name])
    shown = capsys.readouterr().out
    assert "columns: obs o0 + o1, action a0, reward r, episode ep; not used: " in shown and "weight" in shown
    if role != "timeout":
        mended = load(tmp_path, {name: ends.astype(int)}, f"{MAP},{role}={name}")
        assert mended.terminals.sum() == 2 and "forgotten_end" not in doctor(mended).codes


@pytest.mark.parametrize(
    ("columns", "more"),
    [
        ({"term": np.zeros(ROWS, int)}, ""),
        ({"term": np.full(ROWS, 0.5)}, ""),
        ({"end_effector": (TIME % 2)}, ""),
        ({"term": ENDS.astype(int), "done": ENDS.astype(int)}, ",terminal=term"),
        ({"trunc": ENDS.astype(int)}, ""),
    ],
)
def test_columns_that_lose_nothing_are_not_warned_of(columns, more, tmp_path):
    assert "forgotten_end" not in doctor(load(tmp_path, columns, MAP + more)).codes


def test_names_with_commas_and_pluses_are_one_column_each(tmp_path):
    data = load(tmp_path, {"done, fell": ENDS.astype(int), "pos+vel": TIME})
    (finding,) = [finding for finding in doctor(data).findings if finding.code == "forgotten_end"]
    assert "the column 'done, fell' is not used" in str(finding)
    assert json.loads(data.provenance["unused columns"]) == ["done, fell", "pos+vel"]
    assert "not used: done, fell + pos+vel" in columns_text(data)


def test_what_others_write_into_provenance_is_not_read(tmp_path):
    for columns, forgotten in (("all of them", "none"), ("3", '"none"')):
        data = replace(load(tmp_path, {}), provenance={"columns": columns, "forgotten ends": forgotten})
        assert columns_text(data) == "" and "forgotten_end" not in doctor(data).codes


def test_a_repaired_set_still_says_it(tmp_path):
    data = load(tmp_path, {"term": ENDS.astype(int)})
    assert "forgotten_end" in doctor(Repairs(action_low=-2.0).apply(data)[0]).codes


# Ends that contradict each other, and names


@pytest.mark.parametrize(
    ("mapped", "said"),
    [
        ("done=fin,timeout=cut", "if it holds true ends only, write terminal=fin,timeout=cut"),
        ("done=both,terminal=fin,timeout=never", "if it is right, write terminal=fin,done=both"),
        ("done=never,terminal=fin,timeout=cut", "if the others are right, write terminal=fin,timeout=cut"),
    ],
)
def test_contradicting_ends_name_the_remedy_and_it_works(mapped, said, tmp_path):
    true = ENDS & np.isin(BASE["ep"], [7, 9])
    flags = {"fin": true, "cut": ENDS & ~true, "both": ENDS, "never": ENDS & False}
    columns = {name: flag.astype(int) for name, flag in flags.items()}
    with pytest.raises(DatasetError, match=f"is not 'terminal or timeout' in .*: {said}"):
        load(tmp_path, columns, f"{MAP},{mapped}")
    mended = load(tmp_path, columns, f"{MAP},{said.partition('write ')[2]}")
    assert (mended.terminals.sum(), mended.timeouts.sum()) == (2, 2)


def test_names_of_lerobot_in_a_single_file(tmp_path):
    columns = {
        "observation.state": pa.array(DRAW.normal(size=(ROWS, 2)).tolist()),
        "observation.environment_state": pa.array(DRAW.normal(size=(ROWS, 1)).tolist()),
        "action": pa.array(DRAW.uniform(-1, 1, (ROWS, 2)).tolist()),
        "next.reward": pa.array(np.ones(ROWS)),
        "next.done": pa.array(ENDS),
        "episode_index": pa.array(BASE["ep"]),
        "frame_index": pa.array(TIME),
    }
    path = tmp_path / "file-000.parquet"
    parquet.write_table(pa.table(columns).take(pa.array(SHUFFLED)), path)
    data = load_dataset(f"table:{path}")
    assert (data.observation_dim, data.action_dim, int(data.terminals.sum())) == (3, 2, EPISODES)
    assert json.loads(data.provenance["columns"])["obs"] == ["observation.state", "observation.environment_state"]


def test_names_that_are_nearly_usual_are_proposed(tmp_path):
    names = {"state_x": "o0", "state_y": "o1", "next_state_x": "o0", "act_1": "a0", "rew_sum": "r"}
    path = tmp_path / "log.parquet"
    parquet.write_table(pa.table({name: BASE[column] for name, column in names.items()}), path)
    with pytest.raises(DatasetError, match=r"#obs=state_x\+state_y,action=act_1,reward=rew_sum; reward=0"):
        load_dataset(f"table:{path}")
