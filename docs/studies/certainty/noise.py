"""Surfaces whose basins are known, and noise of many kinds to add to them."""

import numpy as np
from scipy.ndimage import gaussian_filter

SIDE = 15
COUNTS = (2, 3, 4, 12, 16, 64, 256)
RARE = 0.03


def surfaces(side=SIDE, depth=3.0):
    """The true fields by name; two wells are `depth` deep, in standard deviations of noise."""
    x = np.linspace(-1.0, 1.0, side)[:, None] + np.zeros((1, side))
    y = x.T
    wells = ((1.6 * x) ** 2 - 1) ** 2 + (1.6 * y) ** 2
    return {
        "flat": np.zeros((side, side)),
        "bowl": 3.0 * (x**2 + y**2),
        "tilt": 3.0 * x + y,
        "two wells": depth * wells,
    }


def smooth(rng, count, side=SIDE):
    """Fields correlated over 2.5 cells, of variance 1."""
    field = gaussian_filter(
        rng.standard_normal((count, side, side)), (0, 2.5, 2.5), mode="wrap"
    )
    return field * (2 * 2.5 * np.sqrt(np.pi))


def _fixed(side=SIDE):
    return smooth(np.random.default_rng(7), 1, side)[0]


def _skewed(normal):
    return np.exp(normal) - np.exp(0.5)


def _hole(row, column, side=SIDE):
    far = [
        np.minimum(abs(np.arange(side) - k), side - abs(np.arange(side) - k))
        for k in (row, column)
    ]
    return np.exp(-(far[0][:, None] ** 2 + far[1][None] ** 2) / (2 * 1.5**2))


def _holes(rng, count, *, depth, fixed, base=0.0, side=SIDE):
    # Each example has a hole with probability RARE; the mean over all examples is flat.
    quarter = [(k, m) for k in (3, side - 4) for m in (3, side - 4)]
    every = quarter if fixed else [(k, m) for k in range(side) for m in range(side)]
    mean = RARE * sum(_hole(*place, side) for place in every) / len(every)
    examples = np.zeros((count, side, side)) + depth * mean
    for k in np.flatnonzero(rng.random(count) < RARE):
        examples[k] -= depth * _hole(*every[rng.integers(len(every))], side)
    return examples + base * smooth(rng, count, side)


def _radius(side=SIDE):
    x = np.linspace(-1.0, 1.0, side)
    return x[:, None] ** 2 + x[None] ** 2


def _pareto(rng, shape):
    return rng.pareto(2.5, shape) - 1 / 1.5


def _grid(n):
    return (n, SIDE, SIDE)


KINDS = {
    "independent": lambda rng, n: rng.standard_normal(_grid(n)),
    "smooth": smooth,
    "shared shift": lambda rng, n: 5 * rng.standard_normal((n, 1, 1)) + 0.3 * smooth(rng, n),
    "smooth, blurred rim": lambda rng, n: (0.1 + 3 * _radius()) * smooth(rng, n),
    "independent, one noisy side": lambda rng, n: (
        (0.02 + 5 * (np.linspace(-1, 1, SIDE)[:, None] > 0.5)) * rng.standard_normal(_grid(n))
    ),
    "log-normal, smooth": lambda rng, n: _skewed(smooth(rng, n)),
    "log-normal, independent": lambda rng, n: _skewed(rng.standard_normal(_grid(n))),
    "log-normal times one field": lambda rng, n: (
        _skewed(rng.standard_normal((n, 1, 1))) * _fixed()
    ),
    "the same, negative": lambda rng, n: -_skewed(rng.standard_normal((n, 1, 1))) * _fixed(),
    "Pareto, independent": lambda rng, n: _pareto(rng, _grid(n)),
    "Pareto, shared shift": lambda rng, n: _pareto(rng, (n, 1, 1)) + 0.3 * smooth(rng, n),
    "Student t times one field": lambda rng, n: (
        rng.standard_t(3, (n, 1, 1)) * _fixed() + 0.5 * rng.standard_normal(_grid(n))
    ),
    "rank one": lambda rng, n: rng.standard_normal((n, 1, 1)) * _fixed(),
    "rare holes anywhere": lambda rng, n: _holes(rng, n, depth=100.0, fixed=False),
    "rare holes at four places": lambda rng, n: _holes(rng, n, depth=100.0, fixed=True),
    "rare holes, noise a tenth as deep": lambda rng, n: _holes(
        rng, n, depth=10.0, fixed=True, base=1.0
    ),
}
# Nothing that is drawn tells of these: a share 0.97^n of the maps holds no hole at all.
BEYOND = {
    "rare holes, noise a thousandth as deep": lambda rng, n: _holes(
        rng, n, depth=1000.0, fixed=True, base=1.0
    ),
}
