"""Lanczos on one flat basis: both ends of a spectrum with error bounds, and quadrature."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossatlas.errors import NonFiniteError
from lossatlas.linalg.basis import Basis, basis_bytes

Apply = Callable[[Tensor], Tensor]
Array = NDArray[np.float64]

# Products carry rounding of a few units in the last place; no bound goes below it.
_ROUNDING = 10.0
# A remainder this many times the rounding is nothing: what follows it would be noise.
_NOTHING = 10.0
# Up to here a tridiagonal matrix is solved without choosing how.
_SMALL = 64


@dataclass(frozen=True)
class Ritz:
    """What a Krylov space knows about a spectrum.

    Attributes:
        values: Ritz values, ascending, shape (steps,).
        residuals: |H y - value * y| of each, same units.
        bounds: an eigenvalue lies within this of each value: the residual and the noise of
            products (rounding, and how far they were seen to be from those of a symmetric
            matrix). The error is often far smaller, about residual^2 / gap (Kato-Temple), but
            no gap is certain: two eigenvalues closer than their residual look like one.
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

    Source: Lanczos 1950; full reorthogonalisation as in Parlett, The Symmetric Eigenvalue
        Problem, ch. 13.
    """

    def __init__(self, apply: Apply, start: Tensor, generator: torch.Generator) -> None:
        self.apply = apply
        self.basis = Basis(start / start.norm())
        self.alpha: list[float] = []
        # beta[j] couples steps j and j + 1; zero where a fresh vector begins.
        self.beta: list[float] = []
        self.scale = 0.0
        self._dropped = 0.0
        self._strays: list[Array] = []
        self._weak = False
        # Where runs begin: the first one, and each that began anew.
        self.starts = [0]
        self._generator = generator

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
    def asymmetry(self) -> float:
        """How far products were seen to be from those of a symmetric matrix, relative."""
        most = max((float(np.linalg.norm(taken)) for taken in self._strays), default=0.0)
        return most / self.scale if self.scale else 0.0

    @property
    def _eps(self) -> float:
        return _ROUNDING * torch.finfo(self.basis.dtype).eps

    def extend(self, steps: int = 1) -> None:
        """Take further products."""
        for _ in range(min(steps, self.size - self.steps)):
            self._step()

    def _step(self) -> None:
        last = self.basis[self.steps]
        image = self.apply(last)
        alpha = float(last @ image)
        image = torch.add(image, last, alpha=-alpha)
        coupled = self.beta[-1] if self.beta else 0.0
        if coupled:
            image.add_(self.basis[self.steps - 1], alpha=-coupled)
        image, rest, taken = self.basis.orthogonalised(image)
        self._strays.append(taken)
        reach = math.hypot(alpha, coupled, rest)
        if not math.isfinite(reach):
            raise NonFiniteError(
                f"product {self.steps + 1} with a curvature matrix is not finite: look for "
                "infinite curvature (a square root or a norm at zero) or overflow."
            )
        self.scale = max(self.scale, reach)
        self.alpha.append(alpha)
        if rest > _NOTHING * self._eps * self.scale and not self.exhausted:
            self._go_on(image, rest)
        else:
            self.beta.append(0.0)
            self._dropped = max(self._dropped, 0.0 if self.exhausted else rest)
            self._begin_anew()

    def _go_on(self, image: Tensor, rest: float) -> None:
        # A first weak coupling is the end of a run as well: what follows was mostly rounding.
        weak = rest <= math.sqrt(self._eps) * self.scale
        if weak and not self._weak:
            self.starts.append(self.steps)
        self._weak = weak
        self.beta.append(rest)
        self.basis.append(image.div_(rest))

    def _begin_anew(self) -> None:
        self.starts.append(self.steps)
        if self.exhausted:
            return
        like = self.basis[0]
        fresh = torch.randn(
            self.size, generator=self._generator, dtype=like.dtype, device=like.device
        )
        fresh, length, _ = self.basis.orthogonalised(fresh)
        self.basis.append(fresh / length)

    def ritz(self, *, bare: bool = False) -> Ritz:
        """The spectrum as this space knows it."""
        values, vectors = _solved(np.array(self.alpha), np.array(self.beta[:-1]))
        residuals = self.beta[-1] * np.abs(vectors[-1])
        if bare:
            unknown = np.full(len(values), np.nan)
            return Ritz(values, residuals, unknown, vectors[0] ** 2, vectors)
        noise = 3 * self._eps * float(np.abs(values).max()) + self._dropped
        bounds = residuals + noise + self._stray_lengths(vectors)
        return Ritz(values, residuals, bounds, vectors[0] ** 2, vectors)

    def _stray_lengths(self, vectors: Array) -> Array:
        # With exact products nothing is left to take away but rounding. What was taken away
        # shows how far products are from those of a symmetric matrix, seen by each Ritz vector.
        strays = np.zeros((self.steps + 1, self.steps))
        for step, taken in enumerate(self._strays):
            strays[: len(taken), step] = taken
        lengths: Array = np.linalg.norm(strays @ vectors, axis=0)
        return lengths


def _solved(alpha: Array, beta: Array) -> tuple[Array, Array]:
    # The general routine checks and chooses for longer than a small matrix takes to solve.
    # Older versions of scipy do not wrap the other one.
    solve = getattr(scipy.linalg.lapack, "dstevd", None)
    is_finite = np.isfinite(alpha).all() and np.isfinite(beta).all()
    if solve is None or len(alpha) > _SMALL or not is_finite:
        values, vectors = scipy.linalg.eigh_tridiagonal(alpha, beta)
        return values, vectors
    values, vectors, failed = solve(alpha, beta if len(beta) else np.zeros(1))
    return scipy.linalg.eigh_tridiagonal(alpha, beta) if failed else (values, vectors)


def quadrature(
    apply: Apply, start: Tensor, steps: int, guards: Basis | None = None
) -> tuple[Array, Array]:
    """Nodes and weights of Gauss quadrature from three vectors at a time."""
    alpha: list[float] = []
    beta: list[float] = []
    now = start if guards is None else guards.orthogonalised(start.clone())[0]
    now = now / now.norm()
    before, scale, eps = torch.zeros_like(now), 0.0, 100 * torch.finfo(now.dtype).eps
    for step in range(steps):
        image = apply(now)
        alpha.append(float(now @ image))
        image = torch.add(image, now, alpha=-alpha[-1])
        if beta:
            image.add_(before, alpha=-beta[-1])
        for panel in [] if guards is None else guards.panels():
            image.addmv_(panel.T, panel @ image, alpha=-1.0)
        rest = float(image.norm())
        scale = max(scale, math.hypot(alpha[-1], beta[-1] if beta else 0.0, rest))
        if not math.isfinite(scale):
            raise NonFiniteError(f"product {step + 1} with a random probe is not finite.")
        if rest <= eps * scale:
            break
        beta.append(rest)
        before, now = now, image.div_(rest)
    values, vectors = scipy.linalg.eigh_tridiagonal(
        np.array(alpha), np.array(beta[: len(alpha) - 1])
    )
    return values, vectors[0] ** 2


def krylov_bytes(size: int, steps: int, dtype: torch.dtype) -> int:
    """The memory that a run needs: the basis, a product, and a vector being orthogonalised."""
    return basis_bytes(size, steps + 1, dtype) + 2 * size * dtype.itemsize
