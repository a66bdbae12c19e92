"""Time a step of TD3+BC, ours against others in one run: `python -m benchmarks.speed --help`; see docs/speed.md."""
