"""The page about penalties, and its figure."""

# ruff: noqa: E501 - rows of a table are one line each

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from penalties import DECAYS, ENDS, GATES, NOISES, ROBUST, STRENGTHS, WEIGHTINGS

from lossatlas.linalg.estimators import quantile
from lossatlas.plots import style
from lossatlas.plots.style import HUES
from lossatlas.recipes import paired

KINDS = {"clean": "clean labels", "mislabeled": "a fifth of the labels drawn at random"}
RIVALS = ("plain", "L2", "label smoothing", "SAM")
SASP = ("SASP, GGN", "SASP, Fisher")
BOTH = ("SASP + CVP", "SASP + CVP, original")


class Penalties:
    """Chosen settings and paired differences.

    Args:
        tables: "claim method" -> rows of settings, seeds, numbers; None where not measured.
    """

    def __init__(self, tables):
        self.tables = {k: np.array(t, dtype=float) for k, t in tables.items()}

    def best(self, claim, method):
        """The setting that does best on the validation examples."""
        table = self.tables[f"{claim} {method}"]
        if claim == "robust":
            return int(table[..., ::2].mean((1, 2)).argmax())
        return int(table[..., 0].mean(1).argmin())

    def at_best(self, claim, method, column):
        """One number of every seed at that setting."""
        return self.tables[f"{claim} {method}"][self.best(claim, method), :, column]

    def end(self, claim, method, name):
        """One of `ENDS` of every seed at that setting."""
        return self.at_best(claim, method, ENDS.index(name))

    def over_strengths(self, method):
        """Test accuracy of every seed, averaged over all strengths of the decay."""
        return 100 * self.tables[f"decay {method}"][..., ENDS.index("test accuracy")].mean(0)

    def under_noise(self, method, level):
        """Test accuracy of every seed under noise of the inputs."""
        return 100 * self.at_best("robust", method, 2 * level + 1)


def interval(first, second, digits=2):
    """A paired difference with its interval."""
    found = paired(first, second)
    low, high = found.interval()
    return f"{found.value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def ratio(first, second):
    """A paired ratio with its interval, from the logarithms."""
    found = paired(np.log(first), np.log(second))
    mean, low, high = (np.exp(v) for v in (found.value, *found.interval()))
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def draw(study, folder):
    """Four panels: losses, strengths of decay, noise, tasks."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 8.2), layout="constrained")
    _losses(axes[0, 0], study)
    _decays(axes[0, 1], study)
    _noise(axes[1, 0], study)
    _tasks(axes[1, 1], study)
    for ax in axes.ravel():
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color=style.GRID)
        ax.set_axisbelow(True)
    figure.savefig(folder / "penalties.png", dpi=130)
    plt.close(figure)


def _losses(ax, study):
    methods = [m for m in STRENGTHS if m != "plain"]
    labels = ("clean labels", "a fifth drawn at random")
    for kind, label, hue, shift in zip(KINDS, labels, HUES, (-0.14, 0.14), strict=False):
        for at, method in enumerate(methods):
            d = paired(
                study.end(kind, method, "test loss"), study.end(kind, "plain", "test loss")
            )
            low, high = d.interval()
            ax.errorbar(d.value, at + shift, xerr=[[d.value - low], [high - d.value]], fmt="o",
                        ms=5, color=hue, label=label if at == 0 else None)  # fmt: skip
    ax.axvline(0, color=style.INK, lw=0.9)
    ax.set_yticks(range(len(methods)), methods)
    ax.set_ylim(len(methods) + 0.5, -0.6)
    ax.set_xlabel("test loss above that of plain training")
    ax.set_title("Tuned penalties: lower is better", loc="left", fontsize=style.TITLE_SIZE)
    ax.legend(frameon=False, fontsize=style.LABEL_SIZE, loc="lower right")


def _curve(ax, x, table, hue, label):
    reach = quantile(0.95, table.shape[1]) * table.std(1, ddof=1) / np.sqrt(table.shape[1])
    ax.errorbar(x, table.mean(1), reach, fmt=".-", color=hue, lw=1.4, capsize=2, label=label)


def _decays(ax, study):
    for hue, method in zip(HUES, GATES, strict=False):
        table = 100 * study.tables[f"decay {method}"][..., ENDS.index("test accuracy")]
        _curve(ax, DECAYS, table, hue, method)
    ax.set_xscale("log")
    ax.set_xlabel("strength of the decay")
    ax.set_ylabel("test accuracy, %")
    ax.set_title("Decay: how far can it be turned up?", loc="left", fontsize=style.TITLE_SIZE)
    ax.legend(frameon=False, fontsize=style.LABEL_SIZE)


def _noise(ax, study):
    for hue, method in zip(HUES, ROBUST, strict=False):
        table = np.array([study.under_noise(method, at) for at in range(len(NOISES))])
        _curve(ax, NOISES, table, hue, method)
    ax.set_xlabel("standard deviation of the noise, per standardized pixel")
    ax.set_ylabel("test accuracy, %")
    ax.set_title("Noise on the test inputs", loc="left", fontsize=style.TITLE_SIZE)
    ax.legend(frameon=False, fontsize=style.LABEL_SIZE)


def _tasks(ax, study):
    rng = np.random.default_rng(0)
    for at, (hue, method) in enumerate(zip(HUES, WEIGHTINGS, strict=False)):
        errors = study.at_best("tasks", method, 2)
        ax.plot(at + 0.25 * (rng.random(len(errors)) - 0.5), errors, ".", color=hue, alpha=0.55)
        ax.plot([at - 0.3, at + 0.3], [errors.mean()] * 2, color=hue, lw=2.2)
    ax.set_xticks(range(len(WEIGHTINGS)), WEIGHTINGS)
    ax.set_ylabel("squared error against the clean signal")
    ax.set_title(
        "Noisy task, a dot a seed: lower is better", loc="left", fontsize=style.TITLE_SIZE
    )


def _setting(one):
    return ", ".join(f"{name} {value:g}" for name, value in one.items()) or "none"


def ends(study, kind):
    """Losses, accuracies and traces of all methods on one kind of labels."""
    rows = []
    for method, settings in STRENGTHS.items():
        loss, right, trace = (
            study.end(kind, method, name)
            for name in ("test loss", "test accuracy", "Hessian trace")
        )
        rows.append(
            f"| {method} | {_setting(settings[study.best(kind, method)])} | {loss.mean():.3f} ± {loss.std(ddof=1):.3f} "
            f"| {100 * right.mean():.2f} ± {100 * right.std(ddof=1):.2f} | {trace.mean():.1f} ± {trace.std(ddof=1):.1f} |"
        )
    return (
        "| | chosen | test loss | test accuracy, % | Hessian trace |\n|---|---|---|---|---|\n"
        + "\n".join(rows)
    )


def against(study, kind, ours, name, others):
    """Paired differences of some methods to some rivals."""
    scale, digits = (100, 2) if name == "test accuracy" else (1, 3)
    head = f"| {name} of | " + " | ".join(f"minus {o}" for o in others) + " |"
    rows = [
        f"| {m} | "
        + " | ".join(
            interval(scale * study.end(kind, m, name), scale * study.end(kind, o, name), digits)
            for o in others
        )
        + " |"
        for m in ours
    ]
    return "\n".join([head, "|---" * (len(others) + 1) + "|", *rows])


def traces(study):
    """Traces of SASP over those of others, and of these over plain."""
    rows = [
        f"| {m} / {o} | "
        + " | ".join(
            ratio(study.end(k, m, "Hessian trace"), study.end(k, o, "Hessian trace"))
            for k in KINDS
        )
        + " |"
        for m in SASP
        for o in RIVALS
    ]
    return f"| ratio of traces | {' | '.join(KINDS.values())} |\n|---|---|---|\n" + "\n".join(
        rows
    )


def decays(study):
    """Accuracy over the strength of four kinds of decay."""
    head = "| | " + " | ".join(f"{d:g}" for d in DECAYS) + " | mean | above L2 |"
    column = ENDS.index("test accuracy")
    rows = [
        f"| {m} | "
        + " | ".join(f"{100 * v:.1f}" for v in study.tables[f"decay {m}"][..., column].mean(1))
        + f" | {study.over_strengths(m).mean():.1f} | "
        + (
            ""
            if m == "L2"
            else interval(study.over_strengths(m), study.over_strengths("L2"), 1)
        )
        + " |"
        for m in GATES
    ]
    return "\n".join([head, "|---" * (len(DECAYS) + 3) + "|", *rows])


def noise(study):
    """Accuracy under noise of the inputs."""
    rows = []
    for m, settings in ROBUST.items():
        cells = " | ".join(
            f"{study.under_noise(m, at).mean():.2f}" for at in range(len(NOISES))
        )
        rows.append(f"| {m} | {_setting(settings[study.best('robust', m)])} | {cells} |")
    for m in ROBUST:
        if m != "SBMP":
            cells = " | ".join(
                interval(study.under_noise("SBMP", at), study.under_noise(m, at))
                for at in range(len(NOISES))
            )
            rows.append(f"| *SBMP* above {m} | | {cells} |")
    head = "| | chosen | " + " | ".join(f"noise {n:g}" for n in NOISES) + " |"
    return "\n".join([head, "|---" * (len(NOISES) + 2) + "|", *rows])


def tasks(study):
    """Errors of two tasks against the clean signals."""
    rows = []
    for m, numbers in WEIGHTINGS.items():
        first, noisy = (study.at_best("tasks", m, column) for column in (1, 2))
        above = "" if m == "equal" else interval(noisy, study.at_best("tasks", "equal", 2), 3)
        beside = "" if m == "fixed" else interval(noisy, study.at_best("tasks", "fixed", 2), 3)
        rows.append(
            f"| {m} | {numbers[study.best('tasks', m)]:g} | {first.mean():.4f} | {noisy.mean():.3f} ± {noisy.std(ddof=1):.3f} | {above} | {beside} |"
        )
    head = "| | chosen | first task | noisy task | minus equal | minus fixed |"
    return "\n".join([head, "|---|---|---|---|---|---|", *rows])
