"""Leaving points out of a radial function, by fitting it again without each of them."""

import numpy as np
from scipy.interpolate import RBFInterpolator

KERNELS = {1: ("linear", 0), 3: ("cubic", 1), 5: ("quintic", 2)}


def left_out(centers, values, power):
    """By how much each center is missed by the function through all others."""
    kernel, degree = KERNELS[power]
    missed = []
    for k in range(len(centers)):
        others = np.arange(len(centers)) != k
        fit = RBFInterpolator(centers[others], values[others], kernel=kernel, degree=degree)
        missed.append(values[k] - fit(centers[k : k + 1])[0])
    return np.array(missed)


def power_function(centers, points, power):
    """The norm of the error functional: how far f(x) may be from its interpolant, |f| = 1."""
    kernel, degree = KERNELS[power]
    sign = {1: -1, 3: 1, 5: -1}[power]

    def phi(a, b):
        return sign * np.linalg.norm(a[:, None] - b[None], axis=-1) ** power

    found = []
    for point in points[:, None]:
        # Weights of the interpolant at the point: what it gives for each unit vector of data.
        fit = RBFInterpolator(centers, np.eye(len(centers)), kernel=kernel, degree=degree)
        weights = fit(point)[0]
        square = (
            weights @ phi(centers, centers) @ weights - 2 * weights @ phi(centers, point)[:, 0]
        )
        found.append(np.sqrt(max(0.0, square)))
    return np.array(found)
