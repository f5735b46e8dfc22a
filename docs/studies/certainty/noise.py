"""Surfaces whose basins are known, and noise of many kinds to add to them."""

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.special import gamma

SIDE = 15
COUNTS = (2, 3, 4, 8, 12, 16, 64, 119, 256)
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


def _fixed(seed=7):
    return smooth(np.random.default_rng(seed), 1)[0]


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


def _one(n):
    return (n, 1, 1)


def _autoregressive(rng, n, memory=0.8):
    # Along both axes, each field stationary with variance 1.
    step = np.sqrt(1 - memory**2)
    field = rng.standard_normal(_grid(n))
    for axis in (1, 2):
        rows = np.moveaxis(field, axis, 0)
        for k in range(1, SIDE):
            rows[k] = memory * rows[k - 1] + step * rows[k]
    return field


def _contaminated(rng, n):
    # One example in ten is five times as noisy as the others.
    return np.where(rng.random(_one(n)) < 0.1, 5.0, 1.0) * smooth(rng, n)


def _weibull(rng, shape):
    # Shape 0.7: mean 1.266, standard deviation 1.85.
    return (rng.weibull(0.7, shape) - gamma(1 + 1 / 0.7)) / 1.85


def _two_point(rng, n):
    # One example in five lies two deviations up, the others half a one down.
    return np.where(rng.random(_one(n)) < 0.2, 2.0, -0.5) * _fixed(11)


def _groups(rng, n, size=4):
    # Every four examples share half of their variance; they are taken for independent.
    shared = smooth(rng, -(-n // size)).repeat(size, axis=0)[:n]
    return np.sqrt(0.5) * (shared + smooth(rng, n))


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
# None of these was measured before the rules were chosen on the kinds above.
HELD_OUT = {
    "gamma, independent": lambda rng, n: (rng.gamma(0.5, size=_grid(n)) - 0.5) / np.sqrt(0.5),
    "Laplace, smooth": lambda rng, n: np.sqrt(rng.exponential(size=_grid(n))) * smooth(rng, n),
    "autoregressive": _autoregressive,
    "one example in ten five times as noisy": _contaminated,
    "Weibull times one field": lambda rng, n: _weibull(rng, _one(n)) * _fixed(11),
    "Weibull times one field, negative": lambda rng, n: -_weibull(rng, _one(n)) * _fixed(11),
    "exponential, growing to the rim": lambda rng, n: (
        (0.1 + 2 * _radius()) * (rng.exponential(size=_grid(n)) - 1)
    ),
    "squares times one field, negative": lambda rng, n: (
        (1 - rng.standard_normal(_one(n)) ** 2) / np.sqrt(2) * _fixed(11)
    ),
    "two points times one field": _two_point,
    "uniform times two fields": lambda rng, n: (
        rng.uniform(-np.sqrt(3), np.sqrt(3), _one(n)) * _fixed(11)
        + rng.uniform(-np.sqrt(3), np.sqrt(3), _one(n)) * _fixed(12)
    ),
    "Gumbel, smooth, and a shared shift": lambda rng, n: (
        3 * (rng.gumbel(size=_one(n)) - np.euler_gamma)
        + smooth(rng, n) * rng.gumbel(size=_one(n))
    ),
}
# What a sample does not show: a share 0.97^n of the maps holds no hole at all, and examples
# that come in groups count as independent.
BEYOND = {
    "rare holes, noise a thousandth as deep": lambda rng, n: _holes(
        rng, n, depth=1000.0, fixed=True, base=1.0
    ),
    "groups of four examples": _groups,
}
