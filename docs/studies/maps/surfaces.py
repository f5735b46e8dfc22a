"""Random surfaces: functions for the calibration, other functions and networks for the report.

Every maker takes a generator of random numbers and gives a function of coordinates in [-1, 1].
"""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.rng import generator

Array = NDArray[np.float64]
Surface = Callable[..., Array]
Maker = Callable[[Generator, int], Surface]


def _log_uniform(random: Generator, low: float, high: float) -> float:
    return float(np.exp(random.uniform(math.log(low), math.log(high))))


def _bowl(x: tuple[Array, ...]) -> Array:
    return np.asarray(sum(c * c for c in x))


def _waves(frequencies: Array, random: Generator) -> Surface:
    phases, sizes = (
        random.random(len(frequencies)) * 2 * np.pi,
        random.normal(size=len(frequencies)),
    )
    return lambda *x: (
        np.cos(sum(np.multiply.outer(c, frequencies[:, k]) for k, c in enumerate(x)) + phases)
        @ sizes
    )


# Calibration ---------------------------------------------------------------------------------


def gaussian_field(random: Generator, dimension: int) -> Surface:
    """A Gaussian field with a squared-exponential covariance of random length."""
    length = _log_uniform(random, 0.15 if dimension < 3 else 0.4, 2.0)
    return _waves(random.normal(size=(100, dimension)) / length, random)


def polynomial(random: Generator, dimension: int) -> Surface:
    """A polynomial of degree 2 to 6 in random projections."""
    directions = random.normal(size=(5, dimension))
    degrees, sizes = random.integers(2, 7, 5), random.normal(size=5)
    return lambda *x: sum(
        s * sum(c * u for c, u in zip(x, d, strict=True)) ** p
        for s, d, p in zip(sizes, directions, degrees, strict=True)
    )


def bumps(random: Generator, dimension: int) -> Surface:
    """A bowl with one to four Gaussian bumps or wells."""
    count = random.integers(1, 5)
    centers, sizes = random.uniform(-1, 1, (count, dimension)), random.normal(size=count)
    widths = [_log_uniform(random, 0.08 if dimension < 3 else 0.3, 0.8) for _ in range(count)]
    slope = random.uniform(0, 2)
    return lambda *x: (
        slope * _bowl(x)
        + sum(
            s * np.exp(-_bowl(tuple(c - m for c, m in zip(x, center, strict=True))) / 2 / w**2)
            for s, w, center in zip(sizes, widths, centers, strict=True)
        )
    )


def kinks(random: Generator, dimension: int) -> Surface:
    """The largest of three to eight planes, on a bowl."""
    count = random.integers(3, 9)
    slopes, offsets = random.normal(size=(count, dimension)), random.normal(size=count) / 2
    slope = random.uniform(0, 2)
    return lambda *x: (
        slope * _bowl(x)
        + np.max(
            [
                o + sum(c * u for c, u in zip(x, s, strict=True))
                for s, o in zip(slopes, offsets, strict=True)
            ],
            axis=0,
        )
    )


def ridge(random: Generator, dimension: int) -> Surface:
    """A bowl with a wall across a random direction."""
    normal = random.normal(size=dimension)
    normal /= np.linalg.norm(normal)
    width, offset = _log_uniform(random, 0.02, 0.2), random.uniform(-0.7, 0.7)
    height = random.uniform(0.2, 3)
    return lambda *x: (
        3 * _bowl(x)
        + height
        * np.exp(
            -((sum(c * u for c, u in zip(x, normal, strict=True)) - offset) ** 2) / 2 / width**2
        )
    )


def hole(random: Generator, dimension: int) -> Surface:
    """A Gaussian field that is not finite in a ball."""
    ground = gaussian_field(random, dimension)
    center, radius = random.uniform(-1, 1, dimension), random.uniform(0.02, 0.5)
    return lambda *x: np.where(
        _bowl(tuple(c - m for c, m in zip(x, center, strict=True))) < radius**2,
        np.nan,
        ground(*x),
    )


CALIBRATION: dict[str, Maker] = {
    f.__name__.replace("_", " "): f
    for f in (gaussian_field, polynomial, bumps, kinks, ridge, hole)
}

# Report --------------------------------------------------------------------------------------


def rough_field(random: Generator, dimension: int) -> Surface:
    """A field with Student's t for a spectrum: one to five derivatives."""
    degrees, length = 2 * random.uniform(1.5, 5), _log_uniform(random, 0.3, 2.0)
    scale = np.sqrt(random.chisquare(degrees, size=(200, 1)) / degrees)
    return _waves(random.normal(size=(200, dimension)) / scale / length, random)


def wells(random: Generator, dimension: int) -> Surface:
    """The soft minimum of some quadratic wells."""
    count, heat = random.integers(2, 6), _log_uniform(random, 0.03, 0.3)
    centers, steep = random.uniform(-1, 1, (count, dimension)), random.uniform(1, 5, count)
    return lambda *x: (
        -heat
        * np.log(
            sum(
                np.exp(-s * _bowl(tuple(c - m for c, m in zip(x, center, strict=True))) / heat)
                for s, center in zip(steep, centers, strict=True)
            )
            + 1e-300
        )
    )


def ripples(random: Generator, dimension: int) -> Surface:
    """`.5 sin^2(f pi x) sin^2(f pi y) + 3 r^2`, where a regular lattice may see only zeros."""
    frequency, shift = (
        random.choice([2.5, 5.0, random.uniform(1, 6)]),
        random.choice([0.0, 0.3]),
    )
    return lambda *x: (
        3 * _bowl(x)
        + 0.5 * np.prod([np.sin(frequency * np.pi * (c + shift)) ** 2 for c in x], axis=0)
    )


def wall(random: Generator, dimension: int) -> Surface:
    """A bowl with a narrow wall along one axis: width .015 at .13 and the like."""
    axis, width = random.integers(dimension), _log_uniform(random, 0.015, 0.1)
    offset, height = random.choice([0.13, random.uniform(-0.9, 0.9)]), random.uniform(1, 5)
    return lambda *x: 3 * _bowl(x) + height * np.exp(-((x[axis] - offset) ** 2) / 2 / width**2)


def stripe(random: Generator, dimension: int, half: float = 0.02) -> Surface:
    """A smooth surface with a stripe of width .04 that is not finite."""
    ground, axis = wells(random, dimension), random.integers(dimension)
    offset = random.choice([0.31, random.uniform(-0.9, 0.9)])
    return lambda *x: np.where(np.abs(x[axis] - offset) <= half, np.nan, ground(*x))


def wide_stripe(random: Generator, dimension: int) -> Surface:
    """The same with a stripe of width .08, which is 4 % of the range."""
    return stripe(random, dimension, half=0.04)


def absolute(random: Generator, dimension: int) -> Surface:
    """Absolute values of random projections, half of the time in an exponential."""
    normals, offsets = random.normal(size=(3, dimension)), random.normal(size=3) / 2
    steep = random.random() < 0.5

    def surface(*x: Array) -> Array:
        total = sum(
            np.abs(sum(c * u for c, u in zip(x, n, strict=True)) - o)
            for n, o in zip(normals, offsets, strict=True)
        )
        return np.asarray(np.exp(total) if steep else total)

    return surface


def narrow_well(random: Generator, dimension: int) -> Surface:
    """A bowl with a Gaussian well of width .08 to .2."""
    center, width = random.uniform(-0.8, 0.8, dimension), random.uniform(0.08, 0.2)
    return lambda *x: (
        _bowl(x)
        - np.exp(-_bowl(tuple(c - m for c, m in zip(x, center, strict=True))) / 2 / width**2)
    )


REPORT: dict[str, Maker] = {
    f.__name__.replace("_", " "): f
    for f in (rough_field, wells, ripples, wall, stripe, absolute, narrow_well)
}
LINES: dict[str, Maker] = REPORT | {"wide stripe": wide_stripe}


class Sine(nn.Module):
    """`sin(30 x)`, the activation of a SIREN."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.sin(30.0 * inputs)


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "ReLU network": nn.ReLU,
    "tanh network": nn.Tanh,
    "GELU network": nn.GELU,
    "SIREN": Sine,
}


def network(kind: str, seed: int) -> la.Objective:
    """A small network, trained for a moment on a noisy curve.

    Args:
        kind: a key of `ACTIVATIONS`.
        seed: of weights and data.

    Returns:
        The mean squared error on 64 points.
    """
    source = generator("maps", kind, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes, activation = (1, 32, 32, 1), ACTIVATIONS[kind]
        layers = [
            layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), activation())
        ][:-1]
        model = nn.Sequential(*layers)
    if kind == "SIREN":
        for layer in layers[2::2]:
            nn.init.uniform_(
                layer.weight, -math.sqrt(6 / 32) / 30, math.sqrt(6 / 32) / 30, source
            )
    inputs = torch.linspace(-1, 1, 64)[:, None]
    targets = torch.sin(5 * inputs) + 0.1 * torch.randn(inputs.shape, generator=source)
    optimizer = torch.optim.Adam(model.parameters(), 0.003)
    for _ in range(100):
        optimizer.zero_grad()
        F.mse_loss(model(inputs), targets).backward()
        optimizer.step()
    return la.Objective(model.eval(), la.supervised(F.mse_loss), [(inputs, targets)])
