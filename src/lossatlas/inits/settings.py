"""Settings of an initialization study: one model serves the command, YAML and Python."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, FiniteFloat

from lossatlas.settings import (
    DATA,
    DEVICE,
    EXAMPLES,
    LOSS,
    MODEL,
    SEED,
    Strict,
    common,
    option,
    subject,
)  # fmt: skip

# What a study is told is kept in its folder, so that the next stage need not be told again.
REMEMBERED = "settings.yaml"
_FIRST_LINE = "# Kept by lossatlas inits: the settings of this study.\n"
STAGES = ("generate", "fit-surrogate", "label", "fit-quality", "figures")


def _ordered(scales: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= scales[0] <= scales[1]:
        raise ValueError("a range of scales goes up from 0 or more")
    return scales


Scales = Annotated[tuple[FiniteFloat, FiniteFloat], AfterValidator(_ordered)]
SCHEMES = ("xavier_uniform", "kaiming_uniform", "orthogonal")
_SHARES = {
    "xavier_normal": 0.20,
    "kaiming_normal": 0.20,
    "orthogonal": 0.20,
    "lsuv": 0.10,
    "normal": 0.15,
    "uniform": 0.15,
}


class GenerateSettings(Strict):
    """Settings of stage 1: recipes and their true losses."""

    samples: int = option(5000, "Samples of recipe and loss.", ge=10)
    schemes: dict[str, FiniteFloat] = option(_SHARES, "Scheme -> share of the samples.")
    scales: Scales = option((0.5, 1.5), "Lowest and highest scale.")
    perturbed: float = option(0.9, "Share that is perturbed.", ge=0, le=1)
    noise: float = option(
        0.2, "Largest perturbation, a share of the weights.", ge=0, allow_inf_nan=False
    )
    interpolated: float = option(0.1, "Share of mixtures of the better ones.", ge=0, lt=1)
    chunk: int = option(1024, "Samples evaluated, and kept, at once.", ge=1)


class SurrogateSettings(Strict):
    """Settings of stage 2: predictors of the loss."""

    kinds: tuple[str, ...] = option(
        ("flat", "statistics", "subspace", "equivariant"), "Predictors."
    )
    epochs: int = option(200, "Epochs of the networks, at most.", ge=1)
    batch_size: int = option(256, "Samples a batch.", ge=2)
    held_out: float = option(0.2, "Share of the samples to test on.", gt=0, lt=1)
    widths: tuple[int, ...] = option((2048, 1024, 512, 256, 128), "Layers of the flat network.")
    patience: int = option(30, "Epochs without progress before a network stops.", ge=1)
    limit: int = option(100_000, "Samples that a predictor is fitted to, at most.", ge=10)
    anchors: int = option(12, "Initializations around which predictors are tried.", ge=1)
    points: int = option(64, "Points around each of them.", ge=8)


class LabelSettings(Strict):
    """Settings of the trainings, stage 3 of the study.

    A share `matched` of the candidates has scale 1 exactly: within a scheme these differ in
    the seed only. The scales of the others are drawn evenly from `scales`.
    """

    samples: int = option(200, "Initializations to train.", ge=1)
    schemes: tuple[str, ...] | None = option(
        None,
        f"Schemes, in turn. By default {', '.join(SCHEMES)}; a ranking takes the model's own "
        "initialization.",
    )
    scales: Scales = option((0.6, 1.4), "Lowest and highest scale.")
    matched: float = option(0.5, "Share with scale 1 exactly.", ge=0, le=1)
    budgets: tuple[int, ...] = option((1, 5, 25), "Epochs after which the loss is read.")
    orders: int = option(3, "Trainings of each, in other orders of the data.", ge=1)
    optimizer: Literal["sgd", "adamw"] = option("sgd", "Optimizer.")
    lr: float = option(0.05, "Learning rate.", gt=0, allow_inf_nan=False)
    weight_decay: float = option(1e-4, "Weight decay.", ge=0, allow_inf_nan=False)
    batch_size: int = option(32, "Examples a batch.", ge=1)
    schedule: Literal["constant", "cosine"] = option("cosine", "Learning rate schedule.")
    together: int = option(50, "Networks trained at once.", ge=1)


class QualitySettings(Strict):
    """Settings of stage 4: features and what they predict.

    Planes of several radii, in norms of the filters, and points are measured around each
    candidate. Ridge regression is always among the predictors and gives the p-values.
    """

    epochs: int = option(150, "Epochs of the network that predicts.", ge=1)
    regressors: tuple[Literal["boosted", "network"], ...] = option(
        ("boosted", "network"), "Predictors besides ridge regression."
    )
    budget: int | None = option(None, "Budget to predict. By default the last.", ge=1)
    measure: Literal["test loss", "train loss"] = option("test loss", "What is predicted.")
    planes: int = option(2, "Planes of each radius.", ge=1)
    points: int = option(15, "Points along each direction of a plane.", ge=3)
    radii: tuple[float, ...] = option((0.1, 0.5, 1.0), "Half the widths of the planes.")
    scattered: int = option(650, "Points scattered around a candidate.", ge=20)
    folds: int = option(5, "Folds of the cross-validation.", ge=2)
    resamples: int = option(1000, "Resamples of the intervals.", ge=10)


class FigureSettings(Strict):
    """Settings of stage 5: figures."""

    format: Literal["pdf", "png", "html"] = option("png", "Format of the figures.")


class InitsSettings(Strict):
    """Settings of `lossatlas inits`; where work runs changes no bit of the results."""

    model: str = subject("mlp(32, 32)", MODEL, short="m")
    data: str = subject("digits", DATA, short="d")
    loss: str | None = subject(None, LOSS)
    examples: int | None = subject(None, EXAMPLES, ge=2)
    test: float = subject(0.25, "Examples to test on; a share if below 1.", gt=0)
    probe: int = subject(256, "Training examples on which landscapes are measured.", ge=1)
    device: str = subject("cpu", DEVICE)
    executor: Literal["serial", "joblib", "ray"] = option("serial", "Where work is shared out.")
    out: Path = common(Path("inits"), "Folder of the study.", short="o")
    seed: int = common(0, SEED, ge=0)
    generate: GenerateSettings = GenerateSettings()
    surrogate: SurrogateSettings = SurrogateSettings()
    label: LabelSettings = LabelSettings()
    quality: QualitySettings = QualitySettings()
    figures: FigureSettings = FigureSettings()

    def identity(self, *sections: str) -> dict[str, Any]:
        """What a file depends on: the subject, and the sections of the stages behind it.

        Args:
            *sections: out of "generate", "surrogate", "label", "quality".

        Returns:
            Plain values; equal for files that go together. Where work runs is not part of it.
        """
        common = ("model", "data", "loss", "examples", "test", "probe", "seed")
        return self.model_dump(mode="json", include={*common, *sections})


def kept_text(text: str) -> str:
    """Settings in YAML with the line that tells them from a file of the user."""
    return _FIRST_LINE + text


def is_kept(path: Path) -> bool:
    """Whether a file of settings was written by a study, not by the user."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline() == _FIRST_LINE
    except (OSError, UnicodeDecodeError):
        return False
