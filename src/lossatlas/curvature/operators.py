"""A curvature matrix, known by its products with vectors, and the memory these take."""

import fnmatch
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lossatlas.checks import check_at_least, check_same_structure, nearest
from lossatlas.curvature.arguments import check_objective
from lossatlas.curvature.differentiable import (
    UnreachedError,
    check_finite,
    is_finite,
    second_derivatives,
)
from lossatlas.curvature.forms import Build, Form
from lossatlas.curvature.selfcheck import difference_step, ensure_curvature
from lossatlas.errors import ArgumentError, NonFiniteError, UnknownNameError
from lossatlas.linalg.krylov import krylov_bytes
from lossatlas.linalg.params import Params, norm
from lossatlas.memory import free_memory
from lossatlas.objective import Objective, Total
from lossatlas.objective.point import State


class CurvatureOperator:
    """A symmetric matrix over the parameters, known by its products with vectors.

    Made by `hessian`, `gauss_newton`, `fisher` and `empirical_fisher`; `matrix @ vector` takes
    and gives name -> tensor. It belongs to the weights that the objective held (or was given)
    when it was made: later changes of the model do not reach it.

    Args:
        objective: what is measured.
        build: makes the form of one batch.
        params: where; a copy of the present weights by default.
        names: names or patterns of the parameters that the matrix is over; all by default.
        cache: keep the graphs of all batches in memory, so that a product costs two backward
            passes instead of one forward and three backward ones. None keeps it where there
            is a single batch in a list.
        kind: which matrix it is; what it rests on is checked once an objective.

    Raises:
        StructureError: names or shapes of `params` differ from those of the objective.
        UnknownNameError: a name matches nothing.
    """

    def __init__(
        self,
        objective: Objective,
        build: Build,
        *,
        params: Params | None = None,
        names: str | Iterable[str] | None = None,
        cache: bool | None = None,
        kind: str = "hessian",
    ) -> None:
        state = State(objective.params) if params is None else objective.split(params)
        here = state.params
        chosen = _matching(objective.names, names)
        self._point = {
            name: here[name].detach().clone().requires_grad_(name in chosen)
            for name in objective.names
        } | dict(state.buffers)
        self.objective = objective
        self.params: dict[str, Tensor] = {name: self._point[name].detach() for name in chosen}
        self.count = 0
        self.kind, self._build = kind, build
        self._cache = _one_in_memory(objective.local.batches) if cache is None else cache
        self._graphs: list[tuple[Total, Form]] | None = None

    @property
    def size(self) -> int:
        """How many parameters the matrix is over."""
        return sum(value.numel() for value in self.params.values())

    @property
    def dtype(self) -> torch.dtype:
        """The type of flat vectors: what the parameters promote to, float32 at least."""
        found = torch.float32
        for value in self.params.values():
            found = torch.promote_types(found, value.dtype)
        return found

    @property
    def device(self) -> torch.device:
        """Where vectors live."""
        return self.objective.device

    def __call__(self, vector: Params) -> dict[str, Tensor]:
        """The matrix times a vector.

        Args:
            vector: name -> tensor, as in `.params`.

        Returns:
            New tensors of the same names and shapes.

        Raises:
            StructureError: names or shapes differ from `.params`.
            LossError: the loss is not twice differentiable; the message names the operation.
            DerivativeError: derivatives are not those of the loss.
            NonFiniteError: the gradient or the product is NaN or infinite.
        """
        check_same_structure(vector=vector, params=self.params)
        given = [vector[n].detach().to(value) for n, value in self.params.items()]
        totals = {name: torch.zeros_like(value) for name, value in self.params.items()}
        self._add_product(list(totals.values()), given)
        return totals

    __matmul__ = __call__

    def flat(self, vector: Tensor) -> Tensor:
        """The matrix times a flat vector; for Krylov loops.

        Args:
            vector: shape (size,).

        Returns:
            A new tensor of the same shape and type.
        """
        given = [
            part.to(value.dtype)
            for part, value in zip(self._views(vector), self.params.values(), strict=True)
        ]
        total = torch.zeros_like(vector)
        self._add_product(self._views(total), given)
        return total

    def difference_error(self, vector: Tensor, value: float) -> float:
        """What differences of gradients are off by, from an eigenpair at a third of their step.

        Args:
            vector: shape (size,).
            value: its eigenvalue.

        Returns:
            9/8 |A v - value v| for v of length 1: the error of central differences falls to a
            ninth, so what changes is eight ninths of it. 0 where products are no differences.
        """
        if not self._by_differences:
            return 0.0
        unit = vector / vector.norm()
        parts, total = self._views(unit), torch.zeros_like(unit)
        given = [p.to(v.dtype) for p, v in zip(parts, self.params.values(), strict=True)]
        self.count += 1
        self._add_differences(self._views(total), given, 1 / 3)
        return 9 / 8 * float((total.double() - value * unit.double()).norm())

    @property
    def _by_differences(self) -> bool:
        return self.kind == "hessian" and self.objective.derivatives == "differences"

    def _views(self, vector: Tensor) -> list[Tensor]:
        lengths = [value.numel() for value in self.params.values()]
        parts = torch.split(vector, lengths)
        return [
            part.view(value.shape)
            for part, value in zip(parts, self.params.values(), strict=True)
        ]

    def flatten(self, vector: Params) -> Tensor:
        """One flat vector from name -> tensor.

        Args:
            vector: as in `.params`.

        Returns:
            Shape (size,).
        """
        return torch.cat([vector[name].reshape(-1).to(self.dtype) for name in self.params])

    def zeros(self) -> Tensor:
        """A flat vector of zeros; sets type and device of others.

        Returns:
            Shape (size,).
        """
        return torch.zeros(self.size, dtype=self.dtype, device=self.device)

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """The inverse of `flatten`.

        Args:
            vector: shape (size,).

        Returns:
            name -> tensor, copies in the types of the parameters.
        """
        return {
            name: part.to(value.dtype, copy=True)
            for (name, value), part in zip(
                self.params.items(), self._views(vector), strict=True
            )
        }

    def _add_product(self, totals: list[Tensor], given: list[Tensor]) -> None:
        if not self.count:
            ensure_curvature(self.objective, self.kind)
        self.count += 1
        if self._by_differences:
            self._add_differences(totals, given)
            return
        ranks = self.objective.ranks
        add = partial(self._add_batches, totals, given)
        with torch.enable_grad(), second_derivatives(self.objective.model):
            weight = add() if ranks is None else math.fsum(ranks.share(add))
        if ranks is not None:
            for value in totals:
                ranks.add(value)
        for name, value in zip(self.params, totals, strict=True):
            value.div_(weight)
            if not is_finite(value):
                raise NonFiniteError(
                    f"the curvature in '{name}' is not finite at these weights although the "
                    "gradient is: look for a square root or a norm at zero."
                )

    def _add_differences(
        self, totals: list[Tensor], given: list[Tensor], share: float = 1.0
    ) -> None:
        # Central differences of gradients, at a step that is a share of the weights' length.
        length = norm(dict(zip(self.params, given, strict=True)))
        if length == 0:
            return
        width = share * difference_step(self._point) / length
        ends = []
        for sign in (1, -1):
            place = {name: value.detach().clone() for name, value in self._point.items()}
            for name, vector in zip(self.params, given, strict=True):
                place[name].add_(vector, alpha=sign * width)
            ends.append(self.objective.gradient(place))
        for name, value in zip(self.params, totals, strict=True):
            value.copy_((ends[0][name] - ends[1][name]) / (2 * width))
            check_finite({name: value})

    def _add_batches(self, totals: list[Tensor], given: list[Tensor]) -> float:
        if self._graphs is None and self._cache:
            self._graphs = self._walk(_without_graph)
        if self._graphs is not None:
            for total, form in self._graphs:
                _add(totals, form(given, True), total.scale)
            return sum(total.weight for total, _ in self._graphs)

        def use(total: Total, form: Form) -> float:
            _add(totals, form(given, False), total.scale)
            return total.weight

        return math.fsum(self._walk(use))

    def _walk(self, use: Callable[[Total, Form], Any]) -> list[Any]:
        leaves = {name: self._point[name] for name in self.params}

        def walk() -> list[Any]:
            done, unreached = [], []
            for index, batch in enumerate(self.objective.local.iter_batches()):
                try:
                    total, form = self._build(leaves, batch, index)
                except UnreachedError as error:
                    # An expert, say, that only other batches are sent to.
                    unreached.append(error)
                    with torch.no_grad():
                        total, form = self.objective.total(batch), _nothing
                done.append(use(total, form))
            if unreached and len(unreached) == len(done):
                raise unreached[0]
            return done

        return self.objective.local.with_params(self._point, walk)


def _without_graph(total: Total, form: Form) -> tuple[Total, Form]:
    return Total(total.sum.detach(), total.weight), form


def _nothing(given: Sequence[Tensor], keep: bool) -> list[Tensor | None]:
    return [None] * len(given)


def _add(totals: list[Tensor], parts: Sequence[Tensor | None], weight: float) -> None:
    for total, part in zip(totals, parts, strict=True):
        if part is not None:
            total.add_(part, alpha=weight)


def _one_in_memory(batches: Iterable[Any]) -> bool:
    return isinstance(batches, list | tuple) and len(batches) == 1


def _matching(known: tuple[str, ...], names: str | Iterable[str] | None) -> list[str]:
    if names is None:
        return list(known)
    listed = isinstance(names, Iterable) and not isinstance(names, str | torch.Tensor)
    patterns: list[Any] = list(names) if listed else [names]
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise ArgumentError(f"`names` must be names or patterns of parameters; got {names!r}.")
    if not patterns:
        raise ArgumentError("`names` must hold at least one name or pattern; got none.")
    for pattern in patterns:
        if not fnmatch.filter(known, pattern):
            raise UnknownNameError(
                f"`names`: the objective moves no parameter called '{pattern}'"
                f"{nearest(pattern, known)}."
            )
    return [name for name in known if any(fnmatch.fnmatchcase(name, p) for p in patterns)]


def spectrum_memory(objective: Objective, limit: int = 300) -> int:
    """What `spectrum` may take beyond model and graph: one Krylov basis and two copies.

    Args:
        objective: what would be measured.
        limit: as for `spectrum`; the basis grows with the products really taken.

    Returns:
        Bytes.

    Examples:
        >>> import torch, lossatlas as la
        >>> from lossatlas.curvature import spectrum_memory
        >>> loss = la.supervised(torch.nn.functional.mse_loss)
        >>> batch = (torch.eye(2), torch.zeros(2, 1))
        >>> spectrum_memory(la.Objective(torch.nn.Linear(2, 1), loss, [batch])) > 0
        True
    """
    check_objective(objective)
    check_at_least("limit", limit, 1)
    sizes = [value.numel() for value in objective.params.values()]
    kinds = [value.dtype for value in objective.params.values()]
    dtype = torch.float32
    for each in kinds:
        dtype = torch.promote_types(dtype, each)
    return krylov_bytes(sum(sizes), min(limit, sum(sizes)), dtype)


def memory_note(fitting: int, wanted: int) -> str:
    """Whether the memory cut a run short."""
    if fitting >= wanted:
        return ""
    return f"the memory that was free holds the basis of {fitting} of {wanted} products"


def fitting_steps(
    matrix: CurvatureOperator, top: int, bottom: int, limit: int
) -> tuple[int, int]:
    """Check that the eigenvalues asked for can be held, and how long a run can be."""
    for name, count in (("top", top), ("bottom", bottom)):
        if count > matrix.size:
            raise ArgumentError(
                f"`{name}` must be at most the number of parameters, {matrix.size}; "
                f"got {count}."
            )
    fitting = min(limit, matrix.size)
    least = krylov_bytes(matrix.size, min(top + bottom, matrix.size), matrix.dtype)
    free = free_memory(matrix.device)
    if free is None:
        return krylov_bytes(matrix.size, fitting, matrix.dtype), fitting
    if least > free:
        raise ArgumentError(
            f"{top + bottom} eigenvalues of {matrix.size} parameters need a basis of "
            f"{least / 2**20:,.0f} MiB, and {free / 2**20:,.0f} MiB are free; take fewer, or a "
            "part of the parameters with `names`."
        )
    while fitting > top + bottom and krylov_bytes(matrix.size, fitting, matrix.dtype) > free:
        fitting -= 1
    return krylov_bytes(matrix.size, fitting, matrix.dtype), fitting
