import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

import lossatlas as la
from lossatlas.errors import ArgumentError, NonFiniteError
from lossatlas.topology import (
    certain_basins,
    merge_tree,
    persistence,
    replicate_maps,
    resolution,
)


@dataclass(frozen=True)
class Map:
    values: np.ndarray
    stderr: np.ndarray
    interpolation_error: float = 0.0
    replicates: np.ndarray | None = None

    @property
    def axes(self):
        return tuple(np.arange(float(n)) for n in self.values.shape)


def wells(points=17, second=0.3):
    """Two wells, the second one higher by `second`; a pass of about 1 between them."""
    x = np.linspace(-1.6, 1.6, points)
    return (x[:, None] ** 2 - 1) ** 2 + x[None, :] ** 2 + second * (1 + x[:, None]) / 2


def losses(rng, count, truth, *, shared=2.0, own=0.3):
    """Examples with a large error that all points share and a rough one, both skewed."""
    smooth = gaussian_filter(rng.standard_normal((count, *truth.shape)), (0, 2, 2), mode="wrap")
    smooth *= own / smooth.std()
    lifted = shared * (rng.exponential(size=(count, 1, 1)) - 1)
    return truth + lifted + smooth * rng.exponential(size=(count, 1, 1))


def test_replicates_have_the_mean_and_covariance_of_the_examples():
    rng = np.random.default_rng(0)
    examples = rng.standard_normal((400, 3)) @ np.array([[1.0, 2, 0], [0, 1, 0], [0, 0, 3]])
    maps = replicate_maps(examples, count=20_000)
    np.testing.assert_allclose(maps.mean(axis=0), examples.mean(axis=0), atol=0.01)
    np.testing.assert_allclose(np.cov(maps.T), np.cov(examples.T) / 400, rtol=0.1, atol=5e-4)


def test_of_few_examples_the_replicates_are_students():
    rng = np.random.default_rng(1)
    hits = []
    for _ in range(400):
        sample = rng.standard_normal((8, 1))
        spread = np.quantile(np.abs(replicate_maps(sample, count=400) - sample.mean()), 0.95)
        hits.append(abs(sample.mean()) <= spread)
    # Normal weights alone would cover 0.91.
    assert np.mean(hits) > 0.94


@pytest.mark.parametrize("count", [16, 256])
def test_thresholds_from_replicates_are_calibrated_on_skewed_shared_examples(count):
    rng, truth = np.random.default_rng(count), wells()
    covered, false, false_basins, found = [], 0, 0, 0
    for seed in range(250):
        examples = losses(rng, count, truth)
        values, maps = examples.mean(axis=0), replicate_maps(examples, count=99, seed=seed)
        rule = {"replicates": maps, "units": count, "min_share": None}
        diagram = persistence(values, **rule)
        covered.append(np.ptp(values - truth) <= diagram.threshold)
        basins = (diagram.dimensions[diagram.certain] == 0).sum()
        false += basins > 2 or (diagram.dimensions[diagram.certain] == 1).any()
        false_basins += len(certain_basins(values, **rule)) > 2
        found += basins == 2
    # 0.95 less three standard errors of 250 runs.
    assert np.mean(covered) >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / 250)
    assert false <= 12
    assert false_basins <= 12
    assert found == 250 or count == 16


def test_a_shared_error_hides_nothing():
    rng, truth = np.random.default_rng(7), wells(second=0.9)
    examples = losses(rng, 256, truth, shared=20.0, own=0.1)
    values, stderr = examples.mean(axis=0), examples.std(axis=0) / 16
    maps = replicate_maps(examples)
    plain, paired = Map(values, stderr), Map(values, stderr, replicates=maps)
    assert persistence(plain).threshold > 50 * persistence(paired).threshold
    assert len(certain_basins(plain)) == 1
    assert len(certain_basins(paired)) == persistence(paired).certain.sum() == 2
    assert merge_tree(paired).threshold == persistence(paired).threshold
    assert (
        merge_tree(values, replicates=maps, units=256).threshold
        == persistence(paired).threshold
    )
    assert resolution(paired, floor=0.0).threshold == persistence(paired).threshold
    hills = persistence(paired, superlevel=True)
    assert hills.threshold == pytest.approx(persistence(paired).threshold)


@given(st.floats(-50, 50), st.integers(0, 10**6))
def test_a_common_shift_of_each_replicate_changes_nothing(shift, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 9, (4, 5)) * 1.0
    maps = values + 0.3 * rng.standard_normal((19, 4, 5))
    moved = maps + shift * rng.standard_normal((19, 1, 1))
    assert persistence(values, replicates=moved, units=200).threshold == pytest.approx(
        persistence(values, replicates=maps, units=200).threshold
    )
    a, b = (certain_basins(values, replicates=m, units=200) for m in (maps, moved))
    np.testing.assert_allclose(a.births, b.births, atol=1e-9)
    assert a.minima.tolist() == b.minima.tolist()


def test_interpolation_counts_twice_and_walls_do_not_count():
    values = np.array([0.0, 2.0, np.nan, 1.0])
    maps = np.where(np.isnan(values), 7.0, values) + np.zeros((19, 1))
    maps[:, 0] += 0.1
    source = Map(values, np.full(4, np.nan), interpolation_error=0.5, replicates=maps)
    assert persistence(source).threshold == pytest.approx(1.1)


def test_bad_replicates_are_named():
    values = np.arange(6.0).reshape(2, 3)
    with pytest.raises(ArgumentError, match=r"\(count, 2, 3\); got \(19, 3, 2\)"):
        persistence(values, replicates=np.ones((19, 3, 2)))
    with pytest.raises(ArgumentError, match="at least 19 for a confidence"):
        merge_tree(values, replicates=np.ones((18, 2, 3)))
    with pytest.raises(NonFiniteError, match="got 6 points"):
        certain_basins(values, replicates=np.full((19, 2, 3), np.nan))
    for bad in (np.ones((7, 4)), np.ones(4)):
        with pytest.raises(ArgumentError, match="at least 8 examples"):
            replicate_maps(bad)
    with pytest.raises(ArgumentError, match="count"):
        replicate_maps(np.ones((9, 4)), count=0)
    with pytest.raises(ArgumentError, match="seed"):
        replicate_maps(np.ones((9, 4)), seed=-1)


def test_the_guide_from_an_objective_to_a_sharper_threshold():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(128, 3, generator=draw), torch.randint(0, 2, (128,), generator=draw)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
    objective = la.Objective(model, la.supervised(F.cross_entropy), [(x, y)])
    plane = la.random_plane(objective, seed=0)
    land = la.map_plane(objective, plane, span=0.2, points=5)
    points = [plane.point(at) for at in itertools.product(*land.axes)]
    losses = torch.stack([objective.example_losses(p) for p in points], dim=1)
    losses = losses.reshape(-1, *land.values.shape)
    np.testing.assert_allclose(losses.mean(0), land.values, rtol=1e-5)
    bars = la.persistence(losses.mean(0), replicates=replicate_maps(losses), units=128)
    assert 0 < bars.threshold < la.persistence(land).threshold / 2
