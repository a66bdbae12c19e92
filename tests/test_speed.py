"""The speed benchmark: its contestants are the same algorithm, its counts are right, and it says what it found."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from benchmarks.speed import record, suites
from benchmarks.speed.contestant import Contestant, Shape, build
from benchmarks.speed.counts import count
from benchmarks.speed.floor import counts
from benchmarks.speed.inside import seconds_of_products
from benchmarks.speed.measure import Plan, Timing, measure
from benchmarks.speed.picture import plot
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
        Contestant("robust", "ours", shape=SMALL, learner="TD3BC critic=robust"),
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
    everybody = {
        contestant.name: contestant for contestant in suites.main_suite("cpu") + suites.stack_suite("cpu", 256)
    }
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
    (gap,) = suites.gaps(by_name(timings(**dict(zip(names, (8e-3, 1e-3, 4e-3), strict=True)))))
    assert gap.times == pytest.approx([2, 2, 2])
    assert gap.target("cuda") == 3.0


def test_a_compiled_step_stands_on_its_own_products_alone():
    names = ("DiffusionQL compiled, 1 seed", "floor of products of DiffusionQL, 1 seed")
    copies = {"floor of copies of DiffusionQL, 1 seed": 9e-3}
    timed = by_name(timings(**dict(zip(names, (8e-3, 4e-3), strict=True)), **copies))
    gap = suites.gap(suites.ours(learner="DiffusionQL", compiled=True), timed)
    assert gap is not None
    assert gap.times == pytest.approx([2, 2, 2])
    assert gap.halves == {"products": 4e-3}
    assert (gap.target("cpu"), gap.target("cuda")) == (1.5, None)
    assert suites.gap(suites.ours(learner="FQL", compiled=True), timed) is None


@pytest.mark.parametrize(
    ("learner", "adapters"), [("IQL", ()), (suites.ROBUST, ()), ("TD3BC", ("SSAR",)), ("TD3BC", ("ASPC",))]
)
def test_a_floor_counts_the_stack_that_it_names(learner, adapters):
    step = suites.ours(learner=learner, adapters=adapters)
    floors = [suites.floor("products", each) for each in (step, suites.ours())]
    own, bare = (counts(replace(contestant, shape=SMALL)) for contestant in floors)
    assert own.products > bare.products
    assert own.bytes > bare.bytes
    assert own == counts(replace(step, shape=SMALL, compiled=True))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("size", suites.STACK_SIZES)
def test_every_stack_stands_beside_its_floor(device, size):
    suite = suites.stack_suite(device, size)
    names = {contestant.name for contestant in suite}
    steps = [contestant for contestant in suite if contestant.maker == "ours"]
    assert len(names) == len(suite)
    assert {(step.learner, step.adapters) for step in steps} == set(suites.STACKS)
    assert {suites.floor(half, step).name for step in steps for half in suites.halves_under(step)} <= names
    assert any(step.compiled for step in steps) == (device == "cpu")
    assert all((contestant.shape.batch, contestant.shape.width) == (size, size) for contestant in suite)


def stacks() -> dict:
    """A made-up result of stacks at one size: a robust critic that misses its target, and ILQ that reaches it."""
    half = {"floor of products, 1 seed": 1e-3, "floor of copies, 1 seed": 4e-3, "ours, 1 seed": 6e-3}
    robust = {"TD3BC critic=robust compiled, 1 seed": 4e-3, "floor of products of TD3BC critic=robust, 1 seed": 2e-3}
    ilq = {"ours + ILQ compiled, 1 seed": 8e-3, "floor of products of ours + ILQ, 1 seed": 7e-3}
    timed = timings(**half, **robust, **ilq, **{"ours compiled, 1 seed": 2e-3, "plain loop": 9e-3})
    for timing in timed:
        if timing["contestant"]["maker"] == "floor":
            timing["counts"] = [1e9, 2e6]
    return {
        "command": "python -m benchmarks.speed --stacks", "commit": None, "versions": {"torch": "2"}, "device": "cpu",
        "device_type": "cpu", "suite": "stacks", "sweep_threads": "1", "by_threads": {"1": timed}, "sweeps": {},
    }  # fmt: skip


def test_the_report_of_stacks_holds_each_against_its_floor():
    lines = markdown(stacks()).partition("### Steps")[0].splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| TD3BC")]
    bare, robust, ilq = rows
    assert bare == [
        *("TD3BC", "1,000", "2", "6", "1.50x (1.50x to 1.50x)"),
        *("2", "2.00x (2.00x to 2.00x)", "-", "-", "-", "-"),
    ]
    assert robust[7:] == ["at most 1.3x", "missed by a factor of 1.54", "+100%", "+100%"]
    assert ilq[7:] == ["at most 1.5x", "reached", "+300%", "+600%"]
    assert "Beside them, ms per step: plain loop 9, JAX, 1 seed -." in lines
    assert "### Stacks at batch 256, width 256 (1 thread)" in lines


def test_stacks_are_drawn(tmp_path):
    image = pytest.importorskip("matplotlib.image")
    plot(stacks(), tmp_path / "speed.png")
    height, width, _ = image.imread(tmp_path / "speed.png").shape
    assert (width, height) == (1280, 1480)


def test_products_are_added_up_as_the_libraries_write_them_down():
    text = """MKL_VERBOSE oneMKL 2024.0 Update 2 Product build 20240605 for Intel(R) 64 architecture, 2.10GHz lp64
MKL_VERBOSE SGEMM(N,N,256,256,17,0x7fff,0x5634,256,0x5634,42,0x7fff,0x5634,256) 90.50us CNR:OFF Dyn:0 TID:0  NThr:1
MKL_VERBOSE SGEMM_BATCH(N,T,0x7fff,0x7fff) 1.5ms CNR:OFF Dyn:0 FastMM:1 TID:0  NThr:1
MKL_VERBOSE VMSEXP(1024,0x7fff,0x5634,2) 7.00us CNR:OFF Dyn:0 FastMM:1 TID:0  NThr:1
onednn_verbose,v1,primitive,exec,cpu,matmul,brg:avx512_core,undef,src:f32::blocked:ab::f0,,,256x256:256x256,0.25
onednn_verbose,v1,primitive,exec,cpu,reorder,jit:uni,undef,src:f32::blocked:ab::f0,,,256x256,0.0312
"""
    seconds, calls = seconds_of_products(text)
    assert seconds == pytest.approx(90.5e-6 + 1.5e-3 + 0.25e-3)
    assert calls == 3


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
