import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from lossatlas.errors import ArgumentError, LossError, UnknownNameError
from lossatlas.objective import Objective, supervised
from lossatlas.training import build_loss
from lossatlas.training.criteria import CRITERIA

OUTPUT = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.tensor([0, 3, 1, 1, 2, 0])
DENSE = F.one_hot(LABELS, 4).double()


@pytest.mark.parametrize(
    ("name", "truth", "target"),
    [
        ("cross_entropy", F.cross_entropy(OUTPUT, LABELS), LABELS),
        ("error", (OUTPUT.argmax(1) != LABELS).double().mean(), LABELS),
        ("mse", F.mse_loss(OUTPUT, DENSE), DENSE),
        ("l1", F.l1_loss(OUTPUT, DENSE), DENSE),
        ("huber", F.huber_loss(OUTPUT, DENSE), DENSE),
        ("bce", F.binary_cross_entropy_with_logits(OUTPUT, DENSE), DENSE),
    ],
)
def test_names_mean_what_they_say(name, truth, target):
    assert_close(build_loss(name)(OUTPUT, target), truth)


@given(st.sampled_from(sorted(CRITERIA)))
def test_reductions_agree(name):
    criterion = build_loss(name)
    each = criterion(OUTPUT, LABELS, reduction="none")
    assert each.shape == (6,)
    assert_close(criterion(OUTPUT, LABELS), each.mean())
    assert_close(criterion(OUTPUT, LABELS, reduction="sum"), each.sum())
    for i in range(6):
        assert_close(criterion(OUTPUT[i : i + 1], LABELS[i : i + 1]), each[i])


def test_class_indices_become_rows():
    assert_close(build_loss("mse")(OUTPUT, LABELS), F.mse_loss(OUTPUT, DENSE))


@pytest.mark.parametrize("name", ["cross_entropy", "error"])
def test_characters_count_as_one_example_a_row(name):
    output = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1))
    target = torch.randint(4, (2, 5), generator=torch.Generator().manual_seed(2))
    criterion = build_loss(name, task="language")
    flat = criterion(output.flatten(0, 1), target.flatten(), reduction="none")
    each = criterion(output, target, reduction="none")
    assert_close(each, flat.view(2, 5).mean(1))
    assert_close(criterion(output, target), flat.mean())


def test_classes_of_pictures_stand_along_axis_one():
    output = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    target = torch.randint(4, (2, 3, 3), generator=torch.Generator().manual_seed(2))
    assert_close(build_loss("cross_entropy")(output, target), F.cross_entropy(output, target))


def test_an_objective_sees_single_examples():
    model = nn.Linear(4, 4).double()
    objective = Objective(model, supervised(build_loss("cross_entropy")), [(OUTPUT, LABELS)])
    expected = F.cross_entropy(model(OUTPUT), LABELS, reduction="none").detach()
    assert_close(objective.example_losses(), expected)
    assert objective.unit == "examples"


def test_the_task_chooses():
    assert build_loss(task="regression").name == "mse"
    assert build_loss(task="language").name == build_loss().name == "cross_entropy"


def scaled(output, target, factor=2.0):
    return factor * F.mse_loss(output, target)


def test_one_s_own_functions_and_classes():
    assert build_loss(f"{__name__}:scaled") is scaled
    smooth = build_loss("torch.nn:CrossEntropyLoss(label_smoothing=0.1)")
    assert_close(smooth(OUTPUT, LABELS), F.cross_entropy(OUTPUT, LABELS, label_smoothing=0.1))


def test_bad_losses_are_named():
    with pytest.raises(UnknownNameError, match="did you mean 'cross_entropy'"):
        build_loss("crossentropy")
    with pytest.raises(UnknownNameError, match="`task`"):
        build_loss(task="translation")
    with pytest.raises(UnknownNameError, match="`reduction`"):
        build_loss("mse")(OUTPUT, DENSE, reduction="max")
    with pytest.raises(ArgumentError, match="must name a function"):
        build_loss(f"{__name__}:OUTPUT")
    with pytest.raises(LossError, match="one axis more"):
        build_loss("cross_entropy")(OUTPUT, DENSE)
    with pytest.raises(LossError, match="must match"):
        build_loss("mse")(OUTPUT, DENSE[:, :1])
    with pytest.raises(LossError, match="do not match 2 outputs"):
        build_loss("cross_entropy")(OUTPUT[:, :2], LABELS)
