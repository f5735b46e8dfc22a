"""What the literature says of spectra, on the digits that come with scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.curvature import spectrum
from lossatlas.rng import generator


def digits():
    inputs, targets = load_digits(return_X_y=True)
    return torch.tensor(inputs / 16, dtype=torch.float32), torch.tensor(targets)


def trained(inputs, targets, number, steps):
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, number))
    drawn = generator(0, "weights")
    with torch.no_grad():
        for value in model.parameters():
            spread = (2 / value.shape[-1]) ** 0.5 if value.ndim > 1 else 0.0
            value.copy_(spread * torch.randn(value.shape, generator=drawn))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return la.Objective(model, la.supervised(F.cross_entropy), [(inputs, targets)])


@pytest.mark.parametrize("number", [5, 7, 10])
def test_as_many_outliers_as_classes_or_one_less(number):
    # Source: Sagun et al., arXiv:1706.04454; Papyan, arXiv:1811.07062.
    inputs, targets = digits()
    keep = torch.nonzero(targets < number).flatten()[:600]
    objective = trained(inputs[keep], targets[keep], number, steps=20)
    found = spectrum(objective, top=2 * number, bottom=0, density=False)
    assert found.outliers in {number - 1, number}
    assert found.reached


def test_classes_with_few_examples_are_nearer_to_a_saddle():
    # Source: Rangwani et al., NeurIPS 2022, arXiv:2212.13827.
    inputs, targets = digits()
    chosen = [torch.nonzero(targets == c).flatten()[: 150 if c < 5 else 10] for c in range(10)]
    keep = torch.cat(chosen)
    objective = trained(inputs[keep], targets[keep], 10, steps=60)
    found = spectrum(objective, top=1, bottom=1, density=False, tolerance=1e-2, by="class")
    head, tail = (
        np.array([line.ratio for line in part])
        for part in np.split(np.array(found.groups, dtype=object), 2)
    )
    assert tail.min() > head.max()
    assert [line.examples for line in found.groups] == [150] * 5 + [10] * 5
