"""Ways of steering the rate, many MLPs at a time, each with its real optimizer and controller.

The members of a block share one optimizer: a block is all seeds at one rate where the optimizer
works coordinate by coordinate, and a single network where it measures whole networks.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from stacked import Weights, each_member, forward
from torch import Tensor
from torch.nn import functional as F

from lossatlas.rng import generator
from lossatlas.steering.averaging import ValleyAverage
from lossatlas.studies.compare import Problem
from lossatlas.workbench import build_model

# Columns of a table: these, of the weights themselves and of their average.
MEASURES = ("valid accuracy", "test accuracy", "test loss")
After = Callable[[int, float, Callable[[], Tensor]], object]


@dataclass
class Block:
    """Members with one optimizer.

    Attributes:
        seeds: of its members.
        weights: leaves, shape (seeds, ...), or without that dimension for a single one.
        optimizer: what steps them.
        after: called after a step with its number, the mean loss, and the loss at the
            present weights on some of the batch.
        rates: the rate after each step.
    """

    seeds: list[int]
    weights: Weights
    optimizer: Any
    after: After
    rates: list[float] = field(default_factory=list)

    def stacked(self) -> Weights:
        """The weights with their leading dimension."""
        alone = len(self.seeds) == 1
        return [w[None] if alone else w for w in self.weights]


def starts(problem: Problem, seeds: Sequence[int]) -> Weights:
    """New leaves for a block.

    Args:
        problem: names the model.
        seeds: of the networks.

    Returns:
        Weights and biases.
    """
    models = [build_model(problem.model, problem.train, seed=seed) for seed in seeds]
    pieces = zip(*([p.detach() for p in m.parameters()] for m in models), strict=True)
    joined = [torch.stack(list(p)) if len(seeds) > 1 else p[0].clone() for p in pieces]
    return [w.requires_grad_() for w in joined]


def run(problem: Problem, blocks: Sequence[Block], horizons: Sequence[int]) -> np.ndarray:
    """Train all blocks on the same orders of the data and read them.

    Args:
        problem: data; its batch size.
        blocks: what is trained.
        horizons: steps, growing.

    Returns:
        Shape (members, horizons, 2, measures): the weights, then their valley average. The
        accuracy of a network that is no longer finite is that of chance.
    """
    seeds = [seed for block in blocks for seed in block.seeds]
    order = _Order(problem, seeds)
    inputs, targets = problem.train.inputs.flatten(1), problem.train.targets
    average = ValleyAverage([w for block in blocks for w in block.weights])
    tables = []
    for step in range(1, horizons[-1] + 1):
        rows = order.next()
        x, y = inputs[rows], targets[rows]
        losses = _losses(_joined(blocks), x, y)
        losses.sum().backward()
        _step(blocks, step, losses.detach(), x, y)
        average.update()
        if step in horizons:
            tables.append(_read(problem, blocks, average))
    return np.stack(tables, 1)


class _Order:
    def __init__(self, problem: Problem, seeds: list[int]) -> None:
        self.distinct = sorted(set(seeds))
        self.where = torch.tensor([self.distinct.index(seed) for seed in seeds])
        self.drawn = [generator("order", seed) for seed in self.distinct]
        self.examples, self.batch = len(problem.train), problem.batch_size
        self.place = 0

    def next(self) -> Tensor:
        """Rows of the batch of each member; the same seed has the same ones everywhere."""
        if self.place + self.batch > self.examples or not self.place:
            self.epoch = torch.stack(
                [torch.randperm(self.examples, generator=drawn) for drawn in self.drawn]
            )
            self.place = 0
        rows = self.epoch[:, self.place : self.place + self.batch]
        self.place += self.batch
        return rows[self.where]


def _step(blocks: Iterable[Block], step: int, losses: Tensor, x: Tensor, y: Tensor) -> None:
    first = 0
    for block in blocks:
        part = slice(first, first + len(block.seeds))
        first = part.stop
        block.optimizer.step()
        block.optimizer.zero_grad()

        def closure(block: Block = block, part: slice = part) -> Tensor:
            return _losses(block.stacked(), x[part, :32], y[part, :32]).sum()

        block.after(step, float(losses[part].mean()), closure)
        block.rates.append(float(block.optimizer.param_groups[0]["lr"]))


def _joined(blocks: Sequence[Block]) -> Weights:
    return [torch.cat(list(same)) for same in zip(*(b.stacked() for b in blocks), strict=True)]


def _losses(weights: Weights, x: Tensor, y: Tensor) -> Tensor:
    logits, _ = forward(weights, x)
    return F.cross_entropy(logits.mT, y, reduction="none").mean(1)


def _read(problem: Problem, blocks: Sequence[Block], average: ValleyAverage) -> np.ndarray:
    own = [block.optimizer for block in blocks if hasattr(block.optimizer, "eval")]
    for optimizer in own:
        optimizer.eval()
    raw = _measured(problem, blocks)
    for optimizer in own:
        optimizer.train()
    with average.swapped():
        return np.stack([raw, _measured(problem, blocks)], 1)


def _measured(problem: Problem, blocks: Sequence[Block]) -> np.ndarray:
    weights = [w.detach() for w in _joined(blocks)]
    columns: list[Tensor] = []
    for data in (problem.valid, problem.test):
        outputs = each_member(weights, data.inputs)
        right = (outputs.argmax(2) == data.targets).double().mean(1)
        finite = outputs.isfinite().all(2).all(1)
        columns.append(torch.where(finite, right, 1 / problem.train.outputs))
    targets = problem.test.targets.expand(len(outputs), -1)
    columns.append(F.cross_entropy(outputs.mT, targets, reduction="none").mean(1).double())
    return torch.stack(columns, 1).numpy()


def shares(told: str | None, steps: int, warmup: int) -> Callable[[int], float]:
    """A schedule: the share of the base rate at each step.

    Args:
        told: "cosine" or "wsd", which are told `steps`; None is constant.
        steps: the horizon.
        warmup: steps of a linear start.

    Returns:
        step from 0 -> share.
    """

    def share(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if told == "cosine":
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
        if told == "wsd":
            cooled = round(0.2 * steps)
            return min(1.0, 1 - math.sqrt(max(step - (steps - cooled), 0) / cooled))
        return 1.0

    return share
