"""A training setup: data to train on, choose by and test on, and a model."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from lossatlas.linalg.params import fingerprint
from lossatlas.training.criteria import build_loss
from lossatlas.training.dataset import Dataset


@dataclass(frozen=True)
class TrainingSetup:
    """Data to train on, choose by and test on, and a model; the same for every recipe.

    Attributes:
        train: examples.
        valid: examples by which rates are chosen.
        test: examples that are reported.
        model: as for `build_model`, a name or `file.py:factory`.
        batch_size: examples a batch.
        decay: weight decay of the optimizers.
        warmup: updates of linear warm-up, for every recipe but those with "growth".
        augment: inputs -> inputs, drawn from the global random state.
        loss: as for `build_loss`; "" is what fits the data.

    Examples:
        >>> from lossatlas.training import load_dataset
        >>> data = load_dataset("digits", examples=90)
        >>> rest = data.skip(50)
        >>> setup = TrainingSetup(data.take(50), rest.take(20), rest.skip(20), "mlp(4)")
        >>> setup.identity["batch_size"]
        64
    """

    train: Dataset
    valid: Dataset
    test: Dataset
    model: str
    batch_size: int = 64
    decay: float = 5e-4
    warmup: int = 20
    augment: Callable[[Tensor], Tensor] | None = None
    loss: str = ""

    @property
    def criterion(self) -> Callable[..., Tensor] | None:
        """(output, target) -> loss; None for the cross-entropy of class indices."""
        task = self.train.task
        if task == "classification" and self.loss in {"", "cross_entropy"}:
            return None
        return build_loss(self.loss or None, task=task)

    @property
    def identity(self) -> dict[str, str | float]:
        """The settings, as plain values that tell one problem from another."""
        plain = {
            name: value
            for name, value in vars(self).items()
            if isinstance(value, str | int | float) and value != ""
        }
        return plain | {"augment": getattr(self.augment, "__name__", str(self.augment))}

    @property
    def fingerprint(self) -> str:
        """A digest of the data."""
        parts = {"train": self.train, "valid": self.valid, "test": self.test}
        tensors = {f"{n}.x": d.inputs for n, d in parts.items()}
        return fingerprint(tensors | {f"{n}.y": d.targets for n, d in parts.items()})
