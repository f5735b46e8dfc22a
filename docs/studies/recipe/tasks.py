"""The tasks of the study: small enough for seconds, different enough to disagree."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, make_friedman1
from torch import Tensor, nn
from torch.nn import functional as F

from lossatlas.recipes import TrainingSetup
from lossatlas.rng import generator
from lossatlas.training import load_dataset
from lossatlas.training.dataset import Dataset

SHARED = Path(__file__).parents[4] / "shared" / "data"
HERE = Path(__file__)
FIVE = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


@dataclass(frozen=True)
class Task:
    """A task and how long it is trained.

    Attributes:
        make: the setup.
        horizons: updates at which runs are read.
        part: "choose" (what recipes were developed on) or "report".
        measure: "accuracy" or "loss".
        rates: learning rates that are tried.
    """

    make: Callable[[], TrainingSetup]
    horizons: tuple[int, int, int]
    part: str
    measure: str = "accuracy"
    rates: tuple[float, ...] = (3e-4, *FIVE, 3e-1)


def digits_mlp() -> TrainingSetup:
    """Digits, 900 to train on, an MLP."""
    return TrainingSetup(*_digits(900), model="mlp(32, 32)", batch_size=32)


def digits_noisy() -> TrainingSetup:
    """Digits with 30 % of the training labels drawn anew."""
    train, valid, test = _digits(900)
    drawn = generator("noisy labels")
    wrong = torch.rand(len(train), generator=drawn) < 0.3
    other = torch.randint(0, 10, (len(train),), generator=drawn)
    targets = torch.where(wrong, other, train.targets)
    return TrainingSetup(
        replace(train, targets=targets), valid, test, model="mlp(32, 32)", batch_size=32
    )


def digits_cnn() -> TrainingSetup:
    """Digits, 400 to train on, a CNN with BatchNorm."""
    return TrainingSetup(*_digits(400), model="cnn(6, 12)", batch_size=32)


def autoencoder(batch_size: int) -> TrainingSetup:
    """Digits through a bottleneck of 8, squared error."""
    parts = [
        replace(d, inputs=d.inputs.flatten(1), targets=d.inputs.flatten(1), task="regression")
        for d in _digits(900)
    ]
    return TrainingSetup(*parts, model=f"{HERE}:bottleneck", batch_size=batch_size)


def diabetes() -> TrainingSetup:
    """200 rows of a regression that overfits."""
    x, y = load_diabetes(return_X_y=True)
    return _table(x, y, (200, 100, 142), batch_size=32)


def friedman() -> TrainingSetup:
    """A regression without overfitting."""
    x, y = make_friedman1(2600, noise=0.5, random_state=0)
    return _table(x, y, (1600, 400, 600), batch_size=64)


def cancer() -> TrainingSetup:
    """Two classes, 250 rows."""
    x, y = load_breast_cancer(return_X_y=True)
    return _table(x, y, (250, 120, 199), batch_size=16, classes=2)


def mnist() -> TrainingSetup:
    """MNIST at 7 x 7 pixels, an MLP."""
    parts = _pictures("mnist", (3000, 1000, 2000), 4)
    return TrainingSetup(*parts, model="mlp(48, 48)")


def cifar() -> TrainingSetup:
    """CIFAR-10 (JPEG) at 8 x 8 pixels, a CNN with BatchNorm, flips and shifts."""
    parts = _pictures("cifar10-jpeg", (3000, 500, 1000), 4)
    return TrainingSetup(*parts, model="cnn(6, 12)", augment=flips_and_shifts)


def text(model: str) -> TrainingSetup:
    """Characters of Shakespeare in blocks of 16."""
    data = load_dataset(f"text:{SHARED}/tinyshakespeare/input.txt", block=16)
    pieces = [_rows(data, *b) for b in ((0, 8000), (12_000, 12_300), (16_000, 16_600))]
    return TrainingSetup(*pieces, model=model, batch_size=16, decay=0.01)


def flips_and_shifts(inputs: Tensor) -> Tensor:
    """Mirror half of the pictures, shift all by up to one pixel.

    Args:
        inputs: pictures.

    Returns:
        Pictures of the same shape.
    """
    mirrored = torch.rand(len(inputs), 1, 1, 1) < 0.5
    down, right = torch.randint(-1, 2, (2,)).tolist()
    return torch.where(mirrored, inputs.flip(3), inputs).roll((down, right), (2, 3))


class CharLSTM(nn.Module):
    """One LSTM layer over characters, written out: torch's own cannot be stacked.

    Args:
        vocabulary: characters.
        width: of embedding and state.
    """

    def __init__(self, vocabulary: int, width: int = 24) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.inputs, self.state = nn.Linear(width, 4 * width), nn.Linear(width, 4 * width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits, shape (batch, block, vocabulary).

        Args:
            tokens: shape (batch, block).

        Returns:
            The logits.
        """
        gates = self.inputs(self.embed(tokens)).unbind(1)
        hidden = cell = gates[0].chunk(4, 1)[0] * 0
        states = []
        for gate in gates:
            into, forget, new, out = (gate + self.state(hidden)).chunk(4, 1)
            cell = forget.sigmoid() * cell + into.sigmoid() * new.tanh()
            hidden = out.sigmoid() * cell.tanh()
            states.append(hidden)
        return self.head(torch.stack(states, 1))


def lstm(vocabulary: int) -> nn.Module:
    """The model of the LSTM task.

    Args:
        vocabulary: characters.

    Returns:
        The model.
    """
    return CharLSTM(vocabulary)


def bottleneck(outputs: int) -> nn.Module:
    """The model of the autoencoder tasks.

    Args:
        outputs: pixels.

    Returns:
        The model.
    """
    sizes = (outputs, 32, 8, 32, outputs)
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def _digits(count: int) -> tuple[Dataset, Dataset, Dataset]:
    data = load_dataset("digits", normalize="standardized")
    return _rows(data, 0, count), _rows(data, 900, 1300), _rows(data, 1300, len(data))


def _table(x, y, counts, *, batch_size: int, classes: int = 0) -> TrainingSetup:
    order = torch.randperm(len(x), generator=generator("rows"))
    inputs = torch.as_tensor(x, dtype=torch.float32)[order]
    targets = torch.as_tensor(y)[order]
    train = counts[0]
    inputs = (inputs - inputs[:train].mean(0)) / inputs[:train].std(0)
    if not classes:
        targets = targets.float()[:, None]
        targets = (targets - targets[:train].mean()) / targets[:train].std()
    pieces, start = [], 0
    for count in counts:
        rows = slice(start, start + count)
        pieces.append(
            Dataset(
                inputs[rows],
                targets[rows],
                name="table",
                task="classification" if classes else "regression",
                classes=tuple(map(str, range(classes))),
            )
        )
        start += count
    return TrainingSetup(*pieces, model="mlp(32, 32)", batch_size=batch_size)


def _pictures(folder: str, counts: tuple[int, int, int], shrink: int) -> list[Dataset]:
    train, valid, test = counts
    both, last = (
        load_dataset(f"parquet:{SHARED}/{folder}/{file}.parquet", normalize="standardized")
        for file in ("train", "test")
    )
    parts = [
        _rows(both, 40_000, 40_000 + train),
        _rows(both, 40_000 + train, 40_000 + train + valid),
        _rows(last, 0, test),
    ]
    return [replace(d, inputs=F.avg_pool2d(d.inputs, shrink)) for d in parts]


def _rows(data: Dataset, start: int, stop: int) -> Dataset:
    return replace(data, inputs=data.inputs[start:stop], targets=data.targets[start:stop])


TASKS = {
    "digits": Task(digits_mlp, (100, 200, 400), "choose"),
    "diabetes": Task(diabetes, (50, 150, 450), "choose", "loss"),
    "Friedman": Task(friedman, (100, 200, 400), "choose", "loss"),
    "breast cancer": Task(cancer, (50, 100, 200), "choose"),
    "autoencoder, batch 32": Task(lambda: autoencoder(32), (100, 200, 400), "choose", "loss"),
    "CIFAR-10": Task(cifar, (50, 100, 200), "choose", rates=FIVE),
    "digits, noisy labels": Task(digits_noisy, (100, 200, 400), "report"),
    "autoencoder, batch 4": Task(lambda: autoencoder(4), (100, 200, 400), "report", "loss"),
    "MNIST": Task(mnist, (75, 150, 300), "report"),
    "digits, CNN": Task(digits_cnn, (50, 100, 200), "report", rates=FIVE),
    "char-LSTM": Task(
        lambda: text(f"{HERE}:lstm"), (60, 120, 240), "report", "loss", (*FIVE[1:], 3e-1)
    ),
    "char-GPT": Task(
        lambda: text("chargpt(width=24, layers=1, heads=2)"),
        (60, 120, 240),
        "report",
        "loss",
        FIVE,
    ),
}
