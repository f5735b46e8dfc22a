"""A growing orthonormal basis of flat vectors, kept in panels of rows."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.linalg import vector_norm

Array = NDArray[np.float64]

# Rows allocated at once: memory follows use, and a panel is read twice while it is in cache.
ROWS = 16
# Columns that are turned at once.
_COLUMNS = 4096
# A pass that leaves this share of a vector has removed only rounding (Daniel et al. 1976).
_KEPT = 0.7


class Basis:
    """Rows of one growing matrix of shape (rows, n).

    Args:
        first: its first vector, shape (n,), of length 1; sets type and device.
    """

    def __init__(self, first: Tensor) -> None:
        self.size = first.numel()
        self.dtype, self.device = first.dtype, first.device
        self._panels: list[Tensor] = []
        self._filled = 0
        self.append(first)

    def __len__(self) -> int:
        return self._filled

    def __getitem__(self, index: int) -> Tensor:
        return self._panels[index // ROWS][index % ROWS]

    def append(self, vector: Tensor) -> None:
        """Take in one more vector."""
        row = self._filled % ROWS
        if row == 0:
            rows = min(ROWS, self.size + 1 - self._filled)
            self._panels.append(vector.new_empty(rows, self.size))
        self._panels[-1][row] = vector
        self._filled += 1

    def panels(self) -> list[Tensor]:
        """The filled rows."""
        rest = self._filled - ROWS * (len(self._panels) - 1)
        return [*self._panels[:-1], self._panels[-1][:rest]]

    def orthogonalised(self, vector: Tensor) -> tuple[Tensor, float, Array]:
        """What a vector has outside the span; a second pass where the first took much away."""
        taken = np.zeros(len(self))
        for _ in range(3):
            parts = []
            for panel in self.panels():
                parts.append(panel @ vector)
                vector.addmv_(panel.T, parts[-1], alpha=-1.0)
            part = torch.cat(parts).double().cpu().numpy()
            taken += part
            after = float(vector_norm(vector))
            # By Pythagoras: a pass over a few numbers in place of one over the whole vector.
            if after > _KEPT * math.hypot(after, float(np.linalg.norm(part))):
                break
        return vector, after, taken

    def coefficients(self, vector: Tensor, begin: int = 0) -> Array:
        """The inner products of a vector with the basis."""
        parts = [panel @ vector for panel in self.panels()[begin // ROWS :]]
        return torch.cat(parts)[begin % ROWS :].double().cpu().numpy()

    def combine(self, coefficients: Array) -> Tensor:
        """Vectors given by their coefficients."""
        weights = torch.from_numpy(np.ascontiguousarray(coefficients.T)).to(self._panels[0])
        total = torch.zeros(len(weights), self.size, dtype=self.dtype, device=self.device)
        for first, panel in zip(range(0, self._filled, ROWS), self.panels(), strict=True):
            part = weights[:, first : first + len(panel)]
            total.addmm_(part, panel[: part.shape[1]])
        return total

    def rotate(self, coefficients: Array) -> None:
        """Turn the basis into combinations of its vectors, in place."""
        count, rows = coefficients.shape[1], coefficients.shape[0]
        weights = torch.from_numpy(np.ascontiguousarray(coefficients.T)).to(self._panels[0])
        panels = self.panels()
        # A block of columns is read as a whole before its new rows are written over it.
        for first in range(0, self.size, _COLUMNS):
            columns = slice(first, first + _COLUMNS)
            turned = weights @ torch.cat([panel[:, columns] for panel in panels])[:rows]
            for place, panel in enumerate(panels):
                part = turned[place * ROWS : (place + 1) * ROWS]
                panel[: len(part), columns] = part
        self._panels = self._panels[: math.ceil(count / ROWS)]
        self._filled = count


def basis_bytes(size: int, rows: int, dtype: torch.dtype) -> int:
    """The memory of a basis."""
    return min(ROWS * math.ceil(rows / ROWS), size + 1) * size * dtype.itemsize
