"""Networks of several widths at several rates: their sharpness, and the best rates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lossatlas.checks import check_at_least, check_one_of, check_positive
from lossatlas.curvature import spectrum
from lossatlas.errors import ArgumentError, NonFiniteError
from lossatlas.executor import Executor, Progress, run_tasks
from lossatlas.io import Provenance, open_ledger, run_identity
from lossatlas.linalg.estimators import mean_of
from lossatlas.linalg.params import Params, fingerprint
from lossatlas.objective import Objective
from lossatlas.result import Estimate, Result, result
from lossatlas.training import (
    SCALED_FAMILIES,
    Dataset,
    EnsembleRun,
    ScaledFamily,
    build_loss,
    train_ensemble,
)
from lossatlas.training.criteria import as_loss

Array = NDArray[np.float64]

# A best rate that moves by less than a quarter of an octave for each doubling stays.
_STAYS = 0.25
_UNKNOWN = "indistinguishable"


@dataclass(frozen=True)
class Transfer:
    """Whether the best rate of narrow networks serves wide ones.

    Attributes:
        slope: octaves that the best rate moves for each doubling of the width; mean and error
            over seeds. 0 is transfer; -1 is a rate that must be halved.
        regret: loss of the widest networks at the best rate of the narrowest, over their loss
            at their own best rate, minus 1; mean and error over seeds. Infinite where a
            training diverged.
        verdict: from the 95 % interval of the slope and a margin of a quarter of an octave:
            "transfers" where it lies within the margin, "does not transfer" where it lies
            beyond, "moves, by how much is open" where it leaves out zero but holds the margin,
            otherwise "indistinguishable". Where a best rate is the first or the last of the
            grid the slope says nothing: "indistinguishable".
    """

    slope: Estimate
    regret: Estimate
    verdict: str


@result("widths")
class WidthStudy(Result):
    """Sharpness and losses of all trainings of a study of widths.

    Attributes:
        families: names of the parametrizations.
        widths: of the hidden layers, growing.
        rates: base rates, growing.
        seeds: of the initial weights.
        read: after how many updates the sharpness was read.
        sharpness: rate x largest eigenvalue of the Hessian, no unit, shape (families, widths,
            rates, seeds, readings); 2 is the edge of stability. NaN after a divergence.
        bounds: error bounds of `sharpness`, same shape.
        losses: at the end, shape (families, widths, rates, seeds); infinite where the training
            diverged.
        provenance: settings and fingerprint of the data.
    """

    families: tuple[str, ...]
    widths: tuple[int, ...]
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    read: tuple[int, ...]
    sharpness: Array
    bounds: Array
    losses: Array
    provenance: Provenance = field(default_factory=Provenance)

    def deviation(self, family: str, rate: float, at: int = -1) -> tuple[Estimate, ...]:
        """How far the sharpness of each width is from that of the widest.

        Args:
            family: its name.
            rate: one of `rates`.
            at: which reading; the last one by default.

        Returns:
            Relative deviations, one a width (the last one 0), mean and error over seeds. NaN
            where a training diverged.

        Raises:
            UnknownNameError: an unknown family.
            ArgumentError: a rate that was not trained.
        """
        where = self._row(family)
        if rate not in self.rates:
            raise ArgumentError(f"`rate` must be one of {list(self.rates)}; got {rate}.")
        table = self.sharpness[where, :, self.rates.index(rate), :, at]
        # Networks whose outputs are all zero have no sharpness to compare with.
        with np.errstate(divide="ignore", invalid="ignore"):
            return tuple(mean_of(row / table[-1] - 1) for row in table)

    def best_rates(self, family: str) -> Array:
        """The rate with the lowest loss at the end, for each width and seed.

        Between rates a parabola through the logarithms of three losses is read, where all
        three trainings ended.

        Args:
            family: its name.

        Returns:
            Shape (widths, seeds); NaN where every training diverged.

        Raises:
            UnknownNameError: an unknown family.
        """
        losses = self.losses[self._row(family)]
        return np.array(
            [[_best(np.array(self.rates), row) for row in table.T] for table in losses]
        )

    def transfer(self, family: str) -> Transfer:
        """Whether the best rate stays where it is when networks widen.

        Args:
            family: its name.

        Returns:
            Slope, regret and verdict.

        Raises:
            UnknownNameError: an unknown family.
        """
        octaves = np.log2(self.best_rates(family))
        doublings = np.log2(np.array(self.widths, dtype=float))
        centered = doublings - doublings.mean()
        slope = mean_of(centered @ octaves / (centered @ centered))
        verdict = _UNKNOWN if self.at_an_end(family) else _verdict(*slope.interval())
        return Transfer(slope, mean_of(self._regrets(family)), verdict)

    def at_an_end(self, family: str) -> float:
        """How often the best rate is the first or the last one that was tried.

        Args:
            family: its name.

        Returns:
            A share of all widths and seeds; above 0 the study needs more rates.

        Raises:
            UnknownNameError: an unknown family.
        """
        found = self.best_rates(family)
        return float(np.isin(found, [self.rates[0], self.rates[-1]]).mean())

    def _regrets(self, family: str) -> Array:
        # The rates that were trained: nothing is known of a loss between them.
        losses = self.losses[self._row(family)]
        chosen = losses[0].mean(1).argmin()
        regrets: Array = losses[-1, chosen] / losses[-1].min(0) - 1
        return regrets

    def _row(self, family: str) -> int:
        check_one_of("family", family, self.families)
        return self.families.index(family)


def _verdict(low: float, high: float) -> str:
    if max(abs(low), abs(high)) < _STAYS:
        return "transfers"
    if low > _STAYS or high < -_STAYS:
        return "does not transfer"
    return "moves, by how much is open" if low > 0 or high < 0 else _UNKNOWN


def _best(rates: Array, losses: Array) -> float:
    if not np.isfinite(losses).any():
        return float("nan")
    at = int(np.where(np.isfinite(losses), losses, np.inf).argmin())
    if not 0 < at < len(rates) - 1 or not np.isfinite(losses[at - 1 : at + 2]).all():
        return float(rates[at])
    x, y = np.log(rates[at - 1 : at + 2]), np.log(np.maximum(losses[at - 1 : at + 2], 1e-300))
    a, b, _ = np.polyfit(x - x[1], y, 2)
    shift = -b / (2 * a) if a > 0 else 0.0
    return float(np.exp(np.clip(x[1] + shift, x[0], x[2])))


RATES = tuple(2.0**power for power in range(-5, 10))
# Sharpness is compared in tens of per cent; its bounds are then far below one.
_TOLERANCE = 1e-2
# Wide networks keep a core busy alone; narrow ones share the cost of a call.
_WIDE, _FEW, _MANY = 64, 2, 12


@dataclass(frozen=True)
class Question:
    """What is question of every family, width and seed.

    Attributes:
        data: examples; all of them are one batch.
        families: name -> family.
        rates: base rates, growing.
        steps: updates of a training.
        read: after how many updates sharpness is read, growing.
        loss: a name for `build_loss`.
    """

    data: Dataset
    families: dict[str, ScaledFamily]
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
    families: Sequence[str] | Mapping[str, ScaledFamily] = ("mup", "standard"),
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
    question = Question(data, chosen, tuple(rates), steps, tuple(read), loss)
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
    identity = question.identity()
    with open_ledger(resume, run_identity("widths", identity)) as ledger:
        tables = list(
            run_tasks(
                pieces,
                lambda: lambda piece: trained_and_read(question, *piece),
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
        question.rates,
        tuple(range(seeds)),
        question.read,
        values[..., : len(read)],
        values[..., len(read) : -1],
        values[..., -1],
        Provenance(0, identity, data=found),
    )


def trained_and_read(question: Question, family: str, width: int, seed: int) -> Array:
    """Train one family, width and seed at all rates."""
    model, factor = question.families[family](width, question.data, seed)
    start = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    batch = (question.data.inputs, question.data.targets)
    run = train_ensemble(
        model,
        [batch],
        question.loss,
        initial=[start] * len(question.rates),
        steps=question.steps,
        lr=[factor * rate for rate in question.rates],
        momentum=0.0,
        keep=question.read,
        together=_FEW if width > _WIDE else _MANY,
    )
    objective = Objective(
        model, as_loss(question.loss, question.data.task), [batch], check=False
    )
    rows = []
    for index, rate in enumerate(question.rates):
        ends = [
            _sharpest(objective, _kept(run, at, index), seed)
            for at in range(len(question.read))
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


def families_of(requested) -> dict[str, ScaledFamily]:
    """The families of some names."""
    if not requested:
        raise ArgumentError("`families` is empty; name at least one, such as 'mup'.")
    if not isinstance(requested, Mapping):
        for name in requested:
            check_one_of("families", name, SCALED_FAMILIES)
        return {name: SCALED_FAMILIES[name] for name in requested}
    for name, family in requested.items():
        if not callable(family):
            kind = type(family).__name__
            raise ArgumentError(
                f"`families`: '{name}' must be a function (width, data, seed) -> (model, "
                f"factor of the rate); got {kind}."
            )
    return dict(requested)
