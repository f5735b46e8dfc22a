"""Parameters of recipes as rows: kept while they fit into memory, drawn again where not."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossatlas.studies.inits.candidate import Candidate
from lossatlas.studies.inits.candidates import Initializer

Array = NDArray[np.float64]
_BUDGET = 1 << 30
_CHUNK = 512


class Rows:
    """Flat parameters by index.

    Args:
        initializer: makes the parameters.
        candidates: the recipes.
        budget: bytes that the parameters may take; beyond it they are drawn each time anew.
    """

    def __init__(
        self, initializer: Initializer, candidates: Sequence[Candidate], budget: int = _BUDGET
    ) -> None:
        self.initializer, self.candidates = initializer, candidates
        self.width = sum(value.numel() for value in initializer.like.values())
        fits = 4 * self.width * len(candidates) <= budget
        self._kept = torch.full((len(candidates), self.width), torch.nan) if fits else None
        self._known = torch.zeros(len(candidates), dtype=torch.bool)

    def __call__(self, indices: Tensor) -> Tensor:
        """The parameters of some recipes."""
        if self._kept is None:
            return self._drawn(indices)
        missing = torch.unique(indices[~self._known[indices]])
        for part in torch.split(missing, _CHUNK):
            self._kept[part] = self._drawn(part)
            self._known[part] = True
        return self._kept[indices]

    def _drawn(self, indices: Tensor) -> Tensor:
        chosen = [self.candidates[index] for index in indices.tolist()]
        return self.initializer.rows(chosen).cpu()

    def moments(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every coordinate."""
        total, squares = torch.zeros(2, self.width, dtype=torch.float64)
        for part in torch.split(indices, _CHUNK):
            rows = self(part).double()
            total += rows.sum(0)
            squares += (rows**2).sum(0)
        mean = total / len(indices)
        deviation = (squares / len(indices) - mean**2).clamp(min=0).sqrt()
        return mean.float(), torch.where(deviation > 0, deviation, 1.0).float()


def pieces(rows: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Flat rows cut into tensors."""
    parts = torch.split(rows, [shape.numel() for shape in shapes], dim=1)
    return [part.reshape(len(rows), *shape) for part, shape in zip(parts, shapes, strict=True)]
