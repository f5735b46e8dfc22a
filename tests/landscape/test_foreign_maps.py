"""What is read off a refined map of a foreign network, against the map of every point."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import lossatlas as la
from lossatlas.landscape.adaptive import extremes

WIDTH = 8


def digits(count):
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    return images[:count], torch.tensor(data.target)[:count]


class Convolutional(nn.Sequential):
    """Two normalized convolutions: steep at the rim of a map, level at the weights."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, WIDTH, 3, padding=1),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(4 * WIDTH, 10),
        )


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(8, 12), nn.Linear(12, 10)
        self.block = nn.TransformerEncoderLayer(
            12, 2, 24, dropout=0.0, batch_first=True, norm_first=True
        )

    def forward(self, x):
        return self.head(self.block(self.embed(x[:, 0])).mean(1))


def multilayer():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))


MODELS = {"convolutional": Convolutional, "attention": Attention, "multilayer": multilayer}


@pytest.fixture(scope="module", params=sorted(MODELS))
def objective(request):
    torch.manual_seed(0)
    model = MODELS[request.param]()
    inputs, targets = digits(600)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(4):
        for batch in torch.randperm(600).split(50):
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
            optimizer.step()
    loss = la.supervised(functional.cross_entropy)
    return la.Objective(model.eval(), loss, [tuple(part[-150:] for part in digits(800))])


@pytest.fixture(scope="module", params=[(15, 0), (15, 2), (25, 1), (25, 3)], ids=str)
def maps(request, objective):
    points, seed = request.param
    plane = la.random_plane(objective, seed=seed)
    land = la.map_plane(objective, plane, span=2.0, points=points)
    return land, la.map_plane(objective, plane, span=2.0, points=points, adaptive=False)


def test_what_is_quoted_was_computed(maps):
    land, truth = maps
    assert not extremes(land.values, land.computed).any()
    assert land.lowest == land.values.argmin()
    lowest, highest, *_ = land.loss_estimates()
    assert lowest.value == pytest.approx(truth.values.flat[land.lowest], rel=1e-5)
    assert highest.value == pytest.approx(truth.values.flat[land.highest], rel=1e-5)
    assert lowest.stderr == pytest.approx(truth.stderr.flat[land.lowest], rel=1e-3)


def test_every_certain_minimum_is_one_of_the_full_map(maps):
    land, truth = maps
    tree, full = la.merge_tree(land, min_share=0), la.merge_tree(truth, min_share=0)
    assert land.computed.flat[tree.minima[tree.certain]].all()
    assert tree.certain.sum() <= full.certain.sum()


def test_errors_of_interpolated_values_hold(maps):
    land, truth = maps
    missed = np.abs(land.values - truth.values)
    assert np.mean(missed <= 1.96 * land.stderr + 1e-6) >= 0.95
    gaps = ~land.computed
    # What was interpolated is less sure than what was computed there.
    too_sure = land.stderr[gaps] < 0.9 * truth.stderr[gaps]
    assert np.count_nonzero(too_sure) <= 0.05 * np.count_nonzero(gaps)
    assert missed.max() <= land.interpolation_error + 1e-5


def test_the_sentence_says_what_was_computed_and_what_was_not(maps):
    land, truth = maps
    told = " ".join(land.sentences())
    exact = "highest points were computed; saddles between minima may be interpolated"
    assert (exact in told) == (not land.computed.all())
    tree, full = la.merge_tree(land), la.merge_tree(truth)
    assert all(
        abs(tree.saddle_values[k] - barrier_of(full, tree, k)) <= land.interpolation_error
        for k in np.flatnonzero(tree.certain[tree.ended])
    )


def barrier_of(full, tree, merge):
    minima = tree.minima[[tree.ended[merge], tree.into[merge]]]
    return full.barrier(*(int(k) for k in full.basins.flat[minima]))
