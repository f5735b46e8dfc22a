"""The files of a study: where they are, which command makes them, whether they go together.

One folder holds one study. Each stage reads files of the stages before it and writes one of
its own, whole or not at all:

    pairs.nc                 1  `Samples`: recipes and their true losses
    surrogate.nc             2  `Surrogates`: how well the loss is predicted, at what cost
    labels.nc                3  `Labels`: the losses after training
    features.nc, quality.nc  4  `Features`, and what was predicted from them
    figures/                 5  figures

Each file is a result that `lossatlas.load` reads. It carries the settings that it depends on
(`provenance.settings`); a file of other settings is refused. Parameters are never stored: a
recipe makes them again, bit for bit.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from lossatlas import io
from lossatlas.errors import FileError
from lossatlas.executor import Executor, Progress, run_tasks
from lossatlas.executor.executors import ExecutorName
from lossatlas.inits.settings import InitsSettings

T = TypeVar("T")
R = TypeVar("R")
# Stage -> its file, and the sections of the settings that it depends on.
FILES = {
    "generate": "pairs.nc",
    "fit-surrogate": "surrogate.nc",
    "label": "labels.nc",
    "features": "features.nc",
    "fit-quality": "quality.nc",
}
# What the files hold; another result under such a name is not of a study.
KINDS = {
    "generate": "inits-samples",
    "fit-surrogate": "inits-surrogates",
    "label": "inits-labels",
    "features": "inits-features",
    "fit-quality": "inits-quality",
}
SECTIONS = {
    "generate": ("generate",),
    "fit-surrogate": ("generate", "surrogate"),
    "label": ("label",),
    "features": ("label", "quality"),
    "fit-quality": ("label", "quality"),
}
_MAKER = {"features": "fit-quality"}


def path_of(settings: InitsSettings, stage: str) -> Path:
    """Where a stage writes."""
    return settings.out / FILES[stage]


def ledger_of(settings: InitsSettings, stage: str) -> Path:
    """Where a stage keeps what is done until its file is written."""
    return settings.out / f"{stage}.resume"


def provenance(settings: InitsSettings, stage: str, data: str) -> io.Provenance:
    """What a file says about where it comes from."""
    return io.Provenance(settings.seed, settings.identity(*SECTIONS[stage]), data=data)


def run_stage_tasks(
    settings: InitsSettings,
    stage: str,
    data: str,
    tasks: Mapping[str, T],
    start: Callable[[], Callable[[T], R]],
    *,
    executor: ExecutorName | Executor | None = None,
    progress: Progress | None = None,
    **identity: Any,
) -> list[R]:
    """Run the tasks of a stage on one thread each; finished ones come from its ledger."""
    depends = settings.identity(*SECTIONS[stage]) | identity
    run = io.run_identity(f"inits {stage}", depends, data=data)
    with io.open_ledger(ledger_of(settings, stage), run) as ledger:
        results = run_tasks(
            tasks,
            lambda: _on_one_thread(start()),
            executor=executor or settings.executor,
            ledger=ledger,
            progress=progress,
        )
        return list(results)


def load_stage(settings: InitsSettings, stage: str, data: str | None = None) -> Any:
    """What a stage wrote, if it belongs to these settings and examples."""
    path = path_of(settings, stage)
    maker = _MAKER.get(stage, stage)
    if not path.is_file():
        raise FileError(
            f"'{path}' does not exist; make it first: lossatlas inits {maker} "
            f"--out {settings.out} with the same settings."
        )
    result = io.load(path)
    made_with = dict(result.provenance.settings)
    different = differing(made_with, settings.identity(*SECTIONS[stage]))
    if different:
        raise FileError(
            f"'{path}' is of other settings ({different}); repeat those, name another "
            f"--out, or remove it and make it again: lossatlas inits {maker}."
        )
    if data is not None and result.provenance.data != data:
        raise FileError(
            f"'{path}' was made from other examples than '{settings.data}' holds now; name "
            f"another --out, or remove it and make it again: lossatlas inits {maker}."
        )
    return result


def differing(stored: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Which settings differ, for a message."""
    flat, other = _flat(stored), _flat(io.Provenance(settings=wanted).settings)
    names = [n for n in sorted(flat | other) if flat.get(n) != other.get(n)]
    shown = [f"{n} is {flat.get(n)!r} there, {other.get(n)!r} here" for n in names[:3]]
    return "; ".join([*shown, *(["..."] if len(names) > 3 else [])])


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix.removesuffix("."): values}
    parts = (_flat(value, f"{prefix}{name}.") for name, value in values.items())
    return {name: value for part in parts for name, value in part.items()}


def _on_one_thread(work: Callable[[T], R]) -> Callable[[T], R]:
    def single(task: T) -> R:
        with one_thread():
            return work(task)

    return single


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread; the number of before comes back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
