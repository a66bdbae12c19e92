"""The doctor on every kind of finding, and what cures it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from adaptive_constraints.data import Dataset, check_trainable, doctor, relabel_timeouts, split_at_joins
from adaptive_constraints.errors import DatasetError

from .small_data import LENGTHS, make, make_arrays


def long_arrays(marks: str) -> dict[str, Any]:
    """Three episodes of 100 steps, all ends marked alike."""
    arrays = make_arrays((100, 100, 100), timeouts=())
    if marks == "timeouts":
        arrays["terminals"], arrays["timeouts"] = arrays["timeouts"], arrays["terminals"]
    return arrays


def test_healthy_set_has_no_findings() -> None:
    diagnosis = doctor(make())
    assert diagnosis.findings == ()
    assert "nothing to report" in str(diagnosis)
    check_trainable(make())
    assert not doctor(Dataset.from_arrays(**long_arrays("timeouts"))).findings


@pytest.mark.parametrize("key", ["observations", "actions", "rewards", "next_observations"])
def test_doctor_names_rows_that_are_not_finite(key: str) -> None:
    array = make_arrays()[key].copy()
    array[[5, 7]] = [[np.nan], [np.inf]] if array.ndim == 2 else [np.nan, np.inf]
    finding = next(finding for finding in doctor(make(**{key: array})).errors if finding.code == "not_finite")
    assert (finding.count, finding.rows) == (2, (5, 7))
    with pytest.raises(DatasetError, match=rf"{key} has NaN or infinity in 2 rows \(rows 5, 7\)"):
        check_trainable(make(**{key: array}))


def test_doctor_finds_actions_beyond_bounds_but_allows_rounding() -> None:
    actions = make_arrays()["actions"].copy()
    actions[4, 1] = 1.0001
    assert doctor(make(actions=actions)).findings == ()
    actions[4, 1] = 1.01
    finding = doctor(make(actions=actions)).errors[0]
    assert (finding.code, finding.rows) == ("action_bounds", (4,))
    assert doctor(make(actions=actions, action_high=2.0)).findings == ()
    with pytest.raises(DatasetError, match="clip them"):
        check_trainable(make(actions=actions))


def test_doctor_finds_a_time_limit_marked_terminal_and_relabelling_cures_it() -> None:
    data = Dataset.from_arrays(**long_arrays("terminals"))
    finding = doctor(data).errors[0]
    assert (finding.code, finding.rows) == ("timeouts_as_terminals", (99, 199, 299))
    with pytest.raises(DatasetError, match=r"after exactly 100 steps.*relabel_timeouts"):
        check_trainable(data)
    cured = relabel_timeouts(data)
    assert np.flatnonzero(cured.timeouts).tolist() == [99, 199, 299]
    assert not cured.terminals.any()
    assert cured.fingerprint != data.fingerprint
    assert doctor(cured).findings == ()


def test_doctor_allows_equal_short_episodes_and_suspects_mixed_ones() -> None:
    assert doctor(Dataset.from_arrays(**make_arrays((99, 99), timeouts=()))).findings == ()
    mixed = Dataset.from_arrays(**make_arrays((100, 40, 100), timeouts=()))
    assert doctor(mixed).codes == ("terminals_at_limit",)
    check_trainable(mixed)
    assert np.flatnonzero(relabel_timeouts(mixed).terminals).tolist() == [139]


def test_doctor_finds_rows_that_are_terminal_and_timeout() -> None:
    ends = np.isin(np.arange(12), [3, 6, 11])
    every = make(terminals=ends, timeouts=np.isin(np.arange(12), [6]))
    assert doctor(every).errors[0].code == "terminal_and_timeout"
    assert not relabel_timeouts(every).terminals[6]
    some = make(terminals=np.isin(np.arange(12), [3, 6]), timeouts=np.isin(np.arange(12), [6, 11]))
    assert [(finding.severity, finding.code) for finding in doctor(some).findings] == [
        ("warning", "terminal_and_timeout")
    ]


def test_doctor_finds_missing_marks() -> None:
    one = make(terminals=np.zeros(12), timeouts=None)
    assert "no_marks" in [finding.code for finding in doctor(one).errors]
    several = make(terminals=np.zeros(12), timeouts=None, episode_ids=np.repeat([0, 1, 2], LENGTHS))
    assert doctor(several).codes == ("no_marks",)
    check_trainable(several)


def test_doctor_finds_joins_and_splitting_cures_them() -> None:
    following = make_arrays()["next_observations"].copy()
    following[8] += 1.0
    data = make(next_observations=following)
    finding = doctor(data).errors[0]
    assert (finding.code, finding.rows) == ("segment_join", (8,))
    cured = split_at_joins(data)
    assert cured.episode_lengths().tolist() == [4, 3, 2, 3]
    assert np.flatnonzero(cured.timeouts).tolist() == [6, 8]
    assert cured.column("next_action_mask")[8] == 0
    assert doctor(cured).findings == ()


def test_doctor_finds_scattered_episodes_and_marks_inside() -> None:
    ids = np.repeat([0, 1, 0], LENGTHS)
    assert doctor(make(episode_ids=ids)).errors[0].code == "episode_ids"
    inside = make(episode_ids=np.repeat([0, 1], [7, 5]))
    finding = doctor(inside).errors[0]
    assert (finding.code, finding.rows) == ("mark_inside_episode", (3,))
    assert inside.column("next_action_mask")[3] == 0


def test_doctor_suspects_next_observations_that_are_a_shifted_column() -> None:
    data = make(next_observations=np.roll(make_arrays()["observations"], -1, axis=0))
    (finding,) = doctor(data).findings
    assert (finding.code, finding.severity, finding.rows) == ("next_episode", "warning", (6,))  # the one timeout
    assert doctor(make()).findings == doctor(make(next_observations=None)).findings == ()


def test_doctor_advises_on_duplicates_and_constants() -> None:
    arrays = make_arrays((6,), timeouts=())
    twice: dict[str, Any] = {key: np.concatenate([array, array]) for key, array in arrays.items()}
    twice["observations"][:, 1] = twice["next_observations"][:, 1] = 4.0
    twice["rewards"][:] = 2.0
    data = Dataset.from_arrays(**twice)
    diagnosis = doctor(data)
    assert diagnosis.codes == ("duplicates", "constant_dimensions", "constant_rewards")
    assert (diagnosis.findings[0].count, diagnosis.findings[0].rows) == (6, (6, 7, 8, 9, 10))
    assert "[1] never change" in str(diagnosis)
    check_trainable(data)
    assert doctor(Dataset.from_arrays(**arrays)).codes == ("single_episode",)


def test_doctor_of_an_empty_set() -> None:
    arrays: dict[str, Any] = make().arrays()
    empty = Dataset(**{key: array if key.startswith("action_") else array[:0] for key, array in arrays.items()})
    assert doctor(empty).codes == ("empty",)
    with pytest.raises(DatasetError, match="no rows"):
        check_trainable(empty)


def test_refusal_lists_every_error() -> None:
    rewards, actions = make_arrays()["rewards"].copy(), make_arrays()["actions"].copy()
    rewards[1], actions[2] = np.nan, 3.0
    with pytest.raises(DatasetError) as caught:
        check_trainable(make(rewards=rewards, actions=actions))
    assert str(caught.value).count("\n  - ") == 2
