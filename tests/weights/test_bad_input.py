"""Input that something is wrong with, or that is only unusual: one test each."""

import pytest
import torch
from networks import network, objective, pictures
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.errors import NonFiniteError, StructureError
from lossatlas.weights import align, align_many, compare_merges, connect, soup, symmetries


def point(task, scale=0.0, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {
        k: v.detach() + scale * torch.randn(v.shape, generator=draw).to(v)
        for k, v in task.params.items()
    }


def test_another_architecture_is_named_by_its_first_differing_tensor():
    task = objective("mlp")
    good = point(task)
    wide = good | {"1.weight": torch.zeros(13, 100)}
    for call in (
        lambda: align(task, good, wide),
        lambda: align_many(task, good, wide),
        lambda: connect(task, good, wide),
        lambda: compare_merges(task, good, wide, wide),
        lambda: soup(task, good, wide),
    ):
        with pytest.raises(StructureError, match=r"1\.weight.*13|13.*1\.weight"):
            call()


def test_a_checkpoint_that_is_not_finite_is_named():
    task = objective("mlp")
    good = point(task)
    bad = good | {"3.weight": good["3.weight"] / 0}
    for call in (
        lambda: connect(task, good, bad),
        lambda: align_many(task, good, bad),
        lambda: compare_merges(task, good, good, bad),
        lambda: soup(task, good, bad),
    ):
        with pytest.raises(NonFiniteError, match=r"'3\.weight'"):
            call()


class Fresh(nn.Module):
    """Norm layers that keep no statistics: they use those of each batch."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.norm = nn.BatchNorm2d(6, track_running_stats=False)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        return self.head(F.relu(self.norm(self.conv(x))).mean((2, 3)))


def test_norms_without_statistics_are_aligned_and_connected():
    task = la.Objective(Fresh(), la.supervised(F.cross_entropy), pictures())
    start = point(task)
    found = symmetries(task)
    assert [group.size for group in found.groups] == [6]
    aligned = align(task, start, found.apply(start, found.random(2)))
    assert aligned.distance[1] < 1e-5
    path = connect(task, start, point(task, 0.1), repair="norms")
    assert torch.isfinite(torch.tensor(path.excess)).all()


def test_a_group_of_one_is_no_group():
    model = nn.Sequential(nn.Flatten(), nn.Linear(100, 1), nn.ReLU(), nn.Linear(1, 5))
    task = la.Objective(model, la.supervised(F.cross_entropy), pictures())
    assert not symmetries(task).groups
    other = point(task, 0.1)
    assert align(task, point(task), other).way == "unchanged"


def test_a_model_in_train_mode_is_measured_in_eval_mode_and_stays_as_it_was():
    task = objective("encoder")
    for module in task.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    task.model.train()
    start = point(task)
    found = symmetries(task)
    assert len(found.groups) == 21
    assert align(task, start, found.apply(start, found.random(1))).distance[1] < 1e-4
    assert all(module.training for module in task.model.modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_permuted_bit_for_bit_and_rotated_with_the_error_of_the_cast(dtype):
    task = objective("split heads")
    task = la.Objective(task.model.to(dtype), task.loss, task.batches, check=False)
    start, found = point(task), symmetries(task)
    assert 0 <= found.error <= 100 * torch.finfo(dtype).eps * found.loss
    moved = found.apply(start, found.random(3))
    assert {value.dtype for value in moved.values()} == {dtype}
    back = align(task, start, moved, by="weights")
    assert back.distance[1] < 0.05 * back.distance[0]
    assert 0 <= back.error <= 1000 * torch.finfo(dtype).eps


def test_parameters_that_no_batch_reaches_stay_where_they_are():
    task = objective("experts")
    other = {k: v.detach().clone() for k, v in network("experts", 1).named_parameters()}
    found = align(task, point(task), other)
    assert all(torch.equal(v, other[k]) for k, v in found.params.items() if "experts.2" in k)
