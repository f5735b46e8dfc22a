"""From settings to trainings on disk."""

from dataclasses import dataclass, replace
from pathlib import Path

from lossatlas import store
from lossatlas.cli.output import Output
from lossatlas.cli.train_settings import TrainingSettings
from lossatlas.errors import ArgumentError, DataError
from lossatlas.executor import Executor, Joblib, Progress, Serial
from lossatlas.recipes import Runs, TrainingSetup, train_recipes
from lossatlas.recipes.run import Weights
from lossatlas.report import write_report
from lossatlas.store import make_folder, remove_ledger
from lossatlas.training.checkpoints import save_weights
from lossatlas.training.dataset import Dataset
from lossatlas.training.datasets import load_dataset
from lossatlas.training.devices import chosen_device
from lossatlas.training.models import normalization_of
from lossatlas.training.seeding import epoch_order

_NAMES = {"raw": "weights.safetensors", "average": "average.safetensors"}


@dataclass(frozen=True)
class Files:
    """Where everything lies.

    Attributes:
        title: of the trainings.
        report: the page.
        results: the trainings as labeled arrays.
        weights: of a single training, as they are and averaged.
    """

    title: str
    report: Path
    results: Path
    weights: dict[str, Path]


def run_trainings(
    settings: TrainingSettings, output: Output, *, resume: bool
) -> tuple[Runs, Files]:
    """Train, compare, and write `trainings.nc`, `report.html` and weights."""
    chosen_device(settings.device)
    setup = _setup(settings)
    folder = make_folder(settings.out)
    ledger = folder / "trainings.resume"
    if not resume:
        remove_ledger(ledger)
    kept: dict[str, Weights] = {}
    alone = len(settings.recipes) * len(settings.lr) * settings.repeats == 1
    found = train_recipes(
        setup,
        settings.recipes,
        steps=settings.updates(len(setup.train)),
        rates=settings.lr,
        seeds=settings.repeats,
        device=settings.device,
        # A single training is kept as weights, and has nothing to go on from before its end.
        resume=None if alone else ledger,
        executor=_executor(settings),
        progress=_teller(output),
        keep=kept if alone else None,
    )
    title = settings.title or f"{settings.model} on {settings.data}"
    found = _titled(found, title)
    results = store.save(found, folder / "trainings.nc")
    page = write_report(found, folder / "report.html")
    paths = {name: save_weights(kept[name], folder / _NAMES[name]) for name in kept}
    remove_ledger(ledger)
    return found, Files(title, page, results, paths)


def _setup(settings: TrainingSettings) -> TrainingSetup:
    data = load_dataset(
        settings.data, examples=settings.examples, normalize=normalization_of(settings.model)
    )
    if data.task == "classification" and not data.classes:
        data = replace(data, classes=tuple(map(str, range(data.outputs))))
    train, valid, test = _parts(settings, data)
    warmup = settings.warmup
    if warmup is None:
        warmup = min(20, settings.updates(len(train)) // 10)
    return TrainingSetup(
        train,
        valid,
        test,
        settings.model,
        batch_size=settings.batch_size,
        decay=settings.decay,
        warmup=warmup,
        loss=settings.loss or "",
    )


def _parts(settings: TrainingSettings, data: Dataset) -> tuple[Dataset, Dataset, Dataset]:
    if len(data) < 10:
        raise DataError(
            f"'{data.name}' has {len(data)} examples; a comparison needs 10 to split into "
            "those that train, choose and test."
        )
    if data.task != "language":
        # Blocks of a text that touch stay together: the last ones are tested on.
        data = data.pick(epoch_order(settings.split_seed, 0, len(data)))
    test = _other(settings, data)
    if test is None:
        count = max(round(settings.tested * len(data)), 1)
        data, test = data.take(len(data) - count), data.skip(len(data) - count)
    count = max(round(settings.valid * len(data)), 1)
    return data.take(len(data) - count), data.skip(len(data) - count), test


def _other(settings: TrainingSettings, data: Dataset) -> Dataset | None:
    if settings.test is None:
        return None
    found = load_dataset(settings.test, normalize=normalization_of(settings.model))
    fits = found.inputs.shape[1:] == data.inputs.shape[1:] and found.task == data.task
    if not fits or found.vocabulary != data.vocabulary or found.outputs > data.outputs:
        raise ArgumentError(
            f"`test` must be data like '{settings.data}': {data.task}, inputs of "
            f"{tuple(data.inputs.shape[1:])}, {data.outputs} outputs; got {found.task}, "
            f"{tuple(found.inputs.shape[1:])}, {found.outputs}."
        )
    return found


def _executor(settings: TrainingSettings) -> Executor:
    return Serial() if settings.jobs == 1 else Joblib(settings.jobs)


def _teller(output: Output) -> Progress:
    def tell(done: int, total: int, label: str) -> None:
        output.note(f"{done} of {total}: {label}")

    return tell


def _titled(found: Runs, title: str) -> Runs:
    settings = {**found.provenance.settings, "title": title, "recipes": list(found.names)}
    return replace(found, provenance=replace(found.provenance, settings=settings))
