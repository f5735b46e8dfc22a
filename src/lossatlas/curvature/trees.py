"""Results of this room on disk: every field, by the one walk of `lossatlas.store.records`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lossatlas.errors import FileError
from lossatlas.store.records import from_dataset, to_dataset
from lossatlas.store.records import record as part

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Stored", "part"]


@dataclass(frozen=True)
class Stored:
    """A base for results: any frozen dataclass of numbers, text, arrays, tensors and parts.

    Attributes:
        checked: what the derivatives of the loss under it were held against, and to how much,
            a sentence each; none where it rests on no derivative of the loss.
    """

    checked: tuple[str, ...] = field(default=(), kw_only=True, repr=False)

    def to_tree(self) -> "dict[str, xr.Dataset]":
        """The result as one labeled data set; numbers and text are its attribute "fields".

        Returns:
            Group name -> Dataset.
        """
        return {"result": to_dataset(self)}

    @classmethod
    def from_tree(cls, tree: "Mapping[str, xr.Dataset]") -> Any:
        """The inverse of `to_tree`.

        Args:
            tree: what `to_tree` gave.

        Returns:
            An equal result.

        Raises:
            FileError: the tree holds something else.
        """
        found = from_dataset(tree["result"]) if "result" in tree else None
        if not isinstance(found, cls):
            raise FileError(f"the file holds no {cls.__name__}; make it again.")
        return found
