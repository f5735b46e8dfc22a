"""Train a grid of networks, load by temperature, and measure the ground where they end."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from lossatlas.checks import check_at_least, check_one_of, check_positive
from lossatlas.curvature import activations, cka, spectrum, trace
from lossatlas.errors import ArgumentError, NonFiniteError
from lossatlas.executor import Executor, Progress, run_tasks
from lossatlas.linalg.params import Params, fingerprint, norm, subtract
from lossatlas.objective import Objective, supervised
from lossatlas.store import Provenance, open_ledger, run_identity
from lossatlas.studies.phases.curve import connect
from lossatlas.studies.phases.result import OF_PAIRS, OF_SEEDS, PhasePlane, ring
from lossatlas.training import (
    Dataset,
    EnsembleRun,
    build_loss,
    build_model,
    evaluate_ensemble,
    initial_weights,
    train_ensemble,
)

Array = NDArray[np.float64]

TEMPERATURES = ("batch_size", "lr")
# Phases are told apart by factors, not by per cents.
_TOLERANCE, _TRACE_TOLERANCE, _TRACE_LIMIT = 1e-2, 0.1, 200


@dataclass(frozen=True)
class Question:
    """What is asked of every cell of the plane.

    Attributes:
        train: examples to learn from; the ground is that of their mean loss.
        test: examples for errors and representations.
        model: a spec with "{load}" in it.
        temperature: "batch_size" or "lr": what the second axis sets.
        epochs: walks over the data.
        lr: rate, where temperature is the batch size.
        batch_size: examples a batch, where temperature is the rate.
        loss: a name for `build_loss`.
        seeds: networks of a cell.
        examples: of the mean loss whose curvature and curves are measured, the first ones.
        curve_steps: steps of the training of each curve.
    """

    train: Dataset
    test: Dataset
    model: str
    temperature: str
    epochs: int
    lr: float
    batch_size: int
    loss: str
    seeds: int
    examples: int
    curve_steps: int

    def __post_init__(self) -> None:
        check_one_of("temperature", self.temperature, TEMPERATURES)
        if "{load}" not in self.model:
            raise ArgumentError(
                f"`model` must hold '{{load}}', as in 'mlp({{load}})'; got '{self.model}'."
            )
        check_positive("lr", self.lr)
        for name in ("epochs", "batch_size", "examples", "curve_steps"):
            check_at_least(name, getattr(self, name), 1)
        check_at_least("seeds", self.seeds, 2)
        build_loss(self.loss, task=self.train.task)

    def identity(self) -> dict[str, object]:
        """What a resume file belongs to."""
        sets = {"train": self.train, "test": self.test}
        data = {f"{n}.inputs": d.inputs for n, d in sets.items()}
        data |= {f"{n}.targets": d.targets for n, d in sets.items()}
        plain: dict[str, object] = {
            n: v for n, v in vars(self).items() if isinstance(v, str | int | float)
        }
        return plain | {"data": fingerprint(data)}


def phase_plane(
    train: Dataset,
    test: Dataset,
    *,
    loads: Sequence[int] = (2, 4, 8, 32, 128),
    temperatures: Sequence[float] = (8, 64, 512),
    temperature: str = "batch_size",
    model: str = "mlp({load})",
    epochs: int = 30,
    lr: float = 0.1,
    batch_size: int = 32,
    loss: str = "cross_entropy",
    seeds: int = 4,
    examples: int = 512,
    curve_steps: int = 150,
    resume: str | Path | None = None,
    executor: str | Executor = "serial",
    progress: Progress | bool | None = None,
) -> PhasePlane:
    """Measure the plane of load (width) and temperature (batch size or rate).

    Each cell holds some networks that differ in their seed: trained side by side by SGD with
    momentum, all cells with the same epochs. Measured are losses and errors, the largest
    eigenvalue and the trace of the Hessian, and between neighbors on the ring of seeds the
    connectivity of a trained curve, the alignment of outputs on the test examples (debiased
    CKA) and the distance of weights. `PhasePlane.phases` names the phases.

    Args:
        train: examples to learn from.
        test: examples for errors and representations.
        loads: what is put for "{load}" in `model`.
        temperatures: batch sizes or rates.
        temperature: "batch_size" or "lr": what the second axis sets.
        model: a spec of `build_model` with "{load}" in it.
        epochs: walks over the training data.
        lr: rate, where temperature is the batch size.
        batch_size: examples a batch, where temperature is the rate.
        loss: a name for `build_loss`.
        seeds: networks of a cell, at least 2; 4 or more for errors worth their name.
        examples: the first ones of `train`, over which curvature and curves are measured.
        curve_steps: steps of the training of each curve.
        resume: a file that keeps what is done; None keeps nothing.
        executor: "serial", "joblib", or one of your own.
        progress: called with (done, total, label) after every cell.

    Returns:
        All measures of all cells. A network that diverged has NaN.

    Raises:
        ArgumentError: numbers out of range, or a model without a load.
        UnknownNameError: an unknown model, loss, temperature or executor.
        ResumeError: the file is damaged or belongs to another study.

    Source: Yang et al., NeurIPS 2021, arXiv:2107.11228; arXiv:2504.18072.
    """
    asked = Question(
        train,
        test,
        model,
        temperature,
        epochs,
        lr,
        batch_size,
        loss,
        seeds,
        min(examples, len(train)),
        curve_steps,
    )
    _check_axes(loads, temperatures, temperature)
    cells = {f"{load} at {heat}": (load, heat) for heat in temperatures for load in loads}
    identity = asked.identity()
    with open_ledger(resume, run_identity("phase_plane", identity)) as ledger:
        tables = list(
            run_tasks(
                cells,
                lambda: lambda cell: cell_table(asked, *cell),
                executor=executor,
                ledger=ledger,
                progress=progress,
            )
        )
    shape = (len(temperatures), len(loads), seeds, len(OF_SEEDS) + len(OF_PAIRS))
    values = np.array(tables).reshape(shape).swapaxes(0, 1)
    found = str(identity.pop("data"))
    return PhasePlane(
        tuple(map(int, loads)),
        tuple(map(float, temperatures)),
        temperature,
        values[..., : len(OF_SEEDS)],
        values[..., len(OF_SEEDS) :],
        Provenance(0, identity, data=found),
    )


def _check_axes(loads: Sequence[int], temperatures: Sequence[float], temperature: str) -> None:
    for name, axis in (("loads", loads), ("temperatures", temperatures)):
        if not axis or not all(a < b for a, b in pairwise(axis)):
            raise ArgumentError(f"`{name}` must be growing numbers; got {list(axis)}.")
    check_at_least("loads", loads[0], 1)
    for heat in temperatures:
        if temperature == "lr":
            check_positive("temperatures", heat)
        else:
            check_at_least("temperatures", heat, 1)


def cell_table(asked: Question, load: int, heat: float) -> Array:
    """Train the networks of one cell and measure them."""
    spec = asked.model.replace("{load}", str(load))
    model = build_model(spec, asked.train)
    seeds = range(asked.seeds)
    run = train_ensemble(
        model,
        asked.train,
        asked.loss,
        initial=initial_weights(spec, asked.train, seeds=seeds),
        epochs=asked.epochs,
        lr=heat if asked.temperature == "lr" else asked.lr,
        batch_size=asked.batch_size if asked.temperature == "lr" else int(heat),
        orders=list(seeds),
    )
    table = np.full((asked.seeds, len(OF_SEEDS) + len(OF_PAIRS)), np.nan)
    sets = {"loss": asked.train, "error": asked.train, "test": asked.test}
    for column, (kind, data) in enumerate(sets.items()):
        measure = asked.loss if kind == "loss" else "error"
        table[:, column] = evaluate_ensemble(model, run.states, data, measure)
    table[run.diverged_at >= 0] = np.nan
    _measure_ground(asked, model, run, table)
    return table


def _measure_ground(asked: Question, model: nn.Module, run: EnsembleRun, table: Array) -> None:
    whole = Objective(
        model,
        supervised(build_loss(asked.loss, task=asked.train.task)),
        asked.train.batches(asked.examples, examples=asked.examples),
        check=False,
    )
    shown = Objective(
        model, whole.loss, asked.test.batches(256), params=whole.names, check=False
    )
    ends = [{n: run.member(i)[n] for n in whole.names} for i in range(asked.seeds)]
    alive = run.diverged_at < 0
    split = len(OF_SEEDS)
    for index, end in enumerate(ends):
        if alive[index]:
            table[index, split - 2 : split] = _curvature(whole, end, index)
    for first, second in ring(asked.seeds):
        if alive[first] and alive[second]:
            table[first, split:] = _pair(asked, whole, shown, ends[first], ends[second])


def _curvature(objective: Objective, end: Params, seed: int) -> tuple[float, float]:
    try:
        found = spectrum(
            objective,
            top=1,
            bottom=0,
            density=False,
            tolerance=_TOLERANCE,
            params=end,
            seed=seed,
        )
        total = trace(objective, _TRACE_TOLERANCE, params=end, seed=seed, limit=_TRACE_LIMIT)
    except NonFiniteError:
        return np.nan, np.nan
    return float(found.top[0]), total.value


def _pair(
    asked: Question, whole: Objective, shown: Objective, first: Params, second: Params
) -> tuple[float, float, float]:
    joined = connect(whole, first, second, steps=asked.curve_steps)
    outputs = [activations(shown, "", params=end) for end in (first, second)]
    alike = cka(*outputs, folds=2).value
    return joined.connectivity, alike, norm(subtract(second, first))
