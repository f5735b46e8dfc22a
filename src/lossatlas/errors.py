"""Exceptions and warnings. Messages state what was expected, what was given, and a remedy."""


class AtlasError(Exception):
    """Base class of all errors that this library raises deliberately."""


class ArgumentError(AtlasError, ValueError):
    """An argument has an invalid value."""


class UnknownNameError(AtlasError, LookupError):
    """A name is unknown; the message gives the nearest match."""


class StructureError(AtlasError, ValueError):
    """Two sets of tensors differ in their names or shapes."""


class ModelError(AtlasError, ValueError):
    """A model cannot be measured, for example because it has no parameters."""


class LossError(AtlasError, ValueError):
    """A loss returned neither a number nor one number per example."""


class StochasticError(AtlasError, RuntimeError):
    """Two evaluations of the same point gave different losses."""


class NonFiniteError(AtlasError, ArithmeticError):
    """A number that must be finite is NaN or infinite."""


class DerivativeError(AtlasError, ArithmeticError):
    """A derivative does not match the evaluated loss."""


class DerivativeWarning(UserWarning):
    """A gradient does not match the loss; results that depend on it state this."""


class DataError(AtlasError, ValueError):
    """A data set is empty, damaged or of the wrong form."""


class DataWarning(UserWarning):
    """Data contradict their own description."""


class FileError(AtlasError, OSError):
    """A file is missing, damaged, of another format, or cannot be written."""


class ResumeError(FileError):
    """A resume file belongs to another run or is damaged."""


class MissingDependencyError(AtlasError, ImportError):
    """An optional package is not installed; the message names the extra that installs it."""


class WorkerError(AtlasError, RuntimeError):
    """Worker processes died repeatedly."""


class SymmetryError(AtlasError, ArithmeticError):
    """A supposed symmetry of a model changes its loss."""


class RankError(AtlasError, RuntimeError):
    """A process of a group failed, ended, or differs from the others."""


class RankMemoryError(RankError, MemoryError):
    """Another process of the group ran out of memory."""


class RankWarning(UserWarning):
    """A number covers the data of one process only, and other processes have other data."""
