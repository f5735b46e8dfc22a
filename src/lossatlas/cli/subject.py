"""From settings to what is surveyed: a model with its data, or an objective of one's own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lossatlas.cli.output import Output
from lossatlas.cli.shared_options import SubjectSettings
from lossatlas.errors import ArgumentError, AtlasError, NonFiniteError, StructureError
from lossatlas.landscape.engines import Metric
from lossatlas.objective import Objective, accuracy, supervised
from lossatlas.objective.modes import Mode
from lossatlas.objective.user_code import wrap_errors
from lossatlas.ranks import world_size
from lossatlas.training.checkpoints import load_weights
from lossatlas.training.criteria import build_loss
from lossatlas.training.dataset import Dataset
from lossatlas.training.datasets import load_dataset
from lossatlas.training.devices import chosen_device
from lossatlas.training.models import build_model, normalization_of
from lossatlas.training.specs import find_factory

DEMO_MODEL = "mlp(32)"
# What an objective of one's own decides by itself.
_OWN = ("model", "data", "loss", "batch_size", "examples", "mode", "device")


@dataclass(frozen=True, eq=False)
class Subject:
    """What is surveyed.

    Attributes:
        title: its name.
        model: holds the weights.
        settings: what it was made from.
        data: None where the objective is the user's own.
        own: the user's own objective.
    """

    title: str
    model: nn.Module
    settings: SubjectSettings
    data: Dataset | None = None
    own: Objective | None = None

    def objective(self, mode: Mode | None = None) -> Objective:
        """Model, loss and data as one function of the weights."""
        if self.data is None:
            assert self.own is not None
            return self.own
        loss = supervised(build_loss(self.settings.loss, task=self.data.task))
        batches = self.data.batches(self.settings.batch_size)
        if world_size() == 1:
            return Objective(self.model, loss, batches, mode=mode or "eval")
        spread = torch.distributed
        held = batches[spread.get_rank() :: spread.get_world_size()]
        group = spread.group.WORLD
        return Objective(self.model, loss, held, mode=mode or "eval", group=group)

    def load(self, file: Path, note: Callable[[str], None]) -> None:
        """Load a checkpoint into the model; what is to be said of it goes to `note`."""
        said: list[str] = []
        try:
            load_weights(
                self.model, file, key=self.settings.key, prefix=self.settings.prefix,
                note=said.append,
            )  # fmt: skip
        except StructureError as error:
            if self.settings.model is not None or self.own is not None:
                raise
            raise StructureError(
                f"{error} No --model was given, so the default model {DEMO_MODEL} was used; "
                "give the model of the file with --model."
            ) from None
        for name, value in self.model.named_parameters():
            if not bool(value.isfinite().all()):
                raise NonFiniteError(
                    f"'{file}': '{name}' holds {int((~value.isfinite()).sum())} numbers that "
                    "are NaN or infinite; give a checkpoint with finite weights."
                )
        for sentence in said:
            note(f"{file.name}: {sentence}")

    def metrics(self, objective: Objective, output: Output) -> dict[str, Metric]:
        """Accuracy, where the data have classes and the model serves it."""
        if self.data is not None and self.data.task != "classification":
            return {}
        try:
            objective.evaluate_all({"accuracy": accuracy})
        except AtlasError as error:
            output.note(f"accuracy is left out: {error}")
            return {}
        return {"accuracy": accuracy}


def load_subject(settings: SubjectSettings) -> Subject:
    """The subject of a survey, without the weights of files."""
    if settings.objective is not None:
        return _own_subject(settings, settings.objective)
    name = settings.model or DEMO_MODEL
    data = load_dataset(
        settings.data, examples=settings.examples, normalize=normalization_of(name)
    )
    model = build_model(name, data, seed=settings.seed).to(chosen_device(settings.device))
    return Subject(f"{name} on {settings.data}", model, settings, data)


def _own_subject(settings: SubjectSettings, spec: str) -> Subject:
    for name in _OWN:
        given = getattr(settings, name)
        if given != type(settings).model_fields[name].default:
            raise ArgumentError(
                f"`{name}` and `objective` say the same thing; got {given!r} and {spec!r}: "
                "leave one out."
            )
    make = find_factory("objective", spec)
    with wrap_errors(f"`objective`: '{spec}'", "check its code.", ArgumentError):
        own = make()
    if not isinstance(own, Objective):
        raise ArgumentError(
            f"`objective`: '{spec}' must return a lossatlas.Objective; got "
            f"{type(own).__name__}."
        )
    return Subject(spec, own.model, settings, own=own)


def chance_of(subject: Subject) -> dict[str, Any]:
    """The accuracy of always naming the largest class, and how many classes there are."""
    if subject.data is None:
        return {}
    if subject.data.task == "language" and subject.settings.loss in (None, "cross_entropy"):
        return {"classes": subject.data.outputs}
    if subject.data.task != "classification":
        return {}
    counts = torch.bincount(subject.data.targets.flatten().cpu().long())
    classes = int((counts > 0).sum())
    share = float(counts.max() / counts.sum())
    return {"chance": {"share": share, "classes": classes}} if classes > 1 else {}
