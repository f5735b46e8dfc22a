"""The two problems of the study, as settings of `lossatlas inits`."""

from pathlib import Path

from torch import Tensor
from torch.nn.functional import avg_pool2d

from lossatlas.inits.settings import InitsSettings, LabelSettings
from lossatlas.training import load_dataset

SHARED = Path(__file__).parents[4] / "shared" / "data"
SCHEMES = ("xavier_uniform", "kaiming_uniform", "orthogonal", "lsuv", "normal", "uniform")
# 6 schemes x 60: 30 of each at scale 1 exactly, the scales of the others drawn from the range.
LABEL = LabelSettings(
    samples=360,
    schemes=SCHEMES,
    scales=(0.5, 1.5),
    matched=0.5,
    budgets=(1, 2, 5, 10, 25),
    orders=3,
    lr=0.05,
    batch_size=128,
    schedule="cosine",
)


def digits(folder: Path) -> InitsSettings:
    """scikit-learn's digits, MLP 64-32-32-10.

    Args:
        folder: where results are kept.

    Returns:
        The settings.
    """
    return InitsSettings(model="mlp(32, 32)", data="digits", out=folder / "digits", label=LABEL)


def mnist(folder: Path) -> InitsSettings:
    """3,000 pictures of MNIST at 14 x 14 pixels, half of them to train on, MLP 196-32-32-10.

    Args:
        folder: where results are kept.

    Returns:
        The settings.
    """
    label = LABEL.model_copy(update={"samples": 300, "budgets": (1, 3, 10)})
    return InitsSettings(
        model="mlp(32, 32)",
        data=f"{__file__}:pictures",
        test=0.5,
        out=folder / "mnist",
        label=label,
    )


def pictures() -> tuple[Tensor, Tensor]:
    """The first 3,000 pictures of MNIST, means of 2 x 2 pixels.

    Returns:
        (inputs, targets).
    """
    data = load_dataset(f"parquet:{SHARED / 'mnist' / 'train.parquet'}", examples=3000)
    return avg_pool2d(data.inputs, 2), data.targets


PROBLEMS = {"digits": digits, "mnist": mnist}
