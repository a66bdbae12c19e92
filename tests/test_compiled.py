"""Steps compiled as one program equal eager ones, are found again in the cache, and never come from elsewhere."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, fx

from adaptive_constraints import A2PR, ANQ, ASPC, Adapter, CalQL, Learner, Logger, load_agent, wrap
from adaptive_constraints.baselines import AWAC, BC, CQL, EDAC, FQL, IQL, TD3BC, DiffusionQL, ReBRAC
from adaptive_constraints.engine import lowering, step_cache
from adaptive_constraints.engine.compiled_step import recorded
from adaptive_constraints.errors import DependencyError, StackError, TrainingError
from adaptive_constraints.runs import compiling, loop
from adaptive_constraints.runs.compiling import WORTH_COMPILING, decide
from adaptive_constraints.runs.identity import Identity
from adaptive_constraints.support.files import CACHE_VARIABLE
from adaptive_constraints.testing import made_data

from .emulation import Count
from .helpers import FOUR, build, different, largest_difference, learned, random_data
from .sketches import TinyIQL
from .test_capture import states
from .test_layouts import learner as outputs_by_inputs
from .test_modules import small as of_modules

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"hidden": 8, "batch_size": 16}
QUIET: dict[str, Any] = {"progress": False, "device": "cpu"}
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


# -- what is compiled -------------------------------------------------------------------------------------------------


class Interpreted:
    """What the compiler is given, run operation by operation."""

    in_one_piece: ClassVar[bool] = True
    graph: fx.GraphModule
    inputs: list[Tensor]

    def record(self, run: Any) -> None:
        graph, self.inputs = recorded(run)
        self.graph, _ = lowering.pure(graph, self.inputs)

    def ready(self) -> None:
        """It is."""

    @torch.no_grad()
    def replay(self) -> None:
        self.graph(*self.inputs)


STACKS: dict[str, tuple[Learner, *tuple[Adapter, ...]]] = {
    "TD3BC with all four": (TD3BC(**SMALL, critic="robust"), *FOUR),
    "IQL + ANQ": (IQL(**SMALL), ANQ(hidden=8, policy_every=1)),
    "CQL + ASPC": (CQL(**SMALL), ASPC(interval=2)),
    "DiffusionQL": (DiffusionQL(**SMALL),),
    "FQL + ASPC": (FQL(**SMALL), ASPC(interval=1)),
    "ReBRAC": (ReBRAC(**SMALL),),
    "EDAC + ASPC": (EDAC(**SMALL, critics=3), ASPC(interval=1)),
    "AWAC + A2PR": (AWAC(**SMALL), A2PR(hidden=8)),
    "CQL + CalQL": (CQL(**SMALL, gap_actions=2), CalQL()),
    "BC": (BC(**SMALL),),
    "Modules with dropout + ASPC": (of_modules("dropout"), ASPC(interval=1)),
    "Modules with BatchNorm": (of_modules("batch norm"),),
}


@pytest.mark.slow
@pytest.mark.parametrize("stack", STACKS)
def test_what_is_compiled_is_the_step(stack):
    """Adam and some activations are written otherwise there; all else is the same operations in the same order."""
    whole, eager = (
        build(*STACKS[stack], seeds=(0, 1), dtype=torch.float64, graphs=kind) for kind in (Interpreted, None)
    )
    whole.run(6), eager.run(6)
    assert whole.recorded and largest_difference(learned(whole), learned(eager)) < 1e-12
    assert not different(whole.batch, eager.batch)
    logged = eager.metrics.flush()
    for name, values in whole.metrics.flush().items():
        assert values == pytest.approx(logged[name], rel=1e-6, abs=1e-12), name


@pytest.mark.slow
def test_seeds_together_are_seeds_alone():
    learner, adapter = TD3BC(**SMALL), ASPC(interval=1)
    together = build(learner, adapter, seeds=(3, 4), dtype=torch.float64, graphs=Interpreted)
    together.run(4)
    for position, seed in enumerate((3, 4)):
        alone = build(learner, adapter, seeds=(seed,), dtype=torch.float64, graphs=Interpreted)
        alone.run(4)
        ours = {name: tensor[position : position + 1] for name, tensor in learned(together).items()}
        assert largest_difference(ours, learned(alone)) < 1e-12


def test_it_changes_each_tensor_once_and_returns_nothing():
    engine = build(TD3BC(**SMALL), ASPC(interval=1), graphs=Interpreted)
    engine.run(2)
    for kept in engine.recorded.values():
        assert isinstance(kept.graph, Interpreted)
        changes = [node for node in kept.graph.graph.graph.nodes if node.op == "call_function" and _writes(node)]
        assert all(node.target is torch.ops.aten.copy_.default for node in changes)
        assert len({node.args[0] for node in changes}) == len(changes)
        storages = [tensor.untyped_storage().data_ptr() for tensor in kept.graph.inputs]
        assert len(set(storages)) == len(storages), "no two inputs share memory"


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(
        argument.alias_info and argument.alias_info.is_write for argument in schema.arguments
    )


def test_back_ends_that_check_the_meta_step_are_not_compiled():
    with pytest.raises(StackError, match="meta_step='autograd' cannot be compiled: leave compiled at False"):
        build(TD3BC(**SMALL), ASPC(meta_step="autograd"), graphs=Interpreted)


def test_tables_of_data_are_what_is_only_gathered_from():
    """By rows, by seeds and rows; not where a table is also read whole, nor an index."""
    table, column, read_whole = torch.rand(7, 2), torch.rand(2, 7), torch.rand(7, 3)
    rows, seeds, out = torch.tensor([[1, 5], [0, 6]]), torch.tensor([[0], [1]]), torch.zeros(2, 2)

    def step() -> None:
        gathered = table.index_select(0, rows.reshape(-1)).view(2, 2, 2).sum(-1) + column[seeds, rows]
        out.copy_(gathered + read_whole.index_select(0, rows[0]).sum() + read_whole.mean())

    graph, inputs = recorded(step)
    found = {id(inputs[position]): axis for position, axis in lowering.long_axes(graph).items()}
    assert found == {id(table): 0, id(column): 1}


# -- native code ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Path:
    """A cache that all processes of a test run share: compiling takes some ten seconds."""
    base: Path = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled"


@pytest.fixture
def cache(shared, monkeypatch) -> Path:
    """The folder of compiled steps in it."""
    monkeypatch.setenv(CACHE_VARIABLE, str(shared))
    return shared / "steps"


@pytest.fixture
def own_copy(cache, tmp_path, monkeypatch) -> Path:
    """A copy that may be damaged, with the step of `tiny` in it."""
    tiny().run(1)
    (tmp_path / "steps").mkdir(mode=0o700)
    for file in [*cache.glob("*.so"), *cache.glob("*.sha256")]:
        shutil.copy2(file, tmp_path / "steps")
    (tmp_path / "steps" / "compiler").symlink_to(cache / "compiler")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    return tmp_path / "steps"


def tiny(**options: Any) -> Any:
    """An engine whose step compiles fast."""
    return build(TinyIQL(), seeds=(0, 1), dtype=torch.float64, traced=True, compiled=True, **options)


@pytest.mark.slow
@needs_compiler
def test_compiled_equals_eager_with_a_meta_step(cache):
    """Two seeds, and weights kept as [outputs, inputs]: the compiler is free to lay gradients out otherwise."""
    stack: tuple[Any, ...] = (outputs_by_inputs(), ASPC(interval=1))
    options: dict[str, Any] = {"seeds": (0, 1), "dtype": torch.float64}
    compiled, eager = build(*stack, **options, traced=True, compiled=True), build(*stack, **options)
    compiled.run(6), eager.run(6)
    assert largest_difference(learned(compiled), learned(eager)) < 1e-10, "moments near 0 amplify rounding"


@pytest.mark.slow
@needs_compiler
def test_compiled_resumes_bit_for_bit_from_the_cache(cache, monkeypatch):
    whole, eager = tiny(), build(TinyIQL(), seeds=(0, 1), dtype=torch.float64)
    whole.run(9), eager.run(9)
    assert largest_difference(learned(whole), learned(eager)) < 1e-12
    monkeypatch.setattr(subprocess, "Popen", None)  # nothing is compiled again
    first, second = tiny(), tiny()
    first.run(4)
    second.load(states(first), 4)
    second.run(5)
    assert not different(states(whole), states(second))


@pytest.mark.slow
@needs_compiler
def test_data_sets_of_other_lengths_share_a_program(cache, monkeypatch):
    tiny().run(1)
    monkeypatch.setattr(subprocess, "Popen", None)  # nothing is compiled again
    for rows in (40, 1000):
        data = random_data(rows)
        compiled, eager = tiny(data=data), build(TinyIQL(), seeds=(0, 1), dtype=torch.float64, data=data)
        compiled.run(5), eager.run(5)
        assert largest_difference(learned(compiled), learned(eager)) < 1e-12


@needs_compiler
def test_a_step_is_one_call(cache):
    engine = tiny()
    engine.run(3)
    with Count() as counted:
        engine.run(8)
    assert sum(counted.operations.values()) <= 8 * len(engine.program.stages) * 2, counted.operations
    assert not counted.waits


@needs_compiler
@pytest.mark.parametrize("damage", ["other bytes", "cut", "another digest", "no digest", "writable by others"])
def test_nothing_is_loaded_that_was_changed(own_copy, damage):
    engine = tiny()
    engine.run(1)
    (library,) = {kept.graph.library for kept in engine.recorded.values()}
    file = library.kept()
    digest, whole, kept = file.with_suffix(".sha256"), file.read_bytes(), file.with_suffix(".sha256").read_text()
    if damage == "other bytes":
        put(file, whole[:-20] + bytes(20))
    elif damage == "cut":
        put(file, whole[: len(whole) // 2])
    elif damage == "another digest":
        digest.write_text("0" * 64)
    elif damage == "no digest":
        digest.unlink()
    else:
        file.chmod(0o777)
    assert library.kept() is None
    put(file, whole), digest.write_text(kept)
    assert library.kept() == file


def put(file: Path, content: bytes) -> None:
    """In place of a library that may be loaded: what is mapped stays as it was."""
    other = file.with_suffix(".other")
    other.write_bytes(content)
    other.chmod(0o755)
    os.replace(other, file)


@pytest.mark.slow
@needs_compiler
def test_a_damaged_one_is_made_anew(own_copy):
    before = tiny()
    before.run(5)
    for file in own_copy.glob("*.so"):
        put(file, b"\x7fELF" + bytes(100))
    again = tiny()
    again.run(5)
    assert not different(states(before), states(again))


SCRIPT = """
from tests.test_compiled import tiny
engine = tiny()
engine.run(4)
print(float(sum(t.double().abs().sum() for t in engine.state().values())))
"""


@pytest.mark.slow
@needs_compiler
def test_a_umask_that_lets_others_write_does_not_compile_for_ever(own_copy):
    for file in [*own_copy.glob("*.so"), *own_copy.glob("*.sha256")]:
        file.unlink()
    before = os.umask(0o002)
    try:
        tiny().run(1)
    finally:
        os.umask(before)
    assert [file.stat().st_mode & 0o777 for file in own_copy.glob("*.so")] == [0o700]
    own_copy.chmod(0o777)
    with pytest.raises(DependencyError, match="does not keep what was compiled: it must be this user's"):
        tiny().run(1)


@pytest.mark.slow
@needs_compiler
def test_two_processes_compile_the_same_once(tmp_path):
    environment = os.environ | {CACHE_VARIABLE: str(tmp_path)}
    runs = [
        subprocess.Popen([sys.executable, "-c", SCRIPT], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0] and said[0] == said[1] != ""
    assert len(list((tmp_path / "steps").glob("*.so"))) == 1
    assert not [path.name for path in (tmp_path / "steps").iterdir() if path.is_dir() and path.name != "compiler"]


@needs_compiler
def test_a_stop_while_compiling_leaves_nothing_half_made(tmp_path):
    """The compiler is ended, and the same command goes on."""
    words = ["--data", "bundled:hopper", "--learner", "TD3BC", "hidden=8", "batch_size=16", "--steps", "40"]
    words += ["--eval-env", "none", "--compiled", "on", "--out", str(tmp_path / "run")]
    command = [sys.executable, "-m", "adaptive_constraints", "train", *words]
    environment = os.environ | {CACHE_VARIABLE: str(tmp_path / "cache")}
    run = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    folder = tmp_path / "cache" / "steps"
    deadline = time.monotonic() + 120
    while not list(folder.glob("*.*/step.pt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    said = run.communicate(timeout=60)[0]
    assert run.returncode == 143 and "Traceback" not in said, said
    assert not list(folder.glob("*.*/step.pt")) and not list(folder.glob("*.so"))


@needs_compiler
def test_what_the_compiler_says_is_told(cache, monkeypatch):
    monkeypatch.setattr(lowering, "__file__", __file__)  # no script that makes a library
    step_cache.surroundings.cache_clear()
    with pytest.raises(DependencyError, match=r"a step could not be compiled; leave compiled at False"):
        build(TinyIQL(), compiled=True, traced=True).run(1)
    step_cache.surroundings.cache_clear()


# -- whether to compile -----------------------------------------------------------------------------------------------


def identity(**changes: Any) -> Identity:
    stack = wrap(TD3BC(**SMALL), *changes.pop("adapters", ())).stack.to_spec()
    return Identity(**{"stack": stack, "steps": WORTH_COMPILING, "seeds": (0,), "fingerprint": "ab", **changes})


def test_auto_is_decided_by_length_compiler_and_what_was_begun(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(compiling, "check_compiler", lambda device: None)

    def auto(wanted: Identity, kept: Identity | None = None, **options: Any) -> bool:
        return decide("auto", wanted, kept, **{"device": CPU, "traced": True, **options})

    long, short = identity(), identity(steps=WORTH_COMPILING - 1)
    assert auto(long) and not auto(short)
    assert not auto(long, stop_after=100) and not auto(long, traced=False)
    assert not auto(long, device=torch.device("cuda"))
    assert not auto(identity(adapters=(ASPC(meta_step="autograd"),))) and auto(identity(adapters=(ASPC(),)))
    assert auto(short, kept=identity(compiled=True)) and not auto(long, kept=identity())
    compiling.remember(identity(steps=WORTH_COMPILING - 1, seeds=(7,), compiled=True))
    assert auto(short) and not auto(identity(steps=10)) and not auto(identity(steps=WORTH_COMPILING - 1, seeds=(0, 1)))
    with pytest.raises(TrainingError, match="begun with compiled steps"):
        auto(short, kept=identity(compiled=True), traced=False)
    assert decide(True, short, None, CPU, traced=True) and not decide(False, long, None, CPU, traced=True)

    def none(device: torch.device) -> None:
        raise DependencyError("no compiler")

    monkeypatch.setattr(compiling, "check_compiler", none)
    assert not auto(identity(fingerprint="cd"), say=True)
    assert "no C++ compiler is here; with one" in capsys.readouterr().err


def test_a_run_that_compiled_nothing_leaves_no_mark(monkeypatch):
    """Where a logger fails at the start, the next run like it must not compile because of it."""

    class Broken(Logger):
        def on_start(self, config, history):
            raise ValueError("no")

    marks: list[Identity] = []
    monkeypatch.setattr(loop, "remember", marks.append)
    agent = wrap(TD3BC(**SMALL))
    with pytest.raises(TrainingError):
        agent.fit(made_data(), steps=12, compiled=True, loggers=[Broken()], **QUIET)
    assert agent.step == 0 and not marks


def test_a_run_keeps_to_its_way(monkeypatch, tmp_path):
    """What auto said when it began holds when it goes on, from a folder, a file or the agent."""
    options: dict[str, Any] = {"steps": 12, "out": tmp_path / "run", **QUIET}
    agent = wrap(TD3BC(**SMALL))
    agent.fit(made_data(), stop_after=4, **options)
    assert not agent.run.identity.compiled
    monkeypatch.setattr(compiling, "WORTH_COMPILING", 1)
    again = load_agent(tmp_path / "run", "cpu")
    again.fit(made_data(), stop_after=8, **options)
    other = wrap(TD3BC(**SMALL))
    other.fit(made_data(), **options)
    assert other.step == 12 and not other.run.identity.compiled
