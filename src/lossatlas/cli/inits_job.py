"""From the command line to the stages of an initialization study."""

import math
import time
from typing import Any

from lossatlas.cli import inits_words as words
from lossatlas.cli.output import Output
from lossatlas.cli.settings import settings_of
from lossatlas.executor import Progress
from lossatlas.store import occupied
from lossatlas.studies.inits.pipeline import REMEMBERED, Done, run, run_stage
from lossatlas.studies.inits.settings import InitsSettings

# Seconds between two lines of progress.
_BETWEEN = 3.0
_NOT_SETTINGS = ("config", "set_", "as_json", "quiet")


def read_settings(common: dict[str, Any], more: dict[str, Any]) -> InitsSettings:
    """Defaults, then the file, then `--set`, then options."""
    config = common["config"]
    remembered = common["folder"] / REMEMBERED
    if config is None and remembered.is_file():
        config = remembered
    given = [f"{name}={value}" for name, value in more.items() if value is not None]
    named = {name: value for name, value in common.items() if name not in _NOT_SETTINGS}
    return settings_of(InitsSettings, config, [*common["set_"], *given], named)


def run_one(common: dict[str, Any], stage: str, more: dict[str, Any]) -> None:
    """Run one stage and tell what it left."""
    output = _output(common)
    settings = read_settings(common, more)
    with occupied(settings.folder):
        done = run_stage(settings, stage, progress=_teller(output))
    _mention(done, output)
    output.result(words.summary(done), words.title(done), words.table(done))


def run_study(common: dict[str, Any], part: int | None) -> None:
    """Run all stages, or one half, and tell what they left."""
    output, settings = _output(common), read_settings(common, {})
    with occupied(settings.folder):
        finished = run(settings, part, progress=_teller(output))
    for done in finished:
        _mention(done, output)
    data = {done.stage: words.summary(done) for done in finished}
    rows = [row for done in finished for row in words.headline(done)]
    output.result(data, f"initializations of {settings.model} on {settings.data}", rows)


def rank_study(common: dict[str, Any], candidates: int) -> None:
    """Rank candidates and say how much to trust it."""
    from lossatlas.studies.inits.rank import rank

    output = _output(common)
    settings = read_settings(common, {})
    with occupied(settings.folder):
        found = rank(settings, candidates, progress=_teller(output))
    output.result(found.summary(), found.title, found.table())


def _output(common: dict[str, Any]) -> Output:
    return Output(as_json=common["as_json"], quiet=common["quiet"])


def _teller(output: Output) -> Progress:
    # Some stages have many short steps; a line every few seconds is enough.
    told = [-math.inf]

    def tell(done: int, total: int, label: str) -> None:
        if time.monotonic() - told[0] >= _BETWEEN:
            output.note(f"{done} of {total}: {label}")
            told[0] = time.monotonic()

    return tell


def _mention(done: Done, output: Output) -> None:
    if not done.fresh:
        output.note(f"{done.paths[0]} is there already; remove it to make it again.")
