"""Settings of an initialization study: one model serves the command, YAML and Python."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat

STAGES = ("generate", "fit-surrogate", "label", "fit-quality", "figures")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _ordered(scales: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= scales[0] <= scales[1]:
        raise ValueError("a range of scales goes up from 0 or more")
    return scales


Scales = Annotated[tuple[FiniteFloat, FiniteFloat], AfterValidator(_ordered)]


class GenerateSettings(_Strict):
    """Stage 1: recipes and their true losses (`--set generate.NAME=VALUE`)."""

    samples: int = Field(default=5000, ge=10)
    schemes: dict[str, FiniteFloat] = {
        "xavier_normal": 0.20,
        "kaiming_normal": 0.20,
        "orthogonal": 0.20,
        "lsuv": 0.10,
        "normal": 0.15,
        "uniform": 0.15,
    }
    scales: Scales = (0.5, 1.5)
    perturbed: float = Field(default=0.9, ge=0, le=1)
    noise: float = Field(default=0.2, ge=0, allow_inf_nan=False)
    interpolated: float = Field(default=0.1, ge=0, lt=1)
    # Evaluated at once; what is not finished when a run dies is done again.
    chunk: int = Field(default=1024, ge=1)


class SurrogateSettings(_Strict):
    """Stage 2: predictors of the loss (`--set surrogate.NAME=VALUE`)."""

    kinds: tuple[str, ...] = ("flat", "statistics", "subspace", "equivariant")
    epochs: int = Field(default=200, ge=1)
    batch_size: int = Field(default=256, ge=2)
    held_out: float = Field(default=0.2, gt=0, lt=1)
    widths: tuple[int, ...] = (2048, 1024, 512, 256, 128)
    patience: int = Field(default=30, ge=1)
    # Samples that a predictor is fitted to at most.
    limit: int = Field(default=100_000, ge=10)
    # Initializations around which predictors are tried, and points around each.
    anchors: int = Field(default=12, ge=1)
    points: int = Field(default=64, ge=8)


class LabelSettings(_Strict):
    """Stage 3: trainings (`--set label.NAME=VALUE`).

    A share `matched` of the candidates has scale 1 exactly: within a scheme these differ in
    the seed only. The scales of the others are drawn evenly from `scales`.
    """

    samples: int = Field(default=200, ge=1)
    schemes: tuple[str, ...] = ("xavier_uniform", "kaiming_uniform", "orthogonal")
    scales: Scales = (0.6, 1.4)
    matched: float = Field(default=0.5, ge=0, le=1)
    budgets: tuple[int, ...] = (1, 5, 25)
    orders: int = Field(default=3, ge=1)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(default=0.05, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(default=1e-4, ge=0, allow_inf_nan=False)
    batch_size: int = Field(default=32, ge=1)
    schedule: Literal["constant", "cosine"] = "cosine"
    together: int = Field(default=50, ge=1)


class QualitySettings(_Strict):
    """Stage 4: features and what they predict (`--set quality.NAME=VALUE`)."""

    epochs: int = Field(default=150, ge=1)
    # Beside ridge regression, which is always there and gives the p-values.
    heads: tuple[Literal["boosted", "network"], ...] = ("boosted", "network")
    budget: int | None = Field(default=None, ge=1)
    measure: Literal["test loss", "train loss"] = "test loss"
    # Around each candidate: planes of several radii, in norms of the filters, and points.
    planes: int = Field(default=2, ge=1)
    points: int = Field(default=15, ge=3)
    radii: tuple[float, ...] = (0.1, 0.5, 1.0)
    scattered: int = Field(default=650, ge=20)
    folds: int = Field(default=5, ge=2)
    resamples: int = Field(default=1000, ge=10)


class FigureSettings(_Strict):
    """Stage 5: pictures (`--set figures.NAME=VALUE`)."""

    format: Literal["pdf", "png", "html"] = "png"


class InitsSettings(_Strict):
    """Everything that `lossatlas inits` can be told.

    Attributes:
        model: as for `build_model`; its parameters are replaced by those of the candidates.
        data: as for `load_dataset`.
        test: examples kept for testing, drawn by `seed`; a share if below 1.
        probe: training examples in the fixed batch on which landscapes are measured.
        folder: where the files are.
        executor: "serial", "joblib" or "ray"; the bits are the same.
    """

    model: str = "mlp(32, 32)"
    data: str = "digits"
    loss: str | None = None
    examples: int | None = Field(default=None, ge=2)
    test: float = Field(default=0.25, gt=0)
    probe: int = Field(default=256, ge=1)
    seed: int = Field(default=0, ge=0)
    device: str = "cpu"
    folder: Path = Path("inits")
    executor: Literal["serial", "joblib", "ray"] = "serial"
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
