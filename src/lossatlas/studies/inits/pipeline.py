"""The five stages, one by one or together; what is done is never done again."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lossatlas import store
from lossatlas.checks import check_one_of
from lossatlas.errors import ResumeError
from lossatlas.store import make_folder, remove_ledger, writing
from lossatlas.studies.inits.files import ledger_of, load_stage, path_of
from lossatlas.studies.inits.generate import generate
from lossatlas.studies.inits.label import label
from lossatlas.studies.inits.problem import Problem, load_subject
from lossatlas.studies.inits.settings import STAGES, InitsSettings
from lossatlas.studies.inits.surrogates import fit_surrogates

Progress = Callable[[str], object]
# The two halves of the published pipeline: the loss predictor, and the quality predictor.
PARTS = {1: STAGES[:2], 2: STAGES[2:]}
# What the command remembers, so that the next stage need not be told again.
REMEMBERED = "settings.yaml"


@dataclass(frozen=True)
class Done:
    """What a stage left.

    Attributes:
        stage: one of `STAGES`.
        result: what was written, or the paths of pictures.
        paths: of the files.
        fresh: whether it was computed now.
    """

    stage: str
    result: Any
    paths: tuple[Path, ...]
    fresh: bool


def run_stage(
    settings: InitsSettings,
    stage: str,
    *,
    subject: Problem | None = None,
    progress: Progress | None = None,
) -> Done:
    """Run one stage, unless its file is there already.

    Args:
        settings: of the study.
        stage: one of `STAGES`.
        subject: network and data; loaded by default.
        progress: called with a line now and then.

    Returns:
        What it left.

    Raises:
        UnknownNameError: no such stage.
        FileError: a file of the stages before it is missing (the message names the command
            that makes it), or files of other settings are there.
        AtlasError: whatever the stage cannot serve.
    """
    check_one_of("stage", stage, STAGES)
    make_folder(settings.out)
    if stage == "figures":
        from lossatlas.studies.inits.stages import draw_figures

        paths = tuple(draw_figures(settings, progress=progress))
        return Done(stage, paths, paths, fresh=True)
    path, known = path_of(settings, stage), subject or load_subject(settings)
    if path.is_file():
        result = load_stage(settings, stage, known.fingerprint)
        done = Done(stage, result, (path,), fresh=False)
    else:
        result = _computed(settings, stage, known, progress)
        done = Done(stage, _written(settings, stage, result), (path,), fresh=True)
    _remember(settings)
    return done


def run(
    settings: InitsSettings, part: int | None = None, *, progress: Progress | None = None
) -> list[Done]:
    """Run all stages, or one half of them.

    Args:
        settings: of the study.
        part: 1 for the surrogate (stages 1 and 2), 2 for the quality (3 to 5); None for all.
        progress: called with a line now and then.

    Returns:
        What each stage left: the same as if they had been run one by one.

    Raises:
        UnknownNameError: no such part.
        AtlasError: whatever a stage cannot serve.
    """
    if part is not None:
        check_one_of("stage", str(part), map(str, PARTS))
    subject = load_subject(settings)
    stages = STAGES if part is None else PARTS[part]
    return [run_stage(settings, s, subject=subject, progress=progress) for s in stages]


def _computed(
    settings: InitsSettings, stage: str, subject: Problem, progress: Progress | None
) -> Any:
    try:
        return _COMPUTE[stage](settings, subject, progress)
    except ResumeError as error:
        # What a ledger advises is for those who name it themselves.
        raise ResumeError(
            f"{error} Here: repeat those settings, name another --out, or remove that file."
        ) from error


def _generate(settings: InitsSettings, subject: Problem, progress: Progress | None) -> Any:
    return generate(settings, subject, progress=progress)


def _surrogates(settings: InitsSettings, subject: Problem, progress: Progress | None) -> Any:
    pairs = load_stage(settings, "generate", subject.fingerprint)
    return fit_surrogates(settings, subject, pairs, progress=progress)


def _label(settings: InitsSettings, subject: Problem, progress: Progress | None) -> Any:
    return label(settings, subject, progress=progress)


def _quality(settings: InitsSettings, subject: Problem, progress: Progress | None) -> Any:
    from lossatlas.studies.inits.stages import fit_quality, measure_features

    labels = load_stage(settings, "label", subject.fingerprint)
    if path_of(settings, "features").is_file():
        features = load_stage(settings, "features", subject.fingerprint)
    else:
        features = measure_features(settings, subject, labels, progress=progress)
        _written(settings, "features", features)
    return fit_quality(settings, subject, labels, features, progress=progress)


_COMPUTE: dict[str, Callable[[InitsSettings, Problem, Progress | None], Any]] = {
    "generate": _generate,
    "fit-surrogate": _surrogates,
    "label": _label,
    "fit-quality": _quality,
}


def _written(settings: InitsSettings, stage: str, result: Any) -> Any:
    store.save(result, path_of(settings, stage))
    # The file holds all of it now.
    remove_ledger(ledger_of(settings, stage))
    return result


def _remember(settings: InitsSettings) -> None:
    kept = set(InitsSettings.model_fields) - {"out"}
    plain = settings.model_dump(mode="json", include=kept, exclude_unset=True)
    with writing(settings.out / REMEMBERED) as temporary:
        temporary.write_text(yaml.safe_dump(plain, sort_keys=False))
