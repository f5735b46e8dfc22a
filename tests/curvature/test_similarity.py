import math

import pytest
import torch

from lossatlas.curvature import cka
from lossatlas.errors import ArgumentError
from reference.curvature_cases import normal


@pytest.mark.parametrize("count", [5, 6, 7, 8, 9])
@pytest.mark.parametrize("folds", [2, 10])
def test_few_examples_have_a_likeness(count, folds):
    x = normal(count, 3)
    same = cka(x, 2 * x, folds=folds)
    assert math.isclose(same.value, 1.0, rel_tol=1e-9)
    assert same.stderr < 1e-6
    other = cka(x, normal(count, 3, seed=4), folds=folds)
    assert math.isfinite(other.stderr) or other.why_no_error


def test_below_eight_examples_each_is_left_out_in_turn():
    x, y = normal(7, 3), normal(7, 3) + normal(7, 3, seed=4)
    found = cka(x, y)
    assert found.samples == 7
    kept = [[j for j in range(7) if j != i] for i in range(7)]
    left = torch.tensor([cka(x[rows], y[rows]).value for rows in kept])
    want = math.sqrt(6 / 7 * float((left - left.mean()).square().sum()))
    assert math.isclose(found.stderr, want, rel_tol=1e-5)


@pytest.mark.parametrize(("debiased", "least", "word"), [(True, 5, "five"), (False, 4, "four")])
def test_the_least_number_of_examples_is_named(debiased, least, word):
    x = normal(least, 2)
    assert cka(x, x, debiased=debiased).value > 0.99
    with pytest.raises(ArgumentError, match=f"needs {word} examples; got {least - 1}"):
        cka(x[1:], x[1:], debiased=debiased)
    with pytest.raises(ArgumentError, match="`folds`"):
        cka(x, x, debiased=debiased, folds=1)
