"""The same TD3+BC in plain JAX: a jitted scan over a chunk of steps, mapped over seeds.

Written for speed as a JAX user would: two training steps per step of the scan (the actor is due at the second, so
nothing branches), indices and noise drawn for the whole chunk ahead, buffers donated, Adam written out.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from .contestant import PERIOD, Contestant, Loop, Shape, Unavailable, transitions

# JAX takes three quarters of a GPU's memory when it starts, which the other contestants need too.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
try:
    import jax
    import jax.numpy as jnp
except ImportError as error:
    raise Unavailable(f"jax cannot be imported ({error}): pip install 'adaptive-constraints[speed]'") from error

CHUNK = {"cpu": PERIOD, "cuda": 50 * PERIOD}
"""Steps per call of the jitted function."""
Tree = Any
"""A tree of arrays."""


def perceptron(p: Tree, x: Any) -> Any:
    """Layers are (weight [I, O], bias [O])."""
    for weight, bias in p[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    weight, bias = p[-1]
    return x @ weight + bias


def start(actor: Tree, critics: Sequence[Tree]) -> Tree:
    """The state of one seed before its first step."""
    params = {"actor": actor, "critics": list(critics)}

    def zeros() -> Tree:
        return jax.tree.map(jnp.zeros_like, params)

    targets = jax.tree.map(jnp.copy, params)
    steps = {name: jnp.zeros(()) for name in params}
    return {"params": params, "targets": targets, "first": zeros(), "second": zeros(), "steps": steps}


def step(state: Tree, batch: Sequence[Any], noise: Any, actor_due: bool) -> tuple[Tree, list[Any]]:
    """One step with standard normal ``noise`` [B, A]; the state after it and its losses, critics' first."""
    s, a, r, s2, d = batch
    targets = state["targets"]
    smoothing = jnp.clip(0.2 * noise, -0.5, 0.5)
    a2 = jnp.clip(jnp.tanh(perceptron(targets["actor"], s2)) + smoothing, -1, 1)
    y = r + (1 - d) * 0.99 * jnp.minimum(*(q(p, s2, a2) for p in targets["critics"]))

    def critic_loss(critics: Tree) -> Any:
        return sum(jnp.square(q(p, s, a) - y).mean() for p in critics)

    def actor_loss(actor: Tree) -> Any:
        action = jnp.tanh(perceptron(actor, s))
        value = q(state["params"]["critics"][0], s, action)
        scale = jax.lax.stop_gradient(jnp.abs(value).mean())
        return -2.5 / scale * value.mean() + jnp.square(action - a).mean()

    loss, gradient = jax.value_and_grad(critic_loss)(state["params"]["critics"])
    state, losses = update(state, "critics", gradient), [loss]
    if actor_due:
        loss, gradient = jax.value_and_grad(actor_loss)(state["params"]["actor"])
        state = update(state, "actor", gradient)
        averages = jax.tree.map(lambda mean, p: mean + 0.005 * (p - mean), state["targets"], state["params"])
        state, losses = state | {"targets": averages}, [*losses, loss]
    return state, losses


def q(p: Tree, s: Any, a: Any) -> Any:
    """Q(s, a): [B]."""
    return perceptron(p, jnp.concatenate([s, a], -1))[:, 0]


def update(state: Tree, group: str, gradient: Tree) -> Tree:
    """Adam's step of one group."""
    count = state["steps"][group] + 1
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state["first"][group], gradient)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, state["second"][group], gradient)
    correction1, correction2 = 1 - 0.9**count, 1 - 0.999**count

    def moved(p: Any, m: Any, v: Any) -> Any:
        return p - 3e-4 * (m / correction1) / (jnp.sqrt(v / correction2) + 1e-8)

    params = jax.tree.map(moved, state["params"][group], first, second)
    new = {"params": params, "first": first, "second": second, "steps": count}
    return state | {name: state[name] | {group: value} for name, value in new.items()}


def initial(shape: Shape, seeds: int) -> Tree:
    """Fresh states of all seeds, [S, ...] each; drawn by numpy, since compiling JAX's own draws takes seconds."""
    random = np.random.default_rng(0)

    def layers(*sizes: int) -> Tree:
        return [
            (
                jnp.asarray(random.uniform(-(i**-0.5), i**-0.5, (seeds, i, o)), jnp.float32),
                jnp.zeros((seeds, o)),
            )
            for i, o in itertools.pairwise(sizes)
        ]

    hidden = (shape.width, shape.width)
    actor = layers(shape.state, *hidden, shape.action)
    critics = [layers(shape.state + shape.action, *hidden, 1) for _ in range(2)]
    state = start(actor, critics)
    return state | {"steps": {name: jnp.zeros(seeds) for name in state["steps"]}}


def build(contestant: Contestant, device: str) -> Loop:
    """The loop with its own sampling, all seeds in one call."""
    place = _device(device)
    shape, seeds = contestant.shape, contestant.seeds
    length = CHUNK[place.platform if place.platform == "cpu" else "cuda"]
    with jax.default_device(place):
        data = [jnp.asarray(column) for column in transitions(shape).values()]

        def chunk(state: Tree, key: Any) -> tuple[Tree, list[Any]]:
            index_key, noise_key = jax.random.split(key)
            rows = jax.random.randint(index_key, (length // 2, 2, shape.batch), 0, shape.rows)
            noise = jax.random.normal(noise_key, (length // 2, 2, shape.batch, shape.action))

            def two(state: Tree, drawn: tuple[Any, Any]) -> tuple[Tree, list[Any]]:
                (odd, even), (noise1, noise2) = drawn
                state, _ = step(state, [column[odd] for column in data], noise1, actor_due=False)
                return step(state, [column[even] for column in data], noise2, actor_due=True)

            return jax.lax.scan(two, state, (rows, noise))

        mapped = jax.vmap(chunk) if seeds > 1 else _alone(chunk)
        advance = jax.jit(mapped, donate_argnums=0)
        state, number = initial(shape, seeds), 0

    def run(steps: int) -> int:
        nonlocal state, number
        calls = -(-steps // length)
        with jax.default_device(place):
            for _ in range(calls):
                number += 1
                state, _ = advance(state, jax.random.split(jax.random.key(number), seeds))
            jax.block_until_ready(state)
        return calls * length

    run(1)  # compiles
    return Loop(run, lambda: (place.memory_stats() or {}).get("peak_bytes_in_use"))


def _alone(chunk: Any) -> Any:
    """``chunk`` of one seed under an axis of length 1, without products over that axis."""

    def run(state: Tree, keys: Any) -> Any:
        after = chunk(jax.tree.map(lambda x: x[0], state), keys[0])
        return jax.tree.map(lambda x: x[None], after)

    return run


def _device(device: str) -> Any:
    """JAX's name for a device; float32 products stay float32 on a GPU, as they do in torch."""
    platform = "cuda" if device.startswith("cuda") else "cpu"
    try:
        chosen = jax.devices(platform)[0]
    except RuntimeError as error:
        raise Unavailable(f"this jax does not run on {device}: pip install 'jax[cuda12]'") from error
    if platform == "cuda":
        jax.config.update("jax_default_matmul_precision", "highest")
    return chosen


def from_torch(sequential: Any) -> Tree:
    """Layers from the linear modules of a `torch.nn.Sequential`."""
    parameters = [np.asarray(parameter.detach()) for parameter in sequential.parameters()]
    return [
        (jnp.asarray(weight.T), jnp.asarray(bias))
        for weight, bias in zip(parameters[::2], parameters[1::2], strict=True)
    ]
