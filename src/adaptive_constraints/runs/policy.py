"""The trained policy of one seed as a Module, from observations to actions in the environment's own units."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from adaptive_constraints.core.types import Draw
from adaptive_constraints.core.view import Inputs
from adaptive_constraints.engine.acting import Way
from adaptive_constraints.engine.noise import normal, signed, uniform
from adaptive_constraints.engine.state import grouped, under
from adaptive_constraints.engine.tracing import trace
from adaptive_constraints.errors import EvaluationError
from adaptive_constraints.networks import product_precision
from adaptive_constraints.runs.run import Run

KINDS = ("params", "targets", "buffers", "frozen")
"""Kinds of arrays that a view shows while acting."""
SPACE = ("observation_mean", "observation_std", "action_center", "action_half_range")
"""Constants of the map into learner space that acting needs."""


class Policy(nn.Module):
    """The policy of one seed; `Agent.policy` makes one.

    It holds copies of the arrays that the policy reads, and of no others: the learner's own parameters, as Parameters
    that ask for no gradient, then averages, the map into learner space and the bounds of actions, as buffers. Training
    the agent further changes nothing here.

    ``forward(observations, step=0)`` is deterministic. It gives what ``agent.act(observations, step=step)`` gives, but
    for rounding, clipped to the bounds of actions as evaluation does:

    ======================  ========================================  ==========================================
    learner                 forward                                   sample
    ======================  ========================================  ==========================================
    TD3BC, ReBRAC, BC       the policy's only action                  the same
    IQL                     the mean, or the only action              a draw from the normal policy, or the same
    AWAC                    the mean                                  a draw from the normal policy
    CQL, SACN, EDAC         tanh of the mean                          a draw from the squashed normal policy
    DiffusionQL             one of ``candidates`` ends of the chain   the same of fresh noise
    FQL                     the student's action                      the same of fresh noise
    ======================  ========================================  ==========================================

    The last two draw noise in ``forward`` too, as evaluation does: by (seed, ``step``), so that a step of an episode
    that is given again is answered in the same way. Give them the step, or they meet every state with equal noise. A
    row's noise depends on its place among the rows.
    """

    observation_mean: Tensor
    """[D]"""
    observation_std: Tensor
    """[D]"""
    action_center: Tensor
    """[A]"""
    action_half_range: Tensor
    """[A]"""
    action_low: Tensor
    """[A] the smallest actions."""
    action_high: Tensor
    """[A] the largest."""

    def __init__(self, run: Run, position: int) -> None:
        """``position`` is the seed's place among those of the run."""
        super().__init__()
        engine, space = run.engine, run.preprocessor
        self.name, self.seed, self.step = run.stack.name, engine.seeds[position], engine.step
        self.observation_dim, self.action_dim = run.spec
        self._program, self._choices, self._precision = engine.program, engine.choices, engine.execution.precision
        self._clock = {"step": engine.step, "phase_step": engine.step - engine.phase_start, "horizon": engine.horizon}
        self._space = space
        for name in SPACE:
            self.register_buffer(name, getattr(space, name).clone())
        for name, bound in (("action_low", run.expected.action_low), ("action_high", run.expected.action_high)):
            self.register_buffer(name, torch.as_tensor(bound).to(space.action_center))
        tensors = {name: t[position].detach() for name, t in engine.state().items() if name.startswith(KINDS)}
        drawn, read = self._reads("act", tensors)
        self.random = bool(drawn)
        """Whether ``forward`` draws noise, and so depends on the step."""
        read |= self._reads("explore", tensors)[1]
        self._attributes: dict[str, str] = {}
        for name, tensor in tensors.items():
            if name.startswith(tuple(read)):
                self._keep(name, tensor.clone())

    def _keep(self, name: str, tensor: Tensor) -> None:
        """Register an array under a name without dots, which Modules do not take."""
        self._attributes[name] = attribute = name.replace(".", "/")
        if name.startswith("params/"):
            self.register_parameter(attribute, nn.Parameter(tensor, requires_grad=False))
        else:
            self.register_buffer(attribute, tensor)

    def _reads(self, way: Way, tensors: Mapping[str, Tensor]) -> tuple[list[Draw], set[str]]:
        """The noise that a way of acting draws, and the groups ("params/actor/") that it reads."""
        drawn: list[Draw] = []

        def draw(wanted: Draw) -> Tensor:
            drawn.append(wanted)
            return self.action_center.new_zeros(wanted.shape)

        row = self.observation_mean.new_zeros(1, self.observation_dim)
        with torch.no_grad():
            traced = trace(lambda given: self._actions(way, given, row, draw), dict(tensors))
        given = traced.graph.find_nodes(op="placeholder")
        used = [name for name, node in zip(tensors, given, strict=True) if node.users]
        return drawn, {"/".join(name.split("/")[:2]) + "/" for name in used}

    # -- acting ---------------------------------------------------------------------------------------------------

    def forward(self, observations: Tensor, step: Tensor | int = 0) -> Tensor:
        """Actions [N, A] at observations [N, D], both in the environment's own units.

        observations: finite numbers, best in the type of ``observation_mean``, which is that of the data.
        step: number of the step in its episode, an integer or a tensor [] of int64; without effect unless ``random``.
        """
        steps = torch.as_tensor(step, device=observations.device).view(1)
        seeds = torch.full((1,), signed(self.seed), dtype=torch.int64, device=observations.device)

        def draw(wanted: Draw) -> Tensor:
            draws = normal if wanted.kind == "normal" else uniform
            return draws(seeds, f"act/{wanted.site}", steps, wanted.shape, self.action_center.dtype)[0, 0]

        return self._actions("act", self._tensors(), observations, draw)

    def sample(self, observations: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Actions [N, A] at observations [N, D], drawn as fine-tuning online explores, in the environment's own units.

        observations: as for ``forward``.
        generator: where noise comes from, on the device of the observations; None: torch's own there.
        """
        drawn: dict[Draw, Tensor] = {}

        def draw(wanted: Draw) -> Tensor:
            if wanted not in drawn:  # equal sites draw equal numbers
                draws = torch.randn if wanted.kind == "normal" else torch.rand
                drawn[wanted] = draws(wanted.shape, generator=generator, device=observations.device)
            return drawn[wanted]

        return self._actions("explore", self._tensors(), observations, draw)

    def _tensors(self) -> dict[str, Tensor]:
        return {name: getattr(self, attribute) for name, attribute in self._attributes.items()}

    def _actions(
        self, way: Way, tensors: Mapping[str, Tensor], observations: Tensor, draw: Callable[[Draw], Tensor]
    ) -> Tensor:
        if observations.dim() != 2 or observations.shape[1] != self.observation_dim:
            raise EvaluationError(
                f"observations of shape {list(observations.shape)}: this policy takes [N, {self.observation_dim}]"
            )
        clock = {
            name: torch.full((), value, dtype=torch.int64, device=observations.device)
            for name, value in self._clock.items()
        }
        state: Inputs = {kind: grouped(under(kind, tensors)) for kind in KINDS}
        view = self._program.view(state | {"batch": {}, "clock": clock}, draw)
        view.choices = self._choices
        space = replace(self._space, **{name: getattr(self, name) for name in SPACE})
        with product_precision(self._precision):
            inner = self._program.policies[way](view, space.observations(observations.to(self.observation_mean.dtype)))
        return space.raw_actions(inner).clamp(self.action_low, self.action_high)

    def extra_repr(self) -> str:
        """Whose policy it is."""
        sizes = f"[N, {self.observation_dim}] -> [N, {self.action_dim}]"
        return f"{self.name}, seed {self.seed} at step {self.step}: {sizes}"


__all__ = ["Policy"]
