"""What further instruments hold in memory: chains, factors, edits, training, features."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from lossatlas.checks import check_at_least, check_one_of
from lossatlas.curvature.all_eigenvalues import (
    DENSE,
    MORE,
    dense_bytes,
    dense_fits,
    most_columns,
    range_bytes,
)
from lossatlas.curvature.matrices import KINDS, MatrixKind
from lossatlas.curvature.memory_plan import MODELS, Phase, Sizes, models
from lossatlas.memory import free_memory

# Products that a probe of eigenvalue sums takes at most, and eigenvectors that are left to none
# of them.
_STEPS, _KNOWN = 400, 20
# Numbers of gradients that factors are compared with at once, pairs of these, and the least.
_ROOM, _PAIRS, _FEW = 2**26, 48, 4


@models
def _learning_coefficient(
    sizes: Sizes,
    steps: int = _STEPS,
    *,
    curvature: MatrixKind = "hessian",
    outputs: int | None = None,
) -> Iterator[Phase]:
    # The matrix, the center and a pilot; the ends of the spectrum where it stands.
    for phase in MODELS["spectrum"](sizes, top=1, bottom=1, limit=30):
        yield replace(phase, copies=phase.copies + 3)
    for phase in _sums(sizes, sizes.numbers, steps, curvature, outputs):
        yield replace(phase, copies=phase.copies + 1, at_most=True)
    # The point, its kicks, and sums of slopes.
    yield Phase(copies=5, run="gradient")


@models
def _effective_parameters(
    sizes: Sizes,
    numbers: int | None = None,
    steps: int = _STEPS,
    *,
    curvature: MatrixKind = "gauss_newton",
    outputs: int | None = None,
) -> Iterator[Phase]:
    count = sizes.numbers if numbers is None else numbers
    check_at_least("numbers", count, 1)
    for phase in _sums(sizes, count, steps, curvature, outputs):
        yield replace(phase, at_most=True)
    # Conjugate gradients in float64.
    yield Phase(copies=2, run="product", bytes=6 * 8 * count)


def _sums(
    sizes: Sizes, count: int, steps: int, curvature: MatrixKind, outputs: int | None
) -> Iterator[Phase]:
    # Of functions of eigenvalues: of all of them, where that may be what costs least.
    check_one_of("curvature", curvature, KINDS)
    host, size = free_memory(torch.device("cpu")), sizes.dtype.itemsize
    if dense_fits(count, host):
        yield Phase(copies=1, run="product", bytes=8 * count**2 + 3 * size * count)
        yield Phase(copies=1, bytes=dense_bytes(count))
    if count <= DENSE:
        return
    columns = (
        0
        if curvature == "hessian"
        else most_columns(count, sizes.dtype, free_memory(sizes.device))
    )
    if outputs is not None:
        columns = outputs + MORE if outputs + MORE <= columns else 0
    if columns:
        yield Phase(copies=1, run="product", bytes=size * (columns + 3) * count)
        yield Phase(copies=1, bytes=range_bytes(count, columns, sizes.dtype))
    few = replace(sizes, numbers=count, vector=size * count)
    for phase in MODELS["spectrum"](few, top=_KNOWN, bottom=1):
        held = phase.bytes + (phase.vectors + _KNOWN + 1) * few.vector
        yield Phase(copies=phase.copies + 1, run=phase.run, bytes=held)
    # Vectors by name, in rows, stacked and orthogonalized.
    yield Phase(copies=1, bytes=(5 * _KNOWN + 1) * few.vector)
    rows = min(steps, count)
    held = (2 * _KNOWN + 4) * few.vector + few.basis(rows + 1)
    yield Phase(copies=1, run="product", bytes=held)


@models
def _choose(
    sizes: Sizes, *, averages: bool = True, sharpness: bool = True, localized: bool = False
) -> Iterator[Phase]:
    mean = 1 if averages else 0
    yield Phase(copies=mean, run="value", bytes=40 * sizes.examples)
    yield Phase(copies=mean, bytes=mean * 4 * sizes.largest)
    if sharpness:
        yield from MODELS["spectrum"](sizes, top=1, bottom=0)
    if localized:
        # Its quadratic is of the Hessian.
        yield from _learning_coefficient(sizes)


@models
def _factors(sizes: Sizes, correct: bool = False, examples: int = 32) -> Iterator[Phase]:
    # Inputs have a 1 appended; rows are widened to float64, which a product's graph stands for.
    inputs = [columns + 1 for _, columns in sizes.matrices]
    outputs = [rows for rows, _ in sizes.matrices]
    both = list(zip(inputs, outputs, strict=True))
    sums, pairs = 8 * sum(a * a + g * g for a, g in both), [a * g for a, g in both]
    yield Phase(copies=1, run="product", bytes=sums + 8 * sum(pairs))
    # The work of the largest eigenvalue problem.
    yield Phase(copies=1, bytes=2 * sums + 6 * 8 * max(map(max, both), default=0) ** 2)
    if correct:
        rows = 2 * 8 * sizes.batch * max(map(sum, both), default=0)
        yield Phase(copies=1, run="product", bytes=2 * sums + 8 * sum(pairs) + rows)
    if examples:
        held = _compared(pairs, min(examples, sizes.examples))
        yield Phase(copies=1, run="gradient", bytes=2 * sums + held)


def _compared(pairs: list[int], examples: int) -> int:
    # Gradients of single examples, of a group of layers at once; the layer at work in float64.
    most, group = 0, list[int]()
    for size in pairs:
        if group and 2 * max(examples, _PAIRS) * (sum(group) + size) > _ROOM:
            most, group = max(most, _of_group(group, examples)), []
        group.append(size)
    return max(most, _of_group(group, examples)) if group else 0


def _of_group(group: list[int], examples: int) -> int:
    fitting = _ROOM // (2 * sum(group))
    fits = fitting >= max(examples, _PAIRS)
    some = examples if fits else min(examples, max(_FEW, fitting))
    rows = some * -(-_PAIRS // max(some, 1)) if fits else _PAIRS
    return rows * (8 * sum(group) + 20 * max(group))


@models
def _edit_curve(sizes: Sizes) -> Iterator[Phase]:
    # Factors of the weights without their biases; of the largest one also its pairs in order.
    inputs = 8 * sum(columns**2 for _, columns in sizes.matrices)
    largest = max((rows * columns for rows, columns in sizes.matrices), default=0)
    yield Phase(copies=2, run="value", bytes=inputs)
    yield Phase(copies=2, bytes=inputs + 6.5 * 8 * largest)


@models
def _plasticity(sizes: Sizes) -> Iterator[Phase]:
    # The weights, two moments, and the last gradient.
    yield Phase(copies=4, run="gradient")
    yield Phase(copies=4, bytes=2 * 4 * sizes.largest)


@models
def _representations(sizes: Sizes, width: int | None = None) -> Iterator[Phase]:
    # Features in float64, and four more: centered, in part, and for their singular values.
    features = 8 * sizes.examples * (sizes.width if width is None else width)
    yield Phase(run="value", bytes=2 * features)
    yield Phase(bytes=4.1 * features)
