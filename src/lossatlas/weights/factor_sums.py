"""Sums over data that Kronecker factors come from."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lossatlas.errors import NonFiniteError
from lossatlas.weights.layer_factors import Factor, factor
from lossatlas.weights.linear_maps import Rows, Use


class Sums:
    """Sums over rows of one linear map, the inputs with a 1 appended."""

    def __init__(self, use: Use, weight: Tensor) -> None:
        self.use = use
        flat = weight.flatten(1) if use.is_transposed else weight.flatten(1).T
        self.inputs, self.outputs = flat.shape
        self.is_table = use.kind == "embedding"
        width = (self.inputs + 1,) if self.is_table else (self.inputs + 1,) * 2
        make: Any = {"dtype": torch.float64, "device": weight.device}
        self.a = torch.zeros(width, **make)
        self.g = torch.zeros(self.outputs, self.outputs, **make)
        self.rows = 0
        # Products with the slopes in one pass, until they have been compared with the gradient.
        self.product: Tensor | None = None
        self.is_checked = self.has_bias = False

    @property
    def largest(self) -> int:
        """Side of the largest matrix whose eigenvectors are needed."""
        return max(self.outputs, 0 if self.is_table else self.inputs)

    def serves(self, use: Use) -> bool:
        """Whether the rows of a use belong to these sums."""
        same = (use.kind, use.is_transposed) == (self.use.kind, self.use.is_transposed)
        return same and not use.is_tied

    def add(self, use: Use, rows: Rows, *, is_first: bool) -> None:
        """Take the rows of one use; inputs count once, slopes for every sampled label."""
        a, g, place = rows.inputs, rows.slopes, rows.place
        if is_first:
            self.rows += len(a)
            if self.is_table:
                self.a += torch.bincount(a, minlength=self.inputs + 1)
            else:
                wide = with_one(a)
                self.a += wide.T @ wide
        self.g[place, place] += g.T @ g
        if self.is_checked:
            return
        if self.product is None:
            self.product = self.g.new_zeros(self.outputs, self.inputs + 1)
        if self.is_table:
            self.product[:, : self.inputs].index_add_(1, a, g.T)
            self.product[:, -1] += g.sum(0)
        else:
            self.product[place] += g.T @ with_one(a)

    def factors(self, shares: int) -> tuple[Factor, Factor]:
        """A and G."""
        width = self.inputs + self.has_bias
        a = self.a[:width] if self.is_table else self.a[:width, :width]
        a, g = a / max(self.rows, 1), self.g / shares
        self._check(a, g)
        return Factor(a) if self.is_table else factor(a), factor(g)

    def _check(self, *matrices: Tensor) -> None:
        if not all(bool(matrix.isfinite().all()) for matrix in matrices):
            raise NonFiniteError(
                f"the inputs or slopes of '{self.use.name}' are not finite; look for NaN in "
                "the data, or for a loss that overflows."
            )


class TiedSums(Sums):
    """Partial traces of the block of a weight that is both a table and a matrix."""

    def __init__(self, use: Use, weight: Tensor) -> None:
        self.use = replace(use, kind="tied", is_transposed=False)
        self.outputs, self.inputs = weight.shape
        make: Any = {"dtype": torch.float64, "device": weight.device}
        self.a = torch.zeros(self.inputs, self.inputs, **make)
        self.g = torch.zeros(self.outputs, **make)
        self.rows = 0
        self.product: Tensor | None = None
        self.is_checked = self.has_bias = False

    @property
    def largest(self) -> int:
        """Side of the only matrix whose eigenvectors are needed."""
        return self.inputs

    def serves(self, use: Use) -> bool:
        """Whether a use is one of the two."""
        return use.is_tied and (use.kind == "embedding" or not use.is_transposed)

    def add(self, use: Use, rows: Rows, *, is_first: bool) -> None:
        """Take the rows of one of the two uses."""
        a, g = rows.inputs, rows.slopes
        self.rows += len(a) if is_first else 0
        if use.kind == "embedding":
            self.a += g.T @ g
            self.g.index_add_(0, a, g.square().sum(1))
        else:
            squares = g.square()
            self.a += (a * squares.sum(1)[:, None]).T @ a
            self.g += squares.T @ a.square().sum(1)
        if self.is_checked:
            return
        if self.product is None:
            self.product = self.a.new_zeros(self.outputs, self.inputs + 1)
        if use.kind == "embedding":
            self.product[:, :-1].index_add_(0, a, g)
        else:
            self.product[:, :-1] += g.T @ a

    def factors(self, shares: int) -> tuple[Factor, Factor]:
        """A by its trace, and the diagonal of G."""
        a, g = self.a / shares, self.g / shares
        self._check(a, g)
        total = float(a.trace())
        return factor(a / total if total > 0 else a), Factor(g)


def with_one(rows: Tensor) -> Tensor:
    """Inputs with a 1 appended to each."""
    return torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
