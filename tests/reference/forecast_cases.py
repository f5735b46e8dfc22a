"""Runs for the forecast tests: the real ones beside the checkout, and made-up ones."""

import csv
from pathlib import Path

import numpy as np
import pytest

from lossatlas import forecast
from lossatlas.forecast import schedules

CURVES = Path(__file__).parents[3] / "shared" / "data" / "curves"
needs_curves = [
    pytest.mark.shared,
    pytest.mark.skipif(
        not CURVES.is_dir(), reason="no shared/ with curves beside the checkout"
    ),
]

SIZES = ("25M", "100M")
PEAK, END, WARMUP = 3e-4, 3e-5, 2160
TRAIN = ("cosine_24000", "constant_24000", "wsdcon_9")
TEST = ("constant_72000", "cosine_72000", "wsd_20000_24000", "wsdld_20000_24000", "wsdcon_3",
        "wsdcon_18")  # fmt: skip

# The reference fit's stored parameters: L0, A, alpha, B, C, beta, gamma. Its README prints them
# to three digits.
PUBLISHED = {
    "25M": (
        3.04045406,
        0.52468604,
        0.50786857,
        363.78751622,
        2.06560812,
        0.58279013,
        0.64142257,
    ),
    "100M": (
        2.6514477,
        0.60115152,
        0.45295811,
        437.9464276,
        2.13245612,
        0.59785199,
        0.65523644,
    ),
}


def schedule(name):
    """The schedule behind a file of the multi-power-law runs."""
    kind, *numbers = name.split("_")
    if kind == "wsdcon":
        rates = schedules.constant(16_000, PEAK, WARMUP)
        rates[7999:] = int(numbers[0]) * 1e-5
        return rates
    steps = int(numbers[-1])
    return {
        "constant": lambda: schedules.constant(steps, PEAK, WARMUP),
        "cosine": lambda: schedules.cosine(steps, PEAK, END / PEAK, WARMUP),
        "wsd": lambda: schedules.wsd(
            steps, PEAK, 4000, "exponential", min_ratio=END / PEAK, warmup=WARMUP
        ),
        "wsdld": lambda: schedules.wsd(
            steps, PEAK, 4000, "linear", min_ratio=END / PEAK, warmup=WARMUP
        ),
    }[kind]()


def run(size, name):
    """A measured run with its true schedule."""
    logged = forecast.read_csv(CURVES / f"mpl_{size}" / f"{name}.csv", warmup=WARMUP)
    return forecast.Curve(logged.step, logged.loss, schedule(name), name=name)


def runs(size, names):
    return [run(size, name) for name in names]


def chinchilla(drop=0):
    """The Chinchilla points, without the `drop` highest losses."""
    with (CURVES / "chinchilla.csv").open() as file:
        rows = [
            [float(row[c]) for c in ("Model Size", "Training FLOP", "loss")]
            for row in csv.DictReader(file)
        ]
    size, flop, loss = np.array(rows).T
    keep = np.argsort(loss)[: loss.size - drop]
    return forecast.points(loss[keep], size=size[keep], tokens=(flop / (6 * size))[keep])


def metrics(curve, loss):
    """R2, MAE, RMSE, mean and largest relative error."""
    error = loss - curve.loss
    return np.array([
        1 - (error**2).sum() / ((curve.loss - curve.loss.mean()) ** 2).sum(),
        np.abs(error).mean(), np.sqrt((error**2).mean()),
        (np.abs(error) / curve.loss).mean(), (np.abs(error) / curve.loss).max(),
    ])  # fmt: skip


TRUTH = np.array([2.6, 0.9, 0.5, 200.0, 2.0, 0.5, 0.5])


def small_schedules(peak=1e-3, steps=2000, warmup=100):
    """Four schedules of 2,000 updates and one of 3,000."""
    make = schedules
    return {
        "constant": make.constant(steps, peak, warmup),
        "cosine": make.cosine(steps, peak, 0.1, warmup),
        "two-step": np.concatenate([
            make.constant(steps // 2, peak, warmup), np.full(steps // 2, 0.3 * peak)
        ]),
        "linear": make.wsd(steps, peak, 0.3, "linear", min_ratio=0.05, warmup=warmup),
        "long": make.wsd(steps * 3 // 2, peak, 0.2, "sqrt", min_ratio=0.02, warmup=warmup),
    }  # fmt: skip


def made_up(law, values, rates, name, noise=0.0, seed=0, every=20, **kwargs):
    """A run that follows a law, with noise in the log loss."""
    steps = np.arange(120, rates.size + 1, every)
    steps[-1] = rates.size
    empty = forecast.Curve(steps, np.linspace(2, 1, steps.size), rates)
    loss = law.predict(np.asarray(values), empty.inputs)
    wobble = np.exp(noise * np.random.default_rng(seed).standard_normal(steps.size))
    return forecast.Curve(steps, loss * wobble, rates, name=name, **kwargs)
