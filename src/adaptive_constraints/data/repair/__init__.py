"""Repairs of a data set, as pure functions from set to set."""
