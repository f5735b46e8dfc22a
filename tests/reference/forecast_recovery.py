"""Every law on noisy data that it made itself: truths, data, and how well a fit finds them."""

import numpy as np

from lossatlas import forecast
from reference.forecast_cases import TRUTH, made_up, small_schedules

SCHEDULES = small_schedules()
FAMILY = ("constant", "cosine", "two-step", "linear")


def over_time(law, values, noise, seed):
    """One run without rates."""
    step = np.arange(50, 10_001, 50)
    return [
        _noisy(law, values, forecast.Curve(step, np.linspace(2, 1, step.size)), noise, seed)
    ]


def over_schedules(law, values, noise, seed):
    """Four schedules."""
    return [
        made_up(law, values, SCHEDULES[name], name, noise, [seed, i])
        for i, name in enumerate(FAMILY)
    ]


def over_points(law, values, noise, seed):
    """Sixty final losses."""
    rng = np.random.default_rng(seed)
    every = {
        "size": np.geomspace(1e6, 1e9, 60)[rng.permutation(60)],
        "tokens": np.geomspace(3e8, 1e11, 60)[rng.permutation(60)],
        "source": np.linspace(2, 4, 60),
    }
    parts = {need: every[need] for need in law.needs}
    empty = forecast.points(np.linspace(2, 1, 60), **parts)
    return [_noisy(law, values, empty, noise, [seed, 1])]


def _noisy(law, values, empty, noise, seed):
    wobble = np.exp(noise * np.random.default_rng(seed).standard_normal(empty.step.size))
    loss = law.predict(np.array(values, dtype=float), empty.inputs) * wobble
    return forecast.Curve(empty.step, loss, size=empty.size, tokens=empty.tokens,
                          source=empty.source)  # fmt: skip


# Name -> law, true parameters, data, and what is known of the parameters.
CASES = {
    "power": (forecast.PowerLaw(), (2, 20, 0.8), over_time, {}),
    "broken power": (forecast.BrokenPowerLaw(), (3, 800, 0.3, 0.05, 0.4), over_time, {}),
    "annealing": (forecast.AnnealingLaw(0.99), (2.6, 0.9, 0.5, 3.0), over_schedules, {}),
    "linear": (forecast.LinearLRLaw(), (2.6, 0.9, 0.5, 80.0), over_schedules, {}),
    "multi-power": (forecast.MultiPowerLaw(), tuple(TRUTH), over_schedules, {}),
    "chinchilla": (forecast.ChinchillaLaw(), (1.8, 400, 0.35, 2000, 0.37), over_points, {}),
    "widths": (forecast.ChinchillaLaw(tokens=False), (1.8, 400, 0.35), over_points, {}),
    "kaplan": (forecast.KaplanLaw(), (1.5, 1e8, 0.3, 1e9, 0.4), over_points, {}),
    "shifted power": (forecast.ShiftedPowerLaw(), (0.9, 1.1, 1.2, 0.8), over_points,
                      {"E0": 1.2}),
}  # fmt: skip


def recovery(name, noise, draws):
    """Fit many draws of a case.

    Returns:
        Log errors of the parameters, whether their 95 % intervals hold the truth (NaN where
        there is none), both (draws, p).
    """
    law, values, make, fixed = CASES[name]
    errors, held = [], []
    for seed in range(draws):
        fit = forecast.fit(law, make(law, values, noise, seed), check=False, fixed=fixed)
        errors.append(np.log(fit.values / np.array(values)))
        ends = fit.parameter_intervals(0.95).values()
        held.append([
            np.nan if np.isnan(low) else low <= truth <= high
            for (low, high), truth in zip(ends, values, strict=True)
        ])  # fmt: skip
    return np.array(errors), np.array(held, dtype=float)
