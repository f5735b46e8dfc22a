"""Points at one distance from initializations: where only the landscape tells them apart."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from torch import Tensor

from lossatlas.landscape.directions import filter_normalized
from lossatlas.rng import derive_seed, generator
from lossatlas.studies.inits.candidate import Candidate
from lossatlas.studies.inits.problem import Problem
from lossatlas.studies.inits.settings import InitsSettings

Array = NDArray[np.float64]
DIMENSION, RADIUS = 4, 0.5


@dataclass(frozen=True)
class Neighborhood:
    """Points around one initialization, in an affine subspace.

    Attributes:
        known: coordinates in the ball, shape (points, DIMENSION), for a local predictor.
        asked: coordinates on the sphere, likewise: all at one distance from the middle.
        known_losses: true losses, shape (points,).
        asked_losses: likewise.
        rows: flat parameters of the points asked for, shape (points, parameters).
    """

    known: Array
    asked: Array
    known_losses: Array
    asked_losses: Array
    rows: Tensor


def neighborhoods(settings: InitsSettings, subject: Problem) -> list[Neighborhood]:
    """Initializations that no predictor was fitted to, and the ground around each."""
    plan, schemes = settings.surrogate, list(settings.generate.schemes)
    found = []
    for index in range(plan.anchors):
        seed = derive_seed(settings.seed, "anchor", index) % 2**31
        anchor = Candidate(schemes[index % len(schemes)], 1.0, seed)
        found.append(_around(subject, anchor, plan.points))
    return found


def _around(subject: Problem, anchor: Candidate, points: int) -> Neighborhood:
    random = generator("inits", "around", anchor.seed)
    origin = subject.initializer.draw(anchor)
    flat = torch.cat([value.reshape(-1) for value in origin.values()])
    directions = torch.stack(
        [
            torch.cat([v.reshape(-1) for v in filter_normalized(drawn, origin).values()])
            for drawn in (
                {n: torch.randn(v.shape, generator=random).to(v) for n, v in origin.items()}
                for _ in range(DIMENSION)
            )
        ]
    )
    on_sphere = torch.randn(2 * points, DIMENSION, generator=random, dtype=torch.float64)
    on_sphere *= RADIUS / on_sphere.norm(dim=1, keepdim=True)
    inside = torch.rand(points, 1, generator=random, dtype=torch.float64) ** (1 / DIMENSION)
    coordinates = torch.cat([on_sphere[:points] * inside, on_sphere[points:]])
    rows = flat + coordinates.to(flat) @ directions
    shapes = {name: value.shape for name, value in origin.items()}
    parts = torch.split(rows, [shape.numel() for shape in shapes.values()], dim=1)
    stacked = {
        name: part.reshape(-1, *shape)
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }
    losses = subject.true_losses()(stacked).numpy()
    places = coordinates.numpy()
    return Neighborhood(
        places[:points], places[points:], losses[:points], losses[points:], rows[points:].cpu()
    )


def gaussian_process(around: Neighborhood) -> tuple[Array, Array]:
    """A Gaussian process in the subspace, fitted to the known points."""
    import warnings

    kernel = ConstantKernel(1.0, (1e-3, 1e4)) * RBF([1.0] * DIMENSION, (0.05, 100.0))
    process = GaussianProcessRegressor(
        kernel + WhiteKernel(1e-6, (1e-10, 1.0)), normalize_y=True, random_state=0
    )
    with warnings.catch_warnings():
        # A length at its bound is an answer: the loss does not change along that direction.
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit(around.known, around.known_losses)
        mean, deviation = process.predict(around.asked, return_std=True)
    return np.asarray(mean), np.asarray(deviation)
