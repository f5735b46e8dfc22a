"""What the literature says of spectra, on the digits that come with scikit-learn."""

from functools import cache

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.curvature import spectrum
from lossatlas.rng import generator


@cache
def digits():
    inputs, targets = load_digits(return_X_y=True)
    return torch.tensor(inputs / 16, dtype=torch.float32), torch.tensor(targets)


def trained(inputs, targets, number, steps, seed):
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, number))
    drawn = generator(seed, "weights")
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


# One network for both matrices: instruments leave no trace.
@cache
def of_classes(number, seed, steps):
    inputs, targets = digits()
    order = torch.randperm(10, generator=generator(seed, "classes", number))
    names = torch.full((10,), -1)
    names[order[:number]] = torch.arange(number)
    keep = torch.nonzero(names[targets] >= 0).flatten()[:600]
    return trained(inputs[keep], names[targets[keep]], number, steps, seed)


# Why C - 1: with non-negative inputs the features have a large common part h, and the matrix is
# near h h^T (x) E[diag(p) - p p^T], whose second factor has C - 1 directions.
# Source: Sagun et al., arXiv:1706.04454; Papyan, arXiv:1811.07062; Wu et al., arXiv:2010.04261.


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("number", [3, 6, 10])
def test_a_common_part_of_all_inputs_makes_one_outlier_less_than_classes(number, seed):
    drawn = generator(seed, "cloud", number)
    noise, targets = torch.randn(200, 12, generator=drawn), torch.arange(200) % number
    model = nn.Linear(12, number, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(0.1 * torch.randn(number, 12, generator=drawn))
    for shift, outliers in ((1.0, number - 1), (0.0, 0)):
        batch = (shift + 0.3 * noise.double(), targets)
        objective = la.Objective(model, la.supervised(F.cross_entropy), [batch])
        found = spectrum(objective, top=2 * number, bottom=0, density=False)
        assert found.outliers == outliers


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
@pytest.mark.parametrize(
    ("steps", "least_starts", "least_counts"), [(20, 0.85, 0.85), (60, 0.6, 0.75)]
)
def test_as_many_outliers_as_classes_or_one_less(steps, least_starts, least_counts, curvature):
    # Not in every run: outliers have wide gaps among themselves, the more so the surer the
    # predictions, as the second factor then comes from a few examples.
    starts, counts = [], []
    for number in (3, 5, 7, 10):
        for seed in range(4):
            network = of_classes(number, seed, steps)
            found = spectrum(
                network, top=2 * number, bottom=0, density=False, curvature=curvature
            )
            gaps = found.top[:-1] / found.top[1:]
            starts.append(gaps[number - 2] > gaps[number - 1 :].max())
            counts.append(found.outliers in {number - 1, number})
            assert found.reached
    assert np.mean(starts) >= least_starts
    assert np.mean(counts) >= least_counts


def by_class(rare, seed):
    inputs, targets = digits()
    chosen = [
        torch.nonzero(targets == c).flatten()[: 10 if c in rare else 150] for c in range(10)
    ]
    keep = torch.cat(chosen)
    objective = trained(inputs[keep], targets[keep], 10, steps=60, seed=seed)
    found = spectrum(objective, top=1, bottom=1, density=False, by="class")
    assert [line.examples for line in found.groups] == [len(each) for each in chosen]
    return found.groups


@pytest.mark.parametrize("seed", range(3))
def test_a_class_is_nearer_to_a_saddle_where_it_has_few_examples(seed):
    # Every class is measured twice, rare and frequent, so that no digit can be the reason.
    # Source: Rangwani et al., NeurIPS 2022, arXiv:2212.13827.
    low, high = by_class(range(5), seed), by_class(range(5, 10), seed)
    pairs = [*zip(low[:5], high[:5], strict=True), *zip(high[5:], low[5:], strict=True)]
    apart = [
        rare.ratio - frequent.ratio > rare.ratio_bound + frequent.ratio_bound
        for rare, frequent in pairs
    ]
    assert np.mean(apart) >= 0.9
