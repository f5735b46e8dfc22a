"""A model that is one layer: its parameters have no name before the dot."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.errors import ArgumentError

LAYERS = {
    "linear": (lambda: nn.Linear(3, 2), (20, 3)),
    "one input": (lambda: nn.Linear(1, 2), (20, 1)),
    "without bias": (lambda: nn.Linear(3, 2, bias=False), (20, 3)),
    "convolution": (lambda: nn.Conv1d(3, 2, 4), (20, 3, 4)),
}


@pytest.mark.parametrize("engine", ["auto", "batched", "stacked", "streaming", "in_place"])
@pytest.mark.parametrize("kind", list(LAYERS))
def test_the_map_of_a_single_layer_is_that_of_its_weights(kind, engine):
    torch.manual_seed(0)
    make, size = LAYERS[kind]
    model, x = make(), torch.randn(size)
    shape = model(x).shape[2:]
    objective = la.Objective(
        model, la.supervised(F.cross_entropy), [(x, torch.randint(2, (20, *shape)))]
    )
    plane = la.random_plane(objective, seed=0)
    if (kind, engine) == ("convolution", "stacked"):
        with pytest.raises(ArgumentError, match="not all layers with weights are linear"):
            la.map_plane(objective, plane, points=3, engine=engine)
        return
    land = la.map_plane(objective, plane, points=3, span=0.5, engine=engine)
    a, b = land.axes
    plain = [[objective.value(plane.point([float(s), float(t)])) for t in b] for s in a]
    np.testing.assert_allclose(land.values, plain, rtol=1e-5)
    assert np.ptp(land.values) > 1e-3


def test_a_model_that_is_one_layer_has_a_map_where_its_loss_hardly_moves():
    # Near zero weights and independent targets: the origin alone would be within 1e-6.
    torch.manual_seed(1)
    model, x, y = nn.Linear(6, 3).double(), torch.randn(25, 6).double(), torch.arange(25) % 3
    with torch.no_grad():
        model.weight.mul_(1e-4), model.bias.zero_()
    objective = la.Objective(model, la.supervised(F.cross_entropy), [(x, y)])
    plane = la.random_plane(objective)
    plain, fast = (
        la.map_plane(objective, plane, points=5, adaptive=False, engine=name)
        for name in ("plain", "batched")
    )
    rise = np.ptp(plain.values)
    np.testing.assert_allclose(fast.values, plain.values, rtol=0, atol=1e-6 * rise)
