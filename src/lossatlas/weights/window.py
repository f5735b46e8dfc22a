"""The Fisher matrix of a window of gradients, and its exact inverse (M-FAC)."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from lossatlas.checks import check_at_least, check_one_of, check_positive, check_same_structure
from lossatlas.errors import ArgumentError, LossError, NonFiniteError
from lossatlas.linalg.params import Params
from lossatlas.memory import free_memory
from lossatlas.objective import Batch, Objective
from lossatlas.objective.point import State
from lossatlas.result import Estimate, Reference, Result, quantity, result
from lossatlas.text import count, number
from lossatlas.weights.example_gradients import example_gradients, wide_gradient
from lossatlas.weights.factors import fits

_MFAC = Reference(
    "inverse of a window of gradients",
    "E. Frantar, E. Kurtic, D. Alistarh. M-FAC: Efficient Matrix-Free Approximations of "
    "Second-Order Information. NeurIPS 2021.",
    "https://arxiv.org/abs/2107.03356",
)
_OBS = Reference(
    "saliency",
    "B. Hassibi, D. G. Stork. Second Order Derivatives for Network Pruning: Optimal Brain "
    "Surgeon. NeurIPS 1992.",
    "https://proceedings.neurips.cc/paper/1992/hash/303ed4c69846ab36c2904d3ba8573050-Abstract"
    ".html",
)
Unit = Literal["examples", "batches"]
UNITS: tuple[str, ...] = get_args(Unit)
# Columns that are in float64 at once.
_COLUMNS = 2**20


@result("window fisher", references=(_MFAC, _OBS))
class WindowFisher(Result):
    """F = lambda I + (1 / m) sum g g^T over a window of m gradients.

    Attributes:
        gradients: name -> their parts, shape (m, *shape of the parameter).
        damping: lambda.
        unit: what a gradient is of, "examples" or "batches".
    """

    gradients: Mapping[str, Tensor]
    damping: float = quantity("loss per weight squared")
    unit: Unit

    @property
    def window(self) -> int:
        """How many gradients there are."""
        return len(next(iter(self.gradients.values())))

    @property
    def spectrum(self) -> Tensor:
        """The m largest eigenvalues of F, descending, float64; all others are `damping`."""
        values: Tensor = torch.linalg.eigvalsh(self._gram()) / self.window
        return values.clamp(min=0).flip(0) + self.damping

    def solve(self, vector: Params) -> dict[str, Tensor]:
        """F^-1 v by Woodbury, (v - G^T (m lambda I + G G^T)^-1 G v) / lambda, in float64.

        Args:
            vector: name -> tensor, as the parameters that the window is over.

        Returns:
            name -> tensor, in the dtypes of `vector`.

        Raises:
            StructureError: names or shapes differ.
        """
        check_same_structure(vector=vector, window={n: g[0] for n, g in self.gradients.items()})
        inner = sum(
            part @ given
            for name, value in vector.items()
            for part, given in _columns(self.gradients[name], value)
        )
        assert isinstance(inner, Tensor)
        weights = torch.cholesky_solve(inner[:, None], self._factor())[:, 0]
        solved = {}
        for name, value in vector.items():
            parts = [
                given - weights @ part for part, given in _columns(self.gradients[name], value)
            ]
            solved[name] = (torch.cat(parts) / self.damping).view(value.shape).to(value)
        return solved

    @property
    def diagonal(self) -> dict[str, Tensor]:
        """The diagonal of F, name -> float64 tensor."""
        return {
            name: rows.double().square().mean(0) + self.damping
            for name, rows in self.gradients.items()
        }

    @property
    def inverse_diagonal(self) -> dict[str, Tensor]:
        """The diagonal of F^-1, name -> float64 tensor."""
        factor, diagonal = self._factor(), {}
        for name, rows in self.gradients.items():
            parts = []
            for part, _ in _columns(rows, rows[0]):
                halved = torch.linalg.solve_triangular(factor, part, upper=False)
                parts.append((1 - halved.square().sum(0)) / self.damping)
            diagonal[name] = torch.cat(parts).view(rows.shape[1:])
        return diagonal

    def saliencies(self, params: Params, score: str = "obs") -> dict[str, Tensor]:
        """How much the loss is expected to rise when a weight is set to 0.

        "obs" is w_j^2 / (2 [F^-1]_jj), the other weights moving along with it; "obd" is
        F_jj w_j^2 / 2, the others at rest. Both are exact on a quadratic with matrix F.

        Args:
            params: the weights.
            score: "obs" or "obd".

        Returns:
            name -> float64 tensor.

        Raises:
            StructureError: names or shapes differ.
            UnknownNameError: an unknown score.
        """
        check_one_of("score", score, ("obs", "obd"))
        own = {name: params[name].detach() for name in self.gradients if name in params}
        check_same_structure(params=own, window={n: g[0] for n, g in self.gradients.items()})
        if score == "obd":
            diagonal = self.diagonal
            return {n: diagonal[n] * w.double().square() / 2 for n, w in own.items()}
        inverse = self.inverse_diagonal
        return {n: w.double().square() / (2 * inverse[n]) for n, w in own.items()}

    def _gram(self) -> Tensor:
        some = next(iter(self.gradients.values()))
        total = torch.zeros(len(some), len(some), dtype=torch.float64, device=some.device)
        for rows in self.gradients.values():
            for part, _ in _columns(rows, rows[0]):
                total += part @ part.T
        return total

    def _factor(self) -> Tensor:
        gram = self._gram()
        gram.diagonal().add_(self.window * self.damping)
        factor: Tensor = torch.linalg.cholesky(gram)
        return factor

    def estimates(self) -> tuple[Estimate, ...]:
        """Largest eigenvalue and the number of gradients.

        Returns:
            Two estimates.
        """
        why = "the window is a sample of gradients; its error is not known"
        return (
            Estimate(float(self.spectrum[0]), why_no_error=why, name="largest eigenvalue"),
            Estimate(float(self.window), 0.0, name="gradients"),
        )

    def sentences(self) -> tuple[str, ...]:
        """What the matrix is made of.

        Returns:
            One sentence.
        """
        size = sum(rows[0].numel() for rows in self.gradients.values())
        return (
            f"{count(self.window, 'gradient')} of {self.unit} over {count(size, 'weight')}, "
            f"damped by {number(self.damping)}: outside of their span the matrix is the "
            "damping alone.",
        )


def _columns(rows: Tensor, value: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and a vector in float64, some columns at a time."""
    flat, given = rows.flatten(1), value.detach().to(rows.device).flatten()
    for start in range(0, max(flat.shape[1], 1), _COLUMNS):
        kept = slice(start, start + _COLUMNS)
        yield flat[:, kept].double(), given[kept].double()


def window_fisher(
    objective: Objective,
    layers: str | Iterable[str] | None = None,
    *,
    window: int = 64,
    damping: float = 1e-3,
    unit: Unit | None = None,
    params: Params | None = None,
) -> WindowFisher:
    """The empirical Fisher matrix of a window of gradients, with an exact inverse.

    F = lambda I + (1 / m) sum g g^T over m gradients that are spread evenly over the data. A
    matrix of m x m is factored in float64; products with F^-1 are exact. Gradients of batch
    means give another scale than those of examples: about 1 / (batch size) of it.

    Args:
        objective: model, loss and data; the labels are those of the data.
        layers: names of weights or modules, or patterns; all parameters by default.
        window: m, how many gradients. They take m times the memory of the parameters.
        damping: lambda.
        unit: "examples" or "batches"; by default examples where the loss gives one number for
            each.
        params: where; the present weights by default.

    Returns:
        The matrix: `.solve(v)`, `.diagonal`, `.spectrum`, `.saliencies(params)`.

    Raises:
        ArgumentError: a number of the wrong kind, or more gradients than fit in memory.
        LossError: gradients of examples are asked for and the loss gives only means.
        NonFiniteError: a gradient is not finite.
        StructureError: names or shapes of `params` differ from those of the objective.
        UnknownNameError: an unknown unit, or a pattern that matches nothing.

    Source: Frantar, Kurtic, Alistarh, arXiv:2107.03356; the inverse by Woodbury's identity.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.weights import window_fisher
        >>> batch = torch.randn(8, 4), torch.randn(8, 1)
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> objective = la.Objective(torch.nn.Linear(4, 1), loss, [batch])
        >>> found = window_fisher(objective, window=4)
        >>> found.window, found.solve(objective.gradient())["weight"].shape
        (4, torch.Size([1, 4]))
    """
    check_at_least("window", window, 1)
    check_positive("damping", damping)
    unit = cast("Unit", objective.unit) if unit is None else unit
    check_one_of("unit", unit, UNITS)
    if unit == "examples" and objective.unit != "examples":
        raise LossError(
            "unit='examples' needs the loss of every example; let `loss` return one number an "
            "example, or use unit='batches'."
        )
    state = State(objective.params) if params is None else objective.split(params)
    chosen = list(state.params) if layers is None else fits(state.params, layers)
    _check_room(objective, [state.params[name] for name in chosen], window)
    leaves = {
        n: v.detach().clone().requires_grad_(n in chosen) for n, v in state.params.items()
    }
    places = _places(objective, window, unit)

    moved = {name: leaves[name] for name in chosen}
    rows = _Rows(moved, sum(1 if kept is None else len(kept) for kept in places.values()))

    def walk() -> None:
        for index, batch in enumerate(objective.iter_batches()):
            if index in places:
                for gradient in _gradients(
                    objective, batch, list(moved.values()), places[index]
                ):
                    rows.append(gradient)

    with torch.enable_grad():
        objective.with_params({**leaves, **state.buffers}, walk)
    return WindowFisher(rows.filled(), float(damping), unit)


class _Rows:
    """Gradients one after another in memory that is taken once."""

    def __init__(self, like: Params, most: int) -> None:
        self._values = {
            name: torch.empty(
                (most, *value.shape),
                dtype=torch.promote_types(value.dtype, torch.float32),
                device=value.device,
            )
            for name, value in like.items()
        }
        self._count = 0

    def append(self, gradient: list[Tensor]) -> None:
        for (name, rows), part in zip(self._values.items(), gradient, strict=True):
            if not bool(part.isfinite().all()):
                raise NonFiniteError(
                    f"a gradient in '{name}' is not finite at these weights; look for NaN in "
                    "the data, or for a loss that overflows."
                )
            rows[self._count] = part.detach()
        self._count += 1

    def filled(self) -> dict[str, Tensor]:
        return {name: rows[: self._count] for name, rows in self._values.items()}


def _check_room(objective: Objective, params: list[Tensor], window: int) -> None:
    needed = window * sum(max(v.element_size(), 4) * v.numel() for v in params)
    free = free_memory(objective.device)
    if free is not None and needed > free / 2:
        raise ArgumentError(
            f"`window`: {window} gradients take {needed / 2**30:,.1f} GiB, more than half of "
            f"the memory that is free ({free / 2**30:,.1f} GiB); take a smaller window or "
            "fewer `layers`."
        )


def _places(objective: Objective, window: int, unit: Unit) -> dict[int, list[int] | None]:
    """Batch -> which of its examples have a row; None stands for the batch as a whole."""
    sizes = objective.map_batches(objective.size_of)
    if unit == "batches":
        chosen = torch.linspace(0, len(sizes) - 1, min(window, len(sizes))).round().long()
        return dict.fromkeys(chosen.tolist())
    ends = torch.tensor([round(size) for size in sizes]).cumsum(0)
    total = int(ends[-1])
    places: dict[int, list[int] | None] = {}
    for k in torch.linspace(0, total - 1, min(window, total)).round().long().tolist():
        batch = int(torch.searchsorted(ends, k, right=True))
        start = int(ends[batch - 1]) if batch else 0
        kept = places.setdefault(batch, [])
        assert kept is not None
        kept.append(k - start)
    return places


def _gradients(
    objective: Objective, batch: Batch, moved: list[Tensor], kept: list[int] | None
) -> Iterator[list[Tensor]]:
    if kept is not None:
        yield from (parts for parts, _ in example_gradients(objective, batch, moved, kept))
        return
    mean = objective.total(batch).mean
    parts = torch.autograd.grad(mean, moved, allow_unused=True)
    yield [wide_gradient(part, value) for part, value in zip(parts, moved, strict=True)]
