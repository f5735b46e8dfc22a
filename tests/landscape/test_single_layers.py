"""A model that is one layer: its parameters have no name before the dot."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.errors import AtlasError

LAYERS = {
    "linear": (lambda: nn.Linear(3, 2), (20, 3)),
    "one input": (lambda: nn.Linear(1, 2), (20, 1)),
    "without bias": (lambda: nn.Linear(3, 2, bias=False), (20, 3)),
    "convolution": (lambda: nn.Conv1d(3, 2, 4), (20, 3, 4)),
}


@pytest.mark.parametrize("engine", ["auto", "batched", "stacked", "streaming", "recall"])
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
    try:
        land = la.map_plane(objective, plane, points=3, span=0.5, engine=engine)
    except AtlasError:
        pytest.skip("this engine does not serve one layer")
    a, b = land.axes
    plain = [[objective.value(plane.point([float(s), float(t)])) for t in b] for s in a]
    np.testing.assert_allclose(land.values, plain, rtol=1e-5)
    assert np.ptp(land.values) > 1e-3
