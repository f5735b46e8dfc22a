"""Small training problems on which suggested learning rates are judged."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, make_friedman1

from lossatlas.recipes import TrainingSetup
from lossatlas.training import load_dataset
from lossatlas.training.dataset import Dataset

OPTIMIZERS = ("sgd", "adamw")


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
            return Dataset(inputs, targets.long(), "table", task, ("no", "yes"))
        targets = (targets - targets.mean()) / targets.std()
        return Dataset(inputs, targets[:, None], "table", task)

    return made


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
PROBLEMS = DEVELOPED | HELD_OUT


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
