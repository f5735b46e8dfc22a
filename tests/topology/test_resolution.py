import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from lossatlas.errors import ArgumentError
from lossatlas.topology import merge_tree
from lossatlas.topology.profile import profile
from lossatlas.topology.resolution import resolution

levels = st.integers(0, 9).map(float)
fields = arrays(
    np.float64,
    array_shapes(min_dims=1, max_dims=2, max_side=6),
    elements=st.one_of(levels, levels, st.just(np.nan)),
).filter(lambda f: np.isfinite(f).any())


def valley(angle, condition, points=25):
    x = np.linspace(-1, 1, points)
    a, b = np.meshgrid(x, x, indexing="ij")
    u, v = np.cos(angle) * a + np.sin(angle) * b, np.cos(angle) * b - np.sin(angle) * a
    return u**2 + condition * v**2


def test_a_straight_valley_is_resolved_and_a_slanting_one_is_not():
    assert not resolution(valley(0.0, 1000.0)).under_resolved
    slanting = resolution(valley(np.radians(35), 1000.0), floor=1e-5)
    assert slanting.under_resolved
    assert slanting.axis > slanting.full
    # What the grid invents in a convex valley is small against the range.
    calm = resolution(valley(np.radians(35), 10.0))
    assert (calm.full, calm.axis, calm.under_resolved) == (1, 1, False)


def test_the_floor_is_a_share_of_the_range():
    f = np.array([10.0, 0.0, 0.3, 0.2, 10.0])
    assert resolution(f).full == 1
    assert resolution(f, floor=0.001).full == 2
    assert resolution(f).threshold == pytest.approx(0.1)
    with pytest.raises(ArgumentError, match="floor"):
        resolution(f, floor=-1.0)


@given(fields, st.sampled_from(["full", "axis"]))
def test_silhouettes_hold_their_basins_and_do_not_overlap(f, connectivity):
    drawn = profile(f, connectivity=connectivity, length=-1.0)
    tree = merge_tree(f, connectivity=connectivity)
    shapes = drawn.silhouettes
    parts = len(tree) - tree.saddles.size
    assert len(shapes) == parts + 2 * tree.saddles.size
    whole = [shape for shape in shapes if shape.depth == 0]
    assert sum(shape.levels.size - 1 for shape in whole) == np.isfinite(f).sum()
    for depth in range(max(s.depth for s in shapes) + 1):
        spans = sorted(
            (s.center - s.levels.size + 1, s.center + s.levels.size - 1)
            for s in shapes
            if s.depth == depth
        )
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))


def test_outlines_are_mirrored_and_as_wide_as_the_basin():
    f = np.array([3.0, 0.0, 2.0, 1.0, 3.0])
    drawn = profile(f)
    outer, left, right = drawn.silhouettes
    assert outer.levels.tolist() == [0.0, 1.0, 2.0, 3.0, 3.0, 3.0]
    assert {tuple(left.levels), tuple(right.levels)} == {(0.0, 2.0), (1.0, 2.0)}
    across, up = outer.outline
    assert (across - outer.center).tolist() == list(range(-5, 6))
    assert up.tolist() == up[::-1].tolist()
    assert drawn.tree.minima.tolist() == [1, 3]


def test_deep_nests_are_drawn():
    x = np.arange(3000.0)
    stairs = np.where(x % 2 == 0, -x, x)
    assert len(profile(stairs, length=0.0).silhouettes) > 2000
