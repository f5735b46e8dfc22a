"""Weights of points in one flat buffer: sums in a fixed order, in any memory."""

import mmap

import pytest
import torch
from torch import nn

import lossatlas as la
from lossatlas.landscape.engines import buffer
from lossatlas.landscape.engines.buffer import PointBuffer

POINTS = [(0.3, -0.2), (0.3, 0.7), (0.0, 0.0), (-0.1, 0.7), (0.3, -0.2)]


def loss(model, batch):
    return model(batch).square().mean((1, 2, 3))


def plane(kind=torch.float32, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 2)).to(kind)
    model = model.eval()
    objective = la.Objective(model, loss, [torch.randn(2, 3, 8, 8).to(kind)], check=False)
    return la.random_plane(objective, seed=3, **options)


def summed(found, point):
    # Slow and obvious: tensor by tensor, from the origin.
    here = {name: value.clone() for name, value in found.origin.items()}
    for step, direction in zip(point, found.directions, strict=True):
        here = {name: value + step * direction[name] for name, value in here.items()}
    return here


def check(held, found, points):
    for point in points:
        held.move_to(point)
        for name, value in summed(found, point).items():
            rounding = 4 * torch.finfo(value.dtype).eps
            torch.testing.assert_close(held.views[name], value, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("wide", [frozenset(), frozenset({"0.weight"})])
def test_points_are_sums_from_the_origin(kind, wide):
    found = plane(kind)
    check(PointBuffer(found.origin, found.directions, wide), found, POINTS)


@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_lines_planes_and_boxes_keep_the_bits_of_points_in_any_order(dimension):
    found = plane(dimension=dimension, biases=True)
    points = [(*point, 0.4)[-dimension:] for point in POINTS]
    held = PointBuffer(found.origin, found.directions)
    check(held, found, points)
    seen = {}
    for point in [*points, *reversed(points), *sorted(points)]:
        held.move_to(point)
        now = {name: value.clone() for name, value in held.views.items()}
        before = seen.setdefault(point, now)
        assert all(torch.equal(now[name], before[name]) for name in now)


def test_directions_that_are_given_may_have_another_precision():
    found = plane()
    u = {name: value.double() / 3 for name, value in found.origin.items()}
    held = PointBuffer(found.origin, [u])
    held.move_to([0.3])
    for name, start in found.origin.items():
        assert torch.equal(held.views[name], start.clone().add_(u[name], alpha=0.3))


def test_large_pages_change_no_bit(monkeypatch):
    found = plane()
    usual = PointBuffer(found.origin, found.directions)
    monkeypatch.setattr(buffer, "_PAGE", 64)
    asked = []
    if hasattr(mmap, "MADV_HUGEPAGE"):
        usual_map = mmap.mmap
        monkeypatch.setattr(mmap, "mmap", lambda *a, **k: asked.append(a) or usual_map(*a, **k))
    large = PointBuffer(found.origin, found.directions)
    assert len(asked) == (5 if hasattr(mmap, "MADV_HUGEPAGE") else 0)
    for point in POINTS:
        usual.move_to(point)
        large.move_to(point)
        for name, value in usual.views.items():
            assert torch.equal(large.views[name], value)


def test_where_the_system_has_no_large_pages_memory_is_torch_s(monkeypatch):
    def refused(*_args, **_options):
        raise OSError("no such pages")

    monkeypatch.setattr(buffer, "_PAGE", 64)
    monkeypatch.setattr(mmap, "mmap", refused)
    found = plane()
    check(PointBuffer(found.origin, found.directions), found, POINTS)
