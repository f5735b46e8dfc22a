"""The broken power law: a description of loss deceleration (one bend in log-log)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossatlas.arrays import as_float_array
from lossatlas.checks import is_number
from lossatlas.errors import ArgumentError, DataError
from lossatlas.forecast.curve import Inputs
from lossatlas.forecast.law import FitData, Law, check_cover

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BrokenPowerLaw(Law):
    """log L = log L_d - r_0 log(t/t_d) - (r_d - r_0) f log(1 + (t/t_d)^(1/f)).

    Before the step t_d the loss falls with the exponent r_0, after it with r_d; f is the width
    of the bend in e-folds, and L_d the loss where the two lines meet. A description, not a
    forecaster: fitted to an early part it promises too much. Smooth raw curves first
    (`smoothed`), and leave out the first hundred steps or so.

    Source: Caballero et al. 2022, arXiv:2210.14891, with one break; loss deceleration as in
    Mircea et al. 2025, arXiv:2506.05447, in its derived quantities.

    Examples:
        >>> from lossatlas.forecast import Curve
        >>> curve = Curve([10, 100, 1000], [4.0, 3.0, 2.5])
        >>> BrokenPowerLaw().predict([3.0, 100.0, 0.5, 0.1, 0.1], curve.inputs).round(3)
        array([9.487, 3.084, 2.383])
    """

    parameters: ClassVar[tuple[str, ...]] = ("L_d", "t_d", "r_0", "r_d", "f")
    pointwise: ClassVar[bool] = True
    huber: ClassVar[float] = float("inf")

    def features(self, inputs: Inputs) -> Floats:
        """The logarithm of time."""
        check_cover(inputs)
        return np.log(inputs.step.astype(np.float64))

    def evaluate(self, values: Floats, features: Any) -> tuple[Floats, Floats]:
        """The losses and their derivatives."""
        level, bend, before, after, width = values
        x = features - np.log(bend)
        soft = np.logaddexp(0.0, x / width)  # log(1 + (t / t_d)^(1 / f))
        share = np.exp(x / width - soft)
        turn = after - before
        loss = level * np.exp(-before * x - turn * width * soft)
        slopes = np.stack(
            [
                np.full_like(x, 1 / level),
                (before + turn * share) / bend,
                width * soft - x,
                -width * soft,
                -turn * (soft - share * x / width),
            ],
            axis=1,
        )
        return loss, slopes * loss[:, None]

    def starts(self, problem: FitData) -> Floats:
        """A hinge in log-log for every place of the bend."""
        x, y = np.concatenate(problem.features), np.log(problem.loss)
        rows = []
        for bend in np.quantile(x, np.linspace(0.1, 0.9, 9)):
            columns = np.stack(
                [np.ones_like(x), np.minimum(x - bend, 0), np.maximum(x - bend, 0)]
            )
            level, before, after = np.linalg.lstsq(columns.T, y, rcond=None)[0]
            rows += [
                [np.exp(level), np.exp(bend), max(-before, 1e-4), max(-after, 1e-4), width]
                for width in (0.1, 0.5)
            ]
        return np.array(rows)

    def limits(self, problem: FitData) -> tuple[Floats, Floats]:
        """The bend inside the data (an e-fold to spare), exponents up to 10."""
        x, loss = np.concatenate(problem.features), problem.loss
        first, last = np.exp(x.min() - 1), np.exp(x.max() + 1)
        return (
            np.array([1e-3 * loss.min(), first, 1e-6, 1e-6, 1e-3]),
            np.array([1e3 * loss.max(), last, 10.0, 10.0, 10.0]),
        )


def smoothed(loss: ArrayLike, base: float = 1.2) -> Floats:
    """A running mean over [j / base, j]: a window that grows with time.

    Args:
        loss: (n,) losses logged at every step.
        base: how far back the window reaches, > 1. Default 1.2.

    Returns:
        (n,) means.

    Raises:
        ArgumentError: a base that is not above 1.
        DataError: losses that are no numbers in one dimension.

    Source: Mircea et al. 2025, arXiv:2506.05447.

    Examples:
        >>> smoothed([4.0, 2.0, 3.0, 1.0])
        array([4. , 3. , 2.5, 2. ])
    """
    if not is_number(base) or not 1 < base < np.inf:
        raise ArgumentError(f"`base` must be a finite number > 1; got {base!r}.")
    values = as_float_array("loss", loss)
    if values.ndim != 1:
        raise DataError(f"`loss` must have one dimension; got shape {values.shape}.")
    total = np.concatenate([[0.0], np.cumsum(values)])
    last = np.arange(values.size)
    first = (last / base).astype(int)
    return np.asarray((total[last + 1] - total[first]) / (last + 1 - first))
