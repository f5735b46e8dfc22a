"""The five stages, one by one or together; what is done is never done again."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from lossatlas.arguments import public
from lossatlas.checks import check_one_of
from lossatlas.errors import FileError, ResumeError
from lossatlas.executor import Progress
from lossatlas.inits.labels import label
from lossatlas.inits.paths import ledger_of, load_stage, path_of
from lossatlas.inits.problem import Problem, load_problem
from lossatlas.inits.samples import generate
from lossatlas.inits.settings import REMEMBERED, STAGES, InitsSettings, is_kept, kept_text
from lossatlas.inits.surrogates import fit_surrogates
from lossatlas.io import make_folder, remove_ledger, writing
from lossatlas.result import Result

# The two halves of the published pipeline: the loss predictor, and the quality predictor.
PARTS = {1: STAGES[:2], 2: STAGES[2:]}


@dataclass(frozen=True)
class FinishedStage:
    """What a stage wrote.

    Attributes:
        stage: one of `STAGES`.
        result: what was written; None for figures.
        paths: of the files.
        fresh: whether it was computed now.
    """

    stage: str
    result: Result | None
    paths: tuple[Path, ...]
    fresh: bool


@public
def run_stage(
    settings: InitsSettings,
    stage: str,
    *,
    problem: Problem | None = None,
    progress: Progress | None = None,
) -> FinishedStage:
    """Run one stage, unless its file is there already.

    Args:
        settings: of the study.
        stage: one of `STAGES`.
        problem: network and data; loaded by default.
        progress: called with (done, total, label) now and then.

    Returns:
        What it left.

    Raises:
        UnknownNameError: no such stage.
        FileError: a file of the stages before it is missing (the message names the command
            that makes it), files of other settings are there, or a "settings.yaml" that no
            study wrote. Figures of the same names are replaced.
        AtlasError: whatever the stage cannot serve.

    Examples:
        >>> from tempfile import mkdtemp
        >>> small = {"model": "mlp(4)", "examples": 40, "probe": 8, "generate": {"samples": 10}}
        >>> done = run_stage(InitsSettings(out=mkdtemp(), **small), "generate")
        >>> len(done.result.losses), done.paths[0].name
        (10, 'pairs.nc')
    """
    check_one_of("stage", stage, STAGES)
    make_folder(settings.out)
    _check_remembered(settings.out / REMEMBERED)
    if stage == "figures":
        from lossatlas.inits.figures import draw

        paths = tuple(draw(settings, progress=progress))
        return FinishedStage(stage, None, paths, fresh=True)
    path, problem = path_of(settings, stage), problem or load_problem(settings)
    is_new = not path.is_file()
    if is_new:
        result = _written(settings, stage, _computed(settings, stage, problem, progress))
    else:
        result = load_stage(settings, stage, problem.fingerprint)
    _remember(settings)
    return FinishedStage(stage, result, (path,), fresh=is_new)


@public
def run(
    settings: InitsSettings, part: int | None = None, *, progress: Progress | None = None
) -> list[FinishedStage]:
    """Run all stages, or one half of them.

    Args:
        settings: of the study.
        part: 1 for the surrogate (stages 1 and 2), 2 for the quality (3 to 5); None for all.
        progress: called with (done, total, label) now and then.

    Returns:
        What each stage left: the same as if they had been run one by one.

    Raises:
        UnknownNameError: no such part.
        AtlasError: whatever a stage cannot serve.

    Examples:
        >>> run(InitsSettings(), 3)
        Traceback (most recent call last):
        lossatlas.errors.UnknownNameError: `stage` must be one of '1', '2'; got '3'.
    """
    if part is not None:
        check_one_of("stage", str(part), map(str, PARTS))
    problem = load_problem(settings)
    stages = STAGES if part is None else PARTS[part]
    return [run_stage(settings, s, problem=problem, progress=progress) for s in stages]


def _computed(
    settings: InitsSettings, stage: str, problem: Problem, progress: Progress | None
) -> Result:
    try:
        return _COMPUTE[stage](settings, problem, progress=progress)
    except ResumeError as error:
        # What a ledger advises is for those who name it themselves.
        raise ResumeError(
            f"{error} Here: repeat those settings, name another --out, or remove that file."
        ) from error


def _surrogates(
    settings: InitsSettings, problem: Problem, *, progress: Progress | None
) -> Result:
    samples = load_stage(settings, "generate", problem.fingerprint)
    return fit_surrogates(settings, problem, samples, progress=progress)


def _quality(settings: InitsSettings, problem: Problem, *, progress: Progress | None) -> Result:
    from lossatlas.inits.evaluation import fit_quality
    from lossatlas.inits.features import measure_features

    labels = load_stage(settings, "label", problem.fingerprint)
    if path_of(settings, "features").is_file():
        features = load_stage(settings, "features", problem.fingerprint)
    else:
        features = measure_features(settings, problem, labels, progress=progress)
        _written(settings, "features", features)
    return fit_quality(settings, problem, labels, features, progress=progress)


_COMPUTE: dict[str, Callable[..., Result]] = {
    "generate": generate,
    "fit-surrogate": _surrogates,
    "label": label,
    "fit-quality": _quality,
}


def _written(settings: InitsSettings, stage: str, result: Result) -> Result:
    result.save(path_of(settings, stage))
    # The file holds all of it now.
    remove_ledger(ledger_of(settings, stage))
    return result


def _check_remembered(path: Path) -> None:
    if path.exists() and not is_kept(path):
        raise FileError(
            f"'{path}' would be overwritten, and no study wrote it: name another `out`, or "
            "move it away."
        )


def _remember(settings: InitsSettings) -> None:
    kept = set(InitsSettings.model_fields) - {"out"}
    plain = settings.model_dump(mode="json", include=kept, exclude_unset=True)
    with writing(settings.out / REMEMBERED) as temporary:
        temporary.write_text(
            kept_text(yaml.safe_dump(plain, sort_keys=False)), encoding="utf-8"
        )
