"""Runs: their state, the loop that takes them on, their files and folders, and the online phase."""
