"""Scores of measures of generalization against plain loops and scipy."""

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "studies" / "generalization"))
import measures
import scores
import trained_networks as networks

SETTINGS = list(itertools.product((1, 2, 3), (0, 1), (5, 6)))


def drawn(seed):
    return np.random.default_rng(seed).normal(size=len(SETTINGS))


def test_over_all_pairs_it_is_kendalls_tau():
    first, second = drawn(0), drawn(1) + drawn(0)
    found, shuffled = scores.score(first, second, scores.all_pairs(SETTINGS))
    assert found.value == pytest.approx(scipy.stats.kendalltau(first, second).statistic)
    assert found.stderr > 0
    assert abs(np.mean(shuffled)) < found.chance < 1


def test_the_granulated_score_is_that_of_a_plain_loop():
    first, second = drawn(2), drawn(3) + drawn(2)
    told = []
    for axis in range(3):
        signs = [
            np.sign(first[i] - first[j]) * np.sign(second[i] - second[j])
            for i, j in itertools.combinations(range(len(SETTINGS)), 2)
            if [a != b for a, b in zip(SETTINGS[i], SETTINGS[j], strict=True)]
            == [k == axis for k in range(3)]
        ]
        told.append(np.mean(signs))
    found, _ = scores.score(first, second, scores.granulated_pairs(SETTINGS))
    assert found.value == pytest.approx(np.mean(told))


def test_ties_unknowns_and_infinities_do_not_count():
    first = np.array([1.0, 1.0, math.inf, math.inf, math.nan, 0.0])
    gaps = np.arange(6.0)
    found, _ = scores.score(first, gaps, scores.all_pairs(gaps))
    # Known and not tied: (1, inf) four times agree, 0 against the four others disagree.
    assert found.value == pytest.approx((4 - 4) / 8)
    value, error = scores.difference(gaps, gaps, gaps, scores.all_pairs(gaps))
    assert (value, error) == (0, 0)


def test_pairs_of_equal_depth_leave_out_what_depth_explains():
    grid = np.array(SETTINGS)
    (mask,) = scores.pairs_of_equal(grid, 1)
    assert mask.sum() == len(grid) * (len(grid) / 2 - 1)
    found, _ = scores.score(grid[:, 1].astype(float), drawn(4), [mask])
    assert math.isnan(found.value)


def test_norms_and_margins_of_a_network_by_hand():
    draw = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(30, 4, generator=draw), torch.arange(30) % 3
    data = networks.Split(*[(inputs, labels)] * 3)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3))
    start = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    found = measures._norms(model, start, data)
    weight, bias = (p.detach().double() for p in model.parameters())
    assert found["path norm"] == pytest.approx(
        float((weight.square().sum() + bias.square().sum()).sqrt()), rel=1e-5
    )
    assert found["spectral norms"] == pytest.approx(
        float(torch.linalg.svdvals(weight)[0].log()), rel=1e-6
    )
    assert found["Frobenius norm"] == pytest.approx(float(weight.norm()))
    assert found["distance"] == pytest.approx(
        float((weight.norm() ** 2 + bias.norm() ** 2) ** 0.5)
    )
    outputs = model(inputs).detach().double()
    margins = [
        float(o[y] - max(o[k] for k in range(3) if k != y))
        for o, y in zip(outputs, labels, strict=True)
    ]
    assert found["1 / margin"] == pytest.approx(
        1 / max(np.quantile(margins, 0.1), 1e-6), rel=1e-4
    )
