"""The speed benchmark: its contestants are the same algorithm, its counts are right, and it says what it found."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.speed import record, suites
from benchmarks.speed.contestant import Contestant, Shape, build
from benchmarks.speed.counts import count
from benchmarks.speed.floor import counts
from benchmarks.speed.measure import Plan, Timing, measure
from benchmarks.speed.plain_loop import PlainTD3BC
from benchmarks.speed.report import by_name, markdown, ratio_table

SMALL = Shape(batch=16, width=32, state=5, action=3, rows=1000)


def test_jax_and_the_plain_loop_are_the_same_algorithm():
    jax = pytest.importorskip("jax")
    from benchmarks.speed import jax_loop

    step = jax.jit(jax_loop.step, static_argnums=3)
    torch.manual_seed(0)
    plain = PlainTD3BC(SMALL)
    state = jax_loop.start(jax_loop.from_torch(plain.actor), [jax_loop.from_torch(net) for net in plain.critics])
    for number in range(1, 13):
        sizes = (SMALL.state, SMALL.action, 1, SMALL.state)
        batch = [*(torch.randn(SMALL.batch, size) for size in sizes), (torch.rand(SMALL.batch, 1) < 0.1).float()]
        noise = torch.randn(SMALL.batch, SMALL.action)
        theirs = plain.step(batch, noise, number % 2 == 0)
        columns = [column.squeeze(1).numpy() for column in batch]
        state, ours = step(state, columns, noise.numpy(), number % 2 == 0)
        assert [float(loss) for loss in ours] == pytest.approx([float(loss) for loss in theirs], rel=1e-4)


@pytest.mark.parametrize("seeds", [1, 3])
def test_products_of_a_step_are_those_counted_by_hand(seeds):
    counted = counts(Contestant("case", "floor", seeds=seeds, shape=SMALL))
    s, a, w = SMALL.state, SMALL.action, SMALL.width
    policy, critic = s * w + w * w + w * a, (s + a) * w + w * w  # a single output is no matrix product
    # Critics: the targets' policy; targets, critics and weights' gradients; the gradient into the second layer.
    critics = policy + 2 * (3 * critic + w * w)
    # Policy: forward and weights' gradients; gradients into its layers; critic 1 there and back.
    actor = 2 * policy + w * a + w * w + 2 * critic
    assert counted.products == 2 * SMALL.batch * seeds * (critics + actor / 2)


def test_traffic_is_each_input_and_output_once():
    x, row = torch.zeros(4, 8), torch.zeros(8)
    counted = count(lambda steps: (x + row.expand(4, 8)).view(-1), 1)
    assert (counted.bytes, counted.calls, counted.products) == (4 * (32 + 8 + 32), 1, 0)


@pytest.mark.parametrize(
    "contestant",
    [
        Contestant("plain", "plain", shape=SMALL),
        Contestant("ours", "ours", shape=SMALL, seeds=2, adapters=("ASPC",), traced=False),
        Contestant("products", "floor", shape=SMALL),
        Contestant("copies", "floor", shape=SMALL, floor="copies"),
    ],
    ids=lambda contestant: contestant.name,
)
def test_a_contestant_runs_what_it_is_asked_for(contestant):
    assert build(contestant, "cpu").run(20) == 20


def test_a_process_is_timed_and_what_it_says_survives_json():
    (timing,) = measure([Contestant("plain", "plain", shape=SMALL)], Plan(blocks=2, seconds=0.01), "test")
    assert len(timing.seconds) == 2
    assert all(seconds > 0 for seconds in timing.seconds)
    assert timing.steps % 20 == 0
    assert Timing.from_json(json.loads(json.dumps(timing.to_json()))) == timing


def timings(**seconds: float) -> list[dict]:
    """Made-up seconds per step, by contestant."""
    everybody = {contestant.name: contestant for contestant in suites.main_suite("cpu")}
    return [
        Timing(everybody[name], steps=20, seconds=[value, value * 1.01, value * 0.99]).to_json()
        for name, value in seconds.items()
    ]


def test_every_target_is_told_reached_missed_or_not_measured():
    timed = timings(
        **{
            "plain loop": 2.1e-3,
            "ours compiled, 1 seed": 1e-3,
            "ours + ASPC compiled, 1 seed": 1.2e-3,
            "JAX, 1 seed": 5e-4,
        }
    )
    rows = [line for line in ratio_table(by_name(timed), "cpu") if "at least" in line or "at most" in line]
    said = {row.split("|")[1].strip(): row.split("|")[4].strip() for row in rows}
    assert said == {
        "ours compiled, 1 seed / plain loop": "reached",
        "ours bf16 compiled, 1 seed / plain loop": "not measured",
        "ours compiled, 1 seed / JAX, 1 seed": "missed by a factor of 2.00",
        "ours compiled, 8 seeds / JAX, 8 seeds": "not measured",
        "ours compiled, 1 seed, 64/64 / plain loop, 64/64": "not measured",
        "ours compiled, 1 seed, 64/64 / JAX, 1 seed, 64/64": "not measured",
        "ours compiled, 8 seeds, 64/64 / JAX, 8 seeds, 64/64": "not measured",
        "ours + ASPC compiled, 1 seed: added to ours compiled, 1 seed": "missed by 15 points",
        "ours + SSAR compiled, 1 seed: added to ours compiled, 1 seed": "not measured",
        "ours + ANQ compiled, 1 seed: added to ours compiled, 1 seed": "not measured",
    }


def test_the_gap_to_the_floor_is_the_larger_half():
    names = ("ours, 8 seeds", "floor of products, 8 seeds", "floor of copies, 8 seeds")
    (gap,) = suites.gaps(by_name(timings(**dict(zip(names, (8e-3, 4e-3, 1e-3), strict=True)))))
    assert gap.times == pytest.approx([2, 2, 2])
    assert gap.target("cuda") == 3.0


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_comparisons_name_contestants_of_the_suite(device):
    known = {contestant.name for contestant in suites.main_suite(device)}
    named = {name for comparison in suites.comparisons(device) for name in (comparison.first, comparison.second)}
    assert named <= known


def test_the_report_shows_ratios_first_and_who_was_skipped(tmp_path):
    skipped = Timing(suites.D3RLPY, skipped="d3rlpy cannot be imported").to_json()
    result = {
        "command": "python -m benchmarks.speed", "commit": None, "versions": {"torch": "2"}, "device": "cpu",
        "device_type": "cpu", "sweep_threads": "1", "by_threads": {"1": [*timings(**{"plain loop": 2e-3}), skipped]},
        "sweeps": {"batch": [Timing(suites.sweep("batch")[64][0], seconds=[1e-3]).to_json()]},
    }  # fmt: skip
    record.write(tmp_path / "speed.jsonl", result)
    assert len((tmp_path / "speed.jsonl").read_text().splitlines()) == 4
    read = record.read(tmp_path / "speed.jsonl")
    assert read == result
    text = markdown(read)
    assert text.index("### Ratios") < text.index("### Steps") < text.index("### Cost by batch")
    assert "skipped: d3rlpy cannot be imported" in text
    assert "| 64    | 1000" in text
