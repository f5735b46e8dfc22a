"""What a loss curve shows while it grows: spikes, and the bend where progress slows."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossatlas.arrays import as_float_array
from lossatlas.checks import check_at_least, check_positive
from lossatlas.errors import ArgumentError
from lossatlas.forecast.certainty import ALIKE
from lossatlas.forecast.curve import Curve
from lossatlas.forecast.laws import BrokenPowerLaw, PowerLaw
from lossatlas.forecast.validation import Recipe

Floats = NDArray[np.float64]

GAUSS = 1.4826  # a median absolute deviation in standard deviations of a normal law
FAINT = 1e-4  # a change of the log loss below this is no spike, however quiet the curve
LEVEL = 10  # losses whose median is where the run stands
DOUBT = 6.0  # of the criterion: less speaks for neither law (20 to 1)
FEWEST = 40  # points without which no bend is looked for


@dataclass(frozen=True)
class Spike:
    """A loss far above those just before it.

    Attributes:
        step: where.
        loss: the loss there; not finite where the run blew up.
        deviations: how many robust standard deviations above the median before it.
    """

    step: int
    loss: float
    deviations: float


@dataclass(frozen=True)
class Deceleration:
    """A bend of the loss in log-log after which it falls more slowly.

    Attributes:
        step: t_d, where the two lines meet.
        loss: L_d, the loss there.
        before: the exponent before it.
        after: the exponent after it.
    """

    step: float
    loss: float
    before: float
    after: float


def spikes(
    step: ArrayLike, loss: ArrayLike, *, window: int = 50, threshold: float = 8.0
) -> tuple[Spike, ...]:
    """Losses that stand out from the ones before them.

    Each log loss is compared with the median of the ten before it, in units of the noise: the
    median absolute difference of neighbors in the `window` before it. Neither feels the trend,
    and a few spikes in the window do not hide the next one.

    Args:
        step: (n,) steps.
        loss: (n,) losses; ones that are not finite or not positive are spikes.
        window: how many losses tell of the noise. Default 50.
        threshold: deviations from which on a loss is a spike; 8 is beyond what noise with heavy
            tails does in ten thousand points. Default 8.

    Returns:
        The spikes, in order.

    Raises:
        ArgumentError: a number out of range, or lengths that differ.
    """
    check_at_least("window", window, LEVEL)
    check_positive("threshold", threshold)
    steps, values = as_float_array("step", step), as_float_array("loss", loss)
    if steps.shape != values.shape or values.ndim != 1:
        raise ArgumentError(
            f"`step` and `loss` must have one length; got {steps.shape} and {values.shape}."
        )
    if not np.isfinite(steps).all():
        raise ArgumentError("`step` must be finite; leave rows without a step out.")
    good = np.isfinite(values) & (values > 0)
    logs = np.log(np.where(good, values, 1.0))
    found = [
        Spike(int(steps[i]), float(values[i]), float("inf")) for i in np.flatnonzero(~good)
    ]
    kept, places = logs[good], np.flatnonzero(good)
    if kept.size > window:
        before = np.lib.stride_tricks.sliding_window_view(kept, window)[:-1]
        level = np.median(before[:, -LEVEL:], axis=1)
        noise = GAUSS * np.median(np.abs(np.diff(before, axis=1)), axis=1) / np.sqrt(2)
        height = (kept[window:] - level) / np.maximum(noise, FAINT)
        for i in np.flatnonzero(height > threshold):
            at = places[window + i]
            found.append(Spike(int(steps[at]), float(values[at]), float(height[i])))
    return tuple(sorted(found, key=lambda spike: spike.step))


def deceleration(curve: Curve) -> Deceleration | None:
    """The bend of a curve, if there is one.

    A broken power law is fitted and believed where the second exponent is less than half the
    first, the bend lies well inside the data, and the Bayesian information criterion prefers it
    both to a straight line in log-log and to a power law with a floor, L0 + A t^-alpha, which
    slows down without any bend. Residuals that follow each other count as fewer.

    Args:
        curve: the run so far; its rates are not looked at.

    Returns:
        The bend, or None.

    Raises:
        ArgumentError: `curve` is not a `Curve`.
    """
    if not isinstance(curve, Curve):
        raise ArgumentError(f"`curve` must be a Curve; got {type(curve).__name__}.")
    keep = curve.step >= 1
    if keep.sum() < FEWEST:
        return None
    usable = Curve(curve.step[keep], curve.loss[keep]).thinned(400)
    first = int(usable.step[0])
    bent, floor = (
        Recipe(law, float("inf")).solve([usable]) for law in (BrokenPowerLaw(), PowerLaw())
    )
    level, bend, before, after, _ = bent.values
    inside = 2 * first < bend < curve.step[-1] / 2
    if not inside or after > before / 2:
        return None
    x, y = np.log(usable.step), np.log(usable.loss)
    straight = y - np.polyval(np.polyfit(x, y, 1), x)
    for residuals, parameters in ((straight, 2), (floor.residuals, 3)):
        if _evidence(residuals, bent.residuals, 5 - parameters) < DOUBT:
            return None
    return Deceleration(float(bend), float(level), float(before), float(after))


# By how much the criterion prefers the second of two fits that has so many parameters more.
def _evidence(plain: Floats, richer: Floats, more: int) -> float:
    square = float(richer @ richer)
    alike = min(max(float(richer[1:] @ richer[:-1]) / max(square, 1e-300), 0.0), ALIKE)
    independent = richer.size * (1 - alike) / (1 + alike)
    gain = independent * np.log(max(float(plain @ plain), 1e-300) / max(square, 1e-300))
    return float(gain - more * np.log(max(independent, 2.0)))
