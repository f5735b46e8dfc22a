import math

import pytest
import torch
from torch.nn import functional as F

import lossatlas as la
from lossatlas.curvature.group_data import split_examples
from lossatlas.errors import ArgumentError
from reference.curvature_cases import classes, mlp, normal


def _objective():
    return la.Objective(
        mlp(), la.supervised(F.cross_entropy), [(normal(12, 4), classes(12, 3))]
    )


def _spectrum(labels):
    return la.spectrum(_objective(), top=1, bottom=0, density=False, by="class", labels=labels)


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (lambda b: b[1] * 0.5, r"must give whole numbers; got 0\.5 for example \d+"),
        (lambda b: b[0][:, 0], "must give whole numbers; got"),
        (lambda b: b[1] / 0.0, "must give whole numbers; got (nan|inf)"),
        (
            lambda b: torch.full((12,), math.nan),
            "must give whole numbers; got nan for example 0",
        ),
        (3, "`labels` must be a function batch -> .*; got int"),
        (lambda b: b["group"], "`labels` failed .*called as labels"),
        (lambda b: b[1][:3], r"shape \(12,\); got \(3,\)"),
    ],
    ids=["halves", "features", "infinite", "nan", "number", "failing", "short"],
)
def test_labels_that_are_no_groups_are_named(labels, match):
    with pytest.raises(ArgumentError, match=match):
        split_examples(_objective(), labels)
    with pytest.raises(ArgumentError, match=match):
        _spectrum(labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int8, torch.uint8])
def test_whole_numbers_of_any_type_are_groups(dtype):
    objective = _objective()
    whole = split_examples(objective, None)
    given = split_examples(objective, lambda b: b[1].to(dtype))
    assert list(given) == list(whole) == ["0", "1", "2"]
    for label, part in given.items():
        assert part.value() == whole[label].value()
    truth = split_examples(objective, lambda b: b[1] == 0)
    assert list(truth) == ["0", "1"]
    assert sum(len(part.batches[0][1]) for part in truth.values()) == 12
