"""An adapter of one's own: imitate the better episodes of the data more.

    python examples/own_adapter.py

Each row's weight in the imitation term is exp(return of its episode, standardised, times ``temperature``), with mean 1.
It needs one seam, ``sample_weight``, and one column, made before training starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from adaptive_constraints import Adapter, AtLeast, Preparation, Prepared, View, load_dataset, wrap
from adaptive_constraints.baselines import TD3BC


@dataclass(frozen=True)
class ReturnWeighted(Adapter):
    """Weight the imitation of each row by how well its episode went."""

    temperature: Annotated[float, AtLeast(0)] = 1.0
    """How much better episodes count more; 0 weights all rows alike."""

    def prepare(self, preparation: Preparation) -> Prepared:
        """One weight per row [N]; the engine gathers it with every minibatch."""
        returns = torch.as_tensor(preparation.data.column("return"))
        weight = (self.temperature * (returns - returns.mean()) / returns.std()).exp()
        return Prepared(columns={"weight": weight / weight.mean()}, online={"weight": 1.0})

    def sample_weight(self, v: View) -> Tensor:
        """The weights [B] of this minibatch."""
        return v.batch[f"{self.name}.weight"]


def main(steps: int = 400) -> None:
    data = load_dataset("bundled:hopper")
    plain, weighted = wrap(TD3BC()), wrap(TD3BC(), ReturnWeighted(temperature=2.0))
    before, after = plain.explain().splitlines(), weighted.explain().splitlines()
    print("What the adapter changes:")
    print("\n".join(f"  {line.strip()}" for line in after if line not in before))
    for agent in (plain, weighted):
        history = agent.fit(data, steps=steps, seeds=2, eval_env="auto", log_every=steps, progress=False)
        _, constraint = history.series("actor/constraint")
        score = history.summary().last.mean()
        print(
            f"{agent.name}: distance from the data {constraint[-1].mean():.3f}, score {score:.1f} after {steps} steps"
        )


if __name__ == "__main__":
    main()
