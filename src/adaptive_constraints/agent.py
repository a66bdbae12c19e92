"""The agent: a stack that can be explained, trained, evaluated, saved, and taken apart again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from adaptive_constraints.composition.stack import Stack
from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.learner import Learner
from adaptive_constraints.core.types import Phase
from adaptive_constraints.data import Dataset, Finding, advise, check_trainable, load_dataset
from adaptive_constraints.engine.engine import Execution
from adaptive_constraints.environments.specs import RecordedEnv
from adaptive_constraints.errors import CheckpointError, EvaluationError, StackError, TrainingError
from adaptive_constraints.evaluation import Evaluation
from adaptive_constraints.networks import Precision
from adaptive_constraints.runs import evaluating
from adaptive_constraints.runs import loop as fitting
from adaptive_constraints.runs.history import History
from adaptive_constraints.runs.identity import DataFacts, Identity
from adaptive_constraints.runs.online import Buffer, OnlineSettings, online_settings
from adaptive_constraints.runs.run import Trained
from adaptive_constraints.support.arguments import checked

EnvSource = str | Callable[[], Any]
AUTO = "auto"
"""As an environment: the one that the data was recorded in."""


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
    its learner or one of its adapters is not known here.
    """
    path = Path(path)
    file = path / fitting.CHECKPOINT if path.is_dir() else path
    trained = Trained.read(file, _device(device))
    agent = Agent(trained.stack)
    agent._trained = trained
    return agent


class Agent:
    """A stack and, once fitted, its trained state. `wrap` makes one."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._trained: Trained | None = None

    # -- description ----------------------------------------------------------------------------------------------

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
        """What one tick does, stage by stage, and who answers at each seam."""
        return self._stack.explain(phase)

    def without(self, *names: str) -> Agent:
        """An untrained twin less the adapters of these names: the ablation."""
        return Agent(self._stack.without(*names))

    def untrained(self) -> Agent:
        """An untrained twin."""
        return Agent(self._stack)

    def __repr__(self) -> str:
        parts = ", ".join(repr(part) for part in (self.learner, *self.adapters))
        return f"wrap({parts})" + (f", at tick {self.tick} of {self._trained.engine.horizon}" if self._trained else "")

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
        progress: bool = True,
        traced: bool = True,
        precision: Precision = "float32",
        compiled: bool = False,
    ) -> History:
        """Train on a data set, or go on with a training that was interrupted.

        dataset: a `Dataset`, or a reference such as ``"bundled:hopper"``.
        steps: the planned length in ticks (one minibatch per seed each). Schedules depend on it, so it is part of
            what the run is; to end early, use ``stop_after``.
        seeds: how many (0, 1, ...), or which; they train together and do not touch each other.
        device: such as ``"cpu"`` or ``"cuda"``; None takes CUDA where there is one.
        eval_env: a Gymnasium id or a function that makes an environment, rolled out every ``eval_every`` ticks and at
            the end for ``eval_episodes`` episodes per seed; ``"auto"``: the one the data was recorded in, with the
            arguments and the time limit that it had there; None: never.
        eval_max_steps: end episodes after this many steps; None: where the environment ends them or, if it has no time
            limit, after as many as the data's longest episode has.
        stop_after: stop at this tick of ``steps``.
        out: a run folder for configuration, logs, checkpoints and curves. If it already holds this run, training goes
            on from its checkpoint, bit for bit, or from this agent's own state where that is further; if it holds
            another, or another process is writing to it, that is an error.
        traced: trace each stage once and replay it, on CUDA as graphs of whole ticks (faster); False runs everything as
            written (for a debugger).
        precision: of matrix products; "bf16" rounds their factors to bfloat16, which pays on hardware with such
            instructions. Part of what the run is.
        compiled: compile the traced stages, which takes about a minute at the start and makes long runs faster; needs a
            C++ compiler, on CUDA Triton. Part of what the run is, since it rounds differently.

        Ctrl-C, and SIGTERM where there is a run folder, end it at the next safe point with a checkpoint and with this
        agent at the tick reached; the same call goes on from there. A second one does not wait.

        What is doubtful about the data is said once, where a run begins: with the progress, or as a `DataWarning`
        where that is off.

        Returns the history. Raises `DatasetError` for data that cannot be trained on, `CheckpointError` where this
        agent or folder already holds another training, `FileError` where another run is writing to the folder, and
        `TrainingError` when all seeds are lost or another thread of this process is training.
        """
        data = load_dataset(dataset) if isinstance(dataset, str) else dataset
        check_trainable(data)
        chosen = _seeds(seeds)
        where, last = _device(device), _stop(steps, stop_after)
        plan = fitting.Plan(
            stop_after=last,
            eval_env=_environment(eval_env, data),
            eval_every=eval_every,
            eval_episodes=eval_episodes,
            eval_seed=eval_seed,
            eval_max_steps=eval_max_steps,
            log_every=log_every,
            checkpoint_every=checkpoint_every,
            out=Path(out) if out is not None else None,
            tensorboard=tensorboard,
            progress=progress,
        )
        execution = _execution(traced, precision, compiled)
        wanted = Identity(self._stack.to_spec(), steps, chosen, data.fingerprint, precision, compiled)
        if device is not None and self._trained is not None:
            _refuse_move(self._trained.device, where)
        with fitting.at_work(plan):
            before, kept = self._started(wanted, plan.out, where)
            if before is None:
                advice = [str(finding) for finding in _advice(data, self.learner)]
                fitting.say_advice(advice, progress)
                trained = Trained.fresh(
                    self._stack,
                    data,
                    steps=steps,
                    seeds=chosen,
                    device=where,
                    execution=execution,
                    progress=progress,
                )
                trained.history.advice = advice
            else:
                trained = before.with_data(data, traced, progress)
            fitting.fit(trained, plan, kept)
            self._trained = trained
        return self.history

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
        progress: bool = True,
        traced: bool = True,
    ) -> History:
        """Go online: train on with rows that each seed collects in an environment of its own, one tick per step.

        env: a Gymnasium id or a function that makes an environment; ``"auto"``: the one the data was recorded in.
        steps: environment steps of each seed. The first ``warm_up`` only collect, so there are ``steps - warm_up``
            ticks; they count on from the offline ones.
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

        Intervals count ticks from the beginning of the phase; everything else is as in `fit`, and so is going on with
        a phase that was interrupted: its unfinished episodes are played again from their start. Returns the history of
        both phases.
        """
        trained, source = self._need(), _environment(env, self._need().data)
        assert source is not None
        settings = online_settings(
            source,
            steps=steps,
            buffer=buffer,
            warm_up=warm_up,
            part_episodes=part_episodes,
            capacity=capacity,
            batch_size=self.learner.batch_size,
            max_steps=eval_max_steps,
        )
        first = settings.warm_up + 1
        if stop_after is not None and not first <= stop_after <= steps:
            raise TrainingError(f"stop_after must lie between {first} (after warm_up) and {steps}, not {stop_after}")
        plan = fitting.Plan(
            stop_after=(stop_after or steps) - settings.warm_up,
            eval_env=source if eval_env == AUTO else eval_env,
            eval_every=eval_every,
            eval_episodes=eval_episodes,
            eval_seed=eval_seed,
            eval_max_steps=eval_max_steps,
            log_every=log_every,
            checkpoint_every=checkpoint_every,
            out=Path(out) if out is not None else None,
            tensorboard=tensorboard,
            progress=progress,
        )
        data = None if buffer == "none" else _trained_on(trained, dataset)
        with fitting.at_work(plan):
            before, kept = self._began(trained, settings, plan.out)
            online = before.go_online(settings, source, data, traced, progress)
            fitting.fit(online, plan, kept)
            self._trained = online
        return self.history

    def _began(self, trained: Trained, settings: OnlineSettings, folder: Path | None) -> tuple[Trained, bool]:
        """The online phase to go on with, or the run that begins one now; and whether it is what the folder holds."""
        wanted = replace(trained.identity, online=settings.identity(trained.origin))
        own = trained if trained.online is not None else None
        if own is not None:
            remedy = "fine-tune a copy of the agent from before: load_agent(path)"
            _refuse_other(own.identity, wanted, "this agent", remedy)
        further, kept = _further(own, _kept(folder, wanted, trained.device))
        return further or trained, kept

    def _started(self, wanted: Identity, folder: Path | None, device: torch.device) -> tuple[Trained | None, bool]:
        """The training to go on with, if there is one, and whether it is what the folder holds."""
        own = self._trained
        if own is not None:
            _refuse_other(own.identity, wanted, "this agent", "train a twin: agent.untrained().fit(...)")
        return _further(own, _kept(folder, wanted, device if own is None else own.device))

    # -- use ------------------------------------------------------------------------------------------------------

    @property
    def history(self) -> History:
        """What happened during training."""
        return self._need().history

    @property
    def tick(self) -> int:
        """How far training is; 0 before."""
        return self._trained.engine.tick if self._trained else 0

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds it was trained with."""
        return self._need().engine.seeds

    @property
    def env_id(self) -> str | None:
        """The Gymnasium id of the environment that its data was recorded in; None where that is not known."""
        return self._need().data.env_id

    @property
    def env_spec(self) -> dict[str, Any] | None:
        """How that environment is made; None where only its id is known, or nothing."""
        return self._need().data.env_spec

    @property
    def data_name(self) -> str:
        """The reference of the data it was trained on."""
        return self._need().data.name

    @checked(EvaluationError)
    def act(self, observations: ArrayLike, *, seed: int | None = None, step: int = 0) -> NDArray[np.float32]:
        """Actions [A] or [N, A] at observations [D] or [N, D], both in the environment's own units.

        seed: whose policy acts; None: that of the first seed that is not lost.
        step: number of the step in its episode; policies that draw noise key it by this.
        """
        trained = self._need()
        try:
            raw = np.asarray(observations, trained.preprocessor.observation_type)
        except (TypeError, ValueError) as error:
            raise EvaluationError(f"observations must be an array of numbers, not {observations!r}") from error
        if raw.ndim not in (1, 2) or raw.shape[-1] != trained.spec.observation_dim:
            raise EvaluationError(
                f"observations of shape {raw.shape}: this agent takes [{trained.spec.observation_dim}] or "
                f"[N, {trained.spec.observation_dim}]"
            )
        if not np.isfinite(raw).all():
            at = np.argwhere(~np.isfinite(raw))[0].tolist()
            raise EvaluationError(f"observations must be finite numbers, but that at {at} is {raw[tuple(at)]}")
        position = self._position(seed)
        rows = raw.reshape(1, -1, raw.shape[-1]).repeat(len(trained.engine.seeds), axis=0)
        actions = trained.act(rows, step)[position]
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
        trained = self._need()
        source = _environment(env or AUTO, trained.data)
        assert source is not None
        with evaluating.evaluator_of(trained, source, episodes, seed, eval_max_steps) as evaluator:
            return evaluating.evaluate(trained, evaluator)

    @checked(CheckpointError)
    def save(self, path: str | Path) -> None:
        """Write policy, training state and history to one file, in one step; `load_agent` reads it."""
        self._need().write(path)

    def _need(self) -> Trained:
        if self._trained is None:
            raise TrainingError(f"{self.name} is not trained yet: call fit(dataset, steps=...) or use load_agent(path)")
        return self._trained

    def _position(self, seed: int | None) -> int:
        trained = self._need()
        seeds = trained.engine.seeds
        if seed is None:
            return next((i for i, each in enumerate(seeds) if each not in trained.history.failures), 0)
        if seed not in seeds:
            raise EvaluationError(f"no seed {seed} in this agent; it was trained with the seeds {list(seeds)}")
        return seeds.index(seed)


def _kept(folder: Path | None, wanted: Identity, device: torch.device) -> Trained | None:
    """The run that a folder holds, if it holds one; it must be the wanted one, whatever part of it is there."""
    if folder is None:
        return None
    remedy = "use another folder, or remove this one"
    if (begun := fitting.begun(folder)) is not None:
        _refuse_other(begun, wanted, str(folder), remedy)
    file = folder / fitting.CHECKPOINT
    if not file.is_file():  # it ended before its first checkpoint: it begins anew
        return None
    found = Trained.read(file, device)
    _refuse_other(found.identity, wanted, str(file), remedy)
    return found


def _further(own: Trained | None, kept: Trained | None) -> tuple[Trained | None, bool]:
    """Of one run as an agent and as a folder has it, the one that is further; and whether that is the folder's."""
    if kept is None or (own is not None and own.progress > kept.progress):
        return own, False
    return kept, True


def _advice(data: Dataset, learner: Learner) -> Sequence[Finding]:
    """What is doubtful about data that this learner is to train on."""
    return advise(
        data,
        reward_scale=learner.reward_scale,
        reward_shift=learner.reward_shift,
        normalize_observations=learner.normalize_observations,
    )


def _refuse_other(identity: Identity, wanted: Identity, where: str, remedy: str) -> None:
    differences = identity.differences(wanted)
    if differences:
        raise CheckpointError(f"{where} holds another training ({'; '.join(differences)}): {remedy}")


def _trained_on(trained: Trained, dataset: Dataset | str | None) -> Dataset:
    """The data that a run was trained on, which must be given unless it is still at hand."""
    data = load_dataset(dataset) if isinstance(dataset, str) else dataset or trained.dataset
    if data is None:
        raise TrainingError(
            f"this buffer begins with the data that the agent was trained on ({trained.data.name}), which is not at "
            "hand: pass dataset=, or use buffer='none'"
        )
    if data.fingerprint != trained.data.fingerprint:
        raise TrainingError(
            f"{data.name} is not the data that the agent was trained on ({trained.data.name}): its fingerprint is "
            f"{data.fingerprint}, not {trained.data.fingerprint}"
        )
    return data


def _device(name: str | torch.device | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TrainingError(f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); try 'cpu'") from error
    return device


def _refuse_move(there: torch.device, wanted: torch.device) -> None:
    if (there.type, there.index or 0) != (wanted.type, wanted.index or 0):
        raise TrainingError(f"this agent is on {there}, not on {wanted}: save it, and load_agent(path, '{wanted}')")


def _seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(map(int, seeds))
    if not chosen or len(set(chosen)) < len(chosen):
        raise TrainingError(f"seeds must be a count of at least 1 or a list of different numbers, not {seeds!r}")
    return chosen


def _execution(traced: bool, precision: Precision, compiled: bool) -> Execution:
    if compiled and not traced:
        raise TrainingError("compiled=True compiles what is traced: leave traced at True")
    return Execution(traced, precision, compiled)


def _stop(steps: int, stop_after: int | None) -> int:
    if steps < 1:
        raise TrainingError(f"steps must be at least 1, not {steps}")
    if stop_after is not None and not 1 <= stop_after <= steps:
        raise TrainingError(f"stop_after must lie between 1 and steps = {steps}, not {stop_after}")
    return steps if stop_after is None else stop_after


def _environment(source: EnvSource | None, data: Dataset | DataFacts) -> EnvSource | None:
    """What was asked for; of ``"auto"``, what the data says of its environment, which imports nothing."""
    if source != AUTO:
        return source
    if data.env_id is None:
        raise EvaluationError("the data does not say which environment it comes from: name one, such as 'Hopper-v5'")
    return RecordedEnv(data.env_id, data.env_spec)


__all__ = ["Agent", "load_agent", "wrap"]
