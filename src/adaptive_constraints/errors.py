"""Every error this package raises on purpose; each message says what is wrong, where, and what to do."""


class AdaptiveConstraintsError(Exception):
    """Base class: catch this to catch everything the package raises on purpose."""


class DatasetError(AdaptiveConstraintsError):
    """A data reference cannot be loaded, or a data set cannot be trained on."""


class StackError(AdaptiveConstraintsError):
    """A learner and its adapters do not fit together, or one of them is misconfigured."""


class AnswerError(StackError):
    """A learner or an adapter answers other than is asked: in shape, in kind, or without a gradient."""


class CheckpointError(AdaptiveConstraintsError):
    """A saved agent or checkpoint is damaged, unreadable, or belongs to another stack."""


class TrainingError(AdaptiveConstraintsError):
    """Training cannot start or cannot go on."""


class EvaluationError(AdaptiveConstraintsError):
    """An environment is unknown or does not fit the agent."""


class ExportError(AdaptiveConstraintsError):
    """A policy cannot be exported, or would act otherwise than the agent."""


class SuiteError(AdaptiveConstraintsError):
    """A suite of benchmarks cannot be read, or does not fit what a results folder already holds."""


class FileError(AdaptiveConstraintsError, OSError):
    """A file or a folder cannot be written where it was asked for."""


class DependencyError(AdaptiveConstraintsError, ImportError):
    """An optional dependency is missing; the message names the extra that brings it."""
