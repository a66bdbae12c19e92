"""Learners of the literature, one file each, written with the toolkit's public names alone.

This folder stands at the top of the repository, beside ``src/``, and imports as ``adaptive_constraints.baselines``.
"""

if __name__ == "baselines":
    raise ImportError(
        "This folder is the package adaptive_constraints.baselines; the bare name would load its learners twice. "
        "Write `from adaptive_constraints.baselines import TD3BC`, with the package installed or src/ on PYTHONPATH."
    )

from adaptive_constraints.baselines.awac import AWAC
from adaptive_constraints.baselines.bc import BC
from adaptive_constraints.baselines.cql import CQL
from adaptive_constraints.baselines.diffusion_ql import DiffusionQL
from adaptive_constraints.baselines.edac import EDAC
from adaptive_constraints.baselines.fql import FQL
from adaptive_constraints.baselines.iql import IQL
from adaptive_constraints.baselines.rebrac import ReBRAC
from adaptive_constraints.baselines.sac_n import SACN
from adaptive_constraints.baselines.td3_bc import TD3BC

__all__ = ["AWAC", "BC", "CQL", "EDAC", "FQL", "IQL", "SACN", "TD3BC", "DiffusionQL", "ReBRAC"]
