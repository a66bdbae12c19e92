"""Offline data: one container, loaders for every source, checks, and the map into learner space."""

from adaptive_constraints.data.dataset import Dataset
from adaptive_constraints.data.doctor import (
    Diagnosis,
    Finding,
    advise,
    check_trainable,
    doctor,
    relabel_timeouts,
    split_at_joins,
)
from adaptive_constraints.data.loaders import list_datasets, load_dataset, save_npz
from adaptive_constraints.data.preprocess import Preprocessor
from adaptive_constraints.data.references import ReferenceScore, normalized_score, reference_of, reference_score

__all__ = [
    "Dataset",
    "Diagnosis",
    "Finding",
    "Preprocessor",
    "ReferenceScore",
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
