"""Stage 5: the figures of a study, out of the files that the stages before it left."""

import io
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np

from lossatlas.executor import Progress
from lossatlas.inits.labels import Labels
from lossatlas.inits.paths import load_stage, path_of
from lossatlas.inits.problem import load_problem
from lossatlas.inits.quality import Quality
from lossatlas.inits.settings import InitsSettings
from lossatlas.io import writing
from lossatlas.landscape.mapping import map_plane
from lossatlas.landscape.plane import random_plane
from lossatlas.result import Figure, Result
from lossatlas.topology import persistence

# Points along each side of a landscape.
SIDE = 25
# Rows of figures that stand on one sheet, each with its title.
Sheet = list[list[tuple[str, Figure]]]


def draw(settings: InitsSettings, *, progress: Progress | None = None) -> list[Path]:
    """Draw everything that there are files for."""
    from matplotlib import pyplot as plt

    from lossatlas.plots import canvas

    form, folder = settings.figures.format, settings.out / "figures"
    paths, parts = [folder / "figures.html"] if form == "html" else [], []
    for done, (name, sheet) in enumerate(_sheets(settings), start=1):
        with plt.rc_context(canvas.RC):
            drawn = _drawn(sheet, "svg" if form == "html" else form)
        if form == "html":
            text = drawn.decode()
            parts.append(f"<figure id='{escape(name)}'>{text[text.index('<svg') :]}</figure>")
        else:
            paths.append(folder / f"{name}.{form}")
            with writing(paths[-1]) as temporary:
                temporary.write_bytes(drawn)
        if progress is not None:
            progress(done, done, name)
    if form == "html":
        with writing(paths[0]) as temporary:
            temporary.write_text(_page(settings, parts), encoding="utf-8")
    return paths


def _page(settings: InitsSettings, parts: Sequence[str]) -> str:
    title = escape(f"Initializations of {settings.model} on {settings.data}")
    return "\n".join(
        [
            f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>",
            "<style>body{font-family:system-ui,sans-serif;max-width:60rem;margin:2rem auto}"
            "svg{max-width:100%;height:auto}</style>",
            f"<h1>{title}</h1>",
            *parts,
            "</html>",
        ]
    )


def _drawn(sheet: Sheet, form: str) -> bytes:
    from matplotlib import pyplot as plt

    rows, columns = len(sheet), len(sheet[0])
    if rows == columns == 1:
        figure = sheet[0][0][1].matplotlib(None).figure
    else:
        size = (4.5 * columns, 4.2 if rows == 1 else 3.5 * rows)
        figure, axes = plt.subplots(
            rows, columns, figsize=size, layout="constrained", squeeze=False
        )
        for row, places in zip(sheet, axes, strict=True):
            for (title, part), ax in zip(row, places, strict=True):
                part.matplotlib(ax)
                ax.set_title(title, loc="left", fontsize=9)
    file = io.BytesIO()
    figure.savefig(file, format=form)
    plt.close(figure)
    return file.getvalue()


def _sheets(settings: InitsSettings) -> Iterator[tuple[str, Sheet]]:
    labels: Labels = load_stage(settings, "label")
    quality: Quality = load_stage(settings, "fit-quality", labels.provenance.data)
    if path_of(settings, "fit-surrogate").is_file():
        scores, *others = load_stage(settings, "fit-surrogate").figures()
        if others:
            yield "surrogate-training", [_titled(others)]
        yield "surrogate-evaluation", [_titled([scores])]
    yield from _landscapes(settings, labels, quality)
    figures = _named(quality)
    predicted = [figure for name, figure in figures.items() if name.startswith("predicted")]
    for name, figure in figures.items():
        if figure not in predicted:
            yield name, [_titled([figure])]
    if predicted:
        yield "predicted", [_titled(predicted)]


def _landscapes(
    settings: InitsSettings, labels: Labels, quality: Quality
) -> Iterator[tuple[str, Sheet]]:
    from lossatlas.plots.scale import scale_of

    problem = load_problem(settings)
    objective, order = problem.objective(), np.argsort(quality.truth)
    order = order[np.isfinite(quality.truth[order])]
    picked = (("best", order[0]), ("middle", order[len(order) // 2]), ("worst", order[-1]))
    maps, diagrams = list[tuple[str, Figure]](), list[list[tuple[str, Figure]]]([[], []])
    for word, index in picked:
        candidate = labels.candidates[int(index)]
        origin = problem.initializer.draw(candidate)
        plane = random_plane(objective, origin=origin, seed=settings.seed)
        land = map_plane(objective, plane, span=1.0, points=SIDE)
        name = f"{word}: {candidate.scheme} x {candidate.scale:.2f}"
        maps.append((f"Before training, {name}", _named(land)["contour"]))
        bars = {f.name: f for f in persistence(land).figures(scale_of(land.values))}
        diagrams[0].append((name, bars["persistence"]))
        diagrams[1].append(("", bars["betti"]))
    yield "landscapes", [maps]
    yield "persistence", diagrams


def _named(shown: Result) -> dict[str, Figure]:
    return {figure.name: figure for figure in shown.figures()}


def _titled(figures: Sequence[Figure]) -> list[tuple[str, Figure]]:
    return [(figure.title, figure) for figure in figures]
