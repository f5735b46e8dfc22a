"""What instruments hold in memory, said beforehand from shapes alone: one table for all."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from lossatlas.checks import check_at_least, check_one_of
from lossatlas.curvature.arguments import check_objective
from lossatlas.curvature.krylov_memory import KrylovRequest, probing_rows
from lossatlas.curvature.operators import keeps_graph
from lossatlas.errors import ArgumentError
from lossatlas.linalg.basis import basis_bytes
from lossatlas.memory import free_memory
from lossatlas.objective import Objective
from lossatlas.objective.batches import batch_size
from lossatlas.objective.pass_memory import PassMemory, bytes_of, pass_memory
from lossatlas.objective.recurrent import has_recurrent_layers
from lossatlas.result import Estimate, Result, quantity, result
from lossatlas.text import byte_size

# Numbers of a tensor that are widened at once, to float64 and in pairs.
_BLOCK = 2**20
# The same of a mean of checkpoints.
_SLAB = 2**22


@dataclass(frozen=True)
class Phase:
    """Part of an instrument: what it holds, and what it runs meanwhile.

    Attributes:
        copies: of the weights that move, in their own type.
        vectors: of the same length, in float32 at least.
        run: a field of `PassMemory`; empty where no pass runs.
        bytes: of anything else.
        at_most: whether a run that converges early holds less.
    """

    copies: float = 0.0
    vectors: float = 0.0
    run: str = ""
    bytes: float = 0.0
    at_most: bool = False


@dataclass(frozen=True)
class Sizes:
    """What the table is in terms of.

    Attributes:
        copy: bytes of the weights that move.
        vector: the same in float32 at least.
        numbers: how many there are.
        largest: numbers of the largest tensor.
        dtype: of flat vectors.
        device: where they are.
        matrices: rows and columns of every tensor with more than one axis, further axes flat.
        batch: examples of the first batch.
        examples: about how many there are in all.
        width: inputs of the last linear layer; 0 without one.
    """

    copy: int
    vector: int
    numbers: int
    largest: int
    dtype: torch.dtype
    device: torch.device
    matrices: tuple[tuple[int, int], ...]
    batch: int
    examples: int
    width: int

    @classmethod
    def of(cls, objective: Objective) -> "Sizes":
        """Those of an objective."""
        values, dtype = list(objective.shapes.values()), torch.float32
        for value in values:
            dtype = torch.promote_types(dtype, value.dtype)
        counts = [value.numel() for value in values]
        batch = batch_size(objective.first_batch())
        layers = [m.in_features for m in objective.model.modules() if isinstance(m, nn.Linear)]
        return cls(
            copy=bytes_of(values),
            vector=sum(counts) * dtype.itemsize,
            numbers=sum(counts),
            largest=max(counts),
            dtype=dtype,
            device=objective.device,
            matrices=tuple((len(v), v[0].numel()) for v in values if v.ndim > 1 and len(v)),
            batch=batch,
            examples=batch * (objective.count or 1),
            width=layers[-1] if layers else 0,
        )

    @property
    def widened(self) -> int:
        """A piece of two tensors in float64."""
        return 2 * 8 * min(self.largest, _BLOCK)

    def basis(self, rows: int, most: int | None = None) -> int:
        """Bytes of a Krylov basis that holds so many vectors of at most so many."""
        return basis_bytes(self.numbers, rows, self.dtype, most)


Model = Callable[..., Iterator[Phase]]
MODELS: dict[str, Model] = {}


def models(function: Model) -> Model:
    """Decorator: `(Sizes, options) -> phases`, named `_trace` for "trace", that plans it."""
    MODELS[function.__name__.removeprefix("_")] = function
    return function


@models
def _value(sizes: Sizes) -> Iterator[Phase]:
    yield Phase(run="value")


@models
def _gradient(sizes: Sizes) -> Iterator[Phase]:
    yield Phase(vectors=1, run="gradient")


@models
def _trace(sizes: Sizes, limit: int = 300, rows: int = 100) -> Iterator[Phase]:
    # The point, the probe and its image beside the basis.
    most = probing_rows(sizes.numbers, sizes.dtype, sizes.device, rows)
    basis = sizes.basis(min(most, limit) + 1, most + 1)
    yield Phase(copies=1, vectors=2, run="product", bytes=basis)
    yield Phase(copies=1, vectors=2, bytes=basis + 2 * 8 * min(sizes.numbers, _BLOCK))


@models
def _frobenius_norm(sizes: Sizes, limit: int = 500, rows: int = 50) -> Iterator[Phase]:
    most = probing_rows(sizes.numbers, sizes.dtype, sizes.device, rows)
    basis = sizes.basis(min(most, limit, 20) + 1, most + 1)
    yield Phase(copies=1, vectors=2, run="product", bytes=basis)
    yield Phase(copies=1, vectors=2, bytes=basis + 2 * 8 * min(sizes.numbers, _BLOCK))


@models
def _diagonal(sizes: Sizes, limit: int = 200, rows: int = 20) -> Iterator[Phase]:
    # Besides: the part inside, mean and squares of the probes, the last sample and its step.
    most = probing_rows(sizes.numbers, sizes.dtype, sizes.device, rows, vectors=7)
    basis = sizes.basis(min(most, limit) + 1, most + 1)
    yield Phase(copies=1, vectors=7, run="product", bytes=basis)


@models
def _spectrum(
    sizes: Sizes,
    *,
    top: int = 10,
    bottom: int = 2,
    limit: int = 300,
    rows: int | None = None,
    basis: Any = "auto",
) -> Iterator[Phase]:
    request = KrylovRequest(top + bottom, limit, rows, basis)
    request.check()
    plan = request.plan(sizes.numbers, sizes.dtype, sizes.device)
    # The basis and a vector that is being orthogonalised; then its image.
    held = plan.memory - 2 * sizes.vector
    given = 0.0 if sizes.copy == sizes.vector else 1.0
    # It may converge before as many rows as are chosen are full.
    bound = rows is None
    yield Phase(copies=1 + given, vectors=1, run="product", bytes=held, at_most=bound)
    yield Phase(copies=1, vectors=2, bytes=held, at_most=bound)


@models
def _edge_of_stability(sizes: Sizes, limit: int = 200) -> Iterator[Phase]:
    plan = KrylovRequest(1, limit).plan(sizes.numbers, sizes.dtype, sizes.device)
    # The start, the scale of every weight and its square, a scaled vector beside its image.
    held = plan.memory - 2 * sizes.vector
    yield Phase(copies=1, vectors=5, run="product", bytes=held, at_most=True)


@models
def _average_sharpness(sizes: Sizes, adaptive: bool = False) -> Iterator[Phase]:
    scaled = 1 if adaptive else 0
    yield Phase(copies=4 + scaled)
    yield Phase(copies=3 + scaled, run="value")


@models
def _worst_sharpness(
    sizes: Sizes, adaptive: bool = False, restarts: int = 2
) -> Iterator[Phase]:
    # The center, the starts, the place, and the slope there beside the one before.
    yield Phase(copies=restarts + 4 + (1 if adaptive else 0), vectors=1, run="gradient")


@models
def _m_sharpness(
    sizes: Sizes, size: int | None = None, adaptive: bool = False, steps: int = 0
) -> Iterator[Phase]:
    # Of a set of `size` examples; passes are counted with as many.
    scaled = 1 if adaptive else 0
    yield Phase(copies=4 + scaled)
    yield Phase(copies=2 + scaled + (2 if steps else 0), vectors=1, run="gradient")


@models
def _gradient_noise(sizes: Sizes) -> Iterator[Phase]:
    # The mean gradient and the leaves.
    yield Phase(copies=2, run="along")
    yield Phase(copies=2, run="gradient")
    yield Phase(copies=3, bytes=sizes.widened)


@models
def _connect(sizes: Sizes, kind: str = "line", bends: int = 1) -> Iterator[Phase]:
    trained = {"line": 0, "bezier": 1, "chain": bends}[kind]
    yield Phase(copies=1 + trained, run="value")
    # Two neighbors of a curve, and their distance in float64.
    yield Phase(
        copies=3 * min(trained, 1) + trained - min(trained, 1), bytes=24 * sizes.largest
    )
    if trained:
        # Bends and their velocities, the point, and the last slope beside its sums.
        yield Phase(copies=2 * trained + 2, vectors=1, run="gradient")


@models
def _soup(sizes: Sizes, greedy: bool = False) -> Iterator[Phase]:
    yield Phase(copies=1, run="value")
    yield Phase(copies=1, bytes=4 * min(sizes.largest, _SLAB))


@models
def _merge(sizes: Sizes, experts: int = 2) -> Iterator[Phase]:
    # What each expert adds in float32, the merge and the average.
    yield Phase(copies=2, vectors=experts, run="value")
    yield Phase(copies=2, vectors=experts, bytes=(experts + 1) * sizes.widened / 2)
    # The average is made beside the merge, from a change of its own, tensor by tensor.
    yield Phase(copies=2, vectors=experts + 1, bytes=10 * sizes.largest)


@models
def _sensitivity(sizes: Sizes) -> Iterator[Phase]:
    # Base and point; a probe as a vector and by name, its image, and that of the one before.
    yield Phase(copies=5, vectors=1, run="product")


@models
def _window_fisher(sizes: Sizes, window: int = 64) -> Iterator[Phase]:
    # At most as many as there are units; the leaves, and the last gradient beside the next one.
    yield Phase(copies=2, vectors=window, run="gradient")
    yield Phase(copies=2, vectors=window, run="value")


@result("memory-plan")
class MemoryPlan(Result):
    """What an instrument will hold.

    Attributes:
        instrument: which one.
        held: bytes of vectors and copies of weights, at the most.
        passes: bytes of passes through the model at that time; 0 where they are not known.
        check: bytes of the self-checks, which come first, once an objective; 0 where they are
            made already, or not made.
        free: bytes that are free now; None where that is not known.
        unknown: why passes are not known; empty where they are.
        at_most: whether a run that converges early holds less: chains, sums over eigenvalues,
            and Krylov bases without a number of rows.
        at_least: whether the model has recurrent layers, whose kernels take more than their
            tensors.
    """

    instrument: str
    held: int = quantity("bytes")
    passes: int = quantity("bytes")
    check: int = quantity("bytes")
    free: int | None = field(default=None)
    unknown: str = ""
    at_most: bool = False
    at_least: bool = False

    @property
    def memory(self) -> int:
        """The most that is held at once beyond model and data, in bytes."""
        return max(self.held + self.passes, self.check)

    @property
    def fits(self) -> bool:
        """Whether that is free; True where it is not known what is."""
        return self.free is None or self.memory <= self.free

    def estimates(self) -> tuple[Estimate, ...]:
        """The most that is held."""
        why = f"without passes: {self.unknown}" if self.unknown else f"from shapes; {self._how}"
        return (Estimate(self.memory, why_no_error=why, name="memory", unit="bytes"),)

    def sentences(self) -> tuple[str, ...]:
        """What is held beyond model and data."""
        free = "" if self.free is None else f"; {byte_size(self.free)} are free"
        return (
            f"'{self.instrument}' holds {self._how} {byte_size(self.memory)} beyond the model "
            f"and the data{free}.",
        )

    @property
    def _how(self) -> str:
        # Without its passes, or without what kernels take, it is no upper bound.
        if self.unknown or self.at_least:
            return "at least"
        return "at most" if self.at_most else "about"


def plan_memory(objective: Objective, instrument: str, **options: Any) -> MemoryPlan:
    """Say what an instrument will hold in memory; nothing is computed.

    What it holds is the largest sum, over its phases, of copies of weights, vectors, a Krylov
    basis, and what a pass through the model takes. Passes are counted on tensors without
    numbers (torch's "meta" device), operation by operation. Where what is held depends on how
    fast a run converges (chains, sums over eigenvalues, choices by them, and eigenvalues
    without `rows`), it is the most, and `at_most` says so.

    Args:
        objective: what would be measured.
        instrument: name of a function: one of `lossatlas.curvature.memory_plan.MODELS`.
            Maps are planned by `plan_map`, alignments by `weights.alignment_cost`.
        **options: those of its options that memory depends on, as for the instrument; for
            "merge" `experts`, how many there are; for effective parameters `numbers`, how many
            parameters the matrix is over; for these and the learning coefficient `outputs`, how
            many numbers the model gives out on all examples (by default as many as would be
            worth it, up to half of the memory that is free).

    Returns:
        Bytes beyond the model and its data. Where the model cannot run without numbers, what
        is held beside its passes, and why.

    Raises:
        ArgumentError: an option that memory does not depend on, a number that is no count, or
            a basis that does not fit.
        UnknownNameError: no such instrument is in the table.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.curvature import plan_memory
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> batch = (torch.eye(2), torch.zeros(2, 1))
        >>> objective = la.Objective(torch.nn.Linear(2, 1), loss, [batch])
        >>> plan_memory(objective, "average_sharpness").held
        48
    """
    check_objective(objective)
    _check_options(instrument, options)
    keeps = keeps_graph(objective)
    passes = pass_memory(objective, options.get("size"), keeps_graph=keeps)
    if instrument == "window_fisher" and objective.unit == "examples" and not passes.unknown:
        # Losses of all at once, gradients one by one.
        passes = replace(pass_memory(objective, 1), value=passes.value)
    return replace(
        _planned(objective, instrument, passes, options),
        free=free_memory(objective.device),
        unknown=passes.unknown,
    )


def require_memory(objective: Objective, instrument: str, **options: Any) -> None:
    """Refuse an instrument whose vectors and copies alone are more than what is free."""
    free = free_memory(objective.device)
    plan = _planned(objective, instrument, PassMemory(), options)
    if free is not None and plan.held > free:
        raise ArgumentError(
            f"'{instrument}' holds {byte_size(plan.held)} of vectors and copies of the weights "
            f"that move, and {byte_size(free)} are free; move fewer of them "
            "(Objective(..., params=...)), or take another machine."
        )


def _planned(
    objective: Objective, instrument: str, passes: PassMemory, options: dict[str, Any]
) -> MemoryPlan:
    _check_options(instrument, options)
    model, sizes = MODELS[instrument], Sizes.of(objective)
    parts = [
        (round(_held(phase, sizes)), getattr(passes, phase.run, 0) if phase.run else 0, phase)
        for phase in model(sizes, **options)
    ]
    held, run, largest = max(parts, key=lambda each: each[0] + each[1])
    kinds = {phase.run for phase in model(sizes, **options)}
    check = _check(objective, sizes, passes, kinds)
    at_least = has_recurrent_layers(objective.model)
    return MemoryPlan(instrument, held, run, check, at_most=largest.at_most, at_least=at_least)


def _check_options(instrument: str, options: dict[str, Any]) -> None:
    check_one_of("instrument", instrument, tuple(MODELS))
    parameters = dict(list(inspect.signature(MODELS[instrument]).parameters.items())[1:])
    for name, value in options.items():
        if name not in parameters:
            raise ArgumentError(
                f"`{name}`: the memory of '{instrument}' depends on "
                f"{', '.join(parameters) or 'no option'}."
            )
        kind = parameters[name].annotation
        if kind is int or (kind == int | None and value is not None):
            check_at_least(name, value, 0)


def _held(phase: Phase, sizes: Sizes) -> float:
    return phase.copies * sizes.copy + phase.vectors * sizes.vector + phase.bytes


def _check(objective: Objective, sizes: Sizes, passes: PassMemory, kinds: set[str]) -> int:
    # Two directions and a point; with curvature also a product and differences of gradients.
    if not objective.is_checked or objective.derivatives == "unchecked":
        return 0
    if "product" in kinds and "hessian" not in objective.checks:
        differences = 3 * sizes.copy + 4 * sizes.vector
        return max(differences, 3 * sizes.copy + 2 * sizes.vector + passes.look)
    if kinds & {"gradient", "product"} and "gradient" not in objective.checks:
        return 4 * sizes.copy + sizes.copy * sizes.largest // sizes.numbers
    return 0
