"""Train networks of several widths at several rates, and read their sharpness on the way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lossatlas.checks import check_at_least, check_positive
from lossatlas.curvature import spectrum
from lossatlas.errors import ArgumentError, NonFiniteError
from lossatlas.executor import Executor, Progress, run_tasks
from lossatlas.linalg.params import Params, fingerprint
from lossatlas.objective import Objective
from lossatlas.store import Provenance, open_ledger, run_identity
from lossatlas.studies.widths.networks import Family, families_of
from lossatlas.studies.widths.result import WidthStudy
from lossatlas.training import Dataset, EnsembleRun, build_loss, train_ensemble
from lossatlas.training.criteria import as_loss

Array = NDArray[np.float64]

RATES = tuple(2.0**power for power in range(-5, 10))
# Sharpness is compared in tens of per cent; its bounds are then far below one.
_TOLERANCE = 1e-2
# Wide networks keep a core busy alone; narrow ones share the cost of a call.
_WIDE, _FEW, _MANY = 64, 2, 12


@dataclass(frozen=True)
class Question:
    """What is asked of every family, width and seed.

    Attributes:
        data: examples; all of them are one batch.
        families: name -> family.
        rates: base rates, growing.
        steps: updates of a training.
        read: after how many updates sharpness is read, growing.
        loss: a name for `build_loss`.
    """

    data: Dataset
    families: dict[str, Family]
    rates: tuple[float, ...]
    steps: int
    read: tuple[int, ...]
    loss: str

    def __post_init__(self) -> None:
        _check_growing("rates", self.rates)
        check_positive("rates", self.rates[0])
        check_at_least("steps", self.steps, 1)
        build_loss(self.loss, task=self.data.task)
        _check_growing("read", (-1, *self.read))
        if self.read[0] < 0 or self.read[-1] > self.steps:
            raise ArgumentError(
                f"`read` must be numbers of updates from 0 to {self.steps}; got "
                f"{list(self.read)}."
            )

    def identity(self) -> dict[str, object]:
        """What a resume file belongs to."""
        data = {"inputs": self.data.inputs, "targets": self.data.targets}
        kinds = {
            n: getattr(f, "__qualname__", type(f).__name__) for n, f in self.families.items()
        }
        return {
            "families": kinds,
            "rates": list(self.rates),
            "steps": self.steps,
            "read": list(self.read),
            "loss": self.loss,
            "data": fingerprint(data),
        }


def sharpness_consistency(
    data: Dataset,
    families: Sequence[str] | Mapping[str, Family] = ("mup", "standard"),
    *,
    widths: Sequence[int] = (64, 128, 256, 512),
    rates: Sequence[float] = RATES,
    steps: int = 120,
    read: Sequence[int] = (0, 40, 120),
    seeds: int = 5,
    loss: str = "mse",
    resume: str | Path | None = None,
    executor: str | Executor = "serial",
    progress: Progress | bool | None = None,
) -> WidthStudy:
    """Does the sharpness in units of the rate, and with it the best rate, survive widening?

    Every family is trained by full-batch gradient descent at every width, rate and seed; the
    largest eigenvalue of the Hessian is read on the way. All families have the same rates.
    Squared error is the clean case: under cross-entropy curvature vanishes with the loss.

    Args:
        data: examples; all of them make every step, and the Hessian is over all.
        families: names out of "mup", "ntk", "standard", or name -> function (width, data,
            seed) -> (model, what the base rate is multiplied with).
        widths: growing, at least two.
        rates: base rates, growing; powers of 2 from 1/32 to 512 by default.
        steps: updates of each training.
        read: after how many updates the sharpness is read.
        seeds: initial weights for each width, at least 2 for intervals.
        loss: a name for `build_loss`.
        resume: a file that keeps what is done; None keeps nothing.
        executor: "serial", "joblib", or one of your own.
        progress: called with (done, total, label) after every piece.

    Returns:
        Sharpness and final losses of all trainings.

    Raises:
        ArgumentError: numbers out of range.
        UnknownNameError: an unknown family, loss or executor.
        ResumeError: the file is damaged or belongs to another study.

    Source: Noci et al., NeurIPS 2024, arXiv:2402.17457; Yang and Hu, ICML 2021,
        arXiv:2011.14522 (mup); Jacot et al., NeurIPS 2018, arXiv:1806.07572 (ntk).
    """
    chosen = families_of(families if isinstance(families, Mapping) else tuple(families))
    asked = Question(data, chosen, tuple(rates), steps, tuple(read), loss)
    _check_growing("widths", widths)
    for width in widths:
        check_at_least("widths", width, 1)
    check_at_least("seeds", seeds, 1)
    pieces = {
        f"{name} {width} seed {seed}": (name, width, seed)
        for seed in range(seeds)
        for name in chosen
        for width in widths
    }
    identity = asked.identity()
    with open_ledger(resume, run_identity("widths", identity)) as ledger:
        tables = list(
            run_tasks(
                pieces,
                lambda: lambda piece: trained_and_read(asked, *piece),
                executor=executor,
                ledger=ledger,
                progress=progress,
            )
        )
    shape = (seeds, len(chosen), len(widths), len(rates), 2 * len(read) + 1)
    values = np.moveaxis(np.array(tables).reshape(shape), 0, 3)
    found = str(identity.pop("data"))
    return WidthStudy(
        tuple(chosen),
        tuple(map(int, widths)),
        asked.rates,
        tuple(range(seeds)),
        asked.read,
        values[..., : len(read)],
        values[..., len(read) : -1],
        values[..., -1],
        Provenance(0, identity, data=found),
    )


def trained_and_read(asked: Question, family: str, width: int, seed: int) -> Array:
    """Train one family, width and seed at all rates."""
    model, factor = asked.families[family](width, asked.data, seed)
    start = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    batch = (asked.data.inputs, asked.data.targets)
    run = train_ensemble(
        model,
        [batch],
        asked.loss,
        initial=[start] * len(asked.rates),
        steps=asked.steps,
        lr=[factor * rate for rate in asked.rates],
        momentum=0.0,
        keep=asked.read,
        together=_FEW if width > _WIDE else _MANY,
    )
    objective = Objective(model, as_loss(asked.loss, asked.data.task), [batch], check=False)
    rows = []
    for index, rate in enumerate(asked.rates):
        ends = [
            _sharpest(objective, _kept(run, at, index), seed) for at in range(len(asked.read))
        ]
        read = factor * rate * np.array(ends)
        end = run.member(index)
        loss = objective.value({n: end[n] for n in objective.names})
        lost = run.diverged_at[index] >= 0 or not np.isfinite(loss)
        rows.append([*read[:, 0], *read[:, 1], np.inf if lost else loss])
    return np.array(rows)


def _kept(run: EnsembleRun, at: int, index: int) -> Params | None:
    lost = int(run.diverged_at[index])
    if 0 <= lost <= run.checkpoint_steps[at]:
        return None
    return {name: value[index] for name, value in run.checkpoints[at].items()}


def _sharpest(objective: Objective, where: Params | None, seed: int) -> tuple[float, float]:
    if where is None:
        return np.nan, np.nan
    here = {name: where[name] for name in objective.names}
    try:
        found = spectrum(
            objective,
            top=1,
            bottom=0,
            density=False,
            tolerance=_TOLERANCE,
            seed=seed,
            params=here,
        )
    except NonFiniteError:
        return np.nan, np.nan
    return float(found.top[0]), float(found.top_bounds[0])


def _check_growing(argument: str, values: Sequence[float]) -> None:
    if len(values) < 2 or not all(a < b for a, b in pairwise(values)):
        raise ArgumentError(
            f"`{argument}` must be growing numbers, at least two; got {list(values)}."
        )
