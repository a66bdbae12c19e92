"""The laws that learners and adapters keep, for your own: each check raises `AssertionError` saying which one broke.

Where training says it already (an answer of the wrong shape), the library's own error is let through.

    from adaptive_constraints.testing import check_adapter, check_learner

    def test_my_learner():
        check_learner(MyLearner(hidden=16))

    def test_my_adapter():
        check_adapter(MyAdapter(), TD3BC(hidden=16))

Nothing here needs a test framework. Checks run some dozens of steps on a small made data set, so give small networks,
short intervals (an adapter that acts every 10 steps is not seen in 4) and short trainings before step 1.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from adaptive_constraints.agent import load_agent, wrap
from adaptive_constraints.composition.program import program_of
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.learner import Learner
from adaptive_constraints.core.preparation import generator
from adaptive_constraints.core.types import (
    SEAMS,
    ExtraRows,
    Facts,
    Gaussian,
    MetaLoss,
    MetaStep,
    Params,
    Phase,
    Point,
    Spec,
    Terms,
)
from adaptive_constraints.core.view import View
from adaptive_constraints.data import Dataset, Preprocessor
from adaptive_constraints.engine.engine import Engine, Execution
from adaptive_constraints.engine.functions import NotPureError
from adaptive_constraints.engine.state import initial_state
from adaptive_constraints.errors import AdaptiveConstraintsError, StackError
from adaptive_constraints.pretraining.preparation import prepare
from adaptive_constraints.runs.beginnings import fresh_run
from adaptive_constraints.runs.run import Run
from adaptive_constraints.support.cpu import tuned

State = dict[str, Tensor]
PHASES: tuple[Phase, ...] = ("offline", "online")


def check_learner(learner: Learner, *, data: Dataset | None = None) -> None:
    """Raise `AssertionError` unless this learner keeps every law of a learner.

    Its facts are true, its functions have the right shapes and are defined off the data too; every seam it says it asks
    is asked and matters, and a neutral answer changes nothing; its trade-off scales what it says, and it is
    differentiable in it; its steps online are finite and move what they step; and it keeps the laws of `check_stack`.
    """
    case = _Case(learner, (), data or made_data())
    with _said_plainly(case):
        _facts_fit_the_parameters(case)
        _functions_have_their_shapes(case)
        for seam in sorted(learner.facts().seams):
            _seam_is_heard(case, seam)
            _neutral_answer_changes_nothing(case, seam)
        _tradeoff_scales_what_it_says(case)
        _meta_gradient_agrees_with_automatic_differentiation(case)
        _for_presets(learner)
        check_stack(learner, data=data)
        _runs_online(case)
        _a_lost_seed_is_alone(case)
        _traced_is_eager(case)


def check_adapter(adapter: Adapter, learner: Learner, *, data: Dataset | None = None) -> None:
    """Raise `AssertionError` unless this adapter keeps every law of an adapter on ``learner``.

    It answers seams that exist, in both phases; it draws noise under its own name; what it adds keeps seeds apart; two
    of it do not share state; its steps online are finite and move what they step; and it keeps the laws of
    `check_stack`. Raises `StackError` where it refuses the learner.
    """
    case = _Case(learner, (adapter,), data or made_data())
    with _said_plainly(case):
        _answers_seams_that_exist(case)
        _diagnoses_numbers(case)
        _draws_under_its_own_name(case)
        _two_of_a_kind_stay_apart(case)
        _for_presets(adapter)
        check_stack(learner, adapter, data=data)
        _runs_online(case)
        _a_lost_seed_is_alone(case)
        _traced_is_eager(case)


def check_stack(learner: Learner, *adapters: Adapter, data: Dataset | None = None) -> None:
    """Raise `AssertionError` unless this stack trains from step 1, survives its serialized form, resumes and acts.

    Every loss and parameter is finite, every group that a stage steps moves and no other does, a run that is saved and
    loaded half-way equals one that was not, a loaded agent acts as the saved one, within the action bounds, and a seed
    learns beside another what it learns alone.
    """
    case = _Case(learner, adapters, data or made_data())
    with _said_plainly(case):
        _survives_its_spec(case)
        _resumes_and_acts(case, _is_finite_and_moves_what_it_steps(case))
        _together_is_alone(case)


def made_data(rows: int = 160, observation_dim: int = 3, action_dim: int = 2) -> Dataset:
    """Random transitions in episodes of 20 rows, every second of which truly ends."""
    draw, number = np.random.default_rng(0), np.arange(rows)
    last = number % 20 == 19
    states = draw.normal(size=(rows + 1, observation_dim))
    after_the_last = draw.normal(size=(rows, observation_dim))
    return Dataset.from_arrays(
        observations=states[:-1],
        actions=draw.uniform(-0.9, 0.9, size=(rows, action_dim)),
        rewards=draw.normal(size=rows),
        next_observations=np.where(last[:, None], after_the_last, states[1:]),
        terminals=last & (number % 40 < 20),
        timeouts=last & (number % 40 >= 20),
        name="made",
    )


# -- running a stack ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Case:
    """A stack and the data it is tried on."""

    learner: Learner
    adapters: tuple[Adapter, ...]
    data: Dataset
    _ran: dict[tuple[Any, ...], Engine] = field(default_factory=dict)
    """By its options, every engine that `ran` gave."""

    @property
    def name(self) -> str:
        return Stack(self.learner, self.adapters).name

    @property
    def steps(self) -> int:
        """Enough for two runs of every stage, in either phase."""
        stages = [stage for phase in PHASES for stage in Stack(self.learner, self.adapters).resolve(phase).stages]
        return 2 * math.lcm(*(stage.every for stage in stages if stage.every <= 10))

    def plus(self, *adapters: Adapter) -> _Case:
        return _Case(self.learner, self.adapters + adapters, self.data)

    def engine(
        self,
        seeds: Sequence[int] = (0, 1),
        dtype: torch.dtype = torch.float32,
        traced: bool = False,
        phase: Phase = "offline",
    ) -> Engine:
        resolved = Stack(self.learner, self.adapters).resolve(phase)
        preprocessor = Preprocessor.fit(self.data)
        prepared = prepare(resolved, self.data, preprocessor, seeds, torch.device("cpu"))
        spec = Spec(self.data.observation_dim, self.data.action_dim)
        initial = initial_state(resolved, spec, seeds, prepared)
        table = preprocessor.table(self.data, self.learner.columns())
        program = program_of(resolved, spec, 100)
        return Engine(program, initial, table, horizon=100, execution=Execution(traced=traced), dtype=dtype)

    def ran(
        self,
        steps: int | None = None,
        *,
        seeds: Sequence[int] = (0, 1),
        dtype: torch.dtype = torch.float32,
        traced: bool = False,
    ) -> Engine:
        """An engine after some steps, to look at: several laws share it."""
        options = (self.steps if steps is None else steps, seeds, dtype, traced)
        if options not in self._ran:
            engine = self.engine(*options[1:])
            engine.run(options[0])
            self._ran[options] = engine
        return self._ran[options]

    def after(self, **options: Any) -> State:
        """The tensors that are learned after some steps."""
        return _learned(self.ran(**options))


def _learned(engine: Engine) -> State:
    """Clones of parameters, targets and buffers."""
    kept = ("params/", "targets/", "buffers/")
    return {name: tensor.clone() for name, tensor in engine.state().items() if name.startswith(kept)}


def _different(one: State, two: State) -> list[str]:
    """Names of tensors of both that differ in any bit."""
    return [name for name in one.keys() & two.keys() if not torch.equal(one[name], two[name])]


@contextmanager
def _said_plainly(case: _Case) -> Iterator[None]:
    """Put what torch says of a broken law into the words of the law."""
    try:
        yield
    except NotPureError as error:
        raise AssertionError(f"{case.name}: {error}") from error
    except (AssertionError, AdaptiveConstraintsError):
        raise
    except Exception as error:
        text = str(error)
        said = f"running it fails ({type(error).__name__}: {text.splitlines()[0] if text else 'no message'})"
        raise AssertionError(f"{case.name}: {said}") from error


# -- laws of a learner --------------------------------------------------------------------------------------------


def _facts_fit_the_parameters(case: _Case) -> None:
    learner, facts = case.learner, case.learner.facts()
    spec = Spec(case.data.observation_dim, case.data.action_dim)
    params = learner.init(spec, generator(0, "learner"))
    again = learner.init(spec, generator(0, "learner"))
    same = all(torch.equal(t, again[group][name]) for group, p in params.items() for name, t in p.items())
    assert same, f"{case.name}: init draws from elsewhere than its generator"
    needed = {"critic": "critic", "constrained": facts.constrained, "policy": facts.policy}
    needed |= {"value": "value"} if facts.owns_value else {}
    for what, group in needed.items():
        assert group in params, f"{case.name}: no group {group!r} in init, which its facts call the {what}"
    for phase in PHASES:
        stepped = {update.group for stage in learner.stages(phase) for update in stage.updates}
        averaged = {average.group for stage in learner.stages(phase) for average in stage.averages}
        unknown = (stepped | averaged) - params.keys()
        assert not unknown, f"{case.name}: its {phase} stages name {sorted(unknown)}, which init does not make"
        assert facts.constrained in stepped, f"{case.name}: its {phase} stages do not step its constrained group"
    strange = facts.seams - SEAMS.keys()
    assert not strange, f"{case.name}: it says it asks {sorted(strange)}, which are no seams"


def _functions_have_their_shapes(case: _Case) -> None:
    engine = case.engine(seeds=(0, 1))
    engine.run(1)
    facts, rows, actions = case.learner.facts(), case.learner.batch_size, case.data.action_dim

    def everything(v: View) -> Mapping[str, Tensor]:
        policy = v.p[facts.policy]
        answers = {
            "q": v.services.q(v.p["critic"], v.s, v.a)[0],
            "sample": v.services.sample(policy, v.s, "conformance/sample"),
            "act": case.learner.act(v, v.s),
            "explore": case.learner.explore(v, v.s),
            "act far off the data": case.learner.act(v, 1e3 * v.s),
            "explore far off the data": case.learner.explore(v, 1e3 * v.s),
            "bootstrap": v.bootstrap(v.s2, "conformance/bootstrap", v.batch),
            "bootstrap off the data": v.bootstrap(v.s2 + 0.1, "conformance/elsewhere"),
            **{f"terms.{name}": term for name, term in v.services.terms(v.p[facts.constrained])._asdict().items()},
        }
        kind = type(v.services.distribution(policy, v.s))
        wanted = {"point": Point, "generative": type(None)}.get(facts.distribution, Gaussian)
        assert kind is wanted, f"{case.name}: its facts say {facts.distribution!r}, but distribution() gives {kind}"
        if facts.owns_value:
            answers["value"] = v.value(v.s)
        if facts.owns_behavior:
            drawn = v.services.sample_behavior(v.s, "conformance/behavior", 3)
            assert drawn is not None, f"{case.name}: its facts say it owns a behaviour model, but it gives no samples"
            answers["sample_behavior"] = drawn[2]
        return answers

    for name, tensor in engine.ask("conformance", everything).items():
        acting = name.startswith(("act", "explore"))
        wanted = (rows, actions) if acting or name.startswith("sample") else (rows,)
        assert tensor.shape[1:] == wanted, f"{case.name}: {name} gives {tuple(tensor.shape[1:])}, not {wanted}"
        assert tensor.isfinite().all(), f"{case.name}: {name} is not finite after one step"
        bounded = not acting or bool((tensor.abs() <= 1 + 1e-6).all())
        assert bounded, f"{case.name}: {name} leaves the action bounds"


def _seam_is_heard(case: _Case, seam: str) -> None:
    if seam == "tradeoff" and (case.learner.facts().learns_tradeoff or case.learner.facts().tradeoff is None):
        return
    bare, probed = case.after(), case.plus(Probe(seam=seam, by=0.5)).after()
    assert _different(bare, probed), f"{case.name}: its facts say it asks {seam!r}, but another answer changes nothing"


def _neutral_answer_changes_nothing(case: _Case, seam: str) -> None:
    if seam in ("tradeoff", "critic_rows"):  # no neutral answer: one has no own value everywhere, the other adds rows
        return
    changed = _different(case.after(), case.plus(Probe(seam=seam)).after())
    assert not changed, f"{case.name}: answering {seam!r} with its default changes {changed[:3]}"


def _tradeoff_scales_what_it_says(case: _Case) -> None:
    learner, facts = case.learner, case.learner.facts()
    if facts.tradeoff is None or facts.learns_tradeoff or facts.scales == "exponent":
        return

    def doubled(v: View) -> Mapping[str, Tensor]:
        p, k = v.p[facts.constrained], v.tradeoff()
        (one, terms), (two, _) = learner.constrained_loss(p, v, k), learner.constrained_loss(p, v, 2 * k)
        return {"added": two - one, "expected": (k * getattr(terms, facts.scales)).mean()}

    both = case.ran(dtype=torch.float64).ask("conformance", doubled)
    assert torch.allclose(both["added"], both["expected"], rtol=1e-6, atol=1e-9), (
        f"{case.name}: its facts say that the trade-off multiplies the {facts.scales}, but doubling it adds "
        f"{both['added'].tolist()} to the loss, not {both['expected'].tolist()}"
    )


def _meta_gradient_agrees_with_automatic_differentiation(case: _Case) -> None:
    facts = case.learner.facts()
    if facts.tradeoff is None or facts.learns_tradeoff:
        return

    def second(backend: str) -> Tensor:
        engine = case.plus(_Learned(backend=backend)).engine(seeds=(0,), dtype=torch.float64)
        engine.run(case.steps // 2)
        engine.metrics.flush()
        engine.run(case.steps // 2)
        return torch.tensor(engine.metrics.flush()["learned/gradient"])

    ours, automatic = second("closed_form"), second("autograd")
    assert ours.isfinite().all(), f"{case.name}: the derivative of a step with respect to the trade-off is not finite"
    assert torch.allclose(ours, automatic, rtol=1e-6, atol=1e-12), (
        f"{case.name}: the derivative of a step with respect to the trade-off is {ours.tolist()}, automatic "
        f"differentiation says {automatic.tolist()}: does its loss use anything but p, v and k?"
    )


# -- laws of an adapter -------------------------------------------------------------------------------------------


def _answers_seams_that_exist(case: _Case) -> None:
    (adapter,) = case.adapters
    for phase in PHASES:
        unknown = adapter.answers(case.learner.facts(), phase) - SEAMS.keys()
        assert not unknown, f"{adapter.name}: it answers {sorted(unknown)}, which are no seams"
        Stack(case.learner, case.adapters).resolve(phase)


def _diagnoses_numbers(case: _Case) -> None:
    for name, values in case.ran().diagnose().items():
        assert values.isfinite().all(), f"{case.name}: the diagnostic {name!r} is not finite"


def _draws_under_its_own_name(case: _Case) -> None:
    (adapter,) = case.adapters
    bare, whole = _Case(case.learner, (), case.data), case
    more = whole.ran().draws - bare.ran(whole.steps).draws
    strangers = {draw.site for draw in more if not draw.site.startswith(adapter.name)}
    assert not strangers, f"{adapter.name}: its noise at {sorted(strangers)} does not begin with its name"


def _two_of_a_kind_stay_apart(case: _Case) -> None:
    (adapter,) = case.adapters
    try:
        engine = case.plus(replace(adapter, name=f"{adapter.name}_twin")).engine()
    except StackError:  # it decides something that only one can
        return
    engine.run(case.steps)
    own = {name for name in engine.params if name.startswith(f"{adapter.name}.")}
    twins = {name for name in engine.params if name.startswith(f"{adapter.name}_twin.")}
    assert len(own) == len(twins), f"{adapter.name}: two of it share a group; make names by self.group(...)"


# -- laws of both -------------------------------------------------------------------------------------------------


def _survives_its_spec(case: _Case) -> None:
    stack = Stack(case.learner, case.adapters)
    assert Stack.from_spec(stack.to_spec()) == stack, f"{case.name}: rebuilt from its description it is another stack"


def _is_finite_and_moves_what_it_steps(case: _Case) -> Run:
    """The run that did, for others to be compared with."""
    run = fresh_run(
        Stack(case.learner, case.adapters),
        case.data,
        steps=case.steps,
        seeds=(0, 1),
        device=torch.device("cpu"),
        execution=Execution(traced=False),
    )
    with tuned(run.device, run.products):  # as `Agent.fit` runs it
        _is_finite_and_moves(case, run.engine)
    return run


def _runs_online(case: _Case) -> None:
    try:
        _is_finite_and_moves(case, case.engine(phase="online"))
    except AssertionError as error:
        raise AssertionError(f"online, {error}") from error


def _is_finite_and_moves(case: _Case, engine: Engine) -> None:
    stepped = {update.group for stage in engine.program.stages for update in stage.updates}
    if engine.program.outer is not None:
        stepped.add(engine.program.outer.step.group)
    before = _learned(engine)
    for _ in range(case.steps):
        engine.run(1)
        failures = engine.metrics.failures()
        assert not failures, f"{case.name}: {next(iter(failures.values()))}"
    after = _learned(engine)
    broken = [name for name, tensor in after.items() if not tensor.isfinite().all()]
    assert not broken, f"{case.name}: not finite after {case.steps} steps: {broken}"
    moved = {name.split("/")[1] for name in _different(before, after) if name.startswith("params/")}
    assert moved <= stepped, f"{case.name}: {sorted(moved - stepped)} moved, though no stage steps them"
    rates = {update.group: update.learning_rate for stage in engine.program.stages for update in stage.updates}
    idle = {group for group in stepped - moved if rates.get(group) != 0.0}
    assert not idle, f"{case.name}: {sorted(idle)} never moved, though a stage steps them"


def _resumes_and_acts(case: _Case, whole: Run) -> None:
    options: dict[str, Any] = {"steps": case.steps, "seeds": (0, 1), "traced": False, "progress": False}
    parted = wrap(case.learner, *case.adapters)
    parted.fit(case.data, stop_after=case.steps // 2, device="cpu", **options)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "agent.npz"
        parted.save(file)
        loaded = load_agent(file, device="cpu")
        same = np.array_equal(loaded.act(case.data.observations[:5]), parted.act(case.data.observations[:5]))
        assert same, f"{case.name}: loaded, it acts otherwise than it did when it was saved"
        loaded.fit(case.data, device="cpu", **options)
        rows = case.data.observations[:20]
        for seed, one in zip(loaded.seeds, whole.act(np.stack([rows, rows]), 0), strict=True):
            same = np.array_equal(one, loaded.act(rows, seed=seed))
            assert same, f"{case.name}: saved and loaded half-way, seed {seed} ends up elsewhere"
            low, high = case.data.action_low - 1e-5, case.data.action_high + 1e-5
            assert ((one >= low) & (one <= high)).all(), f"{case.name}: it acts outside the action bounds"


def _together_is_alone(case: _Case) -> None:
    together = case.after(seeds=(0, 7), dtype=torch.float64)
    alone = case.after(seeds=(7,), dtype=torch.float64)
    worst = max(float((together[name][1] - tensor[0]).abs().max()) for name, tensor in alone.items())
    assert worst < 1e-9, f"{case.name}: beside another seed, a seed learns otherwise (by {worst:.1e})"


def _a_lost_seed_is_alone(case: _Case) -> None:
    engine = case.engine()
    next(iter(engine.params[case.learner.facts().constrained].values()))[1] = math.nan
    engine.run(2)
    one, two = ({name: tensor[0] for name, tensor in _learned(ran).items()} for ran in (engine, case.ran(2)))
    changed = _different(one, two)
    assert not changed, f"{case.name}: another seed that is not finite changes {changed[:3]} of this one"


def _traced_is_eager(case: _Case) -> None:
    changed = _different(case.after(traced=True), case.after(traced=False))
    assert not changed, f"{case.name}: traced and replayed, {changed[:3]} come out otherwise: a branch on a value?"


def _for_presets(part: Learner | Adapter) -> None:
    for family in part.presets:
        type(part).preset(family)


# -- what perturbs ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probe(Adapter):
    """Answers one seam, away from its default by ``by``."""

    listed: ClassVar[bool] = False
    seam: str = "td_weight"
    by: float = 0.0

    def answers(self, facts: Facts, phase: Phase) -> frozenset[str]:
        return frozenset({self.seam})

    def bootstrap(
        self,
        v: View,
        observation: Tensor,
        site: str,
        batch: Mapping[str, Tensor] | None,
        default: Callable[[], Tensor],
    ) -> Tensor:
        return default() + self.by

    def td_weight(self, v: View) -> float:
        return 1 + self.by

    def critic_rows(self, v: View) -> Sequence[ExtraRows]:
        return [ExtraRows(self.by, v.s, -v.a, v.r)]

    def value_action(self, v: View, default: Callable[[], Tensor]) -> Tensor:
        return default() + self.by

    def behavior_action(self, v: View, default: Callable[[], Tensor]) -> Tensor:
        return default() + self.by

    def sample_weight(self, v: View) -> Tensor:
        return 1 + self.by * (v.r > 0)

    def constraint(self, v: View, action: Tensor, default: Callable[[], Tensor]) -> Tensor:
        return default() + self.by * action.square().mean(-1)

    def constraint_weight(self, v: View) -> Tensor:
        return 1 + self.by * (v.r > 0)

    def constraint_scale(self, v: View) -> float:
        return 1 + self.by

    def tradeoff(self, v: View, default: Callable[[], Tensor]) -> Tensor:
        return default() * (1 + self.by)


@dataclass(frozen=True)
class _Learned(Adapter):
    """Learns the trade-off by the plainest outer loss, through the named back-end."""

    name: str = "learned"
    backend: str = "closed_form"

    def init(self, spec: Spec, facts: Facts, generator: torch.Generator) -> dict[str, Params]:
        return {"scale": {"log": torch.tensor(math.log(facts.tradeoff or 1.0))}}

    def tradeoff(self, v: View, default: Callable[[], Tensor]) -> Tensor:
        return v.p["learned.scale"]["log"].exp()

    def meta(self, facts: Facts) -> MetaStep:
        return MetaStep("learned.scale", lambda done, total: 1e-3, interval=1, backend=self.backend)

    def meta_loss(self, v: View, k: Tensor, before: Terms, after: Terms) -> MetaLoss:
        return MetaLoss(after.improvement.mean() + after.constraint.mean())


__all__ = ["check_adapter", "check_learner", "check_stack", "made_data"]
