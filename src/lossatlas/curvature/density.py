"""The density of a spectrum by stochastic Lanczos quadrature, with its spread."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lossatlas.io.records import record
from lossatlas.linalg.basis import Basis
from lossatlas.linalg.estimators import mean_of
from lossatlas.linalg.krylov import Apply, Ritz, quadrature
from lossatlas.result import Estimate
from lossatlas.rng import generator

Array = NDArray[np.float64]


@record
@dataclass(frozen=True)
class Density:
    """Quadrature nodes and weights of several random probes.

    Attributes:
        nodes: shape (probes, steps), padded with NaN; curvature units. The eigenvalues that
            are known come first in each row. The first row is the run that found them.
        weights: shares of the spectrum, same shape, padded with 0; each row sums to 1. A known
            eigenvalue has 1 / parameters; in the first row one that occurs several times (a
            null space) has the share that it had in that run.
        products: what all probes cost together.
    """

    nodes: Array
    weights: Array
    products: int

    @property
    def grid(self) -> Array:
        """512 points over the spectrum and a tenth of its width on either side."""
        low, high = float(np.nanmin(self.nodes)), float(np.nanmax(self.nodes))
        margin = 0.1 * (high - low) or 0.1 * abs(high) or 1.0
        return np.linspace(low - margin, high + margin, 512)

    @property
    def values(self) -> Array:
        """The density on `grid`, smoothed with a Gaussian of 1 % of the width."""
        return self.on(self.grid)[0]

    @property
    def stderr(self) -> Array:
        """Its standard error over probes; NaN where there is one probe."""
        return self.on(self.grid)[1]

    def on(self, grid: Array, width: float | None = None) -> tuple[Array, Array]:
        """The density smoothed with a Gaussian.

        Args:
            grid: where, curvature units.
            width: standard deviation of the Gaussian; 1 % of the width of the spectrum by
                default.

        Returns:
            (density, standard error over probes), one over curvature units.
        """
        spread = float(np.nanmax(self.nodes) - np.nanmin(self.nodes))
        sigma = width or 0.01 * spread or 0.01 * float(np.nanmax(np.abs(self.nodes))) or 0.01
        nodes = np.nan_to_num(self.nodes)[:, None, :]
        bells = np.exp(-0.5 * ((grid[None, :, None] - nodes) / sigma) ** 2)
        rows = (bells @ self.weights[:, :, None])[:, :, 0] / (sigma * np.sqrt(2 * np.pi))
        if len(rows) < 2:
            return rows[0], np.full(len(grid), np.nan)
        return rows.mean(0), rows.std(0, ddof=1) / np.sqrt(len(rows))

    def mean(self, statistic: Callable[[Array, Array], float]) -> Estimate:
        """A statistic of nodes and weights, averaged over probes.

        Args:
            statistic: (nodes, weights) of one probe -> value.

        Returns:
            Mean and standard error over probes.
        """
        rows = [
            statistic(nodes[np.isfinite(nodes)], weights[np.isfinite(nodes)])
            for nodes, weights in zip(self.nodes, self.weights, strict=True)
        ]
        return mean_of(rows, self.products)

    @property
    def negative_mass(self) -> Estimate:
        """The share of negative eigenvalues in the sum of |eigenvalue|, between 0 and 1."""
        return self.mean(_negative_share)


def _negative_share(nodes: Array, weights: Array) -> float:
    mass = np.abs(nodes) * weights
    return float(mass[nodes < 0].sum() / mass.sum()) if mass.sum() > 0 else 0.0


# A squared normal number is above this once in a thousand draws.
_CHI2_999 = 10.83
# Below this share of 1 / n a node next to a known eigenvalue is rounding.
_ROUNDING = 1e-3


def density_of(
    apply: Apply,
    first: Ritz,
    known: NDArray[np.bool_],
    guards: Basis | None,
    *,
    probes: int,
    steps: int,
    seed: int,
    like: torch.Tensor,
    products: int | None = None,
) -> Density:
    """Stochastic Lanczos quadrature around eigenvalues that are known."""
    atoms, size = first.values[known], len(like)
    runs, products = [], len(first.values) if products is None else products
    for index in range(1, probes if len(atoms) < size else 1):
        drawn = generator(seed, "density", index, device=like.device)
        start = torch.randn(size, generator=drawn, dtype=like.dtype, device=like.device)
        runs.append(quadrature(apply, start, min(steps, size - len(atoms)), guards))
        products += len(runs[-1][0])
    single = known & ~_repeated(first, runs, size)
    rows = [_row(first.values[single], first.values[~single], first.weights[~single], size)]
    rows += [_row(atoms, values, shares, size) for values, shares in runs]
    longest = max(len(row[0]) for row in rows)
    nodes, weights = np.full((len(rows), longest), np.nan), np.zeros((len(rows), longest))
    for index, (values, shares) in enumerate(rows):
        nodes[index, : len(values)], weights[index, : len(values)] = values, shares
    return Density(nodes, weights, products)


def _repeated(first: Ritz, runs: list[tuple[Array, Array]], size: int) -> NDArray[np.bool_]:
    # Nodes that stand for several eigenvalues: their share of a random start is too large for
    # one, or another probe, which started outside their eigenvector, sees the rest.
    repeated = first.weights * size > _CHI2_999
    for values, shares in runs:
        seen = values[shares * size > _ROUNDING]
        for k, (value, bound) in enumerate(zip(first.values, first.bounds, strict=True)):
            repeated[k] |= bool(np.any(np.abs(seen - value) <= bound))
    return np.asarray(repeated)


def _row(atoms: Array, values: Array, shares: Array, size: int) -> tuple[Array, Array]:
    # Single eigenvalues have 1 / n each; the others share out what is left.
    left = 1 - len(atoms) / size
    total = float(shares.sum()) or 1.0
    weights = np.concatenate([np.full(len(atoms), 1 / size), left * shares / total])
    return np.concatenate([atoms, values]), weights
