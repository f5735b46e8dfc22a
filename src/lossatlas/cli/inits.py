"""`lossatlas inits`: which initialization will train best, in five stages or at once."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossatlas.cli.command import Command
from lossatlas.cli.declaration import Declaration
from lossatlas.cli.destination import Destination
from lossatlas.cli.layout import Group
from lossatlas.cli.output import Output, write_csv
from lossatlas.inits.settings import REMEMBERED, STAGES, InitsSettings, is_kept
from lossatlas.settings import defaults, option

if TYPE_CHECKING:
    from lossatlas.inits.pipeline import FinishedStage
    from lossatlas.inits.ranking import Ranking
    from lossatlas.result import Result

_RANK = defaults("inits.ranking:rank")
_RESUME = "Has no effect here: what --out holds is always continued, and --fresh starts over."


class RunSettings(InitsSettings):
    """Settings of `lossatlas inits run`."""

    stage: int | None = option(None, "1 for the surrogate, 2 for the quality. By default both.")


class RankSettings(InitsSettings):
    """Settings of `lossatlas inits rank`."""

    candidates: int = option(_RANK["candidates"], "How many initializations to choose from.")
    weights: int = option(
        1,
        "Of how many candidates, the first in the ranking, the initial weights are written: "
        "best.safetensors, then candidate-2.safetensors and so on.",
        ge=1,
    )


def run_one(stage: str, settings: InitsSettings, output: Output) -> None:
    """Run one stage and tell what it left."""
    from lossatlas.inits.pipeline import run_stage

    with output.progress(stage) as progress:
        done = run_stage(settings, stage, progress=progress)
    _mention(done, output)
    data = {"stage": stage, "fresh": done.fresh} | _summary(done.result)
    output.result(data, _STAGES[stage][1], _rows(done.result), files=_files(done))


def run_all(settings: RunSettings, output: Output) -> None:
    """Run all stages, or one half, and tell what they left."""
    from lossatlas.inits.pipeline import run

    with output.progress("study") as progress:
        finished = run(settings, settings.stage, progress=progress)
    for done in finished:
        _mention(done, output)
    data = {done.stage: {"fresh": done.fresh} | _summary(done.result) for done in finished}
    sentences = [(done.stage, s, "") for done in finished for s in _sentences(done.result)]
    title = f"initializations of {settings.model} on {settings.data}"
    output.result(data, title, sentences, files=_files(*finished))


def run_rank(settings: RankSettings, output: Output) -> None:
    """Rank candidates, say how much to trust it, write a table and the best's weights."""
    from lossatlas.inits.problem import load_problem
    from lossatlas.inits.ranking import rank
    from lossatlas.report import write_report
    from lossatlas.training.checkpoints import save_weights

    folder, problem = settings.out, load_problem(settings)
    with output.progress("ranking") as progress:
        ranking = rank(settings, settings.candidates, problem=problem, progress=progress)
    starts = zip(ranking.candidates, _weights_files(settings), strict=False)
    weights = {
        Path(name).stem: save_weights(problem.weights(candidate), folder / name)
        for candidate, name in starts
    }
    files = {
        "ranking": ranking.save(folder / "ranking.nc"),
        "table": write_csv(folder / "ranking.csv", _columns(ranking)),
        **weights,
        "report": write_report(ranking, folder / "ranking.html", title=ranking.title),
    }
    rows = [*_rows(ranking), ("", _shown(ranking), "")]
    output.result(ranking.summary(), ranking.title, rows, files=files)


def _weights_files(settings: RankSettings) -> list[str]:
    last = min(settings.weights, settings.candidates)
    return ["best.safetensors", *(f"candidate-{k}.safetensors" for k in range(2, last + 1))]


def _columns(ranking: "Ranking") -> dict[str, Any]:
    count = range(len(ranking.candidates))
    return {
        "rank": [rank + 1 for rank in count],
        **{
            name: [getattr(candidate, name) for candidate in ranking.candidates]
            for name in ("scheme", "scale", "seed")
        },
        "loss_short": ranking.short,
        "loss_expected": ranking.expected,
        "lower": ranking.lower,
        "upper": ranking.upper,
        "trained": [rank in ranking.trained for rank in count],
    }


# What stages write: their files are read and judged by the stages themselves.
def _files_of(stages: Sequence[str], settings: InitsSettings) -> Declaration:
    from lossatlas.inits.paths import FILES, KINDS
    from lossatlas.io.records import holds_record

    made = [*stages, *(["features"] if "fit-quality" in stages else [])]
    made = [stage for stage in made if stage in FILES]
    files = [FILES[stage] for stage in made]
    networks = ["surrogate.*.resume"] if "fit-surrogate" in stages else []
    form = settings.figures.format
    drawn = [f"figures/{'figures' if form == 'html' else '*'}.{form}"]
    results = [*files, *networks, *([REMEMBERED] if made else []),
               *(drawn if "figures" in stages else [])]  # fmt: skip
    known = {FILES[s]: functools.partial(_is_kind, kind) for s, kind in KINDS.items()}
    return Declaration(
        Destination(settings.out, is_folder=True), "inits", tuple(results),
        ledgers=tuple(f"{stage}.resume" for stage in made), pieces=(*files, *networks),
        recognizers={**known, "surrogate.*.resume": holds_record, REMEMBERED: is_kept},
        decides_reruns=True,
    )  # fmt: skip


def _files_of_run(settings: RunSettings) -> Declaration:
    from lossatlas.inits.pipeline import PARTS

    return _files_of(
        STAGES if settings.stage is None else PARTS.get(settings.stage, ()), settings
    )


# Its trainings are kept, so that a ranking that was stopped need not repeat them.
def _files_of_rank(settings: RankSettings) -> Declaration:
    return Declaration(
        Destination(settings.out, is_folder=True), "rank",
        ("ranking.nc", "ranking.csv", *_weights_files(settings), "ranking.html"),
        ledgers=("rank/*/label.resume",), pieces=("rank/*/label.resume",),
    )  # fmt: skip


def _is_kind(kind: str, path: Path) -> bool:
    from lossatlas.io.results import kind_of

    return kind_of(path) == kind


def _shown(ranking: "Ranking") -> str:
    from lossatlas.inits.ranking import SHOWN

    count = len(ranking.candidates)
    return f"{min(SHOWN, count)} of {count} candidates are shown; ranking.csv holds all."


# Stage -> help, title of its table, and options that set a value of a group.
_STAGES: dict[str, tuple[str, str, dict[str, str]]] = {
    "generate": (
        "Stage 1: compute the true losses of initializations of many schemes; write pairs.nc.",
        "true losses of initializations",
        {"n_samples": "generate.samples"},
    ),
    "fit-surrogate": (
        "Stage 2: predict the loss from the parameters; write surrogate.nc.",
        "rank correlation of predicted and true losses, held-out points",
        {"epochs": "surrogate.epochs"},
    ),
    "label": (
        "Stage 3: train initializations, many at once, for several budgets; write labels.nc.",
        "loss after training",
        {"n_samples": "label.samples", "orders": "label.orders"},
    ),
    "fit-quality": (
        "Stage 4: predict the loss after training from the landscape before; write quality.nc.",
        "quality predicted before training",
        {"epochs": "quality.epochs"},
    ),
    "figures": (
        "Stage 5: draw what the other stages wrote, into figures/.",
        "figures",
        {"format": "figures.format"},
    ),
}
_WHOLE: dict[str, tuple[type[InitsSettings], Callable[..., None], Callable[..., Any], str]] = {
    "run": (
        RunSettings,
        run_all,
        _files_of_run,
        "Run all stages in turn; those whose files are there are not run again.",
    ),
    "rank": (
        RankSettings,
        run_rank,
        _files_of_rank,
        "Rank initializations of your own model, and report how far to trust the ranking.",
    ),
}


# A ranking trains, and reads nothing of the other stages.
_GROUPS = {"rank": ("label",)}


# The folder remembers what the stages before were told.
def _remembered(options: Mapping[str, Any]) -> Path | None:
    usual = InitsSettings.model_fields["out"].default
    file = Path(options.get("out", usual)) / REMEMBERED
    return file if is_kept(file) else None


_command = functools.partial(functools.partial, Command, config=_remembered, resume=_RESUME)
command = Group(
    "Rank initializations before training, and report how far to trust the ranking.",
    {
        name: (
            text,
            _command(
                InitsSettings,
                functools.partial(run_one, name),
                text,
                shortcuts=shortcuts,
                files=functools.partial(_files_of, (name,)),
            ),
        )
        for name, (text, _, shortcuts) in _STAGES.items()
    }
    | {
        name: (text, _command(kind, run, text, files=files, groups=_GROUPS.get(name)))
        for name, (kind, run, files, text) in _WHOLE.items()
    },
)


def _mention(done: "FinishedStage", output: Output) -> None:
    if not done.fresh:
        output.note(f"{done.paths[0]} is done already; --fresh makes it again.")


def _files(*finished: "FinishedStage") -> dict[str, Path]:
    return {path.stem: path for done in finished for path in done.paths}


def _summary(shown: "Result | None") -> dict[str, Any]:
    return {} if shown is None else shown.summary()


def _sentences(shown: "Result | None") -> tuple[str, ...]:
    return () if shown is None else shown.sentences()


# What a person is shown: the estimates, then what they say.
def _rows(shown: "Result | None") -> list[tuple[str, str, str]]:
    estimates = [] if shown is None else shown.rows()
    return [*estimates, *(("", sentence, "") for sentence in _sentences(shown))]
