"""The figures of the study."""

import matplotlib as mpl

mpl.use("Agg")

import measure
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from measure import real

from lossatlas import forecast
from lossatlas.plots import canvas, style

THOUSANDS = StrMethodFormatter("{x:,.0f}")


def predicted_and_measured(folder):
    """Six unseen runs beside the forecast of a fit to three others."""
    for size in real.SIZES:
        fit = forecast.fit(forecast.MultiPowerLaw(), real.runs(size, real.TRAIN))
        figure, axes = plt.subplots(2, 3, figsize=(11, 6.2), layout="constrained")
        for ax, name in zip(axes.ravel(), real.TEST, strict=True):
            truth = real.run(size, name)
            fit.predict(truth).with_measured(truth).plot(ax=ax)
            late = truth.loss[truth.step > 0.15 * truth.step[-1]]
            ax.set_ylim(truth.loss.min() - 0.05, late.max() + 0.05)
            ax.xaxis.set_major_locator(MaxNLocator(4))
            ax.xaxis.set_major_formatter(THOUSANDS)
            canvas.name_axes(ax, name, "update", "loss")
        figure.savefig(folder / f"unseen-{size}.png", dpi=130)
        plt.close(figure)


def coverage_by_law(found, folder):
    """Errors of final losses in units of the half width: inside one is covered."""
    figure, ax = plt.subplots(figsize=(7.4, 3.2), layout="constrained")
    canvas.axes(ax)
    rng = np.random.default_rng(0)
    for i, law in enumerate(measure.LAWS):
        share = [
            test["error"] / test["half_width"]
            for row in found if row["law"] == law for test in row["tests"]
        ]  # fmt: skip
        at = i + 0.3 * (rng.random(len(share)) - 0.5)
        inside = np.abs(share) <= 1
        for keep, hue in ((inside, style.BASIN), (~inside, style.PATH)):
            ax.plot(np.clip(np.array(share)[keep], -3, 3), at[keep], ".", ms=3, color=hue,
                    alpha=0.6)  # fmt: skip
        ax.text(3.25, i, f"{inside.mean():.0%} inside", va="center", size=style.LABEL_SIZE)
    ax.axvspan(-1, 1, color=style.SHARED, alpha=0.35, lw=0, zorder=0)
    ax.set_yticks(range(len(measure.LAWS)), list(measure.LAWS))
    ax.set_xlim(-3.1, 4.3)
    ax.set_xticks(range(-3, 4), [*map(str, range(-3, 3)), "3 or more"])
    what = "error of the final loss, in half widths of its 90 % interval"
    canvas.name_axes(ax, "Final losses of runs that took no part in the fit", what, "")
    figure.savefig(folder / "coverage.png", dpi=130)
    plt.close(figure)


def cooldowns(folder):
    """The loss that the law expects for every length of the cooldown."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for ax, size in zip(axes, real.SIZES, strict=True):
        canvas.axes(ax)
        fit = forecast.fit(forecast.MultiPowerLaw(), real.runs(size, real.TRAIN))
        lengths = np.geomspace(200, 21_840, 25).astype(int)
        for shape, hue in (("linear", "#00648c"), ("sqrt", "#d55e00"), ("square", "#009e73")):
            losses = [
                fit.law.final(fit.values, forecast.schedules.wsd(
                    24_000, real.PEAK, int(n), shape, warmup=real.WARMUP))[0]
                for n in lengths
            ]  # fmt: skip
            ax.semilogx(lengths, losses, color=hue, label=shape)
            lowest = int(np.argmin(losses))
            ax.plot(lengths[lowest], losses[lowest], "o", ms=5, color=hue)
        best = fit.optimize_schedule(24_000, real.PEAK, warmup=real.WARMUP)
        ax.axhspan(
            best.wsd_loss, best.wsd_loss + best.error, color=style.SHARED, alpha=0.55, lw=0,
            label="as good as the best, for all the law knows", zorder=0,
        )  # fmt: skip
        ax.set_xticks([200, 1000, 5000, 20_000])
        ax.xaxis.set_major_formatter(THOUSANDS)
        ax.minorticks_off()
        title = f"{size}: {24_000:,} updates, {real.WARMUP:,} of them warm-up"
        canvas.name_axes(ax, title, "length of the cooldown (updates)", "expected final loss")
        canvas.legend(ax)
    figure.savefig(folder / "cooldown.png", dpi=130)
    plt.close(figure)
