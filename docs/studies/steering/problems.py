"""The problems of the study: data that lie beside the checkout, small networks, splits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from lossatlas.recipes import TrainingSetup
from lossatlas.training import load_dataset
from lossatlas.training.dataset import Dataset

SHARED = Path(__file__).parents[4] / "shared" / "data"
# Earlier trials took the first rows of each set.
FRESH = 20_000


def mnist(train: int = 4000, valid: int = 1000, test: int = 5000) -> TrainingSetup:
    """MNIST at 14 x 14 pixels, fresh examples, an MLP without normalization layers.

    Args:
        train: examples to train on.
        valid: examples by which rates are chosen.
        test: examples that are reported.

    Returns:
        The setup.
    """
    parts = _parts("mnist", train, valid, test, lambda x: F.avg_pool2d(x, 2))
    return TrainingSetup(*parts, model="mlp(64, 64)")


def cifar(train: int = 4000, valid: int = 1000, test: int = 2000) -> TrainingSetup:
    """CIFAR-10 (JPEG) at 16 x 16 pixels, a CNN with BatchNorm, flips and shifts.

    Args:
        train: examples to train on.
        valid: examples by which rates are chosen.
        test: examples that are reported.

    Returns:
        The setup.
    """
    parts = _parts("cifar10-jpeg", train, valid, test, lambda x: F.avg_pool2d(x, 2))
    return TrainingSetup(*parts, model="cnn(8, 16)", augment=flips_and_shifts)


def digits() -> TrainingSetup:
    """scikit-learn's digits, 400 to train on, a small MLP: what penalties are tried on.

    Returns:
        The setup.
    """
    data = load_dataset("digits", normalize="standardized")
    pieces = [_rows(data, *bounds) for bounds in ((0, 400), (400, 800), (800, len(data)))]
    return TrainingSetup(*pieces, model="mlp(64, 64)", batch_size=32, decay=0.0, warmup=0)


def flips_and_shifts(inputs: Tensor) -> Tensor:
    """Mirror half of the pictures, shift all by up to two pixels.

    Args:
        inputs: pictures.

    Returns:
        Pictures of the same shape.
    """
    mirrored = torch.rand(len(inputs), 1, 1, 1) < 0.5
    down, right = torch.randint(-2, 3, (2,)).tolist()
    return torch.where(mirrored, inputs.flip(3), inputs).roll((down, right), (2, 3))


def _parts(
    folder: str, train: int, valid: int, test: int, change: Callable[[Tensor], Tensor]
) -> tuple[Dataset, Dataset, Dataset]:
    both, last = (
        load_dataset(f"parquet:{SHARED}/{folder}/{file}.parquet", normalize="standardized")
        for file in ("train", "test")
    )
    both = _rows(both, FRESH, FRESH + train + valid)
    both, last = (
        replace(d, inputs=change(d.inputs)) for d in (both, _rows(last, -test, len(last)))
    )
    return _rows(both, 0, train), _rows(both, train, train + valid), last


def _rows(data: Dataset, start: int, stop: int) -> Dataset:
    return replace(data, inputs=data.inputs[start:stop], targets=data.targets[start:stop])
