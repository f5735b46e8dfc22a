"""Which bars are real: the stability theorem, fed with the errors of the map."""

import numpy as np
from scipy.special import ndtri

from lossatlas.checks import is_number
from lossatlas.errors import ArgumentError
from lossatlas.topology.field import Field
from lossatlas.topology.paired import oscillation_bound


def certainty_threshold(field: Field, confidence: float = 0.95) -> float:
    """The length above which a bar cannot be an effect of the map's errors.

    Two fields that differ by at most e everywhere have bars whose lengths differ by at most
    2e, once matched; so a bar longer than 2e belongs to the true field too. Here e is a
    bound on the sampling error of all points at once (normal errors of the given standard
    errors, Sidak's correction over the points, so it needs no independence) plus the
    measured error of interpolation. It does not profit from errors that the points of a map
    share, and errs on the side of silence.

    Where replicates of the whole map are known, lengths are judged by what they are,
    differences of two points: the threshold is then a bound on the greatest minus the least
    error. A common error of all points, which moves every bar and lengthens none, drops out.

    Args:
        field: the map. Without standard errors only the interpolation counts, and without
            both the threshold is 0.
        confidence: probability with which the bound holds at every point at once.

    Returns:
        The threshold, in units of the field.

    Source: Cohen-Steiner, Edelsbrunner, Harer, Discrete Comput. Geom. 37 (2007).
    """
    if field.errors is not None:
        return oscillation_bound(field.errors, confidence) + 2.0 * field.interpolation_error
    return 2.0 * (sampling_bound(field, confidence) + field.interpolation_error)


def sampling_bound(field: Field, confidence: float = 0.95) -> float:
    """A bound on the sampling error of every point of a map at once.

    Args:
        field: the map.
        confidence: probability with which it holds.

    Returns:
        The bound, in units of the field; 0 where no standard error is known.
    """
    if field.stderr is None:
        return 0.0
    known = field.stderr[field.finite & np.isfinite(field.stderr)]
    if known.size == 0:
        return 0.0
    # Interpolated points carry no error of their own but take part in the supremum.
    points = int(np.count_nonzero(field.finite))
    return simultaneous_quantile(confidence, points) * float(known.max())


def simultaneous_quantile(confidence: float, points: int) -> float:
    """How many standard errors hold for all points at once.

    Args:
        confidence: probability with which they hold.
        points: number of points.

    Returns:
        The normal quantile with Sidak's correction.
    """
    single = -np.expm1(np.log(confidence) / points)
    return float(-ndtri(single / 2.0))


def check_confidence(confidence: float) -> None:
    """Require a probability strictly between 0 and 1.

    Args:
        confidence: what came.

    Raises:
        ArgumentError: it is not.
    """
    if not is_number(confidence) or not 0.0 < confidence < 1.0:
        raise ArgumentError(
            f"`confidence` must lie strictly between 0 and 1; got {confidence!r}."
        )
