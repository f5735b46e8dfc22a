"""The weights that a survey looks at: from files, or from a training before it."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import Tensor
from torch.optim import Optimizer

from lossatlas.cli.output import Output
from lossatlas.cli.subject import Subject
from lossatlas.cli.survey_settings import DEMO_STEPS
from lossatlas.errors import ArgumentError
from lossatlas.linalg.params import Params, snapshot
from lossatlas.training import build_loss, train
from lossatlas.training.optimizers import build_optimizer

if TYPE_CHECKING:
    from lossatlas.cli.survey_settings import SurveySettings

Prepared = tuple[tuple[Params, ...], Optimizer | None]


def prepare_weights(settings: "SurveySettings", subject: Subject, output: Output) -> Prepared:
    """Load or train the weights; the checkpoints to draw, and the optimizer of a training."""
    steps = settings.train.steps
    if settings.checkpoints and steps:
        raise ArgumentError(
            "`checkpoints` and `train.steps` both say where the training went; leave one out."
        )
    states = _load_files(settings, subject, output)
    if steps is None:
        has_subject = settings.model or settings.states or states or settings.objective
        steps = 0 if has_subject else DEMO_STEPS
    return _trained(settings, subject, steps, output) if steps else (states, None)


def _load_files(
    settings: "SurveySettings", subject: Subject, output: Output
) -> tuple[Params, ...]:
    for file in settings.states:
        subject.load(file, output.note)
    surveyed, states = snapshot(subject.model.state_dict()), []
    for file in settings.checkpoints:
        subject.load(file, output.note)
        states.append(snapshot(subject.model.state_dict()))
    # Otherwise the last checkpoint is surveyed.
    if states and settings.states:
        subject.model.load_state_dict(surveyed)
    return tuple(states)


def _trained(
    settings: "SurveySettings", subject: Subject, steps: int, output: Output
) -> Prepared:
    if subject.data is None:
        raise ArgumentError(
            "`train.steps` trains on `data`; an objective of your own comes trained, or with "
            "--weights."
        )
    output.note(f"training for {steps} steps ...")
    optimizers: list[Optimizer] = []

    def make(weights: Iterable[Tensor], lr: float | None = None) -> Optimizer:
        optimizers.append(build_optimizer(settings.train.optimizer, weights, lr))
        return optimizers[-1]

    run = train(
        subject.model,
        subject.data,
        settings.loss or build_loss(None, task=subject.data.task),
        steps=steps,
        optimizer=make,
        lr=settings.train.lr,
        batch_size=settings.train.batch_size,
        seed=settings.seed,
        schedule="cosine",
        keep=min(settings.train.checkpoints, steps),
    )
    for group in optimizers[0].param_groups:
        # Its schedule ends near zero: the rate to judge is the one it came from.
        group["lr"] = settings.lr or group["initial_lr"]
    return run.checkpoints, optimizers[0]
