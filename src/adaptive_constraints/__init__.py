"""Composable adapters that balance offline reinforcement learning between Bellman update and constraint."""

from adaptive_constraints.adapter import Adapter, AdapterStage, MetaLoss, MetaStep, Prepared
from adaptive_constraints.learner import (
    Average,
    Facts,
    Gaussian,
    Learner,
    Params,
    Phase,
    PreprocessSettings,
    Row,
    Schedule,
    Spec,
    Stage,
    Terms,
    Update,
)
from adaptive_constraints.view import View
from adaptive_constraints.data import Dataset, doctor, load_dataset
from adaptive_constraints.adapters import ASPC, FixedScale, LinearScale
