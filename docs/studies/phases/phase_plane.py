"""The load-temperature plane: trained networks, measures, and the phase of each cell."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from curve import connect
from numpy.typing import NDArray
from torch import Tensor, nn

from lossatlas.checks import check_at_least, check_one_of, check_positive
from lossatlas.curvature import activations, cka, spectrum, trace
from lossatlas.errors import ArgumentError, NonFiniteError
from lossatlas.executor import Executor, Progress, run_tasks
from lossatlas.io import Provenance, open_ledger, run_identity
from lossatlas.linalg.estimators import jackknife
from lossatlas.linalg.params import Params, fingerprint, norm, subtract
from lossatlas.objective import Objective, supervised
from lossatlas.result import Estimate, Result, result
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

# Measures of a network, and of a network and the next one on the ring of seeds.
OF_SEEDS = ("train loss", "train error", "test error", "largest eigenvalue", "trace")
OF_PAIRS = ("connectivity", "alignment", "distance")
PHASES = ("I", "II", "III", "IV-A", "IV-B")
UNCLEAR = "unclear"
MEANING = {
    "I": "under-fitted and under-sized: high loss, barriers between solutions",
    "II": "under-fitted: high loss, solutions connected by lower ground",
    "III": "under-sized: low loss, barriers between solutions",
    "IV-A": "over-fitted: low loss, connected, outputs differ",
    "IV-B": "generalizing: low loss, connected, outputs alike",
    UNCLEAR: "a measure is missing, or loss and curvature disagree",
}


def ring(seeds: int) -> list[tuple[int, int]]:
    """The pairs of neighbors: each seed with the next, the last with the first.

    Args:
        seeds: how many, at least 2.

    Returns:
        As many pairs as seeds; one for two seeds.
    """
    return [(i, (i + 1) % seeds) for i in range(seeds if seeds > 2 else 1)]


@dataclass(frozen=True)
class Thresholds:
    """Where a measure counts as large. The papers read them off their plots: so should you.

    Attributes:
        loss: training losses above it are high.
        connectivity: below minus this there is a barrier, in units of the loss.
        alignment: outputs are alike from here on.
        eigenvalue: a largest eigenvalue above it is large; a cell whose loss and eigenvalue
            disagree is then "unclear". None leaves curvature out of the rule.
    """

    loss: float = 0.1
    connectivity: float = 0.05
    alignment: float = 0.9
    eigenvalue: float | None = None


@result("phases")
class PhasePlane(Result):
    """Measures over the plane of load and temperature.

    Attributes:
        loads: of the networks (widths), growing.
        temperatures: batch sizes or rates, growing.
        temperature: which of the two, "batch_size" or "lr".
        of_seeds: shape (loads, temperatures, seeds, 5): `OF_SEEDS` of each network.
        of_pairs: shape (loads, temperatures, seeds, 3): `OF_PAIRS` of each network and the
            next one; NaN where there is no pair.
        provenance: settings and fingerprint of the data.
    """

    loads: tuple[int, ...]
    temperatures: tuple[float, ...]
    temperature: str
    of_seeds: Array
    of_pairs: Array
    provenance: Provenance = field(default_factory=Provenance)

    @property
    def seeds(self) -> int:
        """Networks of each cell."""
        return int(self.of_seeds.shape[2])

    def measure(self, name: str, load: int, temperature: float) -> Estimate:
        """One measure of one cell: mean with a jackknife error over seeds.

        Pairs share networks; leaving a seed out leaves its pairs out, which counts that.

        Args:
            name: one of `OF_SEEDS` or `OF_PAIRS`.
            load: one of `loads`.
            temperature: one of `temperatures`.

        Returns:
            Mean over the networks or pairs; those that diverged make it NaN.

        Raises:
            UnknownNameError: an unknown measure.
        """
        check_one_of("measure", name, (*OF_SEEDS, *OF_PAIRS))
        at = (self.loads.index(load), self.temperatures.index(temperature))
        if name in OF_SEEDS:
            column = self.of_seeds[at][:, OF_SEEDS.index(name)]
            return _over_seeds(column, [(i, i) for i in range(self.seeds)], self.seeds)
        column = self.of_pairs[at][:, OF_PAIRS.index(name)]
        return _over_seeds(column, ring(self.seeds), self.seeds)

    def table(self, name: str) -> tuple[Array, Array]:
        """One measure of all cells.

        Args:
            name: one of `OF_SEEDS` or `OF_PAIRS`.

        Returns:
            (means, standard errors), shape (loads, temperatures).
        """
        found = [[self.measure(name, a, b) for b in self.temperatures] for a in self.loads]
        means = np.array([[one.value for one in row] for row in found])
        return means, np.array([[one.stderr for one in row] for row in found])

    def phases(self, thresholds: Thresholds | None = None) -> NDArray[np.str_]:
        """The phase of each cell.

        Args:
            thresholds: where measures count as large.

        Returns:
            Shape (loads, temperatures), names out of `PHASES` or "unclear"; what they mean
            stands in `MEANING`.
        """
        chosen = thresholds or Thresholds()
        names = ("train loss", "largest eigenvalue", "connectivity", "alignment")
        tables = [self.table(name)[0] for name in names]
        cells = [
            [_phase(chosen, *(float(table[i, j]) for table in tables)) for j in range(columns)]
            for i, columns in enumerate([len(self.temperatures)] * len(self.loads))
        ]
        return np.array(cells)

    def certain(self, thresholds: Thresholds | None = None) -> NDArray[np.bool_]:
        """Where the phase stays when every measure moves by two standard errors.

        Args:
            thresholds: where measures count as large.

        Returns:
            Shape (loads, temperatures); False where an error is not known.
        """
        chosen = thresholds or Thresholds()
        bounds = {
            "train loss": chosen.loss,
            "connectivity": -chosen.connectivity,
            "alignment": chosen.alignment,
        }
        if chosen.eigenvalue is not None:
            bounds["largest eigenvalue"] = chosen.eigenvalue
        named = self.phases(chosen)
        sure: NDArray[np.bool_] = named != UNCLEAR
        for name, bound in bounds.items():
            means, errors = self.table(name)
            # Only phase IV looks at the alignment.
            asked = np.char.startswith(named, "IV") if name == "alignment" else True
            apart = np.abs(means - bound) > 2 * errors
            sure = np.logical_and(sure, np.logical_or(np.logical_not(asked), apart))
        return sure


def _over_seeds(column: Array, pairs: list[tuple[int, int]], seeds: int) -> Estimate:
    firsts = np.array([first for first, _ in pairs])
    seconds = np.array([second for _, second in pairs])

    def mean(kept: Tensor) -> float:
        there = np.isin(np.arange(seeds), kept.numpy())
        chosen = column[firsts[there[firsts] & there[seconds]]]
        return float(chosen.mean()) if len(chosen) else math.nan

    return jackknife(mean, seeds, folds=seeds)


def _phase(
    at: Thresholds, loss: float, eigenvalue: float, connectivity: float, alignment: float
) -> str:
    if not (math.isfinite(loss) and math.isfinite(connectivity)):
        return UNCLEAR
    high = loss > at.loss
    if at.eigenvalue is not None and (eigenvalue > at.eigenvalue) != high:
        return UNCLEAR
    barrier = connectivity < -at.connectivity
    if high:
        return "I" if barrier else "II"
    if barrier:
        return "III"
    if not math.isfinite(alignment):
        return UNCLEAR
    return "IV-B" if alignment >= at.alignment else "IV-A"


TEMPERATURES = ("batch_size", "lr")
# Phases are separated by factors, not by per cents.
_TOLERANCE, _TRACE_TOLERANCE, _TRACE_LIMIT = 1e-2, 0.1, 200


@dataclass(frozen=True)
class Question:
    """What is question of every cell of the plane.

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
    question = Question(
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
    identity = question.identity()
    with open_ledger(resume, run_identity("phase_plane", identity)) as ledger:
        tables = list(
            run_tasks(
                cells,
                lambda: lambda cell: cell_table(question, *cell),
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


def cell_table(question: Question, load: int, heat: float) -> Array:
    """Train the networks of one cell and measure them."""
    spec = question.model.replace("{load}", str(load))
    model = build_model(spec, question.train)
    seeds = range(question.seeds)
    run = train_ensemble(
        model,
        question.train,
        question.loss,
        initial=initial_weights(spec, question.train, seeds=seeds),
        epochs=question.epochs,
        lr=heat if question.temperature == "lr" else question.lr,
        batch_size=question.batch_size if question.temperature == "lr" else int(heat),
        orders=list(seeds),
    )
    table = np.full((question.seeds, len(OF_SEEDS) + len(OF_PAIRS)), np.nan)
    sets = {"loss": question.train, "error": question.train, "test": question.test}
    for column, (kind, data) in enumerate(sets.items()):
        measure = question.loss if kind == "loss" else "error"
        table[:, column] = evaluate_ensemble(model, run.states, data, measure)
    table[run.diverged_at >= 0] = np.nan
    _measure_ground(question, model, run, table)
    return table


def _measure_ground(
    question: Question, model: nn.Module, run: EnsembleRun, table: Array
) -> None:
    whole = Objective(
        model,
        supervised(build_loss(question.loss, task=question.train.task)),
        question.train.batches(question.examples, examples=question.examples),
        check=False,
    )
    shown = Objective(
        model, whole.loss, question.test.batches(256), params=whole.names, check=False
    )
    ends = [{n: run.member(i)[n] for n in whole.names} for i in range(question.seeds)]
    alive = run.diverged_at < 0
    split = len(OF_SEEDS)
    for index, end in enumerate(ends):
        if alive[index]:
            table[index, split - 2 : split] = _curvature(whole, end, index)
    for first, second in ring(question.seeds):
        if alive[first] and alive[second]:
            table[first, split:] = _pair(question, whole, shown, ends[first], ends[second])


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
    question: Question, whole: Objective, shown: Objective, first: Params, second: Params
) -> tuple[float, float, float]:
    joined = connect(whole, first, second, steps=question.curve_steps)
    outputs = [activations(shown, "", params=end) for end in (first, second)]
    alike = cka(*outputs, folds=2).value
    return joined.connectivity, alike, norm(subtract(second, first))
