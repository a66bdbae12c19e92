"""A CUDA graph emulated on the CPU.

What is recorded keeps the tensors and numbers of its recording, and is refused what a capturing stream would refuse.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
READS_THE_DEVICE = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten._unique2}
"""Operations whose result the host waits for."""
COPIES_FROM_THE_HOST = {aten.lift_fresh}
"""What ``torch.tensor(...)`` and ``new_tensor(...)`` do once they have made a tensor on the host."""


def waits_for_the_device(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether the host cannot go on before the device has answered."""
    masks = func.overloadpacket in (aten.index, aten.index_put, aten.index_put_) and any(
        isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1]
    )
    return masks or func.overloadpacket in READS_THE_DEVICE


class EmulatedGraph(TorchDispatchMode):
    """Repeats the operations of its recording on the very tensors of its recording."""

    in_one_piece: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self._operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def record(self, run: Callable[[], None]) -> None:
        """Record what ``run`` does (and do it)."""
        with self:
            run()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert not waits_for_the_device(func, args), f"{func} waits for the device: it cannot be captured"
        assert func.overloadpacket not in COPIES_FROM_THE_HOST, f"{func} copies from the host: it cannot be captured"
        result = func(*args, **(kwargs or {}))
        self._operations.append((func, args, kwargs or {}, result))
        return result

    def ready(self) -> None:
        """It is."""

    @torch.no_grad()
    def replay(self) -> None:
        """Do it again, with results where they were."""
        for func, args, kwargs, result in self._operations:
            again = func(*args, **kwargs)
            for old, new in zip(pytree.tree_leaves(result), pytree.tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Count(TorchDispatchMode):
    """Counts operations that compute something (on a GPU, about the kernels), and those that wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        views = any(returned.alias_info and not returned.alias_info.is_write for returned in func._schema.returns)
        if not views and func.overloadpacket is not aten._unsafe_view:
            self.operations[str(func)] += 1
        if waits_for_the_device(func, args):
            self.waits[str(func)] += 1
        return func(*args, **(kwargs or {}))
