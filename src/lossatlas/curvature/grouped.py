"""Spectra of parts: one line for each layer, class or other group of examples."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lossatlas.checks import check_one_of
from lossatlas.curvature.differentiable import UnreachedError
from lossatlas.curvature.gradients import gradient_noise
from lossatlas.curvature.groups import Labels, layers, split_examples
from lossatlas.curvature.matrix import Product
from lossatlas.curvature.memory import fitting_steps, memory_note
from lossatlas.curvature.products import product_of
from lossatlas.curvature.saddles import saddle_range, saddle_ratio
from lossatlas.curvature.trace import random_run
from lossatlas.curvature.trees import part
from lossatlas.errors import NonFiniteError
from lossatlas.linalg.extremes import converge, reached_ends
from lossatlas.linalg.krylov import Lanczos, Ritz
from lossatlas.linalg.params import Params
from lossatlas.linalg.params import size as size_of
from lossatlas.linalg.probes import deflated_trace
from lossatlas.objective import Objective
from lossatlas.objective.lines import coarse_rounding
from lossatlas.result import Estimate
from lossatlas.rng import derive_seed

BY = ("layer", "class")
# A group is described, not certified: its trace is good to a tenth, or says that it is not.
_TRACE_TOLERANCE = 0.1
_TRACE_ROWS = 100


@part
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

    by: str | None
    curvature: str
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
    examples = round(sum(objective.gathered(objective.size_of)))
    seed = derive_seed(request.seed, request.by, name)
    matrix = product_of(request.curvature, objective, params=request.params, names=over)
    limit = fitting_steps(matrix, 1, 1, request.limit)[1]
    lanczos = random_run(matrix, seed)
    try:
        wanted: Any = {"top": 1, "bottom": 1, "tolerance": request.tolerance}
        ritz, reached = converge(lanczos, **wanted, limit=limit)
        ends = reached_ends(lanczos, ritz, reached, **wanted)
        low, high = _bounds(matrix, lanczos, ritz)
        total, _ = deflated_trace(
            matrix.flat,
            lanczos,
            tolerance=_TRACE_TOLERANCE,
            limit=lanczos.steps + limit,
            rows=_TRACE_ROWS,
            seed=seed,
        )
        gradient = _gradient(objective, matrix.params, request.params)
    except (NonFiniteError, UnreachedError) as error:
        return _unmeasured(error, name, examples, matrix.size)
    loose = coarse_rounding(objective) * float(np.abs(ritz.values).max())
    notes = _notes(request, examples, ends, total, limit=limit, size=matrix.size)
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
    *,
    limit: int,
    size: int,
) -> list[str]:
    notes = [f"only {examples} examples"] if examples < request.least else []
    missed = " and ".join(
        n for n, r in zip(("largest", "smallest"), ends, strict=True) if not r
    )
    notes += [f"{missed}: tolerance not reached in {limit} products"] if missed else []
    notes += [] if total.reached else ["the trace is known less well than to a tenth"]
    notes += [cut] if (cut := memory_note(limit, min(request.limit, size))) else []
    return notes


def _bounds(matrix: Product, lanczos: Lanczos, ritz: Ritz) -> tuple[float, float]:
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
