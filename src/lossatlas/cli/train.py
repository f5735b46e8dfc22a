"""`lossatlas train`: train with a recipe, or compare recipes over seeds and rates."""

import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from lossatlas.cli.command import Command
from lossatlas.cli.declaration import declared
from lossatlas.cli.output import Output, Rows
from lossatlas.errors import ArgumentError, DataError
from lossatlas.settings import (
    DATA,
    DEVICE,
    EXAMPLES,
    LISTED,
    LOSS,
    MODEL,
    SEED,
    TITLE,
    Strict,
    common,
    defaults,
    option,
    subject,
)  # fmt: skip

if TYPE_CHECKING:
    from lossatlas.recipes import RecipeSummary, Runs, TrainingSetup
    from lossatlas.training.dataset import Dataset

_SETUP = defaults("recipes.setup:TrainingSetup")
_TRAINED = defaults("recipes.train:train_recipes")
_FILES = {
    "raw": "weights.safetensors",
    "average": "average.safetensors",
    "bank": "best-average.safetensors",
}
_EPOCHS = 20
_RECIPE = (
    "Optimizer and parts, as in 'adamw+cosine' or 'sgd+sasp=0.01'. Optimizers: adamw, adam, "
    "sgd, topoadamw, schedulefree, prodigy. Learning rates: cosine, wsd, linear, regime, "
    "compat, growth, momo, edge, group-noise, cooldown. Penalties, each with a number: sasp, "
    "sasp-fisher, cvp, cvp-original, cwd, l2, smoothing, sam, spectral, sbmp, noise. Also: "
    "average, bank (the best of some averages on validation), cautious, interpolated, brake "
    "(growth falls back where the validation loss rises), decay=, warmup=, interval=."
)
_COMPARE = "Recipes with commas between them; the others are compared with the first."
_TEST = "Other data to test on. By default a share of the examples is kept apart."
_LR = "Learning rates with commas between them; validation chooses the best."
_SEEDS = f"Trainings of each kind. By default 1, or {_TRAINED['seeds']} to compare."
_WARMUP = "Steps of linear warmup. By default a tenth of the training, at most {}."
_OUT = "Folder of trainings.nc, trainings.html and, of one training, the weights."
_RESUME = "Go on with a comparison that was stopped."
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_share: Any = {"gt": 0, "lt": 0.5, "allow_inf_nan": False}
_trained_with = functools.partial(option, group="Training")


class TrainingSettings(Strict):
    """Settings of `lossatlas train`."""

    recipe: str = _trained_with("adamw+growth+interpolated+bank", _RECIPE, short="r")
    compare: Annotated[tuple[str, ...] | None, LISTED] = _trained_with(
        None, _COMPARE, min_length=1
    )
    lr: Annotated[tuple[Rate, ...], LISTED] = _trained_with(
        _TRAINED["rates"], _LR, min_length=1
    )
    seeds: int | None = _trained_with(None, _SEEDS, ge=1)
    epochs: int | None = _trained_with(
        None, f"Walks over the data. By default {_EPOCHS}.", ge=1
    )
    steps: int | None = _trained_with(None, "Updates, instead of epochs.", ge=1)
    batch_size: int = _trained_with(_SETUP["batch_size"], "Examples a batch.", ge=1)
    decay: float = _trained_with(_SETUP["decay"], "Weight decay.", ge=0, allow_inf_nan=False)
    warmup: int | None = _trained_with(None, _WARMUP.format(_SETUP["warmup"]), ge=0)
    model: str = subject("mlp(32)", MODEL, short="m")
    data: str = subject("digits", DATA, short="d")
    test: str | None = subject(None, _TEST)
    loss: str | None = subject(None, LOSS)
    examples: int | None = subject(None, EXAMPLES, ge=10)
    valid: float = subject(0.2, "Share of the examples to choose the rate by.", **_share)
    tested: float = subject(0.2, "Share of the examples to test on.", **_share)
    device: str = subject(_TRAINED["device"], DEVICE)
    jobs: int = option(1, "Processes; -1 is one a core.", ge=-1)
    title: str | None = option(None, TITLE)
    out: Path = common(Path("training"), _OUT, short="o")
    seed: int = common(0, f"{SEED} It splits the data; trainings count theirs from 0.", ge=0)

    @model_validator(mode="after")
    def _agree(self) -> "TrainingSettings":
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give `epochs` or `steps`, not both")
        plain = type(self).model_fields["recipe"].default
        if self.compare is not None and self.recipe != plain:
            raise ValueError("give `recipe` or `compare`, not both")
        if self.jobs == 0:
            raise ValueError("`jobs` must be a number of processes, or -1 for one a core")
        return self

    @property
    def recipes(self) -> tuple[str, ...]:
        """What is trained."""
        return self.compare or (self.recipe,)

    @property
    def repeats(self) -> int:
        """Trainings of each kind."""
        return self.seeds or (1 if self.compare is None else _TRAINED["seeds"])

    def updates(self, examples: int) -> int:
        """The length of a training."""
        if self.steps is not None:
            return self.steps
        return (self.epochs or _EPOCHS) * -(-examples // self.batch_size)


def run(settings: TrainingSettings, output: Output) -> None:
    """Train, compare, and write `trainings.nc`, `trainings.html` and weights."""
    from lossatlas import io
    from lossatlas.report import write_report
    from lossatlas.training.checkpoints import save_weights
    from lossatlas.training.devices import chosen_device

    chosen_device(settings.device)
    folder, ledger = settings.out, settings.out / "trainings.resume"
    runs, weights = _trained(settings, ledger, output)
    results = io.save(runs, folder / "trainings.nc")
    page = write_report(runs, folder / "trainings.html")
    paths = {
        name: save_weights(weights[name], folder / _FILES[name])
        for name in weights
        if name in _FILES
    }
    io.remove_ledger(ledger)
    title = str(runs.provenance.settings["title"])
    files = {"results": results, "report": page}
    rows = _table(runs, paths)
    output.result(_summary(runs, paths), title, rows, files=files)


command = Command(
    TrainingSettings, run,
    "Train a network with a recipe, or find out which recipe is worth it.", resume=_RESUME,
    files=declared(
        "training", ("trainings.nc", "trainings.html", *_FILES.values()),
        ledgers=("trainings.resume",), is_folder=True,
    ),
)  # fmt: skip


def _trained(
    settings: TrainingSettings, ledger: Path, output: Output
) -> tuple["Runs", dict[str, Any]]:
    from lossatlas.executor import Joblib
    from lossatlas.recipes import train_recipes

    setup = setup_of(settings)
    kept: dict[str, Any] = {}
    alone = len(settings.recipes) * len(settings.lr) * settings.repeats == 1
    with output.progress("training") as progress:
        runs = train_recipes(
            setup,
            settings.recipes,
            steps=settings.updates(len(setup.train)),
            rates=settings.lr,
            seeds=settings.repeats,
            device=settings.device,
            # A single training is kept as weights, and has nothing to go on from.
            resume=None if alone else ledger,
            executor="serial" if settings.jobs == 1 else Joblib(settings.jobs),
            progress=progress,
            keep=kept if alone else None,
        )
    title = settings.title or f"{settings.model} on {settings.data}"
    named = {**runs.provenance.settings, "title": title, "recipes": list(runs.names)}
    return replace(runs, provenance=replace(runs.provenance, settings=named)), kept


def setup_of(settings: TrainingSettings) -> "TrainingSetup":
    """The data in three parts, and the model."""
    from lossatlas.recipes import TrainingSetup
    from lossatlas.training.datasets import load_dataset
    from lossatlas.training.models import normalization_of

    data = load_dataset(
        settings.data, examples=settings.examples, normalize=normalization_of(settings.model)
    )
    if data.task == "classification" and not data.classes:
        data = replace(data, classes=tuple(map(str, range(data.outputs))))
    train, valid, test = split(settings, data)
    usual = min(_SETUP["warmup"], settings.updates(len(train)) // 10)
    return TrainingSetup(
        train,
        valid,
        test,
        settings.model,
        batch_size=settings.batch_size,
        decay=settings.decay,
        warmup=usual if settings.warmup is None else settings.warmup,
        loss=settings.loss or "",
    )


def split(
    settings: TrainingSettings, data: "Dataset"
) -> tuple["Dataset", "Dataset", "Dataset"]:
    """Examples that train, choose and test."""
    from lossatlas.training.seeding import epoch_order

    if len(data) < 10:
        raise DataError(
            f"'{data.name}' has {len(data)} examples; a comparison needs 10 to split into "
            "those that train, choose and test."
        )
    if data.task != "language":
        # Blocks of a text that touch stay together: the last ones are tested on.
        data = data.pick(epoch_order(settings.seed, 0, len(data)))
    test = _other(settings, data)
    if test is None:
        count = max(round(settings.tested * len(data)), 1)
        data, test = data.take(len(data) - count), data.skip(len(data) - count)
    count = max(round(settings.valid * len(data)), 1)
    return data.take(len(data) - count), data.skip(len(data) - count), test


def _other(settings: TrainingSettings, data: "Dataset") -> "Dataset | None":
    from lossatlas.training.datasets import load_dataset
    from lossatlas.training.models import normalization_of

    if settings.test is None:
        return None
    dataset = load_dataset(settings.test, normalize=normalization_of(settings.model))
    fits = dataset.inputs.shape[1:] == data.inputs.shape[1:] and dataset.task == data.task
    if not fits or dataset.vocabulary != data.vocabulary or dataset.outputs > data.outputs:
        raise ArgumentError(
            f"`test` must be data like '{settings.data}': {data.task}, inputs of "
            f"{tuple(data.inputs.shape[1:])}, {data.outputs} outputs; got {dataset.task}, "
            f"{tuple(dataset.inputs.shape[1:])}, {dataset.outputs}."
        )
    return dataset


# What `--json` prints.
def _summary(runs: "Runs", weights: Mapping[str, Path]) -> dict[str, Any]:
    return {
        "title": runs.provenance.settings["title"],
        "verdict": runs.headline(),
        "measure": f"test {runs.measure}",
        "steps": runs.steps,
        "seeds": len(runs.seeds),
        "rates": list(runs.rates),
        "recipes": [
            row.to_dict() | {"reasons": _reasons(runs, row)} for row in runs.summaries()
        ],
        "weights": {name: str(path) for name, path in weights.items()},
    }


# What a person is shown.
def _table(runs: "Runs", weights: Mapping[str, Path]) -> Rows:
    made = runs.summaries()
    return _single(runs, made[0], weights) if len(made) == 1 else _several(runs, made)


def _several(runs: "Runs", made: Sequence["RecipeSummary"]) -> Rows:
    from lossatlas.recipes import verdict

    unit = "points" if runs.measure == "accuracy" else "loss"
    against = f"{unit} above {made[0].recipe} [95 %]"
    lines = [("recipe, rate", f"test {runs.measure}", against, "CPU time")]
    lines += [_line(row) for row in made]
    for row in made:
        if row.untuned is not None:
            gap = f"{row.signed(row.untuned.value)} {row.interval_text(row.untuned)}"
            lines.append((f"{row.recipe}, all rates", "", f"{gap} {verdict(row.untuned)}", ""))
    return lines


def _line(row: "RecipeSummary") -> tuple[str, str, str, str]:
    from lossatlas.text import count

    gap = row.difference
    words = [] if gap is None else [row.signed(gap.value), row.interval_text(gap), row.verdict]
    if row.diverged:
        words.append(f"{count(row.diverged, 'training')} diverged")
    name = f"{row.recipe}, {row.lr:g}"
    told = " ".join(word for word in words if word)
    return name, row.score_text, told, f"{row.overhead[0]:.2f}x"


def _single(runs: "Runs", row: "RecipeSummary", weights: Mapping[str, Path]) -> Rows:
    from lossatlas.text import count, percent, with_error

    why = "over seeds" if len(runs.seeds) > 1 else "over examples"
    lines = [
        (f"test {runs.measure}", row.score_text, why),
        ("test loss", with_error(row.loss.value, row.loss.stderr), why),
        ("rate", f"{row.lr:g}", f"{row.final_rate:.3g} at the last of {runs.steps:,} updates"),
    ]
    if row.decisions:
        share = "" if math.isnan(row.steering) else f"{percent(row.steering)} of the CPU time"
        lines.append(("decisions", str(row.decisions), share))
        lines += [("", f"{times:,}", reason) for reason, times in _reasons(runs, row).items()]
    if row.diverged:
        lines.append(("diverged", count(row.diverged, "training"), "its loss is not finite"))
    read = runs.recipes[0].weights
    scored = {
        name: f"the test {runs.measure} above" if name == read else "" for name in weights
    }
    return [
        *lines,
        *((f"weights, {name}", str(path), scored[name]) for name, path in weights.items()),
    ]


def _reasons(runs: "Runs", row: "RecipeSummary") -> dict[str, int]:
    return dict(Counter(record.reason for record in runs.log(row.recipe)).most_common())
