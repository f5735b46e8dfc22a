"""Lanczos on one flat basis, with restarts: Ritz values with error bounds, quadrature."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossatlas.errors import NonFiniteError
from lossatlas.linalg.basis import Basis, basis_bytes
from lossatlas.memory import is_out_of_memory

Apply = Callable[[Tensor], Tensor]
Array = NDArray[np.float64]

# Products carry rounding of a few units in the last place; no bound goes below it.
_ROUNDING = 10.0
# A remainder this many times the rounding is nothing: what follows it would be noise.
_NOTHING = 10.0
# The numbers that a step changes.
_OF_A_STEP = ("products", "run_products", "scale", "_dropped", "_most_stray", "_weak")
# Up to here a tridiagonal matrix is solved without choosing how.
_SMALL = 64


@dataclass(frozen=True)
class Storage:
    """Storage of a Krylov basis.

    Attributes:
        rows: largest size of T that fits in memory, at which eigenvalue runs restart; None for
            no limit.
        dtype: dtype of its rows; that of the vectors by default.
        device: device of its rows; that of the vectors by default.
        ran_out: whether memory ran out, on this or another process of the group.
    """

    rows: int | None = None
    dtype: torch.dtype | None = None
    device: torch.device | None = None
    ran_out: Callable[[bool], bool] = bool

    def basis(self, start: Tensor) -> Basis:
        """The basis of a run from a vector."""
        most = None if self.rows is None else self.rows + 1
        return Basis(start / start.norm(), dtype=self.dtype, device=self.device, max_rows=most)


@dataclass(frozen=True)
class Ritz:
    """Ritz values of a Krylov space, with error bounds.

    Attributes:
        values: Ritz values, ascending, shape (steps,).
        residuals: |H y - value * y| of each, same units.
        bounds: each value has an eigenvalue within this distance: the residual plus the noise
            of products (rounding and measured asymmetry). The error is often much smaller,
            about residual^2 / gap (Kato-Temple), but no gap is certain: two eigenvalues closer
            than their residual look like one.
        weights: squared first components, which sum to 1: the weights of Gauss quadrature. NaN
            after a restart, which drops part of the first vector.
        vectors: coefficients over the basis, shape (steps, steps), a column for each value.
    """

    values: Array
    residuals: Array
    bounds: Array
    weights: Array
    vectors: Array


class Lanczos:
    """A growing orthonormal basis Q of a Krylov space, with Q H Q^T = T.

    T is tridiagonal; after a restart its first rows are Ritz values, each coupled to the vector
    that follows them. Every new vector is orthogonalised against the whole basis, and a second
    time if the first pass removed much. If the space is exhausted (low rank, multiple
    eigenvalues), the run continues from a new random vector orthogonal to it.

    Args:
        apply: v -> H v for a symmetric H, on flat vectors; called with rows as stored.
        start: any nonzero vector of shape (n,); determines dtype and device of vectors.
        generator: random generator of new vectors, on the device of `start`.
        storage: storage of the basis (`Storage`); like the vectors by default.

    Source: Lanczos 1950; full reorthogonalisation as in Parlett, The Symmetric Eigenvalue
        Problem, ch. 13; restarts: Wu and Simon, SIAM J. Matrix Anal. Appl. 22 (2000).
    """

    def __init__(
        self,
        apply: Apply,
        start: Tensor,
        generator: torch.Generator,
        storage: Storage | None = None,
    ) -> None:
        self.apply = apply
        self.storage = storage or Storage()
        self.basis = self.storage.basis(start)
        self.alpha: list[float] = []
        # beta[j] couples steps j and j + 1; zero where a fresh vector begins.
        self.beta: list[float] = []
        # What couples the Ritz vectors kept by a restart to the vector after them.
        self.couplings: Array = np.zeros(0)
        self.products = 0
        self.scale = 0.0
        # The spectrum as the first run knew it, where a restart has ended that.
        self.before_restart: Ritz | None = None
        # Whether memory ran out, so that the basis can hold no more than it does.
        self.full = False
        self._dropped = 0.0
        self._strays: list[Array] = []
        self._kept_strays: Array = np.zeros(0)
        self._most_stray = 0.0
        self._weak = False
        # Steps at which runs start: the first one, and each new one.
        self.starts = [0]
        # Products of the run that goes on.
        self.run_products = 0
        self._generator = generator

    @property
    def size(self) -> int:
        """The length of the vectors."""
        return self.basis.size

    @property
    def steps(self) -> int:
        """The size of T: products so far, minus those dropped by restarts."""
        return len(self.alpha)

    @property
    def exhausted(self) -> bool:
        """Whether the basis spans the whole space."""
        return self.steps >= self.size

    @property
    def asymmetry(self) -> float:
        """Measured relative asymmetry of the products."""
        return self._most_stray / self.scale if self.scale else 0.0

    @property
    def rounding(self) -> float:
        """Rounding error of products, relative to the largest eigenvalue."""
        return 3 * self._eps

    @property
    def _eps(self) -> float:
        return _ROUNDING * torch.finfo(self.basis.dtype).eps

    def extend(self, steps: int = 1) -> None:
        """Compute further products."""
        for _ in range(min(steps, self.size - self.steps)):
            self._step()

    def extend_within_memory(self, steps: int) -> bool:
        """Compute further products, unless memory runs out.

        Args:
            steps: number of products.

        Returns:
            False if memory ran out; the space is then as before that product, on all processes
            of the group.

        Raises:
            MemoryError: memory ran out earlier, or within the first step.
            RuntimeError: the same as reported by torch, or another error.
        """
        for _ in range(min(steps, self.size - self.steps)):
            undo = self._undo()
            if self.storage.ran_out(self._lacks_memory()):
                undo()
                self.full = True
                return False
        return True

    def _undo(self) -> Callable[[], None]:
        # What takes a step back, wherever it ended: on other processes it may be done.
        grown: tuple[list[Any], ...] = (self.alpha, self.beta, self._strays, self.starts)
        lengths, rows = list(map(len, grown)), len(self.basis)
        numbers = {name: getattr(self, name) for name in _OF_A_STEP}
        drawn = self._generator.get_state()

        def undo() -> None:
            for each, length in zip(grown, lengths, strict=True):
                del each[length:]
            for name, value in numbers.items():
                setattr(self, name, value)
            self.basis.cut(rows)
            self._generator.set_state(drawn)

        return undo

    def _lacks_memory(self) -> bool:
        # Whether memory ran out within a step, for the first time.
        try:
            self._step()
        except (MemoryError, RuntimeError) as error:
            if self.full or not is_out_of_memory(error) or not self.steps:
                raise
            return True
        return False

    def _step(self) -> None:
        place, basis = self.steps, self.basis
        image = self.apply(basis[place])
        if image.data_ptr() == basis[place].data_ptr():
            image = image.clone()
        self.products += 1
        self.run_products += 1
        alpha = basis.dot(place, image)
        basis.add_to(image, place, -alpha)
        coupled = self.beta[-1] if self.beta else 0.0
        if coupled:
            basis.add_to(image, place - 1, -coupled)
        image, rest, removed = basis.orthogonalised(image)
        if place == len(self.couplings) and place:
            removed[:place] -= self.couplings
        self._strays.append(removed)
        self._most_stray = max(self._most_stray, float(np.linalg.norm(removed)))
        reach = math.hypot(alpha, coupled, rest)
        if not math.isfinite(reach):
            raise NonFiniteError(
                f"product {self.products} with a curvature matrix is not finite: check for "
                "infinite curvature (a square root or a norm at zero) or overflow."
            )
        self.scale = max(self.scale, reach)
        self.alpha.append(alpha)
        if rest > _NOTHING * self._eps * self.scale and not self.exhausted:
            self._go_on(image, rest)
        else:
            self.beta.append(0.0)
            self._dropped = max(self._dropped, 0.0 if self.exhausted else rest)
            self._start_new_run()

    def _go_on(self, image: Tensor, rest: float) -> None:
        # A first weak coupling is the end of a run as well: what follows was mostly rounding.
        weak = rest <= math.sqrt(self._eps) * self.scale
        if weak and not self._weak:
            self._start_run()
        self._weak = weak
        self.beta.append(rest)
        self.basis.append(image.div_(rest))

    def _start_run(self) -> None:
        self.starts.append(self.steps)
        self.run_products = 0

    def _start_new_run(self) -> None:
        self._start_run()
        if self.exhausted:
            return
        like = self.basis
        fresh = torch.randn(
            self.size, generator=self._generator, dtype=like.dtype, device=like.device
        )
        fresh, length, _ = self.basis.orthogonalised(fresh)
        self.basis.append(fresh.div_(length))

    def restart(self, places: Sequence[int]) -> None:
        """Keep some Ritz vectors and the last direction, and drop the rest of the space.

        Memory of dropped rows is reused, unless memory was short.

        Args:
            places: which of `ritz().values`.
        """
        ritz, last = self.ritz(), self.starts[-1]
        if self.before_restart is None:
            self.before_restart = ritz
        # The last run goes on: what earlier ones found comes first.
        last_run = (ritz.vectors[last:] ** 2).sum(0) > 0.5
        order = sorted(places, key=lambda place: bool(last_run[place]))
        earlier = sum(not last_run[place] for place in order)
        turn = np.zeros((self.steps + 1, len(order) + 1))
        turn[:-1, :-1], turn[-1, -1] = ritz.vectors[:, order], 1.0
        self.basis.rotate(turn, trim=self.full)
        self._kept_strays = self._stray_lengths(ritz.vectors)[order]
        self.couplings = self.beta[-1] * ritz.vectors[-1, order]
        self.alpha, self.beta = ritz.values[order].tolist(), [0.0] * len(order)
        self._strays = []
        self.starts = [0, earlier] if last and earlier else [0]

    def ritz(self, *, bare: bool = False) -> Ritz:
        """The Ritz values and bounds of the current space."""
        values, vectors = self._solve()
        residuals = self.beta[-1] * np.abs(vectors[-1])
        weights = np.full(len(values), np.nan) if len(self.couplings) else vectors[0] ** 2
        if bare:
            unknown = np.full(len(values), np.nan)
            return Ritz(values, residuals, unknown, weights, vectors)
        noise = self.rounding * float(np.abs(values).max()) + self._dropped
        bounds = residuals + noise + self._stray_lengths(vectors)
        return Ritz(values, residuals, bounds, weights, vectors)

    def _solve(self) -> tuple[Array, Array]:
        alpha, beta, coupled = (
            np.array(self.alpha),
            np.array(self.beta[:-1]),
            len(self.couplings),
        )
        if not coupled:
            return _solved(alpha, beta)
        t = np.diag(alpha) + np.diag(beta, 1) + np.diag(beta, -1)
        t[coupled, :coupled] = t[:coupled, coupled] = self.couplings
        values, vectors = np.linalg.eigh(t)
        return values, vectors

    def _stray_lengths(self, vectors: Array) -> Array:
        # With exact products nothing is left to take away but rounding. What was taken away
        # shows how far products are from those of a symmetric matrix, seen by each Ritz vector.
        coupled = len(self.couplings)
        strays = np.zeros((self.steps + 1, self.steps - coupled))
        for step, removed in enumerate(self._strays):
            strays[: len(removed), step] = removed
        lengths: Array = np.linalg.norm(strays @ vectors[coupled:], axis=0)
        return lengths + self._kept_strays @ np.abs(vectors[:coupled]) if coupled else lengths


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
    """Nodes and weights of Gauss quadrature, with only three vectors in memory."""
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
        if guards is not None:
            guards.remove(image)
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


def krylov_bytes(
    size: int, steps: int, dtype: torch.dtype, storage: Storage | None = None
) -> int:
    """Memory of a run: the basis, a product, and a vector being orthogonalised."""
    storage = storage or Storage()
    max_rows = None if storage.rows is None else storage.rows + 1
    rows = steps if storage.rows is None else min(steps, storage.rows)
    basis = basis_bytes(size, rows + 1, storage.dtype or dtype, max_rows)
    return basis + 2 * size * dtype.itemsize
