"""The adapters, one file each."""

from adaptive_constraints.adapters.a2pr import A2PR
from adaptive_constraints.adapters.anq import ANQ
from adaptive_constraints.adapters.aspc import ASPC
from adaptive_constraints.adapters.cal_ql import CalQL
from adaptive_constraints.adapters.ilq import ILQ
from adaptive_constraints.adapters.noise import NoiseTradeoff
from adaptive_constraints.adapters.prdc import PRDC
from adaptive_constraints.adapters.spot import SPOT
from adaptive_constraints.adapters.ssar import SSAR
from adaptive_constraints.adapters.tradeoff import FixedTradeoff, LinearTradeoff
from adaptive_constraints.adapters.wpc import WPC

__all__ = [
    "A2PR",
    "ANQ",
    "ASPC",
    "ILQ",
    "PRDC",
    "SPOT",
    "SSAR",
    "WPC",
    "CalQL",
    "FixedTradeoff",
    "LinearTradeoff",
    "NoiseTradeoff",
]
