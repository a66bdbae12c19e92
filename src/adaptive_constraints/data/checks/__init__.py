"""Checks of a data set: structure, transitions that never happened, doubtful values; the doctor runs them all."""
