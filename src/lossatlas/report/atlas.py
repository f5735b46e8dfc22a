"""The atlas: any number of surveys, comparisons and trainings on one page."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from lossatlas.checks import check_path, check_text
from lossatlas.errors import ArgumentError, FileError
from lossatlas.io import load, writing
from lossatlas.plots import style
from lossatlas.report.contents import Page
from lossatlas.report.frames import (
    COLORS,
    basin_tracks,
    common_scale,
    frame_of,
    grid_of,
    has_surface,
    number_rows,
    pack_json,
    packed_arrays,
    path_of,
    place_of,
    scale_data,
)
from lossatlas.report.page import page_of, parts_of, template
from lossatlas.report.results import kind_in_words
from lossatlas.result import Estimate, Result
from lossatlas.surveys import Survey
from lossatlas.text import count, cut_off, distinct, number, plain, with_ends, with_error

Source: TypeAlias = Result | str | Path
# Numbers of a run that every page of an atlas can hold without becoming unreadable.
_MAX_NUMBERS = 120


@dataclass(frozen=True, eq=False)
class Run:
    """Surveys of one training, in the order of its steps.

    Attributes:
        name: as the page calls it.
        surveys: each of a plane.
        steps: where in the training each is.
    """

    name: str
    surveys: tuple[Survey, ...]
    steps: tuple[float, ...]


def write_atlas(
    results: Source | Sequence[Source] | Mapping[str, Sequence[Source] | Source],
    path: str | Path,
    *,
    title: str | None = None,
) -> Path:
    """Write surveys, comparisons, trainings and other results as one self-contained page.

    Surveys of planes become the frames of a run, which a slider moves through: the lit
    surface, the map with the path, the bars linked to their basins, and all numbers over the
    steps with their errors. Two runs can be seen side by side. Whatever else there is follows
    as cards. The page loads nothing from anywhere.

    Args:
        results: results, files, or folders of files (all `*.nc` below one); a mapping gives
            each run a name. In a sequence each folder is a run, and all single surveys are one.
        path: where, by convention `*.html`; a file that is there is replaced.
        title: the heading.

    Returns:
        The path.

    Raises:
        ArgumentError: nothing to show.
        FileError: a file that cannot be read, or a place that cannot be written.

    Examples:
        >>> import torch, tempfile, lossatlas as la
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> objective = la.Objective(
        ...     torch.nn.Linear(2, 1), loss, [(torch.eye(2), torch.zeros(2, 1))]
        ... )
        >>> found = la.survey(objective, points=5, span=0.5)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     la.write_atlas([found], f"{folder}/atlas.html").name
        'atlas.html'
    """
    page = render_atlas(results, title=title)
    with writing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(path)


def render_atlas(
    results: Source | Sequence[Source] | Mapping[str, Sequence[Source] | Source],
    *,
    title: str | None = None,
) -> str:
    """The page of an atlas as text; see `write_atlas`.

    Args:
        results: as for `write_atlas`.
        title: the heading.

    Returns:
        HTML.

    Raises:
        ArgumentError: nothing to show.
    """
    check_text("title", title, optional=True)
    runs, others = _parted(results)
    if not runs and not others:
        raise ArgumentError(
            "`results` must hold at least one result of lossatlas; got none: name a folder "
            "with files such as survey.nc."
        )
    data, chunks = _data(runs)
    pages = [page_of(each) for _, each in others]
    names = _page_names(pages, [group for group, _ in others])
    heading = title or _title(runs, pages)
    return template("atlas.html.j2").render(
        title=cut_off(heading, 200),
        holds=f"Atlas: {holds(runs, [each for _, each in others])}",
        runs=runs,
        named_pages=list(zip(names, pages, strict=True)),
        rows=[(run.name, *row) for run in runs for row in _rows(run)],
        headlines=[(run.name, _loss_over_steps(run)) for run in runs],
        head=pack_json(data),
        chunks=chunks,
        **parts_of(pages),
    )


def holds(runs: Sequence[Run], others: Sequence[Result]) -> str:
    """What an atlas holds in a few words, as in "3 surveys, 1 other result"."""
    surveys = sum(len(run.surveys) for run in runs)
    if not surveys:
        [kind, *more] = [kind_in_words(other.__kind__).lower() for other in others]
        return count(len(others), "result") if more else kind
    rest = f", {count(len(others), 'other result')}" if others else ""
    return count(surveys, "survey") + rest


def _title(runs: Sequence[Run], pages: Sequence[Page]) -> str:
    titles = dict.fromkeys(survey.title for run in runs for survey in run.surveys)
    titles |= dict.fromkeys(page.title for page in pages)
    first = next(iter(titles))
    return (
        first if len(titles) == 1 else f"{cut_off(first)} and {count(len(titles) - 1, 'other')}"
    )


def read_runs(results: Any) -> tuple[list[Run], list[Result]]:
    """Runs of surveys, and whatever else there is, as `write_atlas` reads them."""
    runs, others = _parted(results)
    return runs, [each for _, each in others]


# Other results with the names of their groups.
def _parted(results: Any) -> tuple[list[Run], list[tuple[str, Result]]]:
    runs: list[Run] = []
    others: list[tuple[str, Result]] = []
    for name, members in _groups(results):
        surveys = [r for r in members if isinstance(r, Survey) and has_surface(r)]
        others += [(name, r) for r in members if not any(r is survey for survey in surveys)]
        if surveys:
            runs.append(_run(name, surveys))
    return runs, others


# Titles that occur twice are separated by their groups, or else by a number.
def _page_names(pages: Sequence[Page], groups: Sequence[str]) -> list[str]:
    titles = [page.title for page in pages]
    grouped = [
        f"{t}, {g}" if titles.count(t) > 1 else t for t, g in zip(titles, groups, strict=True)
    ]
    if len(set(grouped)) == len(grouped):
        return grouped
    return [
        f"{title} ({titles[: k + 1].count(title)})" if titles.count(title) > 1 else title
        for k, title in enumerate(titles)
    ]


def _groups(results: Any) -> Iterator[tuple[str, list[Result]]]:
    if isinstance(results, Mapping):
        for name, source in results.items():
            sources = [source] if isinstance(source, Result | str | Path) else source
            yield plain(name), [each for one in sources for each in _read(one)]
        return
    sources = [results] if isinstance(results, Result | str | Path) else list(results)
    single: list[Result] = []
    names = _run_names([source for source in sources if not isinstance(source, Result)])
    for source in sources:
        if not isinstance(source, Result) and check_path("results", source).is_dir():
            yield names[Path(source)], _read(source)
        else:
            single += _read(source)
    if single:
        yield "surveys", single


# The folder of a training; `survey --along` writes into `surveys` below it.
def _run_names(sources: Sequence[Any]) -> dict[Path, str]:
    folders = [path for each in sources if (path := check_path("results", each)).is_dir()]
    names = {}
    for path in folders:
        whole = path.resolve()
        names[path] = plain(whole.parent.name if whole.name == "surveys" else whole.name)
    taken = list(names.values())
    return {p: plain(p) if taken.count(name) > 1 else name for p, name in names.items()}


def _read(source: Any) -> list[Result]:
    if isinstance(source, Result):
        return [source]
    if not isinstance(source, str | Path):
        raise ArgumentError(
            f"`results` must hold results, files or folders; got {type(source).__name__}."
        )
    path = Path(source)
    if not path.is_dir():
        return [load(path)]
    files = sorted(path.rglob("*.nc"), key=lambda file: _natural(str(file)))
    if not files:
        raise FileError(f"'{path}' holds no results (*.nc); name a folder of surveys.")
    return [each for file in files if isinstance(each := load(file), Result)]


def _natural(name: str) -> list[tuple[int, int | str]]:
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]


def _run(name: str, surveys: list[Survey]) -> Run:
    steps = [survey.provenance.settings.get("step") for survey in surveys]
    if all(isinstance(step, int | float) for step in steps):
        order = sorted(range(len(steps)), key=lambda k: float(steps[k] or 0))
        surveys = [surveys[k] for k in order]
        numbers = tuple(float(steps[k] or 0) for k in order)
    else:
        numbers = tuple(map(float, range(len(surveys))))
    return Run(name, tuple(surveys), numbers)


def _data(runs: Sequence[Run]) -> tuple[dict[str, Any], list[str]]:
    pool = _Pool()
    shown = [pool.run(run) for run in runs]
    colors = {name: list(stops) for name, stops in COLORS.items()}
    return {
        "runs": shown,
        "frames": pool.frames,
        "grids": pool.grids,
        "paths": pool.paths,
        "colors": colors,
        "hues": [style.hue(k)[0] for k in range(2)],
    }, pool.chunks


class _Pool:
    # What frames share is held once: grids and paths.
    def __init__(self) -> None:
        self.frames: list[dict[str, Any]] = []
        self.grids: list[Any] = []
        self.paths: list[Any] = []
        self.chunks: list[str] = []

    def run(self, run: Run) -> dict[str, Any]:
        first = len(self.frames)
        for survey, step, tracks in zip(
            run.surveys, run.steps, basin_tracks(run.surveys), strict=True
        ):
            self._frame(survey, step, tracks)
        scale = common_scale([survey.landscape for survey in run.surveys])
        grids = {self.frames[k]["grid"] for k in range(first, len(self.frames))}
        return {
            "name": run.name,
            "frames": list(range(first, len(self.frames))),
            "steps": list(run.steps),
            "scale": scale_data(scale),
            "one_grid": len(grids) == 1,
            "numbers": _numbers(run),
        }

    def _frame(self, survey: Survey, step: float, tracks: dict[int, int]) -> None:
        land = survey.landscape
        chunk, fields = packed_arrays(land)
        path = path_of(land)
        frame = frame_of(survey, step, tracks) | {"fields": fields}
        frame["grid"] = _shared_index(self.grids, grid_of(land))
        frame["path"] = None if path is None else _shared_index(self.paths, path)
        frame["place"] = place_of(path, frame["where"])
        self.frames.append(frame)
        self.chunks.append(chunk)


def _shared_index(pool: list[Any], item: Any) -> int:
    if item not in pool:
        pool.append(item)
    return pool.index(item)


def _numbers(run: Run) -> list[dict[str, Any]]:
    rows = [number_rows(survey) for survey in run.surveys]
    names = list(dict.fromkeys(name for row in rows for name in row))[:_MAX_NUMBERS]
    held = []
    for name in names:
        about = next(row[name][0] for row in rows if name in row)
        values = [row[name][1] if name in row else None for row in rows]
        held.append(
            {
                "name": name,
                "unit": "" if about.unit == "loss" else plain(about.unit),
                "meaning": cut_off(about.meaning, 120),
                "bound": about.bound == about.bound,
                "values": values,
                "texts": [_text(row.get(name)) for row in rows],
            }
        )
    return held


# Rounded as everywhere else, so that one number reads the same in every place.
def _text(row: tuple[Estimate, Any] | None) -> str:
    return "" if row is None else " ".join(filter(None, row[0].texts))


def _rows(run: Run) -> Iterator[tuple[str, str, str, str]]:
    for survey, step in zip(run.surveys, run.steps, strict=True):
        loss = with_error(survey.loss.value, survey.loss.error)
        basins = f"{len(survey.tree):,}"
        sure = "unknown" if survey.tree.why_unknown else str(survey.tree.certain_count)
        yield number(step, 9), loss, basins, sure


# Errors may round two numbers alike; then they are shown without.
def _before_after(first: Estimate, last: Estimate) -> tuple[str, str]:
    texts = [with_error(each.value, each.error) for each in (first, last)]
    if texts[0] == texts[1] and first.value != last.value:
        return distinct(first.value, last.value, 4)
    return texts[0], texts[1]


def _loss_over_steps(run: Run) -> str:
    first, last = run.surveys[0], run.surveys[-1]
    if len(run.surveys) == 1:
        return last.headline()
    ways = f"from step {number(run.steps[0], 9)} to {number(run.steps[-1], 9)}"
    text = f"{_moves('The loss', first.loss, last.loss)}, {ways}{_paired(last.change)}"
    text += _in_between(run)
    for name, each in list(last.metrics.items())[:1]:
        if name in first.metrics:
            text += f"; {_moves(cut_off(name, 24), first.metrics[name], each)}"
    return f"{text}. At the end: {last.headline()}"


# The ends alone would hide a rise or a dip on the way.
def _in_between(run: Run) -> str:
    losses = [survey.loss for survey in run.surveys]
    values = [each.value for each in losses]
    parts = []
    for word, k in (
        ("highest", max(range(len(values)), key=values.__getitem__)),
        ("lowest", min(range(len(values)), key=values.__getitem__)),
    ):
        if 0 < k < len(values) - 1 and values[k] not in (values[0], values[-1]):
            shown = with_error(values[k], losses[k].error)
            parts.append(f"{word} at step {number(run.steps[k], 9)}: {shown}")
    return f"; {', '.join(parts)}" if parts else ""


# Without a direction: the errors of both are those of each alone, on the same examples.
def _moves(name: str, first: Estimate, last: Estimate) -> str:
    before, after = _before_after(first, last)
    return (
        f"{name} goes from {before} to {after}"
        if before != after
        else f"{name} stays at {after}"
    )


def _paired(change: Estimate | None) -> str:
    if change is None or change.why_no_error is not None:
        return ""
    low, high = change.interval()
    size = sorted((abs(low), abs(high)))
    if low <= 0 <= high:
        value, ends = with_ends(change.value, low, high)
        return (
            f", a change of {value} {ends} on the same {change.sample_unit}, within its error"
        )
    value, ends = with_ends(abs(change.value), *size)
    moves = "fall" if high < 0 else "rise"
    return f", a {moves} of {value} {ends} on the same {change.sample_unit} (95 % interval)"
