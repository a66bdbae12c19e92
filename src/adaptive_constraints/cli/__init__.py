"""The command line: ``adaptive-constraints train``, ``finetune``, ``evaluate``, ``bench``, ``report`` and more.

A stack is named as ``--learner TD3BC critic=robust --adapters ASPC interval=5 FixedTradeoff``: a setting belongs to the
name before it. tyro and rich (extra ``cli``) are imported when a command runs.

To add a command, write a module with a keyword-only dataclass of its options that inherits `Command` and has a field
``common: Common`` (its docstrings are the help), and give it one line in the table `entry.COMMANDS`. What makes a run
folder takes a field ``running: RunOptions`` too. Every module here is imported for every command and for ``--help``:
import torch, and those of our modules that do, in the functions that use them.
"""

from adaptive_constraints.cli.entry import main

__all__ = ["main"]
