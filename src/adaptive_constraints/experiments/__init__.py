"""Grids of stacks on data sets: suites, their cells, and the rows that come out. Knows learners by registered name."""
