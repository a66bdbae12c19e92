"""Training: the engine, noise, the meta step, checkpoints and records."""
