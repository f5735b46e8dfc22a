"""Simple forecasts from the recent part of one run, which laws must beat."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lossatlas.forecast.curve import Curve, Inputs
from lossatlas.forecast.law import FitData, Law

Floats = NDArray[np.float64]

FEWEST = 4  # points of a recent part


class Baseline(Law):
    """A forecast that goes on from the recent part of a run and knows no learning rate.

    It does not describe the run before that part. Its interval comes from forecasts that the
    run could have made of its own past, so it is fitted to one run at a time.
    """

    #: The last so much of the updates is the recent part.
    share: ClassVar[float]

    def recent(self, curve: Curve) -> Curve:
        """The recent part of a run."""
        late = curve.step > (1 - self.share) * curve.step[-1]
        late[-FEWEST:] = True
        part = curve.select(late)
        # Losses that are all alike make no curve; the whole run does.
        return part if np.ptp(part.loss) > 0 else curve


@dataclass(frozen=True)
class LastLevel(Baseline):
    """L(t) = level: the loss stays at the typical loss of the last quarter of the updates.

    The naive forecast ("persistence"): the best one for a loss that is flat within its noise.

    Examples:
        >>> from lossatlas.forecast import Curve
        >>> curve = Curve([10, 20], [3.0, 2.5])
        >>> LastLevel().predict([2.0], curve.inputs)
        array([2., 2.])
    """

    parameters: ClassVar[tuple[str, ...]] = ("level",)
    share: ClassVar[float] = 0.25

    def features(self, inputs: Inputs) -> int:
        """How many points are asked for."""
        return inputs.step.size

    def evaluate(self, values: Floats, features: Any) -> tuple[Floats, Floats]:
        """The losses and their derivatives."""
        return np.full(features, values[0]), np.ones((features, 1))

    def starts(self, problem: FitData) -> Floats:
        """The median."""
        return np.array([[np.median(problem.loss)]])

    def limits(self, problem: FitData) -> tuple[Floats, Floats]:
        """Around the losses."""
        return np.array([0.5 * problem.loss.min()]), np.array([2 * problem.loss.max()])


@dataclass(frozen=True)
class LocalTrend(Baseline):
    """L(t) = A ratio^log2(t): the trend of the last half of the updates goes on.

    A straight line of log loss over log updates ("drift"). `ratio` is what the loss is
    multiplied by when the updates double, A where the line meets the first update.

    Examples:
        >>> from lossatlas.forecast import Curve
        >>> curve = Curve([10, 20, 40], [3.0, 2.5, 2.2])
        >>> LocalTrend().predict([8.0, 0.5], curve.inputs).round(3)
        array([0.8, 0.4, 0.2])
    """

    parameters: ClassVar[tuple[str, ...]] = ("A", "ratio")
    share: ClassVar[float] = 0.5

    def features(self, inputs: Inputs) -> Floats:
        """Doublings of the updates since the first."""
        return np.log2(np.maximum(inputs.step, 1).astype(np.float64))

    def evaluate(self, values: Floats, features: Any) -> tuple[Floats, Floats]:
        """The losses and their derivatives."""
        first, ratio = values
        loss = first * ratio**features
        return loss, np.stack([loss / first, loss * features / ratio], axis=1)

    def starts(self, problem: FitData) -> Floats:
        """Least squares in log loss."""
        x = np.concatenate(problem.features)
        slope, start = np.polyfit(x, np.log(problem.loss), 1) if np.ptp(x) > 0 else (0.0, 0.0)
        return np.exp([[start, slope]])

    def limits(self, problem: FitData) -> tuple[Floats, Floats]:
        """A factor of a thousand for each doubling."""
        reach = 1e3 ** np.concatenate(problem.features).max()
        low, high = problem.loss.min(), problem.loss.max()
        return np.array([1e-3 * low / reach, 1e-3]), np.array([1e3 * high * reach, 1e3])
