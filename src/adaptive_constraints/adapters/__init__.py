"""The adapters, one file each."""

from adaptive_constraints.adapters.aspc import ASPC
from adaptive_constraints.adapters.scale import FixedScale, LinearScale

__all__ = ["ASPC", "FixedScale", "LinearScale"]
