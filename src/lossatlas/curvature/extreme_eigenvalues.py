"""Both ends of a spectrum in one Krylov run: eigenvalues, bounds, eigenvectors."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lossatlas.curvature.krylov_memory import RAN_OUT, KrylovPlan
from lossatlas.curvature.operators import CurvatureOperator
from lossatlas.curvature.trace import random_run
from lossatlas.linalg.basis import Basis
from lossatlas.linalg.extremes import converge, reached_ends, within
from lossatlas.linalg.krylov import Lanczos, Ritz

Array = NDArray[np.float64]
# Beyond this products are more than rounded.
_SYMMETRIC = 1e-3


@dataclass(frozen=True)
class ExtremeEigenvalues:
    """The largest and smallest eigenvalues of a finished run, whose basis holds their vectors.

    Attributes:
        ritz: all eigenvalues of the projected matrix, ascending.
        first: the same before the run was restarted.
        top_reached: whether the largest are within the tolerance.
        bottom_reached: whether the smallest are.
        basis: one eigenvector for each of `indices`.
        indices: which eigenvalues of `ritz` were requested; none is there twice.
        top: the largest, descending, as indices.
        bottom: the smallest, ascending.
        products: products spent.
        note: what to know about the run; often empty.
    """

    ritz: Ritz
    first: Ritz
    top_reached: bool
    bottom_reached: bool
    basis: Basis
    indices: list[int]
    top: list[int]
    bottom: list[int]
    products: int
    note: str

    @property
    def reached(self) -> bool:
        """Whether both ends are within the tolerance."""
        return self.top_reached and self.bottom_reached

    @property
    def largest_size(self) -> float:
        """The largest absolute eigenvalue."""
        values = self.ritz.values[self.top + self.bottom]
        return float(np.abs(values).max(initial=0.0))

    @property
    def converged(self) -> NDArray[np.bool_]:
        """Which eigenvalues of the first run are known."""
        size, known = len(self.ritz.values), np.zeros(len(self.first.values), dtype=bool)
        # From either end, because a run that was restarted has another length.
        from_ends = [i if i < len(self.bottom) else i - size for i in self.indices]
        known[from_ends] = self.reached
        return known

    def bounds(self, matrix: CurvatureOperator) -> dict[int, float]:
        """Index -> error bound, of the run and of products by differences of gradients."""
        values, bounds = self.ritz.values, {}
        for index in self.indices:
            error = matrix.difference_error(self._row(index, matrix), float(values[index]))
            bounds[index] = float(self.ritz.bounds[index]) + error
        return bounds

    def vectors(self, matrix: CurvatureOperator) -> tuple[dict[str, torch.Tensor], ...]:
        """Eigenvectors of length 1, of the largest and then of the smallest."""
        rows = [self._row(index, matrix) for index in self.top + self.bottom]
        return tuple(matrix.unflatten(row / row.norm()) for row in rows)

    def _row(self, index: int, matrix: CurvatureOperator) -> torch.Tensor:
        row = self.basis[self.indices.index(index)]
        return row.to(device=matrix.device, dtype=matrix.dtype)


def extreme_eigenvalues(
    matrix: CurvatureOperator,
    plan: KrylovPlan,
    top: int,
    bottom: int,
    *,
    seed: int,
    tolerance: float,
    limit: int,
) -> ExtremeEigenvalues:
    """Run Lanczos until the requested eigenvalues at both ends converge."""
    lanczos = random_run(matrix, seed, plan.storage)
    wanted: dict[str, Any] = {"top": top, "bottom": bottom, "tolerance": tolerance}
    ritz, reached = converge(lanczos, **wanted, limit=limit)
    size, first = len(ritz.values), lanczos.before_restart
    largest, smallest = list(range(size))[::-1][:top], list(range(size))[:bottom]
    indices = list(dict.fromkeys(largest + smallest))
    # The eigenvectors take the place of the basis: no further memory is needed.
    lanczos.basis.rotate(ritz.vectors[:, indices])
    if plan.rounds:
        ritz = _measured_again(lanczos, ritz, indices)
        largest.sort(key=lambda index: -ritz.values[index])
        smallest.sort(key=lambda index: ritz.values[index])
        reached = within(lanczos, ritz, **wanted)
    top_reached, bottom_reached = reached_ends(lanczos, ritz, reached, **wanted)
    notes = (RAN_OUT if lanczos.full else "", _asymmetry_note(lanczos.asymmetry))
    return ExtremeEigenvalues(
        ritz=ritz,
        first=ritz if first is None else _with_ends_of(first, ritz, top, bottom),
        top_reached=top_reached and size >= top,
        bottom_reached=bottom_reached and size >= bottom,
        basis=lanczos.basis,
        indices=indices,
        top=largest,
        bottom=smallest,
        products=lanczos.products,
        note="; ".join(filter(None, notes)),
    )


def _measured_again(lanczos: Lanczos, ritz: Ritz, indices: list[int]) -> Ritz:
    # The recurrence does not see how rows were rounded: one product a vector does.
    values, residuals, bounds = ritz.values.copy(), ritz.residuals.copy(), ritz.bounds.copy()
    for row, index in enumerate(indices):
        image = lanczos.apply(lanczos.basis[row])
        length = math.sqrt(lanczos.basis.square(row))
        value = lanczos.basis.dot(row, image) / length**2
        lanczos.basis.add_to(image, row, -value)
        values[index], residuals[index] = value, float(image.norm()) / length
    lanczos.products += len(indices)
    noise = lanczos.rounding * float(np.abs(values).max())
    bounds[indices] = residuals[indices] + noise
    return replace(ritz, values=values, residuals=residuals, bounds=bounds)


def _with_ends_of(first: Ritz, last: Ritz, top: int, bottom: int) -> Ritz:
    # The quadrature of the first run, with the ends as the last one knows them.
    ends = [*range(min(bottom, len(first.values))), *range(-min(top, len(first.values)), 0)]
    values, bounds = first.values.copy(), first.bounds.copy()
    values[ends], bounds[ends] = last.values[ends], last.bounds[ends]
    return replace(first, values=values, bounds=bounds)


def _asymmetry_note(asymmetry: float) -> str:
    if asymmetry < _SYMMETRIC:
        return ""
    return (
        f"products are off those of a symmetric matrix by {asymmetry:.1g} of the largest "
        "eigenvalue: low precision, or an operation whose second derivative is wrong"
    )
