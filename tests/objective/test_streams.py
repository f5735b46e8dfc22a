"""Data without a length, and data that never end: named, never waited for."""

import warnings
from itertools import count, islice

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

import lossatlas as la
from lossatlas.curvature.group_data import split_examples, target_classes
from lossatlas.errors import ArgumentError, DataError, DataWarning, StochasticError
from lossatlas.integrations.loaders import InOrder
from lossatlas.objective import batches
from lossatlas.rng import generator
from lossatlas.training import train

CE = la.supervised(F.cross_entropy)


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(batches, "MOST_BEYOND", 20)


def batch(step):
    drawn = generator("streams", step)
    return torch.randn(4, 3, generator=drawn), torch.arange(4) % 2


class Stream:
    """So many batches, without a length; none is the last of an endless one."""

    def __init__(self, most=None):
        self.most = most

    def __iter__(self):
        return islice(map(batch, count()), self.most)


class Examples(IterableDataset):
    def __iter__(self):
        for step in count():
            inputs, targets = batch(step)
            yield from zip(inputs, targets, strict=True)


class Liar(Stream):
    def __len__(self):
        return 3


def objective(data, **options):
    return la.Objective(nn.Linear(3, 2), CE, data, **options)


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    "data", [Stream(), DataLoader(Examples(), batch_size=4), InOrder(Stream())]
)
def test_a_stream_that_never_ends_is_named_with_what_helps(data, check):
    said = r"no length and did not end after 20 batches.*islice\(batches, 64\)"
    with pytest.raises(DataError, match=said):
        objective(data, check=check)


@pytest.mark.filterwarnings("ignore::lossatlas.errors.DataWarning")
def test_a_length_that_is_passed_by_far_is_named():
    with pytest.raises(DataError, match="length of 3 and did not end after 23"):
        objective(Liar())
    assert objective(Liar(3)).count == 3


def test_what_the_message_says_helps():
    some = objective(list(islice(Stream(), 5)))
    assert some.count == 5
    assert some.value() == la.Objective(some.model, CE, Stream(5)).value()


def test_streams_that_end_are_walked():
    assert objective(Stream(20)).count == 20
    with pytest.raises(DataError):
        objective(Stream(21))


def test_a_length_lets_long_streams_through():
    long = InOrder([batch(k) for k in range(50)], limit=30)
    assert objective(long).count == len(long) == 30


def test_classes_of_long_data_that_are_read_as_they_come():
    long = objective(InOrder([batch(k) for k in range(25)]))
    parts = split_examples(long, target_classes)
    assert sum(part.value() for part in parts.values()) / 2 == pytest.approx(long.value())


def test_a_part_and_a_training_of_an_endless_stream_are_named():
    whole = objective(Stream(3))
    with pytest.raises(DataError, match="did not end"):
        whole.part(Stream()).value()
    with pytest.raises(DataError, match="did not end"):
        whole.part(Stream()).map_batches(whole.size_of)
    with pytest.raises(DataError, match="did not end"):
        train(nn.Linear(3, 2), Stream(), CE, steps=2)


def test_iterators_and_random_streams_are_told_how_to_take_some():
    with pytest.raises(ArgumentError, match="of one that never ends"):
        objective(iter(Stream()))

    drawn = torch.Generator().manual_seed(0)

    class Shuffled(Stream):
        def __iter__(self):
            order = torch.randperm(5, generator=drawn).tolist()
            return map(batch, order)

    with pytest.raises(StochasticError, match=r"pass list\(loader\).*islice"):
        objective(Shuffled())


@pytest.mark.parametrize("error", [TypeError, NotImplementedError, AttributeError, ValueError])
def test_a_length_that_is_not_known_may_be_told_in_any_way(error):
    class Unknown(Stream):
        def __len__(self):
            raise error

    assert objective(Unknown(3)).count == 3
    with pytest.raises(DataError, match="no length and did not end after 20"):
        objective(Unknown())


class Longer(IterableDataset):
    """Says that it holds 4 examples, and gives 20."""

    def __len__(self):
        return 4

    def __iter__(self):
        return iter([(torch.ones(2), torch.zeros(1))] * 20)


@pytest.mark.parametrize("asked", [False, True])
def test_a_loader_that_is_longer_than_it_says_is_told_once_and_left_as_it_was(asked):
    loader = DataLoader(Longer(), batch_size=2)
    if asked:
        # From then on torch warns at every batch beyond, in the loops of the user.
        assert len(loader) == 2
    before = loader._IterableDataset_len_called
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        objective = la.Objective(nn.Linear(2, 1), la.supervised(F.mse_loss), loader)
        objective.value()
        objective.gradient()
    assert [each.category for each in told] == [DataWarning]
    assert "`batches` has a length of 2 and gave more batches" in str(told[0].message)
    assert objective.evaluate().samples == 20
    assert loader._IterableDataset_len_called == before
