"""Trace and norm by random probes, with deflation by a Krylov space."""

import math
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lossatlas.errors import NonFiniteError
from lossatlas.linalg.estimators import LEVEL, mean_of, quantile, rademacher
from lossatlas.linalg.krylov import Apply, Lanczos
from lossatlas.linalg.params import exact_dots
from lossatlas.result import Estimate
from lossatlas.rng import derive_seed

Array = NDArray[np.float64]

# Below this many probes a sample deviation says too little to stop on.
_FIRST_PROBES = 12
# How many samples the bound on the variance counts for.
_PRIOR = 30
# Its square is still a number.
_TINY = 1e-150


class Budget:
    """Budget of products and time.

    Args:
        products: total number of products.
        seconds: total time from now; None for no limit.
        elapsed: function that returns the seconds since creation; a clock by default.
    """

    def __init__(
        self,
        products: int,
        seconds: float | None = None,
        elapsed: Callable[[], float] | None = None,
    ) -> None:
        self.products, self.seconds = products, seconds
        began = time.monotonic()
        self._elapsed = elapsed or (lambda: time.monotonic() - began)

    def left(self, spent: int) -> int:
        """Products left after `products`, at the pace so far; the first is always allowed."""
        left = self.products - spent
        if self.seconds is not None and spent:
            elapsed = self._elapsed()
            pace = max(elapsed / spent, _TINY)
            left = min(left, int((self.seconds - elapsed) / pace))
        return max(left, 0)


class DeflatedProbes:
    """Random probes of the part of a matrix outside a Krylov space.

    With P = I - Q^T Q, tr H = tr T + tr P H P. For a probe z the second part needs z^T H z and
    the coefficients c = Q z alone: it is z^T H z - c^T T c - 2 beta_m c_m c_{m+1}. So one
    product per probe serves every size of the space, also later ones; the same holds for |P H P
    z|^2 and |H P z|^2, given |H z|^2.

    Args:
        apply: v -> H v.
        lanczos: the space, fully orthogonalised; it may grow between calls.
        seed: random seed of the probes.

    Source: Hutchinson 1990; the split as in Meyer et al., Hutch++, arXiv:2010.09649, with a
        Krylov space as in Chen and Hallman, arXiv:2205.01736.
    """

    def __init__(self, apply: Apply, lanczos: Lanczos, seed: int) -> None:
        self._apply, self._lanczos, self._seed = apply, lanczos, seed
        self.plain: list[float] = []
        self._squares: list[float] = []
        self._known: list[Array] = []

    def __len__(self) -> int:
        return len(self.plain)

    def draw(self, count: int) -> None:
        """Draw further probes: one product each."""
        for _ in range(count):
            probe = self._probe(len(self))
            image = self._apply(probe)
            square, product = exact_dots(image, image, probe)
            if not math.isfinite(square):
                raise NonFiniteError(
                    "a product with a random probe is not finite: check for infinite curvature "
                    "(a square root or a norm at zero) or overflow."
                )
            self.plain.append(product)
            self._squares.append(square)
            self._known.append(self._lanczos.basis.coefficients(probe))
            # Not beside the next one.
            del probe, image

    def seed_of(self, index: int) -> int:
        """Seed of a probe, which is drawn again instead of stored."""
        return derive_seed(self._seed, "probe", index)

    def _probe(self, index: int) -> Tensor:
        like = self._lanczos.basis[0]
        return rademacher(self._lanczos.size, self.seed_of(index), like)

    def _coefficients(self) -> Array:
        rows = len(self._lanczos.basis)
        for index, known in enumerate(self._known):
            if len(known) < rows:
                fresh = self._lanczos.basis.coefficients(self._probe(index), len(known))
                self._known[index] = np.concatenate([known, fresh])
        return np.array(self._known).reshape(len(self), rows)

    def remainders(self) -> Array:
        """z^T P H P z: what each probe sees of the trace outside the space."""
        if self._lanczos.exhausted:
            return np.zeros(len(self))
        alpha, beta = np.array(self._lanczos.alpha), np.array(self._lanczos.beta)
        couplings, c = self._lanczos.couplings, self._coefficients()
        # Neighbors couple twice; the last beta is the coupling to what lies outside.
        inside = c[:, :-1] ** 2 @ alpha + 2 * (c[:, :-1] * c[:, 1:]) @ beta
        inside += 2 * (c[:, : len(couplings)] @ couplings) * c[:, len(couplings)]
        rest: Array = np.array(self.plain) - inside
        return rest

    def squares(self) -> tuple[Array, Array]:
        """|P H P z|^2 and |H P z|^2, for the space without its last step."""
        if self._lanczos.exhausted:
            return np.zeros(len(self)), np.zeros(len(self))
        total, inner = np.array(self._squares), self._lanczos.steps - 1
        if inner < max(1, len(self._lanczos.couplings) + 1):
            return total, total
        beta, couplings = np.array(self._lanczos.beta), self._lanczos.couplings
        c, kept = self._coefficients(), len(self._lanczos.couplings)
        # Q H z, which the steps taken know.
        image = c[:, :-1] * np.array(self._lanczos.alpha) + c[:, 1:] * beta
        image[:, 1:] += c[:, :-2] * beta[:-1]
        if kept:
            image[:, :kept] += c[:, kept, None] * couplings
            image[:, kept] += c[:, :kept] @ couplings
        edge = beta[inner - 1] * c[:, inner - 1]
        inside = image[:, :inner].copy()  # T c, which does not know the last step
        inside[:, -1] -= beta[inner - 1] * c[:, inner]
        cross = edge * image[:, inner]
        head = image[:, :inner]
        within = total - (head**2).sum(1) - 2 * cross + edge**2
        outer = total - 2 * ((head * inside).sum(1) + cross) + (inside**2).sum(1) + edge**2
        return np.maximum(within, 0), np.maximum(outer, 0)


def deflated_trace(
    apply: Apply,
    lanczos: Lanczos,
    *,
    tolerance: float,
    limit: int | Budget,
    rows: int,
    seed: int,
) -> tuple[Estimate, DeflatedProbes]:
    """Estimate the trace by probes outside a Krylov space, which grows while that pays off.

    A product spent on the space reduces the variance of every probe by 2 dF, where dF is the
    squared Frobenius mass that the step captures; it is spent if that saves more than one
    probe. Probes stop when the half-width of the 95 % interval is `tolerance` of the value, or
    when the budget is spent; products then go where they make the interval shortest.

    Args:
        apply: v -> H v.
        lanczos: the initial space; extended in place.
        tolerance: relative half-width of the interval.
        limit: maximum number of products, including the space; or a budget.
        rows: maximum size of the space.
        seed: random seed of the probes.

    Returns:
        The estimate, and its probes.

    Raises:
        NonFiniteError: a product is NaN or infinite.
    """
    probes = DeflatedProbes(apply, lanczos, seed)
    budget = limit if isinstance(limit, Budget) else Budget(limit)
    most = lanczos.size if (held := lanczos.storage.rows) is None else held
    room = min(budget.products, rows, most, lanczos.size)
    if not lanczos.extend_within_memory(
        min(4, room, budget.left(lanczos.products)) - lanczos.steps
    ):
        room = lanczos.steps
    while True:
        spent = lanczos.products + len(probes)
        estimate = _trace_so_far(lanczos, probes, spent, tolerance)
        left = budget.left(spent)
        if estimate.reached or not left:
            return estimate, probes
        missing = probes_needed(estimate, tolerance) - len(probes)
        goal = min(missing, left)
        if lanczos.steps < room and _growth_pays(lanczos, estimate, goal, len(probes)):
            more = min(1 + lanczos.steps // 4, room - lanczos.steps, left)
            if not lanczos.extend_within_memory(more):
                room = lanczos.steps
        else:
            wanted = _FIRST_PROBES - len(probes)
            more = max(wanted, 1, min(missing // 2, len(probes)))
            probes.draw(min(more, left))


def _trace_so_far(
    lanczos: Lanczos, probes: DeflatedProbes, spent: int, tolerance: float
) -> Estimate:
    inside = math.fsum(lanczos.alpha)
    if lanczos.exhausted:
        return Estimate(inside, 0.0, spent)
    outside = mean_of(probes.remainders())
    if math.isnan(outside.stderr):
        why = outside.why_no_error
        return Estimate(inside, math.nan, spent, outside.samples, False, why)
    value = inside + outside.value
    error = math.sqrt(_variance(outside, probes) / len(probes))
    half = quantile(LEVEL, _PRIOR + len(probes)) * error
    enough = len(probes) >= _FIRST_PROBES and half <= tolerance * abs(value)
    return Estimate(value, error, spent, _PRIOR + len(probes), enough)


def _variance(outside: Estimate, probes: DeflatedProbes) -> float:
    # A sample variance is noisy, and stopping where it happens to be small makes intervals too
    # short. 2 |P H P|_F^2, known far better, bounds the variance; it counts as _PRIOR samples.
    sample = outside.stderr**2 * outside.samples
    bound = 2 * float(probes.squares()[0].mean())
    return (_PRIOR * bound + (outside.samples - 1) * sample) / (_PRIOR + outside.samples - 1)


def probes_needed(estimate: Estimate, tolerance: float) -> int:
    """Number of probes a tolerance needs, estimated from those drawn."""
    if not math.isfinite(estimate.stderr) or estimate.value == 0:
        return _FIRST_PROBES
    spread = estimate.stderr**2 * (estimate.samples - _PRIOR)
    wide = quantile(LEVEL, estimate.samples)
    half = max(abs(tolerance * estimate.value) / wide, _TINY)
    return math.ceil(min(spread / half**2, 1e9))


def _growth_pays(lanczos: Lanczos, estimate: Estimate, missing: int, drawn: int) -> bool:
    # A product takes 2 dF off the variance of each of all probes; one probe less adds a share.
    if not math.isfinite(estimate.stderr) or estimate.value == 0 or missing < 4:
        return False
    tail = slice(-min(4, lanczos.steps), None)
    captured = np.array(lanczos.alpha[tail]) ** 2 + 2 * np.array(lanczos.beta[tail]) ** 2
    spread = estimate.stderr**2 * drawn
    return 2 * float(captured.mean()) * (drawn + missing) > spread
