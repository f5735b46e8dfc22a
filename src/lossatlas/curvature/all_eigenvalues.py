"""All eigenvalues of a curvature matrix: from the whole of it, or from the range it has."""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossatlas.curvature.differentiable import UnreachedError
from lossatlas.curvature.forms import model_outputs
from lossatlas.curvature.krylov_memory import free_together
from lossatlas.curvature.operators import CurvatureOperator
from lossatlas.linalg.params import Params
from lossatlas.objective import Batch
from lossatlas.rng import generator

Array = NDArray[np.float64]

# Up to so many parameters (or products) all eigenvalues are computed; up to so many parameters
# where that takes fewer products than probes would.
DENSE, DENSE_AT_MOST = 512, 4096
# Random vectors beyond the rank, so that the range is seen well; entries held at most; and
# their share of the memory that is free.
MORE, _ENTRIES, _SHARE = 8, 1 << 27, 0.5
# What the range may miss of one more product, in roundings.
_ROUNDINGS = 1e3
# Roundings of the largest eigenvalue that products are off by in a way that repeats: forward
# passes are the same each time, so that no two products show it.
_REPEATED = 4


@dataclass(frozen=True)
class Eigenvalues:
    """All eigenvalues that are not exactly zero.

    Attributes:
        values: ascending.
        rounding: what each may be off by, an estimate.
    """

    values: Array
    rounding: float


def dense_bytes(size: int) -> int:
    """What `dense_eigenvalues` holds beside products: the matrix, another one, their work."""
    return 3 * 8 * size**2


def dense_fits(size: int, free: int | None) -> bool:
    """Whether the whole matrix may be computed, on the host."""
    return size <= DENSE_AT_MOST and (free is None or dense_bytes(size) <= _SHARE * free)


def is_dense(matrix: CurvatureOperator) -> bool:
    """The same of a matrix, with the memory that is free."""
    return dense_fits(matrix.size, free_together(matrix.objective, torch.device("cpu")))


def dense_eigenvalues(matrix: CurvatureOperator) -> Eigenvalues:
    """All eigenvalues, from one product a parameter."""
    dense = torch.empty((matrix.size, matrix.size), dtype=torch.float64)
    unit = matrix.zeros()
    for index, row in enumerate(dense):
        unit[index] = 1.0
        row.copy_(matrix.flat(unit))
        unit[index] = 0.0
    return _symmetric(matrix, dense, None)


def range_bytes(size: int, columns: int, dtype: torch.dtype) -> int:
    """What `eigenvalues_in_range` holds beside products: images, their basis, the matrix."""
    return 2 * columns * size * dtype.itemsize + 3 * 8 * columns**2


def most_columns(size: int, dtype: torch.dtype, free: int | None) -> int:
    """The largest range that is taken of a matrix; 0 where none is."""
    most = min((size - 1) // 2, _ENTRIES // size)
    if free is not None:
        # range_bytes is a quadratic; this is its root.
        half, room = size * dtype.itemsize / 24, _SHARE * free / 24
        most = min(most, int(math.sqrt(half**2 + room) - half))
    return max(most, 0)


def range_products(matrix: CurvatureOperator, params: Params | None) -> int | None:
    """Products that `eigenvalues_in_range` takes; None where it is of no use."""
    # J^T A J has no larger rank than the model has outputs on all examples.
    objective = matrix.objective
    if matrix.kind == "hessian" or objective.ranks is not None:
        return None

    def count(batch: Batch) -> int:
        try:
            return sum(value.numel() for value in model_outputs(objective, batch)[1])
        except UnreachedError:
            return 0

    def walk() -> int:
        return sum(count(batch) for batch in objective.iter_batches())

    with torch.no_grad():
        columns = objective.with_params(params, walk) + MORE
    free = free_together(objective, matrix.device)
    useful = columns <= most_columns(matrix.size, matrix.dtype, free)
    return 2 * columns if useful else None


def eigenvalues_in_range(
    matrix: CurvatureOperator, products: int, seed: int
) -> Eigenvalues | None:
    """Eigenvalues of a matrix of low rank without its zeros; None where the rank is higher."""
    # Products with random vectors span the range of H; with Q a basis of it, Q^T H Q has the
    # eigenvalues of H. One more product has to lie in that range.
    drawn = generator(seed, "range", device=matrix.device)
    like = partial(torch.empty, dtype=matrix.dtype, device=matrix.device)
    draw = partial(torch.randn, generator=drawn, dtype=matrix.dtype, device=matrix.device)
    images = like((products // 2, matrix.size))
    for row in images:
        row.copy_(matrix.flat(draw(matrix.size)))
    basis = torch.linalg.qr(images.T)[0]
    del images
    other = matrix.flat(draw(matrix.size))
    left = other - basis @ (basis.T @ other)
    rounding = _ROUNDINGS * torch.finfo(matrix.dtype).eps
    if not float(left.norm()) <= rounding * float(other.norm()):
        return None
    inside = torch.empty((products // 2, products // 2), dtype=torch.float64)
    for row, column in zip(inside, basis.T, strict=True):
        row.copy_(matrix.flat(column) @ basis)
    return _symmetric(matrix, inside, basis, float(left.norm()))


def _symmetric(
    matrix: CurvatureOperator, rows: Tensor, basis: Tensor | None, missed: float = 0.0
) -> Eigenvalues:
    # How far products are from those of a symmetric matrix is how far rounding puts them off:
    # eigenvalues move by no more than the norm of what is added to a matrix (Weyl).
    turned = rows.T
    uneven = float(torch.linalg.vector_norm(rows - turned)) / 2
    both = rows.add(turned).div_(2)
    del rows, turned
    values = torch.linalg.eigvalsh(both)
    largest = float(values[-1] if values[-1] >= -values[0] else values[0])
    repeated = _REPEATED * torch.finfo(matrix.dtype).eps * abs(largest)
    stated = _difference_error(matrix, both, basis, largest) if matrix.is_differenced else 0.0
    eigenvalues = np.asarray(values.numpy())
    return Eigenvalues(eigenvalues, repeated + uneven + missed + stated)


def _difference_error(
    matrix: CurvatureOperator, both: Tensor, basis: Tensor | None, value: float
) -> float:
    # Of the eigenvector of the largest eigenvalue.
    values, vectors = torch.linalg.eigh(both)
    vector = vectors[:, int((values - value).abs().argmin())]
    vector = vector.to(device=matrix.device, dtype=matrix.dtype)
    return matrix.difference_error(vector if basis is None else basis @ vector, value)
