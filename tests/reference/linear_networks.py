"""Learning coefficients of linear networks: Aoyagi's limit, and finite n by quadrature."""

import itertools
import math

import numpy as np
import torch
from torch import nn


def aoyagi(widths, rank):
    """The learning coefficient of a deep linear network, for n to infinity.

    With M_s = width_s - rank, the l + 1 layers S are those with max M < sum M / l <= min of the
    others; a = sum M - (ceil(sum M / l) - 1) l. Aoyagi, Neural Networks 172 (2024), theorem 1.
    """
    excess = [w - rank for w in widths]
    for size in range(2, len(widths) + 1):
        for chosen in itertools.combinations(range(len(widths)), size):
            inside = [excess[k] for k in chosen]
            others = [m for k, m in enumerate(excess) if k not in chosen]
            hidden, total = size - 1, sum(inside)
            if not (max(inside) * hidden <= total and all(total <= m * hidden for m in others)):
                continue
            a = total - (math.ceil(total / hidden) - 1) * hidden
            pairs = sum(x * y for x, y in itertools.combinations(inside, 2))
            return (
                (rank * (widths[0] + widths[-1]) - rank**2) / 2
                + a * (hidden - a) / (4 * hidden)
                - hidden * (hidden - 1) / 4 * (total / hidden) ** 2
                + pairs / 2
            )
    raise ValueError(f"no layers fit {widths} with rank {rank}")


def two_hidden(inputs, outputs, strength, points=1500):
    """The finite coefficient of outputs x 2 x inputs around zero, target zero.

    The outer matrix is Gaussian given the inner one; what is left is an integral over the two
    eigenvalues of a Wishart matrix. `strength` is (n / T) / localization^2.
    """
    roots = np.exp(np.linspace(np.log(1e-4 / strength), np.log(60.0), points))
    first, second = np.meshgrid(roots, roots)
    log_density = (
        (inputs - 3) / 2 * np.log(first * second)
        - (first + second) / 2
        + np.log(np.abs(first - second) + 1e-300)
        - outputs / 2 * (np.log1p(strength * first) + np.log1p(strength * second))
        + np.log(first * second)  # of the logarithmic grid
    )
    density = np.exp(log_density - log_density.max())
    energy = strength * first / (1 + strength * first)
    energy = outputs / 2 * (energy + strength * second / (1 + strength * second))
    return float((density * energy).sum() / density.sum())


def narrow_chain(ends, strength, points=1500):
    """The finite coefficient of an ends x 1, a 1 x 1 and a 1 x ends matrix, target zero.

    The first vector is Gaussian given the rest; what is left is an integral over the squared
    number in the middle and the squared length of the last vector.
    """
    roots = np.exp(np.linspace(np.log(1e-7 / strength), np.log(80.0), points))
    middle, length = np.meshgrid(roots, roots)
    ratio = strength * middle * length
    log_density = (
        (np.log(middle) + ends * np.log(length)) / 2  # of chi squares, on a logarithmic grid
        - (middle + length) / 2
        - ends / 2 * np.log1p(ratio)
    )
    density = np.exp(log_density - log_density.max())
    return float((density * ends / 2 * ratio / (1 + ratio)).sum() / density.sum())


def three_hidden(widths, strength, draws=200_000, seed=0):
    """The finite coefficient of three matrices, target zero, by draws from the prior.

    The outer matrix is Gaussian given the product P of the others: it leaves the weight
    det(1 + s P P^T)^(-outputs / 2) and the energy outputs / 2 tr s P P^T (1 + s P P^T)^-1, with
    s = (n / T) / localization^3.

    Returns:
        The coefficient and its standard error.
    """
    rng = np.random.default_rng(seed)
    inputs, first, second, outputs = widths
    one, two = (rng.standard_normal((draws, *s)) for s in ((first, inputs), (second, first)))
    product = two @ one
    values = strength * np.linalg.svd(product, compute_uv=False) ** 2
    weight = np.exp(-outputs / 2 * np.log1p(values).sum(1))
    energy = outputs / 2 * (values / (1 + values)).sum(1)
    mean = float((weight * energy).sum() / weight.sum())
    error = float(np.sqrt((weight**2 * (energy - mean) ** 2).sum()) / weight.sum())
    return mean, error


class LinearNetwork(nn.Module):
    """A product of matrices that are zero; the loss is half of its squared size."""

    def __init__(self, widths):
        super().__init__()
        self.matrices = nn.ParameterList(
            torch.zeros(b, a, dtype=torch.float64) for a, b in itertools.pairwise(widths)
        )

    def forward(self, zeros):
        product = self.matrices[0]
        for matrix in list(self.matrices)[1:]:
            product = matrix @ product
        return product.square().sum() / 2 + 0 * zeros
