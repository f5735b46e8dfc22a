"""Slow, obvious twins of the laws: straight from the formulas, one observation at a time."""

import numpy as np


def multi_power(values, rates, steps, warmup):
    """L0 + A S1^-alpha - B sum_k (eta_{k-1} - eta_k) G(eta_k^-gamma S_k(t)).

    The sum begins after the warm-up.

    `rates[k - 1]` is the rate of update k.
    """
    lowest, amplitude, alpha, gain, reach, beta, gamma = values
    out = []
    for t in steps:
        drop = 0.0
        for k in range(warmup + 2, t + 1):
            fall = rates[k - 2] - rates[k - 1]
            if fall != 0:
                since = rates[k - 1 : t].sum()
                x = reach * max(rates[k - 1], 1e-6 * rates.max()) ** -gamma * since
                drop += fall * (1 - (1 + x) ** -beta)
        out.append(lowest + amplitude * rates[:t].sum() ** -alpha - gain * drop)
    return np.array(out)


def annealing(values, decay, rates, steps, warmup):
    """L0 + A S1^-alpha - C S2 with m_i = decay m_{i-1} + fall_i."""
    lowest, amplitude, alpha, gain = values
    out = []
    for t in steps:
        momentum = area = 0.0
        for k in range(1, t + 1):
            fall = rates[k - 2] - rates[k - 1] if k >= warmup + 2 else 0.0
            momentum = decay * momentum + fall
            area += momentum
        out.append(lowest + amplitude * rates[:t].sum() ** -alpha - gain * area)
    return np.array(out)


def huber(residual, width):
    """Half the square inside the width, a straight line outside."""
    size = np.abs(residual)
    return np.where(size <= width, 0.5 * size**2, width * (size - 0.5 * width))


def structured_sgd(eigenvalues, target, rates, batch, floor=0.0):
    """Expected loss of one-pass SGD on Gaussian features, exactly (Bordelon & Pehlevan 2021).

    Second moments c of the error along each feature obey
    c <- [(1 - eta l)^2 + eta^2 / m l^2] c + eta^2 / m l (l . c + floor), and the loss is
    l . c + floor, where the floor is what no weights can fit.
    """
    c = np.asarray(target, dtype=float).copy()
    losses = []
    for eta in rates:
        loss = eigenvalues @ c + floor
        c = ((1 - eta * eigenvalues) ** 2 + eta**2 / batch * eigenvalues**2) * c
        c += eta**2 / batch * eigenvalues * loss
        losses.append(eigenvalues @ c + floor)
    return np.array(losses)


def random_features(a, b, features, inputs, rng):
    """A power-law random features problem: the kernel's eigenvalues and the target along them.

    Inputs have variances j^-2a, the target j^-b, and a Gaussian matrix mixes them into
    `features` features (Paquette et al. 2024, the "4+3 phases"). Also what cannot be learnt.
    """
    j = np.arange(1, inputs + 1, dtype=float)
    mix = rng.standard_normal((features, inputs)) / np.sqrt(features)
    scaled = mix * j**-a
    _, singular, right = np.linalg.svd(scaled, full_matrices=False)
    wanted = j ** -(a + b)
    along = right @ wanted
    floor = wanted @ wanted - along @ along
    eigenvalues = singular**2
    return eigenvalues, along**2 / eigenvalues, floor
