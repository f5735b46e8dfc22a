"""Loss curves, forecasts with their bands, residuals and schedules."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from lossatlas.forecast import Curve, Fit, Prediction, SchedulePlan
from lossatlas.forecast.curve import labels
from lossatlas.plots import canvas, style
from lossatlas.text import cut_off

# Okabe and Ito: the order keeps neighbors apart for every common kind of color vision.
HUES = ("#00648c", "#d55e00", "#009e73", "#b3477d", "#56b4e9", "#8a6d00", "#1b2a33", "#9aa6ad")
DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))


def plot_curves(fit: Fit, *, ax: Axes | None = None) -> Axes:
    """The fitted curves: measured points and the law through them.

    Args:
        fit: a fit with curves.
        ax: where to draw. Default: new axes.

    Returns:
        The axes.
    """
    ax = canvas.axes(ax)
    for i, (curve, name) in enumerate(zip(fit.curves, labels(fit.curves), strict=True)):
        hue = HUES[i % len(HUES)]
        ax.plot(curve.step, curve.loss, ".", ms=2.5, color=hue, alpha=0.45)
        law = fit.law.predict(fit.values, curve.inputs)
        ax.plot(curve.step, law, color=hue, lw=1.2, ls=_dash(i), label=cut_off(name, 30))
    canvas.name_axes(ax, f"{fit.law.name}: points measured, lines fitted", "update", "loss")
    canvas.legend(ax)
    return ax


def plot_prediction(
    prediction: Prediction, *, truth: Curve | None = None, ax: Axes | None = None
) -> Axes:
    """A forecast and its interval, beside what was measured if that is known.

    Args:
        prediction: from `Fit.predict`.
        truth: the run itself. Default None.
        ax: where to draw. Default: new axes.

    Returns:
        The axes.
    """
    ax = canvas.axes(ax)
    if not prediction.reason:
        ax.fill_between(
            prediction.step, prediction.lower, prediction.upper, color=style.SHARED, alpha=0.45,
            lw=0, label=f"{prediction.level:.0%} interval",
        )  # fmt: skip
    ax.plot(prediction.step, prediction.loss, color=style.BASIN, lw=1.4, label="forecast")
    if truth is not None:
        ax.plot(truth.step, truth.loss, ".", ms=2.5, color=style.PATH, label="measured")
    loss, lower, upper = prediction.final
    band = "" if prediction.reason else f" [{lower:.4f}, {upper:.4f}]"
    title = f"Forecast at {prediction.step[-1]:,}: {loss:.4f}{band}"
    canvas.name_axes(ax, title, "update", "loss")
    canvas.legend(ax)
    return ax


def plot_residuals(fit: Fit, *, ax: Axes | None = None) -> Axes:
    """By how many percent the measured losses lie above the law.

    Args:
        fit: a fit with curves.
        ax: where to draw. Default: new axes.

    Returns:
        The axes.
    """
    ax = canvas.axes(ax)
    ax.axhline(0, color=style.FAINT, lw=0.8)
    for i, (curve, name) in enumerate(zip(fit.curves, labels(fit.curves), strict=True)):
        law = fit.law.predict(fit.values, curve.inputs)
        ax.plot(
            curve.step, 100 * np.log(curve.loss / law), color=HUES[i % len(HUES)], lw=0.9,
            ls=_dash(i), label=cut_off(name, 30),
        )  # fmt: skip
    canvas.name_axes(
        ax, f"{fit.law.name}: what the law leaves over", "update", "measured above law (%)"
    )
    canvas.legend(ax)
    return ax


def plot_schedule(plan: SchedulePlan, *, ax: Axes | None = None) -> Axes:
    """The free optimum and the best plain cooldown.

    Args:
        plan: from `Fit.optimize_schedule`.
        ax: where to draw. Default: new axes.

    Returns:
        The axes.
    """
    ax = canvas.axes(ax)
    update = np.arange(1, plan.free.size + 1)
    cooldown = f"{plan.wsd_shape} cooldown of {plan.wsd_decay:,}: {plan.wsd_loss:.4f}"
    ax.plot(update, plan.wsd, color=style.BASIN, lw=1.4, label=cooldown)
    ax.plot(update, plan.free, color=style.PATH, lw=1.1, ls=DASHES[1],
            label=f"free optimum: {plan.free_loss:.4f}")  # fmt: skip
    canvas.name_axes(ax, "Schedules that the law likes best", "update", "learning rate")
    ax.set_ylim(bottom=0)
    canvas.legend(ax, loc="lower left")
    return ax


def _dash(i: int) -> Any:
    return DASHES[i // len(HUES) % len(DASHES)]
