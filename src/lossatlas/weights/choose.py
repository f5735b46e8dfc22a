"""Which of several checkpoints: held-out losses compared on the same examples."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossatlas.checks import check_flag, check_fraction, check_positive
from lossatlas.curvature.learning_coefficient import learning_coefficient
from lossatlas.curvature.spectrum import spectrum
from lossatlas.errors import AtlasError, NonFiniteError, StructureError
from lossatlas.executor import Progress, run_tasks
from lossatlas.io import open_ledger
from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.objective.point import State
from lossatlas.result import Estimate, Figure, Result, quantity, result, rows_figure
from lossatlas.text import as_sentence, count, listed, number, percent, with_ends
from lossatlas.weights.behind import behind_best
from lossatlas.weights.network_checks import check_whole_numbers, checkpoint_names
from lossatlas.weights.paired import EQUAL, PairedLosses
from lossatlas.weights.statistics import mean_network, statistics_notes, whole_networks
from lossatlas.weights.unfinished import identity
from lossatlas.weights.verdicts import number_text

Array = NDArray[np.float64]


_MEAN = "mean of "
# Networks that are made, in a sentence.
_MADE = "means of neighbors"
_NO_MEANS = ", or leave out means of neighbors: averages=False (--no-averages)"
# Rivals that the headline names.
_SHOWN_RIVALS = 3


@result("choice")
class Choice(Result):
    """Checkpoints beside each other on held-out data.

    Attributes:
        names: of the candidates: checkpoints in their order, then means of neighbors.
        checkpoints: how many of them are checkpoints.
        losses: held-out loss of each.
        behind: loss of each minus that of the best, with the paired error; 0 for the best. Its
            interval allows for a best that was chosen on the same examples, so its lower end
            reaches farther.
        equal: names of those that are indistinguishable from the best; it is among them. All
            with a finite loss, where one batch mean has no error.
        sharpness: largest eigenvalue of the Hessian at each checkpoint; empty if not asked for.
        coefficients: local learning coefficient at each checkpoint; empty if not asked for.
        gains: loss of the mean of two neighbors minus that of the better of both. Which is
            better is read off the same examples; intervals hold 95 % at least.
        level: confidence with which the true best is in `equal`.
        notes: what a reader should know, which running statistics were used among it.
        writing: how a mean of neighbors is written to a file: what makes one of `parts`.
    """

    names: tuple[str, ...]
    checkpoints: int
    losses: tuple[Estimate, ...] = quantity("loss")
    behind: tuple[Estimate, ...] = quantity("loss")
    equal: tuple[str, ...]
    sharpness: tuple[Estimate, ...] = quantity("loss / weight²")
    coefficients: tuple[Estimate, ...]
    gains: tuple[Estimate, ...] = quantity("loss")
    level: float
    notes: tuple[str, ...] = ()
    writing: str = ""

    @property
    def best(self) -> str:
        """The candidate with the lowest held-out loss."""
        values = [loss.value for loss in self.losses]
        return self.names[int(np.nanargmin(values))]

    @property
    def parts(self) -> tuple[int, ...]:
        """Numbers from 0 of the two checkpoints that the best is the mean of; empty if none."""
        first = self.names.index(self.best) - self.checkpoints
        return (first, first + 1) if first >= 0 else ()

    @property
    def unknown_error(self) -> str:
        """Why differences to the best have no error; empty where they have one."""
        rivals = (e for n, e in zip(self.names, self.behind, strict=True) if n in self._rivals)
        return next((e.why_no_error or "" for e in rivals if math.isnan(e.interval()[0])), "")

    @property
    def flattest(self) -> str:
        """Of `equal`, the one with the least sharpness; empty with fewer than two known."""
        pairs = zip(self.names, self.sharpness, strict=False)
        sharpness = {n: e.value for n, e in pairs if n in self.equal and math.isfinite(e.value)}
        return min(sharpness, key=lambda name: sharpness[name]) if len(sharpness) > 1 else ""

    @property
    def _rivals(self) -> list[str]:
        return [name for name in self.equal if name != self.best]

    @property
    def _share(self) -> float:
        return _confidence(self.level, len(self.names))

    @property
    def decisive(self) -> tuple[Estimate, ...]:
        """`behind` with the intervals that decided what is in `equal`, wider than 95 %."""
        plain = [replace(each, ends=None) for each in self.behind]
        return tuple(replace(each, ends=each.interval(self._share)) for each in plain)

    def estimates(self) -> tuple[Estimate, ...]:
        """Losses, the lowest first; how far each is behind, its sharpness and complexity."""
        chosen = f"the lowest of {len(self.names)} is a little too low"
        # A page shows the first of them at the top.
        ranked = sorted(
            zip(self.names, self.losses, strict=True), key=lambda pair: _height(pair[1])
        )
        estimates = [
            replace(e, name=f"loss of {n}", meaning=chosen if n == self.best else "")
            for n, e in ranked
        ]
        estimates += [
            replace(e, name=f"{n} behind {self.best}", unit="loss", is_minor=True)
            for n, e in zip(self.names, self.behind, strict=True)
            if n != self.best
        ]
        estimates += [
            replace(e, name=f"sharpness of {n}", unit="loss / weight²", is_minor=True)
            for n, e in zip(self.names, self.sharpness, strict=False)
        ]
        estimates += [
            replace(e, name=f"learning coefficient of {n}", is_minor=True)
            for n, e in zip(self.names, self.coefficients, strict=False)
        ]
        return tuple(estimates)

    def sentences(self) -> tuple[str, ...]:
        """The best, those that may be as good, and whether averaging helps."""
        if len(self.names) == 1:
            start: tuple[str, ...] = (
                f"{self.best} is the only checkpoint: there is nothing to compare it with.",
            )
        elif self.unknown_error:
            text = (
                f"{_at_start(self.best)} has the lowest held-out loss; whether "
                f"{listed(self._rivals)} may be as good is not known, as the error is unknown: "
                f"{self.unknown_error}"
            )
            start = (as_sentence(text),)
        else:
            start = (self.headline(), *self.alternatives())
        flattest = (f"The flattest of those is {self.flattest}.",) if self.flattest else ()
        return (*start, *self._averaged(), *self.written(), *flattest, *self.notes)

    def written(self) -> tuple[str, ...]:
        """What writes the best to a file, where it is a mean that no file holds."""
        if not self.parts:
            return ()
        call = "soup(objective, *checkpoints).state_dict() of the two makes it"
        return (f"No file holds the {self.best}: {self.writing or call}.",)

    def headline(self) -> str:
        """Which is the best, and how far the others are from it, in one sentence."""
        if len(self.names) == 1:
            return f"The only checkpoint is {self.best}."
        if self.unknown_error:
            return f"Lowest loss: {self.best}, with an unknown error."
        loss = number_text(self.losses[self.names.index(self.best)])
        start = f"Use {_called(self.best)} (loss {loss})"
        next_, gap = self._next
        # A mean is judged by the best of what it is made of.
        shown = f"the best checkpoint, {next_}" if self.parts else next_
        if next_ not in self.equal:
            shown = shown if self.parts else f"the next, {next_}"
            return f"{start}: better than {shown} ({gap_text(gap)})."
        if not self.parts and len(self._rivals) > 1:
            others = f"{len(self._rivals)} others, the nearest at {gap_text(gap)}"
            return f"{start}: indistinguishable from {others}."
        return f"{start}: indistinguishable from {shown} ({gap_text(gap)})."

    @property
    def _gaps(self) -> dict[str, Estimate]:
        return {n: e for n, e in zip(self.names, self.decisive, strict=True) if n != self.best}

    # What the best is compared with first, and how far that is behind.
    @property
    def _next(self) -> tuple[str, Estimate]:
        gaps = self._gaps
        rivals = self.names[: self.checkpoints] if self.parts else gaps
        name = min(rivals, key=lambda name: _height(gaps[name]))
        return name, gaps[name]

    def alternatives(self) -> tuple[str, ...]:
        """Which candidates may be as good, where the headline does not name them all."""
        gaps = self._gaps
        if not gaps or self.unknown_error:
            return ()
        near = sorted(self._rivals, key=lambda name: _height(gaps[name]))
        shown = [f"{name} ({gap_text(gaps[name])})" for name in near[:_SHOWN_RIVALS]]
        shown += [count(len(near) - len(shown), "other")] if len(near) > len(shown) else []
        is_new = bool(near) and near != [self._next[0]]
        equal = (f"Indistinguishable from it: {listed(shown)}.",) if is_new else ()
        return (*equal, self._meaning)

    # What the intervals of the headline are.
    @property
    def _meaning(self) -> str:
        level, others = f"{100 * self.level:g} %", len(self.names) - 1
        held = f"holds {level}"
        if others > 1:
            held = f"allows for {others} comparisons with the best ({level} for all together)"
        return f"After +: loss minus the lowest, on the same examples; its interval {held}."

    def _averaged(self) -> tuple[str, ...]:
        sure = sum(e.interval()[1] < 0 for e in self.gains)
        if not self.gains:
            return ()
        if self.unknown_error:
            return ("Whether means of neighbors are better is not known, without an error.",)
        total = len(self.gains)
        if not sure:
            means = f"None of {total} means" if total > 1 else "No mean"
            return (f"{means} of two neighbors is better than both of them (95 % for each).",)
        are = "is" if sure == 1 else "are"
        return (
            f"{sure} of {total} means of neighbors {are} better than both of them (95 % for "
            "each).",
        )

    def figures(self) -> tuple[Figure, ...]:
        """Losses behind the best, losses along the checkpoints, sharpness and complexity."""
        figures = [self._differences(), self._curve()]
        extra = (
            ("Sharpness", self.sharpness, "largest eigenvalue (loss / weight²)"),
            ("Learning coefficients", self.coefficients, "learning coefficient"),
        )
        for title, estimates, axis in extra:
            if estimates:
                pairs = zip(self.names, estimates, strict=False)
                figures.append(rows_figure(title, [replace(e, name=n) for n, e in pairs], axis))
        return tuple(figures)

    def _differences(self) -> Figure:
        from lossatlas.plots.chart import backends
        from lossatlas.plots.rows import Dots, rows_chart

        gaps = np.array([e.value for e in self.behind])
        low, high = np.array([e.interval() for e in self.decisive]).T
        lengths = np.stack([gaps - low, high - gaps])
        equal = np.array([name in self.equal for name in self.names])
        series = [
            Dots(name, np.where(chosen, gaps, np.nan), lengths)
            for name, chosen in (("may be the best", equal), ("worse than the best", ~equal))
            if chosen.any()
        ]
        title, axis = "Loss above the best", "loss minus that of the best"
        intervals = (
            as_sentence(f"There are no intervals: {self.unknown_error}")
            if self.unknown_error
            else f"Intervals are those of the decision ({percent(self._share)} each, "
            "Bonferroni): where one lies above zero, the candidate is worse."
        )
        return Figure(
            "behind the best",
            title,
            *backends(lambda: rows_chart(self.names, series, title, axis, zero=True)),
            caption=f"Each candidate minus {_called(self.best)}, on the same examples. "
            f"{intervals}",
            alt="Difference of each candidate to the best with its interval.",
        )

    def _curve(self) -> Figure:
        from lossatlas.plots.chart import Axis, backends
        from lossatlas.plots.paths import Curve, curve_chart

        count, title = self.checkpoints, "Held-out loss along the checkpoints"
        at = np.arange(count, dtype=np.float64)
        curves = [_as_curve("checkpoints", at, self.losses[:count], Curve)]
        if self.gains:
            means = self.losses[count:]
            curves.append(_as_curve("means of neighbors", at[:-1] + 0.5, means, Curve))
        ticks = at.tolist(), [str(k) for k in range(1, count + 1)]
        x = Axis("checkpoint, in the order given", ticks=ticks)
        return Figure(
            "curve",
            title,
            *backends(lambda: curve_chart(curves, title, x, "loss")),
            caption=f"Losses with{'out' if self.unknown_error else ' 95 %'} intervals. "
            "Between checkpoints: the mean of the two.",
            alt="Curves of the held-out loss over the checkpoints.",
        )


# Means have no names of their own, as checkpoints have.
def _called(name: str) -> str:
    return f"the {name}" if name.startswith(_MEAN) else name


def _at_start(name: str) -> str:
    return f"The {name}" if name.startswith(_MEAN) else name


def gap_text(gap: Estimate) -> str:
    """A loss minus the lowest, with its interval."""
    low, high = gap.interval()
    if not math.isfinite(high - low):
        return f"+{number(gap.value, 3)}"
    if not gap.value:
        return EQUAL
    shown, ends = with_ends(gap.value, low, high)
    return f"+{shown} {ends}"


def _as_curve(
    name: str, at: Array, losses: Sequence[Estimate], made: Callable[..., object]
) -> Any:
    values = np.array([e.value for e in losses])
    return made(name, at, values, 1.96 * np.array([e.error for e in losses]))


def choose(
    objective: Objective,
    *checkpoints: Params,
    names: Sequence[str] | None = None,
    averages: bool = True,
    sharpness: bool = True,
    localization: float | None = None,
    level: float = 0.95,
    seed: int = 0,
    resume: str | Path | None = None,
    progress: Progress | bool | None = None,
) -> Choice:
    """Compare checkpoints on held-out data; which are indistinguishable from the best.

    A candidate is out where its loss is above that of the best by more than the paired error
    at confidence 1 - (1 - level) / (candidates - 1) (Bonferroni): the true best is kept with
    probability `level` at least.

    Args:
        objective: model, loss and data that none of them was trained on.
        *checkpoints: weights, in the order of the training.
        names: what each is called; by default the name of its file, or "checkpoint 1" and so
            on.
        averages: judge the mean of each two neighbors too.
        sharpness: measure the largest eigenvalue of the Hessian at each.
        localization: measure the local learning coefficient of each at this localization (one
            over squared weight). A checkpoint that is no minimum of these data has a reason
            in its place. None leaves it out.
        level: confidence of the set.
        seed: of Krylov runs and chains.
        resume: a file that keeps what is done; a run that was stopped goes on from it.
        progress: called with (done, total, label) after every candidate; True shows it.

    Returns:
        Losses, paired differences, and the set of candidates that may be best. Where few large
        losses carry the mean, intervals of the losses hold less than 95 % (84 % for 20 squared
        errors of exponential noise); their `caveat` says so and how many examples would do.

    Raises:
        ArgumentError: `level` is no share, `localization` is not positive, or `names` are not
            one a checkpoint.
        StructureError: no checkpoint, names or shapes differ from those of the objective, or
            means of neighbors are asked for and buffers of whole numbers differ.
        NonFiniteError: a checkpoint holds NaN or infinite weights, or no loss is finite.
        ResumeError: the file is damaged or belongs to other weights, data or settings.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.weights import choose
        >>> from torch.nn import functional as F
        >>> batch, model = (torch.ones(9, 1), torch.ones(9, 1)), torch.nn.Linear(1, 1, False)
        >>> objective = la.Objective(model, la.supervised(F.mse_loss), [batch])
        >>> points = ({"weight": torch.tensor([[w]])} for w in (0.0, 0.9))
        >>> choose(objective, *points, sharpness=False).best
        'checkpoint 2'

    Source: Hsu, Annals of Statistics 9 (1981) (comparisons with the best).
    """
    check_fraction("level", level)
    check_flag("averages", averages)
    check_flag("sharpness", sharpness)
    if localization is not None:
        check_positive("localization", localization)
    _check_any(checkpoints)
    labels = checkpoint_names(checkpoints, names)
    states = whole_networks(objective, dict(zip(labels, checkpoints, strict=True)))
    points = [state.whole for state in states.values()]
    if averages:
        check_whole_numbers([*states.values()], _NO_MEANS)
    count = len(points)
    pairs = range(count - 1) if averages else range(0)
    labels += [f"{_MEAN}{labels[k]} and {labels[k + 1]}" for k in pairs]
    tasks = {f"{k + 1}: {name}": k for k, name in enumerate(labels)}
    measure = _Measure(objective, [*states.values()], sharpness, localization, seed)
    settings = {"names": labels, "sharpness": sharpness, "seed": seed}
    run = identity("choose", [objective], points, settings | {"localization": localization})
    with open_ledger(resume, run) as ledger:
        rows = list(run_tasks(tasks, lambda: measure, ledger=ledger, progress=progress))
    judged = PairedLosses(objective)
    judged.weights = rows[0][1]
    sums, own = [row[0] for row in rows], rows[:count]
    losses = tuple(judged.mean(each, skewed=True) for each in sums)
    _check_some_finite(losses)
    best = int(np.nanargmin([_height(loss) for loss in losses]))
    equal = _equal(judged, sums, best, level)
    behind = behind_best(judged, sums, best, equal, seed)
    return Choice(
        tuple(labels),
        count,
        losses,
        behind,
        equal=tuple(labels[k] for k in equal),
        sharpness=tuple(row[2] for row in own) if sharpness else (),
        coefficients=tuple(row[3] for row in own) if localization is not None else (),
        gains=_gains(judged, sums, pairs),
        level=level,
        notes=statistics_notes(objective, measure.states, _MADE if len(pairs) else ""),
    )


def _gains(judged: PairedLosses, sums: list[Array], pairs: range) -> tuple[Estimate, ...]:
    means = sums[len(sums) - len(pairs) :]
    better = (min(sums[k], sums[k + 1], key=np.sum) for k in pairs)
    return tuple(judged.difference(*each) for each in zip(means, better, strict=True))


# Of one of so many comparisons with the best, so that all hold together.
def _confidence(level: float, candidates: int) -> float:
    return 1 - (1 - level) / max(candidates - 1, 1)


def _equal(judged: PairedLosses, sums: list[Array], best: int, level: float) -> list[int]:
    share = _confidence(level, len(sums))
    return [
        k
        for k, each in enumerate(sums)
        if k == best or _may_be_best(judged.difference(each, sums[best]), share)
    ]


def _may_be_best(far: Estimate, share: float) -> bool:
    return not far.interval(share)[0] > 0 and _height(far) < math.inf


@dataclass(frozen=True, eq=False)
class _Measure:
    # Of one candidate: sums and weights of its losses, sharpness and coefficient.
    objective: Objective
    states: Sequence[State]
    sharpness: bool
    localization: float | None
    seed: int

    def __call__(self, index: int) -> tuple[Array, Array, Estimate, Estimate]:
        unknown = Estimate(math.nan, why_no_error="not asked for")
        first = index - len(self.states)
        is_mean = first >= 0
        pair = self.states[first : first + 2]
        where = mean_network(pair) if is_mean else self.states[index].whole
        judged = PairedLosses(self.objective)
        sums = judged.sums(where)
        if is_mean:
            return sums, judged.weights, unknown, unknown
        sharp = _or_reason(lambda: self._sharpest(where)) if self.sharpness else unknown
        held = self.localization is not None
        complexity = _or_reason(lambda: self._coefficient(where)) if held else unknown
        return sums, judged.weights, sharp, complexity

    def _sharpest(self, point: Params) -> Estimate:
        ends = spectrum(self.objective, 1, 0, False, 0.01, params=point, seed=self.seed)
        return Estimate(float(ends.top[0]), bound=float(ends.top_bounds[0]))

    def _coefficient(self, point: Params) -> Estimate:
        hold = self.localization
        return learning_coefficient(
            self.objective, 2, None, hold, params=point, seed=self.seed
        ).value


def _or_reason(measure: Callable[[], Estimate]) -> Estimate:
    try:
        return measure()
    except AtlasError as error:
        return Estimate(math.nan, why_no_error=str(error))


def _check_any(checkpoints: Sequence[Params]) -> None:
    if not checkpoints:
        raise StructureError(
            "`checkpoints` must hold at least one; pass choose(objective, a, b)."
        )


def _check_some_finite(losses: Sequence[Estimate]) -> None:
    if not any(math.isfinite(loss.value) for loss in losses):
        raise NonFiniteError(
            "no checkpoint has a finite loss on these data; look for NaN in the data, or for "
            "a loss that overflows."
        )


def _height(loss: Estimate) -> float:
    return loss.value if math.isfinite(loss.value) else math.inf
