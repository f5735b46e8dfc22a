"""A curvature matrix, known by its products with vectors, and the memory these take."""

import fnmatch
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lossatlas.checks import check_same_structure, nearest
from lossatlas.curvature.differentiable import (
    UnreachedError,
    check_finite,
    not_finite,
    second_derivatives,
)
from lossatlas.curvature.forms import Build, Form, Leaves, PlacedLeaves, difference_step
from lossatlas.curvature.selfcheck import ensure_curvature
from lossatlas.errors import ArgumentError, NonFiniteError, UnknownNameError
from lossatlas.linalg.params import Params, norm
from lossatlas.memory import is_out_of_memory
from lossatlas.objective import Batch, Objective, Total
from lossatlas.objective.point import State
from lossatlas.shards import whole

logger = logging.getLogger(__name__)


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
        chosen = matching(objective.names, names)
        self._point = {
            name: here[name].detach().clone().requires_grad_(name in chosen)
            for name in objective.names
        } | dict(state.buffers)
        self.objective = objective
        self.params: dict[str, Tensor] = {name: self._point[name].detach() for name in chosen}
        self.count = 0
        self.kind, self._build = kind, build
        one = _one_on_all(objective) if cache is None else cache
        self._cache = _can_cache(objective) and one and not objective.joins_statistics
        self._graphs: list[tuple[Total, Form]] | None = None
        # Of the step of differences.
        self._share = 1.0

    @property
    def size(self) -> int:
        """How many parameters the matrix is over."""
        return sum(value.numel() for value in self.params.values())

    @property
    def dtype(self) -> torch.dtype:
        """The type of flat vectors: what the parameters promote to, float32 at least."""
        dtype = torch.float32
        for value in self.params.values():
            dtype = torch.promote_types(dtype, value.dtype)
        return dtype

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
            vector: shape (size,), of any type and on any device.

        Returns:
            A new tensor of the same shape, as `zeros` is.
        """
        given = [
            part.to(device=self.device, dtype=value.dtype)
            for part, value in zip(self._views(vector), self.params.values(), strict=True)
        ]
        total = self.zeros()
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
        if not self.is_differenced:
            return 0.0
        unit = vector.to(self.zeros())
        unit = unit / unit.norm()
        parts, total = self._views(unit), torch.zeros_like(unit)
        given = [p.to(v.dtype) for p, v in zip(parts, self.params.values(), strict=True)]
        self._share = 1 / 3
        try:
            self._add_product(self._views(total), given)
        finally:
            self._share = 1.0
        return 9 / 8 * float((total.double() - value * unit.double()).norm())

    @property
    def is_differenced(self) -> bool:
        """Whether products are differences, of gradients or of outputs."""
        return self._by_differences or self._in_place

    @property
    def _by_differences(self) -> bool:
        return self.kind == "hessian" and self.objective.by_differences

    @property
    def _in_place(self) -> bool:
        # Whether outputs are differenced, at weights that are written into the model.
        if self.kind == "hessian" or self.objective.placed is None:
            return False
        return self.objective.by_differences

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
            along = dict(zip(self.params, given, strict=True))
            weight = add() if ranks is None else math.fsum(ranks.share(add, at=along))
        if ranks is not None and not self._is_summed:
            ranks.add(*totals)
        for value in totals:
            value.div_(weight)
        name = not_finite(dict(zip(self.params, totals, strict=True)))
        if name is not None:
            raise NonFiniteError(
                f"the curvature in '{name}' is not finite at these weights although the "
                "gradient is: look for a square root or a norm at zero."
            )

    def _add_differences(self, totals: list[Tensor], given: list[Tensor]) -> None:
        # Central differences of gradients, at a step that is a share of the weights' length.
        along = dict(zip(self.params, given, strict=True))
        if self.objective.ranks is not None:
            # At points so close together other directions would not be seen.
            self.objective.ranks.share(lambda: None, at=along)
        length = norm(along)
        if length == 0:
            return
        width = self._share * difference_step(self._point) / length
        ends = []
        for sign in (1, -1):
            place = {name: value.detach().clone() for name, value in self._point.items()}
            for name, vector in zip(self.params, given, strict=True):
                place[name].add_(vector, alpha=sign * width)
            ends.append(self.objective.gradient(place))
        for name, value in zip(self.params, totals, strict=True):
            value.copy_((ends[0][name] - ends[1][name]) / (2 * width))
        check_finite(dict(zip(self.params, totals, strict=True)))

    def _add_batches(self, totals: list[Tensor], given: list[Tensor]) -> float:
        if not self._cache:
            return self._added(totals, given)
        try:
            return self._added(totals, given)
        except (MemoryError, RuntimeError) as error:
            # Processes that gather weights together would go out of step.
            if not is_out_of_memory(error) or self.objective.placed is not None:
                raise
        # Once more with the graph of one batch at a time, and from then on.
        logger.warning("memory ran out; the graphs of batches are no longer kept")
        self._cache, self._graphs = False, None
        for value in totals:
            value.zero_()
        return self._added(totals, given)

    def _added(self, totals: list[Tensor], given: list[Tensor]) -> float:
        if self._graphs is None and self._cache:
            self._graphs = self._walk(_without_graph)
        if self._graphs is not None:
            for total, form in self._graphs:
                _add(totals, form(given, True), total.scale)
            return sum(total.weight for total, _ in self._graphs)

        local, summed = self.objective.local, self._is_summed

        def use(total: Total, form: Form) -> float:
            _add(totals, form(given, False), 1.0 if summed else total.scale)
            return 0.0 if local.idling else total.weight

        return math.fsum(self._walk(use))

    def _walk(self, use: Callable[[Total, Form], Any]) -> list[Any]:
        leaves: Leaves = {name: self._point[name] for name in self.params}
        point: Params = self._point
        own = self.objective.local.own_leaves
        if own is not None:
            leaves = {name: own[name] for name in self.params}
            leaves = self._placed_leaves(leaves) if self._in_place else leaves
            point = {name: value.detach() for name, value in point.items()}

        def walk() -> list[Any]:
            done, unreached = [], []
            for index, batch in enumerate(self.objective.local.iter_batches()):
                built = self._built(leaves, batch, index)
                if isinstance(built, UnreachedError):
                    # An expert, say, that only other batches are sent to.
                    unreached.append(built)
                    with torch.no_grad():
                        built = self.objective.total(batch), _nothing
                done.append(use(*built))
            if unreached and len(unreached) == len(done):
                raise unreached[0]
            return done

        return self.objective.local.with_params(point, walk)

    def _built(
        self, leaves: Leaves, batch: Batch, index: int
    ) -> tuple[Total, Form] | UnreachedError:
        built: tuple[Total, Form] | UnreachedError
        try:
            built = self._build(leaves, batch, index)
        except UnreachedError as error:
            built = error
        lost = isinstance(built, UnreachedError)
        if self._is_summed and self.objective.local.somewhere(lost):
            # Those that go on would wait for the passes of this process.
            raise built if isinstance(built, UnreachedError) else UnreachedError
        return built

    @property
    def _is_summed(self) -> bool:
        # Whether the model's own backward pass sums over the processes that hold it.
        placed = self.objective.placed
        return self._in_place and placed is not None and placed.sums

    def _placed_leaves(self, own: Leaves) -> PlacedLeaves:
        step = self._share * difference_step(self._point)
        return PlacedLeaves(self.objective, own, self._point, step)


def _without_graph(total: Total, form: Form) -> tuple[Total, Form]:
    return Total(total.sum.detach(), total.weight), form


def _nothing(given: Sequence[Tensor], keep: bool) -> list[Tensor | None]:
    return [None] * len(given)


def _add(totals: list[Tensor], parts: Sequence[Tensor | None], weight: float) -> None:
    for total, part in zip(totals, parts, strict=True):
        if part is not None:
            total.add_(whole(part), alpha=weight)


def keeps_graph(objective: Objective) -> bool:
    """Whether products keep the graph of the data from one to the next by themselves."""
    return (
        _one_in_memory(objective) and _can_cache(objective) and not objective.joins_statistics
    )


def _can_cache(objective: Objective) -> bool:
    # Graphs of weights that are moved in place hold for as long as these are held.
    return objective.own_leaves is None


def _one_in_memory(objective: Objective) -> bool:
    batches = objective.local.batches
    return isinstance(batches, list | tuple) and len(batches) == 1


def _one_on_all(objective: Objective) -> bool:
    one = _one_in_memory(objective)
    ranks = objective.ranks if objective.placed is not None else None
    return one if ranks is None else all(ranks.gather(one))


def matching(known: tuple[str, ...], names: str | Iterable[str] | None) -> list[str]:
    """The names that patterns stand for, in order; all where there are none."""
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
