"""The density of a spectrum by stochastic Lanczos quadrature, with its spread."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lossatlas.algebra.estimators import Estimate, mean_of
from lossatlas.algebra.krylov import Apply, Lanczos, Ritz
from lossatlas.curvature.trees import part
from lossatlas.rng import generator

Array = NDArray[np.float64]


@part
@dataclass(frozen=True)
class Density:
    """Quadrature nodes and weights of several random probes.

    Attributes:
        nodes: Ritz values, shape (probes, steps), padded with NaN; curvature units.
        weights: shares of the spectrum, same shape, padded with 0; each row sums to 1.
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


def quadrature(
    apply: Apply,
    like: torch.Tensor,
    *,
    probes: int,
    steps: int,
    seed: int,
    first: Sequence[Ritz] = (),
) -> Density:
    """Stochastic Lanczos quadrature.

    Args:
        apply: v -> H v.
        like: a vector of the right size, type and device.
        probes: random starts, those in `first` included.
        steps: products a probe.
        seed: what starts are drawn from.
        first: runs from random starts that are there already.

    Returns:
        Nodes and weights of all probes.

    Source: Ubaru, Chen, Saad, SIAM J. Matrix Anal. Appl. 38 (2017).
    """
    runs = list(first)
    for index in range(len(runs), probes):
        drawn = generator(seed, "density", index, device=like.device)
        start = torch.randn(len(like), generator=drawn, dtype=like.dtype, device=like.device)
        lanczos = Lanczos(apply, start, drawn, partial=True)
        lanczos.extend(steps)
        runs.append(lanczos.ritz())
    longest = max(len(run.values) for run in runs)
    nodes = np.full((len(runs), longest), np.nan)
    weights = np.zeros((len(runs), longest))
    for row, run in enumerate(runs):
        nodes[row, : len(run.values)] = run.values
        weights[row, : len(run.values)] = run.weights
    return Density(nodes, weights, sum(len(run.values) for run in runs))
