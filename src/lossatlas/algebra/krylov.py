"""Lanczos on one flat basis: both ends of a spectrum with error bounds, and quadrature."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from lossatlas.algebra.basis import Basis, basis_bytes
from lossatlas.errors import NonFiniteError

Apply = Callable[[Tensor], Tensor]
Array = NDArray[np.float64]

# Products carry rounding of a few units in the last place; no bound goes below it.
_ROUNDING = 10.0
# A remainder this many times the rounding is nothing: what follows it would be noise.
_NOTHING = 10.0
# The share of a gap between Ritz values that is taken to be free of eigenvalues.
_GAP = 1 / 3


@dataclass(frozen=True)
class Ritz:
    """What a Krylov space knows about a spectrum.

    Attributes:
        values: Ritz values, ascending, shape (steps,).
        residuals: |H y - value * y| of each, same units; an eigenvalue lies this near.
        bounds: error bounds of the values: the residual, or residual^2 / gap where that is
            smaller, with a third of the gap to the other Ritz values (an eigenvalue that no
            Ritz value shows yet may lie there).
        weights: squared first components, which sum to 1: the weights of Gauss quadrature.
        vectors: coefficients over the basis, shape (steps, steps), a column for each value.
    """

    values: Array
    residuals: Array
    bounds: Array
    weights: Array
    vectors: Array


class Lanczos:
    """A growing orthonormal basis Q of a Krylov space, with Q H Q^T = T tridiagonal.

    Every new vector is orthogonalised against the whole basis, and a second time where the
    first pass took much away. Where the space is exhausted (low rank, eigenvalues that occur
    several times), it goes on from a fresh random vector orthogonal to it.

    Args:
        apply: v -> H v for a symmetric H, on flat vectors.
        start: any vector of shape (n,) but zero; its type and device are those of the basis.
        generator: where fresh vectors are drawn from, on the device of `start`.
        partial: orthogonalise only where the estimated loss of orthogonality asks for it. T
            stays as exact as products are, at a fraction of the work; for quadrature.

    Source: Lanczos 1950; full reorthogonalisation as in Parlett, The Symmetric Eigenvalue
        Problem, ch. 13; partial: Simon, Mathematics of Computation 42 (1984).
    """

    def __init__(
        self,
        apply: Apply,
        start: Tensor,
        generator: torch.Generator,
        *,
        partial: bool = False,
    ) -> None:
        self.apply = apply
        self.basis = Basis(start / start.norm())
        self.alpha: list[float] = []
        # beta[j] couples steps j and j + 1; zero where a fresh vector begins.
        self.beta: list[float] = []
        self.scale = 0.0
        self._dropped = 0.0
        self._weak = False
        self.block_start = 0
        self._generator = generator
        self._loss = _LossOfOrthogonality(self._eps) if partial else None

    @property
    def size(self) -> int:
        """The length of the vectors."""
        return self.basis.size

    @property
    def steps(self) -> int:
        """Products taken so far: the size of T."""
        return len(self.alpha)

    @property
    def exhausted(self) -> bool:
        """Whether the basis spans everything."""
        return self.steps >= self.size

    @property
    def _eps(self) -> float:
        return _ROUNDING * torch.finfo(self.basis.dtype).eps

    def extend(self, steps: int = 1) -> None:
        """Take further products.

        Args:
            steps: how many; fewer where the basis becomes complete.

        Raises:
            NonFiniteError: a product is NaN or infinite.
        """
        for _ in range(min(steps, self.size - self.steps)):
            self._step()

    def _step(self) -> None:
        last = self.basis[self.steps]
        image = self.apply(last)
        reach = float(image.norm())
        if not math.isfinite(reach):
            raise NonFiniteError(
                f"product {self.steps + 1} with a curvature matrix is not finite: look for "
                "infinite curvature (a square root or a norm at zero) or overflow."
            )
        self.scale = max(self.scale, reach)
        self.alpha.append(float(last @ image))
        image = torch.add(image, last, alpha=-self.alpha[-1])
        if self.steps > 1 and self.beta[-1]:
            image.add_(self.basis[self.steps - 2], alpha=-self.beta[-1])
        rest = self._clean(image)
        if rest > _NOTHING * self._eps * self.scale and not self.exhausted:
            self._go_on(image, rest)
        else:
            self.beta.append(0.0)
            self._dropped = max(self._dropped, 0.0 if self.exhausted else rest)
            self._begin_anew()

    def _clean(self, image: Tensor) -> float:
        if self._loss is not None:
            rest = float(image.norm())
            healthy = rest > math.sqrt(self._eps) * self.scale
            if healthy and not self._loss.grown(self.alpha, self.beta, rest):
                return rest
        return self.basis.orthogonalised(image)[1]

    def _go_on(self, image: Tensor, rest: float) -> None:
        # A first weak coupling is the end of a run as well: what follows was mostly rounding.
        weak = rest <= math.sqrt(self._eps) * self.scale
        if weak and not self._weak:
            self.block_start = self.steps
        self._weak = weak
        self.beta.append(rest)
        self.basis.append(image / rest)

    def _begin_anew(self) -> None:
        self.block_start = self.steps
        if self.exhausted:
            return
        like = self.basis[0]
        fresh = torch.randn(
            self.size, generator=self._generator, dtype=like.dtype, device=like.device
        )
        fresh, length = self.basis.orthogonalised(fresh)
        self.basis.append(fresh / length)

    def ritz(self) -> Ritz:
        """The spectrum as this space knows it.

        Returns:
            Values with residuals, bounds and quadrature weights.
        """
        values, vectors = eigh_tridiagonal(np.array(self.alpha), np.array(self.beta[:-1]))
        residuals = self.beta[-1] * np.abs(vectors[-1])
        noise = 3 * self._eps * float(np.abs(values).max()) + self._dropped
        bounds = _bounds(values, residuals) + noise
        return Ritz(values, residuals, bounds, vectors[0] ** 2, vectors)


class _LossOfOrthogonality:
    # Simon's recurrence for q_k . q_j, run forward with rounding of the products fed in.
    def __init__(self, eps: float) -> None:
        self._eps = eps
        self._threshold = math.sqrt(eps)
        self._before, self._now = np.zeros(0), np.ones(1)
        self._again = False

    def grown(self, alpha: list[float], beta: list[float], rest: float) -> bool:
        j = len(alpha) - 1
        a, b = np.array(alpha), np.array([*beta, rest])
        now, before = self._now, np.append(self._before, 1.0)[: j + 1]
        ahead = np.zeros(j + 2)
        k = np.arange(j)
        ahead[:j] = b[k] * now[1 : j + 1] + (a[k] - a[j]) * now[:j]
        ahead[1:j] += b[k[1:] - 1] * now[: j - 1]
        if j:
            ahead[:j] -= b[j - 1] * before[:j]
        ahead[:j] = (ahead[:j] + np.sign(ahead[:j]) * self._eps * np.abs(a).max()) / rest
        ahead[j], ahead[j + 1] = self._eps * np.abs(a).max() / rest, 1.0
        due = bool(np.abs(ahead[: j + 1]).max() > self._threshold)
        if due or self._again:
            ahead[: j + 1] = self._eps
        clean = due or self._again
        self._again = due and not self._again
        self._before, self._now = now, ahead
        return clean


def _bounds(values: Array, residuals: Array) -> Array:
    # Kato-Temple with a part of the gap that the Ritz values show, less their residuals.
    # A value without neighbours shows no gap.
    if len(values) < 2:
        return residuals
    gaps = np.full(len(values), np.inf)
    to_next = np.diff(values)
    gaps[:-1] = to_next - residuals[1:]
    gaps[1:] = np.minimum(gaps[1:], to_next - residuals[:-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        tight = np.where(gaps > 0, residuals**2 / (_GAP * gaps), np.inf)
    return np.minimum(residuals, tight)


def krylov_bytes(size: int, steps: int, dtype: torch.dtype) -> int:
    """The memory that a run needs: the basis, a product, and a vector being orthogonalised.

    Args:
        size: length of the vectors.
        steps: products at most.
        dtype: of the vectors.

    Returns:
        Bytes.
    """
    return basis_bytes(size, steps + 1, dtype) + 2 * size * dtype.itemsize
