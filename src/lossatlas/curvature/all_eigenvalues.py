"""All eigenvalues of a curvature matrix: from the whole of it, or from the range it has."""

import numpy as np
import torch
from numpy.typing import NDArray

from lossatlas.curvature.differentiable import UnreachedError
from lossatlas.curvature.forms import model_outputs
from lossatlas.curvature.operators import CurvatureOperator
from lossatlas.linalg.params import Params
from lossatlas.objective import Batch
from lossatlas.rng import generator

Array = NDArray[np.float64]

# Random vectors beyond the rank, so that the range is seen well; entries held at most.
_MORE, _ENTRIES = 8, 1 << 27
# What the range may miss of one more product, in roundings.
_ROUNDINGS = 1e3


def dense_eigenvalues(matrix: CurvatureOperator) -> Array:
    """All eigenvalues, from one product a parameter."""
    unit = torch.eye(matrix.size, dtype=matrix.dtype, device=matrix.device)
    dense = torch.stack([matrix.flat(row) for row in unit]).double().cpu()
    return np.asarray(torch.linalg.eigvalsh((dense + dense.T) / 2).numpy())


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
        columns = objective.with_params(params, walk) + _MORE
    useful = columns < matrix.size / 2 and columns * matrix.size <= _ENTRIES
    return 2 * columns if useful else None


def eigenvalues_in_range(matrix: CurvatureOperator, products: int, seed: int) -> Array | None:
    """Eigenvalues of a matrix of low rank without its zeros; None where the rank is higher."""
    # Products with random vectors span the range of H; with Q a basis of it, Q^T H Q has the
    # eigenvalues of H. One more product has to lie in that range.
    drawn = generator(seed, "range", device=matrix.device)

    def image() -> torch.Tensor:
        start = torch.randn(
            matrix.size, generator=drawn, dtype=matrix.dtype, device=matrix.device
        )
        return matrix.flat(start)

    basis = torch.linalg.qr(torch.stack([image() for _ in range(products // 2)]).T)[0]
    other = image()
    left = other - basis @ (basis.T @ other)
    rounding = _ROUNDINGS * torch.finfo(matrix.dtype).eps
    if not float(left.norm()) <= rounding * float(other.norm()):
        return None
    inside = torch.stack([matrix.flat(column) @ basis for column in basis.T]).double().cpu()
    return np.asarray(torch.linalg.eigvalsh((inside + inside.T) / 2).numpy())
