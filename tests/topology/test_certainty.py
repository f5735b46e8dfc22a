import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import norm, t

from lossatlas import store
from lossatlas.topology import (
    certain_basins,
    graph,
    merge_tree,
    persistence,
    resolution,
    rips,
    simplify,
)
from lossatlas.topology.certainty import sampling_bound
from lossatlas.topology.field import read_field


@dataclass(frozen=True)
class Map:
    """What topology needs of a landscape, and no more."""

    values: np.ndarray
    stderr: np.ndarray
    interpolation_error: float = 0.0
    computed: np.ndarray | None = None
    count: float = np.inf
    rounding: float = 0.0

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
    source = Map(f, stderr, interpolation_error=0.02, computed=np.isfinite(stderr))
    diagram = persistence(source)
    single = norm.isf((1 - 0.95 ** (1 / 25)) / 2)
    assert diagram.threshold == pytest.approx(2 * (0.01 * single + 0.02))
    assert merge_tree(source).threshold == diagram.threshold


@pytest.mark.parametrize("count", [2, 3, 4, 12, 256])
def test_few_units_take_students_t_corrected_over_the_points(count):
    f = double_well(5)
    diagram = persistence(Map(f, np.full(f.shape, 0.01), count=count))
    single = t.isf((1 - 0.95 ** (1 / 25)) / 2, count - 1)
    assert diagram.threshold == pytest.approx(0.02 * single)
    assert diagram.why_unknown == ""


NOISY = np.full((21, 21), 0.01)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (double_well(), "without errors"),
        (Map(double_well(), np.full((21, 21), np.nan)), "441 of 441 values have no standard"),
        (Map(double_well(), np.where(np.eye(21), np.nan, 0.01)), "21 of 441 values"),
        (Map(double_well(), np.ma.masked_equal(np.eye(21), 1)), "21 of 441 values"),
        (Map(double_well(), NOISY, np.nan), "interpolation is unknown"),
        (Map(double_well(), NOISY, np.inf), "interpolation is unknown"),
        (Map(double_well(), NOISY, rounding=np.nan), "rounding is unknown"),
        (Map(double_well(), NOISY, count=0), "number of units"),
        (Map(double_well(), NOISY, count=1), "number of units"),
        (Map(double_well(), 0 * NOISY, count=9), "all units agree"),
        (Map(double_well(), 1e-17 + 0 * NOISY, count=9), "all units agree"),
    ],
)
def test_what_is_unknown_certifies_nothing_and_says_why(source, reason):
    diagram, tree = persistence(source), merge_tree(source)
    for found in (diagram, tree):
        assert reason in found.why_unknown
        assert np.isnan(found.threshold)
        assert found.certain.sum() == 0
    basins = certain_basins(source)
    assert (len(basins), basins.why_unknown) == (0, tree.why_unknown)
    assert len(simplify(tree)) == len(tree)
    assert resolution(source).threshold == pytest.approx(0.01 * np.ptp(double_well()))


def test_the_error_of_an_array_may_be_stated_and_its_rounding_is_added():
    f = np.array([4.0, 0.0, 2.0, 1.5, 3.0])
    for dtype, eps in ((torch.bfloat16, 2.0**-7), (torch.float32, 2.0**-23)):
        rounded = persistence(torch.tensor(f, dtype=dtype), error=0.0)
        assert rounded.threshold == pytest.approx(4.0 * eps)
        assert rounded.certain.tolist() == [True, True]
    assert persistence(np.array([4, 0, 2, 1]), error=0).threshold == 0.0
    assert persistence(f, error=0.25).certain.tolist() == [True, False]
    assert merge_tree(f, error=0.2).certain.tolist() == [True, True]
    # Ripples as high as bfloat16 can tell at this level are none of the field.
    flat = torch.tensor([100.0, 100.5, 100.0, 100.5], dtype=torch.bfloat16)
    assert persistence(flat, error=0.0).certain.sum() == 1


def test_graphs_and_clouds_without_errors_certify_nothing():
    edges = [(0, 1), (1, 2)]
    unknown = persistence(graph([0.0, 2.0, 1.0], edges))
    assert not unknown.certain.any()
    assert "without an error" in unknown.why_unknown
    assert persistence(graph([0.0, 2.0, 1.0], edges, error=0.4)).certain.all()
    assert merge_tree(graph([0.0, 2.0, 1.0], edges, error=0.6)).certain.tolist() == [
        True,
        False,
    ]
    assert rips([[0.0], [1.0]], dimensions=(0,)).why_unknown
    assert not rips([[0.0], [1.0]], dimensions=(0,)).certain.any()


def test_replicates_that_do_not_differ_certify_nothing():
    f = double_well()
    diagram = persistence(f, replicates=np.stack([f] * 19))
    assert "all replicates are equal" in diagram.why_unknown
    assert not diagram.certain.any()


@pytest.mark.parametrize("name", ["diagram", "tree"])
def test_what_is_unknown_survives_the_disk(tmp_path, name):
    result = persistence(double_well()) if name == "diagram" else merge_tree(double_well())
    again = store.load(store.save(result, tmp_path / "result.nc"))
    assert again.why_unknown == result.why_unknown != ""
    assert np.isnan(again.threshold)
    assert not again.certain.any()


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


@pytest.fixture(scope="module")
def study():
    """The study of certainty, beside the pages it writes."""
    folder = Path(__file__).parents[2] / "docs" / "studies" / "certainty"
    found = {}
    for name in ("noise", "measure"):
        spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
        found[name] = importlib.util.module_from_spec(spec)
        sys.modules[name] = found[name]
        spec.loader.exec_module(found[name])
    yield found["measure"]
    for name in found:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("kind", "count", "power"),
    [
        ("independent", 64, 0.9),
        ("smooth", 2, 0.0),
        ("smooth, blurred rim", 64, 0.9),
        ("log-normal times one field", 12, 0.0),
        ("rank one", 2, 0.0),
        ("rank one", 3, 0.0),
        ("rank one", 64, 0.9),
        ("rare holes anywhere", 64, 0.0),
        ("rare holes at four places", 12, 0.0),
        ("rare holes at four places", 64, 0.0),
        ("rare holes, noise a tenth as deep", 64, 0.9),
    ],
)
def test_false_certain_features_are_rare_whatever_the_noise(study, kind, count, power):
    row = study.row(kind, count, maps=40, seed=1)
    for way, shares in row["false"].items():
        # 40 maps: a share of 5 % shows as more than 15 % once in a hundred rows.
        assert max(shares.values()) <= 0.15, way
    assert row["power"]["place by place"] >= power
