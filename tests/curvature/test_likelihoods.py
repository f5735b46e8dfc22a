from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import lossatlas as la
from lossatlas.curvature import fisher, gauss_newton
from lossatlas.errors import ArgumentError
from reference import curvature_dense as dense
from reference.curvature_cases import classes, mlp, normal

UNEVEN = torch.tensor([10.0, 1.0, 1.0], dtype=torch.float64)
ONES = torch.ones(3, dtype=torch.float64)


def _objective(criterion, targets=None):
    y = classes(6, 3) if targets is None else targets
    return la.Objective(mlp(), la.supervised(criterion), [(normal(6, 4), y)])


def _marks():
    return (normal(6, 3, seed=2) > 0).double()


def _near(objective, **options):
    """Whether labels drawn often enough give the Gauss-Newton matrix of the same objective."""
    want = dense.matrix_of(gauss_newton(objective))
    got = dense.matrix_of(fisher(objective, draws=400, cache=True, **options))
    return bool((got - want).norm() < 0.1 * want.norm())


@pytest.mark.parametrize("likelihood", [None, "categorical"])
@pytest.mark.parametrize(
    "criterion",
    [nn.CrossEntropyLoss(weight=UNEVEN), partial(F.cross_entropy, weight=UNEVEN)],
    ids=["module", "partial"],
)
def test_weights_of_classes_have_no_fisher_matrix(criterion, likelihood):
    objective = _objective(criterion)
    with pytest.raises(ArgumentError, match=r"a `weight`.*curvature='gauss_newton'"):
        fisher(objective, likelihood=likelihood)
    with pytest.raises(ArgumentError, match="`weight`"):
        la.spectrum(objective, top=1, curvature="fisher")


@pytest.mark.parametrize("likelihood", [None, "bernoulli"])
@pytest.mark.parametrize("name", ["weight", "pos_weight"])
def test_weights_of_labels_have_no_fisher_matrix(name, likelihood):
    function = partial(F.binary_cross_entropy_with_logits, **{name: 2 * ONES})
    module = nn.BCEWithLogitsLoss(**{name: 2 * ONES})
    for criterion in (function, module):
        with pytest.raises(ArgumentError, match=f"a `{name}`"):
            fisher(_objective(criterion, _marks()), likelihood=likelihood)


def test_weights_of_a_subclass_are_seen_where_its_likelihood_is_said():
    class Mine(nn.CrossEntropyLoss):
        pass

    with pytest.raises(ArgumentError, match="`likelihood` must be"):
        fisher(_objective(Mine()))
    with pytest.raises(ArgumentError, match="a `weight`"):
        fisher(_objective(Mine(weight=UNEVEN)), likelihood="categorical")
    assert _near(_objective(Mine()), likelihood="categorical")


@pytest.mark.parametrize(
    ("criterion", "binary"),
    [
        (nn.CrossEntropyLoss(weight=ONES), False),
        (nn.CrossEntropyLoss(weight=3 * ONES), False),
        (nn.CrossEntropyLoss(weight=3 * ONES, label_smoothing=0.2), False),
        (nn.CrossEntropyLoss(label_smoothing=0.2), False),
        (partial(F.cross_entropy, weight=3 * ONES, label_smoothing=0.2), False),
        (nn.BCEWithLogitsLoss(weight=ONES, pos_weight=ONES), True),
        (partial(F.binary_cross_entropy_with_logits, pos_weight=ONES), True),
    ],
)
def test_weights_that_change_nothing_are_served(criterion, binary):
    assert _near(_objective(criterion, _marks() if binary else None))


def test_equal_weights_do_not_cancel_with_probabilities_of_classes():
    shares = normal(6, 3, seed=3).softmax(1)
    with pytest.raises(ArgumentError, match="a `weight`"):
        fisher(_objective(nn.CrossEntropyLoss(weight=3 * ONES), shares))
    assert _near(_objective(nn.CrossEntropyLoss(weight=ONES), shares))


def test_sums_are_refused_also_where_the_likelihood_is_said():
    for criterion in (
        nn.CrossEntropyLoss(reduction="sum"),
        partial(F.cross_entropy, reduction="sum"),
    ):
        for likelihood in (None, "categorical"):
            with pytest.raises(ArgumentError, match="reduction='sum'"):
                fisher(_objective(criterion), likelihood=likelihood)
    each = _objective(nn.CrossEntropyLoss(reduction="none"))
    assert _near(each, likelihood="categorical")


def test_ignored_targets_are_followed_in_a_module_and_refused_in_a_partial():
    ignoring = nn.CrossEntropyLoss(ignore_index=0)
    assert _near(_objective(ignoring))
    with pytest.raises(ArgumentError, match=r"nn\.CrossEntropyLoss\(ignore_index"):
        fisher(_objective(partial(F.cross_entropy, ignore_index=0)), likelihood="categorical")


def test_gauss_newton_keeps_the_weights():
    weighted = _objective(nn.CrossEntropyLoss(weight=UNEVEN))
    got = dense.matrix_of(gauss_newton(weighted))
    assert_close(got, dense.gauss_newton(weighted), rtol=1e-9, atol=1e-11)
    assert not torch.allclose(got, dense.gauss_newton(_objective(F.cross_entropy)))
