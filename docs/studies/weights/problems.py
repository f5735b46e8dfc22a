"""The problems of the study: data beside the checkout, networks, and how they are trained."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lossatlas as la
from lossatlas.rng import generator
from lossatlas.training import build_model, load_dataset
from lossatlas.training.chargpt import CharGPT
from lossatlas.training.dataset import Dataset

SHARED = Path(__file__).parents[4] / "shared" / "data"
State = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Problem:
    """A network, its data in three parts, and its training.

    Attributes:
        make: an untrained network from a seed.
        train: what networks are trained on.
        choose: what alignments and coefficients are chosen on.
        test: what numbers are reported on.
        steps: of Adam, whose rate falls linearly to 0.
        lr: the first rate.
        batch_size: examples a step.
    """

    make: Callable[[int], nn.Module]
    train: Dataset
    choose: Dataset
    test: Dataset
    steps: int
    lr: float = 1e-3
    batch_size: int = 128

    def objective(self, part: Dataset, mode: str = "eval", size: int = 250) -> la.Objective:
        """The loss of an example (of a sequence) on some data in batches."""
        return la.Objective(self.make(0), loss, part.batches(size), mode=mode, check=False)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of each example; of a text, the mean over its characters."""
    inputs, targets = batch
    outputs = model(inputs)
    if targets.ndim == 1:
        return F.cross_entropy(outputs, targets, reduction="none")
    return F.cross_entropy(outputs.mT, targets, reduction="none").mean(1)


def accuracy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Share of classes or characters that are right, of each example."""
    inputs, targets = batch
    right = (model(inputs).argmax(-1) == targets).float()
    return right if right.ndim == 1 else right.mean(1)


def trained(
    problem: Problem,
    seed: int,
    *,
    start: State | None = None,
    data: Dataset | None = None,
    steps: int | None = None,
) -> tuple[State, State]:
    """Train a network.

    Args:
        problem: what is trained.
        seed: of the initial weights and the order of the batches.
        start: weights to start from in the place of initial ones.
        data: in the place of the training data.
        steps: in the place of the problem's.

    Returns:
        The state, and Adam's second moments, corrected for their start.
    """
    model, count = problem.make(seed).train(), steps or problem.steps
    if start is not None:
        model.load_state_dict(start)
    data = data or problem.train
    optimizer = torch.optim.AdamW(model.parameters(), lr=problem.lr)
    draw = generator(seed, "batches")
    for step in range(count):
        optimizer.param_groups[0]["lr"] = problem.lr * (1 - step / count)
        rows = torch.randint(len(data), (problem.batch_size,), generator=draw)
        optimizer.zero_grad()
        loss(model, (data.inputs[rows], data.targets[rows])).mean().backward()
        optimizer.step()
    named = dict(model.named_parameters())
    moments = {
        name: optimizer.state[value]["exp_avg_sq"] / (1 - 0.999**count)
        for name, value in named.items()
    }
    return {name: value.clone() for name, value in model.state_dict().items()}, moments


@cache
def mlp(*hidden: int) -> Problem:
    """MNIST at 28 x 28 pixels; three and a half epochs."""
    data, test = _pictures("mnist")
    spec = f"mlp({', '.join(map(str, hidden))})"

    def make(seed: int) -> nn.Module:
        return build_model(spec, data, seed=seed)

    train, choose = data.take(55_000), data.skip(55_000).take(2000)
    return Problem(make, train, choose, test, steps=1500)


@cache
def resnet() -> Problem:
    """CIFAR-10 (JPEG) at 16 x 16 pixels, 6,000 of them."""
    data, test = (_small(part) for part in _pictures("cifar10-jpeg", 8000))
    train, choose = data.take(6000), data.skip(6000).take(1000)
    return Problem(NarrowResNet, train, choose, test.take(3000), steps=300, lr=3e-3)


@cache
def cnn() -> Problem:
    """MNIST at 14 x 14 pixels and a CNN with BatchNorm."""
    data, test = (_small(part) for part in _pictures("mnist"))

    def make(seed: int) -> nn.Module:
        return build_model("cnn(16, 32)", data, seed=seed)

    return Problem(make, data.skip(2000), data.take(2000), test.take(5000), steps=150)


@cache
def chargpt(layers: int = 1) -> Problem:
    """TinyShakespeare in blocks of 64 characters; every fifth of its plays' parts is test."""
    data = load_dataset(f"text:{SHARED / 'tinyshakespeare' / 'input.txt'}", block=64)
    part = torch.arange(len(data)) // 50 % 10
    rows = [part >= 2, part == 0, part == 1]
    train, choose, test = (data.pick(chosen.nonzero().flatten()) for chosen in rows)
    few = generator(0, "few")
    choose, test = (p.pick(torch.randperm(len(p), generator=few)) for p in (choose, test))

    def make(seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return CharGPT(
                vocabulary=len(data.vocabulary), block=64, layers=layers, heads=4, width=64
            )

    return Problem(
        make, train, choose.take(300), test.take(1500), steps=500, lr=3e-3, batch_size=32
    )


class NarrowResNet(nn.Module):
    """Three residual blocks of 16 channels with projections, BatchNorm and ReLU.

    Args:
        seed: of the initial weights.
    """

    def __init__(self, seed: int) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            super().__init__()
            self.stem, self.norm = (
                nn.Conv2d(3, 16, 3, padding=1, bias=False),
                nn.BatchNorm2d(16),
            )
            self.blocks = nn.ModuleList(_Block(16, 16, stride) for stride in (1, 2, 2))
            self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = F.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(x.mean((2, 3)))
        return out


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.short = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norms[0](self.first(x)))
        return F.relu(self.norms[1](self.second(y)) + self.norms[2](self.short(x)))


def _pictures(name: str, count: int | None = None) -> tuple[Dataset, Dataset]:
    train, test = (
        load_dataset(
            f"parquet:{SHARED / name / part}.parquet",
            examples=count,
            normalize="standardized",
        )
        for part in ("train", "test")
    )
    order = torch.randperm(len(train), generator=generator(0, name))
    return train.pick(order), test


def _small(data: Dataset) -> Dataset:
    return replace(data, inputs=F.avg_pool2d(data.inputs, 2))
