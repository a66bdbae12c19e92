"""The suites that ship, as data of `adaptive_constraints.experiments.suites`."""
