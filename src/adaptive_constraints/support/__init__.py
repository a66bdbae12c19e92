"""Helpers that know no reinforcement learning: arguments, files, checkpoints, signals, progress, records, CPU."""
