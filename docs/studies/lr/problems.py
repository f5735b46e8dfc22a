"""Small training problems on which suggested learning rates are judged."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_wine,
    make_friedman1,
    make_friedman3,
)

from lossatlas.recipes import TrainingSetup
from lossatlas.training import load_dataset
from lossatlas.training.dataset import Dataset

OPTIMIZERS = ("sgd", "adamw")
NETWORKS = Path(__file__).parent / "networks.py"


def _digits(_: Path) -> Dataset:
    return load_dataset("digits")


def _noisy_digits(_: Path) -> Dataset:
    data = load_dataset("digits")
    drawn = torch.Generator().manual_seed(0)
    wrong = torch.rand(len(data), generator=drawn) < 0.2
    other = torch.randint(10, (len(data),), generator=drawn)
    return replace(data, targets=torch.where(wrong, other, data.targets))


def _pixels(_: Path) -> Dataset:
    # An autoencoder: pictures are their own targets.
    data = load_dataset("digits")
    return Dataset(data.inputs, data.inputs.flatten(1), "digits", "regression")


def _mnist(shared: Path) -> Dataset:
    return load_dataset(f"parquet:{shared}/data/mnist/train.parquet", examples=4000)


def _cifar(shared: Path) -> Dataset:
    return load_dataset(f"parquet:{shared}/data/cifar10-jpeg/train.parquet", examples=4000)


def _text(block: int) -> Callable[[Path], Dataset]:
    def load(shared: Path) -> Dataset:
        path = f"{shared}/data/tinyshakespeare/input.txt#block={block}"
        return load_dataset(f"text:{path}", examples=3000)

    return load


def _table(load: Callable[[], tuple[object, object]], task: str) -> Callable[[Path], Dataset]:
    def made(_: Path) -> Dataset:
        inputs, targets = (torch.as_tensor(part, dtype=torch.float32) for part in load())
        inputs = (inputs - inputs.mean(0)) / inputs.std(0)
        if task == "classification":
            classes = tuple(map(str, range(int(targets.max()) + 1)))
            return Dataset(inputs, targets.long(), "table", task, classes)
        targets = (targets - targets.mean()) / targets.std()
        return Dataset(inputs, targets[:, None], "table", task)

    return made


def _spirals(_: Path) -> Dataset:
    drawn = torch.Generator().manual_seed(0)
    classes = torch.arange(1500) % 3
    radius = torch.rand(1500, generator=drawn).sqrt()
    angle = 4 * radius + 2.0944 * classes + 0.2 * torch.randn(1500, generator=drawn)
    inputs = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    return Dataset(inputs, classes, "spirals", "classification", ("a", "b", "c"))


def _teacher(_: Path) -> Dataset:
    drawn = torch.Generator().manual_seed(0)
    inputs = torch.randn(3000, 20, generator=drawn)
    hidden = (inputs @ torch.randn(20, 10, generator=drawn)).relu()
    targets = hidden @ torch.randn(10, 1, generator=drawn)
    targets += 0.1 * targets.std() * torch.randn(3000, 1, generator=drawn)
    targets = (targets - targets.mean()) / targets.std()
    return Dataset(inputs, targets, "teacher", "regression")


def _ratings(_: Path) -> Dataset:
    drawn = torch.Generator().manual_seed(0)
    whole = torch.randn(100, 4, generator=drawn) @ torch.randn(4, 60, generator=drawn) / 2
    places = torch.cartesian_prod(torch.arange(100), torch.arange(60))
    noise = 0.2 * torch.randn(100, 60, generator=drawn)
    kept = torch.randperm(6000, generator=drawn)[:4000]
    targets = (whole + noise).reshape(-1, 1)
    return Dataset(places[kept], targets[kept], "ratings", "regression")


# Name -> data, model, batch size. The horizon rule was chosen on the first six.
DEVELOPED: dict[str, tuple[Callable[[Path], Dataset], str, int]] = {
    "digits, mlp(32), 64": (_digits, "mlp(32)", 64),
    "digits, mlp(64,64,64), 16": (_digits, "mlp(64,64,64)", 16),
    "digits, mlp(128), 256": (_digits, "mlp(128)", 256),
    "digits, cnn, 64": (_digits, "cnn", 64),
    "MNIST, mlp(64), 128": (_mnist, "mlp(64)", 128),
    "Shakespeare, chargpt, 16": (_text(32), "chargpt", 16),
}
HELD_OUT: dict[str, tuple[Callable[[Path], Dataset], str, int]] = {
    "digits, mlp(16), 8": (_digits, "mlp(16)", 8),
    "noisy digits, mlp(64), 32": (_noisy_digits, "mlp(64)", 32),
    "digits, autoencoder mlp(16), 32": (_pixels, "mlp(16)", 32),
    "MNIST, mlp(64,64), 32": (_mnist, "mlp(64,64)", 32),
    "diabetes, mlp(32), 32": (
        _table(lambda: load_diabetes(return_X_y=True), "regression"), "mlp(32)", 32,
    ),
    "breast cancer, mlp(16), 16": (
        _table(lambda: load_breast_cancer(return_X_y=True), "classification"), "mlp(16)", 16,
    ),
    "Friedman, mlp(64), 64": (
        _table(lambda: make_friedman1(2000, random_state=0), "regression"), "mlp(64)", 64,
    ),
    "CIFAR-10, mlp(128), 64": (_cifar, "mlp(128)", 64),
    "digits, cnn, 16": (_digits, "cnn", 16),
    "MNIST, cnn, 64": (_mnist, "cnn", 64),
}  # fmt: skip
# The band was calibrated on all of these. It is judged on the following, which were fixed
# before any of them was run.
JUDGED: dict[str, tuple[Callable[[Path], Dataset], str, int]] = {
    "wine, mlp(16), 16": (
        _table(lambda: load_wine(return_X_y=True), "classification"), "mlp(16)", 16,
    ),
    "Friedman 3, mlp(32,32), 32": (
        _table(lambda: make_friedman3(1500, noise=0.1, random_state=0), "regression"),
        "mlp(32,32)", 32,
    ),
    "spirals, mlp(32,32), 32": (_spirals, "mlp(32,32)", 32),
    "teacher, mlp(128), 128": (_teacher, "mlp(128)", 128),
    "ratings, factors of rank 4, 64": (_ratings, f"{NETWORKS}:Factors", 64),
    "digits, softmax regression, 32": (_digits, f"{NETWORKS}:softmax_regression", 32),
    "digits, mlp with BatchNorm, 32": (_digits, f"{NETWORKS}:normalized_mlp", 32),
    "CIFAR-10, mlp(64,64), 16": (_cifar, "mlp(64,64)", 16),
    "digits, vit, 64": (_digits, "vit(patch=4, layers=1, dim=32)", 64),
    "Shakespeare, LSTM, 16": (_text(32), f"{NETWORKS}:CharLSTM", 16),
}  # fmt: skip
PROBLEMS = DEVELOPED | HELD_OUT | JUDGED


def setup_of(name: str, shared: Path) -> TrainingSetup:
    """The data of a problem in three parts, shuffled once, and its model."""
    load, model, batch_size = PROBLEMS[name]
    data = load(shared)
    if data.task != "language":
        data = data.pick(torch.randperm(len(data), generator=torch.Generator().manual_seed(1)))
    train, rest = round(0.6 * len(data)), round(0.2 * len(data))
    valid, test = data.skip(train).take(rest), data.skip(train + rest)
    return TrainingSetup(
        data.take(train), valid, test, model, batch_size=batch_size, decay=0.0, warmup=60
    )
