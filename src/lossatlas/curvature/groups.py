"""Spectra of parts: one line for each layer, class or other group of examples."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lossatlas.checks import check_one_of
from lossatlas.curvature.differentiable import UnreachedError
from lossatlas.curvature.gradient_noise import gradient_noise
from lossatlas.curvature.instrument import Context, Parts, instrument
from lossatlas.curvature.krylov_memory import RAN_OUT, KrylovRequest, plan_krylov
from lossatlas.curvature.matrices import MatrixKind, product_of
from lossatlas.curvature.operators import CurvatureOperator
from lossatlas.curvature.saddles import saddle_range, saddle_ratio
from lossatlas.curvature.selfcheck import CheckedResult
from lossatlas.curvature.trace import UNIT, memory_note, random_run
from lossatlas.errors import ArgumentError, DataError, LossError, NonFiniteError
from lossatlas.io.records import record
from lossatlas.linalg.extremes import converge, reached_ends
from lossatlas.linalg.krylov import Lanczos, Ritz
from lossatlas.linalg.params import Params
from lossatlas.linalg.params import size as size_of
from lossatlas.linalg.probes import deflated_trace
from lossatlas.objective import Batch, Objective, Supervised
from lossatlas.objective.batches import batch_size, known_length, map_tensors, rows_of
from lossatlas.objective.lines import coarse_rounding
from lossatlas.objective.user_code import wrap_errors
from lossatlas.result import Estimate, Figure, Reference, Table, chart_of, result
from lossatlas.rng import derive_seed
from lossatlas.text import cut_off, number, with_error

Labels = Callable[[Batch], Tensor]
# Below this share of the largest eigenvalue a negative one is no saddle worth a sentence.
_SADDLE = 0.05
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
        hidden = "; its sign is not known" if abs(value) < bound else ""
        meaning = f"{meaning}; error is a residual bound{hidden}"
        return Estimate(
            value, bound=bound, name=name, unit=UNIT, meaning=meaning, is_minor=is_minor
        )

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
            lost = f"{name}, largest"
            return (Estimate(self.largest, why_no_error=self.note, name=lost, is_minor=True),)
        note = self.note or f"over {self.examples:,} examples, {self.parameters:,} weights"
        minor: Any = {"is_minor": True}
        total, slope = f"{name}, trace", f"{name}, gradient"
        return (
            self.end("largest", f"{name}, largest", note, **minor),
            self.end("smallest", f"{name}, smallest", "the lowest eigenvalue", **minor),
            replace(self.trace, name=total, unit=UNIT, meaning="sum of eigenvalues", **minor),
            replace(self.gradient_norm, name=slope, meaning="its length", **minor),
        )


@result("group_spectra", references=(_REFERENCE,))
class GroupSpectra(CheckedResult):
    """The curvature of every layer, or of the mean loss of every class.

    Attributes:
        by: "layer" or "class".
        groups: a line for each.
    """

    by: GroupBy
    groups: tuple[GroupSpectrum, ...]

    @property
    def _known(self) -> list[GroupSpectrum]:
        return [line for line in self.groups if np.isfinite(line.largest)]

    def estimates(self) -> tuple[Estimate, ...]:
        """The sharpest part and the strongest saddle, then four numbers of each part."""
        if not self._known:
            return ()
        sharp = max(self._known, key=lambda line: line.largest)
        head = sharp.end("largest", f"sharpest {self.by}", f"{self.by} {sharp.name}")
        lines = (each for line in self.groups for each in line.estimates(self.by))
        return (head, self._strongest_saddle(), *lines)

    def _strongest_saddle(self) -> Estimate:
        # Judged by what is certain: a sign that its bound hides makes no saddle.
        name = f"strongest saddle of a {self.by}"
        saddle = max(
            self._known, key=lambda line: (line.ratio_range[0], not math.isnan(line.ratio))
        )
        why = "" if math.isfinite(saddle.ratio_bound) else "the largest may be below zero"
        if math.isnan(saddle.ratio):
            why = f"in no {self.by} is the sign of the lowest eigenvalue known beyond its bound"
            return Estimate(math.nan, why_no_error=why, name=name)
        return Estimate(
            saddle.ratio,
            bound=saddle.ratio_bound,
            why_no_error=why or None,
            name=name,
            meaning=f"|smallest| / largest eigenvalue, {self.by} {saddle.name}; error: bounds",
        )

    def answer(self) -> tuple[str, str]:
        """The name of the sharpest part, and of the one nearest to a saddle."""
        if not self._known:
            return "", ""
        sharp = max(self._known, key=lambda line: line.largest)
        saddle = self._saddle
        text = f"{self.by} {cut_off(sharp.name, 30)} ({number(sharp.largest)})"
        if self.by == "class" and saddle is not None:
            text += f"; nearest to a saddle: {cut_off(saddle.name, 30)}"
        return text, "sure"

    @property
    def _saddle(self) -> GroupSpectrum | None:
        known = [line for line in self._known if not math.isnan(line.ratio)]
        lowest = max(known, key=lambda line: line.ratio, default=None)
        return lowest if lowest is not None and lowest.ratio >= _SADDLE else None

    def sentences(self) -> tuple[str, ...]:
        """The sharpest part, and the one nearest to a saddle."""
        if len(self._known) < 2:
            return ()
        sharp = max(self._known, key=lambda line: line.largest)
        value = with_error(sharp.largest, sharp.largest_bound)
        name = cut_off(sharp.name, 30)
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

        kept = _sharpest(self._known, MAX_ROWS)
        up, up_bounds, low, low_bounds = (
            np.array([getattr(line, key) for line in kept], dtype=np.float64)
            for key in ("largest", "largest_bound", "smallest", "smallest_bound")
        )
        series = (
            Dots("largest eigenvalue", up, up_bounds),
            Dots("lowest eigenvalue where it is negative, its size", -low, low_bounds),
        )
        title, what = _TITLES[self.by]
        axis = "size of the eigenvalue (loss per squared weight)"
        names = [line.name for line in kept]
        note = f" The {MAX_ROWS} sharpest are shown." if len(self.groups) > MAX_ROWS else ""
        caption = f"{what} Error bars are residual bounds.{note}"
        alt = f"Largest and lowest eigenvalue, {title.lower()}."
        wide = len(self.groups) > 12
        chart = partial(rows_chart, names, series, title, axis, log=True)
        return (chart_of(title.lower(), title, chart, caption=caption, alt=alt, wide=wide),)

    def tables(self) -> tuple[Table, ...]:
        """A row for each part."""
        names = "largest lowest ratio trace gradient examples note"
        head: tuple[str, ...] = tuple(names.split())
        rows = [line.row for line in self.groups]
        if not any(line.note for line in self.groups):
            head, rows = head[:-1], [row[:-1] for row in rows]
        return (Table(_TITLES[self.by][0], (self.by, *head), tuple(rows)),)


def _sharpest(known: list[GroupSpectrum], count: int) -> list[GroupSpectrum]:
    # The sharpest are kept where there are too many, in their order.
    lowest = sorted((line.largest for line in known), reverse=True)[:count]
    return [line for line in known if line.largest >= min(lowest, default=0.0)][:count]


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
    """A line for each layer or each group of examples."""
    if request.by is None:
        return ()
    if request.by == "layer":
        held = layers(request.names)
        return tuple(_line(name, objective, over, request) for name, over in held.items())
    split = split_examples(objective, request.labels)
    return tuple(_line(name, each, request.names, request) for name, each in split.items())


def _line(
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
        full = RAN_OUT if lanczos.full else ""
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
    loose = coarse_rounding(objective) * float(np.abs(ritz.values).max())
    notes = _notes(request, examples, ends, total)
    notes += filter(None, (plan.note, full or memory_note(lanczos)))
    return GroupSpectrum(
        name,
        examples,
        matrix.size,
        largest=float(ritz.values[-1]),
        largest_bound=high + loose,
        smallest=float(ritz.values[0]),
        smallest_bound=low + loose,
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
    missed = " and ".join(
        n for n, r in zip(("largest", "smallest"), ends, strict=True) if not r
    )
    notes += [f"{missed}: tolerance not reached in {request.limit} products"] if missed else []
    notes += [] if total.reached else ["the trace is known less well than to a tenth"]
    return notes


def _bounds(matrix: CurvatureOperator, lanczos: Lanczos, ritz: Ritz) -> tuple[float, float]:
    # Of both ends: of the run, and of products that are differences of gradients.
    ends = lanczos.basis.combine(ritz.vectors[:, [0, -1]])
    low, high = (
        float(ritz.bounds[place]) + matrix.difference_error(vector, float(ritz.values[place]))
        for place, vector in zip((0, -1), ends, strict=True)
    )
    return low, high


def _gradient(objective: Objective, over: Params, params: Params | None) -> Estimate:
    if size_of(over) == size_of(objective.params):
        return gradient_noise(objective, params, probes=1).norm
    part_of = objective.part(names=over)
    if params is None:
        return gradient_noise(part_of, probes=1).norm
    # Elsewhere than at the weights of the model only the whole gradient can be taken.
    whole = objective.gradient(params)
    length = math.sqrt(math.fsum(float(whole[n].double().square().sum()) for n in over))
    why = "its sampling error is taken at the weights of the model only"
    return Estimate(length, math.nan, why_no_error=why)


def _unmeasured(
    error: NonFiniteError | UnreachedError, name: str, examples: int, parameters: int
) -> GroupSpectrum:
    # What the loss does not depend on has no curvature; what is not finite has none known.
    note, number = str(error), Estimate(0.0, 0.0)
    if isinstance(error, UnreachedError):
        note = error.note
    else:
        number = Estimate(math.nan, math.nan, reached=False, why_no_error=note)
    value = number.value
    return GroupSpectrum(
        name,
        examples,
        parameters,
        largest=value,
        largest_bound=value,
        smallest=value,
        smallest_bound=value,
        trace=number,
        gradient_norm=number,
        products=0,
        note=note,
    )


def layers(names: Iterable[str]) -> dict[str, list[str]]:
    """Parameters by the module that holds them."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.rpartition(".")[0] or "(root)", []).append(name)
    return groups


def target_classes(batch: Batch) -> Tensor:
    """The class of each example of a batch (input, target)."""
    targets = batch[1] if isinstance(batch, list | tuple) and len(batch) == 2 else None
    if not isinstance(targets, Tensor) or targets.ndim != 1 or targets.is_floating_point():
        raise ArgumentError(
            "classes are read from batches (input, class index), and these hold none; "
            'spectrum(by="class") takes `labels`, a function batch -> one whole number an '
            "example."
        )
    return targets


def split_examples(objective: Objective, labels: Labels | None) -> dict[str, Objective]:
    """One objective for each group of examples: the mean loss over the group alone."""
    if labels is not None and not callable(labels):
        raise ArgumentError(
            "`labels` must be a function batch -> one whole number an example; got "
            f"{type(labels).__name__}."
        )
    if objective.mode == "train":
        raise ArgumentError(
            "groups of examples need mode='eval' or 'recalibrated'; with mode='train' every "
            "group would have batch statistics of its own, and so be another network."
        )
    if isinstance(objective.loss, Supervised) or labels is not None:
        read = labels or target_classes
    else:
        raise ArgumentError(
            "classes are read from the targets of `supervised` losses only; for this one "
            'spectrum(by="class") takes `labels`, a function batch -> one whole number an '
            "example."
        )
    present = sorted(
        set().union(*objective.map_batches(lambda b: _labels_of(read, b).tolist()))
    )
    if not present:
        raise DataError("there are no examples to group; check the batches.")
    _check_groups(objective, read)
    in_memory = isinstance(objective.batches, list | tuple)
    selected = {label: _Selected(objective.batches, read, label) for label in present}
    return {
        str(label): objective.part(list(each) if in_memory else each)
        for label, each in selected.items()
    }


def _check_groups(objective: Objective, read: Labels) -> None:
    # A mean over all examples lies between those over groups, with weights of classes or not.
    batch = objective.first_batch()
    labels = _labels_of(read, batch)
    parts = [_taken(batch, torch.nonzero(labels == k).flatten()) for k in torch.unique(labels)]
    if len(parts) < 2:
        return
    whole = objective.part([batch]).value()
    groups = [objective.part([part]).value() for part in parts]
    slack = 1e-3 * max(map(abs, [whole, *groups]))
    if math.isfinite(whole) and not min(groups) - slack <= whole <= max(groups) + slack:
        raise LossError(
            f"the loss of a batch is {whole:.4g}, and over its groups alone from "
            f"{min(groups):.4g} to {max(groups):.4g}: examples of a batch depend on each other "
            "(a contrastive loss), so a group has no loss of its own."
        )


class _Selected:
    """The examples of one group, walkable again and again."""

    def __init__(self, batches: Iterable[Batch], labels: Labels, label: int) -> None:
        self._batches, self._labels, self._label = batches, labels, label

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            keep = torch.nonzero(_labels_of(self._labels, batch) == self._label).flatten()
            if len(keep):
                yield _taken(batch, keep)

    def __length_hint__(self) -> int:
        return known_length(self._batches) or 0


def _labels_of(labels: Labels, batch: Batch) -> Tensor:
    with wrap_errors("`labels`", "it is called as labels(batch).", ArgumentError):
        values = labels(batch)
    if not isinstance(values, Tensor) or values.shape != (batch_size(batch),):
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ArgumentError(
            f"`labels` must give one whole number an example, shape ({batch_size(batch)},); "
            f"got {shape}."
        )
    return _whole(values)


def _whole(tensor: Tensor) -> Tensor:
    whole = tensor.long()
    odd = torch.nonzero(whole.to(tensor.dtype) != tensor).flatten()
    if len(odd):
        raise ArgumentError(
            f"`labels` must give whole numbers; got {tensor[odd[0]].item():g} for example "
            f"{int(odd[0])} of a batch: number the groups, as torch.bucketize does."
        )
    return whole


def _taken(batch: Batch, keep: Tensor) -> Batch:
    total = batch_size(batch)

    def take(value: Tensor) -> Tensor:
        whole = value.ndim and len(value) == total
        return rows_of(value, keep.tolist()) if whole else value

    return map_tensors(take, batch)
