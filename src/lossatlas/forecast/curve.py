"""A loss curve with what the laws need to know about its run: rates, size, tokens."""

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossatlas.arrays import as_float_array
from lossatlas.checks import check_at_least, is_number
from lossatlas.errors import ArgumentError, DataError
from lossatlas.forecast.numbers import check_length, check_scale
from lossatlas.forecast.rates import per_update
from lossatlas.forecast.schedules import warmup_length

Floats = NDArray[np.float64]
Steps = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a law is asked about: the points of a run, without their losses.

    Attributes:
        step: (n,) updates done at each point, increasing.
        rates: (T,) rate of every update (`rates[t - 1]` is that of update t), or None.
        size: (n,) model size, in the user's unit, or None.
        tokens: (n,) training tokens, in the user's unit, or None.
        source: (n,) losses of another run or data set at the same points, or None.
    """

    step: Steps
    rates: Floats | None = None
    size: Floats | None = None
    tokens: Floats | None = None
    source: Floats | None = None

    @cached_property
    def warmup(self) -> int:
        """The number of updates before the opening rise of the rate is at its top."""
        return 0 if self.rates is None else warmup_length(self.rates)


@dataclass(frozen=True, eq=False)
class Curve:
    """One training run: losses at increasing steps, and the conditions behind them.

    A step is the number of updates done when the loss was measured, so a schedule of T rates
    leads to the losses at the steps 1 ... T.

    Attributes:
        step: (n,) whole numbers >= 0, increasing, no repeats.
        loss: (n,) finite losses > 0 (nats, bits: any unit, the same for all curves of a fit).
        lr: the learning rate. A number: constant. (n,) values: the rates logged at `step`,
            which are interpolated linearly in between (`notes` says so). (T,) values with
            T >= step[-1]: the rate of every update. None: not known; only laws without rates
            fit.
        size: model size, one number or one a point. Default None.
        tokens: training tokens, one number or one a point. Default None.
        group: runs that must be left out together when the fit is checked (continuations of one
            another, say). Default: every curve alone.
        name: how tables and messages call the curve. Default "".
        source: (n,) losses on another data set at the same points, for loss-to-loss laws.
        warmup: length of a linear warm-up from zero that lies before the first logged rate.
            Used only with logged rates. Default None: the first logged rate holds from the
            start.

    Raises:
        DataError: empty, not finite or not positive, unsorted, repeated or constant values.
        ArgumentError: lengths that do not fit each other, or rates that do not cover the steps.

    Examples:
        >>> import numpy as np
        >>> curve = Curve([10, 20, 30], [4.0, 3.5, 3.2], lr=3e-4)
        >>> curve.rates.shape, curve.notes
        ((30,), ())
    """

    step: Steps
    loss: Floats
    lr: Floats | None = None
    size: Floats | None = None
    tokens: Floats | None = None
    group: str | None = None
    name: str = ""
    source: Floats | None = None
    warmup: int | None = None
    rates: Floats | None = field(init=False, default=None, repr=False)
    notes: tuple[str, ...] = field(init=False, default=(), repr=False)

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
        rates, notes = per_update(lr, self.step, warmup, label)
        self._put("lr", None if lr is None else np.asarray(lr, dtype=np.float64))
        self._put("rates", rates)
        self._put("notes", notes)

    def _put(self, key: str, value: object) -> None:
        object.__setattr__(self, key, value)

    @property
    def inputs(self) -> Inputs:
        """The conditions without the losses."""
        return Inputs(self.step, self.rates, self.size, self.tokens, self.source)

    @property
    def label(self) -> str:
        """The name, or the number of steps where there is none."""
        return self.name or f"{self.step[-1]} steps"

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
        lr = self.rates
        parts = {
            key: None if (value := getattr(self, key)) is None else value[keep]
            for key in ("size", "tokens", "source")
        }
        chosen = Curve(
            self.step[keep], self.loss[keep], lr, group=self.group, name=self.name, **parts
        )
        chosen._put("notes", self.notes)
        return chosen

    def noted(self, notes: Sequence[str]) -> "Curve":
        """The same curve with other notes on what was assumed of it.

        Args:
            notes: sentences.

        Returns:
            A new curve.

        Raises:
            ArgumentError: `notes` are no sentences.
        """
        if isinstance(notes, str) or not all(
            isinstance(note, str) for note in _iterated(notes)
        ):
            raise ArgumentError("`notes` must be a list of sentences.")
        twin = copy(self)
        twin._put("notes", tuple(notes))
        return twin

    def without_rates(self) -> "Curve":
        """The curve for laws that count updates.

        Returns:
            A curve without rates and the notes on them.
        """
        parts = {key: getattr(self, key) for key in ("size", "tokens", "group", "source")}
        return Curve(self.step, self.loss, name=self.name, **parts)

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
        if part.rates is not None:
            part._put("rates", part.rates[: part.step[-1]])
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
    """
    number = np.arange(1, as_float_array("loss", loss).size + 1)
    return Curve(number, loss, size=size, tokens=tokens, source=source, name=name)


def _iterated(notes: object) -> Iterable[object]:
    return notes if isinstance(notes, Sequence) else [None]


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
    check_scale("loss", values, label)
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


def labels(curves: Sequence[Curve]) -> tuple[str, ...]:
    """One name a curve, numbered where names repeat or are missing."""
    names = [curve.label for curve in curves]
    return tuple(
        name if names.count(name) == 1 else f"{name} [{i + 1}]" for i, name in enumerate(names)
    )
