"""How often curvature would wait for a device: counted on the processor, by what is called."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import lossatlas as la
from lossatlas.curvature import hessian, trace
from lossatlas.curvature.trace import random_run

# What makes numbers of the host out of a tensor; `numpy` reads what `cpu` has fetched.
LOOKS = {
    "__bool__", "__float__", "__index__", "__int__", "cpu", "equal", "is_nonzero", "item",
    "nonzero", "tolist",
}  # fmt: skip


class Counted(TorchFunctionMode):
    """Counts calls that wait for a device."""

    def __init__(self):
        super().__init__()
        self.waits = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        self.waits[name] += name in LOOKS
        return function(*args, **(kwargs or {}))


def objective(layers, batches):
    torch.manual_seed(0)
    parts = [part for _ in range(layers) for part in (nn.Linear(6, 6), nn.Tanh())]
    data = [(torch.randn(5, 6), torch.randint(0, 3, (5,))) for _ in range(batches)]
    return la.Objective(
        nn.Sequential(*parts, nn.Linear(6, 3)), la.supervised(F.cross_entropy), data
    )


def waits(call):
    with Counted() as counted:
        call()
    return counted.waits.total()


@pytest.mark.parametrize("layers", [1, 6])
def test_a_product_waits_once_and_once_a_batch_that_is_walked(layers):
    for batches, expected in ((1, 1), (3, 4)):
        matrix = hessian(objective(layers, batches))
        vector = torch.randn(matrix.size)
        matrix.flat(vector)
        assert waits(lambda matrix=matrix, vector=vector: matrix.flat(vector)) == expected


@pytest.mark.parametrize("layers", [1, 6])
def test_a_step_waits_three_times_and_a_probe_twice_whatever_the_model(layers):
    given = objective(layers, 1)
    matrix = hessian(given)
    matrix.flat(matrix.zeros())
    run = random_run(matrix, 0)
    run.extend(2)
    # The product, the diagonal of T, and what the space takes away with what is left.
    assert waits(lambda: run.extend(10)) == 30
    few, many = (waits(lambda n=n: trace(given, 1e-9, limit=n, rows=0)) for n in (20, 30))
    assert many - few == 30
