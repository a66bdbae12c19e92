"""Offline data: one container, loaders for every source, checks, and the map into learner space."""

from typing import TYPE_CHECKING, Any

from adaptive_constraints.data.checks.doctor import advise, check_trainable, doctor
from adaptive_constraints.data.checks.findings import Diagnosis, Finding
from adaptive_constraints.data.dataset import Dataset
from adaptive_constraints.data.references import ReferenceScore, normalized_score, reference_of, reference_score
from adaptive_constraints.data.repair.episodes import relabel_timeouts, split_at_joins
from adaptive_constraints.data.repair.repairs import Repairs
from adaptive_constraints.data.sources.loaders import list_datasets, load_dataset
from adaptive_constraints.data.sources.npz import save_npz

if TYPE_CHECKING:
    from adaptive_constraints.data.preprocess import Preprocessor
else:

    def __getattr__(name: str) -> Any:
        """Import the one class that needs torch when it is asked for: data is read and checked without."""
        if name == "Preprocessor":
            from adaptive_constraints.data.preprocess import Preprocessor

            return Preprocessor
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
