"""The public names of the package, which `adaptive_constraints` hands on when the first of them is asked for."""

from adaptive_constraints._version import __version__
from adaptive_constraints.ablation import ablate
from adaptive_constraints.adapters import (
    A2PR,
    ANQ,
    ASPC,
    ILQ,
    PRDC,
    SPOT,
    SSAR,
    WPC,
    CalQL,
    FixedTradeoff,
    LinearTradeoff,
    NoiseTradeoff,
)
from adaptive_constraints.adapters.termination import register_termination
from adaptive_constraints.agent import Agent, load_agent, wrap
from adaptive_constraints.core.adapter import Adapter
from adaptive_constraints.core.learner import Learner
from adaptive_constraints.core.preparation import Preparation
from adaptive_constraints.core.types import (
    CONSTRAINT_SEAMS,
    IMITATION_SEAMS,
    TD_SEAMS,
    AdapterStage,
    Average,
    ExtraRows,
    Facts,
    Gaussian,
    MetaLoss,
    MetaStep,
    Params,
    Phase,
    Point,
    Prepared,
    Schedule,
    Spec,
    Stage,
    Terms,
    Update,
)
from adaptive_constraints.core.view import View
from adaptive_constraints.data import Dataset, doctor, load_dataset
from adaptive_constraints.errors import AdaptiveConstraintsError
from adaptive_constraints.runs.loggers import Logger
from adaptive_constraints.runs.trackers import TrackerLogger
from adaptive_constraints.support.bounds import Above, AtLeast, Between

__all__ = [
    "A2PR",
    "ANQ",
    "ASPC",
    "CONSTRAINT_SEAMS",
    "ILQ",
    "IMITATION_SEAMS",
    "PRDC",
    "SPOT",
    "SSAR",
    "TD_SEAMS",
    "WPC",
    "Above",
    "Adapter",
    "AdapterStage",
    "AdaptiveConstraintsError",
    "Agent",
    "AtLeast",
    "Average",
    "Between",
    "CalQL",
    "Dataset",
    "ExtraRows",
    "Facts",
    "FixedTradeoff",
    "Gaussian",
    "Learner",
    "LinearTradeoff",
    "Logger",
    "MetaLoss",
    "MetaStep",
    "NoiseTradeoff",
    "Params",
    "Phase",
    "Point",
    "Preparation",
    "Prepared",
    "Schedule",
    "Spec",
    "Stage",
    "Terms",
    "TrackerLogger",
    "Update",
    "View",
    "__version__",
    "ablate",
    "doctor",
    "load_agent",
    "load_dataset",
    "register_termination",
    "wrap",
]
