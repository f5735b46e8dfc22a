"""`lossatlas inits`: which initialization will train best, in five stages or at once."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossatlas.cli.command import Command
from lossatlas.cli.layout import Group
from lossatlas.cli.output import Output, write_csv
from lossatlas.inits.settings import InitsSettings
from lossatlas.settings import defaults, option

if TYPE_CHECKING:
    from lossatlas.inits.pipeline import FinishedStage
    from lossatlas.inits.ranking import Ranking
    from lossatlas.result import Result

_REMEMBERED = "settings.yaml"
_RANK = defaults("inits.ranking:rank")
_RESUME = "Accepted as in every command; what is done is never done again without --fresh."


class RunSettings(InitsSettings):
    """Settings of `lossatlas inits run`."""

    stage: int | None = option(None, "1 for the surrogate, 2 for the quality. By default both.")


class RankSettings(InitsSettings):
    """Settings of `lossatlas inits rank`."""

    candidates: int = option(_RANK["candidates"], "How many initializations to choose from.")


def run_one(
    stage: str, settings: InitsSettings, output: Output, *, fresh: bool = False
) -> None:
    """Run one stage and tell what it left."""
    from lossatlas.inits.pipeline import run_stage
    from lossatlas.io import occupied

    with occupied(settings.out), output.progress(stage) as progress:
        _discard(settings, (stage,) if fresh else ())
        done = run_stage(settings, stage, progress=progress)
    _mention(done, output)
    data = {"stage": stage, "fresh": done.fresh} | _summary(done.result)
    output.result(data, _STAGES[stage][1], _rows(done.result), files=_files(done))


def run_all(settings: RunSettings, output: Output, *, fresh: bool = False) -> None:
    """Run all stages, or one half, and tell what they left."""
    from lossatlas.inits.pipeline import PARTS, run
    from lossatlas.inits.settings import STAGES
    from lossatlas.io import occupied

    with occupied(settings.out), output.progress("study") as progress:
        stages = STAGES if settings.stage is None else PARTS.get(settings.stage, ())
        _discard(settings, stages if fresh else ())
        finished = run(settings, settings.stage, progress=progress)
    for done in finished:
        _mention(done, output)
    data = {done.stage: {"fresh": done.fresh} | _summary(done.result) for done in finished}
    sentences = [(done.stage, s, "") for done in finished for s in _sentences(done.result)]
    title = f"initializations of {settings.model} on {settings.data}"
    output.result(data, title, sentences, files=_files(*finished))


def run_rank(settings: RankSettings, output: Output, *, fresh: bool = False) -> None:
    """Rank candidates, say how much to trust it, write a table and the best's weights."""
    from lossatlas.inits.problem import load_problem
    from lossatlas.inits.ranking import rank
    from lossatlas.inits.settings import STAGES
    from lossatlas.io import occupied
    from lossatlas.report import write_report
    from lossatlas.training.checkpoints import save_weights

    with occupied(settings.out) as folder, output.progress("ranking") as progress:
        _discard(settings, STAGES if fresh else ())
        problem = load_problem(settings)
        ranking = rank(settings, settings.candidates, problem=problem, progress=progress)
        weights = problem.weights(ranking.candidates[0])
        files = {
            "ranking": ranking.save(folder / "ranking.nc"),
            "table": write_csv(folder / "ranking.csv", _columns(ranking)),
            "best": save_weights(weights, folder / "best.safetensors"),
            "report": write_report(ranking, folder / "report.html", title=ranking.title),
        }
    rows = [*_rows(ranking), ("", _shown(ranking), "")]
    output.result(ranking.summary(), ranking.title, rows, files=files)


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


# What stages wrote, and what they had begun.
def _discard(settings: InitsSettings, stages: Sequence[str]) -> None:
    from lossatlas.inits.paths import FILES, ledger_of, path_of
    from lossatlas.io import remove_ledger

    made = [*stages, *(["features"] if "fit-quality" in stages else [])]
    for stage in (name for name in made if name in FILES):
        path_of(settings, stage).unlink(missing_ok=True)
        remove_ledger(ledger_of(settings, stage))


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
_WHOLE: dict[str, tuple[type[InitsSettings], Callable[..., None], str]] = {
    "run": (
        RunSettings,
        run_all,
        "Run all stages in turn; those whose files are there are not run again.",
    ),
    "rank": (
        RankSettings,
        run_rank,
        "Rank initializations of your own model, and report how far to trust the ranking.",
    ),
}


# The folder remembers what the stages before were told.
def _remembered(options: Mapping[str, Any]) -> Path | None:
    usual = InitsSettings.model_fields["out"].default
    file = Path(options.get("out", usual)) / _REMEMBERED
    return file if file.is_file() else None


# Stages know by themselves what is done.
_command = functools.partial(
    functools.partial, Command, config=_remembered, resume=_RESUME, results=lambda _: None,
    fills_folder=True,
)  # fmt: skip
command = Group(
    "Rank initializations before training, and report how far to trust the ranking.",
    {
        name: (
            text,
            _command(
                InitsSettings, functools.partial(run_one, name), text, shortcuts=shortcuts
            ),
        )
        for name, (text, _, shortcuts) in _STAGES.items()
    }
    | {name: (text, _command(kind, run, text)) for name, (kind, run, text) in _WHOLE.items()},
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
