"""Stage 2: fit every predictor, and score all of them on points that none has seen."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossatlas.checks import check_one_of
from lossatlas.errors import DataError
from lossatlas.executor import Progress, run_tasks
from lossatlas.rng import generator
from lossatlas.store import open_ledger
from lossatlas.studies.inits.files import ledger_of, provenance, stage_identity
from lossatlas.studies.inits.problem import Problem
from lossatlas.studies.inits.samples import Samples
from lossatlas.studies.inits.settings import InitsSettings
from lossatlas.studies.inits.surrogates.kinds import FITTERS, Task, timed
from lossatlas.studies.inits.surrogates.local import (
    Neighborhood,
    gaussian_process,
    neighborhoods,
)
from lossatlas.studies.inits.surrogates.result import Surrogates
from lossatlas.studies.inits.surrogates.rows import Rows
from lossatlas.studies.inits.threads import one_thread

Array = NDArray[np.float64]
KINDS = ("flat", "statistics", "subspace", "equivariant")
_LEAST = 20
# As published: what lies beyond is not told apart.
_CLIP = (0.1, 100.0)
_TIMED = 512


def fit_surrogates(
    settings: InitsSettings,
    subject: Problem,
    pairs: Samples,
    *,
    progress: Progress | None = None,
) -> Surrogates:
    """Fit the predictors of `surrogate.kinds` and score them.

    A share `surrogate.held_out` of the pairs is set aside before anything else; a tenth of the
    others says when to stop. What is done is kept in the folder, trainings in the middle too.

    Args:
        settings: of the study.
        subject: network and data.
        pairs: of stage 1.
        progress: called with (done, total, label) after every predictor.

    Returns:
        Predictions, true losses, and what each cost.

    Raises:
        UnknownNameError: an unknown kind.
        DataError: too few pairs with a finite loss.
        ModelError: a network that the equivariant predictor cannot read.
        ResumeError: the folder holds unfinished work of other settings.
    """
    plan = settings.surrogate
    for kind in plan.kinds:
        check_one_of("surrogate.kinds", kind, KINDS)
    held, fitting, checking = _parts(settings, pairs)
    rows = Rows(subject.initializer, pairs.candidates)
    losses = torch.from_numpy(np.clip(pairs.losses, *_CLIP))
    task = Task(settings, subject, rows, losses, fitting, checking)
    run = stage_identity(settings, "fit-surrogate", subject.fingerprint)
    with one_thread():
        around = neighborhoods(settings, subject)
        trial = _Trial(task, held, around, *_seconds(subject, pairs))
        with open_ledger(ledger_of(settings, "fit-surrogate"), run) as ledger:
            kinds = {kind: kind for kind in plan.kinds}
            tables = list(run_tasks(kinds, lambda: trial.run, ledger=ledger, progress=progress))
    return Surrogates(
        plan.kinds,
        held.numpy(),
        pairs.schemes[held.numpy()],
        losses[held].numpy(),
        np.stack([table["predictions"][0] for table in tables]),
        np.stack([each.asked_losses for each in around]),
        np.stack([table["near"] for table in tables]),
        np.stack([table["spread"] for table in tables]),
        dict(zip(plan.kinds, (table["history"] for table in tables), strict=True)),
        np.stack([table["seconds"][0] for table in tables]),
        trial.true_seconds,
        provenance(settings, "fit-surrogate", subject.fingerprint),
    )


def _parts(settings: InitsSettings, pairs: Samples) -> tuple[Tensor, Tensor, Tensor]:
    finite = torch.from_numpy(np.flatnonzero(np.isfinite(pairs.losses)))
    random = generator(settings.seed, "held out")
    mixed = finite[torch.randperm(len(finite), generator=random)]
    plan = settings.surrogate
    out = round(plan.held_out * len(mixed))
    rest = mixed[out:][: plan.limit]
    check = len(rest) // 10
    if len(mixed) < _LEAST or out < 5 or check < 2:
        raise DataError(
            f"a surrogate needs {_LEAST} pairs with a finite loss, 5 of them held out; got "
            f"{len(mixed)} and {out}: generate more, as in --set generate.samples=5000."
        )
    return mixed[:out], rest[check:], rest[:check]


@dataclass(frozen=True)
class _Trial:
    """What every predictor has to go through; seconds are those of 1,000 pairs and losses."""

    task: Task
    held: Tensor
    around: Sequence[Neighborhood]
    pair_seconds: float
    true_seconds: float

    def run(self, kind: str) -> dict[str, Array]:
        return self._local() if kind == "subspace" else self._global(kind)

    def _global(self, kind: str) -> dict[str, Array]:
        task, began = self.task, time.process_time()
        predictor, history = FITTERS[kind](task)
        fit = time.process_time() - began
        parts = torch.split(self.held, _TIMED)
        predictions = np.concatenate([predictor(task.rows(part)) for part in parts])
        near = np.stack([predictor(each.rows) for each in self.around])
        sample = task.rows(self.held[:_TIMED])
        _, use = timed(lambda: predictor(sample))
        data = self.pair_seconds * (len(task.fitting) + len(task.checking)) / 1000
        return {
            "predictions": predictions[None],
            "near": near,
            "spread": np.full_like(near, np.nan),
            "history": history,
            "seconds": np.array([[data, fit, 1000 * use / len(sample)]]),
        }

    def _local(self) -> dict[str, Array]:
        began = time.process_time()
        fitted = [gaussian_process(each) for each in self.around]
        fit = (time.process_time() - began) / len(self.around)
        data = self.true_seconds * len(self.around[0].known) / 1000
        return {
            "predictions": np.full((1, len(self.held)), np.nan),
            "near": np.stack([mean for mean, _ in fitted]),
            "spread": np.stack([deviation for _, deviation in fitted]),
            "history": np.empty((0, 3)),
            # Fit and use of a local predictor are not told apart: it is fitted for each use.
            "seconds": np.array([[data, fit, 0.0]]),
        }


def _seconds(subject: Problem, pairs: Samples) -> tuple[float, float]:
    # CPU seconds of 1,000 pairs, and of 1,000 losses of a landscape, where nothing is drawn.
    initializer, losses = subject.initializer, subject.true_losses()
    chosen = pairs.candidates[:_TIMED]
    stacked = initializer.stack(chosen)
    losses(stacked)
    _, draw = timed(lambda: initializer.rows(chosen).numpy())
    loss = min(timed(lambda: losses(stacked).numpy())[1] for _ in range(3))
    return 1000 * (draw + loss) / len(chosen), 1000 * loss / len(chosen)
