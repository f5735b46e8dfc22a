"""Both ends of a spectrum: when a Krylov space has converged to them."""

import math

import numpy as np
import torch

from lossatlas.linalg.krylov import Array, Lanczos, Ritz

# A run that stops at a looser residual has often not seen every eigenvalue yet.
_LOOSEST = 1e-2
# Steps after which a fresh start has shown where its spectrum ends, roughly.
_LOOK = 5
# Rows beyond twice the eigenvalues wanted, and the numbers a basis may hold in any case.
_SPARE, _FREELY = 8, 4 * 2**20


def converge(
    lanczos: Lanczos, *, top: int, bottom: int, tolerance: float, limit: int
) -> tuple[Ritz, bool]:
    """Extend a Lanczos run until both ends of the spectrum have converged.

    An eigenvalue at the top has converged if its bound is at most `tolerance` times itself, one
    at the bottom if its bound is at most `tolerance` times the spectral radius (a small
    relative error near zero would cost too much). A tolerance above 0.01 is treated as 0.01.
    Because products are noisy, a bound of eps^(2/3) times the spectral radius (2.4e-5 of it in
    float32) suffices for any: a small eigenvalue cannot be determined better next to a large
    one.

    The bound is the residual: the error is usually much smaller, about its square, but proving
    that would require all eigenvalues. Bounds certify that eigenvalues exist, not that none is
    missing: a run from one random start can stop before it finds one close to others. On small
    networks this happened in about one of 100 runs at the top and one of 50 at the bottom for
    1e-3, and in one of 20 for 0.01.

    Args:
        lanczos: extended in place.
        top: number of largest eigenvalues.
        bottom: number of smallest eigenvalues.
        tolerance: as above.
        limit: maximum number of products. The run restarts when its storage is full.

    Returns:
        The Ritz values, and whether their bounds are within the tolerance as above.

    Raises:
        NonFiniteError: a product is NaN or infinite.
    """
    lanczos.extend(min(max(top + bottom, 1), limit) - lanczos.steps)
    rows = lanczos.storage.rows or lanczos.size
    while True:
        now = lanczos.ritz(bare=True)
        if lanczos.exhausted or _has_converged(lanczos, now, top, bottom, tolerance):
            ritz = lanczos.ritz()
            wanted = _wanted(lanczos, ritz, top, bottom, tolerance)
            reached = within(lanczos, ritz, top=top, bottom=bottom, tolerance=tolerance)
            # Further products lessen residuals, not the noise of products.
            noisy = bool(np.any(ritz.bounds - ritz.residuals > wanted))
            if reached or noisy or lanczos.exhausted:
                return ritz, reached
        if lanczos.products >= limit:
            return lanczos.ritz(), False
        if lanczos.steps >= rows:
            lanczos.restart(
                _restart_values(lanczos, now, top=top, bottom=bottom, tolerance=tolerance)
            )
        # Solving T costs more as it grows; checking less often keeps its share small.
        more = min(1 + lanczos.steps // 40, rows - lanczos.steps)
        if not lanczos.extend_within_memory(min(more, limit - lanczos.products)):
            # The next smaller basis is tried once.
            rows = max(least_rows(top + bottom), lanczos.steps)
            now = lanczos.ritz(bare=True)
            lanczos.restart(
                _restart_values(lanczos, now, top=top, bottom=bottom, tolerance=tolerance)
            )
            lanczos.extend()


def default_rows(size: int, wanted: int) -> int:
    """The size of T at which a run for some eigenvalues restarts."""
    # Restarts at twice what is wanted and more take hardly a product more; what is held in
    # the cache, or would be small anyway, need not restart.
    return max(2 * wanted + _SPARE, _FREELY // max(size, 1))


def least_rows(wanted: int) -> int:
    """The smallest size of T that still goes forward: with the next vector, wanted + 4."""
    return wanted + 3


def _restart_values(
    lanczos: Lanczos, ritz: Ritz, *, top: int, bottom: int, tolerance: float
) -> list[int]:
    # The ends and a few vectors beside them, more as ends are known: they serve what is next.
    converged = ritz.residuals <= _wanted(lanczos, ritz, top, bottom, min(tolerance, _LOOSEST))
    size = len(ritz.values)
    upper, lower = list(range(size))[::-1], list(range(size))
    ends = upper[:top] + lower[:bottom]
    more = 2 + int(converged[ends].sum())
    above = top + (more if not bottom else (more + 1) // 2 if top else 0)
    below = bottom + (more if not top else more // 2 if bottom else 0)
    beside: list[int] = []
    if lanczos.starts[-1]:
        # What the last of several runs has seen tells what can still hide.
        last_run = np.flatnonzero((ritz.vectors[lanczos.starts[-1] :] ** 2).sum(0) > 0.5)
        beside = last_run[[0, -1]].tolist() if len(last_run) else []
    chosen = dict.fromkeys([*ends, *beside, *upper[:above], *lower[:below]])
    return list(chosen)[: max(lanczos.steps - 2, 1)]


def reached_ends(
    lanczos: Lanczos, ritz: Ritz, reached: bool, *, top: int, bottom: int, tolerance: float
) -> tuple[bool, bool]:
    """Which ends of a spectrum are within the tolerance."""
    if reached:
        return True, True
    near = ritz.bounds <= _wanted(lanczos, ritz, top, bottom, tolerance)
    ends = bool(near[max(lanczos.steps - top, 0) :].all()), bool(near[:bottom].all())
    return (False, False) if all(ends) else ends


def within(lanczos: Lanczos, ritz: Ritz, *, top: int, bottom: int, tolerance: float) -> bool:
    """Whether all bounds are within the tolerance."""
    return bool(np.all(ritz.bounds <= _wanted(lanczos, ritz, top, bottom, tolerance)))


def _has_converged(
    lanczos: Lanczos, ritz: Ritz, top: int, bottom: int, tolerance: float
) -> bool:
    wanted = _wanted(lanczos, ritz, top, bottom, min(tolerance, _LOOSEST))
    fresh = len(lanczos.starts) > 1
    enough = bool(np.all(ritz.residuals <= wanted))
    return enough and not (fresh and _hides_more(lanczos, ritz, top, bottom))


def _wanted(lanczos: Lanczos, ritz: Ritz, top: int, bottom: int, tolerance: float) -> Array:
    # The error that each value may have; infinite between the ends.
    radius = float(np.abs(ritz.values).max())
    eps = torch.finfo(lanczos.basis.dtype).eps
    floor = max(eps ** (2 / 3), 100 * eps) * radius
    wanted = np.full(lanczos.steps, np.inf)
    upper = slice(max(lanczos.steps - top, 0), None)
    wanted[upper] = np.maximum(tolerance * np.abs(ritz.values[upper]), floor)
    wanted[:bottom] = np.minimum(wanted[:bottom], max(tolerance * radius, floor))
    return wanted


def _hides_more(lanczos: Lanczos, ritz: Ritz, top: int, bottom: int) -> bool:
    # A run shows every eigenvalue of what the runs before it left, each once. Only copies of
    # what the last one showed can still hide, and they matter beyond what is known.
    *_, before, start = lanczos.starts
    begun = lanczos.steps > start
    last = slice(start, None) if begun else slice(before, start)
    last_run = np.flatnonzero((ritz.vectors[last] ** 2).sum(0) > 0.5)
    if not len(last_run):
        return True
    ends, eps = last_run[[0, -1]], torch.finfo(lanczos.basis.dtype).eps
    if begun and np.all(ritz.residuals[ends] <= math.sqrt(eps) * lanczos.scale):
        return False
    if begun and lanczos.run_products < _LOOK:
        return True
    reach = ritz.residuals[ends] - 100 * eps * lanczos.scale
    low, high = ritz.values[ends] + np.array([-1, 1]) * reach
    above = top > 0 and high > ritz.values[-min(top, lanczos.steps)]
    below = bottom > 0 and low < ritz.values[min(bottom, lanczos.steps) - 1]
    return bool(above or below)
