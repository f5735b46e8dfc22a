"""Eight small tasks, and many trainings of one network side by side."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from sklearn import datasets
from torch import Tensor
from torch.nn import functional as F

from lossatlas.rng import generator
from lossatlas.steering import ProbeGrid, Reading

RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
STEPS, EVERY, MOMENTUM, EXAMPLES = 600, 25, 0.9, 24
# Scales that any policy may reach.
LOWEST, HIGHEST = 0.05, 20.0
GRID = ProbeGrid()


@dataclass(frozen=True)
class Task:
    """Data and a network.

    Attributes:
        name: as the page calls it.
        widths: of the layers, inputs and classes left out.
        batch_size: examples of an update.
        noise: share of wrong labels in training.
    """

    name: str
    widths: tuple[int, ...]
    batch_size: int
    noise: float = 0.0

    def data(self) -> tuple[Tensor, Tensor, int]:
        """Inputs of unit variance, classes, and how many of these there are."""
        inputs, targets = _DATA[self.name.split(",")[0]]()
        x = torch.as_tensor(np.asarray(inputs), dtype=torch.float32)
        x = (x - x.mean(0)) / x.std(0).clamp_min(1e-3)
        y = torch.as_tensor(np.asarray(targets), dtype=torch.long)
        order = torch.randperm(len(y), generator=generator("split", self.name))
        return x[order], y[order], int(y.max()) + 1


def _digits() -> tuple[np.ndarray, np.ndarray]:
    return datasets.load_digits(return_X_y=True)


def _parity() -> tuple[np.ndarray, np.ndarray]:
    inputs, targets = _digits()
    return inputs, targets % 2


def _teacher() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(1500, 10))
    logits = np.tanh(inputs @ draw.normal(size=(10, 12))) @ draw.normal(size=(12, 4))
    return inputs, logits.argmax(1)


def _spirals() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(1)
    turn, arm = draw.uniform(0.3, 1, 1500), draw.integers(0, 3, 1500)
    angle = 5 * turn + 2 * math.pi * arm / 3 + 0.15 * draw.normal(size=1500)
    return np.stack([turn * np.cos(angle), turn * np.sin(angle)], 1), arm


_DATA: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
    "digits": _digits,
    "parity of digits": _parity,
    "breast cancer": lambda: datasets.load_breast_cancer(return_X_y=True),
    "wine": lambda: datasets.load_wine(return_X_y=True),
    "teacher": _teacher,
    "spirals": _spirals,
}
TASKS = (
    Task("digits, batch 32", (32,), 32),
    Task("digits, batch 8", (32,), 8),
    Task("digits, noisy labels", (32,), 32, noise=0.2),
    Task("digits, three layers", (32, 32, 32), 64),
    Task("parity of digits", (32,), 32),
    Task("breast cancer", (16,), 16),
    Task("teacher", (32, 32), 32),
    Task("spirals", (32, 32), 32),
)


class Stack:
    """Trainings of one task side by side: all rates and seeds, no one sees another.

    Args:
        task: data and network.
        seeds: of weights and of the order of the data.
    """

    def __init__(self, task: Task, seeds: range) -> None:
        x, y, classes = task.data()
        valid = len(y) // 3
        self.valid, self.train = (x[:valid], y[:valid]), (x[valid:], y[valid:].clone())
        wrong = generator("noise", task.name)
        moved = torch.rand(len(self.train[1]), generator=wrong) < task.noise
        shift = 1 + torch.randint(classes - 1, self.train[1].shape, generator=wrong)
        self.train[1][moved] = ((self.train[1] + shift) % classes)[moved]
        self.task, self.seeds, self.members = task, seeds, len(seeds) * len(RATES)
        self.rates = torch.tensor(RATES).repeat_interleave(len(seeds))
        sizes = (x.shape[1], *task.widths, classes)
        self.weights = [w.repeat(len(RATES), 1, 1) for w in self._initial(sizes)]
        self.velocity = [torch.zeros_like(w) for w in self.weights]
        self.scale = torch.ones(self.members)
        self.draws = [generator("order", task.name, s) for s in seeds]
        self.losses: list[Tensor] = []

    def _initial(self, sizes: tuple[int, ...]) -> list[Tensor]:
        # Weights and, as a last row, biases of every layer.
        found = []
        for layer, (a, b) in enumerate(pairwise(sizes)):
            each = [
                torch.randn(a, b, generator=generator("weights", s, layer)) * math.sqrt(2 / a)
                for s in self.seeds
            ]
            found.append(F.pad(torch.stack(each), (0, 0, 0, 1)))
        return found

    def losses_of(self, weights: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy of every example of every member, shape (members, examples)."""
        hidden = x
        for layer, w in enumerate(weights):
            hidden = torch.baddbmm(w[:, -1:], hidden, w[:, :-1])
            hidden = hidden.relu() if layer < len(weights) - 1 else hidden
        flat = F.cross_entropy(hidden.flatten(0, 1), y.flatten(), reduction="none")
        return flat.view(y.shape)

    def batch(self) -> tuple[Tensor, Tensor]:
        """The next examples of every member; those of one seed are alike at all rates."""
        count, size = len(self.train[1]), min(self.task.batch_size, len(self.train[1]))
        rows = torch.stack([torch.randint(count, (size,), generator=d) for d in self.draws])
        rows = rows.repeat(len(RATES), 1)
        return self.train[0][rows], self.train[1][rows]

    def update(self) -> None:
        """One step of every member at its rate times its scale."""
        x, y = self.last = self.batch()
        weights = [w.detach().requires_grad_() for w in self.weights]
        loss = self.losses_of(weights, x, y).mean(1)
        self.losses.append(loss.detach())
        grads = torch.autograd.grad(loss.sum(), weights)
        rate = (self.rates * self.scale)[:, None, None]
        for w, v, g in zip(self.weights, self.velocity, grads, strict=True):
            v.mul_(MOMENTUM).add_(g)
            w.sub_(rate * v)

    @torch.no_grad()
    def read(self, step: int) -> list[Reading]:
        """What `RegimePolicy` reads, of every member, on the last batch."""
        x, y = (part[:, :EXAMPLES] for part in self.last)
        plane = [self._direction(step, axis) for axis in range(2)]
        found = []
        for a, b in GRID.points.tolist():
            moved = [w + a * u + b * v for w, u, v in zip(self.weights, *plane, strict=True)]
            found.append(self.losses_of(moved, x, y).mean(1))
        losses = torch.stack(found).double()
        center, mean = losses[0], losses[GRID.ring].mean(0)
        trained = torch.stack(self.losses[-EVERY:]).double().mean(0)
        sharp, varied = (mean - center) / center, losses.std(0) / losses.mean(0)
        rows = torch.stack([center, sharp, varied, trained]).T.tolist()
        return [
            Reading(step, loss=c, sharpness=s, variability=v, train_loss=t)
            for c, s, v, t in rows
        ]

    def _direction(self, step: int, axis: int) -> list[Tensor]:
        # Random signs of the size of each filter; biases stay.
        drawn = generator("probe", self.task.name, step, axis)
        found = []
        for w in self.weights:
            signs = 2.0 * torch.randint(0, 2, w.shape, generator=drawn) - 1
            size = w[:, :-1].square().mean(1, keepdim=True).sqrt()
            signs[:, -1] = 0
            found.append(signs * size)
        return found

    @torch.no_grad()
    def validation(self) -> np.ndarray:
        """The validation loss of every member; that of chance at most."""
        x, y = (part.expand(self.members, *part.shape) for part in self.valid)
        found = self.losses_of(self.weights, x, y).mean(1).double().numpy()
        worst = math.log(self.weights[-1].shape[-1])
        return np.where(np.isfinite(found), np.minimum(found, worst), worst)
