"""The recipe of an initialization: a few numbers instead of its parameters."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import xarray as xr


@dataclass(frozen=True)
class Candidate:
    """The recipe of one initialization: enough to make its parameters again.

    Attributes:
        scheme: one of `schemes.SCHEMES`, or "interpolation".
        scale: what the weights of the scheme are multiplied by.
        seed: of the draw.
        noise: standard deviation of what is added to every coordinate, biases too; 0 adds
            nothing.
        parents: of an interpolation: the recipes that are mixed, with weights drawn evenly
            from the simplex by `seed`.
    """

    scheme: str
    scale: float = 1.0
    seed: int = 0
    noise: float = 0.0
    parents: tuple["Candidate", ...] = ()

    def to_json(self) -> str:
        """The recipe as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Candidate":
        """The inverse of `to_json`."""
        return cls._from_plain(json.loads(text))

    @classmethod
    def _from_plain(cls, plain: Mapping[str, Any]) -> "Candidate":
        parents = tuple(cls._from_plain(parent) for parent in plain["parents"])
        return cls(**{**plain, "parents": parents})


def recipes(column: xr.DataArray) -> tuple[Candidate, ...]:
    """Recipes out of a file."""
    return tuple(Candidate.from_json(str(text)) for text in column.values)
