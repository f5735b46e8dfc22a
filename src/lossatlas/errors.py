"""What can go wrong, by name. Every message says what was expected, what came, what to do."""


class AtlasError(Exception):
    """The root of all errors that this library raises on purpose."""


class ArgumentError(AtlasError, ValueError):
    """An argument has a value that the function cannot serve."""


class UnknownNameError(AtlasError, LookupError):
    """A name is not among the known ones; the message gives the nearest match."""


class StructureError(AtlasError, ValueError):
    """Two sets of tensors differ in their names or shapes."""


class ModelError(AtlasError, ValueError):
    """A model cannot be measured (no parameters, say)."""


class LossError(AtlasError, ValueError):
    """A loss returned something that is neither a number nor one number an example."""


class StochasticError(AtlasError, RuntimeError):
    """Two passes over the same point gave different losses."""


class NonFiniteError(AtlasError, ArithmeticError):
    """A number that must be finite is NaN or infinite."""


class DerivativeError(AtlasError, ArithmeticError):
    """A derivative is not that of the loss that is evaluated."""


class DerivativeWarning(UserWarning):
    """A gradient is not that of the loss; what rests on it says so."""


class DataError(AtlasError, ValueError):
    """A data set is empty, damaged or of the wrong form."""


class DataWarning(UserWarning):
    """Data say something of themselves that is not so."""


class FileError(AtlasError, OSError):
    """A file is missing, damaged, foreign, or cannot be written."""


class ResumeError(FileError):
    """A resume file belongs to another run or is damaged."""


class MissingDependencyError(AtlasError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


class WorkerError(AtlasError, RuntimeError):
    """Processes that were to share the work died again and again."""


class SymmetryError(AtlasError, ArithmeticError):
    """What was taken for a symmetry of a model changes its loss."""


class RankError(AtlasError, RuntimeError):
    """A process of a group failed, is gone, or holds something else than the others."""


class RankMemoryError(RankError, MemoryError):
    """Another process of the group ran out of memory."""


class RankWarning(UserWarning):
    """A number is of the data of one process, and other processes have data of their own."""
