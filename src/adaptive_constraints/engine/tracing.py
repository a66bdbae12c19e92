"""A pure function of the state as a straight list of tensor operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from adaptive_constraints.engine.refusals import said_plainly, watched


def trace(function: Callable[[Any], Any], argument: Any) -> GraphModule:
    """The operations that ``function`` does with ``argument``, to be replayed on arguments of the same shapes."""
    # The tracer notes the shape of every result by a fake tensor, and where there is no mode for them to share makes
    # a new one for each, which takes as long as all the rest.
    with tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True))), said_plainly():
        traced = make_fx(watched(function))(argument)
    return simplified(traced)


def simplified(traced: GraphModule) -> GraphModule:
    """The same operations, each of them once: updates of one stage often evaluate a network at the same rows."""
    from torch._functorch.compile_utils import fx_graph_cse  # costs a second to import, and not all runs trace

    graph = traced.graph
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.detach.default):
        node.replace_all_uses_with(node.args[0])
        graph.erase_node(node)
    once = fx_graph_cse(graph)
    once.set_codegen(graph._codegen)
    once.eliminate_dead_code()
    return GraphModule(traced, once)
