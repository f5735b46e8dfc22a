"""Persistence images: a barcode as a small picture of fixed size."""

from typing import Any

import numpy as np
from scipy.special import ndtr

from lossatlas.checks import check_at_least, check_number, check_positive
from lossatlas.errors import ArgumentError
from lossatlas.topology.bars import Bars, finite_bars
from lossatlas.topology.field import Floats


def persistence_image(
    diagram: Bars,
    *,
    births: tuple[float, float],
    lengths: tuple[float, float],
    pixels: tuple[int, int] = (20, 20),
    spread: float | None = None,
    dimension: int = 0,
    essential: str | float = "drop",
) -> Floats:
    """Sum of Gaussians at (birth, length), weighted by length, integrated over each pixel.

    The weight grows from 0 at length 0 to 1 at the upper end of `lengths` and stays there:
    weight 0 on the diagonal is what makes the image stable, and one scale for all diagrams
    makes images comparable.

    Args:
        diagram: a `Diagram`, or births and deaths.
        births: range of the first axis.
        lengths: range of the second axis.
        pixels: number of pixels along each axis.
        spread: standard deviation of the Gaussians; None takes one pixel of the length axis.
        dimension: the degree.
        essential: the rule for essential bars.

    Returns:
        An array of shape `pixels`: the mass of each pixel.

    Raises:
        ArgumentError: ranges or pixels that are no pairs of numbers, fewer than one pixel, a
            spread or a range that is not positive.

    Source: Adams et al., JMLR 18 (2017).
    """
    for name, pair in (("births", births), ("lengths", lengths), ("pixels", pixels)):
        _check_pair(name, pair)
    for name, number in zip(("pixels[0]", "pixels[1]"), pixels, strict=True):
        check_at_least(name, number, 1)
    check_positive("births[1] - births[0]", births[1] - births[0])
    check_positive("lengths[1]", lengths[1])
    check_positive("lengths[1] - lengths[0]", lengths[1] - lengths[0])
    width = (lengths[1] - lengths[0]) / pixels[1] if spread is None else spread
    check_positive("spread", width)
    bars = finite_bars(diagram, dimension, essential)
    long = bars[:, 1] - bars[:, 0]
    weights = np.minimum(1.0, long / lengths[1])
    across = _masses(bars[:, 0], births, pixels[0], width)
    up = _masses(long, lengths, pixels[1], width)
    return np.asarray((across * weights[:, None]).T @ up)


def _check_pair(name: str, pair: Any) -> None:
    if not isinstance(pair, tuple | list | np.ndarray) or len(pair) != 2:
        raise ArgumentError(f"`{name}` must be two numbers; got {pair!r}.")
    for number in pair:
        check_number(name, number)


def _masses(centers: Floats, span: tuple[float, float], count: int, spread: float) -> Floats:
    borders = np.linspace(*span, count + 1)
    return np.asarray(np.diff(ndtr((borders - centers[:, None]) / spread), axis=1))
