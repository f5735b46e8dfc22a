"""Every test draws numbers of its own, the same alone, in any order and on any worker."""

import random
from zlib import crc32

import numpy as np
import pytest
import torch


def drawn():
    return torch.rand(()).item(), float(np.random.rand()), random.random()


def expected(name):
    seed = crc32(name.encode())
    ours = torch.rand((), generator=torch.Generator().manual_seed(seed)).item()
    return ours, float(np.random.RandomState(seed).rand()), random.Random(seed).random()


@pytest.fixture
def of_a_fixture():
    return drawn()


@pytest.mark.parametrize("number", [0, 1])
def test_draws_depend_on_the_name_alone(number, of_a_fixture, request):
    assert drawn() == expected(request.node.nodeid)
    assert of_a_fixture == expected("tests/test_seeds.py::of_a_fixture")
