"""A whole step as one native program, for the CPU.

A step of small networks is some hundred short operations, and calling them from Python takes longer than running them.
The compiler fuses what stands between matrix products into few loops, and one call runs all of it on the state itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, fx
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from adaptive_constraints.engine.activations import ACTIVATIONS
from adaptive_constraints.engine.step_cache import Library

WORTH_COMPILING = 50_000
"""Steps that repay the compiler's minute: whatever the shapes, a compiled step saves about a millisecond or more."""


class CompiledStep:
    """A step that is compiled, or read from the cache; a `recording.Graph`."""

    in_one_piece: ClassVar[bool] = True

    def __init__(self) -> None:
        self._inputs: list[Tensor] = []
        self.library: Library | None = None
        """Its native code, once it is recorded."""
        self._run: Callable[[list[Tensor]], Any] | None = None

    def record(self, run: Callable[[], None]) -> None:
        """Record, executing it, and begin to compile in the background what the cache does not have."""
        graph, self._inputs = recorded(run)
        self.library = Library(graph, self._inputs)
        self.library.start()

    def ready(self) -> None:
        """Wait until it is compiled."""
        if self._run is None:
            assert self.library is not None
            self._run = self.library.load()

    def replay(self) -> None:
        """Run the program."""
        self.ready()
        assert self._run is not None
        self._run(self._inputs)


def recorded(run: Callable[[], None]) -> tuple[fx.GraphModule, list[Tensor]]:
    """The operations of ``run`` as a function of all tensors from outside, and these tensors in order.

    It changes some of them in place and returns nothing.
    """
    with tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True))), torch.no_grad():
        graph = make_fx(run, decomposition_table=ACTIVATIONS)()
    return graph, _lift(graph)


def _lift(graph: fx.GraphModule) -> list[Tensor]:
    """Make arguments of the tensors that a graph holds, one of each."""
    tensors: list[Tensor] = []
    arguments: dict[int, fx.Node] = {}
    first = next(iter(graph.graph.nodes))
    for node in list(graph.graph.nodes):
        node.type = None  # an annotation, as text, which torch cannot save
        if node.op != "get_attr":
            continue
        tensor = getattr(graph, node.target)
        if id(tensor) not in arguments:
            with graph.graph.inserting_before(first):
                arguments[id(tensor)] = graph.graph.placeholder(f"arg{len(tensors)}")
            tensors.append(tensor)
        node.replace_all_uses_with(arguments[id(tensor)])
        graph.graph.erase_node(node)
    for name, _ in list(graph.named_buffers()):
        delattr(graph, name)
    graph.recompile()
    return tensors


__all__ = ["WORTH_COMPILING", "CompiledStep", "recorded"]
