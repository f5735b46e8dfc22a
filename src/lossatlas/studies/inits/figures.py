"""Stage 5: the pictures of a study, out of the files that the stages before it left."""

import io
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from lossatlas.landscape.landscape import Landscape
from lossatlas.landscape.mapping import map_plane
from lossatlas.landscape.plane import random_plane
from lossatlas.plots import canvas, scale_of
from lossatlas.plots.inits import plot_choice, plot_histories, plot_predicted, plot_scores
from lossatlas.store import writing
from lossatlas.studies.inits.files import load_stage, path_of
from lossatlas.studies.inits.problem import load_subject
from lossatlas.studies.inits.quality import Quality
from lossatlas.studies.inits.records import Labels
from lossatlas.studies.inits.settings import InitsSettings
from lossatlas.studies.inits.surrogates.result import Surrogates
from lossatlas.topology import persistence

Progress = Callable[[str], object]
# Points along each side of a landscape.
SIDE = 25
_BEST = ("scheme + scale", "topology", "scheme + scale + topology")


def draw(settings: InitsSettings, *, progress: Progress | None = None) -> list[Path]:
    """Draw everything that there are files for."""
    pictures = _pictures(settings)
    if settings.figures.format == "html":
        return [_page(settings, pictures, progress)]
    paths = []
    for name, figure in pictures:
        paths.append(settings.out / "figures" / f"{name}.{settings.figures.format}")
        with writing(paths[-1]) as temporary:
            figure.savefig(temporary, format=settings.figures.format)
        plt.close(figure)
        if progress is not None:
            progress(str(paths[-1]))
    return paths


def _page(
    settings: InitsSettings,
    pictures: Iterator[tuple[str, Figure]],
    progress: Progress | None,
) -> Path:
    path = settings.out / "figures" / "figures.html"
    title = escape(f"Initializations of {settings.model} on {settings.data}")
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>",
        "<style>body{font-family:system-ui,sans-serif;max-width:60rem;margin:2rem auto}"
        "svg{max-width:100%;height:auto}</style>",
        f"<h1>{title}</h1>",
    ]
    for name, figure in pictures:
        text = io.StringIO()
        figure.savefig(text, format="svg")
        plt.close(figure)
        drawn = text.getvalue()
        parts.append(f"<figure id='{name}'>{drawn[drawn.index('<svg') :]}</figure>")
        if progress is not None:
            progress(name)
    with writing(path) as temporary:
        temporary.write_text("\n".join([*parts, "</html>"]), encoding="utf-8")
    return path


def _pictures(settings: InitsSettings) -> Iterator[tuple[str, Figure]]:
    labels: Labels = load_stage(settings, "label")
    quality: Quality = load_stage(settings, "fit-quality", labels.provenance.data)
    with plt.rc_context(canvas.RC):
        if path_of(settings, "fit-surrogate").is_file():
            yield from _surrogates(load_stage(settings, "fit-surrogate"))
        yield from _landscapes(settings, labels, quality)
        yield from _scores(quality)
        yield "predicted", _predicted(labels, quality)
        yield "choosing", _choosing(quality)


def _surrogates(found: Surrogates) -> Iterator[tuple[str, Figure]]:
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained")
    histories = {kind: table[:, 1] for kind, table in found.history.items() if len(table)}
    plot_histories(
        histories, title="Surrogates: training", label="validation error", ax=axes[0]
    )
    kind = found.kinds[0]
    plot_predicted(
        found.truth,
        found.predictions[0],
        found.schemes.tolist(),
        title=f"Held-out losses, {kind}",
        label="loss",
        ax=axes[1],
    )
    yield "surrogate-training", figure
    views = ("pooled", "within scheme", "same radius")
    names = [f"{kind}, {view}" for kind in found.kinds for view in views]
    scores = [found.spearman(kind, view) for kind in found.kinds for view in views]
    ax = plot_scores(
        names,
        scores,
        title="Surrogates: how well the loss is predicted",
        label="rank correlation, held-out points",
        strong=[name for name in names if name.endswith("same radius")],
    )
    yield "surrogate-evaluation", _figure(ax)


def _landscapes(
    settings: InitsSettings, labels: Labels, quality: Quality
) -> Iterator[tuple[str, Figure]]:
    subject = load_subject(settings)
    objective, order = subject.objective(), np.argsort(quality.truth)
    order = order[np.isfinite(quality.truth[order])]
    picked = (("best", order[0]), ("middle", order[len(order) // 2]), ("worst", order[-1]))
    maps: list[tuple[str, Landscape]] = []
    for word, index in picked:
        candidate = labels.candidates[int(index)]
        origin = subject.initializer.draw(candidate)
        plane = random_plane(objective, origin=origin, seed=settings.seed)
        name = f"{word}: {candidate.scheme} x {candidate.scale:.2f}"
        maps.append((name, map_plane(objective, plane, span=1.0, points=SIDE)))
    figure, axes = plt.subplots(1, 3, figsize=(13.5, 4.2), layout="constrained")
    for ax, (name, land) in zip(axes, maps, strict=True):
        land.plot("contour", ax=ax)
        ax.set_title(f"Before training, {name}", loc="left", fontsize=9)
    yield "landscapes", figure
    figure, axes = plt.subplots(
        2, 3, figsize=(13.5, 7), layout="constrained", height_ratios=(3, 2)
    )
    for (diagrams, curves), (name, land) in zip(axes.T, maps, strict=True):
        shown = {f.name: f for f in persistence(land).figures(scale_of(land.values))}
        shown["persistence"].matplotlib(diagrams)
        shown["betti"].matplotlib(curves)
        diagrams.set_title(name, loc="left", fontsize=9)
        curves.set_title("", loc="left")
    yield "persistence", figure


def _scores(quality: Quality) -> Iterator[tuple[str, Figure]]:
    ridge = [k for k, model in enumerate(quality.models) if model.endswith(" / ridge")]
    names = [quality.models[k].removesuffix(" / ridge") for k in ridge]
    for place, split in enumerate(quality.splits):
        rows = quality.scores[place, ridge, 0]
        if np.isfinite(rows).any():
            share = quality.ceilings[place, 0]
            ax = plot_scores(
                names,
                rows,
                title=f"Predicting the loss after {quality.budget} epochs: {split}",
                label="rank correlation out of fold, ridge, 95 % interval",
                ceiling=float(np.sqrt(max(share, 0))) if np.isfinite(share) else None,
                strong=[name for name in names if "topology" in name],
            )
            yield f"scores-{split}", _figure(ax)


def _predicted(labels: Labels, quality: Quality) -> Figure:
    figure, axes = plt.subplots(1, 3, figsize=(13.5, 4.6), layout="constrained")
    for ax, name in zip(axes, _BEST, strict=True):
        row = quality.models.index(f"{name} / ridge")
        made = quality.predictions[0, row]
        plot_predicted(quality.truth, made, labels.schemes.tolist(), title=name, ax=ax)
    return figure


def _choosing(quality: Quality) -> Figure:
    shown = [k for k, n in enumerate(quality.choices) if not n.endswith(("boosted", "network"))]
    names = [quality.choices[k].removesuffix(" / ridge") for k in shown]
    numbers = quality.selection[shown]
    return _figure(plot_choice(names, numbers, group=quality.group, strong=("mean", *_BEST)))


def _figure(ax: object) -> Figure:
    figure = ax.figure  # type: ignore[attr-defined]
    assert isinstance(figure, Figure)
    return figure
