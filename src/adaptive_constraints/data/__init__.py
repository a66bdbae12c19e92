"""Offline data: one container, loaders for every source, checks, and the map into learner space."""

from adaptive_constraints.data.dataset import Dataset
from adaptive_constraints.data.doctor import advise, check_trainable, doctor
from adaptive_constraints.data.findings import Diagnosis, Finding
from adaptive_constraints.data.loaders import list_datasets, load_dataset, save_npz
from adaptive_constraints.data.mending import Repairs
from adaptive_constraints.data.preprocess import Preprocessor
from adaptive_constraints.data.references import ReferenceScore, normalized_score, reference_of, reference_score
from adaptive_constraints.data.repairs import relabel_timeouts, split_at_joins

__all__ = [
    "Dataset",
    "Diagnosis",
    "Finding",
    "Preprocessor",
    "ReferenceScore",
    "Repairs",
    "advise",
    "check_trainable",
    "doctor",
    "list_datasets",
    "load_dataset",
    "normalized_score",
    "reference_of",
    "reference_score",
    "relabel_timeouts",
    "save_npz",
    "split_at_joins",
]
