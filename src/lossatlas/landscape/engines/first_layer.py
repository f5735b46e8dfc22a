"""The first layer of a network is affine along a plane, so its product is done once.

Its input is the data, which no weight reaches: W x + b with W = W0 + a U + b V is
z0 + a z1 + b z2, where each z is one product for the whole map.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from lossatlas.algebra.params import Params
from lossatlas.guard import patched
from lossatlas.objective import Batch, Objective
from lossatlas.objective.batches import tensors

_AFFINE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def find_first_layers(objective: Objective, batch: Batch) -> list[str]:
    """Names of the affine layers that read the data themselves.

    An input counts as data where it shares the memory of a tensor of the batch (views such as
    `flatten` do); anything computed in between may depend on the weights.

    Args:
        objective: its model is run once, inside a session.
        batch: on the model's device.

    Returns:
        Module names; none where a layer is used more than once.
    """
    data = {value.untyped_storage().data_ptr() for value in tensors(batch)}
    calls: dict[str, list[bool]] = {}
    handles = [
        module.register_forward_pre_hook(_note(calls.setdefault(name, []), data))
        for name, module in objective.model.named_modules()
        if type(module) in _AFFINE
    ]
    try:
        objective.swapped({}, lambda: objective.measure(batch))
    finally:
        for handle in handles:
            handle.remove()
    return [name for name, reads in calls.items() if reads == [True]]


def _note(reads: list[bool], data: set[int]) -> Callable[..., None]:
    def hook(_: nn.Module, inputs: tuple[object, ...]) -> None:
        value = inputs[0] if inputs else None
        reads.append(isinstance(value, Tensor) and value.untyped_storage().data_ptr() in data)

    return hook


class FirstLayer:
    """One affine layer whose outputs along a plane are sums of a few fixed products.

    Args:
        name: the module's name.
        module: an `nn.Linear` or convolution, bias or not.
        corners: the origin and the directions, restricted to any names.
        keep: remember the products of every batch; only for batches that stay in memory.
    """

    def __init__(
        self, name: str, module: nn.Module, corners: list[Params], *, keep: bool
    ) -> None:
        self.names = [f"{name}.weight", f"{name}.bias"]
        self.module = module
        self._corners = [[corner.get(key) for key in self.names] for corner in corners]
        own = [getattr(module, part) for part in ("weight", "bias")]
        for index, value in enumerate(own):
            # What the plane does not move stays where it is: constant, no direction.
            if self._corners[0][index] is None and isinstance(value, Tensor):
                self._corners[0][index] = value.detach()
        self._keep = keep
        self._cache: dict[tuple[object, ...], tuple[Tensor, Tensor]] = {}

    @contextmanager
    def at(self, coordinates: Tensor) -> Iterator[None]:
        """Let the layer answer with its output at some point of the plane.

        Args:
            coordinates: (1, a, b, ...), may be batched by `vmap`.

        Yields:
            Nothing.
        """

        def forward(x: Tensor) -> Tensor:
            products = self._products(x)
            return (coordinates @ products.flatten(1)).reshape(products.shape[1:])

        with patched((self.module, "forward", forward)):
            yield

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
        weight = torch.zeros_like(module.weight) if weight is None else weight
        if isinstance(self.module, nn.Linear):
            return torch.nn.functional.linear(x, weight, bias)
        return cast(Tensor, module._conv_forward(x, weight, bias))
