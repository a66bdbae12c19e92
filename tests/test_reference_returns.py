"""The table of reference returns, normalized scores, and the task of a file."""

from __future__ import annotations

import pytest

from adaptive_constraints.data import ReferenceScore, normalized_score, reference_of, reference_score
from adaptive_constraints.errors import DatasetError

from .small_data import make


def test_normalized_scores() -> None:
    assert normalized_score("hopper", [-20.272305, 3234.3]).tolist() == [0.0, 100.0]
    assert normalized_score("antmaze", 0.5) == 50.0
    with pytest.raises(DatasetError, match="no reference returns for the task 'chess'"):
        normalized_score("chess", 1.0)
    assert reference_score("chess") is None
    assert reference_score(None) is None


def test_every_reference_is_ordered_and_sourced() -> None:
    from adaptive_constraints.data.references import REFERENCE_SCORES

    for task, reference in REFERENCE_SCORES.items():
        assert isinstance(reference, ReferenceScore)
        assert reference.task == task
        assert reference.random < reference.expert
        assert reference.source


def test_a_data_sets_own_references_are_the_fallback() -> None:
    provenance = {"ref_min_score": "0.0", "ref_max_score": "10.0"}
    known = reference_of(make(task="hopper", provenance=provenance))
    assert known is not None
    assert known.expert == 3234.3
    assert reference_of(make()) is None
    assert reference_of(make(provenance={"ref_min_score": "1.0", "ref_max_score": "None"})) is None


@pytest.mark.parametrize(
    ("file", "task", "env_id"),
    [
        ("hopper_medium_replay-v2.hdf5", "hopper", "Hopper-v4"),
        ("walker2d-expert-v2.hdf5", "walker2d", "Walker2d-v4"),
        ("ant_medium-v2.hdf5", "ant", None),
        (
            "Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse_fixed.hdf5",
            "antmaze",
            "adaptive_constraints/AntMaze-umaze-v0",
        ),
        ("maze2d-large-sparse-v1.hdf5", "maze2d-large", None),
        ("maze2d-umaze-dense-v1.hdf5", "maze2d-umaze-dense", None),
        ("pen-human-v1.hdf5", "pen", None),
        ("hopping.hdf5", None, None),
    ],
)
def test_task_of_a_d4rl_file(file: str, task: str | None, env_id: str | None) -> None:
    from adaptive_constraints.data.references import task_of_file

    assert task_of_file(file) == (task, env_id)
