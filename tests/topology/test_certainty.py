import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import norm, t

from lossatlas import io
from lossatlas.errors import ArgumentError
from lossatlas.topology import (
    certain_basins,
    graph,
    merge_tree,
    persistence,
    replicate_maps,
    resolution,
    rips,
    simplify,
)
from lossatlas.topology.certainty import (
    MIN_SHARE,
    rarest_share,
    sampling_bound,
    why_too_few,
)
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
    diagram = persistence(Map(f, np.full(f.shape, 0.01), count=count), min_share=None)
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
        (Map(double_well(), 1e-15 + 0 * NOISY, count=119), "all units agree"),
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
    again = io.load(io.save(result, tmp_path / "result.nc"))
    assert again.why_unknown == result.why_unknown != ""
    assert np.isnan(again.threshold)
    assert not again.certain.any()


def fewest_that_hold(share, missed=0.05):
    """Count up until a sample of so many holds none of the share rarely enough."""
    units, none = 0, 1.0
    while none > missed:
        units, none = units + 1, none * (1 - share)
    return units


@pytest.mark.parametrize("share", [0.5, 0.1, 0.03, 0.025, 0.001])
@pytest.mark.parametrize("confidence", [0.95, 0.5])
def test_a_sample_certifies_from_the_number_that_holds_the_share(share, confidence):
    need = fewest_that_hold(share, 1 - confidence)
    assert not why_too_few(need, confidence, share)
    reason = why_too_few(need - 1, confidence, share)
    assert need == 1 or f"takes {need:,};" in reason
    assert rarest_share(need, confidence) <= share
    assert need == 1 or share < rarest_share(need - 1, confidence)


def test_the_rarest_share_is_missed_as_often_as_it_says():
    rng = np.random.default_rng(0)
    none = rng.binomial(60, rarest_share(60), 20_000) == 0
    assert abs(none.mean() - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 20_000)


ASK = (persistence, merge_tree, certain_basins)


@pytest.mark.parametrize("ask", ASK)
def test_too_few_units_certify_nothing_unless_rare_effects_are_ruled_out(ask):
    # (units, options, certain)
    cases = [
        (118, {}, False),
        (119, {}, True),
        (99, {"min_share": 0.03}, True),
        (98, {"min_share": 0.03}, False),
        (60, {"confidence": 0.8}, False),
        (64, {"confidence": 0.8}, True),
        (12, {"min_share": None}, True),
        (12, {"min_share": 0}, True),
        (np.inf, {}, True),
    ]
    for units, options, certain in cases:
        found = ask(Map(double_well(), 0.0001 + 0 * NOISY, count=units), **options)
        assert bool(found.why_unknown) != certain
        assert certain or "too few examples to certify" in found.why_unknown
        sure = len(found) if ask is certain_basins else found.certain.sum()
        assert (sure > 0) == certain
        level = 1 - options.get("confidence", 0.95)
        assert found.rarest_share == pytest.approx(1 - level ** (1 / units))


@pytest.mark.parametrize("ask", ASK)
def test_replicates_of_an_array_say_how_many_units_they_come_from(ask):
    examples = double_well() + 0.01 * np.random.default_rng(0).standard_normal((119, 21, 21))
    maps = replicate_maps(examples, count=99)
    unknown = ask(examples.mean(0), replicates=maps)
    assert "state it as `units`" in unknown.why_unknown
    assert np.isnan(unknown.rarest_share)
    assert not ask(examples.mean(0), replicates=maps, units=119).why_unknown
    assert not ask(examples.mean(0), replicates=maps, min_share=None).why_unknown
    # A landscape brings its own number.
    source = Map(examples.mean(0), NOISY, count=119)
    assert not ask(source, replicates=maps).why_unknown
    assert ask(source, replicates=maps, units=12).why_unknown
    for bad in (1, 2.5, True, -3):
        with pytest.raises(ArgumentError, match="units"):
            ask(examples.mean(0), replicates=maps, units=bad)
    with pytest.raises(ArgumentError, match="behind `replicates`"):
        ask(examples.mean(0), units=119)


@pytest.mark.parametrize("share", [-0.1, 1.0, np.nan, "few", True])
def test_a_share_that_is_none_is_named(share):
    for ask in ASK:
        with pytest.raises(ArgumentError, match="min_share"):
            ask(double_well(), error=0.1, min_share=share)


def test_what_was_not_sampled_misses_nothing(tmp_path):
    assert persistence(double_well(), error=0.1).rarest_share == 0.0
    assert persistence(graph([0.0, 2.0], [(0, 1)], error=0.4)).rarest_share == 0.0
    assert np.isnan(persistence(double_well()).rarest_share)
    assert np.isnan(certain_basins(double_well()).rarest_share)
    assert np.isnan(rips([[0.0], [1.0]], dimensions=(0,)).rarest_share)
    for ask in (persistence, merge_tree):
        made = ask(Map(double_well(), NOISY, count=200))
        again = io.load(io.save(made, tmp_path / "result.nc"))
        assert again.rarest_share == made.rarest_share == pytest.approx(0.0149, abs=1e-4)


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
        ("log-normal times one field", 8, 0.0),
        ("log-normal times one field", 12, 0.0),
        ("the same, negative", 8, 0.0),
        ("Weibull times one field, negative", 8, 0.0),
        ("squares times one field, negative", 12, 0.0),
        ("two points times one field", 16, 0.0),
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


HOLES = "rare holes, noise a thousandth as deep"


def test_effects_too_rare_to_be_drawn_certify_nothing_by_default(study):
    default = {"maps": 40, "seed": 2, "min_share": MIN_SHARE}
    few = study.row(HOLES, 64, **default)
    assert {share for shares in few["false"].values() for share in shares.values()} == {0.0}
    # The smallest number that certifies: 2.7 % of the maps hold no hole.
    for way, shares in study.row(HOLES, 119, **default)["false"].items():
        assert max(shares.values()) <= 0.15, way
    # Without the rule most maps of 12 drew no hole, and show hills that are not there.
    blind = study.row(HOLES, 12, maps=20, seed=2)
    assert max(blind["false"]["threshold"].values()) > 0.4


@pytest.mark.parametrize("count", [3, 64, 119, 1000])
def test_equal_units_show_no_spread_however_their_sum_is_rounded(study, count):
    # A bumpy field that all examples share: its mean is rounded anew by every one of them.
    field = 0.1 * np.random.default_rng(count).standard_normal((15, 15))
    found = study.made(np.zeros((15, 15)), np.repeat(field[None], count, axis=0))
    for ask in ASK:
        assert "all units agree" in ask(found, min_share=None).why_unknown
