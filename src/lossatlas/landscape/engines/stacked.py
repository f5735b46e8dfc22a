"""Stacked evaluation of a network of linear layers: activations get a leading points axis.

`batched` uses `vmap` for any small network; this engine is written for multilayer perceptrons
and takes half the time. The first layer is affine along the plane and computed once for the
map, later ones are batched products, and everything in between works on any number of axes.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lossatlas.guard import patched
from lossatlas.landscape.engines.first_layer import FirstLayer, look_at_layers
from lossatlas.landscape.engines.task import Array, Engine, Task, bytes_of
from lossatlas.linalg.params import qualified_name
from lossatlas.objective import Moments, Supervised, Weighted
from lossatlas.objective.batches import batch_size, cut

# Activations of points side by side that stay in a processor's cache.
_BLOCK_BYTES = 3 << 20
_MOST_POINTS = 256
_BLOCKS = 32
# Examples that show what a layer reads and how much it gives out.
_FEW = 8
# What `if`, `float(...)` and `.item()` call on a tensor.
_DECISIONS = frozenset(
    {
        torch.ops.aten._local_scalar_dense.default,
        torch.ops.aten.is_nonzero.default,
        torch.ops.aten.equal.default,
    }
)


class StackedEngine(Engine):
    """Evaluate points of a multilayer perceptron with a supervised loss.

    Args:
        task: what to evaluate; `obstacle` must have nothing against it.
    """

    name = "stacked"
    independent = False

    def __init__(self, task: Task) -> None:
        self.task = task
        objective, plane = task.objective, task.plane
        self._weighted = objective.weighted
        batch = objective.first_batch()
        few = cut(batch, 0, _FEW)
        with torch.no_grad(), objective.session(), _NoDecisions():  # type: ignore[no-untyped-call]
            layers = look_at_layers(objective, few)
        corners = task.corners()
        keep = isinstance(objective.batches, list | tuple)
        modules = dict(objective.model.named_modules())
        first = [FirstLayer(n, modules[n], corners, keep=keep) for n in layers.first]
        skipped = {name for layer in first for name in layer.names}
        self._stacks = [
            _Stack(name, module, corners)
            for name, module in modules.items()
            if isinstance(module, nn.Linear)
            and name not in layers.first
            and any(qualified_name(name, part) in plane.origin for part in ("weight", "bias"))
        ]
        covered = skipped.union(*(stack.names for stack in self._stacks))
        if not first or set(plane.origin) - covered:
            raise RuntimeError("a weight moves that is neither in the first nor a linear layer")
        self._patches = [(layer.module, "forward", self._first(layer)) for layer in first]
        self._patches += [(stack.module, "forward", stack.forward) for stack in self._stacks]
        self._here = torch.empty(0)
        self._repeated: tuple[Tensor, Tensor] | None = None
        activations = layers.activations * batch_size(batch) // batch_size(few)
        each = activations + sum(stack.bytes for stack in self._stacks)
        self.block = max(1, min(_MOST_POINTS, _BLOCK_BYTES // max(1, each)))
        self.chunk = self.block * max(1, min(_BLOCKS, _MOST_POINTS // self.block))
        products = len(corners) * activations
        self.memory = self.block * each + products + bytes_of(*plane.origin.values())

    def moments(self, coordinates: Array) -> Moments:
        """The sums of some points; see `Engine`."""
        task, count = self.task, len(coordinates)
        moments = task.moments(count)
        steps = torch.as_tensor(coordinates).to(next(iter(task.plane.origin.values())))
        weights = torch.cat([steps.new_ones(count, 1), steps], dim=1)

        def run() -> None:
            for batch in task.objective.iter_batches():
                parts = [self._losses(batch, here) for here in torch.split(weights, self.block)]
                losses = torch.cat([part.sums for part in parts])
                whole = Weighted(losses, parts[0].weights[:1]) if self._weighted else losses
                task.add(moments, [whole], batch, slice(0, count))

        with torch.no_grad(), task.objective.session(), patched(*self._patches):
            task.objective.swapped({}, run)
        return moments

    def _losses(self, batch: tuple[Tensor, Tensor], here: Tensor) -> Weighted:
        self._here = here
        for stack in self._stacks:
            stack.move_to(here)
        outputs = self.task.objective.model(batch[0])
        loss, targets = cast(Supervised, self.task.objective.loss), batch[1]
        every = self._targets(targets, len(here))
        if self._weighted:
            pairs = loss.weighted(outputs.flatten(0, 1), every)
            if pairs is None:
                raise RuntimeError("the criterion returns only means")
            return Weighted(*(part.view(len(here), -1) for part in pairs))
        if _classes_in_front(loss.criterion, outputs, targets):
            losses = loss.elements(outputs.mT, every.view(len(here), -1))
        else:
            losses = loss.unreduced(outputs.flatten(0, 1), every)
        if losses is None:
            raise RuntimeError("the criterion returns only means")
        return Weighted(losses.view(len(here), -1), losses)

    def _targets(self, targets: Tensor, points: int) -> Tensor:
        known = self._repeated
        if known is None or known[0] is not targets or len(known[1]) != points * len(targets):
            repeated = targets.repeat(points, *[1] * (targets.ndim - 1))
            self._repeated = known = (targets, repeated)
        return known[1]

    def _first(self, layer: FirstLayer) -> object:
        return lambda x: layer.outputs(x, self._here)


def _classes_in_front(criterion: object, outputs: Tensor, targets: Tensor) -> bool:
    # As `_Stack` leaves them; a softmax across rows takes a third of one along short rows.
    known = criterion is nn.functional.cross_entropy or type(criterion) is nn.CrossEntropyLoss
    laid_out = outputs.ndim == 3 and outputs.mT.is_contiguous()
    return known and laid_out and targets.ndim == 1 and not targets.is_floating_point()


class _NoDecisions(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses a pass that makes a number of a tensor: points side by side would share it."""

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """What torch asks: compiled code runs as it is."""
        return True

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in _DECISIONS:
            raise RuntimeError("the pass branches on a number that it computes")
        return func(*args, **(kwargs or {}))


class _Stack:
    """One linear layer at many points."""

    def __init__(self, name: str, module: nn.Linear, corners: list[dict[str, Tensor]]) -> None:
        weight, bias = qualified_name(name, "weight"), qualified_name(name, "bias")
        self.names = {weight, bias}
        self.module = module
        self._weight = _rows(corners, weight, module.weight)
        self._bias = None if module.bias is None else _rows(corners, bias, module.bias)
        self._at: tuple[Tensor, Tensor | None] = (module.weight, module.bias)
        self.bytes = bytes_of(module.weight)

    def move_to(self, weights: Tensor) -> None:
        shape = (len(weights), *self.module.weight.shape)
        bias = None if self._bias is None else (weights @ self._bias).unsqueeze(2)
        self._at = ((weights @ self._weight).view(shape), bias)

    def forward(self, x: Tensor) -> Tensor:
        # The narrow side in front: such products of stacks take half as long.
        weight, bias = self._at
        columns = x.flatten(1, -2).mT
        result = weight @ columns if bias is None else torch.baddbmm(bias, weight, columns)
        return result.mT.reshape(len(weight), *x.shape[1:-1], -1)


def _rows(corners: list[dict[str, Tensor]], name: str, own: Tensor) -> Tensor:
    # What the plane does not move stays where it is: constant, no direction.
    still = torch.zeros_like(own)
    first = corners[0].get(name, own.detach())
    rows = [first, *(corner.get(name, still) for corner in corners[1:])]
    return torch.stack([row.reshape(-1) for row in rows])


def obstacle(task: Task) -> str | None:
    """Why stacking is impossible, as far as can be determined without running the model."""
    objective = task.objective
    if task.metrics:
        return "metrics are evaluated at one point at a time"
    if not isinstance(objective.loss, Supervised) or objective.unit != "examples":
        return "the loss is not supervised(criterion) with one number per example"
    owners = {id(v) for m in objective.model.modules() for v in _own(m)}
    if any(id(value) not in owners for value in objective.model.parameters()):
        return "not all layers with weights are linear"
    return None


def _own(module: nn.Module) -> list[Tensor]:
    return list(module.parameters(recurse=False)) if type(module) is nn.Linear else []
