"""``explain`` and ``list``: what a stack does, and what there is to build one of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from adaptive_constraints.agent import Agent, load_agent
from adaptive_constraints.cli.command import Command, Common
from adaptive_constraints.cli.show import show_parts, show_preset, show_settings
from adaptive_constraints.cli.stacks import stack_of
from adaptive_constraints.composition import registry
from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.learner import Learner
from adaptive_constraints.core.types import Phase
from adaptive_constraints.data import list_datasets
from adaptive_constraints.errors import StackError


@dataclass(kw_only=True)
class Explain(Command):
    """Say what one step of a stack does, stage by stage, and who answers at each seam."""

    path: tuple[Path, ...]
    """Saved agents or run folders, instead of a learner and adapters."""
    learner: tuple[str, ...] = ()
    """Learner and its settings, such as: TD3BC critic=robust alpha=3."""
    adapters: tuple[str, ...] = ()
    """Adapters, each with its settings, such as: ASPC interval=5 rate=published."""
    phase: Phase = "offline"
    """online: as it is while fine-tuning."""
    common: Common = field(default_factory=Common)

    def run(self) -> int:
        """Explain each."""
        if self.path and (self.learner or self.adapters):
            raise StackError("give saved agents, or --learner and --adapters, not both")
        agents = [load_agent(path, "cpu") for path in self.path]
        agents = agents or [Agent(stack_of(self.learner, self.adapters))]
        print("\n\n".join(agent.explain(self.phase) for agent in agents))
        return 0


@dataclass(kw_only=True)
class List(Command):
    """List the learners, adapters and data sets that are here; of those named, the settings."""

    name: tuple[str, ...]
    """Learners or adapters whose settings to show, or presets, such as antmaze."""
    common: Common = field(default_factory=Common)

    def run(self) -> int:
        """List."""
        for name in self.name:
            known: dict[str, type[Learner] | type[Adapter]] = {**registry.learners(), **registry.adapters()}
            having = {part: cls for part, cls in known.items() if name.lower() in map(str.lower, cls.presets)}
            if having and name not in known:
                show_preset(name, having)
            else:
                show_settings(registry.part(name))
        if not self.name:
            show_parts("Learners", registry.learners())
            show_parts("Adapters", registry.adapters())
            print("\nData sets that are here")
            print("\n".join(f"  {reference}" for reference in list_datasets()))
            print("\nadaptive-constraints list NAME shows the settings of a learner or an adapter.")
        return 0


__all__ = ["Explain", "List"]
