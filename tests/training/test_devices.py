"""Devices that are not there: named, with those that are."""

import pytest
import torch

from lossatlas.errors import ArgumentError
from lossatlas.training.devices import chosen_device


@pytest.mark.parametrize("name", ["cuda", "cuda:99", "mps", "xpu", "gpu"])
def test_a_device_that_is_not_there_is_named_with_those_that_are(name):
    try:
        there = torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError):
        with pytest.raises(ArgumentError, match=f"`device`: '{name}' cannot be used") as told:
            chosen_device(name)
        assert "available: 'cpu'" in str(told.value)
        # Not the hundred backends that torch lists.
        assert len(str(told.value)) < 300
    else:
        assert chosen_device(name) == there
