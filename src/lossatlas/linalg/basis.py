"""A growing orthonormal basis of flat vectors, stored in panels of rows."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.linalg import vector_norm

Array = NDArray[np.float64]

# Rows allocated at once, and the bytes of such a panel: memory follows use.
ROWS, _PANEL = 16, 64 * 2**20
# Columns that are turned at once, and those that are summed, widened or fetched at once.
_COLUMNS, _BLOCK = 4096, 2**20
# A pass that leaves this share of a vector has removed only rounding (Daniel et al. 1976).
_KEPT = 0.7


class Basis:
    """Rows of one growing matrix of shape (rows, n).

    Args:
        first: its first vector, shape (n,), of length 1; determines dtype and device of
            vectors.
        dtype: dtype of stored rows; that of the vectors by default. Another dtype rounds them.
        device: device of stored rows; that of the vectors by default.
        max_rows: maximum number of rows, if known in advance.
    """

    def __init__(
        self,
        first: Tensor,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        max_rows: int | None = None,
    ) -> None:
        self.size = first.numel()
        self.dtype, self.device = first.dtype, first.device
        self.kept_dtype, self.kept_device = dtype or self.dtype, device or self.device
        self.max_rows = self.size + 1 if max_rows is None else min(max_rows, self.size + 1)
        self._rows = panel_rows(self.size, self.kept_dtype)
        self._panels: list[Tensor] = []
        self._filled = 0
        self.append(first)

    def __len__(self) -> int:
        return self._filled

    def __getitem__(self, index: int) -> Tensor:
        return self._panels[index // self._rows][index % self._rows]

    @property
    def is_plain(self) -> bool:
        """Whether rows have the dtype and device of vectors, so that nothing is converted."""
        return self.kept_dtype == self.dtype and self.kept_device == self.device

    def cut(self, rows: int) -> None:
        """Drop all vectors but the first ones."""
        self._filled = min(self._filled, rows)

    def append(self, vector: Tensor) -> None:
        """Append a vector."""
        panel_index, row = divmod(self._filled, self._rows)
        if panel_index == len(self._panels):
            rows = min(self._rows, max(self.max_rows - self._filled, 1))
            self._panels.append(
                torch.empty(rows, self.size, dtype=self.kept_dtype, device=self.kept_device)
            )
        self._panels[panel_index][row] = vector
        self._filled += 1

    def panels(self) -> list[Tensor]:
        """The filled rows."""
        used = self._panels[: math.ceil(self._filled / self._rows)]
        filled = self._filled - self._rows * (len(used) - 1)
        return [*used[:-1], used[-1][:filled]]

    def _blocks(self, rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
        # Columns of rows, as vectors are. Long sums are taken in parts, which rounds less.
        for first in range(0, self.size, _BLOCK):
            columns = slice(first, first + _BLOCK)
            part = rows[..., columns]
            if not self.is_plain:
                part = part.to(device=self.device, dtype=self.dtype)
            yield columns, part

    def _products(self, rows: Tensor, vector: Tensor) -> Tensor:
        first, *parts = (part @ vector[columns] for columns, part in self._blocks(rows))
        return torch.stack([first, *parts]).sum(0) if parts else first

    def dot(self, index: int, vector: Tensor) -> float:
        """The inner product of a row and a vector."""
        return float(self._products(self[index], vector))

    def square(self, index: int) -> float:
        """The squared length of a row, which differs from 1 by rounding."""
        parts = [row.square().sum() for _, row in self._blocks(self[index])]
        return float(torch.stack(parts).sum())

    def add_to(self, vector: Tensor, index: int, alpha: float) -> None:
        """Add a multiple of a row to a vector, in place."""
        for columns, row in self._blocks(self[index]):
            vector[columns].add_(row, alpha=alpha)

    def remove(self, vector: Tensor) -> list[Tensor]:
        """Remove the component in the span from a vector, in place; return its coefficients."""
        parts = []
        for panel in self.panels():
            parts.append(self._products(panel, vector))
            for columns, rows in self._blocks(panel):
                vector[columns].addmv_(rows.T, parts[-1], alpha=-1.0)
        return parts

    def orthogonalised(self, vector: Tensor) -> tuple[Tensor, float, Array]:
        """Component of a vector outside the span; two passes if the first removed much."""
        coefficients = np.zeros(len(self))
        for _ in range(3):
            # One copy to the host a pass: the coefficients and the length of what is left.
            removed = torch.cat([*self.remove(vector), vector_norm(vector)[None]])
            *part, after = as_floats(removed)
            coefficients += part
            # By Pythagoras: a pass over a few numbers in place of one over the whole vector.
            if after > _KEPT * math.hypot(after, float(np.linalg.norm(part))):
                break
        return vector, float(after), coefficients

    def coefficients(self, vector: Tensor, begin: int = 0) -> Array:
        """The inner products of a vector with the basis."""
        parts = [self._products(p, vector) for p in self.panels()[begin // self._rows :]]
        return as_floats(torch.cat(parts)[begin % self._rows :])

    def combine(self, coefficients: Array) -> Tensor:
        """Linear combinations of the basis vectors."""
        weights = self._weights(coefficients)
        total = torch.zeros(len(weights), self.size, dtype=self.dtype, device=self.device)
        for panel_index, panel in enumerate(self.panels()):
            part = weights[:, panel_index * self._rows : panel_index * self._rows + len(panel)]
            for columns, rows in self._blocks(panel[: part.shape[1]]):
                total[:, columns].addmm_(part, rows)
        return total

    def rotate(self, coefficients: Array, *, trim: bool = True) -> None:
        """Replace the basis by combinations of its vectors, in place.

        Args:
            coefficients: shape (rows, count), a column for each combination.
            trim: release panels that are no longer filled.
        """
        count, rows = coefficients.shape[1], coefficients.shape[0]
        weights, panels = self._weights(coefficients), self.panels()
        # A block of columns is read as a whole before its new rows are written over it.
        for first in range(0, self.size, _COLUMNS):
            columns = slice(first, first + _COLUMNS)
            block = torch.cat([panel[:, columns] for panel in panels])[:rows]
            turned = weights @ block.to(weights)
            for panel_index, panel in enumerate(panels):
                part = turned[panel_index * self._rows : (panel_index + 1) * self._rows]
                panel[: len(part), columns] = part
        if trim:
            self._panels = self._panels[: math.ceil(count / self._rows)]
        self._filled = count

    def _weights(self, coefficients: Array) -> Tensor:
        # Narrowed before it moves: not every device knows float64.
        weights = torch.from_numpy(np.ascontiguousarray(coefficients.T)).to(self.dtype)
        return weights.to(self.device)


def as_floats(values: Tensor) -> Array:
    """Convert to float64 on the host; not every device supports float64."""
    floats: Array = values.cpu().double().numpy()
    return floats


def panel_rows(size: int, dtype: torch.dtype) -> int:
    """Number of rows of this length allocated at once."""
    return max(1, min(ROWS, _PANEL // max(size * dtype.itemsize, 1)))


def basis_bytes(size: int, rows: int, dtype: torch.dtype, max_rows: int | None = None) -> int:
    """The memory of a basis."""
    panel, most = panel_rows(size, dtype), size + 1 if max_rows is None else max_rows
    return min(panel * math.ceil(rows / panel), most, size + 1) * size * dtype.itemsize
