"""Predictors of the loss by name: how each is fitted, and what it gives.

Trainings of networks are resumable in the middle, bit for bit.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lossatlas.guard import preserved_modes
from lossatlas.inits.candidates import Candidate
from lossatlas.inits.networks import (
    EquivariantNetwork,
    FlatNetwork,
    Rows,
    layer_statistics,
    pieces,
)
from lossatlas.inits.problem import Problem
from lossatlas.inits.schemes import find_layers
from lossatlas.inits.settings import InitsSettings, SurrogateSettings
from lossatlas.io import from_bytes, to_bytes, writing
from lossatlas.landscape.directions import filter_normalized
from lossatlas.linalg.params import Params
from lossatlas.objective import Batch
from lossatlas.rng import derive_seed, generator
from lossatlas.training.dataset import Dataset
from lossatlas.training.seeding import seeded
from lossatlas.training.training import StepInfo, train

Array = NDArray[np.float64]
_WARMUP, _CLIP, _DECAY, _SHRINK = 10, 1.0, 1e-4, 1e-3
_CHUNK = 512
# Points of a local predictor: coordinates, and their distance from the initialization.
DIMENSION, RADIUS = 4, 0.5
# Seconds between two checkpoints of a training.
EVERY = 20.0


@dataclass
class _State:
    step: int = 0
    best: float = math.inf
    stale: int = 0
    history: list[Sequence[float]] = field(default_factory=list)


def fit_network(
    module: nn.Module,
    rows: Rows,
    targets: Tensor,
    parts: tuple[Tensor, Tensor],
    plan: SurrogateSettings,
    *,
    lr: float,
    seed: int,
    resume: Path,
) -> Array:
    """Train a predictor in place and leave it at its best epoch on the validation rows."""
    fitting, checking = parts
    data = Dataset(fitting[:, None], targets[fitting, None], "pairs", "regression")
    checkpoint = _Checkpoint(module, resume)
    per_epoch = -(-len(data) // plan.batch_size)
    seen: list[float] = []

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        indices, wanted = batch
        predicted = network(rows(indices[:, 0]))
        error: Tensor = F.mse_loss(predicted, wanted[:, 0]) + _SHRINK * predicted.abs().mean()
        return error

    def after(tick: StepInfo) -> bool:
        seen.append(tick.loss)
        if tick.step % per_epoch:
            return False
        error = _error(module, rows, targets, checking)
        rate = float(tick.optimizer.param_groups[0]["lr"])
        checkpoint.note(tick, [float(np.mean(seen)), error, rate])
        seen.clear()
        return checkpoint.state.stale >= plan.patience

    if checkpoint.state.stale < plan.patience:
        train(
            module,
            data,
            loss,
            steps=plan.epochs * per_epoch,
            optimizer=lambda weights: checkpoint.optimizer(weights, lr),
            batch_size=plan.batch_size,
            seed=seed,
            schedule=lambda step, steps: _share(step // per_epoch, steps // per_epoch),
            callback=after,
            start=checkpoint.state.step,
        )
    checkpoint.finish()
    return np.array(checkpoint.state.history, dtype=np.float64)


def _share(epoch: int, epochs: int) -> float:
    if epoch < _WARMUP:
        return (epoch + 1) / _WARMUP
    return 0.5 * (1 + math.cos(math.pi * (epoch - _WARMUP) / max(1, epochs - _WARMUP)))


def predict(module: nn.Module, chunks: Iterable[Tensor]) -> Tensor:
    """Predictions in eval mode."""
    with torch.no_grad(), preserved_modes(module):
        module.eval()
        return torch.cat([module(chunk) for chunk in chunks])


def _error(module: nn.Module, rows: Rows, targets: Tensor, indices: Tensor) -> float:
    predicted = predict(module, (rows(part) for part in torch.split(indices, _CHUNK)))
    return float((predicted - targets[indices]).abs().mean())


class _Checkpoint:
    """The state of a training on disk, and its best weights so far."""

    def __init__(self, module: nn.Module, path: Path) -> None:
        self.module, self.path = module, path
        self.state = _State()
        self.best: dict[str, Tensor] = {}
        self._made: torch.optim.AdamW | None = None
        self._moments: Sequence[dict[str, Tensor]] = ()
        self._saved = time.monotonic()
        if path.is_file():
            self._read()

    def optimizer(self, weights: list[Tensor], lr: float) -> torch.optim.AdamW:
        made = torch.optim.AdamW(weights, lr=lr, weight_decay=_DECAY)
        if self._moments:
            state = {"state": dict(enumerate(self._moments))}
            made.load_state_dict(made.state_dict() | state)

        def clip(*_: object) -> None:
            nn.utils.clip_grad_norm_(weights, _CLIP)

        made.register_step_pre_hook(clip)
        self._made = made
        return made

    def note(self, tick: StepInfo, row: list[float]) -> None:
        state = self.state
        state.step, state.stale = tick.step, state.stale + 1
        state.history.append(row)
        if row[1] < state.best:
            state.best, state.stale = row[1], 0
            self.best = {n: v.detach().clone() for n, v in self.module.state_dict().items()}
        if time.monotonic() - self._saved >= EVERY:
            self._write()
            self._saved = time.monotonic()

    def finish(self) -> None:
        if self.best:
            self.module.load_state_dict(self.best)
        self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        assert self._made is not None
        kept = {
            "model": self.module.state_dict(),
            "best": self.best,
            "moments": list(self._made.state_dict()["state"].values()),
            "state": vars(self.state),
        }
        with writing(self.path) as temporary:
            temporary.write_bytes(to_bytes(kept))

    def _read(self) -> None:
        kept = from_bytes(self.path.read_bytes())
        self.module.load_state_dict(kept["model"])
        self.best, self._moments = kept["best"], kept["moments"]
        self.state = _State(**kept["state"] | {"history": list(kept["state"]["history"])})


Predictor = Callable[[Tensor], Array]


@dataclass(frozen=True)
class Task:
    """What a predictor is fitted to.

    Attributes:
        settings: of the study.
        problem: network and data.
        rows: parameters of all pairs.
        losses: clipped, float64, shape (pairs,).
        fitting: indices to fit to.
        checking: indices to stop by.
    """

    settings: InitsSettings
    problem: Problem
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
    like = task.problem.initializer.like
    sample = task.rows(task.fitting[:1000])
    parts = pieces(sample, [value.shape for value in like.values()])
    deviations = [float(part.std()) or 1.0 for part in parts]
    with seeded(task.settings.seed, "equivariant surrogate"):
        module = EquivariantNetwork(find_layers(task.problem.model), like, deviations)
    return _fit_module(task, module, "equivariant", lr=2e-3)


def fit_statistics(task: Task) -> tuple[Predictor, Array]:
    """Layer statistics and gradient boosting."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    shapes = [value.shape for value in task.problem.initializer.like.values()]
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
    return lambda rows: np.asarray(trees.predict(layer_statistics(rows, shapes))), np.empty(
        (0, 3)
    )


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
        scaled = predict(module, torch.split(rows, _CHUNK)).double().numpy()
        return np.asarray(mean + deviation * scaled)

    return predictor, history


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


@dataclass(frozen=True)
class LocalSample:
    """Points around one initialization, in an affine subspace.

    Attributes:
        fitted: coordinates in the ball, shape (points, DIMENSION), for a local predictor.
        tested: coordinates on the sphere, likewise: all at one distance from the middle.
        fitted_losses: true losses, shape (points,).
        tested_losses: likewise.
        rows: flat parameters of the tested points, shape (points, parameters).
    """

    fitted: Array
    tested: Array
    fitted_losses: Array
    tested_losses: Array
    rows: Tensor


def neighborhoods(settings: InitsSettings, problem: Problem) -> list[LocalSample]:
    """Initializations that no predictor was fitted to, and points around each."""
    plan, schemes = settings.surrogate, list(settings.generate.schemes)
    samples = []
    for index in range(plan.anchors):
        seed = derive_seed(settings.seed, "anchor", index) % 2**31
        anchor = Candidate(schemes[index % len(schemes)], 1.0, seed)
        samples.append(_around(problem, anchor, plan.points))
    return samples


def _around(problem: Problem, anchor: Candidate, points: int) -> LocalSample:
    random = generator("inits", "around", anchor.seed)
    origin = problem.initializer.draw(anchor)
    flat = torch.cat([value.reshape(-1) for value in origin.values()])
    directions = torch.stack([_direction(origin, random) for _ in range(DIMENSION)])
    on_sphere = torch.randn(2 * points, DIMENSION, generator=random, dtype=torch.float64)
    on_sphere *= RADIUS / on_sphere.norm(dim=1, keepdim=True)
    inside = torch.rand(points, 1, generator=random, dtype=torch.float64) ** (1 / DIMENSION)
    coordinates = torch.cat([on_sphere[:points] * inside, on_sphere[points:]])
    rows = flat + coordinates.to(flat) @ directions
    parts = pieces(rows, [value.shape for value in origin.values()])
    stacked = dict(zip(origin, parts, strict=True))
    losses = problem.true_losses()(stacked).numpy()
    places = coordinates.numpy()
    return LocalSample(
        places[:points], places[points:], losses[:points], losses[points:], rows[points:].cpu()
    )


def _direction(origin: Params, random: torch.Generator) -> Tensor:
    drawn = {n: torch.randn(v.shape, generator=random).to(v) for n, v in origin.items()}
    return torch.cat([v.reshape(-1) for v in filter_normalized(drawn, origin).values()])


def gaussian_process(around: LocalSample) -> tuple[Array, Array]:
    """A Gaussian process in the subspace, fitted to the known points."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    kernel = ConstantKernel(1.0, (1e-3, 1e4)) * RBF([1.0] * DIMENSION, (0.05, 100.0))
    process = GaussianProcessRegressor(
        kernel + WhiteKernel(1e-6, (1e-10, 1.0)), normalize_y=True, random_state=0
    )
    with warnings.catch_warnings():
        # A length at its bound is an answer: the loss does not change along that direction.
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit(around.fitted, around.fitted_losses)
        mean, deviation = process.predict(around.tested, return_std=True)
    return np.asarray(mean), np.asarray(deviation)
