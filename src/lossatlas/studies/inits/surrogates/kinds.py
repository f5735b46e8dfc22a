"""The predictors by name: from pairs to predictions."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor
from torch import Tensor, nn

from lossatlas.rng import derive_seed
from lossatlas.studies.inits.problem import Problem
from lossatlas.studies.inits.schemes import find_layers
from lossatlas.studies.inits.settings import InitsSettings
from lossatlas.studies.inits.surrogates.networks import EquivariantNetwork, FlatNetwork
from lossatlas.studies.inits.surrogates.rows import Rows, pieces
from lossatlas.studies.inits.surrogates.summaries import layer_statistics
from lossatlas.studies.inits.surrogates.training import fit_network, predict
from lossatlas.training.seeding import seeded

Array = NDArray[np.float64]
Predictor = Callable[[Tensor], Array]
_CHUNK = 512


@dataclass(frozen=True)
class Task:
    """What a predictor is fitted to.

    Attributes:
        settings: of the study.
        subject: network and data.
        rows: parameters of all pairs.
        losses: clipped, float64, shape (pairs,).
        fitting: indices to fit to.
        checking: indices to stop by.
    """

    settings: InitsSettings
    subject: Problem
    rows: Rows
    losses: Tensor
    fitting: Tensor
    checking: Tensor

    @property
    def scale(self) -> tuple[float, float]:
        """Mean and deviation of the losses that are fitted."""
        chosen = self.losses[self.fitting]
        deviation = float(chosen.std())
        return float(chosen.mean()), deviation if deviation > 0 else 1.0


def fit_flat(task: Task) -> tuple[Predictor, Array]:
    """The published network on flat parameters."""
    moments = task.rows.moments(task.fitting)
    with seeded(task.settings.seed, "flat surrogate"):
        module = FlatNetwork(*moments, task.settings.surrogate.widths)
    return _fit_module(task, module, "flat", lr=5e-4)


def fit_equivariant(task: Task) -> tuple[Predictor, Array]:
    """The network for which exchanged hidden units are the same."""
    like = task.subject.initializer.like
    sample = task.rows(task.fitting[:1000])
    parts = pieces(sample, [value.shape for value in like.values()])
    deviations = [float(part.std()) or 1.0 for part in parts]
    with seeded(task.settings.seed, "equivariant surrogate"):
        module = EquivariantNetwork(find_layers(task.subject.model), like, deviations)
    return _fit_module(task, module, "equivariant", lr=2e-3)


def fit_statistics(task: Task) -> tuple[Predictor, Array]:
    """Layer statistics and gradient boosting."""
    shapes = [value.shape for value in task.subject.initializer.like.values()]
    known = torch.cat([task.fitting, task.checking])
    table = np.concatenate(
        [layer_statistics(task.rows(part), shapes) for part in torch.split(known, _CHUNK)]
    )
    trees = HistGradientBoostingRegressor(
        max_iter=300,
        early_stopping=True,
        validation_fraction=len(task.checking) / len(known),
        n_iter_no_change=20,
        random_state=derive_seed(task.settings.seed, "trees") % 2**31,
    )
    trees.fit(table, task.losses[known].numpy())
    return lambda rows: np.asarray(trees.predict(layer_statistics(rows, shapes))), _empty()


def _fit_module(task: Task, module: nn.Module, name: str, lr: float) -> tuple[Predictor, Array]:
    mean, deviation = task.scale
    targets = ((task.losses - mean) / deviation).float()
    history = fit_network(
        module,
        task.rows,
        targets,
        (task.fitting, task.checking),
        task.settings.surrogate,
        lr=lr,
        seed=derive_seed(task.settings.seed, name) % 2**31,
        resume=task.settings.out / f"surrogate.{name}.resume",
    )

    def predictor(rows: Tensor) -> Array:
        found = predict(module, _chunks(rows)).double().numpy()
        return np.asarray(mean + deviation * found)

    return predictor, history


def _chunks(rows: Tensor) -> Iterator[Tensor]:
    yield from torch.split(rows, _CHUNK)


def _empty() -> Array:
    return np.empty((0, 3))


def timed(job: Callable[[], Array]) -> tuple[Array, float]:
    """A result and the CPU seconds that it took."""
    began = time.process_time()
    result = job()
    return result, time.process_time() - began


FITTERS: dict[str, Callable[[Task], tuple[Predictor, Array]]] = {
    "flat": fit_flat,
    "statistics": fit_statistics,
    "equivariant": fit_equivariant,
}
