"""``export``: write a trained policy to a file that is used without this package."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from adaptive_constraints.cli.command import Command, Common


@dataclass(kw_only=True)
class Export(Command):
    """Write the policy of one seed to a file that is used without this package, after trying it."""

    path: Path
    """Saved agent, or run folder (its newest checkpoint)."""
    file: Path
    """File to write: policy.pt2 for torch.export.load, or policy.onnx."""
    seed: int | None = None
    """Whose policy; by default that of the first seed that is not lost."""
    common: Common = field(default_factory=Common)

    def run(self) -> int:
        """Export, and say how near to the agent the file acts."""
        from adaptive_constraints.agent import load_agent

        agent = load_agent(self.path, "cpu")
        exported = agent.export(self.file, self.seed)
        print(f"{exported.path}: {agent.name} at step {agent.step}, {exported.size / 1e6:.2f} MB")
        print(
            f"actions differ from the agent's by at most {exported.largest_difference:.1e} of half their range, at "
            f"{exported.rows} observations"
        )
        if exported.unstable:
            print(f"{exported.unstable} more were left out: rounding moves the agent's own action there")
        return 0


__all__ = ["Export"]
