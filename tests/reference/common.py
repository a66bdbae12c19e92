"""What every plain loop does: networks that start as the engine's, rows and noise of a step, averages, deviations."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from adaptive_constraints import Adapter, Dataset, Learner
from adaptive_constraints.engine import noise
from adaptive_constraints.engine.engine import Engine

from ..helpers import build, random_data, resolved_of


class Network(nn.Sequential):
    """Linear maps of these sizes with an activation, and perhaps LayerNorm before or after it, between them."""

    def __init__(
        self,
        *sizes: int,
        activation: Callable[[], nn.Module] = nn.ReLU,
        norm: str | None = None,
        epsilon: float = 1e-5,
        last: Sequence[nn.Module] = (),
    ) -> None:
        layers: list[nn.Module] = []
        for wide, narrow in itertools.pairwise(sizes[:-1]):
            layers += [nn.Linear(wide, narrow), *([nn.LayerNorm(narrow)] if norm == "before" else []), activation()]
            layers += [nn.LayerNorm(narrow, eps=epsilon)] if norm == "after" else []
        super().__init__(*layers, nn.Linear(*sizes[-2:]), *last)

    def forward(self, *inputs: Tensor) -> Tensor:
        return super().forward(torch.cat(inputs, -1))


class Scalar(Network):
    """One number per row, of states [B, O] or of states and actions [..., B, A]."""

    def forward(self, *inputs: Tensor) -> Tensor:
        state, *action = inputs
        state = state.expand(*action[0].shape[:-1], -1) if action else state
        return super().forward(state, *action).squeeze(-1)


def give(params: Mapping[str, Tensor], prefix: str = "") -> list[Tensor]:
    """One network's tensors in the order and orientation of a module's parameters."""
    given: list[Tensor] = []
    for layer in range(sum(name.startswith(f"{prefix}weight") for name in params)):
        given += [params[f"{prefix}weight{layer}"].mT, params[f"{prefix}bias{layer}"]]
        norm = [params.get(f"{prefix}{name}{layer}") for name in ("gain", "shift")]
        given += [tensor for tensor in norm if tensor is not None]
    return given


def take(network: nn.Module, params: Mapping[str, Tensor], prefix: str = "") -> None:
    """Let a module have these parameters."""
    with torch.no_grad():
        for ours, theirs in zip(network.parameters(), give(params, prefix), strict=True):
            ours.copy_(theirs)


def network(params: Mapping[str, Tensor], activation: Callable[[], nn.Module] = nn.ReLU) -> Network:
    """The network of these linear maps."""
    weights = [params[f"weight{layer}"] for layer in range(len(params) // 2)]
    made = Network(len(weights[0]), *(weight.shape[1] for weight in weights), activation=activation).to(weights[0])
    take(made, params)
    return made


def one(params: Mapping[str, Tensor], position: int = 0, index: int | None = None) -> dict[str, Tensor]:
    """The tensors of one seed, or of one of its critics."""
    return {name: tensor[position] if index is None else tensor[position, index] for name, tensor in params.items()}


def average(targets: Iterable[nn.Module], networks: Iterable[nn.Module], rate: float = 0.005) -> None:
    for target, network in zip(targets, networks, strict=True):
        for old, new in zip(target.parameters(), network.parameters(), strict=True):
            old.data.copy_(rate * new.data + (1 - rate) * old.data)


def adam(*networks: nn.Module, rate: float = 3e-4, more: Iterable[Tensor] = (), epsilon: float = 1e-8) -> Adam:
    parameters = [p for network in networks for p in network.parameters()]
    return Adam([*parameters, *more], lr=rate, eps=epsilon, foreach=True)


def update(optimizer: Optimizer, loss: Tensor) -> None:
    update_together([optimizer], [loss])


def update_together(optimizers: Sequence[Optimizer], losses: Sequence[Tensor]) -> None:
    """All gradients at the same parameters, each of its own loss alone, then all steps."""
    pairs = list(zip(optimizers, losses, strict=True))
    parameters = [optimizer.param_groups[0]["params"] for optimizer in optimizers]
    gradients = [
        torch.autograd.grad(loss, own, retain_graph=True) for own, loss in zip(parameters, losses, strict=True)
    ]
    for (optimizer, _), own, own_gradients in zip(pairs, parameters, gradients, strict=True):
        for parameter, gradient in zip(own, own_gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()


def draw(kind: str, site: str, shape: Sequence[int], seed: int, step: int, dtype: torch.dtype) -> Tensor:
    """Noise of one seed at one step."""
    key: dict[str, Any] = {"seeds": torch.tensor([seed]), "steps": torch.tensor([step])}
    return getattr(noise, kind)(site=site, shape=shape, dtype=dtype, **key)[0, 0]


def minibatch(count: int, rows: int, seed: int, step: int, site: str = "batch") -> Tensor:
    """The rows [count] of one seed's minibatch at one step."""
    seeds, steps = torch.tensor([seed]), torch.tensor([step])
    return noise.indices(site=site, count=count, rows=rows, seeds=seeds, steps=steps)[0, 0]


L = TypeVar("L", bound="Loop")
NAMES = ("observation", "action", "reward", "next_observation", "terminal")


class Loop(ABC):
    """The networks of one seed, stepped as the method's authors do it, on rows of the data set itself."""

    def __init__(self, engine: Engine, data: Dataset, seed: int | None = None) -> None:
        self.settings: Any = resolved_of(engine).learner
        self.seed = engine.seeds[0] if seed is None else seed
        self.position, self.now = engine.seeds.index(self.seed), 0
        self.dtype = next(iter(next(iter(engine.params.values())).values())).dtype
        arrays = (data.observations, data.actions, data.rewards, data.next_observations, data.terminals)
        self.columns = {name: torch.tensor(array).to(self.dtype) for name, array in zip(NAMES, arrays, strict=True)}
        self.states, self.dims = data.observation_dim, data.action_dim

    @abstractmethod
    def networks(self) -> dict[str, nn.Module | list[Any]]:
        """By group in the engine, with ``/target`` for its average; of several critics all."""

    def pairs(self, engine: Engine) -> list[tuple[Tensor, Tensor]]:
        """Our networks' tensors beside the engine's."""
        pairs: list[tuple[Tensor, Tensor]] = []
        for name, networks in self.networks().items():
            group, _, target = name.partition("/")
            params = (engine.targets if target else engine.params)[group]
            several = enumerate(networks) if isinstance(networks, list) else [(None, networks)]
            for index, network in several:
                pairs += zip(network.parameters(), give(one(params, self.position, index)), strict=True)
        return pairs

    def scalars(self, engine: Engine) -> list[tuple[Tensor, Tensor]]:
        """Tensors that are compared too, and start where the method says."""
        return []

    def start(self, engine: Engine) -> None:
        """Let our networks start as the engine's."""
        for ours, theirs in self.pairs(engine):
            assert ours.shape == theirs.shape
            ours.data.copy_(theirs)

    def largest_deviation(self, engine: Engine) -> float:
        """Over every parameter of every network and target of this seed; not a number if any is."""
        pairs = [*self.pairs(engine), *self.scalars(engine)]
        return float(torch.stack([(ours.detach() - theirs).abs().max() for ours, theirs in pairs]).max())

    def rows(self, *names: str) -> list[Tensor]:
        """These columns of the step's minibatch; by default s, a, r, s', d."""
        index = minibatch(self.settings.batch_size, len(self.columns["reward"]), self.seed, self.now)
        return [self.columns[name][index] for name in names or NAMES]

    def draw(self, kind: str, site: str, *shape: int) -> Tensor:
        """Noise of this step."""
        return draw(kind, site, shape, self.seed, self.now, self.dtype)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.now += 1
            self.step()

    @abstractmethod
    def step(self) -> None:
        """On one minibatch."""


def beside(
    loop: Callable[[Engine, Dataset], L], learner: Learner, *adapters: Adapter, steps: int, **options: Any
) -> tuple[Engine, L]:
    """Engine and loop after the same steps, on data a twentieth of which ends an episode."""
    data = random_data(1000, observation=11, action=3)
    engine = build(learner, *adapters, **{"seeds": (3,), "horizon": steps, "data": data, **options})
    plain = loop(engine, data)
    engine.run(steps)
    plain.run(steps)
    return engine, plain
