"""Settings of `lossatlas train`."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from lossatlas.cli.settings import Strict

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_EPOCHS = 20


class TrainingSettings(Strict):
    """Everything that `lossatlas train` can be told."""

    recipe: str = "adamw+climb"
    compare: list[str] | None = Field(default=None, min_length=1)
    model: str = "mlp(32)"
    data: str = "digits"
    test: str | None = None
    loss: str | None = None
    epochs: int | None = Field(default=None, ge=1)
    steps: int | None = Field(default=None, ge=1)
    lr: list[Rate] = Field(default=[1e-3], min_length=1)
    seeds: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=64, ge=1)
    examples: int | None = Field(default=None, ge=10)
    valid: float = Field(default=0.2, gt=0, lt=0.5, allow_inf_nan=False)
    tested: float = Field(default=0.2, gt=0, lt=0.5, allow_inf_nan=False)
    split_seed: int = Field(default=0, ge=0)
    decay: float = Field(default=5e-4, ge=0, allow_inf_nan=False)
    warmup: int | None = Field(default=None, ge=0)
    device: str = "cpu"
    jobs: int = Field(default=1, ge=-1)
    out: Path = Path("training")
    title: str | None = None

    @model_validator(mode="after")
    def _agree(self) -> "TrainingSettings":
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give `epochs` or `steps`, not both")
        if self.compare is not None and "recipe" in self.model_fields_set:
            raise ValueError("give `recipe` or `compare`, not both")
        if self.jobs == 0:
            raise ValueError("`jobs` must be a number of processes, or -1 for one a core")
        return self

    @property
    def recipes(self) -> list[str]:
        """What is trained."""
        return [self.recipe] if self.compare is None else self.compare

    @property
    def repeats(self) -> int:
        """Trainings of each kind."""
        return self.seeds or (1 if self.compare is None else 5)

    def updates(self, examples: int) -> int:
        """The length of a training."""
        if self.steps is not None:
            return self.steps
        return (self.epochs or _EPOCHS) * -(-examples // self.batch_size)


def listed(text: str | None) -> list[str] | None:
    """What stands between commas."""
    return None if text is None else [part.strip() for part in text.split(",")]
