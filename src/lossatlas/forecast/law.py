"""What a law is: a formula with its exact derivative, its starts and its limits.

All parameters are positive and are fitted as logarithms, so a Jacobian column times its
parameter is a derivative per e-fold. Laws are frozen dataclasses of settings: parameters live
in a `Fit`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, cast

import numpy as np
import scipy
from numpy.typing import NDArray

from lossatlas.checks import is_number
from lossatlas.errors import ArgumentError, DataError
from lossatlas.forecast.curve import Curve, Inputs

Floats = NDArray[np.float64]


def check_parameters(argument: str, values: object, names: Sequence[str]) -> None:
    """Require a finite number >= 0 for every parameter."""
    if not isinstance(values, Mapping):
        raise ArgumentError(
            f"`{argument}` must map parameters to numbers; got {type(values).__name__}."
        )
    for name in names:
        if name not in values:
            raise ArgumentError(
                f"`{argument}` must give {', '.join(names)}; {name} is missing."
            )
        value = values[name]
        if not is_number(value) or not 0 <= float(value) < np.inf:
            raise ArgumentError(
                f"`{argument}['{name}']` must be finite and >= 0; got {value!r}."
            )


@dataclass(frozen=True)
class FitData:
    """What one fit sees: prepared features and losses of its curves.

    Attributes:
        features: what `Law.features` made of each curve.
        losses: the losses of each curve.
        curves: the curves themselves.
    """

    features: tuple[Any, ...]
    losses: tuple[Floats, ...]
    curves: tuple[Curve, ...]

    @property
    def loss(self) -> Floats:
        """All losses in one row."""
        return np.concatenate(self.losses)


class Law(ABC):
    """A parametric law for losses. A new one: `parameters`, `features`, `evaluate`, `grid`."""

    parameters: ClassVar[tuple[str, ...]]
    needs: ClassVar[tuple[str, ...]] = ()
    #: One point at a time, so that all curves of a fit can be evaluated in one call.
    pointwise: ClassVar[bool] = False
    #: Width of the quadratic part of the Huber loss on log residuals; inf is least squares.
    huber: ClassVar[float] = 1e-3

    @abstractmethod
    def features(self, inputs: Inputs) -> Any:
        """What the formula needs of a run, computed once."""

    @abstractmethod
    def evaluate(self, values: Floats, features: Any) -> tuple[Floats, Floats]:
        """The predicted losses and their derivatives."""

    @abstractmethod
    def starts(self, problem: FitData) -> Floats:
        """Where to start: rough fits from the data, in no order."""

    @abstractmethod
    def limits(self, problem: FitData) -> tuple[Floats, Floats]:
        """How far the parameters may go; a fit that ends there says so."""

    def recent(self, curve: Curve) -> Curve:
        """The part of a run that the law is fitted to; a law describes all of it."""
        return curve

    def profile(self, problem: FitData, weight: Floats, huber: float) -> Floats | None:
        """A start next to every minimum; None where only a search from `starts` finds them."""
        del problem, weight, huber
        return None

    def prior(self, logs: Floats, problem: FitData) -> tuple[Floats, Floats]:
        """A weak belief about parameters that few curves cannot identify."""
        del problem
        return np.empty(0), np.empty((0, logs.size))

    @property
    def name(self) -> str:
        """The name of the class."""
        return type(self).__name__

    def settings(self) -> dict[str, Any]:
        """The settings that make this law again."""
        return {f.name: getattr(self, f.name) for f in fields(cast("Any", self))}

    def relatives(self) -> tuple["Law", ...]:
        """The same formula with other settings, among which `fit` looks for a better one."""
        return ()

    def check(self, inputs: Inputs, label: str = "") -> None:
        """Require what the law needs."""
        for need in self.needs:
            if getattr(inputs, need) is None:
                whose = f" of curve '{label}'" if label else ""
                raise DataError(f"`{need}`{whose} is missing and {self.name} needs it; "
                                f"give it to `Curve({need}=...)`.")  # fmt: skip

    def problem(self, curves: Sequence[Curve]) -> FitData:
        """Prepare curves for a fit."""
        return FitData(
            tuple(self.features(curve.inputs) for curve in curves),
            tuple(curve.loss for curve in curves),
            tuple(curves),
        )

    def predict(self, values: Floats, inputs: Inputs) -> Floats:
        """The losses that the law expects."""
        return self.evaluate(np.asarray(values, dtype=np.float64), self.features(inputs))[0]


class ScheduleLaw(Law):
    """A law in the learning rate: L0 + A S1^-alpha minus what falls of the rate have won."""

    needs: ClassVar[tuple[str, ...]] = ("lr",)

    @abstractmethod
    def final(self, values: Floats, rates: Floats) -> tuple[float, Floats]:
        """The loss after a whole schedule and its derivative by every rate."""

    @abstractmethod
    def columns(self, problem: FitData) -> Iterator[tuple[Floats, Floats]]:
        """Candidates for the parameters that enter non-linearly."""

    def starts(self, problem: FitData) -> Floats:
        """The best non-negative mix for every candidate shape."""
        loss = problem.loss
        rows = []
        for shape, columns in self.columns(problem):
            # Dividing by the loss turns residuals into log residuals, to first order.
            mix, _ = scipy.optimize.nnls(columns / loss[:, None], np.ones(loss.size))
            size = np.abs(columns).max(axis=0)
            floor = 1e-4 * loss.min() / np.where(size > 0, size, np.inf)
            rows.append(self.join(np.maximum(mix, np.maximum(floor, 1e-12)), shape))
        return np.array(rows)

    @abstractmethod
    def join(self, mix: Floats, shape: Floats) -> Floats:
        """Put linear and non-linear parameters in the order of `parameters`."""


def rate_sums(inputs: Inputs) -> Floats:
    """S1: the sum of rates up to each point, the area of the warm-up included."""
    if inputs.lr is None:
        return inputs.step.astype(np.float64)
    check_cover(inputs)
    sums = np.cumsum(inputs.lr)[inputs.step - 1]
    if sums[0] <= 0:
        raise ArgumentError(
            f"`lr` is 0 up to step {inputs.step[sums <= 0][-1]}: a law of a sum of rates has "
            "no value there; leave those points out."
        )
    return np.asarray(sums)


CLIPPED = 1e-3  # of the truth: forecasts below this, negative ones too, count as this


def log_error(forecast: Floats, truth: Floats) -> Floats:
    """Log of forecast over truth, for any forecast; a bound where that is `CLIPPED` or less."""
    return np.asarray(np.log(np.maximum(forecast / truth, CLIPPED)))


def check_cover(inputs: Inputs) -> None:
    """Require a rate for every update up to the last step, and no point before the first."""
    if inputs.lr is not None and inputs.step[-1] > inputs.lr.size:
        raise ArgumentError(f"`lr` has {inputs.lr.size} rates but the last step is "
                            f"{inputs.step[-1]}; give a rate for every update.")  # fmt: skip
    if inputs.step[0] < 1:
        raise ArgumentError("`steps` must be >= 1: a law of a sum of rates has no value before "
                            "the first update.")  # fmt: skip


def falls(inputs: Inputs, with_warmup: bool = False) -> Floats:
    """By how much each update's rate lies below the one before; rises are negative."""
    rates = cast("Floats", inputs.lr)
    change = np.zeros(rates.size)
    if with_warmup:
        change[0] = -rates[0]
    start = 0 if with_warmup else inputs.warmup
    change[start + 1 :] = rates[start:-1] - rates[start + 1 :]
    return change
