"""Several checkpoints of one model, for the commands that compare, join or change them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from lossatlas.cli.output import Output
from lossatlas.cli.shared_options import SubjectSettings
from lossatlas.cli.subject import Subject, load_subject
from lossatlas.errors import ArgumentError
from lossatlas.io import Provenance
from lossatlas.linalg.params import Params, snapshot
from lossatlas.objective import Objective
from lossatlas.report import write_report
from lossatlas.result import Result
from lossatlas.training.checkpoints import save_weights
from lossatlas.training.datasets import load_dataset
from lossatlas.training.models import normalization_of
from lossatlas.weights.adapters import is_adapter, with_adapter
from lossatlas.weights.network_result import complete_state, state_dict_of


@dataclass(frozen=True, eq=False)
class Checkpoints:
    """A model with its data, and the states of some files.

    Attributes:
        subject: what the files are weights of.
        objective: on the data of the command.
        states: full state dicts, in the order of the files.
    """

    subject: Subject
    objective: Objective
    states: tuple[dict[str, Tensor], ...]

    def on(self, data: str) -> Objective:
        """The same loss on other data."""
        settings, own = self.subject.settings, self.subject.own
        if own is not None:
            raise ArgumentError(
                f"an objective of your own holds its data; got {data!r} beside it: use the "
                "Python functions of lossatlas.weights for several data sets."
            )
        loaded = load_dataset(
            data,
            examples=settings.examples,
            normalize=normalization_of(settings.model or ""),
        )
        return replace(self.subject, data=loaded).objective(self.objective.mode)

    def report(self, result: Result, file: Path, title: str) -> Path:
        """Write the page of a result."""
        settings, (model, data) = self.subject.settings, self.objective.fingerprint()
        seed, used = settings.seed, settings.model_dump(mode="json")
        record = Provenance(seed=seed, settings=used, model=model, data=data)
        return write_report(result, file, title=title, provenance=record)

    def write(self, params: Params, file: Path) -> Path:
        """Write a network with all buffers; running statistics that fit it."""
        state = state_dict_of(*complete_state(self.objective, params, self.states[0]))
        return self.save(state, file)

    def save(self, state: Params, file: Path) -> Path:
        """Write all of a state dict, which the model holds from then on."""
        model = self.subject.model
        model.load_state_dict(state)
        return save_weights(model.state_dict(), file)


def load_checkpoints(
    settings: SubjectSettings, files: Sequence[Path], output: Output
) -> Checkpoints:
    """Read files into states of one model, or take its initial weights where there are none."""
    if settings.weights is not None and settings.weights not in files:
        raise ArgumentError(
            f"`weights` has no place beside files; got {str(settings.weights)!r}: "
            "name it among the files."
        )
    subject = load_subject(settings)
    states: list[dict[str, Tensor]] = []
    for file in files:
        if states and is_adapter(file):
            output.note(f"{file.name}: a LoRA adapter, added to the base as a product")
            states.append(with_adapter(states[0], file))
            continue
        subject.load(file, output.note)
        states.append(snapshot(subject.model.state_dict()))
    states = states or [snapshot(subject.model.state_dict())]
    subject.model.load_state_dict(states[0])
    for parameter in subject.model.parameters() if subject.own is None else ():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    objective = subject.objective(settings.mode)
    return Checkpoints(subject, objective, tuple(states))
