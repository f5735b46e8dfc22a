from dataclasses import dataclass

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import norm

from lossatlas.topology import merge_tree, persistence
from lossatlas.topology.certainty import sampling_bound
from lossatlas.topology.field import read_field


@dataclass(frozen=True)
class Map:
    """What topology needs of a landscape, and no more."""

    values: np.ndarray
    stderr: np.ndarray
    interpolation_error: float = 0.0

    @property
    def axes(self):
        return tuple(np.arange(float(n)) for n in self.values.shape)


def double_well(points=21, depth=1.0):
    x = np.linspace(-1.6, 1.6, points)
    return (x[:, None] ** 2 - 1) ** 2 * depth + x[None, :] ** 2 + 0.05 * x[:, None]


def test_threshold_is_twice_the_simultaneous_bound_plus_interpolation():
    f = double_well(5)
    stderr = np.full(f.shape, 0.01)
    stderr[0, 0] = np.nan
    diagram = persistence(Map(f, stderr, interpolation_error=0.02))
    single = norm.isf((1 - 0.95 ** (1 / 25)) / 2)
    assert diagram.threshold == pytest.approx(2 * (0.01 * single + 0.02))
    assert merge_tree(Map(f, stderr, 0.02)).threshold == diagram.threshold


def test_without_errors_the_threshold_is_zero_and_every_bar_is_certain():
    f = double_well()
    for source in (f, Map(f, np.full(f.shape, np.nan))):
        diagram = persistence(source)
        assert diagram.threshold == 0.0
        assert diagram.certain.all()


def test_walls_do_not_lend_their_error():
    f = double_well(5)
    f[0, 0] = np.inf
    stderr = np.full(f.shape, 0.01)
    stderr[0, 0] = 1e6
    assert persistence(Map(f, stderr)).threshold < 0.1


def test_the_bound_holds_at_every_point_as_often_as_it_says():
    rng = np.random.default_rng(0)
    stderr = np.full((20, 20), 1.0)
    bound = sampling_bound(read_field(Map(np.zeros((20, 20)), stderr)))
    worst = np.abs(rng.standard_normal((2000, 400))).max(axis=1)
    # Independent errors are where Sidak's bound is exact; 0.95 within four standard errors.
    assert abs(np.mean(worst <= bound) - 0.95) < 0.02


@pytest.mark.parametrize("smooth", [0, 2])
def test_false_certain_bars_are_rare_and_the_true_ones_are_found(smooth):
    rng = np.random.default_rng(smooth)
    truth, noise = double_well(), 0.05
    false = missed = 0
    for _ in range(250):
        error = rng.standard_normal(truth.shape)
        error = gaussian_filter(error, smooth, mode="wrap") if smooth else error
        error *= noise / (np.std(error) if smooth else 1.0)
        diagram = persistence(Map(truth + error, np.full(truth.shape, noise)))
        certain = [(diagram.dimensions[diagram.certain] == k).sum() for k in (0, 1)]
        false += certain[0] > 2 or certain[1] > 0
        missed += certain[0] < 2
    # 250 maps a kind of noise: at most one in twenty may show a bar that is not there.
    assert false <= 12
    assert missed == 0
