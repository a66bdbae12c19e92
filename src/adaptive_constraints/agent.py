"""The agent: a stack that can be explained, trained, evaluated, saved, and taken apart again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from adaptive_constraints.choosing import FQE, OfflineEvaluation, evaluate_offline, policies_of
from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.learner import Learner
from adaptive_constraints.core.types import Phase
from adaptive_constraints.data import Dataset, check_trainable, load_dataset
from adaptive_constraints.engine.engine import Execution
from adaptive_constraints.errors import CheckpointError, EvaluationError, ExportError, StackError, TrainingError
from adaptive_constraints.evaluation import Evaluation, Evaluator
from adaptive_constraints.networks import Precision
from adaptive_constraints.runs import evaluating, loop
from adaptive_constraints.runs.beginnings import fresh_run, go_online, with_data
from adaptive_constraints.runs.compiling import Compiled, decide
from adaptive_constraints.runs.export import Exported, check_target, export
from adaptive_constraints.runs.file import read_run, write_run
from adaptive_constraints.runs.folder import CHECKPOINT, begun
from adaptive_constraints.runs.history import History
from adaptive_constraints.runs.identity import Identity
from adaptive_constraints.runs.loggers import Logger
from adaptive_constraints.runs.policy import Policy
from adaptive_constraints.runs.requests import (
    advice_on,
    check_stop,
    device_of,
    environment_of,
    refuse_move,
    seeds_of,
    trained_on,
)
from adaptive_constraints.runs.resuming import to_resume
from adaptive_constraints.runs.run import Run
from adaptive_constraints.runs.settings import AUTO, Buffer, RunSettings, online_settings
from adaptive_constraints.support.arguments import checked
from adaptive_constraints.support.bounds import Between
from adaptive_constraints.support.files import check_name
from adaptive_constraints.support.markup import table

EnvSource = str | Callable[[], Any]


@checked(StackError, but=["learner"])
def wrap(learner: Learner | Agent, *adapters: Adapter) -> Agent:
    """Compose adapters onto a learner: ``wrap(TD3BC(), ASPC())``.

    Settings only: nothing is trained yet, and the learner and the adapters stay as they are. Wrapping an agent adds
    to its adapters: ``wrap(wrap(L, A), B)`` is ``wrap(L, A, B)``. Raises `StackError` where parts do not fit.
    """
    if isinstance(learner, Agent):
        return Agent(Stack(learner.learner, learner.adapters + adapters))
    return Agent(Stack(learner, adapters))


@checked(CheckpointError)
def load_agent(path: str | Path, device: str | torch.device | None = None) -> Agent:
    """The agent that `Agent.save` wrote to ``path``, or the newest checkpoint of a run folder.

    It acts at once; ``fit`` with the same data and settings takes its training up where it stood. Reading never
    executes anything from the file. Raises `CheckpointError` if the file is damaged or not an agent, `StackError` if
    its learner or one of its adapters is not known here, `FileError` if ``path`` can be no name of a file.
    """
    path = Path(path)
    check_name(path)
    run = read_run(path / CHECKPOINT if path.is_dir() else path, device_of(device))
    agent = Agent(run.stack)
    agent._run = run
    return agent


class Agent:
    """A stack and, once fitted, its trained state. `wrap` makes one."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._run: Run | None = None

    # -- description ----------------------------------------------------------------------------------------------

    @property
    def stack(self) -> Stack:
        """The learner and its adapters."""
        return self._stack

    @property
    def learner(self) -> Learner:
        """The wrapped learner."""
        return self._stack.learner

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """The adapters, in the order in which they were given."""
        return self._stack.adapters

    @property
    def name(self) -> str:
        """Such as ``TD3BC + aspc``."""
        return self._stack.name

    def explain(self, phase: Phase = "offline") -> str:
        """Describe one step, stage by stage, and who answers at each seam."""
        return self._stack.explain(phase)

    def without(self, *names: str) -> Agent:
        """An untrained twin less the adapters of these names: the ablation."""
        return Agent(self._stack.without(*names))

    def untrained(self) -> Agent:
        """An untrained twin."""
        return Agent(self._stack)

    def __repr__(self) -> str:
        parts = ", ".join(repr(part) for part in (self.learner, *self.adapters))
        run = self._run
        return f"wrap({parts})" + (f", at step {self.step} of {run.engine.horizon}: {run.history!r}" if run else "")

    def _repr_html_(self) -> str:
        """A small table for notebooks: seeds and their scores."""
        if self._run is None:
            return table(f"{self.name}, not trained yet")
        run = self._run
        at = f"{self.name} at step {self.step} of {run.engine.horizon}, on {self.data_name}"
        return run.history.html(f"{at}: {run.history.headline()}")

    # -- training -------------------------------------------------------------------------------------------------

    @checked(TrainingError)
    def fit(
        self,
        dataset: Dataset | str,
        *,
        steps: int,
        seeds: int | Sequence[int] = 1,
        device: str | torch.device | None = None,
        eval_env: EnvSource | None = None,
        eval_every: int = 5_000,
        eval_episodes: int = 10,
        eval_seed: int = 0,
        eval_max_steps: int | None = None,
        stop_after: int | None = None,
        out: str | Path | None = None,
        log_every: int = 1_000,
        checkpoint_every: int = 10_000,
        tensorboard: bool = False,
        loggers: Sequence[Logger] = (),
        progress: bool = True,
        traced: bool = True,
        precision: Precision = "float32",
        compiled: Compiled = "auto",
    ) -> History:
        """Train on a data set, or go on with a training that was interrupted.

        dataset: a `Dataset`, or a reference such as ``"bundled:hopper"``.
        steps: the planned length in training steps (one minibatch per seed each). Schedules depend on it, so it is part
            of what the run is; to end early, use ``stop_after``.
        seeds: how many (0, 1, ...), or which; they train together and do not touch each other.
        device: such as ``"cpu"`` or ``"cuda"``; None takes CUDA where there is one.
        eval_env: a Gymnasium id or a function that makes an environment, rolled out every ``eval_every`` steps and at
            the end for ``eval_episodes`` episodes per seed; ``"auto"``: the one the data was recorded in, with the
            arguments and the time limit that it had there; None: never.
        eval_max_steps: end episodes after this many steps; None: where the environment ends them or, if it has no time
            limit, after as many as the data's longest episode has.
        stop_after: stop at this step of ``steps``.
        out: a run folder for configuration, logs, checkpoints and curves. If it already holds this run, training goes
            on from its checkpoint, bit for bit, or from this agent's own state where that is further; if it holds
            another, or another process is writing to it, that is an error.
        loggers: who else is told how the run goes; one of them may stop it early (`Logger`).
        traced: trace each stage once and replay it, on CUDA as graphs of whole steps (faster); False runs everything as
            written (for a debugger).
        precision: of matrix products; "bf16" rounds their factors to bfloat16, which pays on hardware with such
            instructions. Part of what the run is.
        compiled: compile steps, which takes about a minute at the start, is kept for later runs, and makes steps of
            small networks up to eight times as fast; needs a C++ compiler, on CUDA Triton. Part of what the run is,
            since it rounds differently. ``"auto"``: on a CPU with a compiler, where this call runs 50,000 steps or
            more or a run like it was compiled before; a run that is gone on with keeps to its way.

        Ctrl-C, and SIGTERM where there is a run folder, end it at the next safe point with a checkpoint and with this
        agent at the step reached; the same call goes on from there. A second one does not wait.

        What is doubtful about the data is said once, where a run begins: with the progress, or as a `DataWarning`
        where that is off.

        Returns the history. Raises `DatasetError` for data that cannot be trained on, `CheckpointError` where this
        agent or folder already holds another training, `FileError` where another run is writing to the folder, and
        `TrainingError` when all seeds are lost, a logger fails or another thread of this process is training.
        """
        data = load_dataset(dataset) if isinstance(dataset, str) else dataset
        check_trainable(data)
        chosen, where = seeds_of(seeds), device_of(device)
        check_stop(steps, stop_after)
        settings = RunSettings.of(locals(), eval_env=environment_of(eval_env, data))
        own = self._run
        if device is not None and own is not None:
            refuse_move(own.device, where)
        with loop.at_work(settings.folder):
            wanted = Identity(self._stack.to_spec(), steps, chosen, data.fingerprint, precision)
            kept_identity = own.identity if own is not None else settings.folder and begun(settings.folder)
            as_program = decide(
                compiled, wanted, kept_identity or None, where, traced=traced, stop_after=stop_after, say=progress
            )
            wanted = replace(wanted, compiled=as_program)
            execution = Execution(traced, precision, as_program)
            remedy, there = "train a twin: agent.untrained().fit(...)", where if own is None else own.device
            before, kept = to_resume(own, settings.folder, wanted, there, remedy)
            if before is None:
                run = self._begin(data, wanted, where, execution, progress)
            else:
                run = with_data(before, data, traced, progress)
            failed = loop.fit(run, settings, kept)
            self._run = run
            if failed is not None:
                raise failed
        return self.history

    def _begin(
        self, data: Dataset, wanted: Identity, device: torch.device, execution: Execution, progress: bool
    ) -> Run:
        """The wanted run at step 0, once what is doubtful about its data is said."""
        advice = [str(finding) for finding in advice_on(data, self.learner)]
        loop.say_advice(advice, progress)
        run = fresh_run(
            self._stack,
            data,
            steps=wanted.steps,
            seeds=wanted.seeds,
            device=device,
            execution=execution,
            progress=progress,
        )
        run.history.advice = advice
        return run

    @checked(TrainingError)
    def finetune(
        self,
        env: EnvSource,
        *,
        steps: int,
        buffer: Buffer = "all",
        warm_up: int | None = None,
        part_episodes: int = 50,
        capacity: int | None = None,
        dataset: Dataset | str | None = None,
        eval_env: EnvSource | None = AUTO,
        eval_every: int = 5_000,
        eval_episodes: int = 10,
        eval_seed: int = 0,
        eval_max_steps: int | None = None,
        stop_after: int | None = None,
        out: str | Path | None = None,
        log_every: int = 1_000,
        checkpoint_every: int = 10_000,
        tensorboard: bool = False,
        loggers: Sequence[Logger] = (),
        progress: bool = True,
        traced: bool = True,
    ) -> History:
        """Go online: train on with rows that each seed collects in an environment of its own.

        env: a Gymnasium id or a function that makes an environment; ``"auto"``: the one the data was recorded in.
        steps: environment steps of each seed. The first ``warm_up`` only collect; a training step follows
            each other one, and counts on from the offline ones.
        buffer: what stands beside the collected rows. "all": the data; "half": the data, in half of every minibatch
            (rounded down); "part": the ``part_episodes`` episodes of highest return; "none": nothing.
        warm_up: None: 2 % of the steps and at most 5,000, and as many as the first minibatch needs.
        capacity: collected rows kept per seed, the newest in place of the oldest; None: all.
        dataset: the data that the agent was trained on; needed after `load_agent`, unless the buffer is "none".
        eval_env: where to evaluate, in environments apart from those that rows are collected in; ``"auto"``: the same
            as ``env``; None: never.
        eval_max_steps: end episodes, those that are collected too, after this many steps; None: as in `fit`. One that
            is cut so counts as out of time, not as a true end.
        stop_after: stop after this many of the steps.

        Intervals count steps from the beginning of the phase; everything else is as in `fit`, and so is going on with
        a phase that was interrupted: its unfinished episodes are played again from their start. Returns the history of
        both phases.
        """
        run, source = self.run, environment_of(env, self.run.data)
        assert source is not None
        phase = online_settings(
            source,
            steps=steps,
            buffer=buffer,
            warm_up=warm_up,
            part_episodes=part_episodes,
            capacity=capacity,
            batch_size=self.learner.batch_size,
            max_steps=eval_max_steps,
        )
        first = phase.warm_up + 1
        if stop_after is not None and not first <= stop_after <= steps:
            raise TrainingError(f"stop_after must lie between {first} (after warm_up) and {steps}, not {stop_after}")
        settings = RunSettings.of(locals(), eval_env=source if eval_env == AUTO else environment_of(eval_env, run.data))
        data = None if buffer == "none" else trained_on(run, dataset)
        with loop.at_work(settings.folder):
            wanted, own = replace(run.identity, online=run.online_identity(phase)), run if run.online else None
            remedy = "fine-tune a copy of the agent from before: load_agent(path)"
            before, kept = to_resume(own, settings.folder, wanted, run.device, remedy)
            online = go_online(before or run, phase, source, data, traced, progress)
            failed = loop.fit(online, settings, kept)
            self._run = online
            if failed is not None:
                raise failed
        return self.history

    # -- use ------------------------------------------------------------------------------------------------------

    @property
    def run(self) -> Run:
        """The training: engine, data and history. Raises `TrainingError` where there is none yet."""
        if self._run is None:
            raise TrainingError(f"{self.name} is not trained yet: call fit(dataset, steps=...) or use load_agent(path)")
        return self._run

    @property
    def history(self) -> History:
        """Metrics, evaluations and lost seeds so far."""
        return self.run.history

    @property
    def step(self) -> int:
        """Steps so far; 0 before training."""
        return self._run.engine.step if self._run else 0

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds it was trained with."""
        return self.run.engine.seeds

    @property
    def env_id(self) -> str | None:
        """The Gymnasium id of the environment that its data was recorded in; None where that is not known."""
        return self.run.data.env_id

    @property
    def env_spec(self) -> dict[str, Any] | None:
        """How that environment is made; None where only its id is known, or nothing."""
        return self.run.data.env_spec

    @property
    def data_name(self) -> str:
        """The reference of the data it was trained on."""
        return self.run.data.name

    @checked(EvaluationError)
    def act(self, observations: ArrayLike, *, seed: int | None = None, step: int = 0) -> NDArray[np.float32]:
        """Actions [A] or [N, A] at observations [D] or [N, D], both in the environment's own units.

        seed: whose policy acts; None: that of the first seed that is not lost.
        step: number of the step in its episode; policies that draw noise key it by this.
        """
        run = self.run
        try:
            raw = np.asarray(observations, run.preprocessor.observation_type)
        except (TypeError, ValueError) as error:
            raise EvaluationError(f"observations must be an array of numbers, not {observations!r}") from error
        if raw.ndim not in (1, 2) or raw.shape[-1] != run.spec.observation_dim:
            raise EvaluationError(
                f"observations of shape {raw.shape}: this agent takes [{run.spec.observation_dim}] or "
                f"[N, {run.spec.observation_dim}]"
            )
        if not np.isfinite(raw).all():
            at = np.argwhere(~np.isfinite(raw))[0].tolist()
            raise EvaluationError(f"observations must be finite numbers, but that at {at} is {raw[tuple(at)]}")
        position = self._position(seed)
        rows = raw.reshape(1, -1, raw.shape[-1]).repeat(len(run.engine.seeds), axis=0)
        actions = run.act(rows, step)[position]
        return actions[0] if raw.ndim == 1 else actions

    @checked(EvaluationError)
    def evaluate(
        self, env: EnvSource | None = None, *, episodes: int = 10, seed: int = 0, eval_max_steps: int | None = None
    ) -> Evaluation:
        """Roll every seed's policy out: returns [S, episodes] and, where the task is known, normalised scores.

        env: a Gymnasium id or a function that makes one; None: the one the data was recorded in.
        eval_max_steps: end episodes after this many steps; None: as in `fit`.

        There is no score where the environment is another task than that of the reference returns. Raises
        `EvaluationError` for an environment that does not fit the data, or does not keep Gymnasium's interface.
        """
        with self._evaluator(env, episodes, seed, eval_max_steps) as evaluator:
            return evaluating.evaluate(self.run, evaluator)

    @checked(EvaluationError)
    def record(
        self,
        path: str | Path,
        env: EnvSource | None = None,
        *,
        filmed: int = 1,
        policy: int | None = None,
        episodes: int = 10,
        seed: int = 0,
        eval_max_steps: int | None = None,
    ) -> Evaluation:
        """Evaluate as `evaluate` does, and film the first of the episodes of one policy.

        path: an MP4, in which they follow one another; it is there once it is whole.
        filmed: how many of the ``episodes`` to film.
        policy: the seed of whose policy; None: that of the first seed that is not lost.

        What the film shows are the first ``filmed`` of that policy's returns in the evaluation. A function as ``env``
        must make an environment with ``render_mode="rgb_array"``. Raises `DependencyError` without the extra
        ``video``, `FileError` for a file that cannot be written, and `EvaluationError` where no frames can be had.
        """
        with self._evaluator(env, episodes, seed, eval_max_steps) as evaluator:
            return evaluating.record(self.run, evaluator, Path(path), self._position(policy), filmed)

    def _evaluator(self, env: EnvSource | None, episodes: int, seed: int, max_steps: int | None) -> Evaluator:
        source = environment_of(env or AUTO, self.run.data)
        assert source is not None
        return evaluating.evaluator_of(self.run, source, episodes, seed, max_steps)

    @checked(EvaluationError)
    def evaluate_offline(
        self,
        dataset: Dataset | str,
        *,
        discount: Annotated[float, Between(0, 1)] | None = None,
        steps: int = FQE.steps,
        critics: int = FQE.critics,
        hidden: int = FQE.hidden,
        held_out: float = FQE.held_out,
        seed: int = FQE.seed,
        progress: bool = True,
    ) -> OfflineEvaluation:
        """Estimate every seed's return from data alone, by fitted Q evaluation; no environment is needed.

        dataset: recorded in the policies' environment, by whatever behaviour: what they were trained on, or other data.
        discount: of the estimated return, per step; None: the learner's own.
        steps, critics, hidden, held_out, seed: settings of the fit, see `choosing.FQE`.

        What is estimated, and how far to trust it, is in docs/choosing.md; to compare agents, fit them all at once by
        `choosing.evaluate_offline` or ``adaptive-constraints ope``. Raises `EvaluationError` for data of other sizes.
        """
        data = load_dataset(dataset) if isinstance(dataset, str) else dataset
        fqe = FQE(steps=steps, critics=critics, hidden=hidden, held_out=held_out, seed=seed)
        policies = [policies_of(self.run, self.name)]
        (estimate,) = evaluate_offline(
            policies, data, discount=discount, fqe=fqe, device=self.run.device, progress=progress
        )
        return estimate

    @checked(CheckpointError)
    def save(self, path: str | Path) -> None:
        """Write policy, training state and history to one file, in one step; `load_agent` reads it."""
        write_run(self.run, path)

    @checked(EvaluationError)
    def policy(self, seed: int | None = None) -> Policy:
        """Copy the policy of one seed as a Module, from observations to actions in the environment's own units.

        seed: whose policy; None: that of the first seed that is not lost.

        It stands on the agent's device; see `Policy` for what its ``forward`` and ``sample`` are. Raises
        `EvaluationError` for a seed that is lost or unknown.

        >>> import torch
        >>> from adaptive_constraints import load_dataset, wrap
        >>> from adaptive_constraints.baselines import TD3BC
        >>> agent, data = wrap(TD3BC(hidden=8)), load_dataset("bundled:hopper")
        >>> history = agent.fit(data, steps=2, traced=False, device="cpu", progress=False)
        >>> policy = agent.policy()
        >>> policy
        Policy(TD3BC, seed 0 at step 2: [N, 11] -> [N, 3])
        >>> policy(torch.tensor(data.observations[:5])).shape
        torch.Size([5, 3])
        """
        position = self._position(seed)
        if lost := self.history.lost(self.seeds[position]):
            kept = [other for other in self.seeds if other not in self.history.failures]
            raise EvaluationError(
                f"seed {self.seeds[position]} was {lost}; "
                + (f"take one of the seeds {kept}" if kept else "no other is left, so train again")
            )
        return Policy(self.run, position)

    @checked(ExportError)
    def export(self, path: str | Path, seed: int | None = None) -> Exported:
        """Write the policy of one seed to a file that is used without this package.

        path: ends in ``.pt2``, for ``torch.export.load``, or in ``.onnx``, which needs the extra ``export``.
        seed: as in `policy`.

        The file takes observations [N, D] of any N and, where the policy draws noise, the step in the episode, and
        gives what ``forward`` of `policy` gives, on a CPU. It is tried before it is written. Raises `ExportError`,
        with nothing written, where an action would differ from that of `act` by more than 1e-4 of half the range of
        actions (5e-2 where ``precision`` is "bf16"), `EvaluationError` for a seed that is lost or unknown,
        `DependencyError` where an extra is missing, and `FileError` where the file cannot be written.
        """
        check_target(path := Path(path))
        policy = self.policy(seed).cpu()
        return export(policy, self.run, lambda raw, step: self.act(raw, seed=policy.seed, step=step), path)

    def _position(self, seed: int | None) -> int:
        run = self.run
        seeds = run.engine.seeds
        if seed is None:
            return next((i for i, candidate in enumerate(seeds) if candidate not in run.history.failures), 0)
        if seed not in seeds:
            raise EvaluationError(f"no seed {seed} in this agent; it was trained with the seeds {list(seeds)}")
        return seeds.index(seed)


__all__ = ["Agent", "load_agent", "wrap"]
