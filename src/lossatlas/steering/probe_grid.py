"""The patch of ground that a probe samples: points on a plane, in antithetic pairs."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossatlas.checks import check_at_least, check_positive
from lossatlas.rng import derive_seed
from lossatlas.topology.filtration import graph
from lossatlas.topology.persistence import persistence

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ProbeGrid:
    """Where a probe looks: the center, a ring of eight neighbors, and pairs farther out.

    Every point but the center has its mirror image in the patch, so that slopes cancel from
    the mean exactly. The points are the same at every reading.

    Attributes:
        step: distance of the neighbors along each axis, in lengths of the weights' filters.
            Default 0.0171, that of topoadamw 0.1.0.
        span: the points farther out lie in [-span, span]^2. Default 0.12.
        pairs: how many pairs of them. Default 4.
        seed: of those points and of the directions.

    Raises:
        ArgumentError: numbers out of range.
    """

    step: float = 2 * 0.12 / 14
    span: float = 0.12
    pairs: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive("step", self.step)
        check_positive("span", self.span)
        check_at_least("pairs", self.pairs, 0)
        check_at_least("seed", self.seed, 0)

    @cached_property
    def points(self) -> Array:
        """Coordinates on the plane, shape (9 + 2 pairs, 2): center, ring, pairs.

        Mirror images follow each other from the second point on.
        """
        half = self.step * np.array([(1, 0), (1, 1), (0, 1), (-1, 1)], dtype=np.float64)
        drawn = np.random.default_rng(derive_seed(self.seed, "patch"))
        far = drawn.uniform(-self.span, self.span, (self.pairs, 2))
        sides = np.concatenate([half, far])
        mirrored = np.stack([sides, -sides], axis=1).reshape(-1, 2)
        return np.concatenate([np.zeros((1, 2)), mirrored])

    @property
    def ring(self) -> slice:
        """The neighbors among the points."""
        return slice(1, 9)

    @cached_property
    def edges(self) -> Any:
        """Pairs of points that touch: the triangulation of the patch, shape (edges, 2)."""
        from scipy.spatial import Delaunay

        found = Delaunay(self.points).simplices
        sides = np.concatenate([found[:, [0, 1]], found[:, [1, 2]], found[:, [0, 2]]])
        return np.unique(np.sort(sides, axis=1), axis=0)


@dataclass(frozen=True)
class PatchReading:
    """The indicators of a patch with their standard errors; see `Reading`."""

    loss: float
    loss_error: float
    sharpness: float
    sharpness_error: float
    variability: float
    variability_error: float
    persistence: float
    persistence_error: float
    bars: int


def read_patch(patch: ProbeGrid, losses: Array) -> PatchReading:
    """The indicators of the losses at the points of a patch."""
    means = losses.mean(1) if losses.ndim == 2 else losses
    nan = float("nan")
    if not np.isfinite(means).all():
        return PatchReading(float(means[0]), nan, nan, nan, nan, nan, nan, nan, 0)
    bars = persistence(graph(means, patch.edges)).bars()
    lengths = bars[:, 1] - bars[:, 0]
    if losses.ndim == 1 or losses.shape[1] < 2:
        (loss, sharp, rough, total), each = _jackknife(means), np.full(len(bars), np.inf)
    else:
        (loss, sharp, rough, total), each = _sampling(means, losses, bars)
    return PatchReading(
        loss=float(means[0]),
        loss_error=float(loss),
        sharpness=_sharpness(means),
        sharpness_error=float(sharp),
        variability=_variability(means),
        variability_error=float(rough),
        persistence=float(lengths.sum()),
        # Where no bar was seen nothing is known of the bars of other samples.
        persistence_error=float(total) if len(bars) else nan,
        bars=int(np.count_nonzero(lengths > 2 * each)),
    )


def _sharpness(means: Array) -> float:
    return float((means[1:9].mean() - means[0]) / (means[0] + 1e-8))


def _variability(means: Array) -> float:
    return float(means.std() / (means.mean() + 1e-8))


def _jackknife(means: Array) -> Array:
    count = (len(means) - 1) // 2
    left = []
    for pair in range(count):
        kept = np.delete(means, [1 + 2 * pair, 2 + 2 * pair])
        ring = kept[1 : 7 if pair < 4 else 9]
        sharp = (ring.mean() - kept[0]) / (kept[0] + 1e-8)
        left.append([sharp if pair < 4 else np.nan, _variability(kept)])
    table = np.array(left)

    def error(column: Array) -> float:
        n = len(column)
        return float(np.sqrt((n - 1) / n * ((column - column.mean()) ** 2).sum()))

    return np.array([np.nan, error(table[:4, 0]), error(table[:, 1]), np.nan])


def _sampling(means: Array, losses: Array, pairs: Array) -> tuple[Array, Array]:
    # Each indicator's first-order response to one example's losses, then its spread.
    examples = losses.shape[1]
    center, mean, deviation = means[0] + 1e-8, means.mean() + 1e-8, means.std()
    sharp = (losses[1:9].mean(0) - losses[0]) / center
    sharp -= _sharpness(means) / center * losses[0]
    rough = np.zeros(examples)
    if deviation > 0:
        weights = (means - means.mean()) / (len(means) * deviation)
        rough = (weights @ losses - _variability(means) * losses.mean(0)) / mean
    # A bar ends and begins at points of the patch, whose losses its length is made of.
    births, deaths = (np.abs(means[:, None] - pairs[:, i]).argmin(0) for i in (0, 1))
    lengths = losses[deaths] - losses[births]
    responses = np.stack([losses[0], sharp, rough, lengths.sum(0)])
    errors = responses.std(1, ddof=1) / np.sqrt(examples)
    return errors, lengths.std(1, ddof=1) / np.sqrt(examples)
