import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

import lossatlas as la
from lossatlas.errors import ArgumentError, NonFiniteError, StructureError
from lossatlas.linalg.params import norm, subtract


def vector(*numbers):
    return {
        "a": torch.tensor(numbers[:2], dtype=torch.float64),
        "b": torch.tensor(numbers[2:]).double(),
    }


def random_points(count, seed=0, scale=1.0):
    source = torch.Generator().manual_seed(seed)
    draw = lambda *s: scale * torch.randn(*s, generator=source, dtype=torch.float64)  # noqa: E731
    return [{"a": draw(3, 2), "b": draw(4)} for _ in range(count)]


def test_points_come_from_the_origin_in_one_sum():
    origin, u, v = random_points(3)
    plane = la.plane(origin, u, v)
    point = plane.point((0.5, -2.0))
    assert_close(point["a"], origin["a"] + 0.5 * u["a"] - 2.0 * v["a"])
    assert torch.equal(plane.point((0.0, 0.0))["b"], origin["b"])


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=2), st.integers(0, 50))
def test_projection_finds_the_coordinates_of_points_in_the_plane(coordinates, seed):
    origin, u, v, w = random_points(4, seed)
    plane = la.plane(origin, u, v)
    found, residuals = plane.project([plane.point(coordinates), w])
    np.testing.assert_allclose(found[0], coordinates, atol=1e-8)
    assert residuals[0] < 1e-6
    # What is left over is at right angles to the plane.
    left = subtract(w, plane.point(found[1]))
    for direction in (u, v):
        product = sum(float((left[k] * direction[k]).sum()) for k in left)
        assert abs(product) < 1e-8


@pytest.mark.parametrize("count", [2, 3, 4])
def test_plane_through_checkpoints_keeps_their_distances(count):
    points = random_points(count)
    plane = la.plane_through(*points)
    marks = plane.landmarks["checkpoints"]
    np.testing.assert_allclose(marks[1], np.eye(count - 1)[0], atol=1e-12)
    unit = norm(subtract(points[1], points[0]))
    for i in range(count):
        for j in range(i):
            drawn = np.linalg.norm(marks[i] - marks[j]) * unit
            assert drawn == pytest.approx(norm(subtract(points[i], points[j])))
    np.testing.assert_allclose(plane.residuals["checkpoints"], 0, atol=1e-6)
    for (low, high), axis in zip(plane.bounds, marks.T, strict=True):
        assert low < axis.min() <= axis.max() < high


def test_trajectory_plane_is_that_of_a_dense_pca():
    points = random_points(6, scale=2.0)
    plane = la.trajectory_plane(points)
    rows = np.stack(
        [np.concatenate([subtract(p, points[-1])[k].flatten() for k in "ab"]) for p in points]
    )
    _, sizes, axes = np.linalg.svd(rows, full_matrices=False)
    off = np.linalg.norm(rows - rows @ axes[:2].T @ axes[:2], axis=1)
    residuals = off / np.linalg.norm(rows, axis=1).max()
    np.testing.assert_allclose(plane.residuals["trajectory"], residuals, atol=1e-8)
    np.testing.assert_allclose(
        np.abs(plane.landmarks["trajectory"]), np.abs(rows @ axes[:2].T), atol=1e-8
    )
    share = sizes[0] ** 2 / (sizes**2).sum()
    assert plane.labels[0] == f"PC 1 ({100 * share:.0f} % of the trajectory)"


ORIGIN = vector(1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: la.plane(ORIGIN), ArgumentError, "needs 1 to 3 directions; got 0"),
        (lambda: la.plane(ORIGIN, vector(0.0, 0, 0)), ArgumentError, "direction 1 is zero"),
        (
            lambda: la.plane(ORIGIN, vector(1.0, 0, 0), vector(2.0, 0, 0)),
            ArgumentError,
            "parallel",
        ),
        (
            lambda: la.plane(ORIGIN, vector(np.nan, 0, 0)),
            NonFiniteError,
            "direction 1 contains NaN",
        ),
        (lambda: la.plane(ORIGIN, {"a": ORIGIN["a"]}), StructureError, "has no entry 'b'"),
        (
            lambda: la.plane(ORIGIN, {"a": ORIGIN["a"], "b": torch.tensor([1])}),
            StructureError,
            "'b' holds torch.int64 in",
        ),
        (lambda: la.plane_through(ORIGIN), ArgumentError, "two to four checkpoints; got 1"),
        (lambda: la.plane_through(ORIGIN, ORIGIN), ArgumentError, "checkpoint 2 equals"),
        (
            lambda: la.plane_through(ORIGIN, vector(2.0, 4, 6), vector(3.0, 6, 9)),
            ArgumentError,
            "checkpoint 3 equals or is collinear",
        ),
        (lambda: la.trajectory_plane([ORIGIN] * 2), ArgumentError, "2 checkpoints"),
        (lambda: la.trajectory_plane([ORIGIN] * 5), ArgumentError, "fewer than 2 directions"),
        (
            lambda: la.trajectory_plane([vector(np.inf, 1, 1), ORIGIN, vector(1.0, 1, 1)]),
            NonFiniteError,
            "leave it out",
        ),
    ],
)
def test_bad_planes_are_named_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()
