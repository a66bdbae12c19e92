"""d3rlpy's own TD3+BC: its replay buffer's minibatches and its update, called in this process."""

from __future__ import annotations

import numpy as np

from .contestant import EPISODE, Contestant, Loop, Unavailable, transitions
from .plain_loop import device_memory, synchronize


def build(contestant: Contestant, device: str) -> Loop:
    """The loop that d3rlpy's ``fit`` runs, without its logging."""
    try:
        import d3rlpy
    except ImportError as error:
        raise Unavailable(f"d3rlpy cannot be imported ({error})") from error
    shape, data = contestant.shape, transitions(contestant.shape)
    dataset = d3rlpy.dataset.MDPDataset(
        data["observations"],
        data["actions"],
        data["rewards"],
        data["terminals"],
        timeouts=(np.arange(shape.rows) % EPISODE == EPISODE - 1).astype(np.float32),
    )
    encoder = d3rlpy.models.VectorEncoderFactory(hidden_units=[shape.width, shape.width])
    config = d3rlpy.algos.TD3PlusBCConfig(
        batch_size=shape.batch, actor_encoder_factory=encoder, critic_encoder_factory=encoder
    )
    algorithm = config.create(device="cuda:0" if device.startswith("cuda") else "cpu")
    algorithm.create_impl((shape.state,), shape.action)

    def run(steps: int) -> int:
        for _ in range(steps):
            algorithm.update(dataset.sample_transition_batch(shape.batch))
        synchronize(device)
        return steps

    return Loop(run, lambda: device_memory(device))
