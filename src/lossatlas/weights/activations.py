"""Activations of two networks, unit by unit, for the groups of their symmetries."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lossatlas.linalg.params import Params
from lossatlas.objective import Objective
from lossatlas.objective.modes import norm_layers
from lossatlas.rng import generator
from lossatlas.weights.places import Place, Step
from lossatlas.weights.symmetries import Symmetries
from lossatlas.weights.trace import UNCOUNTED, operation_name, plain_operations, tensors_in

# Columns of activations (examples x positions) that are taken of one batch.
_COLUMNS = 4096
_EPSILON = 1e-4


def norm_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the running statistics of norm layers, by name."""
    layers = norm_layers(model)
    named = {n for n, module in model.named_modules() if module in layers}
    every = model.named_buffers()
    return {n: v.detach().clone() for n, v in every if n.rpartition(".")[0] in named}


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps the results of some operations, known by when they are made."""

    def __init__(self, wanted: set[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._wanted, self._count = wanted, 0
        self.kept: dict[str, Tensor] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if operation_name(func) in UNCOUNTED:
            return out
        for k, tensor in enumerate(tensors_in(out)):
            if (key := f"{self._count}:{k}") in self._wanted:
                self.kept[key] = tensor.detach().clone()
        self._count += 1
        return out


class Correlations:
    """Sums over batches of what two networks' units have in common.

    Args:
        objective: model, loss and batches.
        found: the symmetries.
        places: group -> where its activations are.
        pairs: which groups of the first network are compared with which of the second.
    """

    def __init__(
        self,
        objective: Objective,
        symmetries: Symmetries,
        places: Mapping[int, list[Place]],
        pairs: Iterable[tuple[int, int]],
    ) -> None:
        self._objective, self._symmetries = objective, symmetries
        # Statistics are estimated once for all batches, and given with the weights.
        self._fixed = objective if objective.mode != "recalibrated" else _evaluated(objective)
        self._places = {k: known for k, known in places.items() if known}
        self._pairs = [p for p in pairs if p[0] in self._places and p[1] in self._places]
        self._wanted = {place.tensor for known in places.values() for place in known}

    def between(
        self, first: Params, second: Params, seed: int = 0
    ) -> dict[tuple[int, int], Tensor]:
        """Pair of groups -> correlations of their units; covariances where they are rotated."""
        totals: dict[tuple[int, int], Tensor] = {}
        sides = [self._settled(params) for params in (first, second)]
        for number, batch in enumerate(self._objective.iter_batches()):
            kept = [self._run(params, batch) for params in sides]
            for pair in self._pairs:
                both = zip(pair, kept, strict=True)
                if any(p.tensor not in t for group, t in both for p in self._places[group]):
                    continue
                rows = [
                    _rows(self._places[group], tensors, seed + number)
                    for group, tensors in zip(pair, kept, strict=True)
                ]
                # Data may go other ways through the two: then units cannot be compared.
                if [part.shape for part in rows[0]] != [part.shape for part in rows[1]]:
                    continue
                scaled = self._symmetries.groups[pair[0]].kind == "permutation"
                part = _similarity(*rows, scaled=scaled)
                totals[pair] = totals[pair].add_(part) if pair in totals else part
        return totals

    def _settled(self, params: Params) -> Params:
        """With running statistics of all data, where the mode estimates them anew."""
        model = self._objective.model
        if self._objective.mode != "recalibrated":
            return params

        def estimated() -> dict[str, Tensor]:
            return norm_statistics(model)

        return dict(params) | self._objective.with_params(params, estimated)

    def _run(self, params: Params, batch: Any) -> dict[str, Tensor]:
        def run() -> dict[str, Tensor]:
            with plain_operations(self._objective.model), _Recorder(self._wanted) as recorder:
                self._fixed.batch_loss(batch)
            kept: dict[str, Tensor] = recorder.kept
            return kept

        with torch.no_grad():
            return self._fixed.with_params(params, run)


def _evaluated(objective: Objective) -> Objective:
    return Objective(
        objective.model, objective.loss, objective.batches, params=objective.names,
        check=False, size=objective.size,
    )  # fmt: skip


def _rows(places: Iterable[Place], tensors: Mapping[str, Tensor], seed: int) -> list[Tensor]:
    found = [
        _fitted(place, tensors[place.tensor]).rows(tensors[place.tensor]).double()
        for place in places
    ]
    return [_thinned(rows, seed) for rows in found]


def _fitted(place: Place, tensor: Tensor) -> Place:
    """A place in a batch of fewer examples than that of the trace."""
    others = tuple((k, _cut(steps, tensor.shape[k]), at) for k, steps, at in place.others)
    return replace(place, steps=_cut(place.steps, tensor.shape[place.axis]), others=others)


def _cut(steps: tuple[Step, ...], size: int) -> tuple[Step, ...]:
    # An axis of (examples, heads) is shorter where there are fewer examples.
    if not steps or not steps[0].sizes or steps[0].start + steps[0].length <= size:
        return steps
    first, *others = steps
    inner = math.prod(first.sizes[1:])
    sizes = (size // inner, *first.sizes[1:])
    return (replace(first, length=sizes[0] * inner, sizes=sizes), *others)


def _thinned(rows: Tensor, seed: int) -> Tensor:
    if rows.shape[1] <= _COLUMNS:
        return rows
    draw = generator(seed, "columns")
    return rows[:, torch.randperm(rows.shape[1], generator=draw)[:_COLUMNS].to(rows.device)]


def _similarity(first: list[Tensor], second: list[Tensor], *, scaled: bool) -> Tensor:
    make: Callable[[Tensor], Tensor] = _standardized if scaled else _centered
    total, *parts = ((make(a) @ make(b).T).cpu() for a, b in zip(first, second, strict=True))
    for part in parts:
        total += part
    return total


def _centered(rows: Tensor) -> Tensor:
    centered: Tensor = (rows - rows.mean(1, keepdim=True)) / max(rows.shape[1], 1) ** 0.5
    return centered


def _standardized(rows: Tensor) -> Tensor:
    centered = _centered(rows)
    standardized: Tensor = centered / (centered.norm(dim=1, keepdim=True) + _EPSILON)
    return standardized
