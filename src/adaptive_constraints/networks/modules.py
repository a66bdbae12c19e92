"""Plain `torch.nn.Module`s as groups of parameters: made once per seed, called as pure functions of their tensors.

A group holds a Module's parameters and buffers under torch's own names and in torch's own layouts ("net.0.weight",
[outputs, inputs]). Buffers (statistics of BatchNorm, vectors of a spectral norm) stand among them, so that they are
saved, resumed, averaged and kept per seed like everything else; no gradient reaches them.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from adaptive_constraints.errors import StackError
from adaptive_constraints.networks.functions import Drawing, ModuleFunctions, Noise
from adaptive_constraints.networks.mlp import Params

Made: TypeAlias = nn.Module | Sequence[nn.Module]
"""The Module of a group, or those of an ensemble."""
Signature: TypeAlias = frozenset[tuple[str, tuple[int, ...]]]
"""Names and shapes of the tensors of one Module."""


class Keeping(Drawing, Protocol):
    """A view: where noise comes from and where new values of buffers go."""

    def kept_of(self, p: Params) -> Params:
        """Values of buffers that earlier calls with these parameters have left, to be added to."""


def from_modules(declare: Callable[[Any, Any], Mapping[str, Made]]) -> FromModules:
    """Declare a learner's (or an adapter's) networks as Modules; decorates a method like ``property`` does.

    declare: a method of (self, spec) that makes the Module of each group, by its name, for data of these dimensions.
        A list of Modules is an ensemble: its members are called together, and results get a leading axis [K].

    ``self.nets.init(spec, generator)`` gives the initial parameters; ``self.nets.critic(p, s, a)`` calls the group's
    Module with the parameters ``p``, in evaluation mode. See `Network` for training mode, noise and other methods.

    >>> import torch
    >>> from torch import nn
    >>> from adaptive_constraints import Spec
    >>> from adaptive_constraints.networks import from_modules
    >>> class Mine:
    ...     @from_modules
    ...     def nets(self, spec):
    ...         state, action = spec
    ...         return {"actor": nn.Linear(state, action), "critic": [nn.Linear(state, 1) for _ in range(2)]}
    >>> mine = Mine()
    >>> groups = mine.nets.init(Spec(3, 2), torch.Generator().manual_seed(0))
    >>> {name: tuple(tensor.shape) for name, tensor in groups["critic"].items()}
    {'weight': (2, 1, 3), 'bias': (2, 1)}
    >>> mine.nets.actor(groups["actor"], torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """
    return FromModules(declare)


class FromModules:
    """The networks that `from_modules` declares; read through an instance of the class, they are its `Networks`."""

    def __init__(self, declare: Callable[[Any, Any], Mapping[str, Made]]) -> None:
        self._declare = declare
        self._known: dict[Any, dict[tuple[str, Signature], _Template]] = {}
        self.__doc__ = declare.__doc__

    def __get__(self, owner: Any, kind: type) -> Networks:
        if owner is None:
            return self  # type: ignore[return-value]  # of the class itself, as `property` does
        return Networks(partial(self._declare, owner), self._known.setdefault(owner, {}), kind.__name__)


class Networks:
    """The networks of one learner: ``init`` makes their parameters, and each is an attribute by its group's name."""

    def __init__(
        self, declare: Callable[[Any], Mapping[str, Made]], known: dict[tuple[str, Signature], _Template], owner: str
    ) -> None:
        self._declare, self._known, self._owner = declare, known, owner

    def init(self, spec: Any, generator: torch.Generator) -> dict[str, Params]:
        """Initial parameters of one seed by group: those that the Modules are made with.

        spec: dimensions of the data.
        generator: the source of all randomness; what Modules draw from torch, numpy and random while they are made is
            seeded by it.

        Raises `StackError` for what is no Module, has no parameters, or cannot be an ensemble.
        """
        with _seeded(generator):
            made = self._declare(spec)
        groups = {}
        for group, modules in made.items():
            groups[group], template = _group(f"{self._owner}: the network {group!r}", modules, spec)
            key = group, template.signature
            known = self._known.setdefault(key, template)
            if known.spec != spec and known.plain != template.plain:
                raise StackError(
                    f"{self._owner}: the network {group!r} has the same shapes for data of {known.spec} and of {spec}, "
                    "but holds other numbers: in one process, make a subclass for one of them"
                )
        return groups

    def __getattr__(self, group: str) -> Network:
        if group.startswith("__"):
            raise AttributeError(group)
        return Network(group, self._known, self._owner)


@dataclass(frozen=True)
class Network:
    """One network as a function of its parameters.

    ``nets.critic(p, s, a)`` is ``critic(s, a)`` in evaluation mode; ``nets.actor.log_prob(p, s, a)`` calls another
    method of the Module. ``nets.critic.train(v, site)(p, s, a)`` is the call in training mode: dropout acts, drawing
    from the view ``v``, and new values of buffers are kept, if ``p`` are the group's own parameters (the loss's, or
    ``v.p["critic"]``, not their averages). ``nets.actor.eval(v, site)`` draws without being in training mode.

    What is drawn is a function of (seed, site, step): calls that shall draw apart need sites of their own.
    """

    group: str
    _known: Mapping[tuple[str, Signature], _Template] = field(repr=False)
    _owner: str
    _training: bool = False
    _view: Keeping | None = field(default=None, repr=False)
    _site: str = ""

    def train(self, v: Keeping, site: str = "") -> Network:
        """The network in training mode.

        v: the view, of which noise is drawn.
        site: names the noise of this call; an adapter's begins with its own name.
        """
        return Network(self.group, self._known, self._owner, True, v, site)

    def eval(self, v: Keeping | None = None, site: str = "") -> Network:
        """The network in evaluation mode; with a view, it may draw noise.

        v: the view, of which noise is drawn.
        site: names the noise of this call; an adapter's begins with its own name.
        """
        return Network(self.group, self._known, self._owner, False, v, site)

    def __call__(self, p: Params, *args: Any, **kwargs: Any) -> Any:
        """The Module's output at these parameters; of an ensemble, with a leading axis [K]."""
        return self._call("__call__", p, *args, **kwargs)

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("__"):
            raise AttributeError(method)
        return partial(self._call, method)

    def _call(self, method: str, p: Params, *args: Any, **kwargs: Any) -> Any:
        template = self._template(p)
        kept = self._view.kept_of(p) if self._training and self._view is not None else {}
        tensors = {**p, **{name: tensor.detach() for name, tensor in {**p, **kept}.items() if name in template.fixed}}
        site = f"{self._site}/{self.group}" if self._site else self.group
        count = len(next(iter(p.values()))) if template.ensemble else None
        noise = Noise(self._view, self.group, site, count)

        def member(own: Params, number: Tensor | None) -> tuple[Any, Params]:
            noise.member = number
            return template.run(own, noise, self._training, method, args, kwargs)

        if count is None:
            result, changed = member(tensors, None)
        else:
            numbers = torch.arange(count, device=next(iter(p.values())).device)
            result, changed = torch.func.vmap(member)(tensors, numbers)
        kept.update(changed)
        return result

    def _template(self, p: Params) -> _Template:
        whole = frozenset((name, tuple(tensor.shape)) for name, tensor in p.items())
        template = self._known.get((self.group, whole))
        if template is None or template.ensemble:
            members = frozenset((name, shape[1:]) for name, shape in whole)
            template = self._known.get((self.group, members))
            if template is None or not template.ensemble:
                made = sorted({group for group, _ in self._known})
                raise StackError(
                    f"{self._owner}: nets.{self.group} is called with parameters that nets.init did not make for it; "
                    f"its networks are {', '.join(made) or 'not made: let init return self.nets.init(spec, generator)'}"
                )
        return template


@dataclass(frozen=True)
class _Template:
    """A Module to be called with other tensors than its own, and what is known of them."""

    module: nn.Module
    spec: Any
    ensemble: bool
    signature: Signature
    kinds: Mapping[str, torch.dtype]
    """Of tensors that are not kept as floating-point numbers by nature."""
    buffers: frozenset[str]
    fixed: frozenset[str]
    """Buffers, and parameters that are not to be learned."""
    plain: tuple[Any, ...]
    """What its Modules hold beside tensors."""
    lock: threading.RLock = field(default_factory=threading.RLock, compare=False)

    def run(
        self, p: Params, noise: Noise, training: bool, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Any, Params]:
        """Call a method of the Module with these tensors; in training mode, with the new values of its buffers."""
        given = {f"module.{name}": self._own(name, tensor, training) for name, tensor in p.items()}
        tensors = dict(given)
        with self.lock, _without_validation(), ModuleFunctions(noise) as functions:
            self.module.train(training)
            call = (method, args, dict(kwargs))
            result = functions.current(torch.func.functional_call(_Called(self.module), tensors, call, strict=True))
            after = functions.current(tensors)
        names = self.buffers if training else ()
        return result, {name: after[f"module.{name}"].detach().to(p[name].dtype) for name in names}

    def _own(self, name: str, tensor: Tensor, training: bool) -> Tensor:
        """A tensor as the Module has it; in training mode, buffers that it may write to are copies."""
        if name in self.kinds:
            return tensor.to(self.kinds[name])
        return tensor.clone() if training and name in self.buffers else tensor


class _Called(nn.Module):
    """Reaches every method of a Module by a call."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return getattr(self.module, method)(*args, **kwargs)


def _group(what: str, made: Made, spec: Any) -> tuple[Params, _Template]:
    """The tensors of a group, and the template to call them by."""
    ensemble = isinstance(made, list | tuple | nn.ModuleList)
    members: list[nn.Module] = list(made) if ensemble else [made]  # type: ignore[arg-type, list-item]
    if not members or not all(isinstance(member, nn.Module) for member in members):
        raise StackError(f"{what} must be a Module or a list of Modules, not {made!r}")
    if len({id(member) for member in members}) < len(members):
        raise StackError(f"{what} has one Module twice: make each member anew, [Critic(...) for _ in range(K)]")
    tensors = [_tensors(what, member) for member in members]
    signatures = [frozenset((name, tuple(t.shape)) for name, t in one.items()) for one in tensors]
    if len(set(signatures)) > 1:
        raise StackError(f"{what}: the members of an ensemble have tensors of other names or shapes")
    first = members[0]
    buffers = {name for name, _ in first.named_buffers()}
    frozen = {name for name, parameter in first.named_parameters() if not parameter.requires_grad}
    template = _Template(
        module=first,
        spec=spec,
        ensemble=ensemble,
        signature=signatures[0],
        kinds={name: tensor.dtype for name, tensor in tensors[0].items() if not tensor.is_floating_point()},
        buffers=frozenset(buffers),
        fixed=frozenset(buffers | frozen),
        plain=tuple(_plain(module) for module in first.modules()),
    )
    floats = [{name: t if t.is_floating_point() else t.float() for name, t in one.items()} for one in tensors]
    params = {name: torch.stack([one[name] for one in floats]) if ensemble else floats[0][name] for name in floats[0]}
    return params, template


def _tensors(what: str, module: nn.Module) -> Params:
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, tensor in named.items():
        if nn.parameter.is_lazy(tensor):
            raise StackError(f"{what}: {name} gets its shape at the first call only: make it of known size, not lazy")
        if tensor.is_complex():
            raise StackError(f"{what}: {name} is complex; real numbers only can be stepped")
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise StackError(f"{what} has no parameters to be learned")
    return {name: tensor.detach().clone() for name, tensor in named.items()}


def _plain(module: nn.Module) -> tuple[Any, ...]:
    """The kind of a Module and the plain values that it holds."""
    values = {name: value for name, value in vars(module).items() if isinstance(value, int | float | str | tuple)}
    return type(module), tuple(sorted((name, repr(value)) for name, value in values.items()))


@contextmanager
def _seeded(generator: torch.Generator) -> Iterator[None]:
    """Inside, the generators that a process shares are seeded by this one; they are put back afterwards."""
    seed = int(torch.randint(2**31, (), generator=generator))
    numpy, python = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy)
            random.setstate(python)


@contextmanager
def _without_validation() -> Iterator[None]:
    """Inside, distributions are made without a look at their values, which no pure function may take."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


__all__ = ["Keeping", "Network", "Networks", "from_modules"]
