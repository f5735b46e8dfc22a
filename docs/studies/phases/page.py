"""The figure and the page of the study."""

# ruff: noqa: E501 - rows of a table are one line each

from dataclasses import dataclass

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from phase_plane import MEANING, OF_PAIRS, OF_SEEDS, PHASES, Thresholds

from lossatlas.plots import style

THRESHOLDS = Thresholds(loss=0.1, connectivity=0.05, alignment=0.9)
SHOWN = ("train loss", "largest eigenvalue", "connectivity", "alignment", "test error")
# Of the trainings and measurements; the page states them.
SETTINGS = ("lr", "epochs", "seeds", "examples", "curve_steps")
COLORS = {
    "I": "#d55e00",
    "II": "#f0b27a",
    "III": "#cc79a7",
    "IV-A": "#98c1a6",
    "IV-B": "#00648c",
    "unclear": "#eceff1",
}


def draw(planes, folder):
    """Measures and phases, a row for each plane."""
    figure, axes = plt.subplots(
        len(planes),
        len(SHOWN) + 1,
        figsize=(14, 2.9 * len(planes)),
        layout="constrained",
        squeeze=False,
    )
    for line, (share, plane) in zip(axes, planes.items(), strict=True):
        for ax, name in zip(line, SHOWN, strict=False):
            _measure(ax, plane, name)
        _phases(line[-1], plane)
        line[0].set_ylabel(f"{100 * share:.0f} % random labels\nbatch size")
    figure.savefig(folder / "phases.png", dpi=110)
    plt.close(figure)


def _frame(ax, plane, title):
    ax.set_xticks(range(len(plane.loads)), [f"{v}" for v in plane.loads])
    ax.set_yticks(range(len(plane.temperatures)), [f"{v:g}" for v in plane.temperatures])
    ax.set_xlabel("width (load)")
    ax.set_title(title, loc="left", fontsize=style.TITLE_SIZE)


def _measure(ax, plane, name):
    means, _ = plane.table(name)
    if name == "connectivity":
        reach = np.nanmax(np.abs(means))
        options = {"cmap": "RdBu", "vmin": -reach, "vmax": reach}
    elif name in {"train loss", "largest eigenvalue"}:
        options = {"cmap": "YlOrBr", "norm": mpl.colors.LogNorm()}
    else:
        options = {
            "cmap": "YlGnBu",
            "vmin": min(0.0, np.nanmin(means)),
            "vmax": 1.0 if name == "alignment" else np.nanmax(means),
        }
    shown = ax.imshow(means.T, aspect="auto", **options)
    for (i, j), value in np.ndenumerate(means):
        rgba = shown.cmap(shown.norm(value)) if np.isfinite(value) else (1, 1, 1, 1)
        dark = np.dot(rgba[:3], [0.3, 0.59, 0.11]) < 0.5
        ax.text(
            i,
            j,
            _short_number(value),
            ha="center",
            va="center",
            fontsize=8,
            color="white" if dark else style.INK,
        )
    _frame(ax, plane, name)


def _short_number(value):
    if not np.isfinite(value):
        return "-"
    return f"{value:.2g}" if abs(value) >= 0.01 else f"{value:.1g}"


def _phases(ax, plane):
    named, sure = plane.phases(THRESHOLDS), plane.certain(THRESHOLDS)
    for (i, j), phase in np.ndenumerate(named):
        ax.add_patch(plt.Rectangle((i - 0.5, j - 0.5), 1, 1, color=COLORS[phase]))
        text = phase if sure[i, j] else f"{phase} ?"
        ax.text(
            i,
            j,
            text,
            ha="center",
            va="center",
            fontsize=8,
            color="white" if phase in {"I", "IV-B"} else style.INK,
        )
    ax.set_xlim(-0.5, len(plane.loads) - 0.5)
    ax.set_ylim(len(plane.temperatures) - 0.5, -0.5)
    _frame(ax, plane, "phase (?: unsure)")


def results(planes):
    """The numbers of the page.

    Returns:
        Plain values.
    """
    first = next(iter(planes.values())).provenance.settings
    settings = {name: first[name] for name in SETTINGS}
    return {
        "settings": settings,
        "planes": {str(share): _numbers(plane) for share, plane in planes.items()},
    }


def _numbers(plane):
    tables = {name: plane.table(name) for name in (*OF_SEEDS, *OF_PAIRS)}
    return {
        "loads": plane.loads,
        "temperatures": plane.temperatures,
        "seeds": plane.seeds,
        "measures": {
            n: {"mean": _plain(m), "stderr": _plain(e)} for n, (m, e) in tables.items()
        },
        "phases": plane.phases(THRESHOLDS).tolist(),
        "certain": plane.certain(THRESHOLDS).tolist(),
    }


def _plain(table):
    return [[float(f"{v:.5g}") if np.isfinite(v) else None for v in row] for row in table]


@dataclass(frozen=True)
class Plane:
    """One plane of `results.json`: phases, and the mean and error of each measure."""

    loads: list
    temperatures: list
    seeds: int
    measures: dict
    phases: np.ndarray
    certain: np.ndarray

    @classmethod
    def of(cls, numbers):
        """From plain values."""
        tables = {name: np.array(numbers[name]) for name in ("phases", "certain")}
        return cls(**{**numbers, **tables})

    def table(self, name):
        """Means and standard errors, shape (loads, temperatures)."""
        both = self.measures[name]
        return tuple(np.array(both[kind], dtype=float) for kind in ("mean", "stderr"))


def text(found):
    """The page, as Markdown, from the numbers of `results.json`."""
    settings = found["settings"]
    planes = {float(share): Plane.of(numbers) for share, numbers in found["planes"].items()}
    sections = "\n\n".join(_section(share, plane) for share, plane in planes.items())
    meanings = "\n".join(f"| {p} | {MEANING[p]} |" for p in (*PHASES, "unclear"))
    return f"""# Five phases in the plane of load and temperature

Written by `python docs/studies/phases/run.py`; its numbers are in `results.json`.
Data: 1,000 of scikit-learn's digits to train on, 797 to test.

**In short.** {_short(planes)}

![Measures and phases over width and batch size](phases.png)

## Setup

Yang et al. (NeurIPS 2021, arXiv:2107.11228) sort trained networks by their loss landscape: is the training
loss high or low, is there a barrier between two solutions, are their outputs alike? Here load is
the width of an MLP with one hidden layer and temperature the batch size (small is hot): SGD, rate {settings["lr"]:g},
momentum 0.9, {settings["epochs"]} epochs for every cell, {settings["seeds"]} seeds a cell.

- **Largest eigenvalue** and trace of the Hessian of the mean loss over {settings["examples"]} training examples.
- **Connectivity** between neighbors on the ring of seeds: mean loss of the ends minus the loss where
  a quadratic Bezier curve, trained for {settings["curve_steps"]} steps, is farthest from it. Below zero is a barrier.
- **Alignment** of their outputs on the test examples: debiased linear CKA.

Errors are jackknife errors over seeds. The thresholds are read off the plane, as in the papers, and
are arguments: loss {THRESHOLDS.loss:g}, connectivity -{THRESHOLDS.connectivity:g}, alignment {THRESHOLDS.alignment:g}.

    from phase_plane import Thresholds, phase_plane     # docs/studies/phases
    plane = phase_plane(train, test, loads=(2, 8, 32), temperatures=(8, 64, 512))
    plane.phases(Thresholds(loss=0.1)), plane.certain()

| phase | what it says |
|---|---|
{meanings}

{sections}

## What to keep in mind

- {settings["seeds"]} seeds a cell and curves that were trained briefly: a longer training can only lower a barrier, so
  phases I and III may be too large. A cell with "?" changes its phase within two standard errors.
- Curvature is shown, not used: in the papers high loss goes with large curvature, here the hottest
  and narrowest networks have a high loss in a flat region, because nothing was learned.
{_unlearned(planes)}- Batch size changes the number of steps too: equal epochs are not equal steps.
- One hidden layer, one small data set. The picture is theirs; the positions of the borders are ours.
"""


def _unlearned(planes):
    noisy = {share: plane for share, plane in planes.items() if share}
    high = all(
        np.nanmin(plane.table("train loss")[0]) > THRESHOLDS.loss for plane in noisy.values()
    )
    if not noisy or not high:
        return ""
    best = min(np.nanmin(plane.table("test error")[0]) for plane in noisy.values())
    return f"""- With random labels no cell brings the training loss below the threshold, so all of them count as
  under-fitted. There a high loss says that the noise was not learned, not that the digits were not: the best
  test error is {100 * best:.1f} %. That plane would need a threshold of its own.
"""


def _section(share, plane):
    named, sure = plane.phases, plane.certain
    error, spread = plane.table("test error")
    head = " | ".join(f"width {v}" for v in plane.loads)
    rows = "\n".join(
        f"| {heat:g} | "
        + " | ".join(
            f"{named[i, j]}{'' if sure[i, j] else ' ?'} ({100 * error[i, j]:.1f} ± {100 * spread[i, j]:.1f} %)"
            for i in range(len(plane.loads))
        )
        + " |"
        for j, heat in enumerate(plane.temperatures)
    )
    title = (
        "Clean labels" if not share else f"{100 * share:.0f} % of the labels drawn at random"
    )
    return f"## {title}\n\nPhase, and test error in brackets.\n\n| batch size | {head} |\n|---{'|---' * len(plane.loads)}|\n{rows}"


def _short(planes):
    parts = []
    for share, plane in planes.items():
        named, error = plane.phases, plane.table("test error")[0]
        counts = ", ".join(
            f"{p}: {int((named == p).sum())}"
            for p in (*PHASES, "unclear")
            if (named == p).any()
        )
        best = np.unravel_index(np.nanargmin(error), error.shape)
        label = "with clean labels" if not share else f"with {100 * share:.0f} % random labels"
        parts.append(
            f"{label} the cells fall into the phases {counts}; the lowest test error ({100 * error[best]:.1f} %) is in a cell of phase {named[best]}"
        )
    whole = "; ".join(parts)
    return whole[0].upper() + whole[1:] + "."
