"""Data sets made of other ones, in Python and as references: rows, facts of recordings, provenance, errors."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from adaptive_constraints import load_agent
from adaptive_constraints.cli import main
from adaptive_constraints.data import Dataset, check_trainable, load_dataset, save_npz
from adaptive_constraints.data.sources.expressions import parse, sources_of
from adaptive_constraints.data.sources.loaders import check_reference
from adaptive_constraints.errors import DatasetError, SuiteError
from adaptive_constraints.experiments.suite import load_suite

from .small_data import assert_same, make


def recordings(lengths, dims=2, seed=0, **options) -> Dataset:
    """Recordings of these lengths whose rewards are their number, so that returns and origins can be told."""
    draw, rows = np.random.default_rng(seed), sum(lengths)
    last = np.cumsum(lengths) - 1
    ids = np.repeat(np.arange(len(lengths)), lengths)
    walks = [draw.normal(size=(length + 1, dims)) for length in lengths]
    return Dataset.from_arrays(
        observations=np.concatenate([walk[:-1] for walk in walks]),
        next_observations=np.concatenate([walk[1:] for walk in walks]),
        actions=draw.uniform(-1, 1, (rows, 1)),
        rewards=ids + 1.0,
        terminals=np.isin(np.arange(rows), last[::2]),
        timeouts=np.isin(np.arange(rows), last[1::2]),
        episode_ids=ids,
        **{"name": f"made{seed}", **options},
    )


MANY = recordings([3 + 7 * k % 11 for k in range(60)])


def origins(part: Dataset, whole: Dataset = MANY) -> list[int]:
    """Rows of a part, by their place in the whole; each must be there once, unchanged."""
    place = {row.tobytes(): number for number, row in enumerate(whole.observations)}
    rows = [place[row.tobytes()] for row in part.observations]
    for key in ("actions", "rewards", "next_observations", "terminals", "timeouts"):
        np.testing.assert_array_equal(getattr(part, key), getattr(whole, key)[rows])
    return rows


def starts(data: Dataset) -> list[int]:
    return data.episode_starts.tolist()


# What is taken


@pytest.mark.parametrize("episodes", [[1, 4, 59], slice(10, 50, 7), np.arange(60) % 13 == 2, 5, range(3, 6)])
def test_subset_of_episodes_is_their_rows(episodes):
    numbers = np.atleast_1d(np.arange(60)[episodes if isinstance(episodes, slice) else np.asarray(episodes)])
    part = MANY.subset(episodes=episodes)
    assert origins(part) == np.flatnonzero(np.isin(MANY.episode_ids, numbers)).tolist()
    assert part.episode_returns().tolist() == MANY.episode_returns()[numbers].tolist()
    assert part.name.startswith("made0 | subset(episodes=")


@pytest.mark.parametrize("share", [0.001, 0.1, 0.29, 0.5, 1.0])
def test_top_keeps_the_best_episodes_in_their_order(share):
    part = MANY.top(share)
    count = max(1, round(np.floor(round(share * 60, 6))))
    best = sorted(sorted(range(60), key=lambda number: (-MANY.episode_returns()[number], number))[:count])
    assert part.episode_ids[starts(part)].tolist() == best
    assert origins(part) == np.flatnonzero(np.isin(MANY.episode_ids, best)).tolist()


def test_top_counts_returns_of_whole_recordings():
    pieces = MANY.subset(np.arange(len(MANY)) % 3 == 0)
    best = np.argsort(-MANY.episode_returns()[np.unique(pieces.episode_ids)], kind="stable")[0]
    assert np.unique(pieces.top(0.02).episode_ids).tolist() == [np.unique(pieces.episode_ids)[best]]


@pytest.mark.parametrize("p", [0.01, 0.05, 0.1, 0.5, 0.9, 1.0])
def test_a_fraction_is_of_whole_episodes_and_as_near_as_they_allow(p):
    part = MANY.fraction(p, seed=3)
    assert np.isin(part.episode_lengths(), MANY.episode_lengths()).all()
    origins(part)
    assert abs(len(part) - p * len(MANY)) <= MANY.episode_lengths().max() / 2
    assert part.fingerprint == MANY.fraction(p, seed=3).fingerprint
    if p < 1:
        assert part.episode_ids.tolist() != MANY.fraction(p, seed=4).episode_ids.tolist()


def test_smaller_fractions_lie_in_greater_ones():
    kept = [set(MANY.fraction(p, seed=1).episode_ids.tolist()) for p in (0.05, 0.1, 0.4, 1.0)]
    assert all(less < more for less, more in itertools.pairwise(kept))


def test_concat_keeps_everything_in_episodes_of_its_own():
    one, two = recordings([4, 2]), recordings([3], seed=1)
    both = Dataset.concat(one, two, one)
    assert both.episode_ids.tolist() == [0] * 4 + [1] * 2 + [2] * 3 + [3] * 4 + [4] * 2
    assert both.episode_returns().tolist() == [4.0, 4.0, 3.0, 4.0, 4.0]
    for key in ("observations", "actions", "next_observations", "terminals", "timeouts", "rewards"):
        joined = np.concatenate([getattr(data, key) for data in (one, two, one)])
        np.testing.assert_array_equal(getattr(both, key), joined)
    assert one.concat() is one


def test_concat_keeps_what_is_agreed_on():
    options = {"env_id": "Pendulum-v1", "task": "hopper", "provenance": {"licence": "MIT", "source": "a"}}
    one = recordings([4, 2], **options, extra={"mass": np.arange(6.0), "own": np.arange(6)})
    two = recordings(
        [3], seed=1, **options | {"provenance": {"licence": "MIT", "source": "b"}}, extra={"mass": [7, 8, 9]}
    )
    both = one.concat(two)
    assert (both.env_id, both.task, both.provenance["licence"]) == ("Pendulum-v1", "hopper", "MIT")
    assert "source" not in both.provenance
    assert both.extra.keys() == {"mass"} and both.extra["mass"].tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9]
    assert one.concat(recordings([3])).env_id is None


def test_double_precision_survives_concat():
    far = recordings([5, 5])
    stamps = Dataset.from_arrays(
        observations=1.7e9 + np.arange(20.0).reshape(10, 2),
        actions=far.actions,
        rewards=far.rewards,
        terminals=far.terminals,
        timeouts=far.timeouts,
    )
    both = far.concat(stamps)
    assert both.observations.dtype == np.float64
    assert np.ptp(both.observations[-3:, 0]) > 1


def test_unknown_returns_stay_unknown_beside_known_ones():
    pieces = Dataset.from_arrays(
        observations=np.random.default_rng(0).normal(size=(30, 2)),
        next_observations=np.random.default_rng(1).normal(size=(30, 2)),
        actions=np.zeros((30, 1)),
        rewards=np.ones(30),
        terminals=np.zeros(30, bool),
        episode_ids=np.arange(30),
    )
    assert pieces.pieces == 30
    assert MANY.concat(pieces).pieces == 30
    with pytest.raises(DatasetError, match="30 of its 90 episodes are pieces"):
        MANY.concat(pieces).top(0.1)


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("rows", [None, 60])
def test_mix_has_the_share_of_the_second_that_was_asked_for(ratio, rows):
    other = recordings([5] * 40, seed=1)
    mixed = Dataset.mix(MANY, other, ratio, rows=rows, seed=2)
    mine = {row.tobytes() for row in MANY.observations}
    theirs = sum(row.tobytes() not in mine for row in mixed.observations)
    wanted = rows or min(len(MANY) / (1 - ratio), len(other) / ratio)
    longest = MANY.episode_lengths().max()
    assert abs(theirs - ratio * wanted) <= 2.5 + 1e-6
    assert abs(len(mixed) - theirs - (1 - ratio) * wanted) <= longest / 2
    assert len(mixed) == len({row.tobytes() for row in mixed.observations}), "no row twice"
    assert mixed.fingerprint == MANY.mix(other, ratio, rows=rows, seed=2).fingerprint
    check_trainable(mixed)


# Noise


def test_noise_has_the_size_that_was_asked_for_and_stays_in_bounds():
    rows = 20_000
    data = Dataset.from_arrays(
        observations=np.zeros((rows, 2)) + np.arange(rows)[:, None],
        actions=np.tile([0.0, 10.0], (rows, 1)),
        rewards=np.zeros(rows),
        terminals=np.isin(np.arange(rows) % 300, [99, 299]),
        action_low=[-1, 0],
        action_high=[1, 20],
    )
    noisy = data.add_action_noise(0.1, seed=5)
    moved = (noisy.actions - data.actions).astype(np.float64)
    np.testing.assert_allclose(moved.std(axis=0), [0.1, 1.0], rtol=0.03)
    np.testing.assert_allclose(moved.mean(axis=0), [0, 0], atol=0.03)
    assert abs(np.corrcoef(moved.T)[0, 1]) < 0.03
    np.testing.assert_array_equal(noisy.observations, data.observations)
    wild = data.add_action_noise(5.0)
    assert (wild.actions.min(axis=0) == [-1, 0]).all() and (wild.actions.max(axis=0) == [1, 20]).all()
    some = (data.add_action_noise(0.1, share=0.3).actions != data.actions).all(axis=1)
    assert abs(some.mean() - 0.3) < 0.02
    assert data.add_action_noise(0.1).fingerprint != noisy.fingerprint
    check_trainable(noisy)


# Provenance


def test_what_was_done_stands_in_provenance_and_fingerprint():
    one = MANY.top(0.5).add_action_noise(0.1, seed=7)
    assert one.provenance["derivation"] == f"{MANY.fingerprint} | top(0.5) | add_action_noise(0.1, seed=7)"
    assert one.provenance["derived_from"] == f"{MANY.fingerprint}: made0"
    assert one.name == "made0 | top(0.5) | add_action_noise(0.1, seed=7)"
    whole = MANY.fraction(1.0)
    assert all((array == MANY.arrays()[key]).all() for key, array in whole.arrays().items())
    assert whole.fingerprint != MANY.fingerprint, "how it was made counts"
    mixed = MANY.mix(recordings([5] * 40, seed=1).top(0.5), 0.5)
    assert mixed.provenance["derived_from"].count("; ") == 1 and " | mix((" in mixed.provenance["derivation"]


def test_the_place_of_a_file_does_not_count(tmp_path):
    prints = set()
    for name in ("a.npz", "b.npz"):
        save_npz(MANY, tmp_path / name)
        prints.add(load_dataset(f"npz:{tmp_path / name} | fraction(0.3, seed=2)").fingerprint)
    assert prints == {MANY.fraction(0.3, seed=2).fingerprint}


def test_a_derived_set_survives_its_file(tmp_path):
    noisy = MANY.subset(np.arange(len(MANY)) % 5 < 3).concat(MANY.top(0.2)).add_action_noise(0.3)
    save_npz(noisy, tmp_path / "noisy.npz")
    again = load_dataset(f"npz:{tmp_path / 'noisy.npz'}")
    assert_same(again, noisy)
    assert again.fingerprint == noisy.fingerprint and again.provenance == noisy.provenance


def test_nothing_is_changed_in_place():
    before = MANY.fingerprint
    MANY.add_action_noise(1.0), MANY.top(0.1), MANY.mix(MANY, 0.5)
    again = Dataset.from_arrays(**{key: getattr(MANY, key) for key in MANY.arrays()})
    assert again.fingerprint == before
    assert not MANY.add_action_noise(1.0).actions.flags.writeable


# References


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data") / "many (1).npz"
    save_npz(MANY, path)
    return f"npz:{path}"


@pytest.mark.parametrize(
    ("text", "derive"),
    [
        ("A | fraction(0.1, seed=3)", lambda a: a.fraction(0.1, seed=3)),
        ("A|top(0.2)|add_action_noise(0.1,share=.5)", lambda a: a.top(0.2).add_action_noise(0.1, share=0.5)),
        ("A | subset(episodes=:0)", None),
        ("A | subset(episodes=0:3+7+50:60:4)", lambda a: a.subset(episodes=[0, 1, 2, 7, 50, 54, 58])),
        ("A | subset(episodes=58:)", lambda a: a.subset(episodes=[58, 59])),
        ("A | concat(A | top(0.1), A)", lambda a: a.concat(a.top(0.1), a)),
        ("A | mix(A, 0.25, rows=90)", lambda a: a.mix(a, 0.25, rows=90)),
        ("A | mix(ratio=0.25, other=A | top(0.5), seed=4)", lambda a: a.mix(a.top(0.5), 0.25, seed=4)),
        ("(A | top(0.5)) | mix((A | mix(A, 0.3, seed=1)), 0.2)", lambda a: a.top(0.5).mix(a.mix(a, 0.3, seed=1), 0.2)),
    ],
)
def test_a_reference_does_what_python_does(file, text, derive):
    reference = text.replace("A", file)
    if derive is None:
        with pytest.raises(DatasetError, match="subset takes whole episodes here"):
            load_dataset(reference)
        return
    check_reference(reference)
    data = load_dataset(reference)
    assert data.fingerprint == derive(load_dataset(file)).fingerprint
    assert load_dataset(data.name).fingerprint == data.fingerprint, "its name is its reference"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A | tpo(0.1)", "no operation 'tpo' on data sets; did you mean 'top'"),
        ("A | top", r"top takes its arguments in round brackets, such as 'A \| top\(0.1\)'"),
        ("A | top(0.1", "top takes its arguments in round brackets"),
        ("A | top(1.5)", r"fraction must be a number in \(0, 1\], not 1.5"),
        ("A | top('x')", r"fraction must be a number in \(0, 1\], not 'x'"),
        ("A | top()", "missing a required argument: 'fraction'"),
        ("A | fraction(0.1, sed=3)", "unexpected keyword argument 'sed'"),
        ("A | fraction(0.1, seed=0.5)", "seed must be a whole number"),
        ("A | fraction(0.1, seed=1, seed=2)", "fraction has seed twice"),
        ("A | fraction(seed=1, 0.1)", "'0.1' stands after a named argument"),
        ("A | top(0.1) top(0.2)", r"'top\(0.2\)' after top\(...\) means nothing"),
        ("A | concat()", "concat takes data sets"),
        ("A | mix(A)", None),
        ("A | mix(hopper, 0.5)", "unknown data reference 'hopper'"),
        ("A | mix(A, 0.5) | subset(4)", "subset takes whole episodes here"),
        ("mix:A+B@0.5", r"write what is done behind the data, such as 'A \| mix\(B, 0.5, seed=3\)'"),
        ("mix(A, 0.5)", "write what is done behind the data"),
    ],
)
def test_what_a_reference_cannot_say_is_refused_before_anything_is_loaded(text, said):
    reference = text.replace("A", "npz:/nowhere/at all.npz")
    if said is None:
        return check_reference(reference)
    with pytest.raises(DatasetError, match=said):
        check_reference(reference)
    with pytest.raises(DatasetError, match=said):
        load_dataset(reference)


@pytest.mark.parametrize("name", ["pend.npz", "some/pend.npz", "npy:pend.npz"])
def test_a_bare_file_name_is_told_its_scheme(name):
    with pytest.raises(DatasetError, match=rf"did you mean npz:{name.removeprefix('npy:')}\?"):
        load_dataset(name)


def test_a_bar_in_a_file_name_is_part_of_it(tmp_path):
    save_npz(make(), tmp_path / "a|b.npz")
    assert_same(load_dataset(f"npz:{tmp_path / 'a|b.npz'}"), make())


def test_all_sources_are_named():
    assert sources_of("A | mix(B | concat(C, (D | top(0.1))), 0.5) | top(1)") == ["A", "B", "C", "D"]
    assert parse("A | concat(B, C)").operations[0].positional == (parse("B"), parse("C"))


# On the command line


SHORT = [
    "--learner",
    "td3_bc",
    "hidden=8",
    "batch_size=8",
    "--steps",
    "4",
    "--device",
    "cpu",
    "--eval-env",
    "none",
    "--quiet",
]


def test_commands_take_what_python_takes(file, tmp_path, capsys):
    reference, out = f"{file} | fraction(0.5, seed=2) | add_action_noise(0.1)", tmp_path / "run"
    data = load_dataset(reference)
    assert main(["doctor", reference]) == 0
    assert f"{len(data)} rows" in capsys.readouterr().out
    assert main(["train", "--data", reference, *SHORT, "--out", str(out)]) == 0
    capsys.readouterr()
    kept = json.loads((out / "config.json").read_text())["data"]
    known = {"name": data.name, "fingerprint": data.fingerprint, "rows": len(data), "episodes": data.episodes}
    assert kept == known | {"mean_return": data.mean_return}
    assert load_agent(out).data_name == data.name, "so that fine-tuning finds it again"
    lines = (out / "metrics.jsonl").read_bytes()
    assert main(["train", "--data", data.name, *SHORT, "--out", str(out)]) == 0, "however spaced, it is the same run"
    assert (out / "metrics.jsonl").read_bytes() == lines
    assert main(["train", "--data", reference.replace("seed=2", "seed=3"), *SHORT, "--out", str(out)]) == 2
    capsys.readouterr()
    assert main(["repair", reference, str(tmp_path / "fixed.npz"), "--clip-actions"]) == 0
    assert load_dataset(f"npz:{tmp_path / 'fixed.npz'}").provenance["derivation"] == data.provenance["derivation"]
    assert main(["repair", f"{file} | top(0.1)", file.removeprefix("npz:"), "--clip-actions"]) == 2
    assert "is what is to be repaired" in capsys.readouterr().err


def test_suites_take_references_and_a_derived_set_has_the_preset_of_its_source(tmp_path):
    suite = tmp_path / "scarce.toml"
    suite.write_text(
        "about = 'x'\nsteps = 4\nseeds = 1\n"
        "data = ['d4rl:hopper-medium-v2.hdf5 | fraction({0.01,0.1}, seed=3)', 'd4rl:hopper-medium-v2.hdf5']\n"
        "[[grid]]\nlearners = 'CQL preset={data}'\n"
    )
    cells = load_suite(suite).cells
    assert [cell.data.partition(" | ")[2] for cell in cells] == ["fraction(0.01, seed=3)", "fraction(0.1, seed=3)", ""]
    assert len({cell.id for cell in cells}) == 3
    assert {cell.learner_words for cell in cells} == {("CQL", "preset=hopper-medium")}
    suite.write_text(suite.read_text().replace("seed=3", "sed=3"))
    with pytest.raises(SuiteError, match="fraction: got an unexpected keyword argument 'sed'"):
        load_suite(suite)


# Refusals


WRONG = {
    "no episodes": (lambda: MANY.subset(episodes=[]), "has no episodes"),
    "episodes out of order": (lambda: MANY.subset(episodes=[3, 1]), "ascending"),
    "an episode twice": (lambda: MANY.subset(episodes=[3, 3]), "ascending episode numbers, each once"),
    "no such episode": (lambda: MANY.subset(episodes=[60]), "a mask of the 60 episodes"),
    "a mask of rows": (lambda: MANY.subset(episodes=MANY.terminals), "a mask of the 60 episodes"),
    "both": (lambda: MANY.subset([0], episodes=[0]), "rows or episodes: give one"),
    "neither": (lambda: MANY.subset(), "rows or episodes: give one"),
    "a list": (lambda: Dataset.concat([MANY, MANY]), r"as in Dataset.concat\(a, b\)"),
    "a reference": (lambda: MANY.concat("bundled:hopper"), "data sets are needed"),
    "nothing": (lambda: MANY.top(0), r"in \(0, 1\], not 0"),
    "all of the second": (lambda: MANY.mix(MANY, 1.0), r"ratio must be a number in \(0, 1\)"),
    "too many rows": (lambda: MANY.mix(MANY, 0.5, rows=5000), "more than there are: at most"),
    "other dimensions": (lambda: MANY.concat(recordings([3], dims=4)), "2 observation and 1 action .* 4 and 1"),
    "other bounds": (lambda: MANY.mix(recordings([3], action_high=2.0), 0.5), "bound actions differently"),
    "no bounds": (lambda: recordings([3], action_high=np.inf).add_action_noise(0.1), "no finite action bounds"),
    "negative noise": (lambda: MANY.add_action_noise(-0.1), "scale must be a number > 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_derived_is_said(case):
    call, said = WRONG[case]
    with pytest.raises(DatasetError, match=said):
        call()
