"""The gradient noise scale where a loss returns means of batches."""

import pytest
import torch
from torch.nn import functional as F

import lossatlas as la
from lossatlas.curvature import gradient_noise


@pytest.mark.parametrize("size", [16, 32])
def test_the_noise_scale_of_batch_means_counts_examples(size):
    torch.manual_seed(0)
    x, model = torch.randn(512, 3), torch.nn.Linear(3, 1)
    y = x @ torch.tensor([[1.0], [2.0], [0.5]]) + torch.randn(512, 1)
    batches = list(zip(x.split(size), y.split(size), strict=True))
    means = la.Objective(model, lambda m, b: F.mse_loss(m(b[0]), b[1]), batches)
    examples = la.Objective(model, la.supervised(F.mse_loss), batches)
    ours, theirs = gradient_noise(means), gradient_noise(examples)
    assert ours.noise_scale.value == pytest.approx(theirs.noise_scale.value, rel=0.5)
    assert " examples: in a smaller batch" in ours.sentences()[0]
    assert ours.estimates()[1].meaning == theirs.estimates()[1].meaning
