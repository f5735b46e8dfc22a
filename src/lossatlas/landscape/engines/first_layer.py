"""The first layer of a network is affine along a plane, so its product is computed once.

Its input is the data, which does not depend on the weights: W x + b with W = W0 + a U + b V is
z0 + a z1 + b z2, where each z is one product for the whole map.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from lossatlas.guard import patched
from lossatlas.landscape.engines.task import bytes_of
from lossatlas.linalg.params import Params, qualified_name
from lossatlas.objective import Batch, Objective
from lossatlas.objective.batches import tensors

_AFFINE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Layers:
    """Layer statistics of a model from one forward pass.

    Attributes:
        first: names of the affine layers that read the data themselves; none where a layer is
            used more than once.
        activations: bytes that all layers give out, without views of the data.
        calls: how many times a layer gives out something.
    """

    first: list[str]
    activations: int
    calls: int


def look_at_layers(objective: Objective, batch: Batch) -> Layers:
    """Run the model once and record its layers."""
    data = {value.untyped_storage().data_ptr() for value in tensors(batch)}
    calls: dict[str, list[bool]] = {}
    sizes: list[int] = []

    def watch(name: str, module: nn.Module) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            if type(module) in _AFFINE:
                calls.setdefault(name, []).append(_is_data(inputs[0] if inputs else None, data))
            if isinstance(output, Tensor) and not _is_data(output, data):
                sizes.append(bytes_of(output))

        return hook

    handles = [
        module.register_forward_hook(watch(name, module))
        for name, module in objective.model.named_modules()
        if not list(module.children())
    ]
    try:
        objective.swapped({}, lambda: objective.batch_loss(batch))
    finally:
        for handle in handles:
            handle.remove()
    first = [name for name, reads in calls.items() if reads == [True]]
    return Layers(first, sum(sizes), len(sizes))


def _is_data(value: object, data: set[int]) -> bool:
    return isinstance(value, Tensor) and value.untyped_storage().data_ptr() in data


class FirstLayer:
    """One affine layer whose outputs along a plane are sums of a few fixed products.

    Args:
        name: the module's name.
        module: an `nn.Linear` or convolution, bias or not.
        corners: the origin and the directions, restricted to any names.
        keep: remember the products of every batch; only for batches that stay in memory.
    """

    def __init__(
        self, name: str, module: nn.Module, corners: Sequence[Params], *, keep: bool
    ) -> None:
        self.names = [qualified_name(name, part) for part in ("weight", "bias")]
        self.module = module
        self._corners = [[corner.get(key) for key in self.names] for corner in corners]
        own = [getattr(module, part) for part in ("weight", "bias")]
        for index, value in enumerate(own):
            # What the plane does not move stays where it is: constant, no direction.
            if self._corners[0][index] is None and isinstance(value, Tensor):
                self._corners[0][index] = value.detach()
        # Of the layer as it is: within an engine its weights stand for all points at once, and
        # what is made of them would be kept as if it held for every call.
        self._zero = torch.zeros_like(own[0].detach())
        self._keep = keep
        self._cache: dict[tuple[object, ...], tuple[Tensor, Tensor]] = {}

    @contextmanager
    def at(self, coordinates: Tensor) -> Iterator[None]:
        """Let the layer answer with its output at some point of the plane."""
        with patched((self.module, "forward", lambda x: self.outputs(x, coordinates))):
            yield

    def outputs(self, x: Tensor, coordinates: Tensor) -> Tensor:
        """What the layer gives at one or several points of the plane."""
        products = self._products(x)
        shape = coordinates.shape[:-1] + products.shape[1:]
        return (coordinates @ products.flatten(1)).reshape(shape)

    def _products(self, x: Tensor) -> Tensor:
        # The entry holds x, so its memory cannot come to hold other data meanwhile.
        key = (x.data_ptr(), x.shape, x.stride(), x.dtype)
        if key not in self._cache:
            if not self._keep:
                self._cache.clear()
            outputs = [self._apply(x, weight, bias) for weight, bias in self._corners]
            self._cache[key] = (x, torch.stack(outputs))
        return self._cache[key][1]

    def _apply(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        module = cast(nn.Conv2d, self.module)
        weight = self._zero if weight is None else weight
        if isinstance(self.module, nn.Linear):
            return torch.nn.functional.linear(x, weight, bias)
        return cast(Tensor, module._conv_forward(x, weight, bias))
