"""Turn a recorded step into a native library; run as a script, in a process of its own.

    python lowering.py FOLDER      # reads FOLDER/step.pt and options.json, writes FOLDER/step.so

It knows nothing but torch, so that the process starts fast, and torch's compiler never enters the process that trains.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, fx

RECORDED, LIBRARY, OPTIONS = "step.pt", "step.so", "options.json"


class Layout(NamedTuple):
    """How a tensor lies in memory."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    @staticmethod
    def of(tensor: Tensor) -> Layout:
        """The layout of a tensor."""
        return Layout(tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)

    def zeros(self) -> Tensor:
        """A tensor that lies so."""
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype).zero_()


def long_axes(recorded: fx.GraphModule) -> dict[int, int]:
    """By position of an input: the axis along which rows are gathered from it, if that is all that is done with it.

    Such inputs are tables of data. The same program serves tables of any length.
    """
    inputs = [node for node in recorded.graph.nodes if node.op == "placeholder"]
    axes = {position: {_gathered(user, node) for user in node.users} for position, node in enumerate(inputs)}
    return {position: next(iter(of)) for position, of in axes.items() if len(of) == 1 and -1 not in of}


def _gathered(user: fx.Node, table: fx.Node) -> int:
    """The axis along which a node gathers from a table; -1 where it does something else with it."""
    if user.target is torch.ops.aten.index_select.default and user.args[0] is table and user.args[2] is not table:
        return int(user.args[1])  # type: ignore[arg-type]
    if user.target is torch.ops.aten.index.Tensor and user.args[0] is table and table not in user.args[1]:  # type: ignore[operator]
        return len(user.args[1]) - 1  # type: ignore[arg-type]
    return -1


def pure(recorded: fx.GraphModule, inputs: Sequence[Tensor]) -> tuple[fx.GraphModule, list[Tensor]]:
    """The same step, with one copy into each changed input at the end in place of changes on the way.

    Equal operations on equal values become one. It returns nothing. With it come stand-ins for its inputs, in which the
    lengths of tables of data are symbols.
    """
    from torch._functorch.compile_utils import fx_graph_cse
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.func import functionalize
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    def step(*tensors: Tensor) -> tuple[()]:
        recorded(*tensors)
        return ()

    def stand_in(tensor: Tensor, long_axis: int | None) -> Tensor:
        axes = [DimDynamic.DYNAMIC if axis == long_axis else DimDynamic.STATIC for axis in range(tensor.dim())]
        fake: Tensor = mode.from_tensor(tensor, symbolic_context=StatelessSymbolicContext(dynamic_sizes=axes))
        return fake

    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
    long = long_axes(recorded)
    fakes = [stand_in(tensor, long.get(position)) for position, tensor in enumerate(inputs)]
    with mode:
        traced = make_fx(functionalize(step, remove="mutations"))(*fakes)
    for node in traced.graph.find_nodes(op="call_function", target=torch.ops.aten.detach.default):
        node.replace_all_uses_with(node.args[0])
        traced.graph.erase_node(node)
    traced.graph.eliminate_dead_code()
    return fx.GraphModule(traced, fx_graph_cse(traced.graph)), fakes


def lower(recorded: fx.GraphModule, inputs: Sequence[Tensor], library: Path) -> None:
    """Write the step as a library that changes its inputs in place."""
    from torch._inductor import aot_compile

    graph, fakes = pure(recorded, inputs)
    made = aot_compile(graph, tuple(fakes))
    assert isinstance(made, str)
    os.replace(made, library)
    shutil.rmtree(Path(made).parent, ignore_errors=True)


def main(folder: Path) -> None:
    """Do what stands in a folder."""
    import torch._higher_order_ops.triton_kernel_wrap  # which torch forgets to import before it reads a graph

    graph, layouts = torch.load(folder / RECORDED, weights_only=False)
    torch.set_num_threads(json.loads((folder / OPTIONS).read_text(encoding="utf-8"))["threads"])
    with torch.no_grad():
        lower(graph, [Layout(*layout).zeros() for layout in layouts], folder / LIBRARY)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
