import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation, minimum_filter

from lossatlas.landscape.adaptive import FACTOR, first_points, refine
from lossatlas.landscape.interpolant import interpolate


def himmelblau(x, y):
    return (x * x + y - 11) ** 2 + (x + y * y - 7) ** 2


def refined(function, points=81, reach=5.0, dimension=2, tolerance=0.002, seed=0):
    """The refined map, the full map, and how many points the former asked for."""
    line = np.linspace(-reach, reach, points)
    asked = []

    def evaluate(places):
        asked.append(places)
        values = function(*line[places].T)
        return np.stack([values, np.ones(len(places))], 1)

    def target(known):
        finite = known[np.isfinite(known[:, 0]), 0]
        return tolerance * np.ptp(finite)

    found = refine(evaluate, (points,) * dimension, 2, target, seed=seed)
    full = function(*np.meshgrid(*[line] * dimension, indexing="ij"))
    every = np.concatenate(asked)
    assert len(np.unique(every, axis=0)) == len(every)
    assert found.computed.sum() == len(every)
    return found, full


@pytest.mark.parametrize(
    ("function", "reach", "share"),
    [
        (himmelblau, 5.0, 0.03),
        (lambda x, y: (x * x - 1) ** 2 + y * y, 2.0, 0.03),
        (lambda x, y: np.exp(np.abs(x) + y), 3.0, 0.2),
        (lambda x, y: 1 / (1 + 20 * (x * x + y * y)), 5.0, 0.35),
        (lambda x, y: np.abs(x) + np.abs(y - 0.3), 5.0, 0.5),
    ],
    ids=["himmelblau", "double well", "kinked wall", "spike", "two kinks"],
)
def test_the_map_is_right_where_it_was_not_computed(function, reach, share):
    found, full = refined(function, reach=reach)
    errors = np.abs(found.values[..., 0] - full)[~found.computed] / np.ptp(full)
    assert np.sqrt(np.mean(errors**2)) < 0.002
    assert found.rms / np.ptp(full) < 0.002
    assert errors.max() <= found.error / np.ptp(full) < 0.008
    assert found.computed.mean() < share
    assert found.held_out == found.computed.sum()
    np.testing.assert_array_equal(
        found.values[..., 0][found.computed], full[found.computed], strict=True
    )


def test_walls_are_computed_and_never_crossed():
    found, full = refined(lambda x, y: np.where(x + y > 6, np.nan, x * x + y * y))
    values = found.values[..., 0]
    np.testing.assert_array_equal(np.isfinite(values), np.isfinite(full))
    assert found.computed[~np.isfinite(full)].all()
    assert np.nanmax(np.abs(values - full)) < 0.016 * np.nanmax(full)
    assert found.computed.mean() < 0.5


def test_noise_is_computed_point_by_point():
    noise = np.random.default_rng(0).normal(size=(31, 31))
    rows = lambda x: np.round((x + 5) * 3).astype(int)  # noqa: E731
    found, full = refined(lambda x, y: noise[rows(x), rows(y)], points=31)
    assert found.computed.all()
    assert found.rough
    assert found.error == 0
    np.testing.assert_array_equal(found.values[..., 0], full)


def test_a_flat_map_is_flat_and_cheap():
    found, _ = refined(lambda x, y: 0 * x + 3.0)
    np.testing.assert_allclose(found.values[..., 0], 3.0)
    assert found.computed.sum() <= 100
    assert found.error < 1e-8


@given(st.integers(2, 40), st.integers(1, 3))
def test_every_size_and_dimension_is_filled(points, dimension):
    points = min(points, 12) if dimension == 3 else points
    found, full = refined(lambda *x: sum(c**2 for c in x), points=points, dimension=dimension)
    assert np.abs(found.values[..., 0] - full).max() <= 0.016 * np.ptp(full) + 1e-9


def test_smooth_ground_takes_fewer_points_than_splines_would_need():
    found, full = refined(lambda x, y: np.exp(0.5 * x + 0.2 * y) + np.cos(x * y / 3))
    assert found.computed.mean() < 0.06
    error = np.abs(found.values[..., 0] - full).max() / np.ptp(full)
    assert error < 0.008


def ripples(x, y):
    return 0.5 * np.sin(5 * np.pi * x) ** 2 * np.sin(5 * np.pi * y) ** 2 + 3 * (x * x + y * y)


def thin_wall(x, y):
    return 3 * np.exp(-(((x - 0.13) / 0.015) ** 2) / 2) + 3 * (x * x + y * y)


def lost_stripe(x, y):
    return np.where(np.abs(x - 0.31) <= 0.02, np.nan, x * x + y * y)


@pytest.mark.parametrize("points", [21, 41])
@pytest.mark.parametrize("function", [ripples, thin_wall, lost_stripe])
def test_what_lies_between_the_nodes_of_a_coarse_lattice_is_found_by_every_seed(
    function, points
):
    for seed in range(6):
        found, full = refined(function, points=points, reach=1.0, seed=seed)
        values = found.values[..., 0]
        np.testing.assert_array_equal(np.isfinite(values), np.isfinite(full))
        off = np.nanmax(np.abs(values - full))
        assert off <= found.error
        assert off < 0.008 * np.ptp(full[np.isfinite(full)])


@pytest.mark.parametrize("points", [31, 41, 61, 101, 201])
@pytest.mark.parametrize("lost", [np.nan, np.inf])
def test_stripes_of_four_percent_of_a_line_are_found_wherever_they_lie(points, lost):
    random = np.random.default_rng(points)
    for seed in range(40):
        width = random.uniform(0.08, 0.3)
        at = random.uniform(-1 + width / 2, 1 - width / 2)

        def loss(x, at=at, half=width / 2):
            return np.where(np.abs(x - at) <= half, lost, np.cos(2 * x) + x)

        found, full = refined(loss, points=points, reach=1.0, dimension=1, seed=seed)
        values = found.values[..., 0]
        finite = np.isfinite(full)
        np.testing.assert_array_equal(np.isfinite(values), finite)
        assert np.abs(values[finite] - full[finite]).max() <= found.error
        # The last finite point on either side is computed, not interpolated.
        edges = np.flatnonzero(np.diff(finite))
        assert found.computed[edges].all()
        assert found.computed[edges + 1].all()


@pytest.mark.parametrize("points", [31, 61, 101, 201])
def test_walls_of_four_percent_of_a_line_are_found_wherever_they_lie(points):
    random = np.random.default_rng(points)
    for seed in range(40):
        at, height = random.uniform(-0.95, 0.95), random.uniform(0.5, 5)

        def loss(x, at=at, height=height):
            return 3 * x * x + height * np.exp(-(((x - at) / 0.034) ** 2) / 2)

        found, full = refined(loss, points=points, reach=1.0, dimension=1, seed=seed)
        assert np.abs(found.values[..., 0] - full).max() <= found.error + 1e-12


@pytest.mark.parametrize("reach", [1.0, 4.0])
def test_the_edge_of_a_region_without_finite_losses_is_computed(reach):
    for seed in range(5):
        found, full = refined(
            lambda x, y: np.where(x * x + 3 * y * y + x * y > 0.6, np.nan, np.exp(x - y)),
            points=41,
            reach=reach,
            seed=seed,
        )
        lost = ~np.isfinite(full)
        np.testing.assert_array_equal(~np.isfinite(found.values[..., 0]), lost)
        assert found.computed[binary_dilation(lost, np.ones((3, 3)))].all()


def test_a_smooth_line_takes_no_more_points_than_a_plane():
    counts = {
        points: refined(np.exp, points=points, reach=1.0, dimension=1)[0].computed.sum()
        for points in (31, 41, 101, 201, 1001)
    }
    assert counts == {31: 31, 41: 41, 101: 54, 201: 54, 1001: 54}


@given(points=st.integers(3, 400), seed=st.integers(0, 9))
@example(points=55, seed=0)
@example(points=67, seed=0)
@example(points=68, seed=0)
def test_the_first_points_leave_no_gap_of_three_percent_of_a_line(points, seed):
    gaps = np.diff(np.flatnonzero(first_points((points,), seed)))
    assert gaps.max() <= max(1, 0.03 * (points - 1))


@pytest.mark.parametrize("dimension", [2, 3])
@given(points=st.integers(2, 140), seed=st.integers(0, 9))
@settings(max_examples=25)
def test_the_first_points_leave_no_stripe_out(dimension, points, seed):
    points = min(points, 40) if dimension == 3 else points
    mask = first_points((points,) * dimension, seed)
    widest = max(1, int(0.02 * (points - 1)))
    for axis in range(dimension):
        others = tuple(k for k in range(dimension) if k != axis)
        empty = np.flatnonzero(~mask.any(axis=others))
        in_a_row = max(map(len, np.split(empty, np.flatnonzero(np.diff(empty) > 1) + 1)))
        assert in_a_row < widest
    assert mask[(0,) * dimension]
    assert mask[(-1,) * dimension]


def test_a_smooth_map_takes_no_more_than_sixty_points_and_its_minima():
    for points in (21, 41):
        found = refined(himmelblau, points=points)[0]
        minima = local_minima(found.values[..., 0])
        assert found.computed.sum() - np.count_nonzero(minima) <= 60


def local_minima(values):
    lowest = minimum_filter(values, 3, mode="constant", cval=np.inf)
    return (values == lowest) & np.isfinite(values)


@pytest.mark.parametrize("kind", "fpgk")
@pytest.mark.parametrize("dimension", [1, 2])
def test_minima_and_extremes_are_computed_points(kind, dimension):
    random = np.random.default_rng(dimension)
    for _ in range(6):
        function = random_surface(kind, random, dimension)
        found, full = refined(function, points=41, reach=1.0, dimension=dimension)
        values = found.values[..., 0]
        assert found.computed[local_minima(values)].all()
        for extreme in (values.min(), values.max()):
            np.testing.assert_array_equal(full[values == extreme], extreme)


def test_a_minimum_of_the_interpolant_that_is_none_is_gone():
    # A funnel between two lattice points: the interpolant overshoots below it.
    for slope in (1.0, 4.0, 16.0):
        found, full = refined(
            lambda x, y, s=slope: np.log1p(s * s * (x * x + y * y)), points=31, reach=2.0
        )
        assert found.values[..., 0].min() == full.min()


def test_what_is_known_better_is_interpolated_better():
    line = np.linspace(-1, 1, 41)

    def evaluate(places):
        x, y = line[places].T
        loss = np.exp(3 * (x * x + y * y)) + 0.2 * np.cos(9 * x) * np.cos(9 * y)
        return np.stack([loss, 0.05 * loss], 1)

    def tolerance(known):
        return 0.0001 * np.ptp(known[:, 0])

    rough, fine = (
        refine(evaluate, (41, 41), 2, tolerance, noise=noise)
        for noise in (lambda values: np.full((41, 41), 5.0), lambda values: values[..., 1] / 2)
    )
    center = (slice(15, 26), slice(15, 26))
    assert rough.doubt[center].max() > 2 * fine.doubt[center].max()
    assert fine.doubt[center].max() <= 0.06
    assert not fine.doubt[fine.computed].any()


def test_an_unknown_error_is_interpolated_around_and_does_not_disturb_the_loss():
    line = np.linspace(-1, 1, 41)

    def loss(x, y):
        return x * x + y * y - np.exp(-((x - 0.3) ** 2 + (y + 0.2) ** 2) / 2 / 0.08**2)

    def evaluate(places, *, errors):
        x, y = line[places].T
        return np.stack([loss(x, y), errors(x)], 1)

    def target(known):
        return 0.002 * np.ptp(known[:, 0])

    maps = [
        refine(lambda places, e=errors: evaluate(places, errors=e), (41, 41), 2, target)
        for errors in (
            lambda x: np.full(len(x), np.nan),
            lambda x: np.where(x > 0, np.nan, 1 + x),
            lambda x: 1 + x,
        )
    ]
    full = loss(*np.meshgrid(line, line, indexing="ij"))
    for found in maps:
        assert not found.computed.all()
        np.testing.assert_array_equal(found.computed, maps[2].computed)
        np.testing.assert_allclose(found.values[..., 0], maps[2].values[..., 0], rtol=1e-8)
        assert np.abs(found.values[..., 0] - full).max() <= found.error < 0.008 * np.ptp(full)
    assert np.isnan(maps[0].values[..., 1]).all()
    assert np.isfinite(maps[1].values[:15, :, 1]).all()
    assert np.isnan(maps[1].values[26:, :, 1]).all()


def test_a_tolerance_that_is_unknown_certifies_nothing():
    found = refine(
        lambda places: places.sum(1, keepdims=True) * 1.0, (15, 15), 1, lambda known: np.nan
    )
    assert found.computed.all()
    assert found.rough


def test_the_surface_is_the_one_that_is_scored():
    # Recompute the stated error from the surface that was returned, and nothing else.
    found, _ = refined(lambda x, y: np.exp(x) + np.cos(x * y / 3))
    again = interpolate(found.computed, found.values)
    np.testing.assert_array_equal(again.values, found.values)
    assert found.error == FACTOR[2] * again.doubt.max()
    assert found.rms == np.sqrt(np.mean(again.doubt[~found.computed] ** 2))


def test_the_same_seed_asks_for_the_same_points():
    one, two, other = (refined(himmelblau, points=31, seed=seed)[0] for seed in (3, 3, 4))
    assert one.values.tobytes() == two.values.tobytes()
    assert (one.computed != other.computed).any()


@pytest.mark.parametrize(
    ("names", "dimension", "count"), [("fig", 2, 6), ("fp", 1, 12), ("f", 3, 2)]
)
def test_the_true_largest_error_is_below_the_stated_one(names, dimension, count):
    """A small edition of docs/studies/maps: 19 of 20 random surfaces and more."""
    random = np.random.default_rng(dimension)
    held = []
    for kind in names:
        for _ in range(count):
            function = random_surface(kind, random, dimension)
            points = int(random.integers(21, 36)) if dimension < 3 else 11
            found, full = refined(function, points=points, reach=1.0, dimension=dimension)
            held.append(np.abs(found.values[..., 0] - full).max() <= found.error)
    assert np.mean(held) >= 0.95


def random_surface(kind, random, dimension):
    normals, offsets = random.normal(size=(40, dimension)), random.uniform(-3, 3, 40)
    scale, sizes = random.uniform(0.5, 3), random.normal(size=40)

    def surface(*x):
        along = [sum(c * u for c, u in zip(x, n, strict=True)) for n in normals]
        if kind == "f":  # a random field
            return sum(
                s * np.cos(scale * a + o) for s, a, o in zip(sizes, along, offsets, strict=True)
            )
        if kind == "p":  # polynomials
            return sum(s * a**k for k, (s, a) in enumerate(zip(sizes[:5], along, strict=False)))
        if kind == "g":  # Gaussian wells on a bowl
            center = normals[0] / (1 + np.abs(normals[0]).max())
            far = sum((c - m) ** 2 for c, m in zip(x, center, strict=True))
            return sum(c * c for c in x) - sizes[0] * np.exp(-far * (1 + scale) ** 2)
        return np.max([a + o / 4 for a, o in zip(along[:5], offsets, strict=False)], axis=0)

    return surface


def test_columns_that_are_exact_are_known_at_computed_points_only():
    line = np.linspace(-1, 1, 31)

    def evaluate(places):
        x, y = line[places].T
        return np.stack([x * x + y * y, np.exp(x), x + y], 1)

    def target(known):
        return 0.002 * np.ptp(known[:, 0])

    whole, part = (refine(evaluate, (31, 31), 3, target, exact=count) for count in (0, 1))
    np.testing.assert_array_equal(part.computed, whole.computed)
    np.testing.assert_allclose(part.values[..., :2], whole.values[..., :2], rtol=1e-9)
    np.testing.assert_array_equal(np.isnan(part.values[..., 2]), ~part.computed)
    np.testing.assert_array_equal(
        part.values[part.computed][:, 2], whole.values[whole.computed][:, 2]
    )


@pytest.mark.parametrize("height", [1.0, 1e8, 4e14])
def test_no_interpolated_loss_is_below_all_that_were_computed(height):
    def ruined(x, y):
        # A cross-entropy of a network that diverged: flat in the middle, huge around.
        return 2.3 + height * np.maximum(x * x + y * y - 3, 0) ** 4 / 1e5

    found, _ = refined(ruined, points=51)
    losses = found.values[..., 0]
    assert not found.computed.all()
    assert losses.min() == losses[found.computed].min() >= 2.3
    assert losses.max() == losses[found.computed].max()
