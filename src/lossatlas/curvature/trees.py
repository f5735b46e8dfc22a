"""The base of the results of this room: what was checked before they were measured."""

from dataclasses import dataclass, field

from lossatlas.result import Result
from lossatlas.store.records import record as part

__all__ = ["Stored", "part"]


@dataclass(frozen=True)
class Stored(Result):
    """A result that may rest on derivatives of the loss.

    Attributes:
        checked: what the derivatives of the loss under it were compared with, and how closely
            they agree, a sentence each; none where it rests on no derivative of the loss.
    """

    checked: tuple[str, ...] = field(default=(), kw_only=True, repr=False)
