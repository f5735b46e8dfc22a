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
    """How a Krylov basis is kept.

    Attributes:
        rows: size of T that memory holds, at which runs for eigenvalues restart; None for any.
        dtype: type of its rows; that of vectors by default.
        device: where they are; where vectors are by default.
        ran_out: whether memory ran out, here or on another process that takes the same steps.
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
    """What a Krylov space knows about a spectrum.

    Attributes:
        values: Ritz values, ascending, shape (steps,).
        residuals: |H y - value * y| of each, same units.
        bounds: an eigenvalue lies within this of each value: the residual and the noise of
            products (rounding, and how far they were seen to be from those of a symmetric
            matrix). The error is often far smaller, about residual^2 / gap (Kato-Temple), but
            no gap is certain: two eigenvalues closer than their residual look like one.
        weights: squared first components, which sum to 1: the weights of Gauss quadrature. NaN
            after a restart, which forgets a part of the first vector.
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
    time where the first pass took much away. Where the space is exhausted (low rank,
    eigenvalues that occur several times), it goes on from a fresh random vector orthogonal to
    it.

    Args:
        apply: v -> H v for a symmetric H, on flat vectors; called with rows as they are kept.
        start: any vector of shape (n,) but zero; its type and device are those of vectors.
        generator: where fresh vectors are drawn from, on the device of `start`.
        storage: how the basis is kept (`Storage`); as vectors are by default.

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
        # Where runs begin: the first one, and each that began anew.
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
        """The size of T: products taken so far, less those that restarts gave up."""
        return len(self.alpha)

    @property
    def exhausted(self) -> bool:
        """Whether the basis spans everything."""
        return self.steps >= self.size

    @property
    def asymmetry(self) -> float:
        """How far products were seen to be from those of a symmetric matrix, relative."""
        return self._most_stray / self.scale if self.scale else 0.0

    @property
    def rounding(self) -> float:
        """What products are rounded by, as a share of the largest eigenvalue."""
        return 3 * self._eps

    @property
    def _eps(self) -> float:
        return _ROUNDING * torch.finfo(self.basis.dtype).eps

    def extend(self, steps: int = 1) -> None:
        """Take further products."""
        for _ in range(min(steps, self.size - self.steps)):
            self._step()

    def extend_within_memory(self, steps: int) -> bool:
        """Take further products, unless memory runs out.

        Args:
            steps: how many.

        Returns:
            False where memory ran out: the space is then as it was before that product, on
            all processes that take the same steps.

        Raises:
            MemoryError: it ran out before, or within the first step.
            RuntimeError: the same as torch says it, or another error.
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
        image, rest, taken = basis.orthogonalised(image)
        if place == len(self.couplings) and place:
            taken[:place] -= self.couplings
        self._strays.append(taken)
        self._most_stray = max(self._most_stray, float(np.linalg.norm(taken)))
        reach = math.hypot(alpha, coupled, rest)
        if not math.isfinite(reach):
            raise NonFiniteError(
                f"product {self.products} with a curvature matrix is not finite: look for "
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
            self._start_run()
        self._weak = weak
        self.beta.append(rest)
        self.basis.append(image.div_(rest))

    def _start_run(self) -> None:
        self.starts.append(self.steps)
        self.run_products = 0

    def _begin_anew(self) -> None:
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
        """Keep some Ritz vectors and the last direction, and forget the rest of the space.

        Memory of rows that are given up is kept for the next, unless there was too little.

        Args:
            places: which of `ritz().values`.
        """
        ritz, last = self.ritz(), self.starts[-1]
        if self.before_restart is None:
            self.before_restart = ritz
        # The last run goes on: what earlier ones found comes first.
        own = (ritz.vectors[last:] ** 2).sum(0) > 0.5
        order = sorted(places, key=lambda place: bool(own[place]))
        earlier = sum(not own[place] for place in order)
        turn = np.zeros((self.steps + 1, len(order) + 1))
        turn[:-1, :-1], turn[-1, -1] = ritz.vectors[:, order], 1.0
        self.basis.rotate(turn, trim=self.full)
        self._kept_strays = self._stray_lengths(ritz.vectors)[order]
        self.couplings = self.beta[-1] * ritz.vectors[-1, order]
        self.alpha, self.beta = ritz.values[order].tolist(), [0.0] * len(order)
        self._strays = []
        self.starts = [0, earlier] if last and earlier else [0]

    def ritz(self, *, bare: bool = False) -> Ritz:
        """The spectrum as this space knows it."""
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
        alpha, beta, kept = np.array(self.alpha), np.array(self.beta[:-1]), len(self.couplings)
        if not kept:
            return _solved(alpha, beta)
        t = np.diag(alpha) + np.diag(beta, 1) + np.diag(beta, -1)
        t[kept, :kept] = t[:kept, kept] = self.couplings
        values, vectors = np.linalg.eigh(t)
        return values, vectors

    def _stray_lengths(self, vectors: Array) -> Array:
        # With exact products nothing is left to take away but rounding. What was taken away
        # shows how far products are from those of a symmetric matrix, seen by each Ritz vector.
        kept = len(self.couplings)
        strays = np.zeros((self.steps + 1, self.steps - kept))
        for step, taken in enumerate(self._strays):
            strays[: len(taken), step] = taken
        lengths: Array = np.linalg.norm(strays @ vectors[kept:], axis=0)
        return lengths + self._kept_strays @ np.abs(vectors[:kept]) if kept else lengths


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
    """The memory that a run needs: the basis, a product, and a vector being orthogonalised."""
    kept = storage or Storage()
    most = None if kept.rows is None else kept.rows + 1
    rows = steps if kept.rows is None else min(steps, kept.rows)
    held = basis_bytes(size, rows + 1, kept.dtype or dtype, most)
    return held + 2 * size * dtype.itemsize
