"""A loss curve with what the laws need to know about its run: rates, size, tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossatlas.arrays import as_float_array
from lossatlas.checks import check_at_least, is_number
from lossatlas.errors import ArgumentError, DataError
from lossatlas.forecast.schedules import check_length, ramp, warmup_length
from lossatlas.result import Estimate, Figure, Result, chart_of, result
from lossatlas.text import as_sentence, number
from lossatlas.text import count as counted

if TYPE_CHECKING:
    from lossatlas.plots.chart import Chart

Floats = NDArray[np.float64]
Steps = NDArray[np.int64]


EXTREME = 1e100  # losses beyond this, or below its inverse, overflow in a fit


def check_rates(values: Floats, label: str = "") -> None:
    """Require finite rates >= 0, some of them above zero, in one dimension."""
    if values.ndim != 1 or values.size == 0:
        raise DataError(f"`lr`{label} must be one-dimensional and not empty; "
                        f"got shape {values.shape}.")  # fmt: skip
    if not np.isfinite(values).all() or (values < 0).any() or not values.any():
        raise DataError(f"`lr`{label} must be finite, >= 0 and somewhere > 0.")


def per_update(
    lr: ArrayLike | None, step: Steps, warmup: int | None, label: str
) -> tuple[Floats | None, tuple[str, ...]]:
    """The rate of every update from what a user knows of the rates."""
    if lr is None:
        return None, ()
    values = as_float_array("lr", lr, label)
    last = int(step[-1])
    if values.ndim == 0:
        values = np.full(last, float(values))
        check_rates(values, label)
        values[: warmup or 0] = ramp(warmup or 0, float(values[0]))[:last]
    check_rates(values, label)
    if values.size >= last:
        return values, ()
    if values.size != step.size:
        raise ArgumentError(
            f"`lr`{label} must be one number, one a point ({step.size}) or one an update (at "
            f"least {last}, the last step); got {values.size}, which does not cover the steps."
        )
    return logged_rates(values, step, last, warmup)


def logged_rates(
    values: Floats, step: Steps | Floats, last: int, warmup: int | None
) -> tuple[Floats, tuple[str, ...]]:
    """Rates that were logged now and then, on every update."""
    if warmup is not None:
        check_at_least("warmup", warmup, 0)
    every = np.arange(1, last + 1)
    rates = np.interp(
        every, *_with_top(np.asarray(step, dtype=np.float64), values, warmup or 0)
    )
    first = max(int(step[0]), 1)
    gaps = min(last, int(step[-1])) - first + 1 - int(((step >= first) & (step <= last)).sum())
    notes = []
    if gaps > 0:
        notes.append(f"rates of {counted(gaps, 'update')} between the logged ones interpolated")
    before = counted(first - 1, "update")
    if warmup and first > 1:
        # A log that begins within the warm-up begins below the peak.
        rising = min(warmup, first)
        rates[:rising] = ramp(rising, float(values[0]))
        notes.append(
            f"rates of the {before} before the first logged one, at step {first}, taken from a "
            f"linear warm-up of {warmup} updates"
        )
    elif first > 1:
        notes.append(f"the first logged rate assumed for the {before} before it")
    if step[-1] < last:
        after = counted(last - int(step[-1]), "update")
        notes.append(f"the last logged rate assumed for the {after} after it")
    return rates, tuple(notes)


# A warm-up that ends between two logged rates: a line from zero, up to the highest one.
def _with_top(step: Floats, values: Floats, warmup: int) -> tuple[Floats, Floats]:
    place = int(np.searchsorted(step, warmup, side="right"))
    if not 0 < place < step.size or not 0 < step[place - 1] < warmup:
        return step, values
    top, peak = float(values[place - 1] * warmup / step[place - 1]), float(values.max())
    # Rounding must not move the top to a later update.
    top = peak if top >= peak * (1 - 1e-6) else top
    return np.insert(step, place, warmup), np.insert(values, place, top)


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a law predicts from: the points of a run, without their losses.

    Attributes:
        step: (n,) updates done at each point, increasing.
        lr: (T,) rate of every update (`lr[t - 1]` is that of update t), or None.
        size: (n,) model size, in the user's unit, or None.
        tokens: (n,) training tokens, in the user's unit, or None.
        source: (n,) losses of another run or data set at the same points, or None.
    """

    step: Steps
    lr: Floats | None = None
    size: Floats | None = None
    tokens: Floats | None = None
    source: Floats | None = None

    @cached_property
    def warmup(self) -> int:
        """The number of updates before the opening rise of the rate is at its top."""
        return 0 if self.lr is None else warmup_length(self.lr)


@result("loss-curve")
class Curve(Result):
    """One training run: losses at increasing steps, and the conditions behind them.

    A step is the number of updates done when the loss was measured, so a schedule of T rates
    leads to the losses at the steps 1 ... T.

    Attributes:
        step: (n,) whole numbers >= 0, increasing, no repeats.
        loss: (n,) finite losses > 0 (nats, bits: any unit, the same for all curves of a fit).
        lr: (T,) learning rate of every update, or None. Given as a number, it is constant;
            as (n,) values, those are the rates logged at `step`, interpolated linearly in
            between (`notes` says so); as (T,) values with T >= step[-1], it is the rate of
            every update. None: not known; only laws without rates fit.
        size: model size, one number or one a point. Default None.
        tokens: training tokens, one number or one a point. Default None.
        group: runs that must be left out together when the fit is checked (continuations of one
            another, say). Default: every curve alone.
        name: how tables and messages call the curve. Default "".
        source: (n,) losses on another data set at the same points, for loss-to-loss laws.
        notes: what was assumed or left out, in sentences.
        warmup: length of the linear warm-up from zero at the start of the run, in updates,
            whether the log shows it or not. Every law leaves out the losses before its end.
            Where rates were logged, those before the first one are taken from it; a constant
            rate begins with it. Default None: it is read from the rates, and the first logged
            rate holds from the start.

    Raises:
        DataError: empty, not finite or not positive, unsorted, repeated or constant values.
        ArgumentError: lengths that do not fit each other, or rates that do not cover the steps.

    Examples:
        >>> curve = Curve([10, 20, 30], [4.0, 3.5, 3.2], lr=3e-4, name="run")
        >>> curve.lr.shape, curve.notes
        ((30,), ())
        >>> curve.until(20).step
        array([10, 20])
    """

    step: Steps
    loss: Floats
    lr: Floats | None = None
    size: Floats | None = None
    tokens: Floats | None = None
    group: str | None = None
    name: str = ""
    source: Floats | None = None
    notes: tuple[str, ...] = ()
    warmup: int | None = None

    def __init__(  # noqa: PLR0917 - the order of the first six is public
        self,
        step: ArrayLike,
        loss: ArrayLike,
        lr: ArrayLike | None = None,
        size: ArrayLike | None = None,
        tokens: ArrayLike | None = None,
        group: str | None = None,
        *,
        name: str = "",
        source: ArrayLike | None = None,
        warmup: int | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        label = f" of curve '{name}'" if isinstance(name, str) and name else ""
        self._put("step", _steps(step, label))
        self._put("loss", _losses(loss, self.step, label))
        for key, text in (("group", group), ("name", name)):
            if not isinstance(text, str) and (key == "name" or text is not None):
                raise ArgumentError(f"`{key}` must be text; got {text!r}.")
            self._put(key, text)
        if warmup is not None:
            check_at_least("warmup", warmup, 0)
        self._put("warmup", warmup)
        for key, value in (("size", size), ("tokens", tokens), ("source", source)):
            self._put(key, _per_point(key, value, len(self.step), label))
        rates, assumed = per_update(lr, self.step, warmup, label)
        self._put("lr", rates)
        said = (*_sentences(notes), *assumed)
        self._put("notes", (*said, *_warm_losses(self.step, warmup, said)))

    def _put(self, key: str, value: object) -> None:
        object.__setattr__(self, key, value)

    @property
    def inputs(self) -> Inputs:
        """The conditions without the losses."""
        return Inputs(self.step, self.lr, self.size, self.tokens, self.source)

    @property
    def label(self) -> str:
        """The name, or the number of steps where there is none."""
        return self.name or f"{self.step[-1]} steps"

    def estimates(self) -> tuple[Estimate, ...]:
        """The last loss."""
        why = "the loss at one step of one run"
        return (Estimate(float(self.loss[-1]), why_no_error=why, name="last loss"),)

    def sentences(self) -> tuple[str, ...]:
        """Length and fall of the loss, and what was assumed of the run."""
        text = (
            f"{self.label}: {counted(self.step.size, 'loss', 'losses')} up to step "
            f"{self.step[-1]:,}, from {number(self.loss[0])} to {number(self.loss[-1])}."
        )
        return (text, *map(as_sentence, self.notes))

    def figures(self) -> tuple[Figure, ...]:
        """The losses, and the learning rate where it is known."""
        figures = [("loss", "Loss", self.step, self.loss)]
        if self.lr is not None:
            figures += [("lr", "Learning rate", np.arange(1, self.lr.size + 1), self.lr)]
        return tuple(self._figure(*row) for row in figures)

    def _figure(self, name: str, title: str, x: Steps, y: Floats) -> Figure:
        def chart() -> "Chart":
            from lossatlas.plots.chart import Axis, Chart, curve

            heading = f"{title} of {self.label}"
            return Chart(heading, Axis("update"), Axis(title.lower()), (curve(x, y),))

        ends = f"{title} of {self.label}: {number(y[0])} at first, {number(y[-1])} at the end."
        return chart_of(name, title, chart, alt=ends)

    def select(self, keep: ArrayLike) -> "Curve":
        """The curve at some of its points.

        Args:
            keep: (n,) mask, or indices in increasing order.

        Returns:
            A curve with the same schedule and fewer points.

        Raises:
            ArgumentError: neither.
            DataError: fewer than two points are left.
        """
        keep = np.asarray(keep)
        n = self.step.size
        mask = keep.dtype == bool and keep.shape == (n,)
        indices = (
            keep.dtype.kind in "iu" and keep.ndim == 1 and np.isin(keep, np.arange(n)).all()
        )
        if not (mask or indices):
            raise ArgumentError(
                f"`keep` must be a mask of the {self.step.size} points, or their indices."
            )
        parts = {
            key: None if (value := getattr(self, key)) is None else value[keep]
            for key in ("size", "tokens", "source")
        }
        return Curve(
            self.step[keep], self.loss[keep], self.lr, group=self.group, name=self.name,
            notes=self.notes, warmup=self.warmup, **parts,
        )  # fmt: skip

    def without_rates(self) -> "Curve":
        """The curve for laws that count updates.

        Returns:
            A curve without rates and what was assumed of them; other notes stay.
        """
        kept = ("size", "tokens", "group", "source", "warmup")
        parts = {key: getattr(self, key) for key in kept}
        notes = [n for n in self.notes if not any(word in n for word in _OF_RATES)]
        return Curve(self.step, self.loss, name=self.name, notes=notes, **parts)

    def until(self, step: int) -> "Curve":
        """The curve as it was known at `step`, with the schedule cut there too.

        Args:
            step: the last step to keep.

        Returns:
            The shorter curve.

        Raises:
            ArgumentError: `step` is no number.
            DataError: fewer than two points are left.
        """
        if not is_number(step):
            raise ArgumentError(f"`step` must be a number; got {step!r}.")
        keep = self.step <= step
        part = self.select(keep)
        if part.lr is not None:
            part._put("lr", part.lr[: part.step[-1]])
        return part

    def thinned(self, points: int) -> "Curve":
        """The curve with neighboring points averaged (in log loss) until `points` are left.

        Args:
            points: how many to keep at most.

        Returns:
            The same curve if it is short enough; else bins of equal count, each at the step of
            its middle point.

        Raises:
            ArgumentError: `points` is not a whole number >= 2.
        """
        check_at_least("points", points, 2)
        n = len(self.step)
        if n <= points:
            return self
        edges = np.linspace(0, n, points + 1).astype(int)
        middle = (edges[:-1] + edges[1:] - 1) // 2
        count = np.diff(edges)
        thin = self.select(middle)
        mean = np.exp(np.add.reduceat(np.log(self.loss), edges[:-1]) / count)
        thin._put("loss", mean)
        return thin


def points(
    loss: ArrayLike,
    size: ArrayLike | None = None,
    tokens: ArrayLike | None = None,
    source: ArrayLike | None = None,
    name: str = "points",
) -> Curve:
    """Final losses of many runs as one curve, for laws in size, tokens or another loss.

    Args:
        loss: (n,) final losses.
        size: (n,) model sizes, or None.
        tokens: (n,) training tokens, or None.
        source: (n,) losses on another data set, or None.
        name: how tables call them. Default "points".

    Returns:
        A curve whose steps only number the points.

    Raises:
        DataError: as for `Curve`.
        ArgumentError: as for `Curve`.

    Examples:
        >>> points([3.2, 2.9], size=[1e6, 1e7]).size.tolist()
        [1000000.0, 10000000.0]
    """
    order = np.arange(1, as_float_array("loss", loss).size + 1)
    return Curve(order, loss, size=size, tokens=tokens, source=source, name=name)


# What notes on rates say, and no others.
_OF_RATES = ("interpolated", "assumed", "taken from")


# A part of a curve has the note of the whole, in which these losses are counted.
def _warm_losses(step: Steps, warmup: int | None, said: Sequence[str]) -> tuple[str, ...]:
    note = f"within the warm-up of {warmup} updates left out of fits"
    inside = int((step < (warmup or 0)).sum())
    if not inside or any(note in each for each in said):
        return ()
    return (f"{counted(inside, 'loss', 'losses')} {note}",)


def _sentences(notes: Sequence[str]) -> Sequence[str]:
    if isinstance(notes, str) or not (
        isinstance(notes, Sequence) and all(isinstance(note, str) for note in notes)
    ):
        raise ArgumentError("`notes` must be a list of sentences.")
    return notes


def _steps(step: ArrayLike, label: str) -> Steps:
    values = as_float_array("step", step, label)
    if values.ndim != 1 or values.size < 2:
        raise DataError(f"`step`{label} must hold at least two points in one dimension; "
                        f"got shape {values.shape}.")  # fmt: skip
    if not np.isfinite(values).all() or (values < 0).any() or (values % 1 != 0).any():
        raise DataError(f"`step`{label} must hold whole numbers >= 0: the updates done at each "
                        "point; give tokens as `tokens`.")  # fmt: skip
    check_length("step", values.max(), label)
    gaps = np.diff(values)
    if (gaps <= 0).any():
        at = int(np.argmax(gaps <= 0))
        kind = "repeats" if gaps[at] == 0 else "falls back from"
        raise DataError(
            f"`step`{label} must increase; it {kind} {values[at]:.0f} at row {at + 1}; "
            "sort the rows and keep one row a step."
        )
    return values.astype(np.int64)


def _losses(loss: ArrayLike, step: Steps, label: str) -> Floats:
    values = as_float_array("loss", loss, label)
    if values.shape != step.shape:
        raise ArgumentError(f"`loss`{label} must have one value a step ({len(step)}); "
                            f"got shape {values.shape}.")  # fmt: skip
    bad = ~np.isfinite(values) | (values <= 0)
    if bad.any():
        first = int(np.argmax(bad))
        raise DataError(
            f"`loss`{label} must be finite and > 0; {bad.sum()} of {bad.size} values are not, "
            f"the first ({values[first]}) at step {step[first]}; leave those rows out."
        )
    _check_scale(values, label)
    if np.ptp(values) == 0:
        raise DataError(
            f"`loss`{label} is {values[0]:g} at every step; a constant says nothing of a trend."
        )
    return values


def _per_point(key: str, value: ArrayLike | None, n: int, label: str) -> Floats | None:
    if value is None:
        return None
    values = as_float_array(key, value, label)
    if values.shape not in {(), (n,)}:
        raise ArgumentError(
            f"`{key}`{label} must be one number or {n}; got shape {values.shape}."
        )
    if not (np.isfinite(values) & (values > 0)).all():
        raise DataError(f"`{key}`{label} must be finite and > 0.")
    return np.broadcast_to(values, (n,)).copy()


def _check_scale(values: Floats, label: str) -> None:
    # Squares of losses must be numbers too.
    low, high = float(values.min()), float(values.max())
    if low < 1 / EXTREME or high > EXTREME:
        raise DataError(
            f"`loss`{label} must lie between {1 / EXTREME:g} and {EXTREME:g}; got "
            f"{low:g} to {high:g}; take another unit."
        )


def labels(curves: Sequence[Curve]) -> tuple[str, ...]:
    """One name a curve, numbered where names repeat or are missing."""
    names = [curve.label for curve in curves]
    return tuple(
        name if names.count(name) == 1 else f"{name} [{i + 1}]" for i, name in enumerate(names)
    )
