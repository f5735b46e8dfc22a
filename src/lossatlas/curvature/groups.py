"""Spectra of parts: one line for each layer, class or other group of examples."""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import numpy as np

from lossatlas.checks import check_one_of
from lossatlas.curvature.differentiable import UnreachedError
from lossatlas.curvature.eigenvalues import eigenvalue_estimate
from lossatlas.curvature.gradient_noise import gradient_noise
from lossatlas.curvature.group_data import Labels, parameters_by_layer, split_examples
from lossatlas.curvature.instrument import Context, Parts, instrument
from lossatlas.curvature.krylov_memory import RAN_OUT, KrylovRequest, plan_krylov
from lossatlas.curvature.matrices import MatrixKind, product_of
from lossatlas.curvature.operators import CurvatureOperator
from lossatlas.curvature.saddles import saddle_range, saddle_ratio
from lossatlas.curvature.selfcheck import CheckedResult
from lossatlas.curvature.trace import UNIT, memory_note, random_run
from lossatlas.errors import NonFiniteError
from lossatlas.io.records import record
from lossatlas.linalg.extremes import converge, reached_ends
from lossatlas.linalg.krylov import Lanczos, Ritz
from lossatlas.linalg.params import Params
from lossatlas.linalg.params import size as size_of
from lossatlas.linalg.probes import deflated_trace
from lossatlas.objective import Objective
from lossatlas.objective.lines import coarse_rounding
from lossatlas.result import Estimate, Figure, Reference, Table, chart_of, result
from lossatlas.rng import derive_seed
from lossatlas.text import cut_off, number, with_error

# Below this share of the largest eigenvalue a negative one is no saddle worth a sentence.
_MIN_SADDLE = 0.05
# A survey describes its groups and does not certify them: a hundredth is enough.
_SURVEY_TOLERANCE, _SURVEY_LIMIT = 1e-2, 60
_REFERENCE = Reference(
    "spectra of classes, and how near to a saddle they are",
    "H. Rangwani, S. K. Aithal, M. Mishra, R. V. Babu. Escaping Saddle Points for Effective "
    "Generalization on Class-Imbalanced Data. NeurIPS 2022.",
    "https://arxiv.org/abs/2212.13827",
)
GroupBy = Literal["layer", "class"]
BY: tuple[str, ...] = get_args(GroupBy)
# A group is described, not certified: its trace is good to a tenth, or says that it is not.
_TRACE_TOLERANCE = 0.1
_TRACE_ROWS = 100


@record
@dataclass(frozen=True)
class GroupSpectrum:
    """The curvature of one layer, or of the mean loss of one group of examples.

    Attributes:
        name: the layer or the label.
        examples: how many examples the loss is over.
        parameters: how many parameters the matrix is over.
        largest: largest eigenvalue that was found.
        smallest: smallest eigenvalue that was found.
        largest_bound: an eigenvalue lies within this of `largest`.
        smallest_bound: an eigenvalue lies within this of `smallest`.
        trace: the sum of eigenvalues.
        gradient_norm: length of the group's gradient. Where it is far from zero the group is
            on a slope, and the signs of its curvature make no saddle point.
        products: products spent.
        note: what to know about the line (few examples, a limit reached); often empty.
    """

    name: str
    examples: int
    parameters: int
    largest: float
    largest_bound: float
    smallest: float
    smallest_bound: float
    trace: Estimate
    gradient_norm: Estimate
    products: int
    note: str

    @property
    def ratio(self) -> float:
        """|smallest| / largest, 0 where none is negative; NaN where the bounds hide a sign."""
        return saddle_ratio(*self._ends)

    @property
    def ratio_range(self) -> tuple[float, float]:
        """What the bounds of both eigenvalues leave of the ratio, also where it is NaN.

        A lower eigenvalue that the run did not see is not in it (see `converge`).
        """
        return saddle_range(*self._ends)

    @property
    def ratio_bound(self) -> float:
        """How far the bounds let the ratio be off; NaN where it is NaN or may be inf."""
        low, high = self.ratio_range
        bound = max(high - self.ratio, self.ratio - low)
        return bound if math.isfinite(bound) else math.nan

    @property
    def _ends(self) -> tuple[float, float, float, float]:
        return self.largest, self.smallest, self.largest_bound, self.smallest_bound

    @property
    def row(self) -> tuple[str, ...]:
        """Its numbers as cells of a table."""
        return (
            self.name,
            with_error(self.largest, self.largest_bound),
            with_error(self.smallest, self.smallest_bound),
            self._ratio_shown,
            with_error(self.trace.value, self.trace.stderr),
            with_error(self.gradient_norm.value, self.gradient_norm.stderr),
            f"{self.examples:,}",
            self.note,
        )

    @property
    def _ratio_shown(self) -> str:
        low, high = self.ratio_range
        if not math.isnan(self.ratio) or not math.isfinite(high):
            return number(self.ratio, 3)
        return f"{number(low, 2)} to {number(high, 2)}" if low else f"at most {number(high, 2)}"

    def end(self, which: str, name: str, meaning: str, *, is_minor: bool = False) -> Estimate:
        """One of its eigenvalues.

        Args:
            which: "largest" or "smallest".
            name: of the estimate.
            meaning: what it says.
            is_minor: see `Estimate`.

        Returns:
            The eigenvalue with its bound.
        """
        value, bound = getattr(self, which), getattr(self, f"{which}_bound")
        return eigenvalue_estimate(value, bound, name, meaning, is_minor=is_minor)

    def estimates(self, by: GroupBy) -> tuple[Estimate, ...]:
        """Its four numbers.

        Args:
            by: "layer" or "class".

        Returns:
            Both ends, trace and length of the gradient; of a part that could not be measured
            one number with the reason.
        """
        name = f"{by} {self.name}"
        if not np.isfinite(self.largest):
            largest = Estimate(self.largest, why_no_error=self.note, name=f"{name}, largest")
            return (replace(largest, is_minor=True),)
        note = self.note or f"over {self.examples:,} examples, {self.parameters:,} weights"
        numbers = (
            self.end("largest", f"{name}, largest", note),
            self.end("smallest", f"{name}, smallest", "the lowest eigenvalue"),
            replace(self.trace, name=f"{name}, trace", unit=UNIT, meaning="sum of eigenvalues"),
            replace(self.gradient_norm, name=f"{name}, gradient", meaning="its length"),
        )
        return tuple(replace(each, is_minor=True) for each in numbers)


@result("group_spectra", references=(_REFERENCE,))
class GroupSpectra(CheckedResult):
    """The curvature of every layer, or of the mean loss of every class.

    Attributes:
        by: "layer" or "class".
        groups: one for each.
    """

    by: GroupBy
    groups: tuple[GroupSpectrum, ...]

    @property
    def _measured(self) -> list[GroupSpectrum]:
        return [group for group in self.groups if np.isfinite(group.largest)]

    @property
    def _sharpest(self) -> GroupSpectrum:
        return max(self._measured, key=lambda group: group.largest)

    def estimates(self) -> tuple[Estimate, ...]:
        """The sharpest part and the strongest saddle, then four numbers of each part."""
        if not self._measured:
            return ()
        sharpest = self._sharpest
        first = sharpest.end("largest", f"sharpest {self.by}", f"{self.by} {sharpest.name}")
        minor = (each for group in self.groups for each in group.estimates(self.by))
        return (first, self._strongest_saddle(), *minor)

    def _strongest_saddle(self) -> Estimate:
        # Judged by what is certain: a sign that its bound hides makes no saddle.
        name = f"strongest saddle of a {self.by}"
        saddle = max(
            self._measured,
            key=lambda group: (group.ratio_range[0], not math.isnan(group.ratio)),
        )
        if math.isnan(saddle.ratio):
            why = f"in no {self.by} is the sign of the lowest eigenvalue known beyond its bound"
            return Estimate(math.nan, why_no_error=why, name=name)
        why = "" if math.isfinite(saddle.ratio_bound) else "the largest may be below zero"
        return Estimate(
            saddle.ratio,
            bound=saddle.ratio_bound,
            why_no_error=why or None,
            name=name,
            meaning=f"|smallest| / largest eigenvalue, {self.by} {saddle.name}; error: bounds",
        )

    def answer(self) -> tuple[str, str]:
        """The name of the sharpest part, and of the one nearest to a saddle."""
        if not self._measured:
            return "", ""
        sharpest, saddle = self._sharpest, self._saddle
        text = f"{self.by} {cut_off(sharpest.name, 30)} ({number(sharpest.largest)})"
        if self.by == "class" and saddle is not None:
            text += f"; nearest to a saddle: {cut_off(saddle.name, 30)}"
        return text, "sure"

    @property
    def _saddle(self) -> GroupSpectrum | None:
        saddles = [group for group in self._measured if group.ratio >= _MIN_SADDLE]
        return max(saddles, key=lambda group: group.ratio, default=None)

    def sentences(self) -> tuple[str, ...]:
        """The sharpest part, and the one nearest to a saddle."""
        if len(self._measured) < 2:
            return ()
        sharpest = self._sharpest
        value = with_error(sharpest.largest, sharpest.largest_bound)
        name = cut_off(sharpest.name, 30)
        sentences = [f"The sharpest {self.by} is {name}: largest eigenvalue {value}."]
        saddle = self._saddle
        if saddle is not None:
            sentences.append(
                f"The {self.by} nearest to a saddle is {cut_off(saddle.name, 30)}: its lowest "
                f"eigenvalue is negative, {number(saddle.ratio, 2)} times its largest in size."
            )
        return tuple(sentences)

    def figures(self) -> tuple[Figure, ...]:
        """Both ends of the spectrum of every part."""
        from lossatlas.plots.rows import MAX_ROWS, Dots, rows_chart

        shown = _sharpest_groups(self._measured, MAX_ROWS)
        largest, largest_bounds, smallest, smallest_bounds = (
            np.array([getattr(group, key) for group in shown], dtype=np.float64)
            for key in ("largest", "largest_bound", "smallest", "smallest_bound")
        )
        series = (
            Dots("largest eigenvalue", largest, largest_bounds),
            Dots(
                "lowest eigenvalue where it is negative, its size", -smallest, smallest_bounds
            ),
        )
        title, matrix = _TITLES[self.by]
        axis = "size of the eigenvalue (loss per squared weight)"
        names = [group.name for group in shown]
        note = f" The {MAX_ROWS} sharpest are shown." if len(self.groups) > MAX_ROWS else ""
        caption = f"{matrix} Error bars are residual bounds.{note}"
        alt = f"Largest and lowest eigenvalue, {title.lower()}."
        wide = len(self.groups) > 12
        chart = partial(rows_chart, names, series, title, axis, log=True)
        return (chart_of(title.lower(), title, chart, caption=caption, alt=alt, wide=wide),)

    def tables(self) -> tuple[Table, ...]:
        """A row for each part."""
        header = [self.by, "largest", "lowest", "ratio", "trace", "gradient", "examples"]
        rows = [group.row for group in self.groups]
        if any(group.note for group in self.groups):
            header.append("note")
        else:
            rows = [row[:-1] for row in rows]
        return (Table(_TITLES[self.by][0], tuple(header), tuple(rows)),)


def _sharpest_groups(groups: list[GroupSpectrum], count: int) -> list[GroupSpectrum]:
    # In their own order.
    sharpest = sorted((group.largest for group in groups), reverse=True)[:count]
    return [group for group in groups if group.largest >= min(sharpest, default=0.0)][:count]


_TITLES = {
    "layer": ("Layer by layer", "The block of the Hessian over one layer alone."),
    "class": (
        "Class by class",
        "The Hessian of the mean loss of one class alone, over all weights.",
    ),
}


def _survey_groups(context: Context, by: GroupBy) -> GroupSpectra:
    objective = context.objective
    request = GroupRequest(
        by,
        "hessian",
        params=None,
        names=list(objective.names),
        labels=None,
        tolerance=_SURVEY_TOLERANCE,
        limit=_SURVEY_LIMIT,
        least=5,
        seed=context.seed,
    )
    return GroupSpectra(by, group_spectra(objective, request), checked=objective.checked)


@instrument(
    "layers",
    title="Layer by layer",
    question="Which layer is the sharpest?",
    group="groups",
    cost="up to 120 products a layer",
    needs="two derivatives",
    place=1,
)
def survey_layers(context: Context) -> Parts:
    """The spectrum of each layer's block of the Hessian."""
    return {"layers": lambda: _survey_groups(context, "layer")}


@instrument(
    "classes",
    title="Class by class",
    question="Which class is the sharpest, or the nearest to a saddle?",
    group="groups",
    cost="up to 120 products a class",
    needs="two derivatives; batches (input, class)",
    references=(_REFERENCE,),
    place=2,
)
def survey_classes(context: Context) -> Parts:
    """The spectrum of the mean loss of each class."""
    return {"classes": lambda: _survey_groups(context, "class")}


@dataclass(frozen=True)
class GroupRequest:
    """What is asked of every group.

    Attributes:
        by: "layer", "class", or None for no groups.
        curvature: kind of matrix.
        params: where; None for the weights of the model.
        names: the parameters that the matrices are over.
        labels: batch -> the group of each example, for by="class".
        tolerance: of both eigenvalues, see `converge`.
        limit: products at most for the eigenvalues of a group, and as many for its trace.
        least: groups with fewer examples are noted.
        seed: what starts are drawn from.

    Raises:
        UnknownNameError: another way to group.
    """

    by: GroupBy | None
    curvature: MatrixKind
    params: Params | None
    names: list[str]
    labels: Labels | None
    tolerance: float
    limit: int
    least: int
    seed: int

    def __post_init__(self) -> None:
        if self.by is not None:
            check_one_of("by", self.by, BY)


def group_spectra(objective: Objective, request: GroupRequest) -> tuple[GroupSpectrum, ...]:
    """The spectrum of each layer, or of each group of examples."""
    if request.by is None:
        return ()
    if request.by == "layer":
        layers = parameters_by_layer(request.names)
        return tuple(
            _group_spectrum(name, objective, names, request) for name, names in layers.items()
        )
    classes = split_examples(objective, request.labels)
    return tuple(
        _group_spectrum(name, each, request.names, request) for name, each in classes.items()
    )


def _group_spectrum(
    name: str, objective: Objective, over: list[str], request: GroupRequest
) -> GroupSpectrum:
    examples = round(sum(objective.map_batches(objective.size_of)))
    seed = derive_seed(request.seed, request.by, name)
    limit = request.limit
    plan = plan_krylov(objective, KrylovRequest(2, limit), over)
    matrix = product_of(request.curvature, objective, params=request.params, names=over)
    lanczos = random_run(matrix, seed, plan.storage)
    try:
        wanted: Any = {"top": 1, "bottom": 1, "tolerance": request.tolerance}
        ritz, reached = converge(lanczos, **wanted, limit=limit)
        ends = reached_ends(lanczos, ritz, reached, **wanted)
        ran_out = RAN_OUT if lanczos.full else ""
        low, high = _bounds(matrix, lanczos, ritz)
        total, _ = deflated_trace(
            matrix.flat,
            lanczos,
            tolerance=_TRACE_TOLERANCE,
            limit=lanczos.products + limit,
            rows=_TRACE_ROWS,
            seed=seed,
        )
        gradient = _gradient(objective, matrix.params, request.params)
    except (NonFiniteError, UnreachedError) as error:
        return _unmeasured(error, name, examples, matrix.size)
    rounding = coarse_rounding(objective) * float(np.abs(ritz.values).max())
    notes = _notes(request, examples, ends, total)
    notes += filter(None, (plan.note, ran_out or memory_note(lanczos)))
    return GroupSpectrum(
        name,
        examples,
        matrix.size,
        largest=float(ritz.values[-1]),
        largest_bound=high + rounding,
        smallest=float(ritz.values[0]),
        smallest_bound=low + rounding,
        trace=total,
        gradient_norm=gradient,
        products=matrix.count,
        note="; ".join(notes),
    )


def _notes(
    request: GroupRequest,
    examples: int,
    ends: tuple[bool, bool],
    total: Estimate,
) -> list[str]:
    notes = [f"only {examples} examples"] if examples < request.least else []
    pairs = zip(("largest", "smallest"), ends, strict=True)
    missed = " and ".join(end for end, reached in pairs if not reached)
    if missed:
        notes.append(f"{missed}: tolerance not reached in {request.limit} products")
    if not total.reached:
        notes.append("the trace is known less well than to a tenth")
    return notes


def _bounds(matrix: CurvatureOperator, lanczos: Lanczos, ritz: Ritz) -> tuple[float, float]:
    # Of both ends: of the run, and of products that are differences of gradients.
    vectors = lanczos.basis.combine(ritz.vectors[:, [0, -1]])
    low, high = (
        float(ritz.bounds[end]) + matrix.difference_error(vector, float(ritz.values[end]))
        for end, vector in zip((0, -1), vectors, strict=True)
    )
    return low, high


def _gradient(objective: Objective, over: Params, params: Params | None) -> Estimate:
    if size_of(over) == size_of(objective.params):
        return gradient_noise(objective, params, probes=1).norm
    part = objective.part(names=over)
    if params is None:
        return gradient_noise(part, probes=1).norm
    # Elsewhere than at the weights of the model only the whole gradient can be taken.
    whole = objective.gradient(params)
    length = math.sqrt(math.fsum(float(whole[n].double().square().sum()) for n in over))
    why = "its sampling error is taken at the weights of the model only"
    return Estimate(length, math.nan, why_no_error=why)


def _unmeasured(
    error: NonFiniteError | UnreachedError, name: str, examples: int, parameters: int
) -> GroupSpectrum:
    # What the loss does not depend on has no curvature; what is not finite has none known.
    if isinstance(error, UnreachedError):
        note, estimate = error.note, Estimate(0.0, 0.0)
    else:
        note = str(error)
        estimate = Estimate(math.nan, math.nan, reached=False, why_no_error=note)
    value = estimate.value
    return GroupSpectrum(
        name,
        examples,
        parameters,
        largest=value,
        largest_bound=value,
        smallest=value,
        smallest_bound=value,
        trace=estimate,
        gradient_norm=estimate,
        products=0,
        note=note,
    )
